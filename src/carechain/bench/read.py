"""``bench read``: "may X read Y" and a patient's timeline over HTTP, by a doctor of another hospital.

Client and node are two processes that share the machine. Every request carries a session and passes the three
checks of CON-3 against the committed state: live member, role, authorised by the patient (here: by a grant).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from carechain.bench import machine
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import BenchFailed, Filled, Progress, Signers, fill, plan_of, scratch_folder, silent
from carechain.bench.host import Batch, Host, hosted
from carechain.bench.load import request, run_load
from carechain.bench.tables import render_table
from carechain.bench.workload import network_of, patient_of, record_of
from carechain.chain.questions import MayRead, OfRecord, TimelinePage
from carechain.core.limits import ID_SIZE
from carechain.core.scope import Scope
from carechain.core.vocabulary import ALL_CATEGORIES, Purpose, Sensitivity
from carechain.engine.embedded import BATCH_TIMEOUT_S, BATCH_TXS
from carechain.sdk.answers import QueryAnswer

PATIENTS: Final = 1_000
RECORDS: Final = 10_000
ONE_BY_ONE: Final = 2_000
TOGETHER: Final = 20_000
CONNECTIONS: Final = 32
DISTINCT: Final = 2_000
"""So many different requests are sent in turn, each about another patient, so that no single answer stays warm."""

MAY_READ: Final = "may_read"
TIMELINE: Final = "timeline"
_PATHS: Final = {MAY_READ: "/v1/query/access.may_read", TIMELINE: "/v1/query/records.timeline"}


def run_read(
    *,
    patients: int = PATIENTS,
    records: int = RECORDS,
    one_by_one: int = ONE_BY_ONE,
    together: int = TOGETHER,
    connections: int = CONNECTIONS,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure; latencies come from one client that waits for each answer, rates from ``connections`` of them."""
    with scratch_folder(folder) as scratch:
        plan = plan_of(patients)
        with Signers() as signers:
            filled = fill(
                home=scratch / "home",
                scratch=scratch,
                plan=plan,
                records=records,
                signers=signers,
                progress=progress,
            )
        with hosted(filled.home, plan, Batch(BATCH_TIMEOUT_S, BATCH_TXS)) as host:
            queries = [
                _measure(host, name, requests, one_by_one, together, connections, progress)
                for name, requests in queries_of(host, filled).items()
            ]
            rss_mb = host.cost().rss_mb
    return {
        "bench": "read",
        "engine": "embedded",
        "nodes": 1,
        "payload": f"{patients:,} patients, {records:,} records; msgpack, {records // patients} lines a timeline",
        "policy": f"HTTP/1.1 keep-alive, session and CON-3 checks on; p50/p95 one at a time, rate over {connections}"
        " connections; client on the same machine",
        "connections": connections,
        "records": records,
        "queries": queries,
        "rss_mb": round(rss_mb, 1),
        "machine": machine.describe(),
    }


def queries_of(host: Host, filled: Filled) -> dict[str, list[bytes]]:
    """Ready-made requests by query, as a doctor of the other hospital sends them."""
    reader = network_of(filled.plan).readers[0]
    token = host.open_session(reader)
    scope = Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity.N)
    asked: dict[str, Callable[[bytes], msgspec.Struct]] = {
        MAY_READ: lambda one: MayRead(one, reader.party, scope, Purpose.TREAT),
        TIMELINE: TimelinePage,
    }
    return {
        name: [
            request("POST", _PATHS[name], body=msgspec.msgpack.encode(ask(one)), token=token)
            for one in scattered(filled)
        ]
        for name, ask in asked.items()
    }


def anchor_requests(host: Host, filled: Filled, count: int) -> list[bytes]:
    """Requests for single records by id: what the HealthChain paper calls a read."""
    token = host.open_session(network_of(filled.plan).readers[0])
    pseudonyms = pseudonyms_of(filled)
    return [
        request(
            "POST",
            "/v1/query/records.anchor",
            body=msgspec.msgpack.encode(
                OfRecord(pseudonyms[patient_of(number, len(pseudonyms))], record_of(filled.plan, number))
            ),
            token=token,
        )
        for number in (one % filled.anchors for one in range(count))
    ]


def pseudonyms_of(filled: Filled) -> list[bytes]:
    """Every pseudonym by patient number."""
    data = filled.pseudonyms.read_bytes()
    return [data[start : start + ID_SIZE] for start in range(0, len(data), ID_SIZE)]


def scattered(filled: Filled) -> list[bytes]:
    """Up to :data:`DISTINCT` pseudonyms from all over the state."""
    pseudonyms = pseudonyms_of(filled)
    return [pseudonyms[patient_of(number, len(pseudonyms))] for number in range(min(DISTINCT, len(pseudonyms)))]


def repeated(requests: Sequence[bytes], count: int) -> list[bytes]:
    """``count`` requests, starting over when they run out."""
    return [requests[number % len(requests)] for number in range(count)]


def _measure(
    host: Host,
    name: str,
    requests: Sequence[bytes],
    one_by_one: int,
    together: int,
    connections: int,
    progress: Progress,
) -> dict[str, Any]:
    progress(name, 0, 2)
    run_load(*host.address, repeated(requests, max(1, one_by_one // 10)), connections=1)
    single = run_load(*host.address, repeated(requests, one_by_one), connections=1)
    _require_rows(single.last_body)
    progress(name, 1, 2)
    before = host.cost()
    many = run_load(*host.address, repeated(requests, together), connections=connections)
    after = host.cost()
    progress(name, 2, 2)
    return {
        "name": name,
        "p50_ms": milliseconds(percentile(single.latencies_s, 0.5)),
        "p95_ms": milliseconds(percentile(single.latencies_s, 0.95)),
        "per_s": round(many.per_s, 1),
        "answer_bytes": len(single.last_body),
        "node_cpu_ms": round((after.cpu_s - before.cpu_s) * 1000 / together, 4),
    }


def _require_rows(body: bytes) -> None:
    """An empty answer would be a fast one."""
    if not msgspec.msgpack.decode(body, type=QueryAnswer).rows:
        raise BenchFailed("a query found nothing")


def render(result: dict[str, Any]) -> str:
    """The result as a table."""
    rows = [
        (one["name"], one["p50_ms"], one["p95_ms"], one["per_s"], one["node_cpu_ms"], one["answer_bytes"])
        for one in result["queries"]
    ]
    columns = ("query", "p50 ms", "p95 ms", "a second", "node CPU ms", "answer bytes")
    return render_table("bench read", columns, rows, result)
