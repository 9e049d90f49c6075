"""A release from request to sealed answer.

Goal: what is released is exactly what was granted and exactly what was anchored; everything else is refused with its
code, audited, and tells nothing. Method: a real chart, a real ledger state and real keys; the requester opens and
verifies every answer with the public SDK. Tampering is done with plain SQL in the custodian's own file.
"""

import asyncio
import json
import sqlite3

import pytest
from msgspec.structs import replace

from carechain.charts.record import RecordContent
from carechain.contracts.access import RevokeTicket
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.membership import DismissStaff
from carechain.core.limits import GATEKEEPER_RECORDS, RELEASES_AT_ONCE, STALE_BLOCK_S, TICKET_LIFETIME_S
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Purpose, Sensitivity, mask
from carechain.demo import synthetic
from carechain.gatekeeper import release as release_module
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.release import Asked, Release, ReleaseRequest
from carechain.gatekeeper.study import open_view
from carechain.research.pseudonym import Study
from carechain.sdk.opening import NotBelieved, OpenCode, OpenedRecord, open_records
from house import CARE, House
from world import grant_of, scope_of


def read(house: House, request: ReleaseRequest, requester: bytes | None = None) -> Release:
    return asyncio.run(house.gatekeeper.release(requester or house.world.bert.id, request))


def opened(house: House, ticket: bytes, answer: Release) -> tuple[OpenedRecord, ...]:
    served = [record for record, _ in answer.records]
    return open_records(
        answer.sealed,
        chain_id=house.ledger.chain_id,
        ticket_id=ticket,
        requester=house.world.bert.id,
        private_key=house.world.bert.hpke,
        expected=[one for one in house.expected(ticket) if one.record_id in served],
    )


def refusal(house: House, request: ReleaseRequest, requester: bytes | None = None) -> Withheld:
    """The refusal, which must stand in the audit before the caller hears of it."""
    before = len(house.audit.entries())
    with pytest.raises(Withheld) as refused:
        read(house, request, requester)
    entries = house.audit.entries()
    assert len(entries) == before + 1
    assert entries[-1].read.code == int(refused.value.code)
    return refused.value


def alter(house: House, statement: str, *values: object) -> None:
    connection = sqlite3.connect(house.folder / "charts.sqlite")
    with connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def alter_content(house: House, record_id: bytes) -> None:
    """Change one byte of the record's first resource behind the ledger's back."""
    alter(
        house,
        "UPDATE resources SET body = replace(CAST(body AS TEXT), 'finished', 'planned') WHERE seq IN"
        " (SELECT resource_seq FROM record_resources JOIN records ON records.seq = record_seq WHERE record_id = ?)",
        record_id,
    )


def test_everything_in_scope_arrives_byte_for_byte(house: House) -> None:
    ticket = house.ticket()
    answer = read(house, ReleaseRequest(ticket=ticket))
    records = opened(house, ticket, answer)
    granted = house.of_grade(Sensitivity.N)
    assert sorted(one.record_id for one in records) == sorted(one.record_id for one in granted)
    received = {
        json.dumps(entry["resource"], ensure_ascii=False, separators=(",", ":")).encode()
        for entry in json.loads(synthetic.patient(3, seed=1))["entry"]
    }
    contents = [content for one in records for content in one.resources]
    assert any("Encounter" in content.decode() for content in contents)
    assert set(contents) <= received
    assert answer.after is None


def test_the_audit_names_what_was_released_and_under_which_block(house: House) -> None:
    ticket = house.ticket()
    answer = read(house, ReleaseRequest(ticket=ticket))
    (entry,) = house.audit.entries()
    assert entry.read.records == answer.records
    assert (entry.read.ticket, entry.read.requester, entry.read.code) == (ticket, house.world.bert.id, 0)
    assert entry.read.height == answer.height == house.world.height


def test_nothing_is_answered_when_the_audit_cannot_be_written(house: House) -> None:
    ticket = house.ticket()
    house.audit.close()
    with pytest.raises(Exception, match="ProgrammingError"):
        read(house, ReleaseRequest(ticket=ticket))


def test_single_records_are_served_by_id_and_version(house: House) -> None:
    ticket = house.ticket()
    first = house.expected(ticket)[0]
    for version in (0, 1):
        answer = read(house, ReleaseRequest(ticket=ticket, records=(Asked(first.record_id, version),)))
        assert answer.records == ((first.record_id, 1),)
        assert [one.record_id for one in opened(house, ticket, answer)] == [first.record_id]


