"""The story's end: the patient's access log is proven complete, and the whole chain is verified."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from carechain.chain.questions import LogLine, OfPseudonym
from carechain.chain.receipts import code_named
from carechain.contracts.access import EntryKind
from carechain.demo.network import MINISTRY
from carechain.demo.organisation import Organisation
from carechain.demo.step import Notes
from carechain.demo.story import Story
from carechain.engine.verify import Verdict, verify_chain
from carechain.sdk.answers import QueryAnswer
from carechain.sdk.client import Client
from carechain.sdk.light.proofs import Settled
from carechain.sdk.proofs import Network, NotProven, Trust
from carechain.sdk.verify_log import CompleteLog, verify_log

LEDGER: Final = "ledger"
BLOCKS: Final = "blocks.log"


async def log(story: Story, notes: Notes) -> None:
    """What was served is reported; the patient reads the log from a node and checks it by signed headers."""
    hero = story.hero.pseudonym
    members = story.network.members.values()
    reporters = [one for member in members for one in (member.reporter, member.keeping.reporter) if one is not None]
    reported = sum(await asyncio.gather(*(one.report() for one in reporters)))
    shown, head, why = await _read(story)
    lines = list(shown.lines)
    released = [one.line for one in lines if one.line.kind is EntryKind.RELEASE]
    shared: Counter[bytes] = Counter()
    for one in lines:
        if one.line.kind is EntryKind.KEY_SHARES:
            shared[one.line.actor] += one.line.records
    tickets = {one.line.ticket for one in lines}
    audited = sum(len(one.read.records) for one in story.audited() if one.read.ticket in tickets and not one.read.code)
    notes.text = (
        f"The patient's log has {len(lines)} lines. Their running hash stands in the state under block {shown.height}, "
        f"signed by {_signers(why)}: not a line is missing, altered or added."
    )
    notes.claim("The log is proven complete.", holds=shown.pseudonym == hero.id and bool(lines))
    notes.claim("A log without its last line is not.", holds=_disproven(hero.id, lines[:-1], head, why))
    notes.claim(
        "Nor one with a line in the middle left out.", holds=_disproven(hero.id, lines[:1] + lines[2:], head, why)
    )
    notes.claim(
        "Every record that was released is counted in it.",
        holds=bool(released) and sum(line.records for line in released) == audited,
    )
    notes.claim(
        "So is every key share that a keyholder gave, keyholder by keyholder.",
        holds=bool(shared) and shared == Counter({one.id: _shares_given(one, tickets) for one in members}),
    )
    notes.claim(
        "Refused requests stand in it too.",
        holds=any(one.line.kind is EntryKind.REQUEST and one.line.decision for one in lines),
    )
    notes.figures = {"lines": len(lines), "reports": reported, "proven_at": shown.height}
    notes.lines = [_told(story, one) for one in lines]


def _shares_given(keyholder: Organisation, tickets: AbstractSet[bytes]) -> int:
    """Of how many records the organisation's own audit says that it gave its share under these tickets."""
    given, after = 0, 0
    while page := keyholder.keeping.audit.entries(after=after):
        given += sum(len(one.read.records) for one in page if one.read.ticket in tickets and not one.read.code)
        after = page[-1].number
    return given


async def _read(story: Story) -> tuple[CompleteLog, QueryAnswer, Trust]:
    """The patient's log as a node shows it, its proof, and why the state under it is believed."""
    network, hero = story.network, story.hero.pseudonym
    server = network[MINISTRY].id
    async with Client(network.url, hero, genesis=network.genesis, server=server) as client:
        shown = await client.access_log(hero.id)
        head = await client.query("access.log_head", OfPseudonym(hero.id), prove=True)
        if network.genesis.producers:
            return shown, head, Network.of(network.genesis)
        return shown, *await client.light.believe(head)


def _signers(why: Trust) -> str:
    if not isinstance(why, Settled):
        return "the block producer"
    block = why.above.block
    voted = sum(one is not None for one in block.commit.signatures)
    return f"{voted} of {len(block.validators)} validators, whichever node shows it"


async def verify(story: Story, notes: Notes) -> None:
    """Re-hash and re-execute the whole chain from its genesis, then show that one flipped bit would be found."""
    network = story.network
    height, app_hash = network.height, network.app_hash
    await network.stop_ledger()
    verdicts = [
        await asyncio.to_thread(verify_chain, one.home, network.genesis, keeper=one.id)
        for one in map(network.__getitem__, network.keepers)
    ]
    verdict = verdicts[0]
    spoilt = await asyncio.to_thread(_verdict_on_a_spoilt_copy, story, network[MINISTRY])
    bad = spoilt.first_bad
    notes.text = (
        f"All {verdict.height} blocks are hashed, checked and executed again from the genesis, signatures included. "
        f"They give the state that {'the node has' if len(verdicts) == 1 else 'all nodes have'}."
    )
    notes.claim("The chain is good.", holds=all(one.ok and one.height >= height for one in verdicts))
    notes.claim("It leads to the same state.", holds=all(one.app_hash == app_hash for one in verdicts))
    notes.claim(
        "With one bit flipped in a copy, the first wrong block is named.",
        holds=not spoilt.ok and bad is not None and 0 < bad.height <= height,
    )
    notes.figures = {
        "blocks": verdict.height,
        "app_hash": verdict.app_hash.hex(),
        "spoilt_copy": None if bad is None else {"kind": str(bad.kind), "height": bad.height},
    }


def _disproven(pseudonym: bytes, lines: list[LogLine], head: QueryAnswer, why: Trust) -> bool:
    try:
        verify_log(pseudonym, lines, head, why)
    except NotProven:
        return True
    return False


def _verdict_on_a_spoilt_copy(story: Story, keeper: Organisation) -> Verdict:
    with TemporaryDirectory(prefix="carechain-spoilt-") as scratch:
        copy = Path(scratch)
        shutil.copytree(keeper.home / LEDGER, copy / LEDGER)
        blocks = copy / LEDGER / BLOCKS
        data = bytearray(blocks.read_bytes())
        data[len(data) // 2] ^= 1
        blocks.write_bytes(data)
        return verify_chain(copy, story.network.genesis, keeper=keeper.id)


def _told(story: Story, one: LogLine) -> str:
    """A line of the log in plain language. Names come from the patient's own address book, not from the ledger."""
    line = one.line
    when = datetime.fromtimestamp(line.at_s, UTC).strftime("%H:%M:%S")
    person, house = story.name_of(line.actor), story.name_of(line.organisation)
    who = house if line.actor == line.organisation else f"{person} ({house})"
    if line.actor == story.hero.pseudonym.id:
        who = "You"
    code = code_named(line.decision)
    if line.kind is EntryKind.RELEASE:
        what = f"gave out {_counted(line.records, 'record')}"
    elif line.kind is EntryKind.KEY_SHARES:
        what = f"gave its share of the key to {_counted(line.records, 'sealed record')}"
    elif line.kind is EntryKind.REVOCATION:
        what = "ended a ticket"
    elif line.decision:
        what = f"asked for {line.purpose.name}: refused. {code.reason if code else line.decision}"
    else:
        what = f"asked for {line.purpose.name}: allowed"
    return f"{one.number + 1:3}  {when}  {who} {what}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
