"""Goal: a Consent says on the ledger exactly what it says in FHIR, or it is refused by name (CON-10).

Method: every example Consent of IHE PCF against a table of the messages that it must become; hand-made Consents for
each way to say the same, each refusal code and each mutation that would widen a permission; grants and standing rules
of all kinds (hypothesis) written as Consents, read again, and compared; and the messages are accepted by the ledger.
"""

import json
import os
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.charts.dates import day_of
from carechain.contracts.consent.schema import Answer, DropRule, Grant, GrantRow, Revoke, RuleRow, SetRule, Who
from carechain.contracts.consent.views import GrantView
from carechain.core.message import Message
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING, LAST_DAY, Scope
from carechain.core.vocabulary import (
    ALL_ACTIONS,
    ALL_CATEGORIES,
    ALL_PURPOSES,
    Action,
    Category,
    OrganisationKind,
    PartyKind,
    Purpose,
    Role,
    Sensitivity,
    mask,
)
from carechain.sdk.pcf import OPEN_END_S, Held, Table, to_messages
from carechain.sdk.pcf_box import Box
from carechain.sdk.pcf_codes import DocumentCode as Code
from carechain.sdk.pcf_terms import ACT_REASON, CONFIDENTIALITY, GRANT, RULE, people, read_people
from carechain.sdk.pcf_writing import Setting, grant_consent, moment, read_numbered, rule_consent, rule_id
from world import World, fresh

Json = dict[str, Any]

NOW_S = 1_800_000_000
END_S = NOW_S + OPEN_END_S
ME = bytes([1]) * 32
ORG, DOCTOR, RESEARCHERS, GUARD = (bytes([n]) * 32 for n in (2, 3, 4, 5))
WEIGHT, ALCOHOL = (bytes([n]) * 32 for n in (6, 7))
CARE = mask(Purpose.TREAT, Purpose.HPAYMT, Purpose.HOPERAT)
_NAMED = [
    "Encounter/ex-encounter",
    "Observation/ex-weight-2",
    "Observation/ex-weight",
    "Observation/ex-bloodPressure",
    "Observation/ex-bloodSugar",
]
NAMING = Table(
    known_parties={
        "Organization/ex-organization": (ORG,),
        "Organization/ex-org-researcher": (RESEARCHERS,),
        "Practitioner/ex-practitioner": (DOCTOR,),
        "Group/ex-privilegedUsers": (GUARD, DOCTOR),
    },
    known_records={
        **{one: Held(record=WEIGHT, holds=frozenset(_NAMED)) for one in _NAMED},
        "Observation/ex-alcoholUse": Held(record=ALCOHOL, holds=frozenset({"Observation/ex-alcoholUse"})),
    },
)
THROUGH_2022: dict[str, Any] = {"first_day": day_of("2022-01-01"), "last_day": day_of("2022-12-31")}


def scope(ceiling: Sensitivity = Sensitivity.V, **fields: Any) -> Scope:
    return Scope(**{"categories": ALL_CATEGORIES, "ceiling": ceiling, **fields})


def grants(within: Scope, *, to: tuple[bytes, ...] = (ORG,), purposes: int = CARE, expires_s: int = END_S) -> Grant:
    return Grant(
        pseudonym=ME, grantees=to, parent=None, scope=within, actions=1, purposes=purposes, expires_s=expires_s
    )


def denies(within: Scope = EVERYTHING, *, rule: int = 1, who: Who | None = None, purposes: int = CARE) -> SetRule:
    return SetRule(
        pseudonym=ME,
        rule=rule,
        who=Who() if who is None else who,
        purposes=purposes,
        scope=within,
        answer=Answer.DENY,
        expires_s=END_S,
    )


# --- the examples of IHE PCF ----------------------------------------------------------------------------

