"""Consent, the handlers of the tree: grant, narrow, extend, revoke, renounce."""

from msgspec.structs import replace

from carechain.contracts.consent.coverage import Coverage, Walked, is_live
from carechain.contracts.consent.schema import (
    Changed,
    ConsentCode,
    ConsentTables,
    Extend,
    Grant,
    Granted,
    GrantRow,
    HeadRow,
    HeldRow,
    Narrow,
    Renounce,
    Revoke,
    Revoked,
    StandingRow,
)
from carechain.core.context import Ctx
from carechain.core.limits import (
    AUTHOR_GRANT_LIFETIME_S,
    GRANT_DEPTH,
    GRANT_LIFETIME_S,
    GRANTS_BY_OTHERS_PER_PAIR,
    GRANTS_BY_OTHERS_PER_PSEUDONYM,
    GRANTS_PER_PAIR,
    GRANTS_PER_PSEUDONYM,
)
from carechain.core.rejection import present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_ACTIONS, ALL_PURPOSES, Action, PartyKind, Power, Role, subset


def grant(ctx: Ctx, coverage: Coverage, msg: Grant) -> None:
    """Add a node to the patient's tree: as its owner, as a grantee passing on, or as author within the policy."""
    require_terms(ctx, msg.scope, msg.actions, msg.purposes, msg.expires_s)
    _require_grantees(coverage, msg)
    parent_depth = _require_authority(ctx, coverage, msg)
    add_grant(
        ctx,
        coverage,
        msg.pseudonym,
        ctx.new_id("grant"),
        GrantRow(
            grantor=ctx.sender,
            grantees=msg.grantees,
            parent=msg.parent,
            scope=msg.scope,
            actions=msg.actions,
            purposes=msg.purposes,
            expires_s=msg.expires_s,
            depth=parent_depth + 1,
            granted_s=ctx.time_s,
        ),
        by_owner=ctx.party.kind is not PartyKind.STAFF,
    )


def narrow(ctx: Ctx, coverage: Coverage, msg: Narrow) -> None:
    """Take away from a live grant: the patient and its grantor may."""
    row = _live_grant(ctx, coverage, msg.pseudonym, msg.grant_id)
    require_terms(ctx, msg.scope, msg.actions, msg.purposes, msg.expires_s)
    require(ctx.sender == row.grantor or _is_owner(ctx, coverage, msg.pseudonym), ConsentCode.SENDER_NOT_GRANTOR)
    require(_within(row, msg), ConsentCode.NOT_NARROWER)
    _replace_terms(ctx, coverage.tables, msg, row)


def extend(ctx: Ctx, coverage: Coverage, msg: Extend) -> None:
    """Add to a live grant: only its grantor, and within what the grantor may grant now."""
    row = _live_grant(ctx, coverage, msg.pseudonym, msg.grant_id)
    require_terms(ctx, msg.scope, msg.actions, msg.purposes, msg.expires_s)
    wider = (
        msg.scope.contains(row.scope)
        and subset(row.actions, msg.actions)
        and subset(row.purposes, msg.purposes)
        and msg.expires_s >= row.expires_s
    )
    require(ctx.sender == row.grantor, ConsentCode.SENDER_NOT_GRANTOR)
    require(wider, ConsentCode.NOT_WIDER)
    _require_authority(
        ctx,
        coverage,
        Grant(
            pseudonym=msg.pseudonym,
            grantees=row.grantees,
            parent=row.parent,
            scope=msg.scope,
            actions=msg.actions,
            purposes=msg.purposes,
            expires_s=msg.expires_s,
        ),
    )
    _replace_terms(ctx, coverage.tables, msg, row)


def revoke(ctx: Ctx, coverage: Coverage, msg: Revoke) -> None:
    """End a grant: the patient, a representative who may revoke, and its grantor may."""
    tables = coverage.tables
    row = present(tables.grants.get(msg.pseudonym, msg.grant_id), ConsentCode.GRANT_NOT_FOUND)
    require(not row.revoked_s, ConsentCode.GRANT_ENDED)
    owner = coverage.refuses_to_act(ctx, msg.pseudonym, Power.REVOKE) is None
    require(owner or ctx.sender == row.grantor, ConsentCode.SENDER_NOT_GRANTOR)
    _end(ctx, tables, msg.pseudonym, msg.grant_id, row)


