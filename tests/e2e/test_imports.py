"""Goal: what a patient brings is in the charts and on the ledger after one command, and once however often it is run.

Method: a real home and a real node as a child process; the installed program's own entry point for every step. A file
of each kind, then broken ones, after which nothing may have changed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carechain.sources.imports.scoring import PHQ_9

APPLE = (
    '<?xml version="1.0"?><!DOCTYPE HealthData [<!ELEMENT (((]>\n<HealthData locale="zh_CN">\n'
    '<Record type="HKQuantityTypeIdentifierBodyMass" sourceName="小明的秤" unit="kg" value="72.50" '
    'startDate="2024-05-01 08:25:32 +0800" endDate="2024-05-01 08:25:32 +0800"/>\n'
    '<Record type="HKQuantityTypeIdentifierHeight" unit="m" value="tall" '
    'startDate="2024-05-01 08:25:32 +0800" endDate="2024-05-01 08:25:32 +0800"/>\n</HealthData>'
)
FITBIT = '{"weight":[{"bmi":21.50,"date":"2015-05-13","logId":1,"time":"18:28:59","weight":56.70}]}'
GENOME = "# 23andMe\n# rsid\tchromosome\tposition\tgenotype\nrs4244285\t10\t96541616\tAG\n"
COLUMNS = (
    'device = "Scale"\ntime = "when"\n[[values]]\ncolumn = "kg"\ndisplay = "Weight"\nunit = "kg"\nloinc = "29463-7"\n'
)
CSV = "when,kg\n2024-06-01T08:00:00+02:00,80.0\n"
FORM = json.dumps(
    {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": PHQ_9.questionnaires[0],
        "status": "completed",
        "authored": "2024-05-01T10:00:00+08:00",
        "item": [{"linkId": item, "answer": [{"valueInteger": 2}]} for item in PHQ_9.items],
    }
)
PRIVATE = ("小明", "72.5", "56.7", "rs4244285", "MRN-778123")


class Program:
    """The program as its user calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = ""
        self.said = ""
        (folder / "password").touch(mode=0o600)
        (folder / "password").write_text("correct horse\n", encoding="utf-8")

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARECHAIN_")}
        node = {"CARECHAIN_NODE": self.node} if self.node else {}
        return {**kept, **node, "CARECHAIN_PASSWORD_FILE": str(self.folder / "password")}

    def run(self, home: str, *words: str, expect: int = 0) -> Any:
        """One command with --json: its object."""
        finished = subprocess.run(
            [sys.executable, "-m", "carechain", *words, "--json", "--home", str(self.folder / home)],
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        err = finished.stderr.decode()
        self.said += err
        assert finished.returncode == expect, (words, finished.stdout, err)
        assert "Traceback" not in err
        return json.loads(finished.stdout) if finished.stdout else None

    def file(self, name: str, content: str) -> str:
        (self.folder / name).write_text(content, encoding="utf-8")
        return str(self.folder / name)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("imports"))
    program.run("a", "init", "--name", "协和医院", "--kind", "hospital", "--chain-id", "test-chain")
    ports = ("--port", "0", "--gatekeeper-port", "0", "--ops-port", "0", "--fhir-port", "0")
    with subprocess.Popen(
        [sys.executable, "-m", "carechain", "start", "--json", *ports, "--home", str(program.folder / "a")],
        env=program.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as started:
        assert started.stderr is not None
        for line in started.stderr:
            entry = json.loads(line)
            if entry["event"] == "node started":
                program.node = entry["api"]
                break
        yield program
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=60)
        assert started.returncode == 0, err.decode()
        assert not any(one in err.decode() for one in PRIVATE)


@pytest.fixture(scope="module")
def patient(program: Program) -> str:
    program.run("a", "staff", "enrol", "carl", "--roles", "doctor")
    genesis = str(program.folder / "a" / "genesis.json")
    program.run("patient", "keys", "new", "mine", "--kind", "wallet", "--genesis", genesis)
    wallet = str(program.folder / "patient" / "keys" / "mine.json")
    words = ("--wallet", wallet, "--id-file", program.file("id", "MRN-778123\n"), "--label", "家")
    bound = program.run("a", "patient", "register", *words)
    grant = ("grant", "--to", bound["organisation"], "--categories", "all", "--ceiling", "V", "--actions", "write")
    program.run("patient", *grant)
    return str(bound["pseudonym"])


@pytest.mark.parametrize(
    ("name", "content", "extra", "kind", "types"),
    [
        ("export.xml", APPLE, (), "apple-health", {"Observation": 1}),
        ("weight.json", FITBIT, ("--time-zone", "Asia/Shanghai"), "fitbit", {"Observation": 2}),
        (
            "genome.txt",
            GENOME,
            ("--marker", "rs4244285"),
            "23andme",
            {"Binary": 1, "DocumentReference": 1, "Observation": 2},
        ),
        ("scale.csv", CSV, ("--columns", "COLUMNS"), "csv", {"Observation": 1}),
        ("form.json", FORM, (), "prom", {"Observation": 1, "QuestionnaireResponse": 1}),
    ],
)
def test_a_file_of_each_kind_comes_in_once(
    name: str, content: str, extra: tuple[str, ...], kind: str, types: dict[str, int], program: Program, patient: str
) -> None:
    columns = program.file("columns.toml", COLUMNS)
    told = [columns if one == "COLUMNS" else one for one in extra]
    words = ("record", "import", program.file(name, content), "--patient", patient, "--as", "carl", *told)
    first = program.run("a", *words)
    assert (first["kind"], first["by_type"]) == (kind, types)
    assert first["changed"] >= sum(types.values())
    assert first["anchored"] > 0
    if kind == "apple-health":
        again = program.run("a", *words)
        assert (again["changed"], again["anchored"]) == (0, 0)
        assert first["skipped"] == [
            {"reason": "its value is missing or not a number", "count": 1, "places": ["line 4"]}
        ]


def test_a_broken_file_is_refused_with_its_place_and_changes_nothing(program: Program, patient: str) -> None:
    before = program.run("a", "record", "list", "--patient", patient, "--as", "carl")
    for content, label, place in (
        (APPLE[:-30], "IMPORT.FILE_TRUNCATED", "line 4"),
        (FITBIT[:-4], "IMPORT.FILE_TRUNCATED", "line 1"),
        ("hello", "IMPORT.KIND_UNKNOWN", ""),
    ):
        words = ("record", "import", program.file("broken", content), "--patient", patient, "--as", "carl")
        refused = program.run("a", *words, expect=1)
        assert (refused["error"]["label"], refused["place"]) == (label, place)
    after = program.run("a", "record", "list", "--patient", patient, "--as", "carl")
    assert before == after
    assert not any(one in program.said for one in PRIVATE)


def test_without_a_feed_its_commands_say_so(program: Program) -> None:
    assert "hl7.enabled" in program.run("a", "source", "hl7", "list", expect=3)["error"]["reason"]
