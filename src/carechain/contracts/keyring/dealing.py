"""Keyring, the handlers of a ceremony's messages: who may say what in which round, and whether it holds.

Who deals badly or complains falsely is convicted here, by what the complaint itself opens: every node computes the same
from the ledger, and nobody's word counts.
"""

from itertools import pairwise

from msgspec.structs import replace

from carechain.contracts.keyring.rounds import advance, close, convict, has_joined, numbers_of, rank_of
from carechain.contracts.keyring.schema import (
    CeremonyRow,
    Check,
    CloseRound,
    Deal,
    DealRow,
    Expose,
    ExposureRow,
    Extract,
    ExtractionRow,
    Join,
    JoinRow,
    Judge,
    JudgementRow,
    KeyringCode,
    KeyringTables,
    Misdeed,
    Phase,
    holder_bit,
    in_holders,
)
from carechain.core.context import Ctx
from carechain.core.group import BadElement, require_point, require_scalar
from carechain.core.quorum import (
    BadProof,
    Complaint,
    Delivery,
    check_key_proof,
    check_pedersen,
    deal_complaint_holds,
    extract_complaint_holds,
    join_context,
    reshare_complaint_holds,
)
from carechain.core.rejection import Rejected, present, require


def join(ctx: Ctx, tables: KeyringTables, msg: Join) -> None:
    """Take part: as a dealer, as a holder to be, or as both."""
    row = _in_round(tables, msg.ceremony, Phase.JOIN)
    dealer, holder = numbers_of(tables, row, ctx.sender)
    require(dealer or holder, KeyringCode.NOT_IN_THIS_CEREMONY)
    require(not tables.joins.has(msg.ceremony, ctx.sender), KeyringCode.ALREADY_SPOKEN)
    _require_points(msg.key)
    try:
        check_key_proof(context=join_context(ceremony=msg.ceremony, party=ctx.sender), key=msg.key, proof=msg.proof)
    except BadProof:
        raise Rejected(KeyringCode.KEY_PROOF_INVALID) from None
    tables.joins.put(msg.ceremony, ctx.sender, row=JoinRow(key=msg.key))
    joined = replace(
        row,
        joined_dealers=row.joined_dealers | (holder_bit(dealer) if dealer else 0),
        joined_holders=row.joined_holders | (holder_bit(holder) if holder else 0),
    )
    advance(ctx, tables, msg.ceremony, joined)


def deal(ctx: Ctx, tables: KeyringTables, msg: Deal) -> None:
    """Keep a deal. Whether its pairs are sound only their recipients can tell, in the next round."""
    row = _in_round(tables, msg.ceremony, Phase.DEAL)
    dealer = _dealer(ctx, tables, row, row.joined_dealers)
    require(not in_holders(dealer, row.dealt), KeyringCode.ALREADY_SPOKEN)
    fits = len(msg.commitments) == row.threshold and len(msg.shares) == row.joined_holders.bit_count()
    require(fits, KeyringCode.SIZE_WRONG)
    _require_points(*msg.commitments)
    if not row.is_generation:
        before = tables.key_at(row.from_epoch)
        share = None if before is None else before.numbered(dealer)
        require(share is not None and msg.commitments[0] == share.key, KeyringCode.DEAL_OF_ANOTHER_SHARE)
    tables.deals.put(msg.ceremony, dealer, row=DealRow(commitments=msg.commitments, shares=msg.shares))
    advance(ctx, tables, msg.ceremony, replace(row, dealt=row.dealt | holder_bit(dealer)))


def judge(ctx: Ctx, tables: KeyringTables, msg: Judge) -> None:
    """Hear a holder about the deals it was sent: either the dealer or the complainer is convicted."""
    row = _in_round(tables, msg.ceremony, Phase.JUDGE)
    holder = _holder(ctx, row)
    require(not in_holders(holder, row.judged), KeyringCode.ALREADY_SPOKEN)
    _require_about(msg.complaints, row.dealt)
    row = replace(row, judged=row.judged | holder_bit(holder))
    row = _hear(ctx, tables, msg.ceremony, row, holder, msg.complaints)
    advance(ctx, tables, msg.ceremony, row)


