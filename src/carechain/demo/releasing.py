"""The story's sealed records are opened by whom the patient lets, with three keyholders of five, and by nobody else."""

from typing import Any, Final

from msgspec.structs import replace

from carechain.chain.questions import AnchorLine, GrantPage, MisdeedPage
from carechain.contracts.consent.schema import Revoke
from carechain.core import group
from carechain.core.decision import DecisionCode
from carechain.core.quorum import statement_bytes
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Purpose, Sensitivity, mask
from carechain.demo.doors import KEYHOLDERS, THRESHOLD, Asker, Shelf
from carechain.demo.network import HARBOUR, INSTITUTE, KANGNING, MEADOW, MINISTRY, wall_s
from carechain.demo.sealing import ALL_RESULTS, INDEX, RESULTS, vault_files_with
from carechain.demo.step import Notes
from carechain.demo.story import Story, grant_from, refusal_of
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.keyholder import Keyholder
from carechain.sdk.failures import Refused
from carechain.sdk.sealed import SealedReader
from carechain.sdk.shares import KeyholderCode, SignedShare
from carechain.sealing.blind_index import BlindIndex
from carechain.sealing.codes import SealingCode

LIAR: Final = MEADOW
DOWN: Final = KANGNING
_FULL_WIDTH: Final = "\uff27\uff2c\uff35\uff23\uff2f\uff33\uff25"
"""GLUCOSE in the wide letters of Chinese keyboards."""


class LyingKeyholder(Keyholder):
    """Changed software: it makes every check, then signs a share that is not the one."""

    def _share(self, *asked: Any, **named: Any) -> SignedShare:  # noqa: ANN401 - whatever the honest one is given
        signed = super()._share(*asked, **named)
        share = signed.statement.share
        false = replace(share, point=group.add(share.point, group.GENERATOR))
        statement = replace(signed.statement, share=false)
        return SignedShare(statement, self._signing.sign(statement_bytes(self.ledger.chain_id, statement)))


# --- opening --------------------------------------------------------------------------------------------


async def release(story: Story, notes: Notes) -> None:
    """The doctor opens what the patient shares, although one keyholder lies and another is down."""
    hero, doctor, network = story.hero.pseudonym, story.first, story.network
    liar, down = network[LIAR], network[DOWN]
    await grant_results(story)
    decided = await story.request(doctor, hero, RESULTS)
    story.ticket = decided.ticket
    lines = [one for one in story.lines(doctor, hero, decided.ticket) if one.anchor.sealed is not None]
    await liar.shut()
    await liar.listen(LyingKeyholder)
    await down.shut()
    reader = story.doors.reader(doctor)
    try:
        opened = await reader.read(decided.ticket, hero.id, lines)
    finally:
        await liar.shut()
        await liar.listen()
        await down.listen()
    failed = {one.holder: one.why for one in reader.gatherer.failed}
    proofs = reader.gatherer.misbehaved
    for proof in proofs.values():
        await network.send(doctor, proof.accusation())
    named = network.ask(network[MINISTRY].member, "keyring.misdeeds", MisdeedPage()).rows
    two = story.doors.reader(doctor, among=(HARBOUR, INSTITUTE), threshold=THRESHOLD - 1)
    with_two = await refusal_of(two.read(decided.ticket, hero.id, [story.line(story.sealed["glucose"])]))
    contents = {content for one in opened for content in one.resources}
    shared = [one.content for one in story.findings if one.sensitivity <= RESULTS.ceiling]
    notes.text = (
        f"{doctor.name} gets a ticket and asks the keyholders for their shares. {liar.plan.name} signs a false one, "
        f"{down.plan.name} does not answer; the three others suffice. The signed lie is proof enough for the ledger."
    )
    notes.claim("The request was allowed by the patient's grant.", holds=decided.decision == 0)
    notes.claim(
        "The doctor has the laboratory's results byte for byte.",
        holds=bool(shared) and len(opened) == len(lines) and contents.issuperset(shared),
    )
    notes.claim(
        "One of five gave a false share and one none, and both were noticed.",
        holds=failed == {liar.id: SealingCode.SHARE_FALSE.label, down.id: "no answer"} and set(proofs) == {liar.id},
    )
    notes.claim("The ledger names the liar, and nobody else.", holds=[one.holder for one in named] == [liar.id])
    notes.claim("With the shares of two keyholders alone nothing opens.", holds=with_two is SealingCode.KEY_WRONG)
    notes.figures = {"records": len(opened), "asked": len(KEYHOLDERS), "failed": len(failed), "liar": liar.id.hex()}


