"""What every existing system looks like from here: a chart of one patient now, and single results of it again.

A source keeps its data; this program keeps pointers (:mod:`carechain.sources.pointers`). A result is named by the query
that found it and the parameters it was found with, so that it can be found again, and it is always rendered into the
same bytes while the system says the same. The system is read and never written.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from carechain.charts.schema import ChartsUnavailable
from carechain.core.rejection import Rejected
from carechain.sources.codes import SourceCode

Key = int | str
"""What a system calls a patient or a result; numbers stay numbers, because databases compare by type."""


class SourceUnavailable(ChartsUnavailable):
    """The other system cannot be used now: gone, too slow, or it answers what nobody can read. Holds no value of it."""


class Unmapped(Rejected):
    """A result cannot be turned into FHIR. Names the query and where in its template; never a value."""

    def __init__(self, code: SourceCode, query: str, place: str = "") -> None:
        super().__init__(code)
        self.query = query
        self.place = place


class Pointer(Struct, frozen=True, order=True):
    """One result: the query that finds it, and its key among the results of that query."""

    query: str
    key: Key


class Found(Struct, frozen=True, kw_only=True):
    """A result as the system has it now: a FHIR R4 resource in bytes."""

    pointer: Pointer
    body: bytes

    def __repr__(self) -> str:
        return "Found()"


class Checked(Struct, frozen=True, kw_only=True):
    """What a look at a source found: what it is, its queries, and that nothing can be written through it."""

    product: str
    queries: tuple[str, ...]


class Source(Protocol):
    """An existing system. Every method may be called from several threads.

    Raises :class:`SourceUnavailable` for the environment, ``Rejected`` with a :class:`SourceCode` for what the
    operator set up wrongly.
    """

    def check(self) -> Checked:
        """Look at the system, but at no patient. Raises ``Rejected`` unless it is certain to be only read."""

    def patients(self) -> list[Key]:
        """The keys of all patients there, in order; ``Rejected(CANNOT_LIST)`` where the operator gave no query."""

    def chart(self, patient: Key) -> list[Found]:
        """Everything of one patient now, the Patient resource among it, each result once; an unknown key has none."""

    def read(self, patient: Key, wanted: Sequence[Pointer]) -> list[Found]:
        """These results of one patient as they are now; those that are gone are left out. The queries run again."""

    def close(self) -> None:
        """Let go of every connection."""
