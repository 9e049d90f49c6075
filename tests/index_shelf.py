"""A small index for search tests: resources as JSON, placed on the shelves of made-up patients, without the store.

The rows are written by the extraction itself and searched as the gateway does, so a test says only what lies where and
what is asked. Hidden rows are there like all others: what a search returns is decided by the sight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from carechain.charts.dialect import add_rows, open_engine
from carechain.charts.index_schema import (
    DIRECTORY_SHELF,
    INDEX_TABLES,
    date_index,
    live,
    number_index,
    reference_index,
    shelves,
    string_index,
    token_index,
)
from carechain.charts.live import visible_to
from carechain.charts.schema import METADATA
from carechain.charts.searching.extract import Extractor
from carechain.charts.searching.keys import reference_term
from carechain.charts.searching.query import parse
from carechain.charts.searching.result import Found, Page, included, search
from carechain.charts.searching.tree import SearchQuery
from carechain.charts.sight import CUSTODIAN, Sight

ZONE = ZoneInfo("Asia/Shanghai")
SECOND_US = 1_000_000
FIRST_ROW = 1_000_000
"""Row numbers are unlike any shelf, day or count, so that they can be recognised among what leaves the database."""
FIRST_UPDATE_US = 1_700_000_000 * SECOND_US


def pseudonym(name: str) -> bytes:
    """The made-up patient's pseudonym."""
    return name.encode().ljust(32, b".")


def record_of(name: str) -> bytes:
    """The id of a record, from a name."""
    return name.encode().rjust(32, b"r")


class Shelf:
    """Resources in the index tables of one database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._extractor = Extractor(ZONE)
        self._shelves: dict[tuple[bytes, int, int], int] = {}
        self._count = FIRST_ROW
        self._rows: dict[str, list[tuple[Any, ...]]] = {table.name: [] for table in (shelves, live, *INDEX_TABLES)}
        self.names: dict[int, str] = {}
        """``Type/id`` of every row."""

    def put(
        self,
        resource_type: str,
        identity: str,
        *,
        of: str | None = None,
        place: tuple[int, int] = (2, 1),
        day: int = 40_000,
        record: str = "",
        **elements: Any,
    ) -> int:
        """A resource of a patient (``of``), or of the shared directory; its row number, which tells the order too.

        ``place`` is the category and the grade of its record.
        """
        self._count += 1
        rid = self._count
        shelf = DIRECTORY_SHELF if of is None else self._shelf(pseudonym(of), *place)
        day = 0 if of is None else day
        name = f"{resource_type}/{identity}"
        tree = {"resourceType": resource_type, "id": identity, **elements}
        record_id = record_of(record or name)[:32] if of is not None else None
        updated_us = FIRST_UPDATE_US + (rid - FIRST_ROW) * SECOND_US
        self._rows["live"].append(
            (rid, resource_type, identity, reference_term(name), shelf, day, record_id, 1, updated_us, rid)
        )
        found = self._extractor.rows(tree, resource_type)
        for table, rows in (
            (token_index, found.tokens),
            (reference_index, found.references),
            (string_index, found.strings),
            (date_index, found.dates),
            (number_index, found.numbers),
        ):
            self._rows[table.name].extend((rid, *row, shelf, day) for row in rows)
        self.names[rid] = name
        return rid

    def _shelf(self, owner: bytes, category: int, grade: int) -> int:
        place = (owner, category, grade)
        if place not in self._shelves:
            self._shelves[place] = len(self._shelves) + 1
            self._rows["shelves"].append((self._shelves[place], *place))
        return self._shelves[place]

    def write(self) -> None:
        """Everything put so far, into the database."""
        with self.engine.execution_options(carechain_write=True).begin() as connection:
            for table in (shelves, live, *INDEX_TABLES):
                add_rows(connection, table, self._rows[table.name])
                self._rows[table.name] = []

    def find(
        self, question: str, sight: Sight = CUSTODIAN, *, page: Page | None = None, strict: bool = True
    ) -> list[str]:
        """``Type/id`` of the first page of matches, in order; the question as in a URL, not encoded."""
        return self.ask(question, sight, page=page, strict=strict)[0]

    def ask(
        self, question: str, sight: Sight = CUSTODIAN, *, page: Page | None = None, strict: bool = True
    ) -> tuple[list[str], Found, list[str]]:
        """The matches' names, what was found, and the names of what is included."""
        query = read(question, strict=strict)
        with self.engine.connect() as connection:
            visible = visible_to(connection, sight)
            found = search(connection, visible, query, page or Page())
            more = included(connection, visible, query, found.matches)
        return [self.names[rid] for rid in found.matches], found, [self.names[rid] for rid in more]


def read(question: str, *, strict: bool = True, base_url: str = "https://node.example/fhir") -> SearchQuery:
    """``Type?name=value&name=value`` as a query; without a type, at system level."""
    resource_type, _, rest = question.partition("?")
    params = [tuple(one.split("=", 1)) for one in rest.split("&") if one]
    return parse(resource_type or None, params, zone=ZONE, strict=strict, base_url=base_url)  # type: ignore[arg-type]


@contextmanager
def shelf_at(url: str) -> Iterator[Shelf]:
    """An empty index in a new database."""
    engine = open_engine(url)
    METADATA.create_all(engine.execution_options(carechain_write=True))
    try:
        yield Shelf(engine)
    finally:
        engine.dispose()


def coded(code: str, system: str = "http://loinc.org", **more: Any) -> dict[str, Any]:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code, **more}]}


def to(target: str) -> dict[str, str]:
    """A reference."""
    return {"reference": target}


def quantity(value: float, unit: str = "mg", **more: Any) -> dict[str, Any]:
    """A quantity in UCUM units."""
    return {"value": value, "unit": unit, "code": unit, "system": "http://unitsofmeasure.org", **more}
