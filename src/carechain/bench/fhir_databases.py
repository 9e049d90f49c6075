"""Where the charts of ``bench fhir`` lie: a SQLite file, a given PostgreSQL database, or a server started for it.

A private server listens on a Unix socket only, keeps its data in a folder that goes with it, syncs to disk as it does
in production, and ends with the benchmark. PostgreSQL refuses to run as root; root lends it another user.
"""

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sqlalchemy import URL, create_engine

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
_OWNER: Final = "carechain"
_LENT_USERS: Final = ("postgres", "nobody")
_READY: Final = "ready to accept connections"
_STOP_S: Final = 30
_DEBIAN: Final = Path("/usr/lib/postgresql")


class ServerFailed(Exception):  # noqa: N818 - names what became of the server
    """PostgreSQL did not start; carries the last words of its log."""


def postgresql_programs() -> tuple[Path, Path] | None:
    """``initdb`` and ``postgres``; None where they are not installed."""
    folders = sorted(_DEBIAN.glob("[0-9]*/bin"), key=lambda one: int(one.parent.name), reverse=True)
    places = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    found = [shutil.which(name, path=places) for name in ("initdb", "postgres")]
    return (Path(found[0]), Path(found[1])) if found[0] and found[1] else None


@contextmanager
def private_postgresql(programs: tuple[Path, Path], folder: Path) -> Iterator[str]:
    """The address of a new database; the server runs until the block ends. Raises :class:`ServerFailed`."""
    initdb, postgres = programs
    data, words = folder / "pg", folder / "pg-password"
    data.mkdir(mode=0o700)
    password = secrets.token_hex(16)
    words.touch(mode=0o600)
    words.write_text(password, encoding="utf-8")
    user = _lent_user()
    if user:
        for one in (data, words):
            shutil.chown(one, user)
        # The lent user must get through to its own folder, and see nothing else on the way.
        folder.chmod(0o711)
    choice = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={words}", f"-U{_OWNER}"]
    made = subprocess.run(  # type: ignore[call-overload] # noqa: S603 - arguments of our own making
        [initdb, "-D", data, *choice], cwd=data, capture_output=True, text=True, check=False, **_as(user)
    )
    if made.returncode:
        raise ServerFailed(made.stderr[-500:])
    settings = ["listen_addresses=", f"unix_socket_directories={data}"]
    process = subprocess.Popen(  # type: ignore[call-overload] # noqa: S603
        [postgres, "-D", data, *(word for one in settings for word in ("-c", one))],
        cwd=data,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **_as(user),
    )
    try:
        _wait_until_ready(process.stderr)
        # The server says little after that; its log goes to a pipe that holds more than it will say.
        socket = {"host": str(data)}
        address = URL.create("postgresql+psycopg", _OWNER, password, database="postgres", query=socket)
        yield address.render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.communicate(timeout=_STOP_S)


def settle(address: str) -> None:
    """What autovacuum does within a minute or two of a load: statistics for plans, and which pages everybody sees."""
    engine = create_engine(address, isolation_level="AUTOCOMMIT", hide_parameters=True)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE)")
    finally:
        engine.dispose()


def _wait_until_ready(log: IO[str]) -> None:
    said: list[str] = []
    for line in log:
        said.append(line)
        if _READY in line:
            return
    raise ServerFailed("".join(said)[-500:])


def _lent_user() -> str | None:
    """Who runs the server where this process is root, which PostgreSQL refuses."""
    if os.geteuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in _LENT_USERS if name in known), None)


def _as(user: str | None) -> dict[str, object]:
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
