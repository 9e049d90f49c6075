"""The sources of one organisation: a file of settings for each in its home, opened when it is first needed.

The files are looked at again at every use, so that a source that was added or changed works without a restart.
"""

import json
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from carechain.core.limits import CONFIG_FILE_BYTES, SECRET_FILE_BYTES
from carechain.core.rejection import Rejected, require
from carechain.sources.base import Source, SourceUnavailable
from carechain.sources.codes import SourceCode
from carechain.sources.fhir.source import DEFAULT_TYPES, FhirSource
from carechain.sources.sql.mapping import read_mapping
from carechain.sources.sql.source import SqlSource
from carechain.state.log import make_folder

FOLDER: Final = "sources"
POINTERS_FILE: Final = "pointers.sqlite"
_MAPPING: Final = ".mapping.toml"
_SETTINGS: Final = ".source.toml"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
_OTHERS: Final = 0o077
_PRIVATE_FILE: Final = 0o600

_Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class SqlSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sql"):
    """A database: its SQLAlchemy URL without a password, and the file that has the password."""

    url: _Text
    password_file: _Text | None = None


class FhirSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="fhir"):
    """A FHIR R4 server: its base address, the file with a bearer token, and which resource types are asked for."""

    url: _Text
    token_file: _Text | None = None
    ca_file: _Text | None = None
    types: Annotated[tuple[str, ...], Meta(min_length=1, max_length=150)] = DEFAULT_TYPES


Settings = SqlSettings | FhirSettings
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Sources:
    """The folder ``sources`` of a home. Safe to use from several threads."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / FOLDER
        self._open: dict[str, tuple[_Stamp, Source]] = {}
        self._lock = threading.Lock()

    @property
    def pointers(self) -> Path:
        """Where the pointers of all sources are."""
        return self._folder / POINTERS_FILE

    def make_folder(self) -> None:
        """Make the folder, durably, if it is missing. Raises ``OSError``."""
        make_folder(self._folder)

    def names(self) -> list[str]:
        """The names of all sources, in order."""
        if not self._folder.is_dir():
            return []
        return sorted(one.name.removesuffix(_SETTINGS) for one in self._folder.glob(f"*{_SETTINGS}"))

    def add(self, name: str, settings: Settings, *, mapping: bytes | None = None) -> Source:
        """Put a source down and open it; what cannot be used is not put down.

        Raises ``Rejected``: BAD_NAME, NAME_TAKEN, or what is wrong with the settings, the mapping or the system.
        Raises ``SourceUnavailable`` and ``OSError``.
        """
        require(_NAME.fullmatch(name), SourceCode.BAD_NAME)
        require(name not in self.names(), SourceCode.NAME_TAKEN)
        self.make_folder()
        source = self._opened(settings, mapping)
        try:
            source.check()
        finally:
            source.close()
        if mapping is not None:
            _write(self.mapping_file(name), mapping)
        _write(self._folder / f"{name}{_SETTINGS}", _toml(settings))
        return self.source(name)

    def settings(self, name: str) -> Settings:
        """A source's settings; raises ``Rejected`` (SOURCE_UNKNOWN, SETTINGS_MALFORMED)."""
        path = self._folder / f"{name}{_SETTINGS}"
        if _NAME.fullmatch(name) is None or not path.is_file():
            raise Rejected(SourceCode.SOURCE_UNKNOWN)
        try:
            return msgspec.toml.decode(_read(path, CONFIG_FILE_BYTES), type=SqlSettings | FhirSettings)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            raise Rejected(SourceCode.SETTINGS_MALFORMED) from None

    def mapping_file(self, name: str) -> Path:
        """Where the mapping of a database is."""
        return self._folder / f"{name}{_MAPPING}"

    def source(self, name: str) -> Source:
        """A source by name, opened now if it was not or if its files changed. Raises as :meth:`add`."""
        with self._lock:
            stamp = tuple(_stamp(self._folder / f"{name}{ending}") for ending in (_SETTINGS, _MAPPING))
            if name in self._open and self._open[name][0] == stamp:
                return self._open[name][1]
            settings = self.settings(name)
            mapping = None
            if isinstance(settings, SqlSettings):
                mapping = _read(self.mapping_file(name), CONFIG_FILE_BYTES)
            source = self._opened(settings, mapping)
            before = self._open.get(name)
            self._open[name] = (stamp, source)
        if before is not None:
            before[1].close()
        return source

    def close(self) -> None:
        """Let go of every source."""
        with self._lock:
            for _, source in self._open.values():
                source.close()
            self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self, settings: Settings, mapping: bytes | None) -> Source:
        if isinstance(settings, FhirSettings):
            ca_file = None if settings.ca_file is None else self._home / settings.ca_file
            return FhirSource.open(
                settings.url, token=self._secret(settings.token_file), ca_file=ca_file, types=settings.types
            )
        if mapping is None:
            raise Rejected(SourceCode.MAPPING_MALFORMED)
        try:
            in_address = make_url(settings.url).password is not None
        except ArgumentError:
            raise Rejected(SourceCode.SETTINGS_MALFORMED) from None
        require(not in_address, SourceCode.PASSWORD_IN_ADDRESS)
        password = self._secret(settings.password_file)
        return SqlSource.open(settings.url, password=password, mapping=read_mapping(mapping))

    def _secret(self, file: str | None) -> str | None:
        if file is None:
            return None
        path = self._home / file
        if path.stat().st_mode & _OTHERS:
            raise SourceUnavailable(f"{path} may be read by others: set its mode to 0600")
        return _read(path, SECRET_FILE_BYTES).decode(errors="replace").strip()


def _toml(settings: Settings) -> bytes:
    """The settings as TOML; every value is a text or a list of texts, which TOML writes as JSON does."""
    values = msgspec.to_builtins(settings)
    return "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items() if value is not None
    ).encode()


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=_PRIVATE_FILE)
    path.write_bytes(data)


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    require(len(data) <= most, SourceCode.SETTINGS_MALFORMED)
    return data


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
