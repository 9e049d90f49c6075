"""A fresh hospital for every gatekeeper test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A fresh hospital."""
    house = House(tmp_path)
    yield house
    house.close()
