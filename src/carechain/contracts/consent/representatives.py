"""Consent, the handlers for family and guardians who act for a patient, in full or in part (CON-8)."""

from msgspec.structs import replace

from carechain.contracts.consent.coverage import Coverage
from carechain.contracts.consent.schema import (
    Appoint,
    Appointed,
    ConsentCode,
    Dismiss,
    Dismissed,
    RepresentativeRow,
)
from carechain.core.binding import appointment_message
from carechain.core.context import Ctx
from carechain.core.crypto import BadSignature, verify
from carechain.core.ids import party_id
from carechain.core.limits import GRANT_LIFETIME_S, REPRESENTATIVES_PER_PSEUDONYM
from carechain.core.party import Party
from carechain.core.rejection import present, require
from carechain.core.vocabulary import ALL_POWERS, PartyKind, Role, mask


def acceptance_holds(ctx: Ctx, msg: Appoint) -> bool:
    """Whether the representative's own key signed exactly this appointment."""
    wanted = appointment_message(
        chain_id=ctx.chain_id,
        pseudonym=msg.pseudonym,
        suite=msg.suite,
        public_key=msg.public_key,
        hpke_key=msg.hpke_key,
        powers=msg.powers,
        scope=msg.scope,
        expires_s=msg.expires_s,
    )
    try:
        verify(suite=msg.suite, public_key=msg.public_key, signature=msg.proof, message=wanted)
    except BadSignature:
        return False
    return True


def appoint(ctx: Ctx, coverage: Coverage, msg: Appoint) -> None:
    """Give a representative powers. Its key serves this one pseudonym, so it links nothing."""
    require(ctx.sender == msg.pseudonym, ConsentCode.SENDER_NOT_PATIENT)
    require(0 < msg.powers <= ALL_POWERS, ConsentCode.POWERS_MALFORMED)
    require(msg.scope.is_well_formed(), ConsentCode.SCOPE_MALFORMED)
    require(msg.expires_s > ctx.time_s, ConsentCode.EXPIRY_NOT_IN_FUTURE)
    require(msg.expires_s - ctx.time_s <= GRANT_LIFETIME_S, ConsentCode.EXPIRY_TOO_FAR)
    require(acceptance_holds(ctx, msg), ConsentCode.REPRESENTATIVE_PROOF_INVALID)
    representative = party_id(msg.suite, msg.public_key)
    require(not coverage.membership.key_taken(representative), ConsentCode.REPRESENTATIVE_EXISTS)
    held = _forget_ended(ctx, coverage, msg.pseudonym)
    require(held < REPRESENTATIVES_PER_PSEUDONYM, ConsentCode.TOO_MANY_REPRESENTATIVES)
    coverage.tables.representatives.put(
        msg.pseudonym,
        representative,
        row=RepresentativeRow(powers=msg.powers, scope=msg.scope, expires_s=msg.expires_s, appointed_s=ctx.time_s),
    )
    coverage.membership.put_party(
        representative,
        Party(
            kind=PartyKind.REPRESENTATIVE,
            suite=msg.suite,
            public_key=msg.public_key,
            hpke_key=msg.hpke_key,
            organisation=msg.pseudonym,
            roles=mask(Role.FAMILY_MEMBER),
            valid_from_s=0,
            valid_until_s=msg.expires_s,
        ),
    )
    ctx.emit(Appointed(pseudonym=msg.pseudonym, representative=representative))


def dismiss(ctx: Ctx, coverage: Coverage, msg: Dismiss) -> None:
    """End a representative's powers and its key with them."""
    require(ctx.sender == msg.pseudonym, ConsentCode.SENDER_NOT_PATIENT)
    table = coverage.tables.representatives
    row = present(table.get(msg.pseudonym, msg.representative), ConsentCode.REPRESENTATIVE_NOT_FOUND)
    require(not row.dismissed_s, ConsentCode.REPRESENTATIVE_NOT_FOUND)
    party = present(coverage.membership.party(msg.representative), ConsentCode.REPRESENTATIVE_NOT_FOUND)
    table.put(msg.pseudonym, msg.representative, row=replace(row, dismissed_s=ctx.time_s))
    coverage.membership.put_party(msg.representative, replace(party, revoked_s=ctx.time_s))
    ctx.emit(Dismissed(pseudonym=msg.pseudonym, representative=msg.representative))


def _forget_ended(ctx: Ctx, coverage: Coverage, pseudonym: bytes) -> int:
    """Drop the rows of ended representatives and count the others: at most the bound, whoever acted once.

    Their keys stay known as parties, so none of them comes back, and what they did stays in events and receipts.
    """
    held = 0
    for (_, representative), _row in list(coverage.tables.representatives.scan(pseudonym)):
        if coverage.represents(pseudonym, representative, ctx.time_s):
            held += 1
        else:
            coverage.tables.representatives.delete(pseudonym, representative)
    return held
