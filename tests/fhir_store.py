"""What the tests of the FHIR store share: a ward that writes resources, and the whole index as plain values."""

import contextlib
import json
import select as waiting
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import count
from typing import Any

from sqlalchemy import Connection, select

from carechain.charts.assistant import FEWEST, Assistant
from carechain.charts.index_schema import INDEX_TABLES, live, shelves
from carechain.charts.indexing import Index
from carechain.charts.rebuilding import rebuild
from carechain.charts.repository import Applied, Change, Repository
from carechain.charts.sight import CUSTODIAN, Sight, of_patient
from carechain.charts.store import Charts
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import ALL_CATEGORIES, Sensitivity

HIV = "86406008"
FLU = "6142004"
NOW_US = 1_760_000_000_000_000
STARTED_S = 60
ANNA, BERT = b"a" * 32, b"b" * 32


def coded(code: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://snomed.info/sct", "code": code}]}


def about(kind: str, identity: str, patient: str = "anna", **elements: Any) -> dict[str, Any]:
    return {"resourceType": kind, "id": identity, "subject": {"reference": f"Patient/{patient}"}, **elements}


def person(identity: str, **elements: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": identity, **elements}


def change(tree: dict[str, Any], if_match: int | None = None, *, create: bool = False) -> Change:
    body = json.dumps(tree, ensure_ascii=False).encode()
    kind, identity = tree["resourceType"], tree["id"]
    return Change(resource_type=kind, resource_id=identity, body=body, if_match=if_match, create=create)


def up_to(ceiling: Sensitivity, **fields: Any) -> Scope:
    return Scope(categories=fields.pop("categories", ALL_CATEGORIES), ceiling=ceiling, **fields)


def sees(*pseudonyms: bytes, scope: Scope = EVERYTHING) -> Sight:
    return Sight(windows=tuple(window for one in pseudonyms for window in of_patient(one, scope).windows))


def ready(assistant: Assistant) -> Assistant:
    """An assistant that has started: by a first job, which it is too late for, and after its sign."""
    assert all(one is None for one in assistant.examined([b"{}"] * FEWEST))
    process = assistant._process
    assert process is not None
    assert process.stdout is not None
    assert waiting.select([process.stdout], [], [], STARTED_S)[0]
    return assistant


class _Undone(Exception):  # noqa: N818 - says what it does
    pass


class Ward:
    """Writes as the custodian unless told otherwise; every writing is a little later than the one before."""

    def __init__(self, charts: Charts) -> None:
        self.charts = charts
        self.repository = Repository(charts)
        self._numbers = count()
        self.now_us = NOW_US

    def rng(self, size: int) -> bytes:
        return sha256(next(self._numbers).to_bytes(8, "big")).digest()[:size]

    def apply(self, changes: Sequence[Change], allow: Sight = CUSTODIAN) -> list[Applied]:
        self.now_us += 1_000_000
        with self.repository.writing(self.now_us, self.rng) as writer:
            return writer.apply(changes, allow)

    def put(self, *trees: dict[str, Any], allow: Sight = CUSTODIAN) -> list[Applied]:
        return self.apply([change(one) for one in trees], allow)

    def admit(self) -> None:
        """Two bound patients."""
        self.put(person("anna", name=[{"family": "Ash"}]), person("bert"))
        self.charts.bind("anna", ANNA)
        self.charts.bind("bert", BERT)

    def names(self, sight: Sight, candidates: Iterable[tuple[str, str]]) -> set[str]:
        with self.repository.reading() as reader:
            return {f"{kind}/{one}" for kind, one in candidates if reader.read(sight, kind, one) is not None}

    def index(self) -> dict[str, Any]:
        with self.charts.snapshot() as connection:
            return index_of(connection)

    def rebuilt(self) -> dict[str, Any]:
        """The index as it is made from nothing, without keeping it."""
        made: dict[str, Any] = {}
        with contextlib.suppress(_Undone), self.charts.transaction() as connection:
            rebuild(connection, Index(connection))
            made = index_of(connection)
            raise _Undone
        return made


def index_of(connection: Connection) -> dict[str, Any]:
    """Every live resource with its place and its index rows; numbers that are only handed out are left out."""
    place = {row.shelf: (row.pseudonym, row.category, row.grade) for row in connection.execute(select(shelves))}
    names: dict[int, str] = {}
    found: dict[str, Any] = {}
    for row in connection.execute(select(live)):
        name = names[row.rid] = f"{row.resource_type}/{row.resource_id}"
        placed = (place.get(row.shelf), row.day, row.record_id, row.version, row.updated_us, row.resource_seq)
        found[name] = {"place": placed}
    for table in INDEX_TABLES:
        for rid, *values, shelf, day in connection.execute(select(table)):
            found[names[rid]].setdefault(table.name, set()).add((*values, place.get(shelf), day))
    return found
