"""``bench fhir``: the FHIR server as it is asked: loading, reads, searches, chains, sights, exports, other members.

The real application over real charts, on SQLite and on PostgreSQL, with validation on and with the audit on disk before
every answer. Charts grow from one size to the next and are asked the same at each, so growth is part of the result. The
questions are put within the process (ASGI); reads and searches over a socket stand beside them.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import orjson
import uvloop
from msgspec import Struct, field

from carechain.bench import machine
from carechain.bench.fhir_databases import POSTGRESQL, SQLITE, postgresql_programs, private_postgresql, settle
from carechain.bench.fhir_patients import Bundle, Known, bundles, lone_patient, together
from carechain.bench.fhir_questions import CHAINED, READS, SEARCHES, WARD, Asking
from carechain.bench.fhir_remote import TwoMembers, measure_remote, two_members
from carechain.bench.fhir_server import SYSTEM, Server, served
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import BenchFailed, Progress, scratch_folder, silent
from carechain.bench.load import request, run_load
from carechain.bench.tables import render_table
from carechain.gatekeeper.listen import Listener
from carechain.node.main import COLLECT_AFTER

RESOURCES: Final = (40_000, 400_000)
RUNS: Final = 100
HIDDEN_RUNS: Final = 1_000
REMOTE_RUNS: Final = 50
BOTH: Final = "both"
_TOGETHER: Final = 50
"""So many patients are loaded in one transaction."""
_SINGLES: Final = 1_500
"""At most so many resources, or a tenth, are loaded at the end patient by patient: what a single transaction takes."""
_LONE: Final = "lone"
_ASYNC: Final = "respond-async"
_ACCEPTED: Final = 202


class Runs(Struct, frozen=True, kw_only=True):
    """How often each question is asked."""

    each: int = RUNS
    hidden: int = HIDDEN_RUNS
    remote: int = REMOTE_RUNS

    @classmethod
    def of(cls, each: int) -> "Runs":
        """So many of each, and of the others in proportion."""
        return cls(each=each, hidden=max(each, HIDDEN_RUNS * each // RUNS), remote=max(1, REMOTE_RUNS * each // RUNS))


def run_fhir(
    *,
    resources: Sequence[int] = RESOURCES,
    store: str = BOTH,
    database: str | None = None,
    runs: Runs | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure; ``database`` is an empty PostgreSQL database of this benchmark's own, else a private server is started.

    Raises :class:`BenchFailed` where an answer was not what it must be, or PostgreSQL was asked for and is not there.
    """
    wanted = runs or Runs()
    with scratch_folder(folder) as scratch, _as_a_node():
        measured = uvloop.run(_measured(tuple(sorted(set(resources))), store, database, wanted, scratch, progress))
    rows, remote = measured
    largest = rows[-1]
    keys = ("store", "resources", "ingest_per_s", "read_p50_ms", "search_p50_ms", "chained_p50_ms", "consent_overhead")
    return {
        "bench": "fhir",
        "engine": "embedded",
        "nodes": 1,
        "payload": f"synthetic patients of about 42 resources of their own, {_TOGETHER} in a transaction; pages of 20",
        "policy": "validated; audit synced before each answer; in process (ASGI), one at a time, median of"
        f" {wanted.each} runs a question ({wanted.hidden} beside hidden resources); sights given, not read from the"
        f" ledger; remote: {remote['resources']} resources, new ticket, blocks {remote['batch_ms']} ms apart, a socket",
        "load": round(os.getloadavg()[0], 1),
        **{key: largest[key] for key in keys},
        "remote_read_p50_ms": remote["p50_ms"],
        "remote_read": remote,
        "rows": rows,
        "machine": machine.describe(),
    }