def renounce(ctx: Ctx, coverage: Coverage, msg: Renounce) -> None:
    """Give up what the sender, or the organisation it administers, was granted. Never widens anything."""
    tables = coverage.tables
    row = present(tables.grants.get(msg.pseudonym, msg.grant_id), ConsentCode.GRANT_NOT_FOUND)
    require(not row.revoked_s, ConsentCode.GRANT_ENDED)
    as_administrator = ctx.sender not in row.grantees and ctx.party.has_role(Role.ORGANISATION_ADMIN)
    leaving = ctx.party.organisation if as_administrator else ctx.sender
    require(leaving in row.grantees, ConsentCode.SENDER_NOT_GRANTEE)
    remaining = tuple(one for one in row.grantees if one != leaving)
    if remaining:
        _release(tables, leaving, msg.pseudonym, msg.grant_id)
        tables.grants.put(msg.pseudonym, msg.grant_id, row=replace(row, grantees=remaining))
        ctx.emit(Changed(pseudonym=msg.pseudonym, grant_id=msg.grant_id))
    else:
        _end(ctx, tables, msg.pseudonym, msg.grant_id, row)


def require_terms(ctx: Ctx, scope: Scope, actions: int, purposes: int, expires_s: int) -> None:
    """The checks that every set of terms passes, whoever grants them."""
    require(scope.is_well_formed(), ConsentCode.SCOPE_MALFORMED)
    require(0 < actions <= ALL_ACTIONS, ConsentCode.ACTIONS_MALFORMED)
    require(0 < purposes <= ALL_PURPOSES, ConsentCode.PURPOSES_MALFORMED)
    require(expires_s > ctx.time_s, ConsentCode.EXPIRY_NOT_IN_FUTURE)
    require(expires_s - ctx.time_s <= GRANT_LIFETIME_S, ConsentCode.EXPIRY_TOO_FAR)


def add_grant(
    ctx: Ctx, coverage: Coverage, pseudonym: bytes, grant_id: bytes, row: GrantRow, *, by_owner: bool
) -> None:
    """Write a grant with its index entries, within the bounds of the pseudonym and of each grantee.

    What others than the patient's side add may fill half of a bound, so that the patient can always grant.
    """
    tables = coverage.tables
    walked: Walked = {}
    for grantee in row.grantees:
        _require_room_for(ctx, coverage, pseudonym, grantee, walked, by_owner=by_owner)
    head = tables.heads.get(pseudonym)
    count = head.grants if head else 0
    require(count < GRANTS_PER_PSEUDONYM, ConsentCode.TOO_MANY_GRANTS)
    require(by_owner or count < GRANTS_BY_OTHERS_PER_PSEUDONYM, ConsentCode.ROOM_KEPT_FOR_PATIENT)
    tables.heads.put(pseudonym, row=HeadRow(grants=count + 1))
    tables.grants.put(pseudonym, grant_id, row=row)
    tables.standing.put(pseudonym, grant_id, row=StandingRow())
    for grantee in row.grantees:
        held = tables.held.get(grantee, pseudonym)
        tables.held.put(grantee, pseudonym, row=HeldRow(grants=(*(held.grants if held else ()), grant_id)))
    ctx.emit(Granted(pseudonym=pseudonym, grant_id=grant_id, grantees=row.grantees, expires_s=row.expires_s))


def _require_room_for(
    ctx: Ctx, coverage: Coverage, pseudonym: bytes, grantee: bytes, walked: Walked, *, by_owner: bool
) -> None:
    """Room for one more grant to this grantee. Only when there is none, what is dead already is ended to make it."""
    bound = GRANTS_PER_PAIR if by_owner else GRANTS_BY_OTHERS_PER_PAIR
    held = coverage.tables.held.get(grantee, pseudonym)
    if held is None or len(held.grants) < bound:
        return
    left = len(held.grants)
    for grant_id in held.grants:
        row = coverage.tables.grants.get(pseudonym, grant_id)
        if row is not None and coverage.path_to(pseudonym, grant_id, ctx.time_s, walked) is None:
            _end(ctx, coverage.tables, pseudonym, grant_id, row)
            left -= 1
    require(left < GRANTS_PER_PAIR, ConsentCode.TOO_MANY_GRANTS_TO_GRANTEE)
    require(left < bound, ConsentCode.ROOM_KEPT_FOR_PATIENT)


def _require_grantees(coverage: Coverage, msg: Grant) -> None:
    patient = coverage.membership.party(msg.pseudonym)
    require(patient is not None and patient.kind is PartyKind.PSEUDONYM, ConsentCode.PSEUDONYM_UNKNOWN)
    ordered = all(a < b for a, b in zip(msg.grantees, msg.grantees[1:], strict=False))
    require(ordered and msg.pseudonym not in msg.grantees, ConsentCode.GRANTEES_MALFORMED)
    for grantee in msg.grantees:
        party = present(coverage.membership.party(grantee), ConsentCode.GRANTEE_UNKNOWN)
        institutional = party.kind in (PartyKind.MEMBER, PartyKind.STAFF)
        require(institutional and not coverage.membership.has_left(party), ConsentCode.GRANTEE_UNKNOWN)