async def grades(story: Story, notes: Notes) -> None:
    """The grant reaches normal: the restricted result stays closed, also where a gatekeeper hands it out."""
    hero, doctor = story.hero.pseudonym, story.first
    line = story.line(story.sealed["screening"])
    handed_out = await _leaked(story, line)
    reader = story.doors.reader(doctor, objects=Shelf(handed_out))
    refused = await story.turned_down(reader, story.ticket, line.record)
    called_normal = replace(line, anchor=replace(line.anchor, sensitivity=Sensitivity.N))
    relabelled = await refusal_of(reader.read(story.ticket, hero.id, [called_normal]))
    wide = await story.request(doctor, hero, ALL_RESULTS)
    by_refused = await story.turned_down(reader, wide.ticket, line.record)
    listed = {one.record for one in story.lines(doctor, hero, story.ticket)}
    notes.text = (
        f"One result is graded restricted. Say {story.a.plan.name}'s gatekeeper breaks every rule and hands the "
        f"{len(handed_out)} bytes of its object to the doctor: without its key they are noise."
    )
    notes.claim("The ledger does not show the doctor that the record exists.", holds=line.record not in listed)
    notes.claim(
        "Every keyholder refuses its share: the grade is the ledger's, not the gatekeeper's.",
        holds=refused == story.every_keyholder(KeyholderCode.OUTSIDE_SCOPE),
    )
    notes.claim(
        "Calling the record normal does not help: its grade is sealed in with the key.",
        holds=relabelled is SealingCode.CAPSULE_OTHER_LABEL,
    )
    notes.claim(
        "A request that reaches for the grade is refused, and its ticket opens nothing.",
        holds=wide.decision == DecisionCode.SCOPE_NOT_COVERED
        and by_refused == story.every_keyholder(KeyholderCode.TICKET_REFUSED),
    )
    notes.figures = {"grade": line.anchor.sensitivity.name, "object_bytes": len(handed_out)}


async def _leaked(story: Story, line: AnchorLine) -> bytes:
    """What a gatekeeper that ignores everything can give away: the object from hospital A's own disk."""
    if line.anchor.sealed is None:
        return b""
    store = story.a.keeping.vault.service.vault.stores[0]
    return b"".join([chunk async for chunk in store.open(line.anchor.sealed.object)])


async def grant_results(story: Story) -> None:
    """The patient lets the doctor at hospital B read results up to normal, for treatment."""
    hero = story.hero.pseudonym
    grant = grant_from(
        hero,
        story.first.id,
        actions=Action.READ,
        scope=RESULTS,
        purposes=mask(Purpose.TREAT),
        expires_s=wall_s() + DAY_S,
    )
    await story.grant(hero, grant)


# --- searching ------------------------------------------------------------------------------------------


