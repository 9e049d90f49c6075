"""A node's home folder: where everything lies, its layout's version, and one process at a time.

Layout: ``genesis.json`` · ``config.toml`` · ``keys/`` · ``ledger/`` (block log, state tree, snapshots) · ``charts/`` ·
``audit/`` · ``vault/`` (ciphertext and its books) · ``gateway/`` (apps that may use the FHIR server) · ``tls/`` ·
``cometbft/`` (a consortium's engine) · ``light.json`` (what the validators' signatures are followed from) ·
``home.version`` · ``home.lock``. While a node runs, ``running.json`` says where it listens.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from carechain.chain import genesis as founding
from carechain.chain.genesis import BadGenesis, Genesis
from carechain.core.limits import GENESIS_BYTES
from carechain.sdk.keyfile import write_private_file
from carechain.state.log import make_folder

HOME_VERSION: Final = 1
"""Raised by one whenever the layout changes; each step has a migration below."""
MIGRATIONS: Final[dict[int, Callable[[Path], None]]] = {}
"""From layout n to n+1; run under the lock, before anything is opened, and safe to run again after a crash."""

GENESIS_FILE: Final = "genesis.json"
VERSION_FILE: Final = "home.version"
LOCK_FILE: Final = "home.lock"
RUNNING_FILE: Final = "running.json"
ERASURES_FILE: Final = "charts/erasures.sqlite"
CHARTS_FILE: Final = "charts/charts.sqlite"
FOLDERS: Final = ("keys", "ledger", "charts", "audit")
_PRIVATE_FILE: Final = 0o600
_VERSION_DIGITS: Final = 9


class HomeUnusable(Exception):  # noqa: N818 - names what is wrong with the folder
    """The folder is missing, locked, of a newer layout, or not a home; the sentence says what to do."""


class Running(Struct, frozen=True, kw_only=True):
    """Where a running node listens. ``gatekeeper`` and ``fhir`` are empty where it serves none."""

    pid: int
    api: str
    ops: str
    gatekeeper: str = ""
    fhir: str = ""


class Home:
    """An open home; use :func:`open_home`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def charts(self) -> Path:
        """The database of the organisation's own records."""
        return self.path / CHARTS_FILE

    @property
    def audit(self) -> Path:
        """The gatekeeper's audit."""
        return self.path / "audit" / "audit.sqlite"

    @property
    def share_audit(self) -> Path:
        """The keyholder's audit."""
        return self.path / "audit" / "shares.sqlite"

    @property
    def erasures(self) -> Path:
        """The eraser's journal. Beside the charts, so that a backup takes both after the ledger."""
        return self.path / ERASURES_FILE

    def genesis(self) -> Genesis:
        """What the network started from. Raises :class:`HomeUnusable`, ``OSError``."""
        path = self.path / GENESIS_FILE
        if not path.is_file():
            raise HomeUnusable(f"{path} is missing. Make a home with: carechain init")
        with path.open("rb") as file:
            data = file.read(GENESIS_BYTES + 1)
        try:
            return founding.read(data)
        except BadGenesis:
            raise HomeUnusable(f"{path} is not a genesis file. Copy it from another member.") from None

    def announce(self, running: Running) -> None:
        """Say where the node listens, for commands on this machine."""
        replace_file(self.path / RUNNING_FILE, msgspec.json.encode(running))

    def retire(self) -> None:
        """The node listens no more."""
        (self.path / RUNNING_FILE).unlink(missing_ok=True)


def make_home(path: Path) -> None:
    """Make the folders of a new home, or complete those of an old one; nothing that is there is changed.

    When it returns, their names are durable.
    """
    for folder in (path, *(path / name for name in FOLDERS)):
        make_folder(folder)
    if not (path / VERSION_FILE).exists():
        replace_file(path / VERSION_FILE, b"%d\n" % HOME_VERSION)


@contextmanager
def open_home(path: Path) -> Iterator[Home]:
    """Lock a home, bring its layout up to date, and let go of it at the end.

    Raises :class:`HomeUnusable`: not there, in use, or written by a newer program. Raises ``OSError``.
    """
    if not path.is_dir():
        raise HomeUnusable(f"{path} is not there. Make a home with: carechain init")
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeUnusable(f"Another node is running in {path}. Stop it first.") from None
        _migrate(path)
        yield Home(path)
    finally:
        os.close(handle)


def running(path: Path) -> Running | None:
    """Where the node of this home listens, if one runs."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((path / RUNNING_FILE).read_bytes(), type=Running)
    return None


def _migrate(path: Path) -> None:
    file = path / VERSION_FILE
    text = file.read_text(encoding="ascii", errors="replace").strip() if file.exists() else "0"
    if not (text.isdigit() and len(text) <= _VERSION_DIGITS):
        raise HomeUnusable(f"{file} does not hold a number. Restore it from a backup.")
    found = int(text)
    if found > HOME_VERSION:
        raise HomeUnusable(f"{path} was written by a newer version of carechain. Install that version.")
    if not found:
        # A folder without a version was made by hand; completing it is the same as making it.
        make_home(path)
        return
    for version in range(found, HOME_VERSION):
        MIGRATIONS[version](path)
        replace_file(file, b"%d\n" % (version + 1))


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that it is the old one or the new one, whatever happens, and durable on return."""
    write_private_file(path, data, replace=True)
