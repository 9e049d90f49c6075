"""The benchmarks of a consortium run and print what they promise.

Goal and method as for the others (:mod:`test_bench`), with real nodes and real engines over loopback: tiny sizes, the
keys that scripts rely on, types that survive JSON, a rendering for people, and no figure of refused work.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from carechain.bench import agreed, healthchain
from carechain.bench.cluster import cluster
from carechain.bench.filling import BenchFailed, silent
from carechain.bench.host import Batch

pytestmark = pytest.mark.engine

EVERY = {"bench", "engine", "nodes", "payload", "payload_bytes", "policy", "machine"}


def check(result: dict[str, Any], keys: set[str], render: Callable[[dict[str, Any]], str]) -> None:
    assert set(result) >= EVERY | keys
    assert result["engine"] == "cometbft"
    assert orjson.loads(orjson.dumps(result)) == result
    text = render(result)
    assert result["machine"]["python"] in text
    assert f"bench {result['bench']}" in text


def test_saturate(tmp_path: Path) -> None:
    result = agreed.run_saturate(validators=4, patients=4, writes=40, folder=tmp_path)
    keys = {
        "writes",
        "keys",
        "tx_per_s",
        "verify_per_s",
        "p50_ms",
        "p95_ms",
        "cpu_ms_per_tx",
        "rss_mb",
        "disk_bytes_per_tx",
    }
    check(result, keys, agreed.render_saturate)
    assert result["nodes"] == 4
    assert {one["program"] for one in result["processes"]} >= {"node", "cometbft"}
    assert list(tmp_path.iterdir()) == []


def test_write(tmp_path: Path) -> None:
    result = agreed.run_write(validators=2, writes=2, patients=2, folder=tmp_path)
    check(result, {"p50_ms", "p95_ms", "rows"}, agreed.render_write)
    assert [one["node"] for one in result["rows"]] == [1, 2]


def test_catch_up(tmp_path: Path) -> None:
    result = agreed.run_catch_up(validators=4, patients=4, writes=40, snapshot_every=2, folder=tmp_path)
    check(result, {"writes", "seconds", "tx_per_s", "snapshot_seconds"}, agreed.render_catch_up)


def test_healthchain(tmp_path: Path) -> None:
    one = healthchain.Setting(
        batch=Batch(timeout_s=0.2, txs=5),
        paper=healthchain.Figures(write_ms=1.0, writes_per_s=1.0),
        fabric=healthchain.Figures(write_ms=1.0, writes_per_s=1.0),
    )
    result = agreed.run_healthchain(settings=(one,), validators=2, records=10, together=8, folder=tmp_path)
    check(result, {"rows", "compared"}, healthchain.render)
    assert "approximate" in result["policy"]


def test_refused_work_gives_no_figure(tmp_path: Path) -> None:
    plan = agreed._plan(2, 2)
    with cluster(plan, tmp_path) as nodes:
        txs = agreed._prepared(nodes, tmp_path, 2, silent)
        nodes.send(txs)
        with pytest.raises(BenchFailed):
            nodes.send(txs)
