"""Placeholder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealed_world import SealedWorld


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[SealedWorld]:
    """A fresh world with five keyholders, of whom three suffice."""
    world = SealedWorld(tmp_path)
    yield world
    world.close()
