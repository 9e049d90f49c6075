"""A clinic with a database of its own: the shipped example schema and its made-up patients, and a user who may read.

The fixture ``clinic`` is such a clinic on SQLite, PostgreSQL and MariaDB in turn; ``server_clinic`` leaves SQLite out.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from carechain.sources.examples import read_example, statements
from carechain.sources.registry import Sources, SqlSettings
from carechain.sources.sql.mapping import read_mapping
from carechain.sources.sql.source import SqlSource
from stores import Server

MAPPING: Final = read_example("mapping.toml").encode()
WANG: Final = 7
OUYANG: Final = 8
PRIVATE: Final = ("王", "小明", "歐陽", "志豪", "A223456781", "頭痛三天")
"""What must reach no ledger, no log and no error text."""


class Clinic:
    """The database, as its owner has it and as a gatekeeper sees it."""

    def __init__(self, folder: Path, url: str, server: Server | None) -> None:
        self.url = url
        self.password_file: Path | None = None
        self.reader_url = url
        self._server = server
        self._engine = create_engine(url, poolclass=NullPool)
        with self._engine.begin() as connection:
            for name in ("schema.sql", "data.sql"):
                for statement in statements(read_example(name)):
                    connection.execute(text(statement.replace(":", r"\:")))
        if server is not None:
            self._add_reader(folder, server)

    @property
    def dialect(self) -> str:
        return make_url(self.url).get_backend_name()

    def do(self, *several: str) -> None:
        """Change something as the clinic's own program does."""
        with self._engine.begin() as connection:
            for statement in several:
                connection.execute(text(statement))

    def settings(self) -> SqlSettings:
        file = None if self.password_file is None else str(self.password_file)
        return SqlSettings(url=self.reader_url, password_file=file)

    def source(self, mapping: bytes = MAPPING) -> SqlSource:
        password = None if self.password_file is None else self.password_file.read_text(encoding="utf-8").strip()
        return SqlSource.open(self.reader_url, password=password, mapping=read_mapping(mapping))

    def add_to(self, home: Path, name: str = "clinic") -> Sources:
        """The clinic as a source of an organisation's home."""
        sources = Sources(home)
        sources.add(name, self.settings(), mapping=MAPPING)
        return sources

    def grant(self, what: str) -> None:
        """Let the reader do more than it may, or no longer."""
        self.do(*what.replace("READER", self._reader).split("; "))

    def url_of_reader(self) -> str:
        """The reader's address with its password, for whoever does not go through this program."""
        password = "" if self.password_file is None else self.password_file.read_text(encoding="utf-8").strip()
        return make_url(self.reader_url).set(password=password).render_as_string(hide_password=False)

    def _add_reader(self, folder: Path, server: Server) -> None:
        name, password = f"reader_{secrets.token_hex(4)}", secrets.token_hex(8)
        database = make_url(self.url).database
        if self.dialect == "postgresql":
            self._reader = name
            self.do(
                f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
                f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
            )
        else:
            self._reader = f"{name}@'{server.host}'"
            self.do(
                f"CREATE USER {self._reader} IDENTIFIED BY '{password}'",
                f"GRANT SELECT ON {database}.* TO {self._reader}",
            )
        self.password_file = folder / "reader-password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(password + "\n", encoding="utf-8")
        address = make_url(server.url(str(database), user=name))
        # The password stays in its file.
        self.reader_url = address._replace(password=None).render_as_string(hide_password=False)

    def close(self) -> None:
        if self.dialect == "postgresql":
            self.do(f"DROP OWNED BY {self._reader}", f"DROP ROLE {self._reader}")
        elif self._server is not None:
            self.do(f"DROP USER {self._reader}")
        self._engine.dispose()


def _clinic(request: pytest.FixtureRequest, folder: Path) -> Iterator[Clinic]:
    if request.param == "sqlite":
        opened = Clinic(folder, f"sqlite:///{folder / 'clinic.sqlite'}", None)
    else:
        server = request.getfixturevalue(request.param)
        url = request.getfixturevalue(f"{request.param}_url")
        opened = Clinic(folder, url, server)
    yield opened
    opened.close()


_SERVERS: Final = [pytest.param(name, marks=pytest.mark.databases) for name in ("postgresql", "mariadb")]


@pytest.fixture(params=["sqlite", *_SERVERS])
def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Clinic]:
    """A clinic on each kind of database."""
    yield from _clinic(request, tmp_path)


@pytest.fixture(params=_SERVERS)
def server_clinic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Clinic]:
    """A clinic on each kind of database that has users."""
    yield from _clinic(request, tmp_path)
