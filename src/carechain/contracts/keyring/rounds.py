"""Keyring, the life of a ceremony: how it opens, when a round closes, what follows, and how it ends.

A round closes when everyone it waits for has spoken, or by :class:`~carechain.contracts.keyring.schema.CloseRound` once
its time is over. What follows is computed here, from what stands on the ledger alone.
"""

from itertools import pairwise
from typing import Protocol

from msgspec.structs import replace

from carechain.contracts.keyring.schema import (
    MIN_THRESHOLD,
    CeremonyDone,
    CeremonyFailed,
    CeremonyKind,
    CeremonyOpened,
    CeremonyRow,
    Convicted,
    CurrentRow,
    ExtractionRow,
    Holder,
    HolderLeft,
    KeyringCode,
    KeyringTables,
    KeyRow,
    LoseShare,
    Misdeed,
    MisdeedRow,
    Phase,
    RoundOpened,
    holder_bit,
    holder_mask,
    in_holders,
    number_of,
    numbers,
)
from carechain.core.context import Ctx
from carechain.core.group import IDENTITY
from carechain.core.keyholders import SetKeyholders
from carechain.core.limits import CEREMONY_ROUND_MAX_S, CEREMONY_ROUND_MIN_S, KEYHOLDERS
from carechain.core.quorum import (
    add_commitments,
    evaluate,
    rebuild_commitments,
    threshold_fits,
    weigh_commitments,
)
from carechain.core.rejection import present, require


class Members(Protocol):
    """What this contract needs from membership to open a ceremony."""

    def is_member(self, organisation: bytes) -> bool:
        """Whether the organisation is a member now."""


# --- opening --------------------------------------------------------------------------------------------


def require_possible(tables: KeyringTables, members: Members, new: SetKeyholders) -> None:
    """Refuse keyholders that could never finish a ceremony, and a second ceremony beside the one under way."""
    in_order = all(one < other for one, other in pairwise(new.holders))
    known = in_order and all(members.is_member(one) for one in new.holders)
    require(MIN_THRESHOLD <= len(new.holders) <= KEYHOLDERS and known, KeyringCode.HOLDERS_INVALID)
    fits = new.threshold >= MIN_THRESHOLD and threshold_fits(len(new.holders), new.threshold)
    require(fits, KeyringCode.THRESHOLD_DOES_NOT_FIT)
    require(CEREMONY_ROUND_MIN_S <= new.round_s <= CEREMONY_ROUND_MAX_S, KeyringCode.ROUND_OUT_OF_RANGE)
    require(tables.under_way() is None, KeyringCode.CEREMONY_UNDER_WAY)


def begin(ctx: Ctx, tables: KeyringTables, new: SetKeyholders) -> None:
    """Open a ceremony: without a key it makes one, with a key it shares the same one anew.

    Of earlier transcripts the one that made the present epoch stays until the new one is done, because a holder may
    still need it to compute its share.
    """
    epoch, before = tables.epoch(), tables.current()
    for (other,), old in list(tables.ceremonies.scan()):
        if old.phase is not Phase.DONE or old.epoch != epoch:
            _forget(tables, other)
    gone = () if before is None else tuple(one.index for one in before.holders if one.left_s)
    ceremony = ctx.new_id("ceremony")
    row = CeremonyRow(
        kind=CeremonyKind.GENERATION if before is None else CeremonyKind.RESHARING,
        epoch=epoch + 1,
        from_epoch=epoch,
        threshold=new.threshold,
        holders=new.holders,
        round_s=new.round_s,
        opened_s=ctx.time_s,
        phase=Phase.JOIN,
        round_opened_s=ctx.time_s,
        left_dealers=holder_mask(gone),
    )
    tables.ceremonies.put(ceremony, row=row)
    ctx.emit(CeremonyOpened(ceremony=ceremony, epoch=row.epoch))


# --- members who leave ----------------------------------------------------------------------------------


def require_dispensable(tables: KeyringTables, organisation: bytes) -> None:
    """Refuse to put out a keyholder without whom too few would remain: what is sealed would be lost to everyone."""
    key = tables.current()
    if key is not None and key.holder(organisation) is not None:
        require(key.live > key.threshold, KeyringCode.KEY_NEEDS_HOLDER)


