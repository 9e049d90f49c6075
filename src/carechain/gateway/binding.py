"""Charts that came before their patient was registered go over to the pseudonym that the registrar bound (ID-3).

A patient whom another system wrote over FHIR, or whom nobody has registered yet, is filed under a provisional pseudonym
and never anchored. This looks the patient's existing id up on the ledger, by the registrar's own keyed hash, and when a
pseudonym is bound to it the chart goes over; from then on the outbox anchors it. The id itself leaves nothing.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from carechain.charts.schema import ChartsUnavailable
from carechain.core.rejection import Rejected

EVERY_S: Final = 2.0
"""How often the next patients are looked at."""
BATCH: Final = 500
"""Patients looked at in one turn: some milliseconds of work."""
_log = structlog.get_logger("carechain.gateway")
Waiting = tuple[str, str]
"""A patient's local id, and the existing id that is known of it."""


class Charts(Protocol):
    """What this needs of the charts. Both block; both raise ``ChartsUnavailable``."""

    def unbound(self, after: str, limit: int) -> Sequence[Waiting]:
        """Patients without a pseudonym of the ledger but with an existing id, by local id from behind ``after``."""

    def bind(self, patient_id: str, pseudonym: bytes) -> bool:
        """Move the chart; raises ``Rejected`` where patient or pseudonym already belong to another."""


class Registry(Protocol):
    """Who is registered here."""

    def pseudonym(self, value: str) -> bytes | None:
        """The pseudonym that the registrar bound to an existing id."""


class Binder:
    """Goes through the unbound patients, some at a turn, for ever."""

    def __init__(self, *, charts: Charts, registry: Registry) -> None:
        self._charts = charts
        self._registry = registry
        self._after = ""

    async def run(self, stop: asyncio.Event, *, every_s: float = EVERY_S) -> None:
        """Bind at intervals until ``stop`` is set. What cannot be done now is tried again when its turn comes."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                try:
                    await self.turn()
                except ChartsUnavailable as unavailable:
                    _log.error("storage_unavailable", kind=type(unavailable).__name__, reason=str(unavailable))

    async def turn(self) -> int:
        """Look at the next patients; returns how many charts moved. Raises ``ChartsUnavailable``."""
        waiting = await asyncio.to_thread(self._charts.unbound, self._after, BATCH)
        self._after = waiting[-1][0] if len(waiting) == BATCH else ""
        # The ledger is read here, in the loop that owns it; the charts are written in a thread.
        found = [(patient_id, self._registry.pseudonym(value)) for patient_id, value in waiting]
        moved = 0
        for patient_id, pseudonym in found:
            if pseudonym is not None:
                moved += await self._bind(patient_id, pseudonym)
        return moved

    async def _bind(self, patient_id: str, pseudonym: bytes) -> bool:
        try:
            return await asyncio.to_thread(self._charts.bind, patient_id, pseudonym)
        except Rejected as refused:
            # Two local patients with one existing id: people have to look at that.
            _log.warning("chart_not_bound", label=refused.code.label, pseudonym=pseudonym.hex())
            return False
