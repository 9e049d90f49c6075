"""Reading a record from the system it stands in: its queries run again, and what they say is checked (REC-2).

The gatekeeper compares what it is given here with the root on the ledger, so a requester gets exactly what was
anchored or a refusal that says it was altered, and never something in between.
"""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from carechain.charts.record import RecordContent, ResourceContent, Tampered
from carechain.core import merkle
from carechain.core.commitment import resource_commitment, resource_leaf
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.sources.base import Found, Pointer, Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.pointers import Plan, Pointers
from carechain.sources.registry import Sources


class Records(Protocol):
    """Where records are read: the charts, and what stands in front of them."""

    def read(self, record_id: bytes, version: int | None = None) -> RecordContent:
        """A record as it is now; raises ``Rejected`` for none, ``Tampered`` for an unreadable one."""


class SourceReader:
    """All records of an organisation: those of its sources from where they stand, all others from its charts."""

    def __init__(
        self, *, charts: Records, sources: Sources, institution: Institution = Institution.INTERNATIONAL
    ) -> None:
        """``institution`` is the network's suite. ``charts`` stay the caller's, ``sources`` become the reader's."""
        self._charts = charts
        self._sources = sources
        self._institution = institution
        self._opened: Pointers | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the pointers and of every source."""
        if self._opened is not None:
            self._opened.close()
        self._sources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, record_id: bytes, version: int | None = None) -> RecordContent:
        """A record as its system says it now; the newest version unless one is named.

        Raises ``Rejected``: the record is gone, or the version named says what the system no longer says. Raises
        ``Tampered`` when it cannot be what was anchored, and ``SourceUnavailable``.
        """
        pointers = self._pointers()
        if pointers is None or not pointers.holds(record_id):
            return self._charts.read(record_id, version)
        plan = pointers.plan(record_id, version)
        bodies = self._bodies(plan)
        if not bodies:
            raise Rejected(SourceCode.RESULT_GONE)
        unaltered = all(
            one.pointer in bodies
            and resource_commitment(one.salt, bodies[one.pointer], self._institution) == one.commitment
            for one in plan.members
        )
        if not unaltered and not plan.newest:
            raise Rejected(SourceCode.VERSION_NOT_KEPT)
        if any(one.pointer not in bodies for one in plan.members):
            raise Tampered("a result that was anchored is no longer there")
        return self._content(plan, bodies)

    def held_among(self, named: Sequence[tuple[bytes, bytes]]) -> set[tuple[bytes, bytes]]:
        """Of which of these records (pseudonym, record id) there are pointers."""
        pointers = self._pointers()
        return set() if pointers is None else pointers.held_among(named)

    def erase(self, pseudonym: bytes, record_id: bytes, *, erased_s: int) -> bool:
        """Destroy a record's pointers and salts; False when there were none. See :meth:`Pointers.erase`."""
        pointers = self._pointers()
        return pointers is not None and pointers.erase(pseudonym, record_id, erased_s=erased_s)

    def _pointers(self) -> Pointers | None:
        """The pointers, once there are any: an organisation without sources has no such file."""
        with self._lock:
            if self._opened is None and self._sources.pointers.is_file():
                self._opened = Pointers.open(self._sources.pointers)
            return self._opened

    def _bodies(self, plan: Plan) -> dict[Pointer, bytes]:
        """The members' bytes as the system gives them now; gone ones are missing."""
        source = self._sources.source(plan.source)
        try:
            found: list[Found] = source.read(plan.patient, [one.pointer for one in plan.members])
        except Unmapped:
            # It could be turned into FHIR when it was anchored.
            raise Tampered("a result that was anchored now says what the mapping does not know") from None
        return {one.pointer: one.body for one in found}

    def _content(self, plan: Plan, bodies: dict[Pointer, bytes]) -> RecordContent:
        leaves = [resource_leaf(one.salt, bodies[one.pointer], self._institution) for one in plan.members]
        paths = merkle.prove_all(leaves)
        resources = tuple(
            ResourceContent(
                resource_type=one.facts.resource_type,
                resource_id=one.facts.resource_id,
                version=one.version,
                body=bodies[one.pointer],
                salt=one.salt,
                index=index,
                path=tuple(paths[index]),
            )
            for index, one in enumerate(plan.members)
        )
        return RecordContent(record=plan.record, sensitivity=plan.sensitivity, resources=resources)
