"""Private database servers for the tests: PostgreSQL and MariaDB as their Debian packages install them.

A server starts once per test process, on a free port of the loopback address, with its data in a folder of its own that
goes with it; an installed and running service is never touched. Both refuse to run as root, so root lends them an
unprivileged user. Fixtures, loaded for every test by ``conftest.py``:

- ``postgresql``, ``mariadb``: the running server, a ``Server``;
- ``postgresql_url``, ``mariadb_url``: the SQLAlchemy URL of a new, empty UTF-8 database that is dropped afterwards;
- ``database_url``: SQLite and PostgreSQL in turn, for what must behave alike on both;
- ``source_url``: SQLite, PostgreSQL and MariaDB in turn.

A test that asks for one of them carries the marker ``databases``: it is skipped where the programs are missing, and
that fails under CI=true. ``make databases`` installs them.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Final

import pytest
from sqlalchemy import URL, Connection, create_engine, text
from sqlalchemy.pool import NullPool

from carechain.node.ports import free_ports
from database_programs import mariadb_programs, postgresql_programs

_HOST: Final = "127.0.0.1"
_OWNER: Final = "carechain"
_LENT_USERS: Final = ("postgres", "mysql", "nobody")
_STOP_SECONDS: Final = 30
_LAST_LINES: Final = 50

# The shell ends the server when its own standard input ends, so also when the test process was killed. What the server
# itself inherits is closed for the shell, or the end of the log would not be the end of the server.
_GUARD: Final = 'signal=$1; shift; "$@" & exec 2>/dev/null; cat >/dev/null; kill -"$signal" $!; wait $!'


@cache
def _lent_user() -> str | None:
    """The unprivileged user that runs the servers; none unless this process is root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _LENT_USERS if name in known)