async def _measured(
    sizes: tuple[int, ...], store: str, database: str | None, runs: Runs, scratch: Path, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    async with two_members(scratch) as members:
        for name in _stores(store, database):
            inside = scratch / name
            inside.mkdir()
            with ExitStack() as opened:
                place = _place(opened, name, database, inside)
                rows += [one async for one in _grown(members, name, place, sizes, runs, inside, progress)]
        progress("remote reads", 0, 1)
        remote = await measure_remote(members, scratch, runs.remote)
        progress("remote reads", 1, 1)
    return rows, remote


def _stores(wanted: str, database: str | None) -> list[str]:
    if wanted == SQLITE:
        return [SQLITE]
    there = database is not None or postgresql_programs() is not None
    if not there and wanted == POSTGRESQL:
        raise BenchFailed("PostgreSQL is not installed; name a database with --database, or measure --store sqlite")
    named = [SQLITE] if wanted == BOTH else []
    return [*named, POSTGRESQL] if there else named


def _place(opened: ExitStack, store: str, database: str | None, folder: Path) -> Path | str:
    if store == SQLITE:
        return folder / "charts.sqlite"
    if database is not None:
        return database
    programs = postgresql_programs()
    if programs is None:
        raise BenchFailed("PostgreSQL is not installed")
    # The user that root lends the server must get there: only the system's own place for such things is sure.
    where = folder.parent.parent if os.geteuid() else None
    return opened.enter_context(private_postgresql(programs, opened.enter_context(scratch_folder(where))))


async def _grown(
    members: TwoMembers,
    store: str,
    place: Path | str,
    sizes: tuple[int, ...],
    runs: Runs,
    folder: Path,
    progress: Progress,
) -> AsyncIterator[dict[str, Any]]:
    """One store, measured at each size it grows to."""
    known: list[Known] = []
    loaded = 0
    async with served(place, members.service, folder) as server:
        await server.load(lone_patient(_LONE))
        for size in sizes:
            filled = await _fill(server, store, size, loaded, known, progress)
            loaded = filled.resources
            if isinstance(place, str):
                await asyncio.to_thread(settle, place)
            progress(f"{store}: asking {size:,}", 0, 1)
            yield {
                "store": store,
                "resources": loaded,
                **filled.figures(),
                **await _asked(server, known, runs),
                "disk_mb": _disk_mb(place, folder),
            }
            progress(f"{store}: asking {size:,}", 1, 1)


class Filling(Struct, kw_only=True):
    """How loading went: resources in the store, and what was new with the seconds it took."""

    resources: int
    new: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    singles_s: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """For the result; processor time is of this process, without its assistant and database servers."""
        return {
            "ingest_per_s": round(self.new / self.seconds, 1),
            "ingest_cpu_us": round(self.cpu_s * 1e6 / self.new, 1),
            "bundle_p50_ms": milliseconds(percentile(self.singles_s, 0.5)) if self.singles_s else None,
        }


async def _fill(server: Server, store: str, size: int, loaded: int, known: list[Known], progress: Progress) -> Filling:
    """Load whole patients until there are ``size`` resources; making their bundles is not timed."""
    filling = Filling(resources=loaded)
    coming = bundles(len(known))
    singles = min(_SINGLES, (size - loaded) // 10)
    while filling.resources < size - singles:
        several = _some(coming, size - singles - filling.resources)
        body = together(several)
        cpu_s = machine.own_cpu_s()
        filling.seconds += await server.load(body)
        filling.cpu_s += machine.own_cpu_s() - cpu_s
        filling.new += sum(one.resources for one in several)
        filling.resources += sum(one.resources for one in several)
        known += (one.known for one in several)
        progress(f"{store}: loading", min(filling.resources, size), size)
    while filling.resources < size:
        one = next(coming)
        filling.singles_s.append(await server.load(one.body))
        filling.resources += one.resources
        known.append(one.known)
    return filling


def _some(coming: Iterator[Bundle], wanted: int) -> list[Bundle]:
    made: list[Bundle] = []
    while len(made) < _TOGETHER and wanted > 0:
        made.append(next(coming))
        wanted -= made[-1].resources
    return made


async def _asked(server: Server, known: Sequence[Known], runs: Runs) -> dict[str, Any]:
    asking = Asking(server, known, _LONE)
    reads = await asking.figures(READS, runs.each)
    searches = await asking.figures(SEARCHES, runs.each)
    chained = await asking.figures(CHAINED, runs.each)
    return {
        **_summary("read", reads),
        **_summary("search", searches),
        **_summary("chained", chained),
        "consent_overhead": round(await asking.sight_ratio(1, runs.each) - 1, 3),
        "ward_overhead": round(await asking.sight_ratio(WARD, runs.each) - 1, 3),
        "hidden_ratio": round(await asking.hidden_ratio(runs.hidden), 3),
        "among_hidden_ratio": round(await asking.among_ratio(runs.hidden // 4), 3),
        **await _over_socket(server, known, runs.each),
        **await _exported(server),
        "questions": [*reads, *searches, *chained],
    }


def _summary(name: str, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median over the questions, and the slowest one's median."""
    medians = [one["p50_ms"] for one in figures]
    return {f"{name}_p50_ms": percentile(medians, 0.5), f"{name}_slowest_ms": max(medians)}


async def _over_socket(server: Server, known: Sequence[Known], runs: int) -> dict[str, Any]:
    """Reads and one search as a client on this machine sees them: HTTP/1.1 on a connection that is kept."""
    listener = Listener(server.app)
    await listener.start()
    try:
        host, _, port = listener.url.removeprefix("http://").partition(":")
        some = [known[turn * 7919 % len(known)] for turn in range(runs)]
        paths = {
            "socket_read_p50_ms": [f"/Patient/{one.patient}" for one in some],
            "socket_search_p50_ms": [
                f"/Observation?patient=Patient/{one.patient}&category=vital-signs&_count=20" for one in some
            ],
        }
        found: dict[str, Any] = {}
        for name, asked in paths.items():
            requests = [request("GET", path, token=SYSTEM, media="application/fhir+json") for path in asked]
            load = await asyncio.to_thread(run_load, host, int(port), requests, connections=1)
            found[name] = milliseconds(percentile(load.latencies_s, 0.5))
        return found
    finally:
        await listener.stop()


async def _exported(server: Server) -> dict[str, Any]:
    """A whole export: rate, and how much more memory this process held meanwhile than before."""
    gc.collect()
    before_mb = machine.own_rss_mb()
    highest_mb = before_mb
    taken = 0

    def take(size: int) -> None:
        nonlocal taken, highest_mb
        taken += size
        highest_mb = max(highest_mb, machine.own_rss_mb())

    began = perf_counter()
    begun = await server.ask("GET", "$export", prefer=_ASYNC)
    if begun.status != _ACCEPTED:
        raise BenchFailed("the export did not begin")
    base = begun.headers["content-location"].partition("$export-status")[0]
    manifest = await server.get(begun.headers["content-location"].removeprefix(base))
    for one in orjson.loads(manifest.body)["output"]:
        await server.ask("GET", one["url"].removeprefix(base), taken=take)
    return {
        "export_mb_s": round(taken / 1e6 / (perf_counter() - began), 1),
        "export_mb": round(taken / 1e6, 1),
        "export_memory_mb": round(highest_mb - before_mb, 1),
    }


def _disk_mb(place: Path | str, folder: Path) -> float | None:
    """Of SQLite; a database server keeps its own files."""
    return round(machine.disk_bytes(folder) / 1e6, 1) if isinstance(place, Path) else None


@contextmanager
def _as_a_node() -> Iterator[None]:
    """The garbage collector set up as ``carechain start`` does."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def render(result: dict[str, Any]) -> str:
    """The result as a table: a column for each store and size, then the questions, then the remote reading."""
    sizes = result["rows"]
    columns = ("", *(f"{one['store']} {one['resources']:,}" for one in sizes))
    lines: list[tuple[object, ...]] = [(title, *(one[key] for one in sizes)) for key, title in _LINES]
    names = [one["name"] for one in sizes[0]["questions"]]
    for number, name in enumerate(names):
        lines.append((f"{name}, p50 ms", *(one["questions"][number]["p50_ms"] for one in sizes)))
    remote = result["remote_read"]
    lines.append((f"remote read, p50 ms (p95 {remote['p95_ms']:.3g})", remote["p50_ms"], *("" for _ in sizes[1:])))
    return render_table("bench fhir", columns, lines, result)


_LINES: Final = (
    ("ingest_per_s", "loaded, resources per s"),
    ("ingest_cpu_us", "CPU of one resource, µs"),
    ("bundle_p50_ms", "one patient's transaction, p50 ms"),
    ("read_p50_ms", "read, p50 ms"),
    ("search_p50_ms", "search, median of the questions' p50 ms"),
    ("search_slowest_ms", "the slowest search, p50 ms"),
    ("chained_p50_ms", "chained, median of the questions' p50 ms"),
    ("chained_slowest_ms", "the slowest chain, p50 ms"),
    ("consent_overhead", "a reader of one patient: more than all-seeing"),
    ("ward_overhead", f"a reader of {WARD} patients: more than all-seeing"),
    ("hidden_ratio", "only hidden matches / no matches"),
    ("among_hidden_ratio", "one among hidden ones / one alone"),
    ("socket_read_p50_ms", "read over a socket, p50 ms"),
    ("socket_search_p50_ms", "search over a socket, p50 ms"),
    ("export_mb_s", "export, MB/s"),
    ("export_memory_mb", "export, more memory, MiB"),
    ("disk_mb", "charts and audit on disk, MB"),
)
