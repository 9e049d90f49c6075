"""The mapping of a database: one declarative TOML file with its queries, their keys and their templates (API-1, REC-4).

Only the operator of the custodian writes it. Nothing a requester sends becomes a part of a statement: a requester
names records, and the parameters of their queries were put down when they were found.
"""

import re
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import text

from carechain.core.limits import CONFIG_FILE_BYTES
from carechain.core.rejection import Rejected, require
from carechain.sources.base import Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.template import Codes, Template, compile_template

QUERIES: Final = 256
"""Queries of one mapping."""
PATIENT: Final = "patient"
"""The parameter that every query binds, and a column that every template has."""
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_READING: Final = re.compile(r"\s*(?:SELECT|WITH)\b", re.IGNORECASE)

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
_Column = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class Query(Struct, frozen=True, kw_only=True):
    """A registered query: ``sql`` selects all results of ``:patient``, ``key`` tells them apart."""

    id: str
    key: str
    sql: str
    template: Template


class Mapping(Struct, frozen=True, kw_only=True):
    """A checked mapping. ``list_sql`` selects the key of every patient, if there is such a query."""

    patient_key: Literal["integer", "text"]
    list_sql: str | None
    queries: tuple[Query, ...]


class _List(Struct, frozen=True, forbid_unknown_fields=True):
    sql: str


class _Query(Struct, frozen=True, forbid_unknown_fields=True):
    id: _Name
    key: _Column
    sql: str
    template: str


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    time_zone: str
    patient_key: Literal["integer", "text"]
    query: Annotated[list[_Query], Meta(min_length=1, max_length=QUERIES)]
    patients: _List | None = None
    codes: dict[str, dict[str, str]] = {}


def read_mapping(data: bytes) -> Mapping:
    """Read and check a mapping file.

    Raises ``Rejected`` with a :class:`SourceCode`; where one query is to blame, :class:`Unmapped`, which names it.
    """
    require(len(data) <= CONFIG_FILE_BYTES, SourceCode.MAPPING_MALFORMED)
    try:
        file = msgspec.toml.decode(data, type=_File)
        zone = ZoneInfo(file.time_zone)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, ZoneInfoNotFoundError, OSError):
        raise Rejected(SourceCode.MAPPING_MALFORMED) from None
    if file.patients is not None:
        _require_reading("patients", file.patients.sql, parameters=set())
    names = [one.id for one in file.query]
    require(len(set(names)) == len(names), SourceCode.QUERY_REPEATED)
    return Mapping(
        patient_key=file.patient_key,
        list_sql=None if file.patients is None else file.patients.sql,
        queries=tuple(_query(one, file.codes, zone) for one in file.query),
    )


def _query(given: _Query, codes: Codes, zone: ZoneInfo) -> Query:
    _require_reading(given.id, given.sql, parameters={PATIENT})
    template = compile_template(given.template, query=given.id, codes=codes, zone=zone)
    return Query(id=given.id, key=given.key.lower(), sql=given.sql, template=template)


def _require_reading(query: str, sql: str, *, parameters: set[str]) -> None:
    """One statement that reads. The database is asked to refuse everything else as well."""
    bare = _COMMENT.sub(" ", sql)
    if ";" in sql or _READING.match(bare) is None:
        raise Unmapped(SourceCode.QUERY_NOT_READING, query)
    if set(text(sql).compile().params) != parameters:
        raise Unmapped(SourceCode.QUERY_PARAMETERS, query)
