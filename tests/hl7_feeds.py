"""The feed that the crash test's child process runs: journal and charts in one folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes
from zoneinfo import ZoneInfo

from carechain.charts.store import Charts
from carechain.sources.hl7v2.feed import Feed, NobodyRegistered
from carechain.sources.hl7v2.journal import Journal
from carechain.sources.hl7v2.values import Place
from carechain.sources.intake import ChartsIntake


def feed_on(journal: Journal, charts: Charts) -> Feed:
    """A feed that knows nobody."""
    return Feed(
        journal=journal,
        intake=ChartsIntake(charts, rng=token_bytes),
        registry=NobodyRegistered(),
        place=Place(zone=ZoneInfo("UTC")),
        charset="utf_8",
        clock=lambda: 1_700_000_000,
        entropy=token_bytes,
    )


@contextmanager
def feed_at(folder: Path) -> Iterator[Feed]:
    """The feed of a folder."""
    with Journal.open(folder / "hl7.sqlite") as journal, Charts.open(folder / "charts.sqlite") as charts:
        yield feed_on(journal, charts)