@dataclass(frozen=True)
class Server:
    """A running database server and its administrator."""

    dialect: str
    """SQLAlchemy's name of the dialect and driver."""
    port: int
    password: str = field(repr=False)
    maintenance: str
    """The database that is always there, to connect to while others are made and dropped."""
    host: str = _HOST
    user: str = _OWNER

    def url(self, database: str, *, user: str = _OWNER, password: str | None = None) -> str:
        """The SQLAlchemy URL of one database, for the administrator unless another user is named."""
        query = {"charset": "utf8mb4"} if self.dialect.startswith("mysql") else {}
        secret = self.password if password is None else password
        address = URL.create(self.dialect, user, secret, self.host, self.port, database, query)
        return address.render_as_string(hide_password=False)

    @contextmanager
    def administering(self, database: str | None = None) -> Iterator[Connection]:
        """A connection of the administrator on which every statement commits by itself."""
        engine = create_engine(self.url(database or self.maintenance), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection
        engine.dispose()

    @contextmanager
    def new_database(self) -> Iterator[str]:
        """The URL of a new and empty database, which is dropped afterwards with whoever is still connected."""
        name = f"test_{secrets.token_hex(8)}"
        with self.administering() as administrator:
            if self.dialect.startswith("mysql"):
                administrator.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
            else:
                administrator.execute(text(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"))
            try:
                yield self.url(name)
            finally:
                forced = "" if self.dialect.startswith("mysql") else " WITH (FORCE)"
                administrator.execute(text(f"DROP DATABASE {name}{forced}"))


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder of the servers' user, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="ccdb-"))
    try:
        user = _lent_user()
        if user:
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_user() -> dict[str, object]:
    """The arguments of ``subprocess`` that give the servers' user, without any group of ours."""
    user = _lent_user()
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


def _prepare(command: Sequence[str | Path], folder: Path) -> None:
    """Run the program that makes a data folder; raises ``RuntimeError`` with its words when it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        command, cwd=folder, capture_output=True, text=True, check=False, **_as_user()
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}\n{done.stderr}")


def _secret_file(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    user = _lent_user()
    if user:
        shutil.chown(path, user)
    return path


def _drain(log: IO[str], ready: str, last: deque[str], told: threading.Event) -> None:
    """Read the server's log to its end, so that the server never waits for a reader."""
    for line in log:
        last.append(line)
        if ready in line:
            told.set()
    told.set()


@contextmanager
def _running(command: Sequence[str | Path], folder: Path, *, ready: str, stop_signal: str) -> Iterator[None]:
    """The server from the line of its log that says it is ready until the block ends."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        ["/bin/sh", "-c", _GUARD, "guard", stop_signal, *command],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **_as_user(),
    )
    last: deque[str] = deque(maxlen=_LAST_LINES)
    told = threading.Event()
    reader = threading.Thread(target=_drain, args=(process.stderr, ready, last, told), daemon=True)
    reader.start()
    try:
        told.wait()
        if not any(ready in line for line in last):
            raise RuntimeError(f"{command[0]} ended before it was ready: {''.join(last)}")
        yield
    finally:
        process.stdin.close()
        process.wait(_STOP_SECONDS)
        reader.join(_STOP_SECONDS)
        process.stderr.close()


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[Server]:
    """A private PostgreSQL server; ``durable`` syncs to disk as production does, which a benchmark needs."""
    initdb, server = postgresql_programs()
    with _private_folder() as folder:
        password, (port,) = secrets.token_hex(16), free_ports(1)
        data = folder / "data"
        words = _secret_file(folder / "password", password)
        authentication = ["--auth=scram-sha-256", f"--pwfile={words}", f"--username={_OWNER}"]
        _prepare([initdb, "-D", data, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", *authentication], folder)
        choices = [f"listen_addresses={_HOST}", f"port={port}", f"unix_socket_directories={folder}"]
        if not durable:
            choices += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        command = [server, "-D", data, *(word for choice in choices for word in ("-c", choice))]
        with _running(command, folder, ready="ready to accept connections", stop_signal="QUIT"):
            yield Server("postgresql+psycopg", port, password, "postgres")


@contextmanager
def running_mariadb() -> Iterator[Server]:
    """A private MariaDB server, its durability relaxed."""
    install, server = mariadb_programs()
    with _private_folder() as folder:
        password, (port,) = secrets.token_hex(16), free_ports(1)
        data = folder / "data"
        own = ["--no-defaults", f"--datadir={data}"]
        _prepare([install, *own, "--skip-test-db", "--auth-root-authentication-method=normal"], folder)
        first = _secret_file(
            folder / "first.sql",
            f"ALTER USER root@localhost IDENTIFIED BY '{secrets.token_hex(16)}';\n"
            f"CREATE USER IF NOT EXISTS {_OWNER}@'{_HOST}' IDENTIFIED BY '{password}';\n"
            f"GRANT ALL ON *.* TO {_OWNER}@'{_HOST}' WITH GRANT OPTION;\n",
        )
        command = [
            *(server, *own, f"--bind-address={_HOST}", f"--port={port}", f"--socket={folder / 'socket'}"),
            *(f"--pid-file={folder / 'pid'}", f"--init-file={first}", f"--tmpdir={folder}", "--skip-name-resolve"),
            *("--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"),
            *("--innodb-buffer-pool-size=64M", "--skip-log-bin"),
        ]
        with _running(command, folder, ready="ready for connections", stop_signal="TERM"):
            yield Server("mysql+pymysql", port, password, "mysql")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """The PostgreSQL server of this test process."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """The MariaDB server of this test process."""
    with running_mariadb() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: Server) -> Iterator[str]:
    """The URL of a new and empty PostgreSQL database."""
    with postgresql.new_database() as url:
        yield url


@pytest.fixture
def mariadb_url(mariadb: Server) -> Iterator[str]:
    """The URL of a new and empty MariaDB database."""
    with mariadb.new_database() as url:
        yield url


def _url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'database.sqlite'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


_ON_SERVER: Final = pytest.mark.databases


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=_ON_SERVER)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new and empty database: SQLite, then PostgreSQL."""
    return _url(request, tmp_path)


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=_ON_SERVER), pytest.param("mariadb", marks=_ON_SERVER)]
)
def source_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new and empty database of another system: SQLite, PostgreSQL, then MariaDB."""
    return _url(request, tmp_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a server by name, so that no test can forget to say it needs one."""
    servers = {"postgresql", "mariadb", "postgresql_url", "mariadb_url"}
    for item in items:
        if servers & set(getattr(item, "fixturenames", ())):
            item.add_marker(_ON_SERVER)
