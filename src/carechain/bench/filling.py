"""Fill a ledger through its own front door: signed by worker processes, admitted, ordered, executed, made durable.

The way is the node's: form and signer are checked here, signatures by the engine's verifier process, and while a
block executes the next one's signatures are verified. Time is an argument of the embedded engine, so what is only
preparation runs on simulated block time that ends before the present; what is measured runs on the wall clock.
"""

import multiprocessing
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final, Self, TypeVar

from msgspec import Struct

from carechain.bench.workload import (
    KEYS_A_PATIENT,
    KEYS_A_RECORD,
    TX_BYTES,
    VALIDITY_S,
    Plan,
    Signed,
    network_of,
    sign_anchors,
    sign_enrolments,
    sign_patients,
)
from carechain.chain.receipts import OK
from carechain.core.rejection import RejectionCode
from carechain.engine.admission import Admission
from carechain.engine.embedded import BATCH_TXS, BlockProducer, EmbeddedEngine
from carechain.engine.session import Session
from carechain.engine.verifier import VerifierProcess

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
Timed = tuple[int, list[bytes]]
"""Block time and transactions of one block to be."""

PREPARED_S: Final = 3_600
"""How long before the present a prepared ledger begins; each slice of it takes one simulated second."""
AHEAD: Final = 2
"""Batches under verification while another one executes."""

_SLICE_PATIENTS: Final = 1_000
_SLICE_ANCHORS: Final = 5_000
_SLICES_AHEAD: Final = 4


class BenchFailed(Exception):  # noqa: N818 - names what became of the run
    """A transaction of the load was not done. Figures of a run in which something failed mean nothing."""


class Driven(Struct, frozen=True, kw_only=True):
    """What a run of blocks took. Latency is from handing a transaction in until its block is durable."""

    txs: int
    seconds: float
    latencies_s: list[float]


class Filled(Struct, frozen=True, kw_only=True):
    """A ledger with patients and records. ``anchors`` is the next anchor's number, ``txs`` how many there are."""

    home: Path
    plan: Plan
    pseudonyms: Path
    anchors: int
    txs: int

    @property
    def keys(self) -> int:
        """State keys, apart from the hundred or so of organisations, staff and replay digests."""
        return self.plan.pseudonyms * KEYS_A_PATIENT + self.anchors * KEYS_A_RECORD


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress for whoever does not want to see any."""


def plan_of(pseudonyms: int) -> Plan:
    """A plan whose time begins :data:`PREPARED_S` before now."""
    return Plan(pseudonyms=pseudonyms, genesis_s=int(time.time()) - PREPARED_S)


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that is removed at the end, inside ``parent`` or where the system keeps such things."""
    with tempfile.TemporaryDirectory(prefix="carechain-bench-", dir=parent) as folder:
        yield Path(folder)


class Signers:
    """Worker processes that sign, one per processor; they must have ended before anything is measured."""

    def __init__(self) -> None:
        # A forked child would share this process's sockets and locks; a spawned one shares nothing.
        self._pool = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def patients(self, plan: Plan, time_s: Iterator[int]) -> Iterator[tuple[int, Signed]]:
        """Every patient's transactions in slices, each with the block time it was signed for."""
        return self._slices(
            plan.pseudonyms,
            _SLICE_PATIENTS,
            time_s,
            lambda start, stop, at_s: self._pool.submit(sign_patients, plan, start, stop, at_s + VALIDITY_S),
        )

    def anchors(
        self, plan: Plan, pseudonyms: Path, first: int, count: int, time_s: Iterator[int]
    ) -> Iterator[tuple[int, bytes]]:
        """``count`` anchors from number ``first`` on, in slices."""
        return self._slices(
            count,
            _SLICE_ANCHORS,
            time_s,
            lambda start, stop, at_s: self._pool.submit(
                sign_anchors, plan, pseudonyms, first + start, first + stop, at_s + VALIDITY_S
            ),
        )

    def _slices(
        self, count: int, size: int, time_s: Iterator[int], sign: Callable[[int, int, int], "Future[T]"]
    ) -> Iterator[tuple[int, T]]:
        """A few slices are signed ahead, and no more, so that memory stays bounded."""
        signing: deque[tuple[int, Future[T]]] = deque()
        for start in range(0, count, size):
            at_s = next(time_s)
            signing.append((at_s, sign(start, min(start + size, count), at_s)))
            if len(signing) > _SLICES_AHEAD:
                done_s, slice_ = signing.popleft()
                yield done_s, slice_.result()
        while signing:
            done_s, slice_ = signing.popleft()
            yield done_s, slice_.result()


