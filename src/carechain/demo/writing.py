"""The story's first part: the network stands, patients register and consent, hospital A writes."""

import asyncio
from functools import partial
from itertools import chain

from carechain.chain import genesis as founding
from carechain.chain.queries import QueryCode
from carechain.chain.questions import GranteePage, GrantPage, NoArgs, PatientPage
from carechain.charts.dates import day_of_unix
from carechain.contracts.relationships import PutSummary, summary_of
from carechain.core.rejection import Rejected
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Purpose, Sensitivity, mask
from carechain.demo.network import MINISTRY, wall_s
from carechain.demo.organisation import Person
from carechain.demo.patients import Patient
from carechain.demo.step import Notes
from carechain.demo.story import SHARED, YEAR_S, Story, bind_message, grant_from, id_hash_at
from carechain.sdk.summary import recover, seal_summary
from carechain.sealing.symmetric import GCM_NONCE_SIZE


async def found(story: Story, notes: Notes) -> None:
    """The six organisations are on the ledger with their staff, each behind a door of its own."""
    network = story.network
    members = network.ask(network[MINISTRY].member, "membership.members", NoArgs()).rows
    staff = sum(len(one.staff) for one in network.members.values())
    doors = [one.listener.url for one in network.members.values() if one.listener is not None]
    notes.text = (
        f"{len(members)} organisations run the network: two hospitals, two insurers, two government bodies. Each has "
        f"its own folder, keys, database and gatekeeper; {staff} members of staff hold certificates."
    )
    notes.claim("Every organisation is a member on the ledger.", holds=len(members) == len(network.members))
    notes.claim("Every gatekeeper listens on a socket of its own.", holds=len(set(doors)) == len(network.members))
    genesis = founding.write(network.genesis)
    names_off = all(person.name.encode() not in genesis for person in _people(story))
    notes.claim("The genesis names organisations and no people.", holds=names_off)
    notes.figures = {"organisations": len(members), "staff": staff}


async def register(story: Story, notes: Notes) -> None:
    """Existing ids are bound to pseudonyms; one patient registers at both hospitals and recovers the wallet."""
    network, a, b = story.network, story.a, story.b
    patients = story.intake.patients
    today = day_of_unix(wall_s())
    raws = []
    for patient in patients:
        patient.wallet, relation = patient.wallet.with_relation(a.id, label=a.plan.name, since_day=today)
        patient.at_home = patient.wallet.keys_of(relation)
        message = bind_message(network.chain_id, patient.pseudonym, a, patient)
        raws.append(network.sign(a.staff["desk"], message))
        story.advance("registering")
    await network.send_all(raws)
    bound = network.rows(a.staff["desk"], "relationships.patients", PatientPage(a.id))
    traveller = patients[0]
    at_b = await story.bind(traveller, b, since_day=today)
    for keys in (traveller.pseudonym, at_b):
        sealed = seal_summary(traveller.wallet, keys.id, a.entropy(GCM_NONCE_SIZE))
        await network.send(keys, PutSummary(pseudonym=keys.id, sealed=sealed))
    again = recover(
        traveller.wallet.seed,
        chain_id=network.chain_id,
        organisations=[one.id for one in network.members.values()],
        exists=lambda pseudonym: _summary(story, pseudonym),
    )
    notes.text = (
        f"{len(patients)} patients register at {a.plan.name}. The ledger gets a keyed hash of the hospital number and "
        f"a pseudonym from the patient's wallet. One of them also registers at {b.plan.name}."
    )
    notes.claim("Every patient has a pseudonym on the ledger.", holds=len(bound) == len(patients))
    notes.claim(
        "The same number at two hospitals gives unequal hashes.",
        holds=id_hash_at(a, traveller) != id_hash_at(b, traveller),
    )
    notes.claim("The same patient has unequal pseudonyms at two hospitals.", holds=traveller.pseudonym.id != at_b.id)
    notes.claim(
        "From the seed alone the wallet finds both relations again.",
        holds=again.wallet.relations == traveller.wallet.relations,
    )
    notes.figures = {"patients": len(patients), "refused_bundles": story.intake.refused}


async def consent(story: Story, notes: Notes) -> None:
    """Every patient lets hospital A keep their record; the followed one and the next let the doctor at B read."""
    network, a = story.network, story.a
    until_s = wall_s() + YEAR_S
    patients = story.intake.patients
    raws = []
    for patient in patients:
        grant = grant_from(patient.pseudonym, a.id, actions=Action.READ | Action.WRITE, expires_s=until_s)
        raws.append(network.sign(patient.pseudonym, grant))
        story.advance("consenting")
    outcomes = await network.send_all(raws)
    granted = network.rows(a.member, "consent.granted_to", GranteePage(a.id))
    shown = network.ask(patients[0].pseudonym, "consent.grants", GrantPage(patients[0].pseudonym.id)).rows
    prying = _refused_query(story)
    notes.text = (
        f"Each patient signs a grant: {a.plan.name} may write the record and read it, for treatment, operations and "
        "payment, for one year. Nobody else holds anything yet."
    )
    notes.claim("Every grant is on the ledger.", holds=len(outcomes) == len(patients) and bool(granted))
    notes.claim("A patient sees exactly who has access.", holds=[one.grant.grantees for one in shown] == [(a.id,)])
    notes.claim("Somebody else may not see it.", holds=prying is QueryCode.ROLE_MAY_NOT_ASK)
    notes.figures = {"grants": len(outcomes)}


