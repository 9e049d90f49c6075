"""What a provision is about, as a box: categories, purposes, days, and grades from one end of their order.

An exception is a box taken out of another one. What is left is again boxes, each of which the ledger can say in one
grant or one standing rule, so that an exception costs more messages and never a wider or narrower permission.
"""

from msgspec import Struct
from msgspec.structs import replace

from carechain.core.scope import LAST_DAY, Scope
from carechain.core.vocabulary import ALL_CATEGORIES, ALL_PURPOSES, Sensitivity


class Box(Struct, frozen=True, kw_only=True):
    """Masks of categories and purposes, the first and last clinical day, the lowest and the highest grade."""

    categories: int = ALL_CATEGORIES
    purposes: int = ALL_PURPOSES
    first_day: int = 0
    last_day: int = LAST_DAY
    lowest: Sensitivity = Sensitivity.U
    highest: Sensitivity = Sensitivity.V

    def scope(self, records: tuple[bytes, ...] = ()) -> Scope:
        """As the ledger says it; the lowest grade is always U there."""
        return Scope(
            categories=self.categories,
            ceiling=self.highest,
            first_day=self.first_day,
            last_day=self.last_day,
            records=records,
        )

    def meets(self, other: "Box") -> bool:
        """Whether something lies in both."""
        return (
            bool(self.categories & other.categories)
            and bool(self.purposes & other.purposes)
            and self.first_day <= other.last_day
            and other.first_day <= self.last_day
            and self.lowest <= other.highest
            and other.lowest <= self.highest
        )

    def without(self, hole: "Box") -> list["Box"]:
        """What is left of this box once ``hole`` is taken out: boxes of which no two meet."""
        if not self.meets(hole):
            return [self]
        rest, left = self, []
        if outside := rest.categories & ~hole.categories:
            left.append(replace(rest, categories=outside))
        rest = replace(rest, categories=rest.categories & hole.categories)
        if outside := rest.purposes & ~hole.purposes:
            left.append(replace(rest, purposes=outside))
        rest = replace(rest, purposes=rest.purposes & hole.purposes)
        if rest.first_day < hole.first_day:
            left.append(replace(rest, last_day=hole.first_day - 1))
        if hole.last_day < rest.last_day:
            left.append(replace(rest, first_day=hole.last_day + 1))
        rest = replace(rest, first_day=max(rest.first_day, hole.first_day), last_day=min(rest.last_day, hole.last_day))
        if rest.lowest < hole.lowest:
            left.append(replace(rest, highest=Sensitivity(hole.lowest - 1)))
        if hole.highest < rest.highest:
            left.append(replace(rest, lowest=Sensitivity(hole.highest + 1)))
        return left


def all_without(boxes: list[Box], hole: Box) -> list[Box]:
    """What is left of every box."""
    return [piece for box in boxes for piece in box.without(hole)]