def vacate(ctx: Ctx, tables: KeyringTables, organisation: bytes) -> None:
    """Count an organisation no longer that is put out: called by governance (ID-5).

    Its share still fits the key, so the members should vote for keyholders anew. A ceremony goes on without it: nobody
    waits for it, it becomes no holder, and what it had dealt soundly stays part of the key.
    """
    require_dispensable(tables, organisation)
    key = tables.current()
    if key is not None and key.holder(organisation) is not None:
        _count_out(ctx, tables, key, organisation)
    found = tables.under_way()
    if found is None:
        return
    ceremony, row = found
    dealt_as, held_as = numbers_of(tables, row, organisation)
    if dealt_as or held_as:
        advance(
            ctx,
            tables,
            ceremony,
            replace(
                row,
                left_dealers=row.left_dealers | holder_mask(one for one in (dealt_as,) if one),
                left_holders=row.left_holders | holder_mask(one for one in (held_as,) if one),
            ),
        )


def lose_share(ctx: Ctx, tables: KeyringTables, msg: LoseShare) -> None:
    """Count out a holder that has lost its share; refused where too few would remain, which must find it again.

    Without its word the ledger would count on it, and let the members put out a holder that is needed.
    """
    key = present(tables.current(), KeyringCode.NOT_A_HOLDER)
    require(key.epoch == msg.epoch and key.holder(ctx.sender) is not None, KeyringCode.NOT_A_HOLDER)
    require(key.live > key.threshold, KeyringCode.KEY_NEEDS_HOLDER)
    _count_out(ctx, tables, key, ctx.sender)


def _count_out(ctx: Ctx, tables: KeyringTables, key: KeyRow, organisation: bytes) -> None:
    holders = tuple(replace(one, left_s=ctx.time_s) if one.party == organisation else one for one in key.holders)
    tables.keys.put(key.epoch, row=replace(key, holders=holders))
    ctx.emit(HolderLeft(holder=organisation, epoch=key.epoch))


class Keyholders:
    """What governance may do to the keyring once a vote has passed."""

    __slots__ = ("_members", "_tables")

    def __init__(self, tables: KeyringTables, members: Members) -> None:
        self._tables = tables
        self._members = members

    def require_possible(self, new: SetKeyholders) -> None:
        """See :func:`require_possible`."""
        require_possible(self._tables, self._members, new)

    def appoint(self, ctx: Ctx, new: SetKeyholders) -> None:
        """Check once more, because much may have happened since the proposal; then see :func:`begin`."""
        require_possible(self._tables, self._members, new)
        begin(ctx, self._tables, new)

    def require_dispensable(self, organisation: bytes) -> None:
        """See :func:`require_dispensable`."""
        require_dispensable(self._tables, organisation)

    def vacate(self, ctx: Ctx, organisation: bytes) -> None:
        """See :func:`vacate`."""
        vacate(ctx, self._tables, organisation)


# --- predicates -----------------------------------------------------------------------------------------


def numbers_of(tables: KeyringTables, row: CeremonyRow, party: bytes) -> tuple[int, int]:
    """A party's number as a dealer and as a holder to be; 0 where it is none."""
    dealer = next((index for index, one in tables.dealers(row).items() if one == party), 0)
    return dealer, number_of(party, row.holders)


def deals_needed(tables: KeyringTables, row: CeremonyRow) -> int:
    """How many sound deals the ceremony cannot do without."""
    before = tables.key_at(row.from_epoch)
    return row.threshold if row.is_generation or before is None else before.threshold


def waited_for(tables: KeyringTables, row: CeremonyRow) -> tuple[int, int]:
    """The dealers and the holders, as masks, that the present round still waits for."""
    absent = row.left_holders | row.struck
    match row.phase:
        case Phase.JOIN:
            dealers, holders = holder_mask(tables.dealers(row)), holder_mask(range(1, len(row.holders) + 1))
            return dealers & ~(row.joined_dealers | row.left_dealers), holders & ~(row.joined_holders | absent)
        case Phase.DEAL:
            return row.joined_dealers & ~(row.dealt | row.left_dealers), 0
        case Phase.JUDGE:
            return 0, row.joined_holders & ~(row.judged | absent)
        case Phase.EXTRACT:
            return row.qualified & ~(row.extracted | row.left_dealers), 0
        case Phase.CHECK:
            return 0, row.joined_holders & ~(row.checked | absent)
        case Phase.EXPOSE:
            return 0, row.joined_holders & ~(row.shown | absent)
    return 0, 0


