"""The story's erasure: the patient orders it, two organisations destroy and sign for it, and nothing opens any more."""

from typing import Final

from carechain.chain.questions import OfRecord
from carechain.contracts.records import Erase, ErasedPart
from carechain.demo.doors import Shelf
from carechain.demo.network import COPIES, HARBOUR
from carechain.demo.releasing import grant_results
from carechain.demo.sealing import RESULTS
from carechain.demo.step import Notes
from carechain.demo.story import Story, refusal_of
from carechain.sdk.shares import KeyholderCode
from carechain.vault.codes import VaultCode

SEALED_PARTS: Final = int(ErasedPart.OBJECT | ErasedPart.CAPSULE)
TOKENS: Final = int(ErasedPart.TOKENS)


async def erase(story: Story, notes: Notes) -> None:
    """A tombstone on the ledger, receipts of both holders, no share and no byte; not for an old copy either."""
    hero, doctor, network = story.hero.pseudonym, story.first, story.network
    record, other = story.sealed["glucose"], story.sealed["haemoglobin"]
    line = story.line(record)
    if line.anchor.sealed is None:
        raise LookupError("the record is not sealed")
    address = line.anchor.sealed.object
    holders = (network[COPIES[HARBOUR]], story.a)
    kept = b"".join([chunk async for chunk in story.doors.vault(doctor, HARBOUR).open(address)])
    outcome = await network.send(hero, Erase(pseudonym=hero.id, record=record))
    at_once = [await story.doors.vault(doctor, one).size(address) for one in (HARBOUR, COPIES[HARBOUR])]
    there = [await one.keeping.vault.service.vault.stores[0].size(address) for one in holders]
    for one in network.members.values():
        if one.eraser is not None:
            await one.eraser.carry_out()
    shown = network.ask(hero, "records.erasure", OfRecord(hero.id, record)).rows[0]
    receipts = {one.organisation: one.receipt.destroyed for one in shown.receipts}
    left = [await one.keeping.vault.service.vault.stores[0].size(address) for one in holders]
    served = [await story.doors.vault(doctor, one).size(address) for one in (HARBOUR, COPIES[HARBOUR])]
    await grant_results(story)
    decided = await story.request(doctor, hero, RESULTS)
    reader = story.doors.reader(doctor, objects=Shelf(kept))
    refused = await story.turned_down(reader, decided.ticket, record)
    stays = await story.doors.reader(doctor).read(decided.ticket, hero.id, [story.line(other)])
    again = await refusal_of(story.doors.vault(story.a.member, HARBOUR).put(address, kept))
    notes.text = (
        f"The patient orders the erasure of a result: a tombstone at height {outcome.height}. {story.a.plan.name} and "
        f"the {holders[0].plan.name} destroy what they hold and sign for it. The doctor kept a copy of the object."
    )
    notes.claim(
        "From the tombstone's block on no vault serves it, although its bytes are still there.",
        holds=at_once == [None, None] and there == [len(kept)] * 2,
    )
    notes.claim(
        "Both holders' signed receipts stand on the ledger, and nobody else's.",
        holds=receipts == {story.a.id: SEALED_PARTS | TOKENS, holders[0].id: SEALED_PARTS},
    )
    notes.claim("Neither vault has a byte of it, or serves one.", holds=left == served == [None, None])
    notes.claim("Putting it back is refused.", holds=again is VaultCode.OBJECT_ERASED)
    notes.claim(
        "For the kept copy no keyholder gives a share, under a new and allowed ticket.",
        holds=decided.decision == 0 and refused == story.every_keyholder(KeyholderCode.RECORD_UNKNOWN),
    )
    notes.claim(
        "The patient's other results are still there.",
        holds=[one.resources[0] for one in stays]
        == [one.content for one in story.findings if one.name == "haemoglobin"],
    )
    notes.figures = {"receipts": len(receipts), "erased_at": outcome.height}
