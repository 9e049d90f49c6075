"""What the conformance tests share: a server that holds published data, on each database, and everything it holds."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fhir_oracle import Oracle
from fhir_recordings import data_folder, load_reference_server
from fhir_world import BASE, FhirWorld


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.databases)])
def reference_world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FhirWorld]:
    """A server loaded with what the recorded US Core server held."""
    data_folder()
    with ExitStack() as stack:
        place: Path | str = tmp_path_factory.mktemp("reference") / "charts.sqlite"
        if request.param == "postgresql":
            place = stack.enter_context(request.getfixturevalue("postgresql").new_database())
        world = stack.enter_context(FhirWorld(place))
        load_reference_server(world)
        yield world


@pytest.fixture(scope="session")
def oracle(reference_world: FhirWorld) -> Oracle:
    """Everything that the server holds, as it is served."""
    return Oracle(held(reference_world), base_url=BASE)


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
