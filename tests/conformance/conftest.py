"""What the conformance tests share: loaded servers on each database, and an oracle of everything that they hold."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from carechain.demo import synthetic
from fhir_oracle import Oracle
from fhir_practice import RESOURCES
from fhir_recordings import data_folder, load_reference_server
from fhir_world import BASE, FhirWorld, entry, transaction
from stores import Server

OWN_PATIENTS: Final = 8
_ON_SERVER: Final = pytest.mark.databases
_DATABASES: Final = ["sqlite", pytest.param("postgresql", marks=_ON_SERVER)]


def _load_practice(world: FhirWorld) -> None:
    """The hand-made practice."""
    entries = [entry("PUT", f"{one['resourceType']}/{one['id']}", one) for one in RESOURCES]
    answer = world.ask("POST", "", transaction(*entries))
    assert answer.status == 200, answer.body


def _load_own(world: FhirWorld) -> None:
    """The practice and some of the project's synthetic patients."""
    _load_practice(world)
    for body in synthetic.patients(OWN_PATIENTS, 5):
        assert world.ask("POST", "", body).status == 200


_CONTENTS: Final = {"practice": _load_practice, "own": _load_own, "reference": load_reference_server}
Place = Callable[[ExitStack], Path | str]


class Worlds:
    """Servers on one database by what they hold, each loaded once; tests that share one must not disturb the others."""

    def __init__(self, stack: ExitStack, place: Place) -> None:
        self._stack = stack
        self._place = place
        self._known: dict[str, FhirWorld] = {}

    def of(self, content: str) -> FhirWorld:
        """The server with that content; skips the test if the content is not here."""
        if content == "reference":
            data_folder()
        if content not in self._known:
            world = self._stack.enter_context(FhirWorld(self._place(self._stack)))
            _CONTENTS[content](world)
            self._known[content] = world
        return self._known[content]


@pytest.fixture(scope="session")
def sqlite_worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with ExitStack() as stack:
        yield Worlds(stack, lambda _: tmp_path_factory.mktemp("conformance") / "charts.sqlite")


@pytest.fixture(scope="session")
def postgresql_worlds(postgresql: Server) -> Iterator[Worlds]:
    with ExitStack() as stack:
        yield Worlds(stack, lambda stack: stack.enter_context(postgresql.new_database()))


def _worlds(request: pytest.FixtureRequest, database: str) -> Worlds:
    worlds: Worlds = request.getfixturevalue(f"{database}_worlds")
    return worlds


@pytest.fixture(params=_DATABASES)
def practice(request: pytest.FixtureRequest) -> FhirWorld:
    """A server that holds the hand-made practice."""
    return _worlds(request, request.param).of("practice")


@pytest.fixture(params=_DATABASES, scope="session")
def reference_world(request: pytest.FixtureRequest) -> FhirWorld:
    """A server that holds what the recorded US Core server held."""
    return _worlds(request, request.param).of("reference")


@pytest.fixture(
    params=[
        ("own", "sqlite"),
        ("reference", "sqlite"),
        pytest.param(("own", "postgresql"), marks=_ON_SERVER),
        pytest.param(("reference", "postgresql"), marks=_ON_SERVER),
    ],
    ids="-".join,
)
def loaded_world(request: pytest.FixtureRequest) -> FhirWorld:
    """Each content on each database."""
    content, database = request.param
    return _worlds(request, database).of(content)


@pytest.fixture(scope="session")
def oracle_of() -> Callable[[FhirWorld], Oracle]:
    """The oracle of a server; one for all servers that hold the same, whatever their database."""
    known: dict[bytes, Oracle] = {}

    def oracle_of(world: FhirWorld) -> Oracle:
        resources = sorted(held(world), key=lambda one: (one["resourceType"], one["id"]))
        digest = sha256(orjson.dumps(resources)).digest()
        if digest not in known:
            known[digest] = Oracle(resources, base_url=BASE)
        return known[digest]

    return oracle_of


def held(world: FhirWorld) -> Iterator[dict[str, Any]]:
    """Every resource of a server, by its history: the newest version comes first."""
    seen: set[str] = set()
    url: str | None = "_history?_count=1000"
    while url:
        answer = world.get(url)
        assert answer.status == 200, answer.body
        for one in answer.json.get("entry", []):
            resource = one["resource"]
            name = f"{resource['resourceType']}/{resource['id']}"
            if name not in seen:
                seen.add(name)
                yield resource
        url = answer.link("next")
