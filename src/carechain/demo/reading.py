"""The story's middle: hospital B reads, what was not granted stays closed, and revoking ends the whole branch."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from carechain.chain.questions import LogLine, LogPage
from carechain.contracts.access import Decided, EntryKind
from carechain.contracts.consent.schema import Revoke
from carechain.core.decision import DecisionCode
from carechain.core.scope import Scope
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Category, Purpose, Sensitivity, mask
from carechain.demo.network import KANGNING, MEADOW, wall_s
from carechain.demo.patients import Patient, received_bytes
from carechain.demo.step import Notes
from carechain.demo.story import SHARED, Story, grant_from, not_above, refusal_of
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.sdk.opening import AnchoredRecord

if TYPE_CHECKING:
    from carechain.demo.organisation import Person


async def read(story: Story, notes: Notes) -> None:
    """Request, ticket, gatekeeper, open, verify: every byte as hospital A received it."""
    hero, doctor = story.hero, story.first
    decided = await story.request(doctor, hero.pseudonym)
    expected = story.expected(doctor, hero.pseudonym, decided.ticket)
    opened = await story.read(doctor, decided.ticket, expected)
    received = set(received_bytes(hero))
    contents = [content for record in opened for content in record.resources]
    wanted = {one.record_id for one in hero.records if not_above(one)}
    audited = [one for one in story.audited() if one.read.ticket == decided.ticket and not one.read.code]
    notes.text = (
        f"{doctor.name} asks the ledger and gets a ticket, shows it at {story.a.plan.name}'s gatekeeper and opens "
        f"{len(opened)} records with {len(contents)} resources. Each is checked against its root on the ledger."
    )
    notes.claim("The request was allowed by the patient's grant.", holds=decided.decision == 0)
    notes.claim(
        "Everything shared arrived, and nothing else.",
        holds=bool(opened) and {one.record_id for one in opened} == wanted,
    )
    notes.claim(
        "Every resource is byte for byte what hospital A received.",
        holds=bool(contents) and all(one in received for one in contents),
    )
    notes.claim(
        "Hospital A audited the read before it answered.",
        holds=sum(len(one.read.records) for one in audited) == len(opened),
    )
    notes.figures = {"records": len(opened), "resources": len(contents)}


async def ceiling(story: Story, notes: Notes) -> None:
    """What is graded restricted or very restricted is not released under a grant up to normal."""
    kept_back: dict[str, int] = {}
    tellers = _tellers(story)
    for patient in tellers:
        if patient is not story.hero:
            grant = grant_from(
                patient.pseudonym,
                story.first.id,
                actions=Action.READ,
                scope=SHARED,
                purposes=mask(Purpose.TREAT),
                expires_s=wall_s() + DAY_S,
            )
            await story.grant(patient.pseudonym, grant)
        await _ceiling_of(story, patient, notes, kept_back)
    wide = await story.request(story.first, story.hero.pseudonym, replace(SHARED, ceiling=Sensitivity.V))
    listed = ", ".join(f"{count} of grade {grade}" for grade, count in sorted(kept_back.items()))
    notes.text = (
        f"In the same charts lie records above the ceiling ({listed or 'none'}): they are not listed, not released "
        "when named, and a request that reaches for them is refused."
    )
    notes.claim(
        "A request above the ceiling is refused by the ledger.", holds=wide.decision == DecisionCode.SCOPE_NOT_COVERED
    )
    notes.figures = {"kept_back": kept_back}


async def refuse(story: Story, notes: Notes) -> None:
    """What was not granted is refused: on the ledger with a ticket that says so, and at the door again."""
    hero = story.hero
    attempts: list[tuple[Person, Scope, Purpose, DecisionCode, str]] = [
        (
            story.network[MEADOW].staff["auditor"],
            SHARED,
            Purpose.TREAT,
            DecisionCode.ROLE_MAY_NOT_REQUEST,
            "An insurer's auditor may not ask for treatment.",
        ),
        (
            story.network[KANGNING].staff["auditor"],
            Scope(categories=mask(Category.CLAIM), ceiling=Sensitivity.N),
            Purpose.HPAYMT,
            DecisionCode.NO_GRANT,
            "An insurer without a grant gets no bill.",
        ),
        (
            story.first,
            Scope(categories=mask(Category.CLAIM), ceiling=Sensitivity.N),
            Purpose.TREAT,
            DecisionCode.SCOPE_NOT_COVERED,
            "The doctor's grant does not reach the bills.",
        ),
        (story.first, SHARED, Purpose.HOPERAT, DecisionCode.PURPOSE_NOT_COVERED, "Nor another purpose."),
        (story.second, SHARED, Purpose.TREAT, DecisionCode.NO_GRANT, "A colleague without a grant gets nothing."),
    ]
    refused: list[Decided] = []
    for who, scope, purpose, code, says in attempts:
        decided = await story.request(who, hero.pseudonym, scope, purpose)
        at_the_door = await refusal_of(story.read(who, decided.ticket, ()))
        holds = decided.decision == code and at_the_door is GatekeeperCode.TICKET_REFUSED
        notes.claim(says, holds=holds)
        refused.append(decided)
    borrowed = await story.request(story.first, hero.pseudonym)
    theft = await refusal_of(story.read(story.second, borrowed.ticket, ()))
    lines = access_log(story, hero)
    seen = {one.line.ticket for one in lines if one.line.kind is EntryKind.REQUEST and one.line.decision}
    notes.text = f"{len(refused)} requests are refused, each for its own reason, and each stands in the patient's log."
    notes.claim("A ticket in other hands opens nothing.", holds=theft is GatekeeperCode.NOT_THE_REQUESTER)
    notes.claim("The patient's log shows every refusal.", holds={one.ticket for one in refused} <= seen)
    notes.figures = {"refused": len(refused)}


async def delegate(story: Story, notes: Notes) -> None:
    """The doctor passes the case on to a colleague; the patient revokes the doctor, and both end at once."""
    hero, first, second = story.hero, story.first, story.second
    narrower = Scope(categories=mask(Category.ENCOUNTER, Category.RESULT), ceiling=Sensitivity.N)
    await story.grant(
        first,
        grant_from(
            hero.pseudonym,
            second.id,
            actions=Action.READ,
            scope=narrower,
            purposes=mask(Purpose.TREAT),
            parent=story.shared_root,
            expires_s=wall_s() + DAY_S,
        ),
    )
    tickets = [
        (first, await story.request(first, hero.pseudonym), SHARED),
        (second, await story.request(second, hero.pseudonym, narrower), narrower),
    ]
    before = []
    for who, decided, _ in tickets:
        before.append(await story.read(who, decided.ticket, story.expected(who, hero.pseudonym, decided.ticket)))
    outcome = await story.network.send(hero.pseudonym, Revoke(pseudonym=hero.pseudonym.id, grant_id=story.shared_root))
    after = [await refusal_of(story.read(who, decided.ticket, ())) for who, decided, _ in tickets]
    again = [(await story.request(who, hero.pseudonym, scope)).decision for who, _, scope in tickets]
    notes.text = (
        f"{first.name} passes part of it on to {second.name}; both read. The patient revokes {first.name} at height "
        f"{outcome.height}: the grant below it dies too, and so do the tickets that were already given."
    )
    notes.claim("Both could read before.", holds=all(before) and len(before[1]) <= len(before[0]))
    notes.claim("Both tickets are dead at the door.", holds=after == [GatekeeperCode.NO_LONGER_ALLOWED] * 2)
    notes.claim(
        "Neither gets a new ticket.",
        holds=all(one in (DecisionCode.NO_GRANT, DecisionCode.GRANT_NOT_LIVE) for one in again),
    )
    notes.figures = {"revoked_at": outcome.height, "records_before": [len(one) for one in before]}


def access_log(story: Story, patient: Patient) -> list[LogLine]:
    """The patient's log as the ledger answers it, all pages."""
    keys = patient.pseudonym
    lines: list[LogLine] = []
    page = LogPage(keys.id)
    while True:
        answer = story.network.ask(keys, "access.log", page)
        lines.extend(answer.rows)
        if answer.after is None:
            return lines
        page = LogPage(keys.id, answer.after[0])