async def search(story: Story, notes: Notes) -> None:
    """Doctor and patient search by keyword in what each may open; the vault compares tokens it cannot read."""
    hero, doctor = story.hero.pseudonym, story.first
    own = (await story.request(hero, hero, ALL_RESULTS, Purpose.PATRQT)).ticket
    reader = story.doors.reader(doctor)
    normal = await _index(story, reader, story.ticket, Sensitivity.N)
    restricted = await _index(story, story.doors.reader(hero), own, Sensitivity.R)
    glucose, screening = ((story.sealed[one],) for one in ("glucose", "screening"))
    found = {
        phrase: await story.doors.search(doctor, HARBOUR, story.ticket, normal.search_tokens(phrase))
        for phrase in ("空腹血糖", _FULL_WIDTH, "糖尿病", "HIV", "艾滋病毒")
    }
    by_patient = await story.doors.search(hero, HARBOUR, own, restricted.search_tokens("艾滋病毒"))
    hits = [story.line(one) for one in found["空腹血糖"]]
    opened = await reader.read(story.ticket, hero.id, hits)
    stolen = await _search_refusal(story, story.second, normal.search_tokens("空腹血糖"))
    words = [one.encode() for one in ("空腹", "血糖", "glucose", "Glucose", "HIV")]
    notes.text = (
        "Beside the ciphertext lie tokens: keyed hashes of the words, under a key for each patient, category and grade "
        "that is itself sealed. Who may open the key can search; the vault sees which tokens are equal, and no word."
    )
    notes.claim(
        "The doctor finds the result by 空腹血糖, by 糖尿病, and by GLUCOSE in wide letters.",
        holds=found["空腹血糖"] == found[_FULL_WIDTH] == found["糖尿病"] == glucose,
    )
    notes.claim("What was found opens.", holds=[one.resources[0] for one in opened] == [_content(story, "glucose")])
    notes.claim(
        "With the key for normal results no restricted one is found.", holds=not found["HIV"] + found["艾滋病毒"]
    )
    notes.claim("The patient finds the restricted result in the own record.", holds=by_patient == screening)
    notes.claim("A colleague's search with this ticket is refused.", holds=stolen == GatekeeperCode.NOT_THE_REQUESTER)
    notes.claim("No word stands in any vault.", holds=not vault_files_with(story, words))
    notes.figures = {phrase: len(records) for phrase, records in found.items()}


async def _index(story: Story, reader: SealedReader, ticket: bytes, grade: Sensitivity) -> BlindIndex:
    """Open the key by which results of one grade are searched; it is a sealed record like any other."""
    line = story.line(story.sealed[INDEX + grade.name])
    (opened,) = await reader.read(ticket, story.hero.pseudonym.id, [line])
    return BlindIndex(opened.resources[0])


async def _search_refusal(story: Story, who: Asker, tokens: tuple[bytes, ...]) -> int:
    """The code with which a search under the doctor's ticket is refused, or 0."""
    try:
        await story.doors.search(who, HARBOUR, story.ticket, tokens)
    except Refused as refused:
        return refused.code
    return 0


def _content(story: Story, name: str) -> bytes:
    return next(one.content for one in story.findings if one.name == name)


# --- ending ---------------------------------------------------------------------------------------------


async def revoke(story: Story, notes: Notes) -> None:
    """The patient takes back what the doctor was given: the running ticket gets no share any more."""
    hero, doctor = story.hero.pseudonym, story.first
    reader = story.doors.reader(doctor)
    glucose = story.sealed["glucose"]
    before = await reader.read(story.ticket, hero.id, [story.line(glucose)])
    grants = story.network.rows(hero, "consent.grants", GrantPage(hero.id))
    held = [one for one in grants if doctor.id in one.grant.grantees and one.live]
    height = 0
    for one in held:
        height = (await story.network.send(hero, Revoke(pseudonym=hero.id, grant_id=one.grant_id))).height
    refused = await story.turned_down(reader, story.ticket, glucose)
    again = await story.request(doctor, hero, RESULTS)
    notes.text = (
        f"The patient revokes what {doctor.name} holds, at height {height}. What was read was read; from this block on "
        "no keyholder gives a share under the ticket, although it has not expired."
    )
    notes.claim("The ticket opened the record until then.", holds=len(before) == 1)
    notes.claim(
        "The running ticket gets no share from anyone.",
        holds=refused == story.every_keyholder(KeyholderCode.NO_LONGER_ALLOWED),
    )
    notes.claim(
        "The next ticket is refused.", holds=again.decision in (DecisionCode.NO_GRANT, DecisionCode.GRANT_NOT_LIVE)
    )
    notes.figures = {"revoked": len(held), "revoked_at": height}