def extract(ctx: Ctx, tables: KeyringTables, msg: Extract) -> None:
    """Keep the public part of a sound deal. Whether it fits the deal its recipients tell in the next round."""
    row = _in_round(tables, msg.ceremony, Phase.EXTRACT)
    dealer = _dealer(ctx, tables, row, row.qualified)
    require(not in_holders(dealer, row.extracted), KeyringCode.ALREADY_SPOKEN)
    require(len(msg.commitments) == row.threshold, KeyringCode.SIZE_WRONG)
    _require_points(*msg.commitments)
    tables.extractions.put(msg.ceremony, dealer, row=ExtractionRow(commitments=msg.commitments))
    advance(ctx, tables, msg.ceremony, replace(row, extracted=row.extracted | holder_bit(dealer)))


def check(ctx: Ctx, tables: KeyringTables, msg: Check) -> None:
    """Hear a holder about the extractions. Who is convicted now stays part of the key: the others compute its part."""
    row = _in_round(tables, msg.ceremony, Phase.CHECK)
    holder = _holder(ctx, row)
    require(not in_holders(holder, row.checked), KeyringCode.ALREADY_SPOKEN)
    _require_about(msg.complaints, row.extracted)
    row = replace(row, checked=row.checked | holder_bit(holder))
    row = _hear(ctx, tables, msg.ceremony, row, holder, msg.complaints)
    advance(ctx, tables, msg.ceremony, row)


def expose(ctx: Ctx, tables: KeyringTables, msg: Expose) -> None:
    """Keep the pairs of exposed dealers that a holder shows. Each must be what the dealer had committed to."""
    row = _in_round(tables, msg.ceremony, Phase.EXPOSE)
    holder = _holder(ctx, row)
    require(not in_holders(holder, row.shown), KeyringCode.ALREADY_SPOKEN)
    dealers = tuple(one.dealer for one in msg.shares)
    require(_ascending(dealers) and all(in_holders(one, row.exposed) for one in dealers), KeyringCode.EXPOSURES_INVALID)
    for one in msg.shares:
        _require_scalars(one.share, one.blind)
    for one in msg.shares:
        dealt = present(tables.deals.get(msg.ceremony, one.dealer), KeyringCode.EXPOSURES_INVALID)
        fits = check_pedersen(dealt.commitments, holder, one.share, one.blind)
        require(fits, KeyringCode.EXPOSED_PAIR_WRONG)
        tables.exposures.put(msg.ceremony, one.dealer, holder, row=ExposureRow(share=one.share, blind=one.blind))
    advance(ctx, tables, msg.ceremony, replace(row, shown=row.shown | holder_bit(holder)))


def close_round(ctx: Ctx, tables: KeyringTables, msg: CloseRound) -> None:
    """Close a round whose time is over. What was sent late counts until somebody does so."""
    row = present(tables.ceremonies.get(msg.ceremony), KeyringCode.CEREMONY_NOT_FOUND)
    require(row.is_open, KeyringCode.CEREMONY_NOT_FOUND)
    require(ctx.time_s >= row.round_opened_s + row.round_s, KeyringCode.ROUND_STILL_OPEN)
    advance(ctx, tables, msg.ceremony, close(ctx, tables, msg.ceremony, row))


# --- complaints -----------------------------------------------------------------------------------------


