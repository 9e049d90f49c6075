"""The benchmarks of a consortium: the same payload, but every block is agreed on by several organisations' nodes.

``saturate`` deals presigned anchors out over all nodes and waits for durable receipts; ``write`` sends one at a time
to each node of an idle network; ``healthchain`` repeats the paper's tables with its number of peers. All nodes, their
engines and the client share this one machine.
"""

import time
from pathlib import Path
from typing import Any, Final

from carechain.bench import machine
from carechain.bench.cluster import BATCH_TXS, Cluster, Timing, cluster, register
from carechain.bench.figures import milliseconds, percentile, verifications_per_s
from carechain.bench.filling import BenchFailed, Filled, Progress, Signers, from_file, presign, scratch_folder, silent
from carechain.bench.healthchain import ONE_BY_ONE, SETTINGS, TOGETHER, Setting, plain
from carechain.bench.load import Load, request, run_load, run_loads
from carechain.bench.read import anchor_requests
from carechain.bench.tables import render_table
from carechain.bench.workload import KEYS_A_RECORD, STAFF, TX_BYTES, VALIDITY_S, Plan

VALIDATORS: Final = 4
PATIENTS: Final = 600
WRITES: Final = 20_000
SINGLE_WRITES: Final = 25
"""At each node."""
CONNECTIONS: Final = 1
PAPER_PEERS: Final = 6
RECORDS: Final = 1_000
SIGNED_AHEAD: Final = 20_000
"""So many are ordered long before they expire."""
SNAPSHOT_EVERY: Final = 10
"""Blocks, for the late node by snapshot: with thousands of transactions there are some fifty blocks only."""
FULL_BLOCKS: Final = 3
"""So many blocks' worth of writes are measured at once: with one transaction every twenty seconds a thousand would take
hours."""
QUICK_WRITES: Final = 100
"""At once where no block waits."""
_CATCH_UP_S: Final = 600.0
_LOOK_S: Final = 0.05
_MEASURED: Final = "nodes, engines and client share this machine"


