"""``bench saturate``: how many presigned 600-byte anchors a second one node makes durable.

The load goes through the embedded engine as in a node: admission, the verifier process, execution, the state tree,
the synced block log, checkpoints. Only HTTP and the queue's bookkeeping are left out. The yardstick is how many
signatures one core verifies in the same run: a node that did nothing else could not do better than a small multiple.

The run has a process of its own, as a node has, and presigned transactions come from a file, so memory is the node's.
"""

from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from carechain.bench import machine
from carechain.bench.alone import alone
from carechain.bench.figures import milliseconds, percentile, verifications_per_s
from carechain.bench.filling import (
    AHEAD,
    Driven,
    Filled,
    Ledger,
    Progress,
    Signers,
    fill,
    from_file,
    plan_of,
    presign,
    scratch_folder,
    silent,
)
from carechain.bench.tables import render_table, shown
from carechain.bench.workload import KEYS_A_PATIENT, KEYS_A_RECORD, RECORDS_A_PATIENT, STAFF, TX_BYTES, VALIDITY_S
from carechain.engine.embedded import BATCH_TXS

KEYS: Final = 24_000
LARGE_KEYS: Final = 100_000
"""From here on the state holds ``keys`` keys before anything is measured; below, when everything is."""
LARGE_WRITES: Final = 60_000
ROUNDS: Final = 3

_SMALL_KEYS_A_PATIENT: Final = 40
"""A small state has a patient for so many of its keys, so that most of them are what the run itself writes."""


class _Shape(Struct, frozen=True, kw_only=True):
    """How a state of a given size comes about: patients, records before the run, anchors of the run."""

    pseudonyms: int
    prepared: int
    writes: int


class Round(Struct, frozen=True, kw_only=True):
    """One measured load. CPU, memory and disk are those of the node alone; ``txs`` is all that the disk holds."""

    driven: Driven
    cpu_s: float
    rss_mb: float
    disk_bytes: int
    txs: int
    anchors: int
    keys: int

    @property
    def tx_per_s(self) -> float:
        """Durable transactions a second."""
        return self.driven.txs / self.driven.seconds


def run_saturate(
    *,
    keys: int = KEYS,
    writes: int | None = None,
    rounds: int | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints. The round with the median rate is reported.

    ``keys`` is the size of the state, ``writes`` the number of anchors measured (default: what fits for a small state,
    60,000 for a large one), ``folder`` where the ledger is put: figures are those of its disk.
    """
    shape = _shape(keys, writes)
    rounds = rounds or (1 if keys >= LARGE_KEYS else ROUNDS)
    yardstick = verifications_per_s()
    measured = [_round(shape, folder, progress) for _ in range(rounds)]
    # The faster of the two, so that a disturbance can only make the ratio look worse.
    yardstick = max(yardstick, verifications_per_s())
    median = sorted(measured, key=lambda one: one.tx_per_s)[len(measured) // 2]
    driven = median.driven
    return {
        "bench": "saturate",
        "engine": "embedded",
        "path": "embedded engine: admission, verifier process, execution, state tree, synced block log, checkpoints",
        "nodes": 1,
        "payload": f"one records.anchor a transaction, {TX_BYTES} bytes signed, {STAFF} signers, presigned, valid"
        f" {VALIDITY_S} s",
        "payload_bytes": TX_BYTES,
        "policy": f"blocks of {BATCH_TXS:,}, one sync a block, up to {AHEAD} blocks under verification while one"
        " executes; no HTTP; block time is the wall clock's (simulated only while the ledger was filled)",
        "writes": driven.txs,
        "keys": median.keys,
        "patients": shape.pseudonyms,
        "tx_per_s": round(median.tx_per_s, 1),
        "verify_per_s": round(yardstick, 1),
        "ratio": round(median.tx_per_s / yardstick, 3),
        "p50_ms": milliseconds(percentile(driven.latencies_s, 0.5)),
        "p95_ms": milliseconds(percentile(driven.latencies_s, 0.95)),
        "cpu_ms_per_tx": round(median.cpu_s * 1000 / driven.txs, 4),
        "rss_mb": round(median.rss_mb, 1),
        "disk_bytes_per_tx": round(median.disk_bytes / median.txs, 1),
        "rounds_tx_per_s": [round(one.tx_per_s, 1) for one in measured],
        "machine": machine.describe(),
    }


def _shape(keys: int, writes: int | None) -> _Shape:
    """Large states hold ten records per patient; small ones are mostly made of what the run itself writes."""
    if keys >= LARGE_KEYS:
        pseudonyms = keys // (KEYS_A_PATIENT + RECORDS_A_PATIENT * KEYS_A_RECORD)
        prepared = (keys - pseudonyms * KEYS_A_PATIENT) // KEYS_A_RECORD
        return _Shape(pseudonyms=pseudonyms, prepared=prepared, writes=writes or LARGE_WRITES)
    pseudonyms = max(1, keys // _SMALL_KEYS_A_PATIENT)
    room = max(1, (keys - pseudonyms * KEYS_A_PATIENT) // KEYS_A_RECORD)
    wanted = min(writes or room, room)
    return _Shape(pseudonyms=pseudonyms, prepared=room - wanted, writes=wanted)


def _round(shape: _Shape, folder: Path | None, progress: Progress) -> Round:
    with scratch_folder(folder) as scratch:
        home = scratch / "home"
        with Signers() as signers:
            filled = fill(
                home=home,
                scratch=scratch,
                plan=plan_of(shape.pseudonyms),
                records=shape.prepared,
                signers=signers,
                progress=progress,
            )
            load = presign(filled, shape.writes, scratch=scratch, signers=signers, progress=progress)
        return measure(filled, load, progress)


def measure(filled: Filled, load: Path, progress: Progress) -> Round:
    """Drive a presigned load into a filled ledger; nothing but node and load runs meanwhile."""
    progress("measuring", 0, 1)
    measured = alone(_measure, filled, load)
    progress("measuring", 1, 1)
    return measured


def _measure(filled: Filled, load: Path) -> Round:
    with Ledger(filled.home, filled.plan) as ledger:
        before = machine.cost_of()
        driven = ledger.drive(from_file(load))
        after = machine.cost_of()
    return Round(
        driven=driven,
        cpu_s=after.cpu_s - before.cpu_s,
        rss_mb=after.rss_mb,
        disk_bytes=machine.disk_bytes(filled.home),
        txs=filled.txs + driven.txs,
        anchors=filled.anchors + driven.txs,
        keys=filled.keys + driven.txs * KEYS_A_RECORD,
    )


def render(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        ("transactions a second, durable", result["tx_per_s"]),
        ("  the rounds, of which the median counts", ", ".join(map(shown, result["rounds_tx_per_s"]))),
        ("signature verifications a second, one core, same run", result["verify_per_s"]),
        ("ratio of the two", result["ratio"]),
        ("from handing a block in until it is durable, p50 / p95, ms", f"{result['p50_ms']} / {result['p95_ms']}"),
        ("CPU a transaction, node and verifier, ms", result["cpu_ms_per_tx"]),
        ("memory, node and verifier, MiB", result["rss_mb"]),
        ("disk a transaction, whole home folder, bytes", result["disk_bytes_per_tx"]),
        ("state keys at the end", result["keys"]),
        ("anchors measured", result["writes"]),
    ]
    return render_table("bench saturate", ("", "here"), rows, result)