def is_complete(tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> bool:
    """Whether the present round has all that it can wait for."""
    if row.phase is Phase.EXPOSE and enough_shown(tables, ceremony, row):
        return True
    return waited_for(tables, row) == (0, 0)


def enough_shown(tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> bool:
    """Whether the pairs of every exposed dealer suffice to compute its polynomial."""
    return all(
        sum(1 for _ in tables.exposures.scan(ceremony, dealer)) >= row.threshold for dealer in numbers(row.exposed)
    )


# --- going on -------------------------------------------------------------------------------------------


def advance(ctx: Ctx, tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> None:
    """Keep the ceremony's row, and close its round when that is complete."""
    while row.is_open and is_complete(tables, ceremony, row):
        row = close(ctx, tables, ceremony, row)
    tables.ceremonies.put(ceremony, row=row)


def close(ctx: Ctx, tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> CeremonyRow:
    """Close the present round, whoever has not spoken, and open the next one."""
    row, following = _closed(tables, ceremony, replace(row, closed=(*row.closed, ctx.height)))
    if following is Phase.DONE:
        return _finish(ctx, tables, ceremony, row)
    if following is Phase.FAILED:
        return _fail(ctx, ceremony, row)
    ctx.emit(RoundOpened(ceremony=ceremony, phase=following))
    return replace(row, phase=following, round_opened_s=ctx.time_s)


def _closed(tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> tuple[CeremonyRow, Phase]:
    """What a round came to, and what follows it."""
    needed = deals_needed(tables, row)
    match row.phase:
        case Phase.JOIN:
            dealers, holders = row.joined_dealers & ~row.left_dealers, row.joined_holders & ~row.left_holders
            enough = dealers.bit_count() >= needed and holders.bit_count() >= row.threshold
            return replace(row, joined_dealers=dealers, joined_holders=holders), Phase.DEAL if enough else Phase.FAILED
        case Phase.DEAL:
            return row, Phase.JUDGE if row.dealt.bit_count() >= needed else Phase.FAILED
        case Phase.JUDGE:
            qualified = row.dealt & ~row.disqualified
            if qualified.bit_count() < needed or not _enough_hold(row, row.judged):
                return row, Phase.FAILED
            return replace(row, qualified=qualified), Phase.EXTRACT if row.is_generation else Phase.DONE
        case Phase.EXTRACT:
            # From here on nobody drops out: who could take its part of the key away again could choose the key.
            return replace(row, exposed=row.qualified & ~row.extracted), Phase.CHECK
        case Phase.CHECK:
            # What is exposed becomes public. As many parts as the threshold must stay secret, and one of them is an
            # honest holder's: where more fell silent, as when the chain stood still, no key is better than a known one.
            secret_still = (row.qualified & ~row.exposed).bit_count() >= needed
            if not secret_still or not _enough_hold(row, row.judged & row.checked):
                return row, Phase.FAILED
            return row, Phase.EXPOSE if row.exposed else Phase.DONE
    if not enough_shown(tables, ceremony, row):
        return row, Phase.FAILED
    for dealer in numbers(row.exposed):
        _reconstruct(tables, ceremony, row, dealer)
    return row, Phase.DONE


def _enough_hold(row: CeremonyRow, satisfied: int) -> bool:
    """Whether as many holders as the threshold have said that they hold what their shares are made of.

    Silence is no consent: where everybody was cut off for a round, a bad deal would stand, nobody would have a share,
    and with the old shares deleted nobody could ever open anything again.
    """
    return (satisfied & row.joined_holders & ~(row.left_holders | row.struck)).bit_count() >= row.threshold


def convict(
    ctx: Ctx, tables: KeyringTables, ceremony: bytes, row: CeremonyRow, party: bytes, misdeed: Misdeed
) -> CeremonyRow:
    """Name a liar, who becomes no holder. Its deal counts no more while that is still open, or is exposed."""
    dealt_as, held_as = numbers_of(tables, row, party)
    dealer = holder_bit(dealt_as) if dealt_as else 0
    struck = row.struck | (holder_bit(held_as) if held_as else 0)
    tables.misdeeds.put(party, row.epoch, misdeed, row=MisdeedRow(about=ceremony, at_s=ctx.time_s, height=ctx.height))
    ctx.emit(Convicted(ceremony=ceremony, party=party, misdeed=misdeed))
    if row.phase is Phase.JUDGE:
        return replace(row, struck=struck, disqualified=row.disqualified | dealer)
    if misdeed is Misdeed.BAD_EXTRACTION:
        return replace(row, struck=struck, exposed=row.exposed | dealer)
    return replace(row, struck=struck)


# --- ending ---------------------------------------------------------------------------------------------


def _reconstruct(tables: KeyringTables, ceremony: bytes, row: CeremonyRow, dealer: int) -> None:
    """Compute, from the pairs shown, the public part that an exposed dealer should have shown."""
    shown = [(index, pair.share) for (_, _, index), pair in tables.exposures.scan(ceremony, dealer)]
    commitments = rebuild_commitments(shown[: row.threshold])
    tables.extractions.put(ceremony, dealer, row=ExtractionRow(commitments=commitments, reconstructed=True))


def _finish(ctx: Ctx, tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> CeremonyRow:
    """Put the new epoch in force, if enough honest holders are left to use it.

    Who deals last can aim for a share of zero for itself. It is no holder then, and nobody else is troubled by it.
    """
    holders = row.joined_holders & ~(row.left_holders | row.struck)
    combined = _combined(tables, ceremony, row)
    found = ((index, evaluate(combined, index)) for index in numbers(holders))
    keys = {index: key for index, key in found if key != IDENTITY}
    if len(keys) < row.threshold or combined[0] == IDENTITY:
        return _fail(ctx, ceremony, row)
    tables.keys.put(
        row.epoch,
        row=KeyRow(
            epoch=row.epoch,
            public_key=combined[0],
            threshold=row.threshold,
            holders=tuple(Holder(party=row.holders[index - 1], index=index, key=key) for index, key in keys.items()),
            since_s=ctx.time_s,
            since_height=ctx.height,
        ),
    )
    tables.current_epoch.put(0, row=CurrentRow(epoch=row.epoch))
    for (other,), _ in list(tables.ceremonies.scan()):
        if other != ceremony:
            _forget(tables, other)
    ctx.emit(CeremonyDone(ceremony=ceremony, epoch=row.epoch))
    return replace(row, phase=Phase.DONE)


def _combined(tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> tuple[bytes, ...]:
    """Commitments to the polynomial whose value at zero is the key and at n the share of holder n."""
    if row.is_generation:
        extracted = (tables.extractions.get(ceremony, dealer) for dealer in numbers(row.qualified))
        return add_commitments([one.commitments for one in extracted if one is not None])
    chosen = combined_dealers(row, deals_needed(tables, row))
    deals = ((dealer, tables.deals.get(ceremony, dealer)) for dealer in chosen)
    return weigh_commitments([(dealer, deal.commitments) for dealer, deal in deals if deal is not None])


def combined_dealers(row: CeremonyRow, needed: int) -> tuple[int, ...]:
    """In a resharing: whose deals make the new shares. Everybody must take the same, so it is the lowest numbers."""
    return tuple(numbers(row.qualified))[:needed]


def _fail(ctx: Ctx, ceremony: bytes, row: CeremonyRow) -> CeremonyRow:
    ctx.emit(CeremonyFailed(ceremony=ceremony, phase=row.phase))
    return replace(row, phase=Phase.FAILED, ended_in=int(row.phase))


def _forget(tables: KeyringTables, ceremony: bytes) -> None:
    """Take a transcript out of the state; the blocks keep it."""
    for table in (tables.joins, tables.deals, tables.judgements, tables.extractions, tables.exposures):
        for parts, _ in list(table.scan(ceremony)):
            table.delete(*parts)
    tables.ceremonies.delete(ceremony)


def rank_of(row: CeremonyRow, index: int) -> int:
    """The place of a holder's pair in every deal: pairs stand in the order of those who joined."""
    return (row.joined_holders & (holder_bit(index) - 1)).bit_count()


def has_joined(row: CeremonyRow, index: int) -> bool:
    """Whether the holder to be with this number joined."""
    return bool(index) and in_holders(index, row.joined_holders)
