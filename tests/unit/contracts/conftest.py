"""Every contract test starts from the same consortium."""

import pytest

from carechain.core.suite import Institution
from world import World, fresh


@pytest.fixture
def institution() -> Institution:
    """The suite that the consortium was founded with; tests about keys and certificates ask for both."""
    return Institution.INTERNATIONAL


@pytest.fixture
def world(institution: Institution) -> World:
    return fresh(institution=None if institution is Institution.INTERNATIONAL else institution)
