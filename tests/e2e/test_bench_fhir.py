"""``bench fhir`` runs on both databases, prints what it promises and leaves nothing behind.

Goal: the benchmark completes at a tiny size, gives the keys that scripts rely on, in types that survive JSON, renders
for people, and ends without a figure when an answer is not what it must be. Method: the real server over real charts on
SQLite and on a private PostgreSQL, a real ledger and a real gatekeeper on a socket. No figure is judged here.
"""

from pathlib import Path

import orjson
import pytest
import uvloop

from carechain.bench import fhir, fhir_databases
from carechain.bench.fhir import Runs, render, run_fhir
from carechain.bench.fhir_patients import Known, bundles, lone_patient, together
from carechain.bench.fhir_questions import SEARCHES, Asking
from carechain.bench.fhir_remote import two_members
from carechain.bench.fhir_server import Server, served
from carechain.bench.filling import BenchFailed

FEW = Runs(each=2, hidden=4, remote=2)
PROMISED = {
    "store",
    "resources",
    "ingest_per_s",
    "read_p50_ms",
    "search_p50_ms",
    "chained_p50_ms",
    "consent_overhead",
    "remote_read_p50_ms",
}


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.databases)])
def test_fhir(store: str, tmp_path: Path) -> None:
    seen: set[str] = set()
    result = run_fhir(
        resources=(400, 800),
        store=store,
        runs=FEW,
        folder=tmp_path,
        progress=lambda stage, _done, _total: seen.add(stage),
    )
    assert result.keys() >= PROMISED | {"bench", "engine", "nodes", "payload", "policy", "machine", "load", "rows"}
    assert orjson.loads(orjson.dumps(result)) == result
    assert [row["store"] for row in result["rows"]] == [store, store]
    assert [row["resources"] >= size for row, size in zip(result["rows"], (400, 800), strict=True)] == [True, True]
    assert result["resources"] == result["rows"][-1]["resources"]
    assert result["remote_read"]["resources"] > 0
    assert all(row["export_mb"] > 0 for row in result["rows"])
    text = render(result)
    assert "bench fhir" in text
    assert result["machine"]["python"] in text
    assert {f"{store}: loading", f"{store}: asking 400", "remote reads"} <= seen
    assert list(tmp_path.iterdir()) == []


def test_without_postgresql_both_means_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir, "postgresql_programs", lambda: None)
    assert fhir._stores("both", None) == ["sqlite"]
    assert fhir._stores("both", "postgresql+psycopg://there/empty") == ["sqlite", "postgresql"]
    with pytest.raises(BenchFailed, match="not installed"):
        fhir._stores("postgresql", None)


def test_programs_that_are_nowhere_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fhir_databases, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fhir_databases.postgresql_programs() is None


def test_patients_in_one_transaction_bring_what_they_share_once() -> None:
    coming = bundles(0)
    several = [next(coming) for _ in range(5)]
    entries = orjson.loads(together(several))["entry"]
    named = [entry["fullUrl"] for entry in entries]
    assert len(set(named)) == len(named)
    shared = sum(entry["resource"]["resourceType"] in {"Organization", "Practitioner"} for entry in entries)
    assert len(entries) == sum(one.resources for one in several) + shared


def test_a_search_that_must_find_something_and_does_not_ends_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            two_members(tmp_path) as members,
            served(tmp_path / "charts.sqlite", members.service, tmp_path) as one,
        ):
            await one.load(lone_patient("lone"))
            await asked(one)

    async def asked(server: Server) -> None:
        nobody = Known(patient="x", number="s|1", family="Nobody", born="2000-01-01", observation="x", encounter="x")
        await Asking(server, [nobody], "lone").figures(SEARCHES, 1)

    with pytest.raises(BenchFailed, match="found nothing"):
        uvloop.run(main())


def test_a_refused_transaction_ends_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            two_members(tmp_path) as members,
            served(tmp_path / "charts.sqlite", members.service, tmp_path) as one,
        ):
            await one.load(b'{"resourceType":"Bundle","type":"collection"}')

    with pytest.raises(BenchFailed, match="refused a transaction with 400"):
        uvloop.run(main())