def test_pages_follow_each_other_without_gap_or_repeat(house: House) -> None:
    ticket = house.ticket()
    found: list[bytes] = []
    after = None
    while True:
        answer = read(house, ReleaseRequest(ticket=ticket, after=after, limit=1))
        found.extend(one.record_id for one in opened(house, ticket, answer))
        after = answer.after
        if after is None:
            break
    assert found == [one.record_id for one in house.expected(ticket)]


def test_an_answer_stops_at_its_size(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = house.ticket()
    everything = read(house, ReleaseRequest(ticket=ticket))
    monkeypatch.setattr(release_module, "GATEKEEPER_RESPONSE_BYTES", len(everything.sealed) - 1000)
    part = read(house, ReleaseRequest(ticket=ticket))
    assert 0 < len(part.records) < len(everything.records)
    rest = read(house, ReleaseRequest(ticket=ticket, after=part.after))
    assert part.records + rest.records == everything.records
    asked = tuple(Asked(record) for record, _ in everything.records)
    assert refusal(house, ReleaseRequest(ticket=ticket, records=asked)).code is GatekeeperCode.TOO_MANY_RECORDS
    monkeypatch.setattr(release_module, "GATEKEEPER_RESPONSE_BYTES", 100)
    withheld = refusal(house, ReleaseRequest(ticket=ticket))
    assert (withheld.code, withheld.record_id) == (GatekeeperCode.ANSWER_TOO_LARGE, everything.records[0][0])


def test_what_lies_above_the_ceiling_stays(house: House) -> None:
    ticket = house.ticket()
    restricted = house.of_grade(Sensitivity.V, Sensitivity.R)
    assert restricted
    served = [record for record, _ in read(house, ReleaseRequest(ticket=ticket)).records]
    for one in restricted:
        assert one.record_id not in served
        withheld = refusal(house, ReleaseRequest(ticket=ticket, records=(Asked(one.record_id),)))
        assert (withheld.code, withheld.record_id) == (GatekeeperCode.OUTSIDE_SCOPE, one.record_id)


def test_a_refused_request_opens_nothing(house: House) -> None:
    ticket = house.ticket(scope=replace(CARE, ceiling=Sensitivity.V))
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.TICKET_REFUSED
    ticket = house.ticket(by=house.world.ivan, purpose=Purpose.HPAYMT)
    withheld = refusal(house, ReleaseRequest(ticket=ticket), house.world.ivan.id)
    assert withheld.code is GatekeeperCode.TICKET_REFUSED


def test_a_ticket_serves_only_the_one_it_was_given_to(house: House) -> None:
    ticket = house.ticket()
    withheld = refusal(house, ReleaseRequest(ticket=ticket), house.world.bina.id)
    assert withheld.code is GatekeeperCode.NOT_THE_REQUESTER


def test_an_unknown_ticket_is_refused(house: House) -> None:
    assert refusal(house, ReleaseRequest(ticket=bytes(32))).code is GatekeeperCode.TICKET_UNKNOWN


def test_a_ticket_for_another_custodian_is_refused(house: House) -> None:
    house.gatekeeper.organisation = house.world.b.id
    assert refusal(house, ReleaseRequest(ticket=house.ticket())).code is GatekeeperCode.OTHER_CUSTODIAN


def test_an_expired_ticket_is_refused(house: House) -> None:
    ticket = house.ticket()
    house.world.wait(TICKET_LIFETIME_S)
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.TICKET_EXPIRED


def test_a_revoked_ticket_is_refused(house: House) -> None:
    ticket = house.ticket()
    house.world.done(RevokeTicket(ticket=ticket), by=house.world.steve)
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.TICKET_REVOKED


def test_a_ticket_dies_with_the_grant_it_came_from(house: House) -> None:
    ticket = house.ticket()
    read(house, ReleaseRequest(ticket=ticket))
    house.world.done(Revoke(pseudonym=house.world.steve.id, grant_id=house.may_read), by=house.world.steve)
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.NO_LONGER_ALLOWED


def test_a_ticket_dies_with_its_holders_post(house: House) -> None:
    ticket = house.ticket()
    house.world.done(DismissStaff(party=house.world.bert.id), by=house.world.b)
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.NO_LONGER_ALLOWED


def test_a_chain_that_stands_still_serves_nobody(house: House) -> None:
    ticket = house.ticket()
    house.skew_s = STALE_BLOCK_S + 1
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.LEDGER_STALE


def test_revoking_while_the_charts_are_being_read_is_in_time(house: House) -> None:
    class Slow:
        """Charts that take so long that the patient can revoke meanwhile."""

        def read(self, record_id: bytes, version: int | None = None) -> RecordContent:
            content = house.charts.read(record_id, version)
            if not house.ledger.view().contracts.access.tickets.get(ticket).revoked_s:  # type: ignore[union-attr]
                house.world.done(RevokeTicket(ticket=ticket), by=house.world.steve)
            return content

    ticket = house.ticket()
    house.gatekeeper._charts = Slow()
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.TICKET_REVOKED


def test_unknown_and_repeated_records_are_refused(house: House) -> None:
    ticket = house.ticket()
    first = house.expected(ticket)[0].record_id
    rows = (
        (GatekeeperCode.RECORD_UNKNOWN, (Asked(bytes(32)),), bytes(32)),
        (GatekeeperCode.RECORD_UNKNOWN, (Asked(first, 2),), first),
        (GatekeeperCode.RECORD_REPEATED, (Asked(first), Asked(first)), first),
    )
    for code, asked, record in rows:
        withheld = refusal(house, ReleaseRequest(ticket=ticket, records=asked))
        assert (withheld.code, withheld.record_id) == (code, record)


def test_altered_content_is_withheld_named_and_noted(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = house.ticket()
    victim = next(one for one in house.of_grade(Sensitivity.N) if one.category is Category.ENCOUNTER)
    others = [one for one in house.expected(ticket) if one.record_id != victim.record_id]
    alter_content(house, victim.record_id)
    for request in (
        ReleaseRequest(ticket=ticket),
        ReleaseRequest(ticket=ticket, records=(Asked(victim.record_id),)),
    ):
        withheld = refusal(house, request)
        assert (withheld.code, withheld.record_id) == (GatekeeperCode.RECORD_ALTERED, victim.record_id)
    assert "integrity_incident" in capsys.readouterr().out
    answer = read(house, ReleaseRequest(ticket=ticket, records=tuple(Asked(one.record_id) for one in others)))
    assert len(opened(house, ticket, answer)) == len(others)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE resources SET salt = zeroblob(32)",
        "UPDATE resources SET body = 'planned'",
        "UPDATE records SET version = 9",
        "UPDATE records SET category = 99",
        "DELETE FROM record_resources",
    ],
)
def test_any_other_alteration_is_withheld_too(house: House, statement: str) -> None:
    ticket = house.ticket()
    alter(house, statement)
    withheld = refusal(house, ReleaseRequest(ticket=ticket))
    assert withheld.code in (GatekeeperCode.RECORD_ALTERED, GatekeeperCode.RECORD_MISSING)
    assert withheld.record_id == house.expected(ticket)[0].record_id


