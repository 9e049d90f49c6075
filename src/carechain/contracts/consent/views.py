"""Consent, the end of the contract: invariants, genesis, and the lists that both sides may read (CON-4, CON-9)."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from carechain.contracts.consent.coverage import Coverage, is_live
from carechain.contracts.consent.schema import (
    ConsentTables,
    GrantRow,
    RepresentativeRow,
    RequestRow,
    RuleRow,
    TreatmentPolicy,
)
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_PURPOSES, Action, Power

# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: ConsentTables) -> list[str]:
    """The tree is a tree, and every grantee holds exactly its grants that were not revoked."""
    broken: list[str] = []
    for (pseudonym, grant_id), row in tables.grants.scan():
        name = grant_id.hex()
        parent = tables.grants.get(pseudonym, row.parent) if row.parent is not None else None
        if row.parent is not None and (parent is None or parent.depth + 1 != row.depth):
            broken.append(f"grant {name} hangs from nothing")
        if row.parent is None and row.depth:
            broken.append(f"grant {name} is a root below the root")
        for grantee in row.grantees:
            held = tables.held.get(grantee, pseudonym)
            if (held is not None and grant_id in held.grants) == bool(row.revoked_s):
                broken.append(f"grant {name} and what its grantee holds disagree")
    for (grantee, pseudonym), held in tables.held.scan():
        for grant_id in held.grants:
            indexed = tables.grants.get(pseudonym, grant_id)
            if indexed is None or grantee not in indexed.grantees:
                broken.append(f"a grantee holds {grant_id.hex()}, which is not granted to it")
    return broken


# --- genesis --------------------------------------------------------------------------------------------


def genesis(tables: ConsentTables, policy: TreatmentPolicy) -> None:
    """Set the treatment policy (CON-6)."""
    tables.policy_table.put(0, row=policy)


# --- queries --------------------------------------------------------------------------------------------


class GrantView(Struct, frozen=True, kw_only=True):
    """One grant as a patient or a grantee sees it: ``live`` speaks for the whole path above it."""

    pseudonym: bytes
    grant_id: bytes
    grant: GrantRow
    live: bool


class Reason(Struct, frozen=True, kw_only=True):
    """One answer to "who can see this, why, and what changes if I revoke?" (CON-9).

    ``ends_with`` names the grants that end too when this one is revoked. A rule or the policy has none.
    """

    who: tuple[bytes, ...]
    because: str
    number: int = 0
    grant_id: bytes = b""
    ends_with: tuple[bytes, ...] = ()
    expires_s: int = 0


def grants_of(coverage: Coverage, pseudonym: bytes, time_s: int, after: bytes | None = None) -> list[GrantView]:
    """A page of the patient's grants, revoked ones included, in order of grant id."""
    rows = coverage.tables.grants.scan(
        pseudonym, after=None if after is None else (pseudonym, after), limit=QUERY_PAGE_ROWS
    )
    return [_view(coverage, pseudonym, grant_id, row, time_s) for (_, grant_id), row in rows]


def granted_to(
    coverage: Coverage, grantee: bytes, time_s: int, after: bytes | None = None
) -> list[tuple[bytes, tuple[GrantView, ...]]]:
    """A page of what an organisation or a person holds: its patients, each with the grants (CON-4)."""
    start = None if after is None else (grantee, after)
    page: list[tuple[bytes, tuple[GrantView, ...]]] = []
    for (_, pseudonym), held in coverage.tables.held.scan(grantee, after=start, limit=QUERY_PAGE_ROWS):
        rows = ((one, coverage.tables.grants.get(pseudonym, one)) for one in held.grants)
        grants = tuple(_view(coverage, pseudonym, one, row, time_s) for one, row in rows if row is not None)
        page.append((pseudonym, grants))
    return page