def _require_authority(ctx: Ctx, coverage: Coverage, msg: Grant) -> int:
    """Who may grant this: returns the depth of the parent, or -1 for a root."""
    if msg.parent is not None:
        return _require_parent(ctx, coverage, msg)
    refusal = coverage.refuses_to_act(ctx, msg.pseudonym, Power.GRANT, msg.scope, msg.expires_s)
    if refusal is not None:
        require(_is_author(ctx, coverage, msg), refusal)
        require(_author_within_policy(ctx, coverage, msg), ConsentCode.OUTSIDE_POLICY)
        require(msg.expires_s - ctx.time_s <= AUTHOR_GRANT_LIFETIME_S, ConsentCode.AUTHOR_GRANT_TOO_LONG)
    return -1


def _require_parent(ctx: Ctx, coverage: Coverage, msg: Grant) -> int:
    parent = present(coverage.tables.grants.get(msg.pseudonym, msg.parent or b""), ConsentCode.PARENT_NOT_FOUND)
    path = present(coverage.path_to(msg.pseudonym, msg.parent or b"", ctx.time_s), ConsentCode.PARENT_NOT_LIVE)
    holds = ctx.sender in parent.grantees or ctx.party.organisation in parent.grantees
    require(holds and ctx.party.kind is PartyKind.STAFF, ConsentCode.SENDER_NOT_GRANTOR)
    require(parent.actions & Action.DELEGATE, ConsentCode.DELEGATION_NOT_ALLOWED)
    require(len(path) < GRANT_DEPTH, ConsentCode.TREE_TOO_DEEP)
    require(all(_within(row, msg) for _, row in path), ConsentCode.WIDER_THAN_PARENT)
    return parent.depth


def _is_author(ctx: Ctx, coverage: Coverage, msg: Grant) -> bool:
    """Whether authors may grant here, and the sender wrote every single record that is named."""
    policy = coverage.tables.policy()
    return (
        policy.enabled
        and policy.authors_may_grant
        and ctx.party.kind is PartyKind.STAFF
        and bool(msg.scope.records)
        and all(coverage.records.author_of(msg.pseudonym, one) == ctx.sender for one in msg.scope.records)
    )


def _author_within_policy(ctx: Ctx, coverage: Coverage, msg: Grant) -> bool:
    """Whether the policy would let each grantee read all this by itself (CON-6): the author only vouches for need.

    An organisation is no such grantee, because the policy speaks about roles.
    """
    parties = (coverage.membership.party(one) for one in msg.grantees)
    return msg.actions == Action.READ and all(
        party is not None and coverage.policy_covers(msg.pseudonym, party, msg.scope, msg.purposes, ctx.time_s)
        for party in parties
    )


def _is_owner(ctx: Ctx, coverage: Coverage, pseudonym: bytes) -> bool:
    return coverage.refuses_to_act(ctx, pseudonym, Power.REVOKE) is None


def _live_grant(ctx: Ctx, coverage: Coverage, pseudonym: bytes, grant_id: bytes) -> GrantRow:
    row = present(coverage.tables.grants.get(pseudonym, grant_id), ConsentCode.GRANT_NOT_FOUND)
    require(is_live(row, ctx.time_s), ConsentCode.GRANT_ENDED)
    return row


def _within(row: GrantRow, terms: Grant | Narrow) -> bool:
    return (
        row.scope.contains(terms.scope)
        and subset(terms.actions, row.actions)
        and subset(terms.purposes, row.purposes)
        and terms.expires_s <= row.expires_s
    )


def _replace_terms(ctx: Ctx, tables: ConsentTables, msg: Narrow | Extend, row: GrantRow) -> None:
    changed = replace(row, scope=msg.scope, actions=msg.actions, purposes=msg.purposes, expires_s=msg.expires_s)
    tables.grants.put(msg.pseudonym, msg.grant_id, row=changed)
    ctx.emit(Changed(pseudonym=msg.pseudonym, grant_id=msg.grant_id))


def _end(ctx: Ctx, tables: ConsentTables, pseudonym: bytes, grant_id: bytes, row: GrantRow) -> None:
    tables.grants.put(pseudonym, grant_id, row=replace(row, revoked_s=ctx.time_s))
    tables.standing.delete(pseudonym, grant_id)
    for grantee in row.grantees:
        _release(tables, grantee, pseudonym, grant_id)
    head = tables.heads.get(pseudonym)
    tables.heads.put(pseudonym, row=HeadRow(grants=max(0, head.grants - 1) if head else 0))
    ctx.emit(Revoked(pseudonym=pseudonym, grant_id=grant_id))


def _release(tables: ConsentTables, grantee: bytes, pseudonym: bytes, grant_id: bytes) -> None:
    """Take a grant out of what the grantee holds; the last one takes the row with it."""
    held = tables.held.get(grantee, pseudonym)
    remaining = tuple(one for one in held.grants if one != grant_id) if held else ()
    if remaining:
        tables.held.put(grantee, pseudonym, row=HeldRow(grants=remaining))
    else:
        tables.held.delete(grantee, pseudonym)