def test_a_record_the_charts_have_lost_is_an_incident(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = house.ticket()
    alter(house, "UPDATE records SET record_id = zeroblob(31) || record_id")
    assert refusal(house, ReleaseRequest(ticket=ticket)).code is GatekeeperCode.RECORD_MISSING
    assert "integrity_incident" in capsys.readouterr().out


def test_a_gatekeeper_that_does_not_check_is_found_out_by_the_requester(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = house.ticket()
    victim = next(one for one in house.of_grade(Sensitivity.N) if one.category is Category.ENCOUNTER)
    alter_content(house, victim.record_id)
    monkeypatch.setattr(release_module, "check", lambda *_: None)
    answer = read(house, ReleaseRequest(ticket=ticket))
    with pytest.raises(NotBelieved) as disbelieved:
        opened(house, ticket, answer)
    assert disbelieved.value.code is OpenCode.RESOURCE_ALTERED
    assert disbelieved.value.record_id == victim.record_id


def test_a_correction_is_a_new_version_and_the_old_one_can_be_asked_for(house: House) -> None:
    ticket = house.ticket()
    victim = next(one for one in house.of_grade(Sensitivity.N) if one.category is Category.ENCOUNTER)
    bundle = json.loads(synthetic.patient(3, seed=1))
    group_id = victim.group.partition("/")[2]
    for entry in bundle["entry"]:
        if entry["resource"]["id"] == group_id:
            entry["resource"]["status"] = "entered-in-error"
    house.write(json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode())
    newest = read(house, ReleaseRequest(ticket=ticket, records=(Asked(victim.record_id),)))
    older = read(house, ReleaseRequest(ticket=ticket, records=(Asked(victim.record_id, 1),)))
    assert (newest.records, older.records) == (((victim.record_id, 2),), ((victim.record_id, 1),))


def test_too_many_releases_at_once_are_asked_to_come_back(house: House) -> None:
    async def run() -> list[object]:
        requests = (house.gatekeeper.release(house.world.bert.id, ReleaseRequest(ticket=ticket)) for _ in range(6))
        return await asyncio.gather(*requests, return_exceptions=True)

    ticket = house.ticket()
    outcomes = asyncio.run(run())
    busy = [one for one in outcomes if isinstance(one, Withheld) and one.code is GatekeeperCode.BUSY]
    assert len(busy) == 6 - RELEASES_AT_ONCE
    assert sum(isinstance(one, Release) for one in outcomes) == RELEASES_AT_ONCE


def test_a_reading_key_nothing_can_be_sealed_to_is_refused(house: House) -> None:
    ticket = house.ticket()
    row = replace(house.world.ticket(ticket), hpke_key=bytes(32))
    with pytest.raises(Withheld) as refused:
        house.gatekeeper._seal(ticket, row, [])
    assert refused.value.code is GatekeeperCode.KEY_UNUSABLE


def test_the_request_is_bounded() -> None:
    assert ReleaseRequest(ticket=bytes(32)).limit == GATEKEEPER_RECORDS


def test_a_narrow_ticket_gives_only_its_records(house: House) -> None:
    chosen = house.of_grade(Sensitivity.N)[0]
    ticket = house.ticket(scope=scope_of(chosen.category, records=(chosen.record_id,)))
    assert read(house, ReleaseRequest(ticket=ticket)).records == ((chosen.record_id, 1),)


def test_research_sees_a_studys_view_and_never_the_records(house: House) -> None:
    world = house.world
    research = grant_of(world.steve, world.rita, scope=CARE, purposes=mask(Purpose.HRESCH))
    world.grant(research, by=world.steve)
    ticket = house.ticket(by=world.rita, purpose=Purpose.HRESCH)
    request = ReleaseRequest(ticket=ticket)
    assert refusal(house, request, world.rita.id).code is GatekeeperCode.PSEUDONYMS_ONLY

    def view(study: Study) -> list[bytes]:
        answer = asyncio.run(house.gatekeeper.show_study(world.rita.id, request, study=study, as_of_year=2026))
        return open_view(
            answer.sealed,
            chain_id=house.ledger.chain_id,
            ticket_id=ticket,
            requester=world.rita.id,
            private_key=world.rita.hpke,
        )

    one, again, other = view(Study(b"1" * 32)), view(Study(b"1" * 32)), view(Study(b"2" * 32))
    assert one == again != other
    assert len(one) > 0
    patient = json.loads(synthetic.patient(3, seed=1))["entry"][2]["resource"]
    assert patient["resourceType"] == "Patient"
    for shown in one:
        assert patient["id"].encode() not in shown
    assert [entry.read.code for entry in house.audit.entries()] == [int(GatekeeperCode.PSEUDONYMS_ONLY), 0, 0, 0]


def test_a_study_view_needs_a_research_ticket_and_the_researchers_key(house: House) -> None:
    request = ReleaseRequest(ticket=house.ticket())
    with pytest.raises(Withheld) as refused:
        asyncio.run(house.gatekeeper.show_study(house.world.bert.id, request, study=Study(bytes(32)), as_of_year=2026))
    assert refused.value.code is GatekeeperCode.NOT_RESEARCH
    for sealed in (b"", bytes(200)):
        with pytest.raises(Rejected) as closed:
            open_view(
                sealed,
                chain_id=house.ledger.chain_id,
                ticket_id=request.ticket,
                requester=house.world.bert.id,
                private_key=house.world.bert.hpke,
            )
        assert closed.value.code is OpenCode.CANNOT_OPEN
