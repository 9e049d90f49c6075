"""A node as an operator runs it: a real process on a home of the test's own, waited for by reading its log."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carechain.chain import genesis as founding
from carechain.core.crypto import Suite
from carechain.core.vocabulary import PartyKind, Role
from carechain.node.home import make_home
from carechain.sdk.client import SyncClient
from carechain.sdk.identity import Identity
from carechain.sdk.wallet import Pseudonym
from carechain.sealing.symmetric import ScryptCost
from node_network import genesis_of
from world import Actor, Organisation, anything, bind_message, enrolment_of, entropy_of, seeded, wallet_of

PASSWORD = "correct horse 口令"
LABEL = "Steve-Apple-MRN-4711"
"""An existing id, and the label of the organisation's key file: neither is for the log."""
PROGRAM = """
import sys
from pathlib import Path
from carechain.node.main import run
from carechain.node.settings import load_settings
sys.exit(run(load_settings(home=Path(sys.argv[1]))))
"""
ANY_PORT = "[api]\nport = 0\n[ops]\nport = 0\n[gatekeeper_api]\nport = 0\n"
GENESIS_S = 1_770_000_000


def make(home: Path, owner: Organisation, members: dict[str, Organisation], config: str = ANY_PORT) -> Path:
    """The home of one organisation."""
    make_home(home)
    (home / "genesis.json").write_bytes(founding.write(genesis_of(members, time_s=GENESIS_S)))
    identity = Identity(
        kind=PartyKind.MEMBER,
        suite=Suite.ED25519,
        signing_seed=seeded(owner.label, "signing"),
        hpke_seed=seeded(owner.label, "hpke"),
        party=owner.id,
        organisation=owner.id,
        label=LABEL,
    )
    identity.save(
        home / "keys" / "member.json", password=PASSWORD, entropy=entropy_of("file"), cost=ScryptCost(n=1024, r=1)
    )
    password = home / "keys" / "password"
    password.write_text(PASSWORD + "\n", encoding="utf-8")
    password.chmod(0o600)
    (home / "config.toml").write_text('password_file = "keys/password"\n' + config, encoding="utf-8")
    return home


class Process:
    """A running node: its log so far, its addresses, its end and what it wrote to standard output."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log: list[str] = []
        self.out = ""
        self._stdout = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by end()
        self._popen = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home)],
            stderr=subprocess.PIPE,
            stdout=self._stdout,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            self.log.append(line)
            if '"node started"' in line:
                break
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            with self._heard:
                self.log.append(line)
                self._heard.notify_all()

    def wait_for(self, text: str) -> None:
        """Until the log has a line with ``text``."""
        with self._heard:
            assert self._heard.wait_for(lambda: any(text in line for line in self.log), timeout=60), self.log

    @property
    def addresses(self) -> dict[str, Any]:
        """What it said when it started."""
        return json.loads(next(line for line in self.log if '"node started"' in line))

    @property
    def api(self) -> str:
        return str(self.addresses["api"])

    def ask_to_stop(self, number: int = signal.SIGTERM) -> None:
        self._popen.send_signal(number)

    def end(self) -> int:
        """The exit status."""
        status = self._popen.wait(60)
        self._reader.join()
        assert self._popen.stderr is not None
        self._popen.stderr.close()
        if not self._stdout.closed:
            self._stdout.seek(0)
            self.out = self._stdout.read()
            self._stdout.close()
        return status


@contextmanager
def node(home: Path) -> Iterator[Process]:
    process = Process(home)
    try:
        yield process
    finally:
        process.ask_to_stop(signal.SIGKILL)
        process.end()


def cannot_run(home: Path) -> str:
    """The sentence of a node that must exit with 3 before it starts."""
    process = Process(home)
    assert process.end() == 3
    said = [line for line in process.log if line.startswith("carechain: ")]
    assert len(said) == 1, process.log
    assert "Traceback" not in "".join(process.log)
    return said[0]


def populate(api: str, owner: Organisation) -> tuple[Actor, Pseudonym]:
    """A doctor who may write, and a patient."""
    carl, steve = Actor("carl", organisation=owner.id), wallet_of("steve").pseudonym(owner.id)
    with SyncClient(api, owner) as member:
        certificate = owner.certify(carl, Role.DOCTOR)
        member.submit(enrolment_of(carl, certificate))
        member.submit(bind_message(steve, owner.secret.id_hash("mrn", LABEL)))
    with SyncClient(api, steve) as patient:
        patient.submit(anything(steve, owner))
    return carl, steve