def inbox_of(tables: ConsentTables, pseudonym: bytes, time_s: int) -> Iterator[tuple[bytes, RequestRow]]:
    """The requests that wait for the patient."""
    for (_, request_id), row in tables.requests.scan(pseudonym):
        if time_s < row.until_s:
            yield request_id, row


def rules_of(tables: ConsentTables, pseudonym: bytes) -> Iterator[tuple[int, RuleRow]]:
    """The patient's standing rules by number, expired ones included."""
    for (_, number), row in tables.rules.scan(pseudonym):
        yield number, row


def representatives_of(tables: ConsentTables, pseudonym: bytes) -> Iterator[tuple[bytes, RepresentativeRow]]:
    """Everyone who may or once might act for the patient."""
    for (_, representative), row in tables.representatives.scan(pseudonym):
        yield representative, row


def who_can_see(
    coverage: Coverage, *, pseudonym: bytes, record: bytes, category: int, sensitivity: int, day: int, time_s: int
) -> list[Reason]:
    """Everyone who could read one record now, each with the reason and what revoking would change (CON-9)."""
    reasons: list[Reason] = []

    def covers(scope: Scope) -> bool:
        return scope.covers(category=category, sensitivity=sensitivity, day=day, record=record)

    rows = {grant_id: row for (_, grant_id), row in coverage.tables.grants.scan(pseudonym)}
    for grant_id, row in rows.items():
        readers = tuple(
            grantee for grantee in row.grantees if _reads(coverage, pseudonym, grantee, grant_id, covers, time_s)
        )
        if readers:
            below = tuple(sorted(_subtree(rows, grant_id)))
            reasons.append(
                Reason(who=readers, because="grant", grant_id=grant_id, ends_with=below, expires_s=row.expires_s)
            )
    for representative, powers in representatives_of(coverage.tables, pseudonym):
        live = coverage.representative(pseudonym, representative, time_s) is not None
        if live and powers.powers & Power.READ_RECORDS and covers(powers.scope):
            reasons.append(Reason(who=(representative,), because="representative", expires_s=powers.expires_s))
    for number, rule in rules_of(coverage.tables, pseudonym):
        if time_s < rule.expires_s and covers(rule.scope):
            named = tuple(one for one in (rule.who.party, rule.who.organisation) if one is not None)
            reasons.append(
                Reason(who=named, because=f"rule:{rule.answer.name.lower()}", number=number, expires_s=rule.expires_s)
            )
    policy = coverage.tables.policy()
    if policy.enabled and covers(policy.scope):
        reasons.append(Reason(who=(), because="policy"))
    return reasons


def _reads(
    coverage: Coverage,
    pseudonym: bytes,
    grantee: bytes,
    grant_id: bytes,
    covers: Callable[[Scope], bool],
    time_s: int,
) -> bool:
    """Whether this grantee reads the record through this grant: not one who left, and not against a denial."""
    path = coverage.path_to(pseudonym, grant_id, time_s)
    party = coverage.membership.party(grantee)
    if path is None or party is None or coverage.membership.has_left(party):
        return False
    purposes = ALL_PURPOSES
    for _, row in path:
        purposes &= row.purposes
    for denial in coverage.denials_about(pseudonym, grantee, party, time_s):
        if covers(denial.scope):
            purposes &= ~denial.purposes
    return bool(purposes) and all(row.actions & Action.READ and covers(row.scope) for _, row in path)


def _subtree(rows: dict[bytes, GrantRow], root: bytes) -> list[bytes]:
    below: list[bytes] = []
    frontier = [root]
    while frontier:
        children = [one for one, row in rows.items() if row.parent in frontier and not row.revoked_s]
        below.extend(children)
        frontier = children
    return below


def _view(coverage: Coverage, pseudonym: bytes, grant_id: bytes, row: GrantRow, time_s: int) -> GrantView:
    live = is_live(row, time_s) and coverage.path_to(pseudonym, grant_id, time_s) is not None
    return GrantView(pseudonym=pseudonym, grant_id=grant_id, grant=row, live=live)
