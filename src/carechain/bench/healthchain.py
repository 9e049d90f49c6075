"""``bench healthchain``: the four tables of the HealthChain paper (2021), redone here and printed beside its figures.

The paper ran Hyperledger Fabric with six peers and three batch settings: a block when so many seconds have passed or
so many writes wait. We run one node with the same settings on real time, over HTTP, one request and then a thousand
at once, each on a connection of its own. Fabric 3.1.5, measured by us on a 2-core machine, stands beside both. Neither
comparison is of this run: what one node of ours does without consensus, six peers do with it.
"""

from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from carechain.bench import machine
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import (
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
from carechain.bench.read import anchor_requests
from carechain.bench.tables import render_table
from carechain.bench.workload import TX_BYTES
from carechain.core.limits import HEARTBEAT_S

PATIENTS: Final = 200
RECORDS: Final = 2_000
TOGETHER: Final = 1_000
ONE_BY_ONE: Final = 200
_OTHER_FILES: Final = 200
"""What client and node each have open beside a socket for every request."""


class Figures(Struct, frozen=True, kw_only=True):
    """What somebody else measured. None where there is no figure."""

    read_ms: float | None = None
    reads_per_s: float | None = None
    write_ms: float
    writes_per_s: float


class Setting(Struct, frozen=True, kw_only=True):
    """One batch setting, the paper's figures for it, and those of Fabric 3.1.5 on a machine like ours."""

    batch: Batch
    paper: Figures
    fabric: Figures


SETTINGS: Final = (
    Setting(
        batch=Batch(timeout_s=20.0, txs=1000, eager=False),
        paper=Figures(read_ms=142.0, reads_per_s=10.259, write_ms=20_379.0, writes_per_s=7.043),
        fabric=Figures(read_ms=1.4, reads_per_s=2_700.0, write_ms=20_000.0, writes_per_s=440.0),
    ),
    Setting(
        batch=Batch(timeout_s=20.0, txs=1, eager=False),
        paper=Figures(read_ms=122.0, reads_per_s=10.440, write_ms=437.0, writes_per_s=1.570),
        fabric=Figures(read_ms=1.4, reads_per_s=2_700.0, write_ms=13.0, writes_per_s=135.0),
    ),
    Setting(
        batch=Batch(timeout_s=2.0, txs=10, eager=False),
        paper=Figures(read_ms=105.0, reads_per_s=10.115, write_ms=2_306.0, writes_per_s=6.321),
        fabric=Figures(read_ms=1.4, reads_per_s=2_700.0, write_ms=2_010.0, writes_per_s=335.0),
    ),
)


def run_healthchain(
    *,
    settings: tuple[Setting, ...] = SETTINGS,
    together: int = TOGETHER,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure every setting; real timeouts are waited for. Raises ``OSError`` where so many sockets are not allowed."""
    machine.allow_open_files(together + _OTHER_FILES)
    rows = [_row(one, together, folder, progress) for one in settings]
    return {
        "bench": "healthchain",
        "engine": "embedded",
        "nodes": 1,
        "payload": f"write: one records.anchor, {TX_BYTES} bytes signed; read: a record's anchor by id, CON-3 checked",
        "payload_bytes": TX_BYTES,
        "policy": f"batch (timeout, size) as named, real time, and a block at least every {HEARTBEAT_S} s, which takes"
        f" waiting writes along; one read is the p50 of {ONE_BY_ONE}, one write is one; {together:,} at once over"
        f" {together:,} connections; here: presigned, without TLS",
        "compared": "not of this run. paper: Fabric with six peers, 2021. Fabric 3.1.5: our measurement, six peers and"
        " one orderer with TLS, clients that sign, all on one 2-vCPU AMD EPYC (Zen 4)",
        "together": together,
        "rows": rows,
        "machine": machine.describe(),
    }


def _row(setting: Setting, together: int, folder: Path | None, progress: Progress) -> dict[str, Any]:
    name = f"({setting.batch.timeout_s:g} s, {setting.batch.txs})"
    with scratch_folder(folder) as scratch:
        plan = plan_of(PATIENTS)
        with Signers() as signers:
            filled = fill(
                home=scratch / "home", scratch=scratch, plan=plan, records=RECORDS, signers=signers, progress=progress
            )
            load = presign(filled, 1 + together, scratch=scratch, signers=signers, progress=progress)
        progress(name, 0, 1)
        measured = _measure(setting.batch, filled, load, together)
        progress(name, 1, 1)
    return {
        "timeout_s": setting.batch.timeout_s,
        "size": setting.batch.txs,
        **measured,
        "paper": plain(setting.paper),
        "fabric": plain(setting.fabric),
    }


def _measure(batch: Batch, filled: Filled, load: Path, together: int) -> dict[str, Any]:
    writes = [request("POST", "/v1/transactions", body=raw) for _, raws in from_file(load) for raw in raws]
    with hosted(filled.home, filled.plan, batch) as host:
        reads = anchor_requests(host, filled, max(ONE_BY_ONE, together))
        one_read = run_load(*host.address, reads[:ONE_BY_ONE], connections=1)
        many_reads = run_load(*host.address, reads[:together], connections=together)
        one_write = run_load(*host.address, writes[:1], connections=1)
        many_writes = run_load(*host.address, writes[1:], connections=together)
    return {
        "read_ms": milliseconds(percentile(one_read.latencies_s, 0.5)),
        "reads_per_s": round(many_reads.per_s, 1),
        "write_ms": milliseconds(one_write.latencies_s[0]),
        "writes_per_s": round(many_writes.per_s, 1),
    }


def plain(figures: Figures) -> dict[str, float | None]:
    """As the result shows them."""
    return {name: getattr(figures, name) for name in figures.__struct_fields__}


def _here(result: dict[str, Any]) -> str:
    return "here, 1 node" if result["nodes"] == 1 else f"here, {result['nodes']} validators"


def render(result: dict[str, Any]) -> str:
    """The result as a table: for each setting ours, the paper's and Fabric's."""
    names = ("read_ms", "reads_per_s", "write_ms", "writes_per_s")
    rows = [
        (f"({row['timeout_s']:g} s, {row['size']:,})  {who}", *(figures[name] for name in names))
        for row in result["rows"]
        for who, figures in ((_here(result), row), ("paper", row["paper"]), ("Fabric 3.1.5", row["fabric"]))
    ]
    at_once = f"{result['together']:,} at once"
    writes_at_once = at_once if result["nodes"] == 1 else "at once"
    columns = ("batch", "one read ms", f"reads/s, {at_once}", "one write ms", f"writes/s, {writes_at_once}")
    return render_table("bench healthchain", columns, rows, result)
