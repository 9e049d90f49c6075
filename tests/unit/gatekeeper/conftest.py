"""A fresh hospital for every gatekeeper test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from house import House
from sealed_world import SealedWorld


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A fresh hospital."""
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[SealedWorld]:
    """A fresh world with five keyholders."""
    world = SealedWorld(tmp_path)
    yield world
    world.close()
