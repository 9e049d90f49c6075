"""``bench write``: how long one write takes until it is durable, with a block for each.

In the process that holds the ledger, through the same service that answers HTTP; and over HTTP from another process.
Beside them stands what the disk takes for a sync of that many bytes: no ledger can be faster than that.
"""

import asyncio
import os
from array import array
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import uvloop

from carechain.bench import machine
from carechain.bench.alone import alone
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import (
    BenchFailed,
    Filled,
    Progress,
    Signers,
    fill,
    from_file,
    plan_of,
    presign,
    scratch_folder,
    silent,
)
from carechain.bench.host import Batch, hosted
from carechain.bench.load import request, run_load
from carechain.bench.tables import render_table
from carechain.bench.workload import TX_BYTES, network_of
from carechain.chain.receipts import OK
from carechain.engine.embedded import BatchPolicy
from carechain.node.service import NodeService

PATIENTS: Final = 200
WRITES: Final = 500
_EACH: Final = Batch(timeout_s=0.0, txs=1)


def run_write(
    *, writes: int = WRITES, patients: int = PATIENTS, folder: Path | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Measure ``writes`` single writes each way, one after the other."""
    with scratch_folder(folder) as scratch:
        plan = plan_of(patients)
        with Signers() as signers:
            filled = fill(
                home=scratch / "home", scratch=scratch, plan=plan, records=0, signers=signers, progress=progress
            )
            load = presign(filled, 2 * writes, scratch=scratch, signers=signers, progress=progress)
        txs = [raw for _, raws in from_file(load) for raw in raws]
        sync_s = sync_latencies(scratch / "sync", writes)
        progress("in process", 0, writes)
        inside_s = alone(_inside, filled, txs[:writes])
        progress("over HTTP", 0, writes)
        with hosted(filled.home, plan, _EACH) as host:
            requests = [request("POST", "/v1/transactions", body=raw) for raw in txs[writes:]]
            http_s = run_load(*host.address, requests, connections=1).latencies_s
    return {
        "bench": "write",
        "engine": "embedded",
        "nodes": 1,
        "payload": f"one records.anchor per transaction, {TX_BYTES} bytes signed",
        "payload_bytes": TX_BYTES,
        "policy": "batch size 1: a block and a sync for each; signature verified; one at a time",
        "writes": writes,
        "p50_ms": milliseconds(percentile(inside_s, 0.5)),
        "p95_ms": milliseconds(percentile(inside_s, 0.95)),
        "http_p50_ms": milliseconds(percentile(http_s, 0.5)),
        "http_p95_ms": milliseconds(percentile(http_s, 0.95)),
        "sync_p50_ms": milliseconds(percentile(sync_s, 0.5)),
        "sync_p95_ms": milliseconds(percentile(sync_s, 0.95)),
        "machine": machine.describe(),
    }


def sync_latencies(path: Path, count: int) -> "array[float]":
    """Seconds for appending a transaction's worth of bytes to a file and syncing it."""
    taken = array("d")
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            began = perf_counter()
            file.write(os.urandom(TX_BYTES))
            os.fsync(file.fileno())
            taken.append(perf_counter() - began)
    return taken


def _inside(filled: Filled, txs: list[bytes]) -> "array[float]":
    return uvloop.run(_submit(filled, txs))


async def _submit(filled: Filled, txs: list[bytes]) -> "array[float]":
    network = network_of(filled.plan)
    service = NodeService.open(
        filled.home,
        network.genesis,
        network.custodian.signing_key(),
        policy=BatchPolicy(timeout_s=_EACH.timeout_s, txs=_EACH.txs),
    )
    taken = array("d")
    try:
        await service.start()
        for raw in txs:
            began = perf_counter()
            outcome = await service.submit(raw)
            taken.append(perf_counter() - began)
            if outcome.receipt.code != OK:
                raise BenchFailed("a transaction was refused")
            # The next client comes in a later turn of the loop, as it would over a socket.
            await asyncio.sleep(0)
    finally:
        await service.drain()
    return taken


def render(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        ("one write, durable, in process", result["p50_ms"], result["p95_ms"]),
        ("one write, durable, over HTTP", result["http_p50_ms"], result["http_p95_ms"]),
        ("the disk's sync alone", result["sync_p50_ms"], result["sync_p95_ms"]),
    ]
    return render_table("bench write", ("", "p50 ms", "p95 ms"), rows, result)