TO_RESTRICTED = scope(Sensitivity.R)
TO_NORMAL = scope(Sensitivity.N)
EXAMPLES: dict[str, list[Message] | Code] = {
    "basic-treat": [grants(scope())],
    "basic-treat-infant": [grants(scope())],
    "basic-ink": [grants(scope())],
    "basic-reject": [denies()],
    "basic-research": [grants(scope(), purposes=mask(Purpose.HRESCH))],
    "expired-treat": Code.PERIOD_OVER,
    "intermediate-authoredby": Code.DATA_MEANING_UNSUPPORTED,
    "intermediate-not-authoredby": Code.DATA_MEANING_UNSUPPORTED,
    "intermediate-encounter": Code.DATA_MEANING_UNSUPPORTED,
    "intermediate-not-encounter": Code.DATA_MEANING_UNSUPPORTED,
    "intermediate-data": [grants(scope(records=(WEIGHT, ALCOHOL)))],
    "intermediate-not-data": [
        denies(scope(records=(ALCOHOL,)), who=Who(party=ORG)),
        grants(scope()),
    ],
    "intermediate-timeframe": [grants(scope(**THROUGH_2022))],
    "intermediate-not-timeframe": [
        grants(scope(last_day=THROUGH_2022["first_day"] - 1)),
        grants(scope(first_day=THROUGH_2022["last_day"] + 1)),
    ],
    "intermediate-purpose": Code.PURPOSE_UNKNOWN,
    "intermediate-break-glass": [
        grants(scope(), to=(DOCTOR, GUARD), purposes=mask(Purpose.BTG)),
        denies(purposes=ALL_PURPOSES & ~mask(Purpose.BTG)),
    ],
    "advanced-normal": [grants(TO_NORMAL)],
    "advanced-normal-restricted": [grants(TO_RESTRICTED)],
    "advanced-normal-not-restricted": [grants(TO_NORMAL)],
    "advanced-normal-focused-restricted": [grants(TO_NORMAL), grants(TO_RESTRICTED, to=(DOCTOR,))],
    "advanced-normal-break-glass-restricted": [
        grants(TO_NORMAL),
        grants(TO_RESTRICTED, to=(DOCTOR, GUARD), purposes=mask(Purpose.BTG)),
    ],
    "advanced-normal-focused-psy": Code.LABEL_UNSUPPORTED,
    "advanced-normal-focused-psy-or-sdv": Code.LABEL_UNSUPPORTED,
}


def examples() -> dict[str, bytes]:
    """The example Consents by the end of their names."""
    folder = os.environ.get("CARECHAIN_TEST_DATA")
    if folder is None:
        pytest.skip("CARECHAIN_TEST_DATA names no folder with the IHE PCF examples")
    found = Path(folder, "ihe-pcf").glob("Consent-*.json")
    return {one.stem.split("consent-")[-1].replace("Consent-ex-dissent-", ""): one.read_bytes() for one in found}


def test_every_example_of_pcf_becomes_what_the_table_says() -> None:
    found = examples()
    assert set(found) == set(EXAMPLES)
    for name, expected in EXAMPLES.items():
        if isinstance(expected, Code):
            with pytest.raises(Rejected) as refused:
                to_messages(found[name], pseudonym=ME, now_s=NOW_S, naming=NAMING)
            assert refused.value.code is expected, name
        else:
            assert to_messages(found[name], pseudonym=ME, now_s=NOW_S, naming=NAMING) == expected, name


def test_the_expired_example_was_good_while_it_lasted() -> None:
    at_s = NOW_S - 6 * 366 * 86_400
    (found,) = to_messages(examples()["expired-treat"], pseudonym=ME, now_s=at_s, naming=NAMING)
    assert moment(found.expires_s) == "2023-01-01T00:00:00Z"  # type: ignore[attr-defined]


# --- hand-made Consents ---------------------------------------------------------------------------------


def actor(reference: Json, role: str = "IRCP") -> Json:
    system = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
    return {"role": {"coding": [{"system": system, "code": role}]}, "reference": reference}


def reason(code: str) -> Json:
    return {"system": ACT_REASON, "code": code}


def grade(code: str) -> Json:
    return {"system": CONFIDENTIALITY, "code": code}


TO_DOCTOR = actor({"reference": f"Practitioner/{DOCTOR.hex()}"})
PERMIT: Json = {"type": "permit", "purpose": [reason("TREAT")], "actor": [TO_DOCTOR]}


def consent(provision: Json | None, **fields: Any) -> bytes:
    """A privacy consent of R4 with this root provision; a field of None is left out."""
    tree: Json = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": "Patient/steve"},
        "provision": provision,
        **fields,
    }
    return json.dumps({name: value for name, value in tree.items() if value is not None}).encode()


def consent_r5(decision: str, *provisions: Json, **fields: Any) -> bytes:
    tree: Json = {
        "resourceType": "Consent",
        "status": "active",
        "subject": {"reference": "Patient/steve"},
        "decision": decision,
        **({"provision": list(provisions)} if provisions else {}),
        **fields,
    }
    return json.dumps(tree).encode()


