"""Scope: which part of a record set a grant, a rule, a request or a ticket is about (CON-1)."""

from typing import Annotated

from msgspec import Meta, Struct

from carechain.core.ids import U16, RecordId
from carechain.core.limits import SCOPE_RECORDS
from carechain.core.vocabulary import ALL_CATEGORIES, Sensitivity, subset

Day = Annotated[int, Meta(ge=0, le=0x7FFF_FFFF)]
"""Days since 1900-01-01, so that every clinical date of a living patient is a positive integer."""
LAST_DAY = 0x7FFF_FFFF


class Scope(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Categories (mask), highest sensitivity, first and last clinical day, and optionally single records.

    An empty ``records`` means every record that the other fields cover. Records are sorted and unique.
    """

    categories: U16
    ceiling: Sensitivity
    first_day: Day = 0
    last_day: Day = LAST_DAY
    records: Annotated[tuple[RecordId, ...], Meta(max_length=SCOPE_RECORDS)] = ()

    def is_well_formed(self) -> bool:
        """Names at least one known category, a possible window, and records in one order."""
        return (
            0 < self.categories <= ALL_CATEGORIES
            and self.first_day <= self.last_day
            and all(a < b for a, b in zip(self.records, self.records[1:], strict=False))
        )

    def contains(self, inner: "Scope") -> bool:
        """Whether everything ``inner`` covers is covered here too."""
        return (
            subset(inner.categories, self.categories)
            and inner.ceiling <= self.ceiling
            and self.first_day <= inner.first_day
            and inner.last_day <= self.last_day
            and (not self.records or (bool(inner.records) and all(one in self.records for one in inner.records)))
        )

    def covers(self, *, category: int, sensitivity: int, day: int, record: bytes) -> bool:
        """Whether one record lies inside this scope."""
        return (
            self.categories >> category & 1 == 1
            and sensitivity <= self.ceiling
            and self.first_day <= day <= self.last_day
            and (not self.records or record in self.records)
        )

    def meets(self, other: "Scope") -> bool:
        """Whether some record could lie inside both scopes: what a denial of ``other`` must stop."""
        return (
            bool(self.categories & other.categories)
            and self.first_day <= other.last_day
            and other.first_day <= self.last_day
            and (not self.records or not other.records or any(one in other.records for one in self.records))
        )


EVERYTHING = Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity.V)