class Ledger:
    """An open session with its engine and its verifier process."""

    def __init__(self, home: Path, plan: Plan) -> None:
        """Open or start the ledger in ``home``; raises what ``Session.open`` and the system raise."""
        network = network_of(plan)
        with ExitStack() as opened:
            self.session = opened.enter_context(Session.open(home, network.genesis))
            verifier = opened.enter_context(VerifierProcess.start())
            self._engine = EmbeddedEngine(self.session, BlockProducer.of(network.custodian.signing_key()))
            self._admission = Admission(self.session, verifier)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def drive(self, blocks: Iterator[Timed]) -> Driven:
        """Make every block durable, verification running ahead; raises :class:`BenchFailed`."""
        waiting: dict[int, tuple[float, Timed]] = {}
        ready: deque[tuple[float, Timed]] = deque()
        latencies_s: list[float] = []
        txs = 0
        began = perf_counter()
        while True:
            while self._admission.pending < AHEAD and (block := next(blocks, None)) is not None:
                # The clock starts before the bytes are looked at: the check of their form is part of the latency.
                handed_in = perf_counter()
                waiting[self._admission.submit(block[1], time_s=block[0])] = (handed_in, block)
            if not waiting and not ready:
                return Driven(txs=txs, seconds=perf_counter() - began, latencies_s=latencies_s)
            for number, verdicts in self._admission.collect() if ready else self._admission.wait():
                for verdict in verdicts:
                    if isinstance(verdict, RejectionCode):
                        raise BenchFailed(f"a transaction was not admitted: {verdict.label}")
                ready.append(waiting.pop(number))
            handed_in, (time_s, raws) = ready.popleft()
            made = self._engine.produce(time_s=time_s, txs=raws)
            codes = {code for _, code in made.refused} | {
                receipt.code for receipt in made.receipts if receipt.code != OK
            }
            if codes:
                raise BenchFailed(f"transactions were refused with {sorted(codes)}")
            latencies_s.append(perf_counter() - handed_in)
            txs += len(raws)


def fill(*, home: Path, scratch: Path, plan: Plan, records: int, signers: Signers, progress: Progress) -> Filled:
    """Start a ledger in ``home`` with the plan's patients and ``records`` anchored records."""
    pseudonyms = scratch / "pseudonyms"
    seconds = iter(range(plan.genesis_s, plan.genesis_s + PREPARED_S))
    txs = 0
    with Ledger(home, plan) as ledger, pseudonyms.open("wb") as ids:
        first_s = next(seconds)
        txs += ledger.drive(iter([(first_s, sign_enrolments(plan, first_s + VALIDITY_S))])).txs
        done = 0
        for time_s, signed in signers.patients(plan, seconds):
            txs += ledger.drive(iter([(time_s, signed.bindings)])).txs
            txs += ledger.drive(iter([(time_s, signed.grants)])).txs
            ids.write(signed.pseudonyms)
            done += len(signed.grants)
            progress("patients", done, plan.pseudonyms)
        ids.flush()
        done = 0
        for time_s, anchors in signers.anchors(plan, pseudonyms, 0, records, seconds):
            done += ledger.drive((time_s, raws) for raws in cut(anchors)).txs
            progress("records", done, records)
        # An empty block of the present: what the ledger remembers against replay in the simulated hour is forgotten.
        ledger.drive(iter([(int(time.time()), [])]))
    return Filled(home=home, plan=plan, pseudonyms=pseudonyms, anchors=done, txs=txs + done)


def presign(filled: Filled, count: int, *, scratch: Path, signers: Signers, progress: Progress) -> Path:
    """A file of the next ``count`` anchors, valid from now on; kept out of memory, so that memory can be measured."""
    path = scratch / "load"
    now = int(time.time())
    forever = iter(lambda: now, None)
    done = 0
    with path.open("wb") as file:
        for _, anchors in signers.anchors(filled.plan, filled.pseudonyms, filled.anchors, count, forever):
            file.write(anchors)
            done += len(anchors) // TX_BYTES
            progress("signing", done, count)
    return path


def cut(anchors: bytes, size: int = BATCH_TXS) -> Iterator[list[bytes]]:
    """Blocks' worth of transactions from anchors that stand one after the other."""
    txs = [anchors[start : start + TX_BYTES] for start in range(0, len(anchors), TX_BYTES)]
    for start in range(0, len(txs), size):
        yield txs[start : start + size]


def from_file(path: Path, size: int = BATCH_TXS) -> Iterator[Timed]:
    """The blocks of a presigned load, each at the time it is asked for."""
    with path.open("rb") as file:
        while part := file.read(size * TX_BYTES):
            for raws in cut(part, size):
                yield int(time.time()), raws
