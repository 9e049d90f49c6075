"""A database as a source: registered queries, run with bound parameters in one read-only transaction (REC-2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from threading import Lock
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import URL, Connection, Engine, TextClause, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from carechain.core.limits import BUNDLE_ENTRIES
from carechain.core.rejection import Rejected, require
from carechain.sources.base import Checked, Found, Key, Pointer, SourceUnavailable, Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.sql.mapping import PATIENT, Mapping, Query
from carechain.sources.sql.read_only import open_read_only, require_read_only
from carechain.sources.template import Row

ROWS_PER_QUERY: Final = 5 * BUNDLE_ENTRIES
"""Rows of one patient: a result may have several."""
PATIENTS: Final = 1_000_000
KEYS_AT_ONCE: Final = 500


class SqlSource:
    """A hospital's own schema, read where it stands. See :class:`carechain.sources.base.Source`."""

    def __init__(self, engine: Engine, mapping: Mapping) -> None:
        self._engine = engine
        self._mapping = mapping
        self._queries = {one.id: one for one in mapping.queries}
        self._known_harmless = False
        self._lock = Lock()

    @classmethod
    def open(cls, url: str, *, password: str | None, mapping: Mapping) -> Self:
        """A source at a SQLAlchemy URL; ``password`` takes the place of the one in it. Connects when it is used."""
        return cls(open_read_only(_address(url, password)), mapping)

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    def check(self) -> Checked:
        """Ask what the user may do, and run every query for no patient at all, so that its columns are known."""
        with self._reading() as connection:
            for query in self._mapping.queries:
                self._check_query(connection, query)
            if self._mapping.list_sql is not None:
                _run(connection, "patients", _wrapped(self._mapping.list_sql, "1 = 0"), {})
            version = connection.dialect.server_version_info or ()
            product = f"{connection.dialect.name} {'.'.join(str(one) for one in version)}".strip()
        return Checked(product=product, queries=tuple(self._queries))

    def patients(self) -> list[Key]:
        """See :class:`carechain.sources.base.Source`."""
        if self._mapping.list_sql is None:
            raise Rejected(SourceCode.CANNOT_LIST)
        with self._reading() as connection:
            result = _run(connection, "patients", text(self._mapping.list_sql), {}, limit=PATIENTS)
            first = result.columns[0]
            keys = {_key(row[first], "patients") for row in result.rows}
        return sorted(keys, key=lambda key: (isinstance(key, str), key))

    def chart(self, patient: Key) -> list[Found]:
        """See :class:`carechain.sources.base.Source`."""
        self._require_patient(patient)
        with self._reading() as connection:
            return [
                found
                for query in self._mapping.queries
                for found in _found(query, patient, _run(connection, query.id, _wrapped(query.sql), {PATIENT: patient}))
            ]

    def read(self, patient: Key, wanted: Sequence[Pointer]) -> list[Found]:
        """See :class:`carechain.sources.base.Source`. A query that the mapping no longer has finds nothing."""
        self._require_patient(patient)
        keys: dict[str, list[Key]] = {}
        for one in wanted:
            keys.setdefault(one.query, []).append(one.key)
        with self._reading() as connection:
            return [
                found
                for name, some in keys.items()
                if name in self._queries
                for found in self._again(connection, self._queries[name], patient, some)
            ]

    def _again(self, connection: Connection, query: Query, patient: Key, keys: Sequence[Key]) -> Iterator[Found]:
        waiting = iter(keys)
        while batch := list(islice(waiting, KEYS_AT_ONCE)):
            named = {f"key{number}": key for number, key in enumerate(batch)}
            wanted = f"carechain_q.{query.key} IN ({', '.join(f':{name}' for name in named)})"
            rows = _run(connection, query.id, _wrapped(query.sql, wanted), {PATIENT: patient, **named})
            yield from _found(query, patient, rows)

    def _check_query(self, connection: Connection, query: Query) -> None:
        parameters = {PATIENT: 0 if self._mapping.patient_key == "integer" else ""}
        columns = set(_run(connection, query.id, _wrapped(query.sql, "1 = 0"), parameters).columns)
        if query.key not in columns:
            raise Unmapped(SourceCode.KEY_MISSING, query.id, query.key)
        for column in sorted(query.template.columns - columns - {PATIENT}):
            raise Unmapped(SourceCode.COLUMN_MISSING, query.id, column)

    def _require_patient(self, patient: Key) -> None:
        wanted = int if self._mapping.patient_key == "integer" else str
        require(type(patient) is wanted, SourceCode.PATIENT_KEY_MALFORMED)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection in one read-only transaction: all queries of a chart see the same moment."""
        with _environment(), self._engine.connect() as connection, connection.begin() as transaction:
            with self._lock:
                if not self._known_harmless:
                    require_read_only(connection)
                    self._known_harmless = True
            yield connection
            transaction.rollback()


class _Rows:
    def __init__(self, columns: list[str], rows: list[Row]) -> None:
        self.columns = columns
        self.rows = rows


def _address(url: str, password: str | None) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        raise Rejected(SourceCode.SETTINGS_MALFORMED) from None
    return address if password is None else address.set(password=password)


def _wrapped(sql: str, where: str = "1 = 1") -> TextClause:
    """The operator's query as a table: what is inside cannot be anything but a query, and can be narrowed."""
    return text(f"SELECT carechain_q.* FROM (\n{sql}\n) carechain_q WHERE {where}")  # noqa: S608 - see the mapping


def _run(
    connection: Connection, query: str, statement: TextClause, parameters: dict[str, Any], limit: int = ROWS_PER_QUERY
) -> _Rows:
    result = connection.execute(statement, parameters)
    columns = [name.lower() for name in result.keys()]  # noqa: SIM118 - not a dictionary
    rows = result.fetchmany(limit + 1)
    result.close()
    if len(rows) > limit:
        raise Unmapped(SourceCode.TOO_MANY_ROWS, query)
    return _Rows(columns, [dict(zip(columns, row, strict=True)) for row in rows])


def _found(query: Query, patient: Key, rows: _Rows) -> list[Found]:
    """The results among the rows, by key."""
    for column in sorted(query.template.columns - set(rows.columns) - {PATIENT}):
        raise Unmapped(SourceCode.COLUMN_MISSING, query.id, column)
    if query.key not in rows.columns:
        raise Unmapped(SourceCode.KEY_MISSING, query.id, query.key)
    results: dict[Key, list[Row]] = {}
    for row in rows.rows:
        results.setdefault(_key(row[query.key], query.id), []).append({**row, PATIENT: patient})
    return [
        Found(pointer=Pointer(query.id, key), body=query.template.render(results[key]))
        for key in sorted(results, key=lambda key: (isinstance(key, str), key))
    ]


def _key(value: object, query: str) -> Key:
    if isinstance(value, Decimal) and value == int(value):
        return int(value)
    if isinstance(value, UUID):
        return str(value)
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value):
        return value
    raise Unmapped(SourceCode.KEY_MISSING, query)


@contextmanager
def _environment() -> Iterator[None]:
    """A database's failure without its text, which may repeat values."""
    try:
        yield
    except DBAPIError as error:
        kind = type(error.orig).__name__
        raise SourceUnavailable(
            f"the database refused or failed ({kind}): may its user read every table that the mapping names?"
        ) from None
    except SQLAlchemyError as error:
        raise SourceUnavailable(f"the database cannot be used ({type(error).__name__})") from None
