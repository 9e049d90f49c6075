"""What the conformance tests share: loaded servers on each database, and an oracle of everything that they hold."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
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
WorldOf = Callable[[str, str], FhirWorld]


@pytest.fixture(scope="session")
def world_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorldOf]:
    """Servers by what they hold and on which database, each loaded once; tests that share one only read."""
    with ExitStack() as stack:

        @cache
        def world_of(content: str, database: str) -> FhirWorld:
            if content == "reference":
                data_folder()
            place: Path | str = tmp_path_factory.mktemp("conformance") / "charts.sqlite"
            if database == "postgresql":
                place = stack.enter_context(request.getfixturevalue("postgresql").new_database())
            world = stack.enter_context(FhirWorld(place))
            _CONTENTS[content](world)
            return world

        yield world_of


@pytest.fixture(params=_DATABASES)
def practice(request: pytest.FixtureRequest, world_of: WorldOf) -> FhirWorld:
    """A server that holds the hand-made practice."""
    return world_of("practice", request.param)


@pytest.fixture(params=_DATABASES, scope="session")
def reference_world(request: pytest.FixtureRequest, world_of: WorldOf) -> FhirWorld:
    """A server that holds what the recorded US Core server held."""
    return world_of("reference", request.param)


@pytest.fixture(
    params=[
        ("own", "sqlite"),
        ("reference", "sqlite"),
        pytest.param(("own", "postgresql"), marks=_ON_SERVER),
        pytest.param(("reference", "postgresql"), marks=_ON_SERVER),
    ],
    ids="-".join,
)
def loaded_world(request: pytest.FixtureRequest, world_of: WorldOf) -> FhirWorld:
    """Each content on each database."""
    return world_of(*request.param)


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
