"""Consent, the end of the contract: invariants, genesis, and the lists that both sides may read (CON-4, CON-9)."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from carechain.contracts.consent.coverage import (
    Coverage,
    GrantPath,
    Walked,
    matches,
    matches_all_staff,
)
from carechain.contracts.consent.schema import (
    Answer,
    ConsentCode,
    ConsentTables,
    GrantRow,
    RepresentativeRow,
    RequestRow,
    RuleRow,
    TreatmentPolicy,
    Who,
)
from carechain.core.limits import QUERY_PAGE_ROWS, QUERY_SCAN_ROWS
from carechain.core.party import Party
from carechain.core.rejection import require
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_PURPOSES, Action, PartyKind, Power, Role, in_mask, mask

_NO_STAFF = mask(Role.PATIENT, Role.FAMILY_MEMBER)
"""Roles that come with a pseudonym or an appointment: rules are about staff, so they never meet these."""

# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: ConsentTables) -> list[str]:
    """The tree is a tree, and every index names exactly the grants that were not revoked."""
    return [*_check_grants(tables), *_check_held(tables), *_check_standing(tables)]


def _check_grants(tables: ConsentTables) -> Iterator[str]:
    for (pseudonym, grant_id), row in tables.grants.scan():
        name = grant_id.hex()
        parent = tables.grants.get(pseudonym, row.parent) if row.parent is not None else None
        if row.parent is not None and (parent is None or parent.depth + 1 != row.depth):
            yield f"grant {name} hangs from nothing"
        if row.parent is None and row.depth:
            yield f"grant {name} is a root below the root"
        if tables.standing.has(pseudonym, grant_id) == bool(row.revoked_s):
            yield f"grant {name} and the index of what stands disagree"
        for grantee in row.grantees:
            held = tables.held.get(grantee, pseudonym)
            if (held is not None and grant_id in held.grants) == bool(row.revoked_s):
                yield f"grant {name} and what its grantee holds disagree"


def _check_held(tables: ConsentTables) -> Iterator[str]:
    for (grantee, pseudonym), held in tables.held.scan():
        for grant_id in held.grants:
            indexed = tables.grants.get(pseudonym, grant_id)
            if indexed is None or grantee not in indexed.grantees:
                yield f"a grantee holds {grant_id.hex()}, which is not granted to it"


def _check_standing(tables: ConsentTables) -> Iterator[str]:
    counted: dict[bytes, int] = {}
    for (pseudonym, grant_id), _ in tables.standing.scan():
        counted[pseudonym] = counted.get(pseudonym, 0) + 1
        if not tables.grants.has(pseudonym, grant_id):
            yield f"{grant_id.hex()} stands and is no grant"
    heads = {pseudonym: head.grants for (pseudonym,), head in tables.heads.scan() if head.grants}
    if counted != heads:
        yield "the counters and the grants that stand disagree"


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
    walked: Walked = {}
    rows = coverage.tables.grants.scan(
        pseudonym, after=None if after is None else (pseudonym, after), limit=QUERY_PAGE_ROWS
    )
    return [_view(coverage, pseudonym, grant_id, row, time_s, walked) for (_, grant_id), row in rows]


def granted_to(
    coverage: Coverage, grantee: bytes, time_s: int, after: bytes | None = None
) -> tuple[list[tuple[bytes, tuple[GrantView, ...]]], bytes | None]:
    """A page of what an organisation or a person holds: its patients, each with the grants (CON-4).

    Beside it the pseudonym after which the next page begins; None when there is no more. A page ends early when
    it has looked at :data:`QUERY_SCAN_ROWS` rows: many patients with long paths make short pages.
    """
    start = None if after is None else (grantee, after)
    page: list[tuple[bytes, tuple[GrantView, ...]]] = []
    looked = 0
    for (_, pseudonym), held in coverage.tables.held.scan(grantee, after=start, limit=QUERY_PAGE_ROWS):
        walked: Walked = {}
        rows = ((one, coverage.tables.grants.get(pseudonym, one)) for one in held.grants)
        grants = tuple(_view(coverage, pseudonym, one, row, time_s, walked) for one, row in rows if row is not None)
        page.append((pseudonym, grants))
        looked += 1 + len(held.grants) + len(walked)
        if len(page) == QUERY_PAGE_ROWS or looked >= QUERY_SCAN_ROWS:
            return page, pseudonym
    return page, None


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
    """Everyone who may act for the patient, or might until the latest appointment was made."""
    for (_, representative), row in tables.representatives.scan(pseudonym):
        yield representative, row


def who_can_see(
    coverage: Coverage, *, pseudonym: bytes, record: bytes, category: int, sensitivity: int, day: int, time_s: int
) -> list[Reason]:
    """Everyone who could read one record now, each with the reason and what revoking would change (CON-9).

    Nobody who could read is left out; an organisation is named as long as one of its staff might read. Looks at no
    more than :data:`QUERY_SCAN_ROWS` rows of grants and grantees, and refuses beyond.
    """

    def covers(scope: Scope) -> bool:
        return scope.covers(category=category, sensitivity=sensitivity, day=day, record=record)

    rules = [(number, rule) for number, rule in rules_of(coverage.tables, pseudonym) if time_s < rule.expires_s]
    rules = [(number, rule) for number, rule in rules if covers(rule.scope) and _is_about_somebody(coverage, rule.who)]
    denials = [rule for _, rule in rules if rule.answer is Answer.DENY]
    reasons = _by_grants(coverage, pseudonym, denials, covers, time_s)
    for representative, powers in representatives_of(coverage.tables, pseudonym):
        live = coverage.represents(pseudonym, representative, time_s)
        if live and powers.powers & Power.READ_RECORDS and covers(powers.scope):
            reasons.append(Reason(who=(representative,), because="representative", expires_s=powers.expires_s))
    for number, rule in rules:
        named = tuple(one for one in (rule.who.party, rule.who.organisation) if one is not None)
        reasons.append(
            Reason(who=named, because=f"rule:{rule.answer.name.lower()}", number=number, expires_s=rule.expires_s)
        )
    policy = coverage.tables.policy()
    if policy.enabled and covers(policy.scope):
        reasons.append(Reason(who=(), because="policy"))
    return reasons


def _by_grants(
    coverage: Coverage, pseudonym: bytes, denials: list[RuleRow], covers: Callable[[Scope], bool], time_s: int
) -> list[Reason]:
    """The grants through which somebody reads the record. Revoked ones cost nothing: the index leaves them out."""
    walked: Walked = {}
    paths: dict[bytes, GrantPath] = {}
    for (_, grant_id), _row in coverage.tables.standing.scan(pseudonym, limit=QUERY_SCAN_ROWS):
        path = coverage.path_to(pseudonym, grant_id, time_s, walked)
        if path is not None:
            paths[grant_id] = path
    opening = {
        grant_id: path
        for grant_id, path in paths.items()
        if all(row.actions & Action.READ and covers(row.scope) for _, row in path)
    }
    grantees = dict.fromkeys(grantee for path in opening.values() for grantee in path[-1][1].grantees)
    require(len(walked) + len(grantees) <= QUERY_SCAN_ROWS, ConsentCode.TOO_MANY_ROWS)
    left = {one: _purposes_left(coverage, one, denials) for one in grantees}
    below = _below(paths)
    reasons: list[Reason] = []
    for grant_id, path in opening.items():
        row = path[-1][1]
        purposes = ALL_PURPOSES
        for _, one in path:
            purposes &= one.purposes
        readers = tuple(grantee for grantee in row.grantees if purposes & left[grantee])
        if readers:
            ends = tuple(sorted(below.get(grant_id, ())))
            reasons.append(
                Reason(who=readers, because="grant", grant_id=grant_id, ends_with=ends, expires_s=row.expires_s)
            )
    return reasons


def _below(paths: dict[bytes, GrantPath]) -> dict[bytes, list[bytes]]:
    """Each live grant with the live grants that end with it: those whose path leads over it."""
    below: dict[bytes, list[bytes]] = {}
    for grant_id, path in paths.items():
        for above, _ in path[:-1]:
            below.setdefault(above, []).append(grant_id)
    return below


def _purposes_left(coverage: Coverage, grantee: bytes, denials: list[RuleRow]) -> int:
    """For which purposes denials let the grantee read; none for one who has left.

    A denial that hits some of an organisation's staff leaves the organisation its purposes, for the others read on.
    """
    party = coverage.membership.party(grantee)
    if party is None or coverage.membership.has_left(party):
        return 0
    kind = coverage.membership.kind_of(party.organisation)
    purposes = ALL_PURPOSES
    for denial in denials:
        if _hits(denial.who, grantee, party, kind):
            purposes &= ~denial.purposes
    return purposes


def _hits(who: Who, grantee: bytes, party: Party, kind: int | None) -> bool:
    if party.kind is PartyKind.MEMBER:
        return matches_all_staff(who, grantee, kind)
    return matches(who, grantee, party, kind)


def _is_about_somebody(coverage: Coverage, who: Who) -> bool:
    """Whether a rule is about anybody who could ask: one about a leaver, or about a contradiction, has no effect."""
    membership = coverage.membership
    party = None if who.party is None else membership.party(who.party)
    if who.party is not None and (party is None or membership.has_left(party)):
        return False
    if party is not None and party.kind is PartyKind.STAFF:
        return matches(who, who.party or b"", party, membership.kind_of(party.organisation))
    staff = not who.roles or who.roles & ~_NO_STAFF
    named = [one for one in (who.party, who.organisation) if one is not None]
    kinds = [membership.kind_of(one) for one in named]
    fits = all(kind is not None and (not who.kinds or in_mask(kind, who.kinds)) for kind in kinds)
    return bool(staff) and fits and len(dict.fromkeys(named)) <= 1


def _view(
    coverage: Coverage, pseudonym: bytes, grant_id: bytes, row: GrantRow, time_s: int, walked: Walked
) -> GrantView:
    live = coverage.path_to(pseudonym, grant_id, time_s, walked) is not None
    return GrantView(pseudonym=pseudonym, grant_id=grant_id, grant=row, live=live)
