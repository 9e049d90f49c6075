"""Recovery, the handlers: a policy is set; an attempt is started, agreed to, objected to and finished (ID-7)."""

from typing import Protocol

from msgspec.structs import replace

from carechain.contracts.recovery.schema import (
    NO_POLICY,
    Advanced,
    Approve,
    AttemptRow,
    CardKey,
    Ended,
    Finish,
    PolicySet,
    Recovered,
    RecoveryCode,
    RecoveryTables,
    SetPolicy,
    Start,
    Started,
    Veto,
    Vetoed,
    Withdraw,
    can_be_overridden,
    card_message,
    due_s,
    is_enough,
    lapses_s,
    recovery_message,
    strength,
)
from carechain.core.context import Ctx
from carechain.core.crypto import PUBLIC_KEY_SIZE, BadSignature, verify
from carechain.core.ids import party_id
from carechain.core.limits import RECOVERIES_PER_PSEUDONYM, RECOVERY_WAIT_MAX_S
from carechain.core.party import Party
from carechain.core.rejection import RejectionCode, present, require
from carechain.core.vocabulary import PartyKind, Power, Role


class Membership(Protocol):
    """What this contract needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""

    def standing(self, party: Party, time_s: int) -> RejectionCode | None:
        """None while the party is live."""

    def is_registrar(self, organisation: bytes) -> bool:
        """Whether the organisation may bind existing ids now."""

    def require_suite(self, kind: PartyKind, suite: int) -> None:
        """Refuse a signature suite that parties of this kind do not use here."""

    def key_taken(self, key_id: bytes) -> bool:
        """Whether a key is, or once was, some party's."""

    def replace_key(
        self, ctx: Ctx, party: bytes, row: Party, *, suite: int, public_key: bytes, hpke_key: bytes
    ) -> None:
        """Give the party another key."""


class Consent(Protocol):
    """What this contract needs from consent."""

    def refuses_to_act(self, ctx: Ctx, pseudonym: bytes, power: Power) -> RejectionCode | None:
        """None for the patient, or for a representative with this power; else why not."""


# --- predicates -----------------------------------------------------------------------------------------


def speaks_as_registrar(ctx: Ctx, membership: Membership, patient: Party) -> bool:
    """Whether the sender acts for the registrar of the patient's organisation."""
    institutional = ctx.party.kind in (PartyKind.MEMBER, PartyKind.STAFF)
    appointed = ctx.party.has_role(Role.REGISTRAR) or ctx.party.has_role(Role.ORGANISATION_ADMIN)
    at_home = ctx.party.organisation == patient.organisation
    return institutional and appointed and at_home and membership.is_registrar(patient.organisation)


def _holds(key: CardKey | Start, signature: bytes, message: bytes) -> bool:
    try:
        verify(suite=key.suite, public_key=key.public_key, signature=signature, message=message)
    except BadSignature:
        return False
    return True


# --- handlers -------------------------------------------------------------------------------------------


