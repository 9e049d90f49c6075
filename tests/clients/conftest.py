"""What the tests of other people's clients share: one served hospital for each module."""

from collections.abc import Iterator

import pytest

from served_house import ServedHouse


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedHouse]:
    house = ServedHouse(tmp_path_factory.mktemp("house"))
    yield house
    house.close()
