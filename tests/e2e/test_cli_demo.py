"""Goal: ``carechain demo`` and ``carechain bench`` keep the shape that scripts rely on, whatever they are told.

Method: the program as a child process, with as few patients and writes as there can be. What the story promises is
tested in test_demo.py, what the benchmarks measure in test_bench.py.
"""

import json
import subprocess
import sys
from pathlib import Path


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "carechain", *words], capture_output=True, check=False, encoding="utf-8"
    )


def test_the_demo_prints_one_object(tmp_path: Path) -> None:
    finished = run("demo", "--patients", "1", "--json", "--keep", str(tmp_path / "kept"))
    assert finished.returncode == 0, finished.stderr
    shown = json.loads(finished.stdout)
    promised = {"network", "patients", "resources", "records", "height", "app_hash", "steps", "seconds"}
    assert promised <= set(shown)
    assert shown["patients"] == 1
    assert all(step["ok"] is True for step in shown["steps"])
    assert "Traceback" not in finished.stderr
    homes = [path for path in (tmp_path / "kept").iterdir() if path.is_dir()]
    assert len(homes) == 6
    again = run("demo", "--patients", "1", "--json", "--keep", str(tmp_path / "kept"))
    assert again.returncode == 3
    assert json.loads(again.stdout)["ok"] is False


def test_the_demo_tells_people_a_story() -> None:
    finished = run("demo", "--patients", "1", "--seed", "7")
    assert finished.returncode == 0, finished.stderr
    assert "江城医院" in finished.stdout
    assert "✗" not in finished.stdout


def test_a_folder_without_bundles_is_the_environment(tmp_path: Path) -> None:
    finished = run("demo", "--bundles", str(tmp_path), "--json")
    assert finished.returncode == 3
    assert json.loads(finished.stdout)["ok"] is False
    assert "Traceback" not in finished.stderr


def test_impossible_numbers_are_usage() -> None:
    finished = run("demo", "--patients", "0", "--json")
    assert finished.returncode == 2
    assert "--patients" in json.loads(finished.stdout)["error"]["reason"]


def test_a_benchmark_prints_one_object() -> None:
    finished = run("bench", "write", "--writes", "3", "--patients", "2", "--json")
    assert finished.returncode == 0, finished.stderr
    assert {"engine", "nodes", "p50_ms", "p95_ms", "machine"} <= set(json.loads(finished.stdout))
    shown = run("bench", "write", "--writes", "3", "--patients", "2")
    assert shown.returncode == 0
    assert "p50" in shown.stdout
