"""``bench growth``: what a ledger a thousand times larger costs: reading, writing, disk, memory.

Patients grow with the records, ten each, so an answer has the same size on every line. Each size is a ledger of its
own, every record a 600-byte transaction that went through blocks; the last of them are measured. Reads go to a node
that was just started, each about another patient while there are enough: a large state gets no warmer than a real one.
"""

from pathlib import Path
from typing import Any, Final

from carechain.bench import machine
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import Progress, Signers, fill, plan_of, presign, scratch_folder, silent
from carechain.bench.host import Batch, hosted
from carechain.bench.load import run_load
from carechain.bench.read import MAY_READ, TIMELINE, queries_of, repeated
from carechain.bench.saturate import measure
from carechain.bench.tables import render_table
from carechain.bench.workload import RECORDS_A_PATIENT, TX_BYTES
from carechain.engine.embedded import BATCH_TIMEOUT_S, BATCH_TXS

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
MEASURED: Final = 20_000
READS: Final = 2_000


def run_growth(
    *,
    sizes: tuple[int, ...] = SIZES,
    reads: int = READS,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure every size; a million records take a few minutes to sign and write."""
    rows = [_row(records, reads, folder, progress) for records in sizes]
    return {
        "bench": "growth",
        "engine": "embedded",
        "nodes": 1,
        "payload": f"one records.anchor a transaction, {TX_BYTES} bytes signed; {RECORDS_A_PATIENT} records a patient",
        "payload_bytes": TX_BYTES,
        "policy": f"writes as in saturate, the last {MEASURED:,} (at most half) measured; reads over HTTP as in read,"
        f" one at a time, {reads:,} of each kind by a node just started; disk is the whole home folder, divided by all"
        " transactions, and by the records alone",
        "rows": rows,
        "read_ratio": round(rows[-1]["read_p50_ms"] / rows[0]["read_p50_ms"], 3),
        "machine": machine.describe(),
    }


def _row(records: int, reads: int, folder: Path | None, progress: Progress) -> dict[str, Any]:
    measured = min(MEASURED, max(1, records // 2))
    with scratch_folder(folder) as scratch:
        plan = plan_of(max(1, records // RECORDS_A_PATIENT))
        with Signers() as signers:
            filled = fill(
                home=scratch / "home",
                scratch=scratch,
                plan=plan,
                records=records - measured,
                signers=signers,
                progress=progress,
            )
            load = presign(filled, measured, scratch=scratch, signers=signers, progress=progress)
        written = measure(filled, load, progress)
        with hosted(filled.home, plan, Batch(BATCH_TIMEOUT_S, BATCH_TXS)) as host:
            latencies = {
                name: run_load(*host.address, repeated(requests, reads), connections=1).latencies_s
                for name, requests in queries_of(host, filled).items()
            }
            node_rss_mb = host.cost().rss_mb
    return {
        "records": records,
        "keys": written.keys,
        "writes": written.driven.txs,
        "read_p50_ms": milliseconds(percentile(latencies[TIMELINE], 0.5)),
        "may_read_p50_ms": milliseconds(percentile(latencies[MAY_READ], 0.5)),
        "tx_per_s": round(written.tx_per_s, 1),
        "disk_bytes_per_tx": round(written.disk_bytes / written.txs, 1),
        "disk_bytes_per_record": round(written.disk_bytes / written.anchors, 1),
        "rss_mb": round(written.rss_mb, 1),
        "reading_rss_mb": round(node_rss_mb, 1),
    }


def render(result: dict[str, Any]) -> str:
    """The result as a table."""
    columns = {
        "records": "records",
        "read_p50_ms": "timeline p50 ms",
        "may_read_p50_ms": "may read p50 ms",
        "tx_per_s": "tx/s",
        "writes": "of writes",
        "disk_bytes_per_tx": "disk bytes/tx",
        "disk_bytes_per_record": "bytes/record",
        "rss_mb": "writing MiB",
        "reading_rss_mb": "reading MiB",
    }
    rows = [tuple(row[name] for name in columns) for row in result["rows"]]
    return render_table("bench growth", tuple(columns.values()), rows, result)
