"""Goal: what a sender heard AA for is filed exactly once, whatever happens to the process.

Method: a child process receives and files messages and is killed without warning, many times, at chosen moments; then
the charts must hold each acknowledged result once, in one version. Then a whole node takes messages over MLLP from the
client of an independent library, is killed, and files after its start; patients that its registrar has bound are filed
under their pseudonym.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

from hl7.client import MLLPClient

from carechain.charts.binding import provisional
from carechain.charts.store import Charts
from carechain.core.vocabulary import Sensitivity
from carechain.node.hl7 import JOURNAL_FILE
from carechain.sdk.registrar import RegistrarSecret
from carechain.sources.hl7v2.journal import Journal
from carechain.sources.hl7v2.patients import Identity
from hl7_feeds import feed_at
from hl7_messages import CHINESE, admission, message, result
from node_network import founders
from node_process import ANY_PORT, LABEL, make, node, populate
from world import seeded

KILLS = 20

_CHILD = """
import sys
from pathlib import Path
from random import Random
from hl7_feeds import feed_at
from hl7_messages import message, result
from hl7_feeds import feed_at

run, rnd = sys.argv[2], Random(sys.argv[2])
with feed_at(Path(sys.argv[1])) as feed:
    print("opened", flush=True)
    for number in range(1000):
        name = f"{run}-{number}"
        segments = [one.replace("F9", name) for one in result(control=name)]
        said = feed.receive(message(*segments))
        assert b"MSA|AA|" in said, said
        print(name, flush=True)
        for _ in range(rnd.randint(0, 2)):
            feed.file_next()
"""


def killed_after(home: Path, run: int, lines: int) -> list[str]:
    """Let a child say so many lines, kill it, and return the messages it had acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(home), str(run)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n") and line != "opened\n"]


def test_killed_at_any_moment_nothing_acknowledged_is_lost_or_filed_twice(tmp_path: Path) -> None:
    rnd = Random(3)
    acknowledged = [name for run in range(KILLS) for name in killed_after(tmp_path, run, rnd.choice((1, 2, 3, 6, 12)))]
    assert len(acknowledged) > KILLS
    with feed_at(tmp_path) as feed:
        while (outcome := feed.file_next()) is not None:
            assert outcome.code is None
    with sqlite3.connect(tmp_path / "charts.sqlite") as database:
        rows = database.execute(
            "SELECT version, body FROM resources WHERE resource_type = 'DiagnosticReport'"
        ).fetchall()
        patients = database.execute("SELECT count(*) FROM resources WHERE resource_type = 'Patient'").fetchone()
    database.close()
    filed = [next(one["value"] for one in json.loads(body)["identifier"] if one["value"] != "P9") for _, body in rows]
    assert set(acknowledged) <= set(filed)
    assert len(filed) == len(set(filed))
    assert {version for version, _ in rows} == {1}
    assert patients == (1,)


def port_of(process: object) -> int:
    lines = getattr(process, "log", [])
    return int(json.loads(next(line for line in lines if '"HL7 feed started"' in line))["port"])


def test_a_node_takes_messages_and_knows_its_patients(tmp_path: Path) -> None:
    members = founders()
    home = make(tmp_path / "节点", members["a"], members, ANY_PORT + "[hl7]\nenabled = true\nport = 0\n")
    RegistrarSecret.create(
        home / "keys" / "registrar.secret", entropy=lambda _: seeded(members["a"].label, "registrar")
    )
    with node(home) as process:
        _carl, steve = populate(process.api, members["a"])
        with MLLPClient("127.0.0.1", port_of(process)) as client:
            assert b"MSA|AA|" in client.send_message(message(*admission(name=CHINESE, mrn=LABEL)))
            assert b"MSA|AA|" in client.send_message(message(*admission(mrn="9999", control="X")))
            assert b"MSA|AR|" in client.send_message(b"hello")
        # Killed right after the answer: what is not filed yet is filed by the next start.
    with node(home) as process:
        with MLLPClient("127.0.0.1", port_of(process)) as client:
            assert b"MSA|AA|" in client.send_message(message(*result(mrn=LABEL)))
        process.ask_to_stop()
        assert process.end() == 0
        assert "小明" not in "".join(process.log)
        assert LABEL not in "".join(process.log)
    with node(home) as process:
        process.ask_to_stop()
        assert process.end() == 0
    with Journal.open(home / JOURNAL_FILE) as journal:
        assert journal.counts().refused == 0
        assert journal.counts().filed + journal.counts().waiting == 3
    with Charts.open(home / "charts" / "charts.sqlite") as charts:
        known = charts.local_patient(steve.id)
        assert known is not None
        assert known.name == "王小明"
        stranger = charts.local_patient(provisional(Identity(authority="WEST", value="9999").patient_id()))
        assert stranger is not None
        assert charts.search(steve.id, ceiling=Sensitivity.V)
