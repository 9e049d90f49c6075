"""The gatekeeper's decision, check by check.

Goal: every way a release can be refused has its own code, in the stated precedence, and only when no check fails is
anything allowed. Method: start from a case that is allowed, change one thing per row; then break several at once and
expect the first; then let Hypothesis choose which checks to break and compare with the list.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from carechain.contracts.access import TicketRow
from carechain.contracts.records import AnchorRow
from carechain.core.decision import DecisionCode, Path, PathKind
from carechain.core.limits import GATEKEEPER_RECORDS, STALE_BLOCK_S
from carechain.core.scope import Scope
from carechain.core.vocabulary import Category, Purpose, Role, Sensitivity, mask
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.decide import Allow, Deny, Door, Moment, Wanted, decide

NOW_S = 1_800_000_000
REQUESTER, CUSTODIAN, PATIENT, STRANGER = (bytes([number]) * 32 for number in range(1, 5))
RECORD, OTHER_RECORD = b"\x11" * 32, b"\x12" * 32
SCOPE = Scope(
    categories=mask(Category.RESULT), ceiling=Sensitivity.N, first_day=40_000, last_day=46_000, records=(RECORD,)
)
TICKET = TicketRow(
    requester=REQUESTER,
    organisation=STRANGER,
    hpke_key=bytes(32),
    pseudonym=PATIENT,
    custodian=CUSTODIAN,
    scope=SCOPE,
    purpose=Purpose.TREAT,
    decision=0,
    path=Path(kind=PathKind.OWNER),
    decided_s=NOW_S - 100,
    expires_s=NOW_S + 100,
)
ANCHOR = AnchorRow(
    root=bytes(32),
    resources=1,
    category=Category.RESULT,
    sensitivity=Sensitivity.N,
    day=45_000,
    author=STRANGER,
    anchored_s=NOW_S - 1000,
)
WANTED = Wanted(record_id=RECORD, version=1, anchor=ANCHOR, newest=ANCHOR, grade_today=Sensitivity.N)


def verdict(**changed: Any) -> Allow | Deny:
    case: dict[str, Any] = {
        "ticket": TICKET,
        "requester": REQUESTER,
        "custodian": CUSTODIAN,
        "roles": mask(Role.DOCTOR),
        "path_is_live": True,
        "moment": Moment(block_s=NOW_S, wall_s=NOW_S),
        "wanted": (WANTED,),
    }
    return decide(**case | changed)


def test_what_the_ticket_covers_is_allowed() -> None:
    assert verdict() == Allow(TICKET)
    assert verdict(wanted=()) == Allow(TICKET)


def test_the_last_second_and_the_last_day_count() -> None:
    assert isinstance(verdict(ticket=replace(TICKET, expires_s=NOW_S + 1)), Allow)
    for wall_s in (NOW_S - STALE_BLOCK_S, NOW_S + STALE_BLOCK_S):
        assert isinstance(verdict(moment=Moment(block_s=NOW_S, wall_s=wall_s)), Allow)
    edge = replace(ANCHOR, day=SCOPE.last_day)
    assert isinstance(verdict(wanted=(replace(WANTED, anchor=edge, newest=edge),)), Allow)


TICKET_ROWS: list[tuple[GatekeeperCode, dict[str, Any]]] = [
    (GatekeeperCode.LEDGER_STALE, {"moment": Moment(block_s=NOW_S, wall_s=NOW_S + STALE_BLOCK_S + 1)}),
    (GatekeeperCode.LEDGER_STALE, {"moment": Moment(block_s=NOW_S, wall_s=NOW_S - STALE_BLOCK_S - 1)}),
    (GatekeeperCode.TICKET_UNKNOWN, {"ticket": None}),
    (GatekeeperCode.OTHER_CUSTODIAN, {"custodian": STRANGER}),
    (GatekeeperCode.NOT_THE_REQUESTER, {"requester": STRANGER}),
    (GatekeeperCode.TICKET_REFUSED, {"ticket": replace(TICKET, decision=int(DecisionCode.NO_GRANT), path=None)}),
    (GatekeeperCode.TICKET_REVOKED, {"ticket": replace(TICKET, revoked_s=NOW_S - 1)}),
    (GatekeeperCode.TICKET_EXPIRED, {"ticket": replace(TICKET, expires_s=NOW_S)}),
    (GatekeeperCode.NO_LONGER_ALLOWED, {"path_is_live": False}),
    (GatekeeperCode.NOT_RESEARCH, {"door": Door.STUDY}),
]


@pytest.mark.parametrize(("code", "changed"), TICKET_ROWS, ids=lambda one: getattr(one, "name", ""))
def test_ticket_refusals(code: GatekeeperCode, changed: dict[str, Any]) -> None:
    assert verdict(**changed) == Deny(code)


@pytest.mark.parametrize(
    ("purpose", "role", "research"),
    [
        (Purpose.HRESCH, Role.RESEARCHER, True),
        (Purpose.HRESCH, Role.DOCTOR, True),
        (Purpose.PUBHLTH, Role.RESEARCHER, True),
        (Purpose.PUBHLTH, Role.REGULATOR, False),
        (Purpose.TREAT, Role.RESEARCHER, False),
    ],
)
def test_research_gets_pseudonyms_only(purpose: Purpose, role: Role, research: bool) -> None:  # noqa: FBT001
    ticket = replace(TICKET, purpose=purpose)
    records = verdict(ticket=ticket, roles=mask(role), door=Door.RECORDS)
    study = verdict(ticket=ticket, roles=mask(role), door=Door.STUDY)
    assert records == (Deny(GatekeeperCode.PSEUDONYMS_ONLY) if research else Allow(ticket))
    assert study == (Allow(ticket) if research else Deny(GatekeeperCode.NOT_RESEARCH))


def both(**changed: Any) -> Wanted:
    row = replace(ANCHOR, **changed)
    return replace(WANTED, anchor=row, newest=row)


RECORD_ROWS: list[tuple[GatekeeperCode, str, Wanted]] = [
    (GatekeeperCode.RECORD_UNKNOWN, "no such record", replace(WANTED, anchor=None, newest=None)),
    (GatekeeperCode.RECORD_UNKNOWN, "no such version", replace(WANTED, anchor=None)),
    (GatekeeperCode.RECORD_UNKNOWN, "erased", replace(WANTED, erased=True)),
    (GatekeeperCode.OUTSIDE_SCOPE, "category", both(category=Category.CLAIM)),
    (GatekeeperCode.OUTSIDE_SCOPE, "ceiling", both(sensitivity=Sensitivity.R)),
    (GatekeeperCode.OUTSIDE_SCOPE, "too early", both(day=SCOPE.first_day - 1)),
    (GatekeeperCode.OUTSIDE_SCOPE, "too late", both(day=SCOPE.last_day + 1)),
    (GatekeeperCode.OUTSIDE_SCOPE, "another record", replace(WANTED, record_id=OTHER_RECORD)),
    (
        GatekeeperCode.OUTSIDE_SCOPE,
        "an old version that a correction made more sensitive",
        replace(WANTED, newest=replace(ANCHOR, sensitivity=Sensitivity.V)),
    ),
    (
        GatekeeperCode.OUTSIDE_SCOPE,
        "more sensitive in the charts than on the ledger",
        replace(WANTED, grade_today=Sensitivity.R),
    ),
]


@pytest.mark.parametrize(("code", "why", "wanted"), RECORD_ROWS, ids=[row[1] for row in RECORD_ROWS])
def test_record_refusals_name_the_record(code: GatekeeperCode, why: str, wanted: Wanted) -> None:
    assert why
    assert verdict(wanted=(wanted,)) == Deny(code, wanted.record_id)


def test_one_bad_record_refuses_all() -> None:
    scope = replace(SCOPE, records=(RECORD, OTHER_RECORD))
    second = replace(both(sensitivity=Sensitivity.V), record_id=OTHER_RECORD)
    outcome = verdict(ticket=replace(TICKET, scope=scope), wanted=(WANTED, second))
    assert outcome == Deny(GatekeeperCode.OUTSIDE_SCOPE, OTHER_RECORD)


def test_a_record_named_twice_is_refused() -> None:
    assert verdict(wanted=(WANTED, WANTED)) == Deny(GatekeeperCode.RECORD_REPEATED, RECORD)


def test_too_many_records_are_refused_before_any_is_looked_at() -> None:
    assert verdict(wanted=(WANTED,) * (GATEKEEPER_RECORDS + 1)) == Deny(GatekeeperCode.TOO_MANY_RECORDS)


@given(broken=st.sets(st.integers(0, len(TICKET_ROWS) - 1)))
def test_the_first_failing_check_decides(broken: set[int]) -> None:
    if 2 in broken:
        broken -= {5, 6, 7}  # There is no ticket whose fields could be wrong too.
    changed: dict[str, Any] = {}
    ticket = TICKET
    for number in sorted(broken):
        change = dict(TICKET_ROWS[number][1])
        row = change.get("ticket", TICKET)
        if row is not None and row is not TICKET:
            different = {
                name: getattr(row, name)
                for name in row.__struct_fields__
                if getattr(row, name) != getattr(TICKET, name)
            }
            ticket = replace(ticket, **different)
            change["ticket"] = ticket
        changed |= change
    outcome = verdict(**changed)
    assert outcome == (Deny(TICKET_ROWS[min(broken)][0]) if broken else Allow(ticket))
