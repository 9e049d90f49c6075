"""Consent, the handlers of the inbox: requests, answers and the standing rules that answer for the patient (CON-5)."""

from carechain.contracts.consent.coverage import Coverage
from carechain.contracts.consent.grants import add_grant, require_terms
from carechain.contracts.consent.schema import (
    Answer,
    Answered,
    AnswerRequest,
    Ask,
    Asked,
    ConsentCode,
    DropRule,
    GrantRow,
    RequestRow,
    RuleChanged,
    RuleRow,
    SetRule,
    Who,
    Withdraw,
    Withdrawn,
)
from carechain.core.context import Ctx
from carechain.core.limits import (
    PENDING_REQUESTS_PER_ORGANISATION,
    PENDING_REQUESTS_PER_PAIR,
    PENDING_REQUESTS_PER_PSEUDONYM,
    REQUEST_LIFETIME_S,
    STANDING_RULES_PER_PSEUDONYM,
)
from carechain.core.rejection import Rejected, present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import (
    ALL_PURPOSES,
    ALL_ROLES,
    Action,
    OrganisationKind,
    PartyKind,
    Power,
    Sensitivity,
    mask,
    subset,
)

_ALL_KINDS = mask(*OrganisationKind)


def ask(ctx: Ctx, coverage: Coverage, msg: Ask) -> None:
    """Put a request into the patient's inbox, unless a standing rule answers it."""
    patient = coverage.membership.party(msg.pseudonym)
    require(patient is not None and patient.kind is PartyKind.PSEUDONYM, ConsentCode.PSEUDONYM_UNKNOWN)
    require(ctx.party.kind is PartyKind.STAFF, ConsentCode.ONLY_STAFF_MAY_ASK)
    require_terms(ctx, msg.scope, msg.actions, 1 << msg.purpose, msg.expires_s)
    _require_room(ctx, coverage, msg.pseudonym)
    request_id = ctx.new_id("request")
    answer = _standing_answer(ctx, coverage, msg)
    if answer is Answer.DENY:
        ctx.emit(Answered(pseudonym=msg.pseudonym, request_id=request_id, answer=answer, grant_id=None))
        return
    request = RequestRow(
        requester=ctx.sender,
        organisation=ctx.party.organisation,
        scope=msg.scope,
        actions=msg.actions,
        purpose=msg.purpose,
        expires_s=msg.expires_s,
        asked_s=ctx.time_s,
        until_s=ctx.time_s + REQUEST_LIFETIME_S,
    )
    if answer is Answer.ALLOW:
        # The patient's rule speaks, but the requester chose the moment: it may not use up the patient's own room.
        row = _grant_of(ctx, request, msg.scope, msg.expires_s, msg.pseudonym)
        _give(ctx, coverage, msg.pseudonym, request_id, row, by_owner=False)
        return
    coverage.tables.requests.put(msg.pseudonym, request_id, row=request)
    ctx.emit(Asked(pseudonym=msg.pseudonym, request_id=request_id, requester=ctx.sender))


def answer_request(ctx: Ctx, coverage: Coverage, msg: AnswerRequest) -> None:
    """Approve, narrow or deny a pending request; either way it leaves the inbox."""
    request = present(coverage.tables.requests.get(msg.pseudonym, msg.request_id), ConsentCode.REQUEST_NOT_FOUND)
    # To refuse, a representative needs the power alone; to approve, also what it gives away.
    given = (msg.scope, msg.expires_s) if msg.approve else (None, 0)
    refusal = coverage.refuses_to_act(ctx, msg.pseudonym, Power.ANSWER, *given)
    if refusal is not None:
        raise Rejected(refusal)
    require(ctx.time_s < request.until_s, ConsentCode.REQUEST_EXPIRED)
    if not msg.approve:
        coverage.tables.requests.delete(msg.pseudonym, msg.request_id)
        ctx.emit(Answered(pseudonym=msg.pseudonym, request_id=msg.request_id, answer=Answer.DENY, grant_id=None))
        return
    require_terms(ctx, msg.scope, request.actions, 1 << request.purpose, msg.expires_s)
    narrower = request.scope.contains(msg.scope) and msg.expires_s <= request.expires_s
    require(narrower, ConsentCode.ANSWER_WIDER_THAN_REQUEST)
    coverage.tables.requests.delete(msg.pseudonym, msg.request_id)
    row = _grant_of(ctx, request, msg.scope, msg.expires_s, ctx.sender)
    _give(ctx, coverage, msg.pseudonym, msg.request_id, row, by_owner=True)


def withdraw(ctx: Ctx, coverage: Coverage, msg: Withdraw) -> None:
    """Take back one's own request."""
    request = present(coverage.tables.requests.get(msg.pseudonym, msg.request_id), ConsentCode.REQUEST_NOT_FOUND)
    require(request.requester == ctx.sender, ConsentCode.SENDER_NOT_REQUESTER)
    coverage.tables.requests.delete(msg.pseudonym, msg.request_id)
    ctx.emit(Withdrawn(pseudonym=msg.pseudonym, request_id=msg.request_id))