async def write(story: Story, notes: Notes) -> None:
    """Bundles go into hospital A's own database; the ledger gets one commitment per record."""
    a = story.a
    doctor = a.staff["doctor"]
    for bundle in story.intake.directories:
        shared = partial(a.charts.ingest_directory, bundle=bundle(), received_s=wall_s())
        story.resources += await asyncio.to_thread(shared)
    transactions = 0
    for patient in story.intake.patients:
        transactions += await _write_one(story, patient)
        story.advance("writing")
    records = [one for patient in story.intake.patients for one in patient.records]
    anchors = story.network.view().contracts.records.anchors
    committed = [anchors.get(one.pseudonym, one.record_id, one.version) for one in records]
    sensitive = [one for one in records if one.sensitivity > SHARED.ceiling]
    notes.text = (
        f"{doctor.name} files {story.resources} FHIR resources as {len(records)} records. They stay in "
        f"{a.plan.name}'s database; the ledger holds a salted root for each, {transactions} transactions in all."
    )
    notes.claim(
        "Every record's root on the ledger is that of the charts.",
        holds=bool(records)
        and all(row is not None and row.root == one.root for row, one in zip(committed, records, strict=True)),
    )
    others = [one for one in story.network.members.values() if one is not a]
    notes.claim(
        "No other organisation's database has any of it.",
        holds=not any(
            one.charts.records_of(patient.pseudonym.id) for one in others for patient in story.intake.patients
        ),
    )
    notes.figures = {
        "resources": story.resources,
        "records": len(records),
        "sensitive_records": len(sensitive),
        "grades": {
            grade.name: sum(one.sensitivity is grade for one in records)
            for grade in Sensitivity
            if any(one.sensitivity is grade for one in records)
        },
        "transactions": transactions,
    }


async def share(story: Story, notes: Notes) -> None:
    """The followed patient shares part of the record with a doctor at the other hospital."""
    hero = story.hero
    until_s = wall_s() + 30 * DAY_S
    story.shared_root, _ = await story.grant(
        hero.pseudonym,
        grant_from(
            hero.pseudonym,
            story.first.id,
            actions=Action.READ | Action.DELEGATE,
            scope=SHARED,
            purposes=mask(Purpose.TREAT),
            expires_s=until_s,
        ),
    )
    held = story.network.ask(story.first, "consent.granted_to", GranteePage(story.first.id)).rows
    notes.text = (
        f"The patient lets {story.first.name} of {story.b.plan.name} read for treatment: care records up to normal "
        "sensitivity, no bills, for 30 days, with the right to pass it on."
    )
    notes.claim("The doctor holds this one grant.", holds=[one.grant_id for one in held] == [story.shared_root])
    notes.figures = {"grants": len(held)}


async def _write_one(story: Story, patient: Patient) -> int:
    """One patient's bundles; ingesting runs beside the loop, so that blocks are made meanwhile."""
    transactions = 0
    for bundle in patient.bundles:
        taken = await asyncio.to_thread(story.ingest, patient.pseudonym, bundle)
        story.resources += taken.resources + taken.directory
        transactions += len(await story.anchor(story.a.staff["doctor"], taken.records))
        newest = {one.record_id: one for one in chain(patient.records, taken.records)}
        patient.records = list(newest.values())
    return transactions


def _refused_query(story: Story) -> QueryCode | None:
    """How the ledger answers a doctor who asks who else has access to a patient."""
    pseudonym = story.intake.patients[0].pseudonym.id
    try:
        story.network.ask(story.a.staff["doctor"], "consent.grants", GrantPage(pseudonym))
    except Rejected as refused:
        return refused.code if isinstance(refused.code, QueryCode) else None
    return None


def _summary(story: Story, pseudonym: bytes) -> bytes | None:
    """What the ledger keeps under a pseudonym: None for an unknown one, else its sealed summary."""
    contracts = story.network.view().contracts
    if contracts.membership.party(pseudonym) is None:
        return None
    row = summary_of(contracts.relationships, pseudonym)
    return b"" if row is None else row.sealed


def _people(story: Story) -> list[Person]:
    return [person for member in story.network.members.values() for person in member.staff.values()]
