"""What every test shares: Hypothesis profiles, simulated runs, database servers, and no silent skips in CI."""

import os
from collections.abc import Iterator
from functools import cache

import pytest
import structlog
from hypothesis import HealthCheck, settings

from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from database_programs import missing_databases
from npm_clients import missing_clients

pytest_plugins = ["stores", "clinics"]

# Under CI the same examples run every time: a red build is repeatable, and a slow machine is no failure.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--simulations",
        type=int,
        default=int(os.environ.get("CARECHAIN_SIMULATIONS", "0")),
        help="seeds that each simulation runs (0: the few that every run affords); also CARECHAIN_SIMULATIONS",
    )


@pytest.fixture(scope="session")
def simulations(request: pytest.FixtureRequest) -> int:
    """How many seeds a simulation should run; 0 leaves the choice to the test."""
    return int(request.config.getoption("--simulations"))


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A test that configures the log leaves it to the next one as it was, whatever their order."""
    yield
    structlog.reset_defaults()


@cache
def _missing_engine() -> str:
    """Why there is no consensus engine here, and how to get it; empty where there is one."""
    try:
        find_cometbft()
    except EngineMissing as missing:
        return str(missing)
    return ""


_EXTERNAL = {"engine": _missing_engine, "databases": missing_databases, "clients": missing_clients}
"""What a test may need from outside this project, by its marker: why it is not here."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs an external program where there is none, and say how to get it."""
    for marker, why_missing in _EXTERNAL.items():
        if item.get_closest_marker(marker) and why_missing():
            pytest.skip(why_missing())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn the skip of a test for want of an external program into a failure where CI promises that program.

    A test that lacks something else, such as other projects' data, may be skipped with the program there.
    """
    report = yield
    wanting = any(item.get_closest_marker(marker) and missing() for marker, missing in _EXTERNAL.items())
    if report.skipped and os.environ.get("CI") and wanting:
        report.outcome = "failed"
        report.longrepr = f"skipped under CI, where what it needs must be present: {report.longrepr}"
    return report
