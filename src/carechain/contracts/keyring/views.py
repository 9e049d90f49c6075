"""Keyring, what is read of it: invariants, the queries, and a ceremony as its participants see it."""

from collections.abc import Iterator

from msgspec import Struct

from carechain.contracts.keyring.rounds import deals_needed, waited_for
from carechain.contracts.keyring.schema import (
    CeremonyRow,
    DealRow,
    ExtractionRow,
    KeyringTables,
    KeyRow,
    MisdeedRow,
    Phase,
    numbers,
)
from carechain.core.limits import QUERY_PAGE_ROWS

# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: KeyringTables) -> list[str]:
    """The key never changes and can be used; at most one ceremony goes on; who is convicted becomes no holder."""
    broken: list[str] = []
    first: bytes | None = None
    for (epoch,), key in tables.keys.scan():
        first = first or key.public_key
        if key.epoch != epoch or key.public_key != first:
            broken.append(f"epoch {epoch} has another public key than the first")
        if key.live < key.threshold or len({one.index for one in key.holders}) != len(key.holders):
            broken.append(f"epoch {epoch} cannot be used by its holders")
    newest = max((epoch for (epoch,), _ in tables.keys.scan()), default=0)
    if newest != tables.epoch():
        broken.append("the epoch in force is not the newest one")
    open_now = [ceremony for (ceremony,), row in tables.ceremonies.scan() if row.is_open]
    if len(open_now) > 1:
        broken.append("several ceremonies go on at once")
    for (ceremony,), row in tables.ceremonies.scan():
        broken.extend(f"ceremony {ceremony.hex()}: {flaw}" for flaw in _flaws(tables, ceremony, row))
    return broken


def _flaws(tables: KeyringTables, ceremony: bytes, row: CeremonyRow) -> Iterator[str]:
    dealt = {dealer for (_, dealer), _ in tables.deals.scan(ceremony)}
    if row.dealt & ~row.joined_dealers or len(dealt) != row.dealt.bit_count():
        yield "a deal of somebody who did not join"
    if row.qualified & (row.disqualified | ~row.dealt):
        yield "a dealer counts that did not deal soundly"
    if row.qualified and row.qualified.bit_count() < deals_needed(tables, row):
        yield "too few deals count"
    if row.exposed & ~row.qualified:
        yield "a dealer is exposed that does not count"


# --- a ceremony for its participants --------------------------------------------------------------------


class CeremonyView(Struct, frozen=True, kw_only=True):
    """Everything public about one ceremony. ``dealers`` is number → organisation, ``joins`` organisation → key."""

    ceremony: bytes
    row: CeremonyRow
    dealers: dict[int, bytes]
    joins: dict[bytes, bytes]
    deals: dict[int, DealRow]
    extractions: dict[int, ExtractionRow]
    needed: int
    """How many deals a resharing combines."""
    before: KeyRow | None
    """The key that is shared anew; None in a generation."""
    result: KeyRow | None
    """The epoch that the ceremony made, once it is done."""


def ceremony_view(tables: KeyringTables, ceremony: bytes) -> CeremonyView | None:
    """One ceremony as its participants see it; None where the state has it no more."""
    row = tables.ceremonies.get(ceremony)
    if row is None:
        return None
    return CeremonyView(
        ceremony=ceremony,
        row=row,
        dealers=tables.dealers(row),
        joins={party: one.key for (_, party), one in tables.joins.scan(ceremony)},
        deals={dealer: one for (_, dealer), one in tables.deals.scan(ceremony)},
        extractions={dealer: one for (_, dealer), one in tables.extractions.scan(ceremony)},
        needed=deals_needed(tables, row),
        before=None if row.is_generation else tables.key_at(row.from_epoch),
        result=tables.key_at(row.epoch) if row.phase is Phase.DONE else None,
    )


# --- queries --------------------------------------------------------------------------------------------


def ceremonies(tables: KeyringTables) -> Iterator[tuple[bytes, CeremonyRow, tuple[bytes, ...]]]:
    """The ceremony under way or the last one, and the one that made the present epoch; and whom each waits for."""
    for (ceremony,), row in tables.ceremonies.scan():
        yield ceremony, row, _waited_for(tables, row)


def _waited_for(tables: KeyringTables, row: CeremonyRow) -> tuple[bytes, ...]:
    """The organisations that have not spoken in the present round, as dealers or as holders."""
    dealers, holders = waited_for(tables, row)
    named = tables.dealers(row)
    parties = (*(named[index] for index in numbers(dealers)), *(row.holders[index - 1] for index in numbers(holders)))
    return tuple(dict.fromkeys(parties))


def misdeeds(
    tables: KeyringTables, after: tuple[bytes, int, int] | None = None
) -> Iterator[tuple[bytes, int, int, MisdeedRow]]:
    """A page of what holders were caught at: member, epoch, kind, and when."""
    for (party, epoch, kind), row in tables.misdeeds.scan(after=after, limit=QUERY_PAGE_ROWS):
        yield party, epoch, kind, row