def taken(data: bytes, **options: Any) -> list[Message]:
    return to_messages(data, **{"pseudonym": ME, "now_s": NOW_S, "naming": NAMING, **options})


TREAT = mask(Purpose.TREAT)


def test_r5_says_permit_once_and_means_the_same() -> None:
    r4 = taken(consent(PERMIT))
    constraint = {name: value for name, value in PERMIT.items() if name != "type"}
    assert r4 == [grants(scope(), to=(DOCTOR,), purposes=TREAT)]
    assert taken(consent_r5("permit", constraint)) == r4
    without_actor = {"purpose": [reason("TREAT")]}
    named_above = consent_r5("permit", without_actor, grantee=[{"reference": f"Practitioner/{DOCTOR.hex()}"}])
    assert taken(named_above) == r4
    assert taken(consent_r5("permit", without_actor, controller=[{"reference": "Organization/ex-organization"}])) == [
        grants(scope(), purposes=TREAT)
    ]
    ended = consent_r5("permit", constraint, period={"end": "2030-01-01"})
    assert moment(taken(ended)[0].expires_s) == "2030-01-02T00:00:00Z"  # type: ignore[attr-defined]
    assert taken(consent_r5("deny", {"purpose": [reason("TREAT")]})) == [denies(purposes=TREAT)]


def test_a_day_without_an_offset_is_the_local_day() -> None:
    data = consent({**PERMIT, "period": {"start": "2020-01-01", "end": "2030-06-30"}})
    (found,) = taken(data, zone=ZoneInfo("Asia/Shanghai"))
    assert isinstance(found, Grant)
    assert moment(found.expires_s) == "2030-06-30T16:00:00Z"


def test_exceptions_are_taken_out_of_the_permission() -> None:
    exception = {
        "type": "deny",
        "purpose": [reason("HPAYMT")],
        "dataPeriod": {"start": "2020", "end": "2021-02"},
        "securityLabel": [{"system": "urn:carechain:record-category", "code": "patient-reported"}, grade("M")],
    }
    both = {**PERMIT, "purpose": [reason("TREAT"), reason("HPAYMT")], "provision": [exception]}
    first, last, reported = day_of("2020-01-01"), day_of("2021-02-28"), mask(Category.PATIENT_REPORTED)
    to = {"to": (DOCTOR,), "purposes": mask(Purpose.HPAYMT)}
    assert taken(consent(both)) == [
        grants(scope(categories=ALL_CATEGORIES & ~reported), to=(DOCTOR,), purposes=TREAT | mask(Purpose.HPAYMT)),
        grants(scope(categories=reported), to=(DOCTOR,), purposes=TREAT),
        grants(scope(categories=reported, last_day=first - 1), **to),  # type: ignore[arg-type]
        grants(scope(categories=reported, first_day=last + 1), **to),  # type: ignore[arg-type]
        grants(scope(Sensitivity.L, categories=reported, first_day=first, last_day=last), **to),  # type: ignore[arg-type]
    ]


def test_an_exception_for_one_recipient_or_for_a_time_is_a_denial() -> None:
    two = {**PERMIT, "actor": [TO_DOCTOR, actor({"reference": "Organization/ex-organization"})]}
    for_one = {"type": "deny", "actor": [TO_DOCTOR], "dataPeriod": {"start": "2020"}}
    denial, grant = taken(consent({**two, "provision": [for_one]}), rules={1, 3})
    assert denial == denies(scope(first_day=day_of("2020")), rule=2, who=Who(party=DOCTOR), purposes=TREAT)
    assert grant == grants(scope(), to=(ORG, DOCTOR), purposes=TREAT)
    for_a_time = {"type": "deny", "period": {"end": "2030-01-01"}}
    first, second, grant = taken(consent({**two, "provision": [for_a_time]}))
    assert (first.who, second.who) == (Who(party=DOCTOR), Who(party=ORG))  # type: ignore[attr-defined]
    assert moment(first.expires_s) == "2030-01-02T00:00:00Z"  # type: ignore[attr-defined]
    assert isinstance(grant, Grant)


