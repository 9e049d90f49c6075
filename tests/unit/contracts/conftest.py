"""Every contract test starts from the same consortium."""

import pytest

from world import World, fresh


@pytest.fixture
def world() -> World:
    return fresh()
