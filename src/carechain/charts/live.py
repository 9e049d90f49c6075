"""What a sight means for the rows of the database: the condition that stands in every statement (CON-1, API-1).

A sight names patients and scopes; the rows have shelves (patient, category and grade together), days and records. The
translation happens once per snapshot, with the ledger's own rule (:meth:`carechain.core.scope.Scope.covers`), so that
search, reading and the gatekeeper cannot disagree on what a ticket covers.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, and_, false, or_

from carechain.charts.dialect import marks, select_rows
from carechain.charts.index_schema import DIRECTORY_SHELF
from carechain.charts.listed import listed
from carechain.charts.sight import Sight, Window
from carechain.core.hashing import ZERO_HASH
from carechain.core.scope import LAST_DAY, Scope
from carechain.core.vocabulary import in_mask

ORGANISATION: Final = ZERO_HASH
"""The pseudonym of the organisation's own chart: about no patient, seen by the custodian's own systems alone."""
IDS_PER_QUERY: Final = 500

Condition = ColumnElement[bool]
AnyColumn = ColumnElement[Any]


class Opening(Struct, frozen=True, kw_only=True):
    """Shelves as far as one window opens them: between two days (None: no bound), and single records only if any.

    ``ceiling`` is the window's, for versions that are not the newest: their own grade counts too.
    """

    shelves: tuple[int, ...]
    first_day: int | None = None
    last_day: int | None = None
    records: tuple[bytes, ...] = ()
    ceiling: int | None = None

    def of(self, shelf: AnyColumn, day: AnyColumn, record_id: AnyColumn | None, grade: AnyColumn | None) -> Condition:
        """The condition on the columns of one table; without ``record_id`` single records are not told apart."""
        parts: list[Condition] = [listed(shelf, self.shelves)]
        if self.first_day is not None:
            parts.append(day >= self.first_day)
        if self.last_day is not None:
            parts.append(day <= self.last_day)
        if self.records and record_id is not None:
            parts.append(record_id.in_(self.records))
        if self.ceiling is not None and grade is not None:
            parts.append(grade <= self.ceiling)
        return and_(*parts)


class Visible(Struct, frozen=True, kw_only=True):
    """A sight as conditions; made by :func:`visible_to`, good for the snapshot it was made in.

    ``needs_record`` is true where a window names single records: index rows do not have them, so the condition must
    then stand on ``live`` too (:meth:`of` with ``live.c.record_id``). ``places`` are the openings for newest versions,
    whose grade is their shelf's: openings that differ in their ceilings only are one there, and mostly there is one in
    all, which is a plain list of shelves that an index can follow.
    """

    everything: bool
    openings: tuple[Opening, ...]
    places: tuple[Opening, ...] = ()
    patients: tuple[bytes, ...] = ()

    @property
    def needs_record(self) -> bool:
        """Whether some window names single records."""
        return any(opening.records for opening in self.openings)

    @property
    def nothing(self) -> bool:
        """Whether no row at all can be seen."""
        return not self.everything and not self.openings

    def of(self, shelf: AnyColumn, day: AnyColumn, record_id: AnyColumn | None = None) -> Condition | None:
        """The condition on a table's (or an alias's) columns; None when everything is seen.

        Index tables have no ``record_id``: leave it out there and see ``needs_record``.
        """
        return self._any(self.places, shelf, day, record_id, None)

    def of_version(self, shelf: AnyColumn, day: AnyColumn, record_id: AnyColumn, grade: AnyColumn) -> Condition | None:
        """The condition for any version: the newest one's place is seen, and this one's own grade allowed with it."""
        return self._any(self.openings, shelf, day, record_id, grade)

    def _any(
        self,
        openings: tuple[Opening, ...],
        shelf: AnyColumn,
        day: AnyColumn,
        record_id: AnyColumn | None,
        grade: AnyColumn | None,
    ) -> Condition | None:
        if self.everything:
            return None
        parts = [opening.of(shelf, day, record_id, grade) for opening in openings]
        return or_(*parts) if parts else false()


ALL: Final = Visible(everything=True, openings=())


def visible_to(connection: Connection, sight: Sight) -> Visible:
    """What a sight means for the shelves there are now."""
    if sight.everything:
        return ALL
    windows = [one for one in sight.windows if one.pseudonym != ORGANISATION]
    held = _shelves_of(connection, {one.pseudonym: None for one in windows})
    openings = [Opening(shelves=(DIRECTORY_SHELF,))] if sight.directory else []
    openings += merged(opening for window in windows if (opening := _opening(window, held.get(window.pseudonym, ()))))
    places = merged(replace(opening, ceiling=None) for opening in openings)
    return Visible(everything=False, openings=tuple(openings), places=tuple(places), patients=tuple(held))


Shelf = tuple[int, int, int]
"""Its number, its category, its grade."""


def _shelves_of(connection: Connection, pseudonyms: Iterable[bytes]) -> dict[bytes, list[Shelf]]:
    found: dict[bytes, list[Shelf]] = {}
    named = list(pseudonyms)
    for start in range(0, len(named), IDS_PER_QUERY):
        batch = tuple(named[start : start + IDS_PER_QUERY])
        # Written out, because every request with a sight begins with it: making a statement costs more than asking it.
        statement = f"SELECT pseudonym, shelf, category, grade FROM shelves WHERE pseudonym IN ({marks(len(batch))})"  # noqa: S608 - question marks only
        for pseudonym, shelf, category, grade in select_rows(connection, f"{statement} ORDER BY shelf", batch):
            found.setdefault(pseudonym, []).append((shelf, category, grade))
    return found


def _opening(window: Window, held: Sequence[Shelf]) -> Opening | None:
    scope = window.scope
    seen = tuple(shelf for shelf, category, grade in held if _opens(scope, category, grade))
    if not seen or scope.first_day > scope.last_day:
        return None
    return Opening(
        shelves=seen,
        first_day=scope.first_day if scope.first_day > 0 else None,
        last_day=scope.last_day if scope.last_day < LAST_DAY else None,
        records=scope.records,
        ceiling=int(scope.ceiling),
    )


def _opens(scope: Scope, category: int, grade: int) -> bool:
    """What :meth:`Scope.covers` says of category and grade; day and record are columns and judged by the database."""
    return in_mask(category, scope.categories) and grade <= scope.ceiling


def merged(openings: Iterable[Opening]) -> list[Opening]:
    """Openings that differ in their shelves only, as one: fewer conditions for the database."""
    together: dict[tuple[int | None, int | None, tuple[bytes, ...], int | None], dict[int, None]] = {}
    for one in openings:
        bounds = (one.first_day, one.last_day, one.records, one.ceiling)
        together.setdefault(bounds, {}).update(dict.fromkeys(one.shelves))
    return [
        Opening(shelves=tuple(seen), first_day=first, last_day=last, records=records, ceiling=ceiling)
        for (first, last, records, ceiling), seen in together.items()
    ]