def test_people_described_by_role_get_a_standing_rule() -> None:
    who = Who(kinds=mask(OrganisationKind.HOSPITAL), roles=mask(Role.DOCTOR, Role.NURSE))
    described = actor({"type": "Group", "identifier": {"system": "urn:carechain:people", "value": people(who)}})
    (found,) = taken(consent({**PERMIT, "actor": [described]}))
    assert isinstance(found, SetRule)
    assert (found.who, found.answer, found.purposes) == (who, Answer.ALLOW, TREAT)


def test_actions_in_fhirs_words_and_in_the_ledgers() -> None:
    def action(system: str, code: str) -> Json:
        return {"coding": [{"system": system, "code": code}]}

    standard = "http://terminology.hl7.org/CodeSystem/consentaction"
    said = [action(standard, "access"), action(standard, "correct"), action("urn:carechain:action", "delegate")]
    (found,) = taken(consent({**PERMIT, "action": said}))
    assert isinstance(found, Grant)
    assert found.actions == Action.READ | Action.WRITE | Action.DELEGATE


OTHER_MODIFIER = {"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}
PEOPLE_WHO_WRITE = actor({"identifier": {"system": "urn:carechain:people", "value": "roles=doctor"}})
REFUSED: dict[str, tuple[bytes, Code]] = {
    "not JSON": (b"{", Code.CONSENT_MALFORMED),
    "not UTF-8": (b'{"resourceType": "\xff"}', Code.CONSENT_MALFORMED),
    "nested without end": (b"[" * 100_000, Code.CONSENT_MALFORMED),
    "the same thing said twice": (b'{"resourceType": "Consent", "data": 1, "data": 2}', Code.CONSENT_MALFORMED),
    "too large": (b" " * 70_000, Code.CONSENT_MALFORMED),
    "another resource": (b'{"resourceType": "Patient"}', Code.CONSENT_MALFORMED),
    "no patient": (consent(PERMIT, patient=None), Code.CONSENT_MALFORMED),
    "neither permit nor deny": (consent({"actor": [TO_DOCTOR]}), Code.CONSENT_MALFORMED),
    "an element nobody knows": (consent({**PERMIT, "unless": True}), Code.CONSENT_MALFORMED),
    "an empty list of data": (consent({**PERMIT, "data": []}), Code.CONSENT_MALFORMED),
    "data of null": (consent({**PERMIT, "data": [None]}), Code.CONSENT_MALFORMED),
    "two roots": (consent_r5("maybe", {}), Code.CONSENT_MALFORMED),
    "a modifier above": (consent(PERMIT, **OTHER_MODIFIER), Code.MODIFIER_UNKNOWN),
    "rules from elsewhere": (consent(PERMIT, implicitRules="urn:x"), Code.MODIFIER_UNKNOWN),
    "a modifier in a provision": (consent({**PERMIT, **OTHER_MODIFIER}), Code.MODIFIER_UNKNOWN),
    "a modifier in an actor": (consent({**PERMIT, "actor": [{**TO_DOCTOR, **OTHER_MODIFIER}]}), Code.MODIFIER_UNKNOWN),
    "about treatment": (
        consent(
            PERMIT, scope={"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "adr"}]}
        ),
        Code.CONSENT_SCOPE_UNSUPPORTED,
    ),
    "somebody else's": (
        consent(PERMIT, patient={"identifier": {"system": "urn:carechain:pseudonym", "value": "09" * 32}}),
        Code.CONSENT_OF_ANOTHER,
    ),
    "a draft": (consent(PERMIT, status="draft"), Code.CONSENT_NOT_ACTIVE),
    "a grant that stands": (
        consent(PERMIT, identifier=[{"system": GRANT, "value": "0a" * 32}]),
        Code.CONSENT_STANDS,
    ),
    "only a policy": (consent(None, policyRule={"text": "opt in"}), Code.NO_PROVISION),
    "only a decision": (consent_r5("permit"), Code.NO_PROVISION),
    "three levels": (
        consent({**PERMIT, "provision": [{**PERMIT, "provision": [PERMIT]}]}),
        Code.PROVISION_TOO_DEEP,
    ),
    "a hundred provisions": (consent({**PERMIT, "provision": [PERMIT] * 100}), Code.TOO_MANY_PROVISIONS),
    "R5 with exceptions": (consent_r5("permit", {"provision": [{}]}), Code.EXCEPTIONS_UNCLEAR),
    "by code": (consent({**PERMIT, "code": [{"text": "HIV"}]}), Code.ELEMENT_UNSUPPORTED),
    "by class": (consent({**PERMIT, "class": [{"code": "Observation"}]}), Code.ELEMENT_UNSUPPORTED),
    "by type, in R5": (consent_r5("permit", {"resourceType": [{"code": "Claim"}]}), Code.ELEMENT_UNSUPPORTED),
    "an author": (
        consent({**PERMIT, "actor": [actor({"reference": "Practitioner/ex-practitioner"}, "AUT")]}),
        Code.ACTOR_ROLE_UNSUPPORTED,
    ),
    "a stranger": (consent({**PERMIT, "actor": [actor({"reference": "Practitioner/x"})]}), Code.ACTOR_UNKNOWN),
    "a recipient in words": (consent({**PERMIT, "actor": [actor({"display": "Dr Lee"})]}), Code.ACTOR_UNKNOWN),
    "nobody": (consent({"type": "permit"}), Code.NO_RECIPIENT),
    "another purpose": (consent({**PERMIT, "purpose": [reason("FooBar")]}), Code.PURPOSE_UNKNOWN),
    "a purpose elsewhere": (consent({**PERMIT, "purpose": [{"code": "TREAT"}]}), Code.PURPOSE_UNKNOWN),
    "another action": (consent({**PERMIT, "action": [{"text": "look"}]}), Code.ACTION_UNKNOWN),
    "people who may write": (
        consent(
            {
                **PERMIT,
                "actor": [PEOPLE_WHO_WRITE],
                "action": [{"coding": [{"system": "urn:carechain:action", "code": "write"}]}],
            }
        ),
        Code.ACTION_UNKNOWN,
    ),
    "a topic": (
        consent(
            {**PERMIT, "securityLabel": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSY"}]}
        ),
        Code.LABEL_UNSUPPORTED,
    ),
    "a grade nobody knows": (consent({**PERMIT, "securityLabel": [grade("X")]}), Code.LABEL_UNSUPPORTED),
    "no date": (consent({**PERMIT, "period": {"end": "soon"}}), Code.PERIOD_MALFORMED),
    "no such day": (consent({**PERMIT, "dataPeriod": {"end": "2023-02-30"}}), Code.PERIOD_MALFORMED),
    "from later to earlier": (
        consent({**PERMIT, "dataPeriod": {"start": "2023", "end": "2022"}}),
        Code.PERIOD_MALFORMED,
    ),
    "not yet": (consent({**PERMIT, "period": {"start": "2090-01-01"}}), Code.PERIOD_NOT_BEGUN),
    "no longer": (consent({**PERMIT, "period": {"end": "2020-01-01"}}), Code.PERIOD_OVER),
    "hours": (
        consent({**PERMIT, "dataPeriod": {"start": "2023-01-01T12:00:00Z"}}),
        Code.DATA_PERIOD_NOT_DAYS,
    ),
    "what is related": (
        consent({**PERMIT, "data": [{"meaning": "related", "reference": {"reference": "Encounter/1"}}]}),
        Code.DATA_MEANING_UNSUPPORTED,
    ),
    "unknown data": (
        consent({**PERMIT, "data": [{"meaning": "instance", "reference": {"reference": "Encounter/1"}}]}),
        Code.DATA_NOT_A_RECORD,
    ),
    "part of a record": (
        consent({**PERMIT, "data": [{"meaning": "instance", "reference": {"reference": "Observation/ex-weight"}}]}),
        Code.DATA_PART_OF_RECORD,
    ),
    "denying one grade and above to one": (
        consent(
            {
                **PERMIT,
                "actor": [TO_DOCTOR, actor({"reference": "Organization/ex-organization"})],
                "provision": [{"type": "deny", "actor": [TO_DOCTOR], "securityLabel": [grade("R")]}],
            }
        ),
        Code.EXCEPTION_UNSUPPORTED,
    ),
    "everything is excepted": (
        consent({**PERMIT, "provision": [{"type": "deny"}]}),
        Code.EXCEPTION_UNSUPPORTED,
    ),
    "denied but for a grade": (
        consent({"type": "deny", "provision": [{**PERMIT, "securityLabel": [grade("N")]}]}),
        Code.EXCEPTION_UNSUPPORTED,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(name: str) -> None:
    data, code = REFUSED[name]
    with pytest.raises(Rejected) as refused:
        taken(data)
    assert refused.value.code is code


def test_every_code_of_a_consent_has_its_row() -> None:
    rows = {code for _, code in REFUSED.values()} | {Code.NO_FREE_RULE}
    assert rows == {code for code in Code if code < Code.TOO_MANY_MATCHES}


def test_a_patient_with_all_rules_in_use_is_told() -> None:
    with pytest.raises(Rejected) as refused:
        taken(consent({"type": "deny"}), rules=range(64))
    assert refused.value.code is Code.NO_FREE_RULE


def test_a_part_of_a_record_may_be_denied_whole() -> None:
    named = [{"meaning": "instance", "reference": {"reference": "Observation/ex-weight"}}]
    (found,) = taken(consent({"type": "deny", "data": named}))
    assert found == denies(scope(records=(WEIGHT,)), purposes=ALL_PURPOSES)


WHOLE = json.loads(
    consent(
        {
            **PERMIT,
            "period": {"start": "2020", "end": "2090-01-01T00:00:00+08:00"},
            "dataPeriod": {"start": "2020-01", "end": "2021"},
            "securityLabel": [grade("N")],
            "action": [{"coding": [{"system": "urn:carechain:action", "code": "read"}]}],
            "data": [{"meaning": "instance", "reference": {"reference": "Observation/ex-alcoholUse"}}],
            "provision": [{"type": "deny", "purpose": [reason("TREAT")], "dataPeriod": {"start": "2021"}}],
        },
        identifier=[{"system": "urn:x", "value": "1"}],
    )
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(found for key, value in inside for found in places(value, (*path, key)))]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([path for path in places(WHOLE) if path]), JSON_VALUES)
def test_whatever_stands_anywhere_is_taken_or_refused(path: tuple[Any, ...], value: Any) -> None:
    tree = json.loads(json.dumps(WHOLE))
    node = tree
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert outcome(json.dumps(tree).encode())


def outcome(data: bytes) -> list[Message] | Code:
    """The messages, or the code of the refusal; anything else that is raised fails the test."""
    try:
        return taken(data)
    except Rejected as refused:
        return Code(refused.code)


# --- there and back -------------------------------------------------------------------------------------

IDS = st.binary(min_size=32, max_size=32)
SCOPES = st.builds(
    lambda categories, ceiling, days, records: Scope(
        categories=categories,
        ceiling=ceiling,
        first_day=min(days),
        last_day=LAST_DAY if max(days) == 60_000 else max(days),
        records=tuple(sorted(records)),
    ),
    st.integers(1, ALL_CATEGORIES),
    st.sampled_from(Sensitivity),
    st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)),
    st.sets(IDS, max_size=3),
)
GRANTEES = st.sets(IDS.filter(lambda one: one != ME), min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))
SETTING = Setting(custodian=ORG, kind=lambda party: PartyKind(party[0] % 4 + 1) if party[0] < 200 else None)


def without_own_names(data: bytes) -> bytes:
    tree = json.loads(data)
    del tree["identifier"]
    return json.dumps(tree).encode()


@given(SCOPES, GRANTEES, st.integers(1, ALL_ACTIONS), st.integers(1, ALL_PURPOSES), st.integers(1, OPEN_END_S))
def test_a_grant_comes_back_as_itself(
    within: Scope, grantees: tuple[bytes, ...], actions: int, purposes: int, lasts_s: int
) -> None:
    row = GrantRow(
        grantor=ME,
        grantees=grantees,
        parent=None,
        scope=within,
        actions=actions,
        purposes=purposes,
        expires_s=NOW_S + lasts_s,
        depth=0,
        granted_s=NOW_S,
    )
    view = GrantView(pseudonym=ME, grant_id=WEIGHT, grant=row, live=True)
    data = grant_consent(view, SETTING)
    (found,) = to_messages(without_own_names(data), pseudonym=ME, now_s=NOW_S)
    assert found == Grant(
        pseudonym=ME,
        grantees=grantees,
        parent=None,
        scope=within,
        actions=actions,
        purposes=purposes,
        expires_s=row.expires_s,
    )
    profiles = json.loads(data).get("meta", {}).get("profile", [])
    assert bool(profiles) == (actions == Action.READ)


@given(SCOPES, st.integers(1, ALL_PURPOSES), st.sampled_from([Answer.ALLOW, Answer.DENY]), st.data())
def test_a_standing_rule_comes_back_as_itself(
    within: Scope, purposes: int, answer: Answer, data: st.DataObject
) -> None:
    who = data.draw(
        st.builds(
            Who,
            organisation=st.none() | IDS,
            kinds=st.sets(st.sampled_from(OrganisationKind)).map(lambda found: mask(*found)),
            roles=st.sets(st.sampled_from(Role), min_size=1).map(lambda found: mask(*found)),
        )
    )
    if answer is Answer.DENY:
        within = Scope(
            **{name: getattr(within, name) for name in within.__struct_fields__} | {"ceiling": Sensitivity.V}
        )
        who = data.draw(st.sampled_from([who, Who()]))
    rule = RuleRow(who=who, purposes=purposes, scope=within, answer=answer, expires_s=NOW_S + 60)
    written = rule_consent(ME, 7, rule, time_s=NOW_S, setting=SETTING)
    assert written is not None
    (found,) = to_messages(written, pseudonym=ME, now_s=NOW_S)
    assert found == SetRule(
        pseudonym=ME, rule=7, who=who, purposes=purposes, scope=within, answer=answer, expires_s=NOW_S + 60
    )


def test_asking_is_neither_permit_nor_deny() -> None:
    rule = RuleRow(who=Who(), purposes=1, scope=EVERYTHING, answer=Answer.ASK, expires_s=NOW_S + 60)
    assert rule_consent(ME, 1, rule, time_s=NOW_S, setting=SETTING) is None


def test_what_has_ended_ends_again() -> None:
    grant = consent(None, status="inactive", identifier=[{"system": GRANT, "value": WEIGHT.hex()}])
    rule = consent(None, status="entered-in-error", identifier=[{"system": RULE, "value": f"{ME.hex()}/7"}])
    assert taken(grant) == [Revoke(pseudonym=ME, grant_id=WEIGHT)]
    assert taken(rule) == [DropRule(pseudonym=ME, rule=7)]


def test_ids_and_descriptions_read_back_only_what_was_written() -> None:
    assert read_numbered(rule_id(ME, 65_535)) == (ME, "r65535")
    assert len(rule_id(ME, 65_535)) <= 64
    for text in ("", ".", "x.1", "a" * 52, rule_id(ME, 1).upper(), "é.1"):
        assert read_numbered(text) is None
    for text in ("", "roles=", "roles=king", "roles=doctor;roles=doctor", "roles=nurse+doctor", "x=1", "party=12"):
        assert read_people(text) is None


# --- boxes ----------------------------------------------------------------------------------------------

GRADES = st.tuples(st.sampled_from(Sensitivity), st.sampled_from(Sensitivity)).map(sorted)
BOXES = st.builds(
    lambda categories, purposes, days, grades: Box(
        categories=categories,
        purposes=purposes,
        first_day=min(days),
        last_day=max(days),
        lowest=grades[0],
        highest=grades[1],
    ),
    st.integers(1, 7),
    st.integers(1, 7),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    GRADES,
)


def cells(box: Box) -> set[tuple[int, int, int, int]]:
    return {
        (category, purpose, day, grade)
        for category in range(3)
        if box.categories >> category & 1
        for purpose in range(3)
        if box.purposes >> purpose & 1
        for day in range(box.first_day, box.last_day + 1)
        for grade in range(box.lowest, box.highest + 1)
    }


@given(BOXES, BOXES)
def test_taking_a_box_out_of_another_leaves_exactly_the_rest(box: Box, hole: Box) -> None:
    left = [cells(one) for one in box.without(hole)]
    assert set().union(*left) == cells(box) - cells(hole)
    assert sum(len(one) for one in left) == len(cells(box) - cells(hole))


# --- on the ledger --------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    return fresh()


def test_the_ledger_takes_what_a_consent_says(world: World) -> None:
    exceptions = [
        {"type": "deny", "dataPeriod": {"start": "2022", "end": "2022"}},
        {
            "type": "deny",
            "actor": [actor({"reference": f"Practitioner/{world.carl.id.hex()}"})],
            "period": {"end": "2090"},
        },
    ]
    provision = {
        **PERMIT,
        "actor": [actor({"reference": f"Organization/{world.b.id.hex()}"})],
        "provision": exceptions,
    }
    messages = to_messages(consent(provision), pseudonym=world.steve.id, now_s=world.time_s)
    assert [type(one) for one in messages] == [SetRule, Grant, Grant]
    world.done(*messages, by=world.steve)
    assert world.broken() == []
