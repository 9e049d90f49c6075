"""State sync as the engine asks for it: what other nodes may fetch here, and what this node takes from them (LED-8).

What comes in is judged by :mod:`carechain.engine.arrival`; here its verdicts become the engine's. A peer that offers or
sends what cannot be right is named, so that the engine asks others. What the own disk refuses is raised and halts the
node, because guessing about its own state is what it must never do.
"""

from collections.abc import Callable
from typing import Any, Final

import structlog

from carechain.engine.arrival import Arrival, BadChunk, BadSnapshot, Offer, OutOfOrder, UnknownFormat
from carechain.engine.session import Sealer, Session
from carechain.engine.snapshots import Snapshots

OFFER_ACCEPT: Final = 1
OFFER_REJECT: Final = 3
OFFER_REJECT_FORMAT: Final = 4
OFFER_REJECT_SENDER: Final = 5
CHUNK_ACCEPT: Final = 1
CHUNK_RETRY: Final = 3
CHUNK_RETRY_SNAPSHOT: Final = 4
CHUNK_REJECT_SNAPSHOT: Final = 5

_log = structlog.get_logger("carechain.engine")


class StateSync:
    """One node's side of state sync, in both directions."""

    def __init__(
        self, session: Session, sealer: Sealer, *, snapshots: Snapshots | None, arrived: Callable[[], None]
    ) -> None:
        """``snapshots`` are the ones to hand out; ``arrived`` is called when the ledger has begun with another's."""
        self._session = session
        self._sealer = sealer
        self._snapshots = snapshots
        self._arrived = arrived
        self._arrival: Arrival | None = None
        self._senders: list[str] = []

    def close(self) -> None:
        """Leave nothing half done: before the ledger is closed."""
        if self._snapshots is not None:
            self._snapshots.give_up()
        self._give_up()

    # --- handing out --------------------------------------------------------------------------------------

    def list_snapshots(self, _request: Any, response: Any) -> None:  # noqa: ANN401 - messages made at run time
        """Those that are whole here."""
        for one in () if self._snapshots is None else self._snapshots.kept:
            response.snapshots.add(
                height=one.height, format=one.format, chunks=one.chunks, hash=one.hash, metadata=one.metadata
            )

    def load_chunk(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """A chunk; an empty answer says that it is not here."""
        if self._snapshots is not None:
            response.chunk = self._snapshots.chunk(request.height, request.format, request.chunk)

    # --- taking over --------------------------------------------------------------------------------------

    def offer(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """Whether to fetch a snapshot whose app hash the engine has verified."""
        self._give_up()
        folder = self._session.folder
        offered = request.snapshot
        if folder is None or not self._session.may_begin_at:
            response.result = OFFER_REJECT
            return
        try:
            self._arrival = Arrival.begin(
                folder,
                self._session.genesis,
                Offer(
                    height=offered.height,
                    format=offered.format,
                    chunks=offered.chunks,
                    hash=offered.hash,
                    metadata=offered.metadata,
                    app_hash=request.app_hash,
                ),
            )
        except UnknownFormat:
            response.result = OFFER_REJECT_FORMAT
        except BadSnapshot as bad:
            _log.warning("snapshot_refused", height=offered.height, reason=str(bad))
            response.result = OFFER_REJECT_SENDER
        else:
            response.result = OFFER_ACCEPT

    def apply_chunk(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """Take in a chunk; with the last one the ledger begins anew at the snapshot, durably."""
        arrival = self._arrival
        if arrival is None:
            response.result = CHUNK_REJECT_SNAPSHOT
            return
        if request.sender not in self._senders:
            self._senders.append(request.sender)
        try:
            arrival.add(request.index, request.chunk)
            if arrival.is_whole:
                self._begin_at(arrival)
        except OutOfOrder:
            self._give_up()
            response.result = CHUNK_RETRY_SNAPSHOT
        except BadChunk as bad:
            _log.warning("snapshot_chunk_refused", height=arrival.height, reason=str(bad))
            response.result = CHUNK_RETRY
            response.refetch_chunks.append(request.index)
            response.reject_senders.append(request.sender)
        except BadSnapshot as bad:
            _log.warning("snapshot_refused", height=arrival.height, reason=str(bad))
            response.result = CHUNK_REJECT_SNAPSHOT
            # Every chunk was the one that the manifest names, so whoever had them vouches for a false manifest.
            response.reject_senders.extend(self._senders)
            self._give_up()
        else:
            response.result = CHUNK_ACCEPT

    def _begin_at(self, arrival: Arrival) -> None:
        arrived = arrival.finish()
        if self._snapshots is not None:
            # Nothing may read the tree that is about to go.
            self._snapshots.give_up()
        self._session.begin_at(arrived, self._sealer)
        self._arrival = None
        self._senders.clear()
        _log.info("snapshot_taken_over", height=arrived.header.height)
        self._arrived()

    def _give_up(self) -> None:
        if self._arrival is not None:
            self._arrival.give_up()
            self._arrival = None
        self._senders.clear()