def set_rule(ctx: Ctx, coverage: Coverage, msg: SetRule) -> None:
    """Set or replace a standing rule."""
    refusal = coverage.refuses_to_act(ctx, msg.pseudonym, Power.RULES, msg.scope, msg.expires_s)
    if refusal is not None:
        raise Rejected(refusal)
    require(msg.scope.is_well_formed(), ConsentCode.SCOPE_MALFORMED)
    require(0 < msg.purposes <= ALL_PURPOSES, ConsentCode.PURPOSES_MALFORMED)
    whole = msg.answer is not Answer.DENY or msg.scope.ceiling is Sensitivity.V
    known = subset(msg.who.kinds, _ALL_KINDS) and subset(msg.who.roles, ALL_ROLES)
    # Nobody named means everybody, which is a sound thing to deny and never one to allow.
    named = msg.answer is not Answer.ALLOW or msg.who != Who()
    require(whole and known and named, ConsentCode.RULE_MALFORMED)
    require(msg.expires_s > ctx.time_s, ConsentCode.EXPIRY_NOT_IN_FUTURE)
    rules = coverage.tables.rules
    replaced = rules.get(msg.pseudonym, msg.rule)
    if replaced is not None:
        # Replacing drops what stood there, so a representative needs power over that scope as well.
        refusal = coverage.refuses_to_act(ctx, msg.pseudonym, Power.RULES, replaced.scope)
        if refusal is not None:
            raise Rejected(refusal)
    else:
        held = sum(1 for _ in rules.scan(msg.pseudonym, limit=STANDING_RULES_PER_PSEUDONYM))
        require(held < STANDING_RULES_PER_PSEUDONYM, ConsentCode.TOO_MANY_RULES)
    row = RuleRow(who=msg.who, purposes=msg.purposes, scope=msg.scope, answer=msg.answer, expires_s=msg.expires_s)
    rules.put(msg.pseudonym, msg.rule, row=row)
    ctx.emit(RuleChanged(pseudonym=msg.pseudonym, rule=msg.rule))


def drop_rule(ctx: Ctx, coverage: Coverage, msg: DropRule) -> None:
    """Remove a standing rule."""
    row = present(coverage.tables.rules.get(msg.pseudonym, msg.rule), ConsentCode.RULE_NOT_FOUND)
    refusal = coverage.refuses_to_act(ctx, msg.pseudonym, Power.RULES, row.scope)
    if refusal is not None:
        raise Rejected(refusal)
    coverage.tables.rules.delete(msg.pseudonym, msg.rule)
    ctx.emit(RuleChanged(pseudonym=msg.pseudonym, rule=msg.rule))


def _require_room(ctx: Ctx, coverage: Coverage, pseudonym: bytes) -> None:
    """Bound the inbox, counting only what still waits: expired requests make room.

    Neither one requester nor the staff of one organisation together can fill it for the others.
    """
    waiting = colleagues = own = 0
    for (_, request_id), row in list(coverage.tables.requests.scan(pseudonym)):
        if ctx.time_s >= row.until_s:
            coverage.tables.requests.delete(pseudonym, request_id)
            continue
        waiting += 1
        colleagues += row.organisation == ctx.party.organisation
        own += row.requester == ctx.sender
    require(own < PENDING_REQUESTS_PER_PAIR, ConsentCode.REQUEST_EXISTS)
    require(colleagues < PENDING_REQUESTS_PER_ORGANISATION, ConsentCode.ORGANISATION_ASKS_TOO_MUCH)
    require(waiting < PENDING_REQUESTS_PER_PSEUDONYM, ConsentCode.INBOX_FULL)


def _standing_answer(ctx: Ctx, coverage: Coverage, msg: Ask) -> Answer:
    """Deny beats ask beats allow; a rule answers yes only to reading, and only what it covers whole."""
    rules = coverage.rules_about(msg.pseudonym, ctx.sender, ctx.party, msg.purpose, ctx.time_s)
    touching = [rule for _, rule in rules if rule.scope.meets(msg.scope)]
    if any(rule.answer is Answer.DENY for rule in touching):
        return Answer.DENY
    if msg.actions != Action.READ or any(rule.answer is Answer.ASK for rule in touching):
        return Answer.ASK
    covering = (
        rule.answer is Answer.ALLOW and rule.scope.contains(msg.scope) and msg.expires_s <= rule.expires_s
        for rule in touching
    )
    return Answer.ALLOW if any(covering) else Answer.ASK


def _grant_of(ctx: Ctx, request: RequestRow, scope: Scope, expires_s: int, grantor: bytes) -> GrantRow:
    """The root grant that answers a request."""
    return GrantRow(
        grantor=grantor,
        grantees=(request.requester,),
        parent=None,
        scope=scope,
        actions=request.actions,
        purposes=1 << request.purpose,
        expires_s=expires_s,
        depth=0,
        granted_s=ctx.time_s,
    )


def _give(ctx: Ctx, coverage: Coverage, pseudonym: bytes, request_id: bytes, row: GrantRow, *, by_owner: bool) -> None:
    grant_id = ctx.new_id("grant")
    add_grant(ctx, coverage, pseudonym, grant_id, row, by_owner=by_owner)
    ctx.emit(Answered(pseudonym=pseudonym, request_id=request_id, answer=Answer.ALLOW, grant_id=grant_id))