def set_policy(ctx: Ctx, tables: RecoveryTables, membership: Membership, msg: SetPolicy) -> None:
    """Set who may recover the key. The present terms hold for one more waiting time.

    Otherwise whoever steals a key could first of all put the patient's guardians out.
    """
    patient = _patient(membership, msg.pseudonym)
    require(ctx.sender == msg.pseudonym, RecoveryCode.SENDER_NOT_PATIENT)
    terms = msg.terms
    require(tables.rules().min_wait_s <= terms.wait_s <= RECOVERY_WAIT_MAX_S, RecoveryCode.WAIT_OUT_OF_RANGE)
    in_order = all(one < other for one, other in zip(terms.guardians, terms.guardians[1:], strict=False))
    require(in_order and msg.pseudonym not in terms.guardians, RecoveryCode.GUARDIANS_MALFORMED)
    least = min(1, len(terms.guardians))
    require(least <= terms.threshold <= len(terms.guardians), RecoveryCode.THRESHOLD_MALFORMED)
    for one in terms.guardians:
        guardian = present(membership.party(one), RecoveryCode.GUARDIAN_UNKNOWN)
        require(membership.standing(guardian, ctx.time_s) is None, RecoveryCode.GUARDIAN_UNKNOWN)
        of_registrar = guardian.kind in (PartyKind.MEMBER, PartyKind.STAFF)
        require(
            not (of_registrar and guardian.organisation == patient.organisation),
            RecoveryCode.GUARDIAN_OF_OWN_ORGANISATION,
        )
    if terms.card is not None:
        fits = PUBLIC_KEY_SIZE.get(terms.card.suite) == len(terms.card.public_key)
        require(fits, RecoveryCode.CARD_KEY_MALFORMED)
    now = tables.terms(msg.pseudonym, ctx.time_s)
    row = tables.policies.get(msg.pseudonym) or NO_POLICY
    from_s = ctx.time_s + now.wait_s
    tables.policies.put(msg.pseudonym, row=replace(row, terms=now, coming=terms, coming_s=from_s))
    ctx.emit(PolicySet(pseudonym=msg.pseudonym, from_s=from_s))


def start(ctx: Ctx, tables: RecoveryTables, membership: Membership, msg: Start) -> None:
    """Begin an attempt. Several may run side by side, so no one guardian can keep the others from theirs."""
    patient = _patient(membership, msg.pseudonym)
    terms = tables.terms(msg.pseudonym, ctx.time_s)
    empty = AttemptRow(
        starter=ctx.sender,
        suite=msg.suite,
        public_key=msg.public_key,
        hpke_key=msg.hpke_key,
        terms=terms,
        started_s=ctx.time_s,
    )
    row = _with_sender(ctx, membership, patient, empty, msg)
    policy = tables.policies.get(msg.pseudonym) or NO_POLICY
    require(msg.attempt == policy.attempts, RecoveryCode.ATTEMPT_NUMBER_WRONG)
    wanted = recovery_message(
        chain_id=ctx.chain_id,
        pseudonym=msg.pseudonym,
        attempt=msg.attempt,
        suite=msg.suite,
        public_key=msg.public_key,
        hpke_key=msg.hpke_key,
    )
    require(_holds(msg, msg.proof, wanted), RecoveryCode.PROOF_INVALID)
    membership.require_suite(PartyKind.PSEUDONYM, msg.suite)
    require(not membership.key_taken(party_id(msg.suite, msg.public_key)), RecoveryCode.KEY_IN_USE)
    running = _forget_lapsed(ctx, tables, msg.pseudonym)
    require(all(other.starter != row.starter for other in running), RecoveryCode.ATTEMPT_RUNNING)
    require(len(running) < RECOVERIES_PER_PSEUDONYM, RecoveryCode.TOO_MANY_ATTEMPTS)
    tables.policies.put(msg.pseudonym, row=replace(policy, attempts=policy.attempts + 1))
    ctx.emit(Started(pseudonym=msg.pseudonym, attempt=msg.attempt, starter=row.starter))
    _keep(ctx, tables, msg.pseudonym, msg.attempt, row)


def approve(ctx: Ctx, tables: RecoveryTables, membership: Membership, msg: Approve) -> None:
    """Add one more who says that the new key is the patient's."""
    patient = _patient(membership, msg.pseudonym)
    row = _running(ctx, tables, msg.pseudonym, msg.attempt)
    require(msg.key == party_id(row.suite, row.public_key), RecoveryCode.KEY_DIFFERS)
    agreed = _with_sender(ctx, membership, patient, row, msg)
    require(replace(agreed, starter=row.starter) != row, RecoveryCode.ALREADY_APPROVED)
    _keep(ctx, tables, msg.pseudonym, msg.attempt, replace(agreed, starter=row.starter))