def run_saturate(
    *,
    validators: int = VALIDATORS,
    patients: int = PATIENTS,
    writes: int = WRITES,
    connections: int = CONNECTIONS,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure ``writes`` anchors over ``connections`` a node, each with batches of :data:`BATCH_TXS` under way."""
    yardstick = verifications_per_s()
    with scratch_folder(folder) as scratch:
        plan = _plan(patients, validators)
        with cluster(plan, scratch) as nodes:
            txs = _prepared(nodes, scratch, writes, progress)
            before, first = nodes.costs(), nodes.hosts[0].status.height
            progress("measuring", 0, 1)
            load = nodes.send(txs, connections=connections)
            after, last = nodes.costs(), nodes.hosts[0].status.height
            nodes.agree()
            progress("measuring", 1, 1)
        disk = sum(machine.disk_bytes(scratch / f"node-{one + 1}") for one in range(validators)) / validators
    programs = sorted({name for one in after for name in one})
    table: list[dict[str, Any]] = [
        {
            "program": name,
            "cpu_ms_per_tx": round(
                sum(late[name].cpu_s - early[name].cpu_s for early, late in zip(before, after, strict=True))
                * 1000
                / writes
                / validators,
                4,
            ),
            "rss_mb": round(sum(one[name].rss_mb for one in after) / validators, 1),
        }
        for name in programs
    ]
    ordered = writes + _registrations(patients)
    return {
        "bench": "saturate",
        "engine": "cometbft",
        "nodes": validators,
        "payload": f"one records.anchor a transaction, {TX_BYTES} bytes signed, {STAFF} signers, presigned, valid"
        f" {VALIDITY_S} s",
        "payload_bytes": TX_BYTES,
        "policy": f"{validators} validators, more than two thirds sign each block; every node verifies, executes and"
        f" syncs all; {connections} client connection(s) a node with {BATCH_TXS} transactions under way each, over"
        f" HTTP; {_MEASURED}",
        "writes": writes,
        "keys": patients * 8 + writes * KEYS_A_RECORD,
        "tx_per_s": round(writes / load.seconds, 1),
        "verify_per_s": round(yardstick, 1),
        "blocks": last - first,
        "p50_ms": milliseconds(percentile(load.latencies_s, 0.5)),
        "p95_ms": milliseconds(percentile(load.latencies_s, 0.95)),
        "cpu_ms_per_tx": round(sum(one["cpu_ms_per_tx"] for one in table) * validators, 4),
        "processes": table,
        "rss_mb": round(sum(one.rss_mb for costs in after for one in costs.values()), 1),
        "disk_bytes_per_tx": round(disk / ordered, 1),
        "machine": machine.describe(),
    }


def render_saturate(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        ("transactions a second, durable on every node", result["tx_per_s"]),
        ("signature verifications a second, one core, same run", result["verify_per_s"]),
        ("from sending a batch until all of it is durable, p50 / p95, ms", f"{result['p50_ms']} / {result['p95_ms']}"),
        ("blocks", result["blocks"]),
        ("CPU a transaction, all nodes and engines, ms", result["cpu_ms_per_tx"]),
        *(
            (
                f"  {one['program']} of one organisation: CPU ms a transaction, MiB",
                f"{one['cpu_ms_per_tx']}, {one['rss_mb']}",
            )
            for one in result["processes"]
        ),
        ("memory, all nodes and engines, MiB", result["rss_mb"]),
        ("disk a transaction, whole home folder of one node, bytes", result["disk_bytes_per_tx"]),
        ("anchors measured", result["writes"]),
    ]
    return render_table(f"bench saturate, {result['nodes']} validators", ("", "here"), rows, result)


def run_write(
    *,
    validators: int = VALIDATORS,
    writes: int = SINGLE_WRITES,
    patients: int = 50,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure ``writes`` single writes at each node, one after the other, nothing else going on."""
    with scratch_folder(folder) as scratch:
        plan = _plan(patients, validators)
        with cluster(plan, scratch) as nodes:
            txs = _prepared(nodes, scratch, writes * validators, progress)
            rows = []
            for place, host in enumerate(nodes.hosts):
                progress("writing", place, validators)
                taken = [nodes.write_one(host, raw) for raw in txs[place::validators]]
                rows.append(
                    {
                        "node": place + 1,
                        "p50_ms": milliseconds(percentile(taken, 0.5)),
                        "p95_ms": milliseconds(percentile(taken, 0.95)),
                    }
                )
    return {
        "bench": "write",
        "engine": "cometbft",
        "nodes": validators,
        "payload": f"one records.anchor per transaction, {TX_BYTES} bytes signed",
        "payload_bytes": TX_BYTES,
        "policy": f"{validators} validators, one write at a time over HTTP, until it is durable at the node that was"
        f" asked; the next one when the network is idle again; {_MEASURED}",
        "writes": writes * validators,
        "p50_ms": max(one["p50_ms"] for one in rows),
        "p95_ms": max(one["p95_ms"] for one in rows),
        "rows": rows,
        "machine": machine.describe(),
    }


def render_write(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [(f"node {one['node']}", one["p50_ms"], one["p95_ms"]) for one in result["rows"]]
    columns = ("one write at", "p50 ms", "p95 ms")
    return render_table(f"bench write, {result['nodes']} validators", columns, rows, result)


def run_healthchain(
    *,
    settings: tuple[Setting, ...] = SETTINGS,
    validators: int = PAPER_PEERS,
    records: int = RECORDS,
    together: int = TOGETHER,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure every setting with as many validators as the paper had peers."""
    machine.allow_open_files(together + 200)
    rows = [
        _row(one, timing, validators, records, together, folder, progress)
        for one in settings
        for timing in timings_of(one)
    ]
    return {
        "bench": "healthchain",
        "engine": "cometbft",
        "nodes": validators,
        "payload": f"write: one records.anchor, {TX_BYTES} bytes signed; read: a record's anchor by id, CON-3 checked",
        "payload_bytes": TX_BYTES,
        "policy": "approximate: the batch timeout is the engine's wait after a block (timeout_commit, never skipped),"
        " the batch size a cap on the transactions of a proposal. So a block goes out when the wait is over, full or"
        " not, and a write waits for what is left of it; a batch of one, which in the paper never waits, is shown"
        f" without the wait too. One read is the p50 of {ONE_BY_ONE}, one write is one; {together:,} reads at once;"
        f" writes at once: what fills {FULL_BLOCKS} blocks ({QUICK_WRITES} where nothing waits), at most"
        f" {together:,}, a connection each, dealt out over all nodes; {_MEASURED}",
        "compared": "not of this run. paper: Fabric with six peers, 2021. Fabric 3.1.5: our measurement, six peers and"
        " one orderer with TLS, clients that sign, all on one 2-vCPU AMD EPYC (Zen 4)",
        "together": together,
        "rows": rows,
        "machine": machine.describe(),
    }


def timings_of(setting: Setting) -> tuple[Timing, ...]:
    """The engine's settings that stand for a batch setting of the paper's."""
    batch = setting.batch
    waiting = Timing(commit_wait_ms=int(batch.timeout_s * 1000), skip_commit_wait=False, block_txs=batch.txs)
    return (waiting,) if batch.txs > 1 else (waiting, Timing(block_txs=batch.txs))


def _row(
    setting: Setting,
    timing: Timing,
    validators: int,
    records: int,
    together: int,
    folder: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    timeout_s = 0.0 if timing.skip_commit_wait else setting.batch.timeout_s
    name = f"({timeout_s:g} s, {setting.batch.txs})"
    with scratch_folder(folder) as scratch:
        plan = _plan(max(1, records // 5), validators)
        # Registered quickly; the setting under test begins with the restart.
        with cluster(plan, scratch) as nodes:
            nodes.send(_prepared(nodes, scratch, records, progress))
        progress(name, 0, 1)
        filled = _filled(plan, scratch, records)
        with cluster(plan, scratch, timing) as nodes:
            at_once = QUICK_WRITES if timing.skip_commit_wait else FULL_BLOCKS * setting.batch.txs
            measured = _measure(nodes, filled, together, min(together, at_once))
        progress(name, 1, 1)
    return {
        "timeout_s": timeout_s,
        "size": setting.batch.txs,
        **measured,
        "paper": plain(setting.paper),
        "fabric": plain(setting.fabric),
    }


def _measure(nodes: Cluster, filled: Filled, reads_at_once: int, writes_at_once: int) -> dict[str, Any]:
    host = nodes.hosts[0]
    reads = anchor_requests(host, filled, max(ONE_BY_ONE, reads_at_once))
    one_read = run_load(*host.address, reads[:ONE_BY_ONE], connections=1)
    many_reads = run_load(*host.address, reads[:reads_at_once], connections=reads_at_once)
    # Signed only now: with long waits they would expire before their turn.
    txs = _signed(nodes.plan, filled.home, filled.anchors, 1 + writes_at_once, silent)
    writes = [request("POST", "/v1/transactions", body=raw) for raw in txs]
    one_write = run_load(*host.address, writes[:1], connections=1)
    count = len(nodes.hosts)
    dealt = [(one.address, writes[1 + place :: count]) for place, one in enumerate(nodes.hosts)]
    many_writes: Load = run_loads([one for one in dealt if one[1]], connections=writes_at_once)
    return {
        "read_ms": milliseconds(percentile(one_read.latencies_s, 0.5)),
        "reads_per_s": round(many_reads.per_s, 1),
        "write_ms": milliseconds(one_write.latencies_s[0]),
        "writes_per_s": round(many_writes.per_s, 2),
    }


def run_catch_up(
    *,
    validators: int = VALIDATORS,
    patients: int = PATIENTS,
    writes: int = WRITES,
    snapshot_every: int = SNAPSHOT_EVERY,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """How long a node that was away from the first block on takes to have everything: by blocks, and by a snapshot."""
    with scratch_folder(folder) as scratch:
        plan = _plan(patients, validators)
        with cluster(plan, scratch, late=1, snapshot_every=snapshot_every) as nodes:
            nodes.send(_prepared(nodes, scratch, min(writes, SIGNED_AHEAD), progress))
            for first in range(SIGNED_AHEAD, writes, SIGNED_AHEAD):
                nodes.send(_signed(plan, scratch, first, min(SIGNED_AHEAD, writes - first), progress))
            progress("catching up", 0, 2)
            height, by_blocks_s = _caught_up(nodes, by_snapshot=False)
            progress("catching up", 1, 2)
            snapshot = nodes.snapshots_made()
            if not snapshot:
                raise BenchFailed("no snapshot was made: write more, or make them more often")
            _, by_snapshot_s = _caught_up(nodes, by_snapshot=True)
            progress("catching up", 2, 2)
    ordered = writes + _registrations(patients)
    return {
        "bench": "catch-up",
        "engine": "cometbft",
        "nodes": validators,
        "payload": f"{ordered:,} transactions in {height} blocks, {writes:,} of them anchors of {TX_BYTES} bytes",
        "payload_bytes": TX_BYTES,
        "policy": "from the start of the process, on an empty home, until it has the height that the others had then;"
        f" a snapshot every {snapshot_every} blocks, the newest of height {snapshot}, the rest by blocks; the engine"
        f" itself waits 5 s for offers of snapshots; {_MEASURED}",
        "writes": ordered,
        "seconds": round(by_blocks_s, 2),
        "tx_per_s": round(ordered / by_blocks_s, 1),
        "snapshot_seconds": round(by_snapshot_s, 2),
        "machine": machine.describe(),
    }


def _caught_up(nodes: Cluster, *, by_snapshot: bool) -> tuple[int, float]:
    """The height that was to be reached, and the seconds from the start of the late node's process until it was."""
    height = nodes.hosts[0].status.height
    began = time.monotonic()
    with nodes.late_comer(by_snapshot=by_snapshot) as late:
        while late.status.height < height:
            if time.monotonic() - began > _CATCH_UP_S:
                raise BenchFailed("the late node does not catch up")
            time.sleep(_LOOK_S)
        return height, time.monotonic() - began


def render_catch_up(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        ("transactions that the network had ordered", result["writes"]),
        ("by blocks: seconds from the start of the late node's process", result["seconds"]),
        ("  transactions fetched and executed a second", result["tx_per_s"]),
        ("by a snapshot and the blocks after it: seconds", result["snapshot_seconds"]),
    ]
    return render_table(f"bench catch-up, {result['nodes']} validators", ("", "here"), rows, result)


def _plan(patients: int, validators: int) -> Plan:
    return Plan(pseudonyms=patients, genesis_s=int(time.time()), validators=validators)


def _registrations(patients: int) -> int:
    """Bindings go 32 to a transaction, grants one by one; a handful of enrolments."""
    return patients + -(-patients // 32) + 3


def _filled(plan: Plan, scratch: Path, anchors: int) -> Filled:
    return Filled(home=scratch, plan=plan, pseudonyms=scratch / "pseudonyms", anchors=anchors, txs=0)


def _prepared(nodes: Cluster, scratch: Path, writes: int, progress: Progress) -> list[bytes]:
    """Register the plan's patients; returns presigned anchors."""
    with Signers() as signers:
        register(nodes, signers, scratch / "pseudonyms", progress)
    return _signed(nodes.plan, scratch, 0, writes, progress)


def _signed(plan: Plan, scratch: Path, first: int, count: int, progress: Progress) -> list[bytes]:
    """``count`` anchors from number ``first`` on, valid from now on."""
    with Signers() as signers:
        path = presign(_filled(plan, scratch, first), count, scratch=scratch, signers=signers, progress=progress)
    return [raw for _, raws in from_file(path) for raw in raws]
