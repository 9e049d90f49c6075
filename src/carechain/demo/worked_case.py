"""HealthChain's worked case: Steve Apple, Dr Carl Savem, the technician John Doe, and a researcher (S3, RES-1)."""

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from carechain.charts.dates import day_of_unix
from carechain.charts.record import StoredRecord
from carechain.contracts.records import RecordsCode
from carechain.core.scope import Scope
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Category, Purpose, Sensitivity, mask
from carechain.demo import steve_apple
from carechain.demo.drawn import Drawn
from carechain.demo.network import INSTITUTE, wall_s
from carechain.demo.patients import Patient
from carechain.demo.step import Notes
from carechain.demo.story import CARE, YEAR_S, Story, grant_from, refusal_of
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.release import ReleaseRequest
from carechain.gatekeeper.study import open_view
from carechain.research.pseudonym import Study
from carechain.sdk.wallet import Pseudonym, new_wallet

NOTES_AND_TESTS: Final = Scope(categories=mask(Category.ENCOUNTER, Category.RESULT), ceiling=Sensitivity.N)
TESTS: Final = Scope(categories=mask(Category.RESULT), ceiling=Sensitivity.N)
IDENTIFIERS: Final = (
    "Apple",
    "Steve",
    "Mary",
    "Savem",
    "Carl",
    "Doe",
    steve_apple.MRN,
    "555-0142",
    "12 Orchard Lane",
    "1956-09-12",
    steve_apple.VISIT_DAY,
    steve_apple.TEST_DAY,
    "steve-apple",
    "carl-savem",
    "john-doe",
)
"""Whatever points at a person in the three bundles."""


class Views(Struct, frozen=True):
    """What the researcher gets: of one study twice, and of another."""

    one: list[bytes]
    again: list[bytes]
    other: list[bytes]


async def steve(story: Story, notes: Notes) -> None:
    """Demographics by the patient, then the doctor, then the technician, each only once authorised."""
    network, a = story.network, story.a
    carl, john = a.staff["carl"], a.staff["john"]
    patient = Patient(
        wallet=new_wallet(chain_id=network.chain_id, entropy=Drawn(1, "steve-apple")),
        name=steve_apple.PATIENT_NAME,
        existing_id=steve_apple.MRN,
        bundles=[],
    )
    pseudonym = patient.at_home = await story.bind(patient, a, since_day=day_of_unix(wall_s()))
    story.names[pseudonym.id] = patient.name
    own = await asyncio.to_thread(story.ingest, pseudonym, steve_apple.demographics)
    await story.anchor(pseudonym, own.records)

    note = await asyncio.to_thread(story.ingest, pseudonym, steve_apple.encounter_note)
    too_early = await refusal_of(story.anchor(carl, note.records))
    carl_may, _ = await story.grant(
        pseudonym,
        grant_from(
            pseudonym,
            carl.id,
            actions=Action.READ | Action.WRITE | Action.DELEGATE,
            purposes=CARE,
            expires_s=wall_s() + YEAR_S,
        ),
    )
    await story.anchor(carl, note.records)

    test = await asyncio.to_thread(story.ingest, pseudonym, steve_apple.lipid_test)
    not_yet = await refusal_of(story.anchor(john, test.records))
    ordered = grant_from(
        pseudonym,
        john.id,
        actions=Action.READ | Action.WRITE,
        scope=TESTS,
        purposes=mask(Purpose.TREAT),
        expires_s=wall_s() + DAY_S,
        parent=carl_may,
    )
    await story.grant(carl, ordered)
    await story.anchor(john, test.records)
    read = await story.request(carl, pseudonym, NOTES_AND_TESTS)
    opened = await story.read(carl, read.ticket, story.expected(carl, pseudonym, read.ticket))

    views, raw_refusal = await _researched(story, pseudonym)
    notes.text = (
        "Steve Apple enters who he is himself, authorises Dr. Carl Savem, who writes the encounter note and authorises "
        "the technician John Doe for one lipid test. A researcher sees the case under a study's pseudonym only."
    )
    notes.claim("Carl may not write before Steve says so.", holds=too_early is RecordsCode.WRITE_NOT_AUTHORISED)
    notes.claim("John may not write before Carl says so.", holds=not_yet is RecordsCode.WRITE_NOT_AUTHORISED)
    notes.claim(
        "The ledger knows who wrote each record.",
        holds=_authors(story, (*own.records, *note.records, *test.records))
        == {pseudonym.id: len(own.records), carl.id: len(note.records), john.id: len(test.records)},
    )
    notes.claim("Carl reads note and test.", holds=len(opened) == len(note.records) + len(test.records) > 1)
    notes.claim("The researcher gets no record as it is.", holds=raw_refusal is GatekeeperCode.PSEUDONYMS_ONLY)
    notes.claim(
        "In the researcher's view stands nobody's name, number, address or date.",
        holds=bool(views.one)
        and not any(word.encode() in shown for shown in (*views.one, *views.other) for word in IDENTIFIERS),
    )
    notes.claim("Within a study the pseudonyms are equal.", holds=bool(views.one) and views.one == views.again)
    notes.claim(
        "Across two studies nothing is.",
        holds=bool(views.other) and not set(views.one) & set(views.other),
    )
    notes.figures = {"records": len(own.records) + len(note.records) + len(test.records), "shown": len(views.one)}


async def _researched(story: Story, pseudonym: Pseudonym) -> tuple[Views, object]:
    """Steve consents to research; hospital A shows its two studies, with a secret each, what they may see."""
    researcher = story.network[INSTITUTE].staff["researcher"]
    gatekeeper = story.a.gatekeeper
    if gatekeeper is None:
        raise RuntimeError("the gatekeeper is not open")
    grant = grant_from(
        pseudonym,
        researcher.id,
        actions=Action.READ,
        scope=NOTES_AND_TESTS,
        purposes=mask(Purpose.HRESCH),
        expires_s=wall_s() + YEAR_S,
    )
    await story.grant(pseudonym, grant)
    ticket = (await story.request(researcher, pseudonym, NOTES_AND_TESTS, Purpose.HRESCH)).ticket
    as_it_is = await refusal_of(story.read(researcher, ticket, ()))
    secrets = [story.a.entropy(32), story.a.entropy(32)]
    shown = []
    for secret in (secrets[0], secrets[0], secrets[1]):
        answer = await gatekeeper.show_study(
            researcher.id, ReleaseRequest(ticket=ticket), study=Study(secret), as_of_year=2026
        )
        shown.append(
            open_view(
                answer.sealed,
                chain_id=story.network.chain_id,
                ticket_id=ticket,
                requester=researcher.id,
                private_key=researcher.hpke,
            )
        )
    return Views(*shown), as_it_is


def _authors(story: Story, records: Sequence[StoredRecord]) -> dict[bytes, int]:
    """How many of the records the ledger says each party wrote."""
    anchors = story.network.view().contracts.records.anchors
    authors: dict[bytes, int] = {}
    for one in records:
        row = anchors.get(one.pseudonym, one.record_id, one.version)
        if row is not None:
            authors[row.author] = authors.get(row.author, 0) + 1
    return authors