def withdraw(ctx: Ctx, tables: RecoveryTables, membership: Membership, msg: Withdraw) -> None:
    """Take back what the sender agreed to; an attempt that nobody stands behind is over."""
    patient = _patient(membership, msg.pseudonym)
    row = _running(ctx, tables, msg.pseudonym, msg.attempt)
    registrar = row.registrar and not speaks_as_registrar(ctx, membership, patient)
    left = replace(row, guardians=tuple(one for one in row.guardians if one != ctx.sender), registrar=registrar)
    require(left != row, RecoveryCode.NOT_APPROVED)
    if left.guardians or left.registrar or left.cards:
        _keep(ctx, tables, msg.pseudonym, msg.attempt, left)
        return
    tables.attempts.delete(msg.pseudonym, msg.attempt)
    ctx.emit(Ended(pseudonym=msg.pseudonym, attempt=msg.attempt))


def veto(ctx: Ctx, tables: RecoveryTables, consent: Consent, msg: Veto) -> None:
    """Object: the attempt ends, or it takes both the registrar and another, and longer."""
    row = _running(ctx, tables, msg.pseudonym, msg.attempt)
    refusal = consent.refuses_to_act(ctx, msg.pseudonym, Power.REVOKE)
    require(refusal is None, RecoveryCode.SENDER_MAY_NOT_VETO)
    require(not row.vetoed_s, RecoveryCode.VETOED_ALREADY)
    _contest(ctx, tables, msg.pseudonym, msg.attempt, row)


def owner_acted(ctx: Ctx, tables: RecoveryTables, pseudonym: bytes) -> None:
    """The present key has shown itself by being changed, which objects to every attempt at once."""
    for number, row in list(tables.running(pseudonym, ctx.time_s)):
        if not row.vetoed_s:
            _contest(ctx, tables, pseudonym, number, row)


def finish(ctx: Ctx, tables: RecoveryTables, membership: Membership, msg: Finish) -> None:
    """Put the new key in force. Everything else that ran is over, and the policy is the one of this attempt again.

    So a policy that the old key's holder set meanwhile does not come into force.
    """
    patient = _patient(membership, msg.pseudonym)
    row = _running(ctx, tables, msg.pseudonym, msg.attempt)
    require(
        row.since_s and is_enough(_still_standing(ctx, membership, patient, row)), RecoveryCode.NOT_ENOUGH_APPROVALS
    )
    require(ctx.time_s >= due_s(row), RecoveryCode.STILL_WAITING)
    stronger = any(
        other.since_s and strength(other) > strength(row)
        for number, other in tables.running(msg.pseudonym, ctx.time_s)
        if number != msg.attempt
    )
    require(not stronger, RecoveryCode.STRONGER_ATTEMPT)
    require(not membership.key_taken(party_id(row.suite, row.public_key)), RecoveryCode.KEY_IN_USE)
    membership.replace_key(
        ctx, msg.pseudonym, patient, suite=row.suite, public_key=row.public_key, hpke_key=row.hpke_key
    )
    for (_, number), _row in list(tables.attempts.scan(msg.pseudonym)):
        tables.attempts.delete(msg.pseudonym, number)
    policy = tables.policies.get(msg.pseudonym) or NO_POLICY
    tables.policies.put(msg.pseudonym, row=replace(policy, terms=row.terms, coming=None, coming_s=0))
    ctx.emit(Recovered(pseudonym=msg.pseudonym, attempt=msg.attempt))


def _patient(membership: Membership, pseudonym: bytes) -> Party:
    party = present(membership.party(pseudonym), RecoveryCode.PSEUDONYM_UNKNOWN)
    require(party.kind is PartyKind.PSEUDONYM, RecoveryCode.PSEUDONYM_UNKNOWN)
    return party


