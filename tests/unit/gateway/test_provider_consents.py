"""Goal: FHIR shows of consent what the ledger itself would tell this caller, as valid Consents, and no more (CON-10).

Method: hospital a of the small world with grants of several kinds, asked by patient, grantee, stranger and others;
every Consent is checked against R4's definitions, and a Consent is taken over as messages that the ledger accepts.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carechain.chain.queries import QueryCode
from carechain.charts.sight import Sight
from carechain.contracts.consent.schema import Answer, Grant, Revoke, SetRule, Who
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Action, Category, Power, Purpose, Role, Sensitivity, mask
from carechain.gateway.principal import Rights
from carechain.gateway.providers.consents import ConsentProvider
from carechain.sdk.pcf_codes import DocumentCode
from carechain.sdk.pcf_terms import PARTY
from carechain.sdk.pcf_writing import rule_id
from house import House
from provider_house import ProviderHouse
from world import LATER_S, anything, grant_of, scope_of


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ProviderHouse]:
    house = House(tmp_path)
    yield ProviderHouse(house)
    house.close()


@pytest.fixture
def consents(place: ProviderHouse) -> ConsentProvider:
    return ConsentProvider(ledger=place.ledger, charts=place.charts)


def set_rule(place: ProviderHouse, number: int, answer: Answer, who: Who) -> None:
    world = place.world
    rule = SetRule(
        pseudonym=world.steve.id,
        rule=number,
        who=who,
        purposes=mask(Purpose.TREAT),
        scope=EVERYTHING,
        answer=answer,
        expires_s=LATER_S,
    )
    world.done(rule, by=world.steve)


def test_the_patient_sees_every_grant_and_rule(place: ProviderHouse, consents: ConsentProvider) -> None:
    world = place.world
    set_rule(place, 1, Answer.DENY, Who(party=world.ivan.id))
    set_rule(place, 2, Answer.ASK, Who(roles=mask(Role.NURSE)))
    found = place.search(consents, world.steve, "Consent")
    assert {one["id"] for one in found} == {
        place.house.may_read.hex(),
        place.house.may_write.hex(),
        rule_id(world.steve.id, 1),
    }
    by_id = {one["id"]: one for one in found}
    read = by_id[place.house.may_read.hex()]
    assert read["meta"]["profile"] == ["https://profiles.ihe.net/ITI/PCF/StructureDefinition/IHE.PCF.consentAdvanced"]
    assert read["patient"]["reference"] == f"Patient/{place.patient_id()}"
    assert read["provision"]["actor"][0]["reference"]["reference"] == f"Practitioner/{world.bert.id.hex()}"
    assert [one["code"] for one in read["provision"]["securityLabel"]] == ["N", "encounter", "result"]
    assert by_id[rule_id(world.steve.id, 1)]["provision"]["type"] == "deny"
    # Only IHE's profiles of what they have room for are claimed.
    assert "meta" not in by_id[place.house.may_write.hex()]


def test_a_grantee_sees_its_own_grants_and_an_organisation_its_staffs(
    place: ProviderHouse, consents: ConsentProvider
) -> None:
    world = place.world
    to_b = world.grant(grant_of(world.mary, world.b), by=world.mary)
    assert [one["id"] for one in place.search(consents, world.bert, "Consent")] == sorted(
        [place.house.may_read.hex(), to_b.hex()]
    )
    assert [one["id"] for one in place.search(consents, world.bina, "Consent")] == [to_b.hex()]
    assert [one["id"] for one in place.search(consents, world.ivan, "Consent")] == []
    assert [one["id"] for one in place.search(consents, world.mary, "Consent")] == [to_b.hex()]
    # Whose grants they are is no secret to the grantee; which local patient that is, is.
    (shown,) = place.search(consents, world.bina, "Consent")
    assert "reference" not in shown["patient"]
    assert shown["patient"]["identifier"]["value"] == world.mary.id.hex()


def test_a_representative_sees_and_prepares_what_it_was_given_power_for(
    place: ProviderHouse, consents: ConsentProvider
) -> None:
    world = place.world
    reader = world.appoint("mum", world.steve, powers=int(Power.READ_LOG | Power.GRANT | Power.RULES))
    other = world.appoint("uncle", world.steve, powers=int(Power.READ_RECORDS))
    own = {one["id"] for one in place.search(consents, world.steve, "Consent")}
    assert {one["id"] for one in place.search(consents, reader, "Consent")} == own
    assert place.search(consents, other, "Consent") == []
    body = consent(place, actor=[to(f"Practitioner/{world.bina.id.hex()}")])
    mum = place.principal(reader, sight=Sight(everything=True))
    assert contents(place.call(consents, mum, ("Consent", "$to-messages"), body=body))


def test_reading_one_by_one_gives_the_same_and_hides_the_same(place: ProviderHouse, consents: ConsentProvider) -> None:
    world = place.world
    set_rule(place, 3, Answer.ALLOW, Who(organisation=world.b.id))
    rule = rule_id(world.steve.id, 3)
    for name in (place.house.may_read.hex(), place.house.may_write.hex(), rule):
        found = place.read(consents, world.steve, "Consent", name)
        assert found is not None
        assert found["id"] == name
        for stranger in (world.mary, world.ivan, world.anna):
            if (stranger, name) != (world.anna, place.house.may_write.hex()):
                assert place.read(consents, stranger, "Consent", name) is None
    assert place.read(consents, world.bert, "Consent", place.house.may_read.hex()) is not None
    assert place.read(consents, world.bert, "Consent", rule) is None
    for nothing in ("", "x", "00" * 32, "ff" * 32, rule_id(world.steve.id, 4), rule.upper()):
        assert place.read(consents, world.steve, "Consent", nothing) is None


def test_search_parameters_mean_what_they_mean_elsewhere(place: ProviderHouse, consents: ConsentProvider) -> None:
    world = place.world
    ended = world.grant(anything(world.steve, world.bina), by=world.steve)
    world.done(Revoke(pseudonym=world.steve.id, grant_id=ended), by=world.steve)
    read, write = place.house.may_read.hex(), place.house.may_write.hex()

    def found(**params: str) -> set[str]:
        return {one["id"] for one in place.search(consents, world.steve, "Consent", **params)}

    assert found(status="active") == {read, write}
    assert found(status="inactive") == {ended.hex()}
    assert found(actor=f"Practitioner/{world.bert.id.hex()}") == {read}
    assert found(_id=read) == {read}
    assert found(identifier=f"urn:carechain:grant|{read}") == {read}
    assert found(purpose="TREAT", _id=read) == {read}
    assert found(purpose="HRESCH", _id=read) == set()
    assert found(patient=place.patient_id()) == {read, write, ended.hex()}
    assert found(patient=f"Patient/{place.patient_id()}") == {read, write, ended.hex()}
    assert found(patient=world.steve.id.hex()) == {read, write, ended.hex()}
    assert found(**{"patient:identifier": f"urn:carechain:pseudonym|{world.steve.id.hex()}"}) == {
        read,
        write,
        ended.hex(),
    }
    assert found(patient="somebody-else") == set()
    assert found(patient=world.mary.id.hex()) == set()
    assert found(date="gt2100-01-01") == set()
    assert found(period="lt2100", _id=read) == {read}
    ordered = place.search(consents, world.steve, "Consent", _sort="-date", status="active")
    assert [one["id"] for one in ordered] == [read, write]


def test_scopes_narrow_what_a_provider_gives_out(place: ProviderHouse, consents: ConsentProvider) -> None:
    steve = place.world.steve
    narrow = {"Consent": Rights(read=True, search=True, filters=("status=inactive",))}
    assert place.search_as(consents, place.principal(steve, rights=narrow), "Consent") == []
    none = place.principal(steve, rights={})
    assert place.search_as(consents, none, "Consent") == []


# --- in -------------------------------------------------------------------------------------------------


def consent(place: ProviderHouse, **provision: Any) -> bytes:
    return json.dumps(
        {
            "resourceType": "Consent",
            "status": "active",
            "scope": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
            },
            "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
            "patient": {"reference": f"Patient/{place.patient_id()}"},
            "provision": {"type": "permit", **provision},
        }
    ).encode()


def to(reference: str) -> dict[str, Any]:
    system = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
    return {"role": {"coding": [{"system": system, "code": "IRCP"}]}, "reference": {"reference": reference}}


def contents(answer: bytes) -> list[bytes]:
    parameters = json.loads(answer)["parameter"]
    return [base64.b64decode(one["part"][1]["valueBase64Binary"]) for one in parameters]


def test_the_patient_gets_the_messages_to_sign(place: ProviderHouse, consents: ConsentProvider) -> None:
    import msgspec  # noqa: PLC0415 - only here

    world = place.world
    body = consent(place, actor=[to(f"Practitioner/{world.bina.id.hex()}")])
    answer = place.call(consents, place.principal(world.steve), ("Consent", "$to-messages"), body=body)
    (content,) = contents(answer)
    message = msgspec.msgpack.decode(content, type=Grant)
    assert message.grantees == (world.bina.id,)
    assert message.actions == Action.READ
    world.done(message, by=world.steve)
    assert any(
        one["provision"]["actor"][0]["reference"].get("reference") == f"Practitioner/{world.bina.id.hex()}"
        for one in place.search(consents, world.bina, "Consent")
    )


def test_recipients_are_found_in_the_directory_and_records_in_the_chart(
    place: ProviderHouse, consents: ConsentProvider
) -> None:
    import msgspec  # noqa: PLC0415 - only here

    world = place.world
    doctor = {
        "resourceType": "Practitioner",
        "id": "dr-b",
        "identifier": [{"system": PARTY, "value": world.bert.id.hex()}],
    }
    stranger = {"resourceType": "Practitioner", "id": "dr-x"}
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": doctor}, {"resource": stranger}],
    }
    place.house.charts.ingest_directory(bundle=json.dumps(bundle).encode(), received_s=world.time_s)
    with place.charts.reading() as reader:
        chart = reader.everything(Sight(everything=True), world.steve.id, ("Encounter",), count=1)
        record = chart[0].record
        assert record is not None
        inside = [
            f"{one.resource_type}/{one.resource_id}"
            for one in reader.everything(Sight(everything=True), world.steve.id, count=1000)
            if one.record is not None and one.record[0] == record[0]
        ]
    data = [{"meaning": "instance", "reference": {"reference": one}} for one in inside]
    sight = place.principal(world.steve).sight
    principal = place.principal(world.steve, sight=Sight(windows=sight.windows, directory=True))
    name = ("Consent", "$to-messages")
    answer = place.call(consents, principal, name, body=consent(place, actor=[to("Practitioner/dr-b")], data=data))
    message = msgspec.msgpack.decode(contents(answer)[0], type=Grant)
    assert (message.grantees, message.scope.records) == ((world.bert.id,), (record[0],))
    for provision, code in (
        ({"actor": [to("Practitioner/dr-b")], "data": data[1:]}, DocumentCode.DATA_PART_OF_RECORD),
        ({"actor": [to("Practitioner/dr-x")]}, DocumentCode.ACTOR_UNKNOWN),
    ):
        if provision.get("data") == []:
            continue
        with pytest.raises(Rejected) as refused:
            place.call(consents, principal, name, body=consent(place, **provision))
        assert refused.value.code is code


def test_staff_may_prepare_a_grant_and_never_a_rule(place: ProviderHouse, consents: ConsentProvider) -> None:
    world = place.world
    desk = place.principal(world.carl, sight=Sight(everything=True))
    name = ("Consent", "$to-messages")
    granting = consent(place, actor=[to(f"Organization/{world.b.id.hex()}")])
    assert contents(place.call(consents, desk, name, body=granting))
    with pytest.raises(Rejected) as refused:
        place.call(consents, desk, name, body=granting.replace(b'"permit"', b'"deny"'))
    assert refused.value.code is QueryCode.NOT_AUTHORISED
    unseen = place.principal(world.bert)
    with pytest.raises(Rejected) as refused:
        place.call(consents, unseen, name, body=granting)
    assert refused.value.code is DocumentCode.NO_SUCH_PATIENT


def test_nobody_puts_another_patients_consent_into_force(place: ProviderHouse, consents: ConsentProvider) -> None:
    world = place.world
    mary = place.principal(world.mary, sight=Sight(everything=True))
    body = consent(place, actor=[to(f"Organization/{world.b.id.hex()}")])
    with pytest.raises(Rejected) as refused:
        place.call(consents, mary, ("Consent", "$to-messages"), body=body)
    assert refused.value.code is DocumentCode.CONSENT_OF_ANOTHER


def test_a_narrowed_grant_of_records_up_to_a_grade_says_so(place: ProviderHouse, consents: ConsentProvider) -> None:
    world = place.world
    record = place.house.records[0].record_id
    only = scope_of(Category.CLAIM, ceiling=Sensitivity.V, first_day=40_000, records=(record,))
    grant = world.grant(grant_of(world.steve, world.ivan, scope=only), by=world.steve)
    found = place.read(consents, world.ivan, "Consent", grant.hex())
    assert found is not None
    assert found["provision"]["dataPeriod"] == {"start": "2009-07-08"}
    assert found["provision"]["data"][0]["reference"]["identifier"]["value"] == record.hex()