def _hear(
    ctx: Ctx, tables: KeyringTables, ceremony: bytes, row: CeremonyRow, holder: int, complaints: tuple[Complaint, ...]
) -> CeremonyRow:
    """Judge complaints one by one, up to the first false one: who lied once is not listened to any further.

    A dealer that is convicted already needs no second proof. So a round costs every node at most one judgement for each
    dealer and one for each complainer, however many complaints are sent.
    """
    convicted_as = Misdeed.BAD_DEAL if row.phase is Phase.JUDGE else Misdeed.BAD_EXTRACTION
    dealers = tables.dealers(row)
    held, lied = 0, False
    for one in complaints:
        if in_holders(one.dealer, row.disqualified | row.exposed):
            continue
        if _holds(tables, ceremony, row, holder, one):
            held |= holder_bit(one.dealer)
            row = convict(ctx, tables, ceremony, row, dealers[one.dealer], convicted_as)
        else:
            lied = True
            break
    if complaints:
        about = sum(holder_bit(one.dealer) for one in complaints)
        tables.judgements.put(ceremony, int(row.phase), holder, row=JudgementRow(about=about, held=held))
    return convict(ctx, tables, ceremony, row, ctx.sender, Misdeed.FALSE_COMPLAINT) if lied else row


def _holds(tables: KeyringTables, ceremony: bytes, row: CeremonyRow, holder: int, complaint: Complaint) -> bool:
    """Whether the pair that a complaint opens contradicts what its dealer committed to or extracted."""
    dealer_key = tables.joins.get(ceremony, tables.dealers(row)[complaint.dealer])
    own_key = tables.joins.get(ceremony, row.holders[holder - 1])
    dealt = tables.deals.get(ceremony, complaint.dealer)
    if dealer_key is None or own_key is None or dealt is None:
        return False
    delivery = Delivery(
        ceremony=ceremony,
        dealer=complaint.dealer,
        dealer_key=dealer_key.key,
        recipient=holder,
        recipient_key=own_key.key,
        ciphertext=dealt.shares[rank_of(row, holder)],
    )
    if not row.is_generation:
        return reshare_complaint_holds(complaint, delivery, dealt.commitments)
    if row.phase is Phase.JUDGE:
        return deal_complaint_holds(complaint, delivery, dealt.commitments)
    shown = tables.extractions.get(ceremony, complaint.dealer)
    return shown is not None and extract_complaint_holds(complaint, delivery, dealt.commitments, shown.commitments)


# --- requirements ---------------------------------------------------------------------------------------


def _in_round(tables: KeyringTables, ceremony: bytes, phase: Phase) -> CeremonyRow:
    row = present(tables.ceremonies.get(ceremony), KeyringCode.CEREMONY_NOT_FOUND)
    require(row.is_open, KeyringCode.CEREMONY_NOT_FOUND)
    require(row.phase is phase, KeyringCode.WRONG_ROUND)
    return row


def _dealer(ctx: Ctx, tables: KeyringTables, row: CeremonyRow, among: int) -> int:
    dealer, _ = numbers_of(tables, row, ctx.sender)
    require(dealer and in_holders(dealer, among), KeyringCode.NOT_IN_THIS_CEREMONY)
    return dealer


def _holder(ctx: Ctx, row: CeremonyRow) -> int:
    holder = row.holders.index(ctx.sender) + 1 if ctx.sender in row.holders else 0
    require(has_joined(row, holder), KeyringCode.NOT_IN_THIS_CEREMONY)
    return holder


def _require_about(complaints: tuple[Complaint, ...], dealers: int) -> None:
    about = tuple(one.dealer for one in complaints)
    known = all(one and in_holders(one, dealers) for one in about)
    require(_ascending(about) and known, KeyringCode.COMPLAINTS_INVALID)


def _ascending(found: tuple[int, ...]) -> bool:
    return all(one < other for one, other in pairwise(found))


def _require_points(*points: bytes) -> None:
    try:
        for one in points:
            require_point(one)
    except BadElement:
        raise Rejected(KeyringCode.POINT_INVALID) from None


def _require_scalars(*scalars: bytes) -> None:
    try:
        for one in scalars:
            require_scalar(one)
    except BadElement:
        raise Rejected(KeyringCode.POINT_INVALID) from None