def _tellers(story: Story) -> list[Patient]:
    """The followed patient, and for each grade above the ceiling one patient who has it."""
    found = [story.hero]
    for grade in (Sensitivity.R, Sensitivity.V):
        covered = any(one.sensitivity is grade for patient in found for one in patient.records)
        having = (one for one in story.intake.patients if any(rec.sensitivity is grade for rec in one.records))
        other = None if covered else next(having, None)
        if other is not None:
            found.append(other)
    return found


async def _ceiling_of(story: Story, patient: Patient, notes: Notes, kept_back: dict[str, int]) -> None:
    doctor = story.first
    decided = await story.request(doctor, patient.pseudonym)
    expected = story.expected(doctor, patient.pseudonym, decided.ticket)
    opened = {one.record_id for one in await story.read(doctor, decided.ticket, expected)}
    above = patient.above(SHARED.ceiling)
    named = [
        await refusal_of(story.read(doctor, decided.ticket, [_anchored(patient, one.record_id)], everything=False))
        for one in above
    ]
    for one in above:
        kept_back[one.sensitivity.name] = kept_back.get(one.sensitivity.name, 0) + 1
    grades = "/".join(sorted({one.sensitivity.name for one in above})) or "no"
    notes.claim(
        f"A chart with {grades} records: none of them is listed or released.",
        holds=bool(opened) and not any(one.record_id in opened for one in above),
    )
    notes.claim(
        "Naming such a record does not help, and does not tell its grade.",
        holds=all(code is GatekeeperCode.OUTSIDE_SCOPE for code in named),
    )


def _anchored(patient: Patient, record_id: bytes) -> AnchoredRecord:
    record = next(one for one in patient.records if one.record_id == record_id)
    return AnchoredRecord(record_id=record.record_id, version=record.version, root=record.root)