def _running(ctx: Ctx, tables: RecoveryTables, pseudonym: bytes, attempt: int) -> AttemptRow:
    row = present(tables.attempts.get(pseudonym, attempt), RecoveryCode.ATTEMPT_UNKNOWN)
    require(ctx.time_s < lapses_s(row), RecoveryCode.ATTEMPT_LAPSED)
    return row


def _with_sender(ctx: Ctx, membership: Membership, patient: Party, row: AttemptRow, msg: Start | Approve) -> AttemptRow:
    """The attempt with what the sender brings: its own word, the cards' signature, or both.

    ``starter`` becomes whoever that counts for: the organisation for a registrar, the pseudonym itself for the cards.
    """
    guardian = ctx.sender in row.terms.guardians
    registrar = speaks_as_registrar(ctx, membership, patient)
    require(guardian or registrar or msg.card_proof, RecoveryCode.SENDER_MAY_NOT_RECOVER)
    agrees = registrar and row.terms.by_registrar
    require(guardian or agrees or msg.card_proof, RecoveryCode.REGISTRAR_FORBIDDEN)
    starter = ctx.sender if guardian else patient.organisation
    if msg.card_proof:
        wanted = card_message(
            chain_id=ctx.chain_id,
            pseudonym=msg.pseudonym,
            attempt=msg.attempt,
            suite=row.suite,
            public_key=row.public_key,
            hpke_key=row.hpke_key,
        )
        card = present(row.terms.card, RecoveryCode.CARD_PROOF_INVALID)
        require(_holds(card, msg.card_proof, wanted), RecoveryCode.CARD_PROOF_INVALID)
        starter = msg.pseudonym
    guardians = {*row.guardians, ctx.sender} if guardian else row.guardians
    return replace(
        row,
        starter=starter,
        guardians=tuple(sorted(guardians)),
        registrar=row.registrar or agrees,
        cards=row.cards or bool(msg.card_proof),
    )


def _keep(ctx: Ctx, tables: RecoveryTables, pseudonym: bytes, attempt: int, row: AttemptRow) -> None:
    """Store a changed attempt. Its waiting time begins when those who agree become enough, and never anew."""
    since_s = (row.since_s or ctx.time_s) if is_enough(row) else 0
    kept = replace(row, since_s=since_s)
    tables.attempts.put(pseudonym, attempt, row=kept)
    ctx.emit(Advanced(pseudonym=pseudonym, attempt=attempt, due_s=due_s(kept)))


def _contest(ctx: Ctx, tables: RecoveryTables, pseudonym: bytes, attempt: int, row: AttemptRow) -> None:
    if can_be_overridden(row.terms):
        # The longer waiting time begins with the objection, whoever had agreed before it.
        ctx.emit(Vetoed(pseudonym=pseudonym, attempt=attempt, ended=False))
        _keep(ctx, tables, pseudonym, attempt, replace(row, vetoed_s=ctx.time_s, since_s=0))
        return
    tables.attempts.delete(pseudonym, attempt)
    ctx.emit(Vetoed(pseudonym=pseudonym, attempt=attempt, ended=True))


def _still_standing(ctx: Ctx, membership: Membership, patient: Party, row: AttemptRow) -> AttemptRow:
    """The attempt without those who have left since they agreed: a dismissed guardian's key says nothing any more."""
    held = ((one, membership.party(one)) for one in row.guardians)
    live = tuple(one for one, party in held if party and membership.standing(party, ctx.time_s) is None)
    registrar = row.registrar and membership.is_registrar(patient.organisation)
    return replace(row, guardians=live, registrar=registrar)


def _forget_lapsed(ctx: Ctx, tables: RecoveryTables, pseudonym: bytes) -> list[AttemptRow]:
    """Drop what has lapsed, and return what runs."""
    running: list[AttemptRow] = []
    for (_, number), row in list(tables.attempts.scan(pseudonym)):
        if ctx.time_s < lapses_s(row):
            running.append(row)
        else:
            tables.attempts.delete(pseudonym, number)
    return running
