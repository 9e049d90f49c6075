"""Goal: what a patient has erased is gone from the disk of a working node, stays gone, and is signed for (REC-13).

Method: real processes on a real home. The patient orders through the API, the node carries it out; it is killed at the
worst moments and started again; old charts and an old backup are put back. Every salt and stretch of content of the
erased record is searched in the bytes of every file of the charts.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from carechain.chain.questions import AnchorLine, ErasureLine, OfRecord, TimelinePage
from carechain.charts.record import StoredRecord
from carechain.charts.store import Charts
from carechain.contracts.records import Erase, ErasedPart
from carechain.demo import synthetic
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.sdk.client import SyncClient
from carechain.sdk.wallet import Pseudonym
from node_network import founders, genesis_of
from node_process import GENESIS_S, PASSWORD, make, node, populate
from world import Organisation, wallet_of

STRETCH = 48
IN_CHARTS = int(ErasedPart.CHART | ErasedPart.SALTS)


class Site:
    """Hospital a's home with one patient's charts, anchored by a node that has stopped again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.members = founders()
        self.genesis = genesis_of(self.members, time_s=GENESIS_S)
        make(home, self.a, self.members)
        with node(home) as process:
            carl, self.steve = populate(process.api, self.a)
            with Charts.open(self.charts) as charts, SyncClient(process.api, carl) as client:
                taken = charts.ingest(
                    pseudonym=self.steve.id, bundle=synthetic.patient(3, seed=1), received_s=1, rng=os.urandom
                )
                self.records = taken.records
                for part in in_transactions(anchor_of(one, entropy=os.urandom) for one in taken.records):
                    client.submit(*part)
                self.traces = {one.record_id: traces(charts, one, taken.records) for one in taken.records}
            process.ask_to_stop()
            assert process.end() == 0

    @property
    def a(self) -> Organisation:
        return self.members["a"]

    @property
    def charts(self) -> Path:
        return self.home / "charts" / "charts.sqlite"

    def left(self, record: bytes, home: Path | None = None) -> int:
        """How much of a record the files of the charts still have."""
        folder = (home or self.home) / "charts"
        data = b"".join(one.read_bytes() for one in sorted(folder.iterdir()))
        return sum(trace in data for trace in self.traces[record])


def traces(charts: Charts, record: StoredRecord, everything: tuple[StoredRecord, ...]) -> set[bytes]:
    """Salts and content that only this record has."""
    others = b"\0".join(
        part.body
        for one in everything
        if one.record_id != record.record_id
        for part in charts.read(one.record_id).resources
    )
    found = set()
    for part in charts.read(record.record_id).resources:
        found.add(part.salt)
        found |= {part.body[at : at + STRETCH] for at in range(0, len(part.body) - STRETCH, STRETCH)}
    return {one for one in found if one not in others}


def order(api: str, steve: Pseudonym, record: bytes) -> None:
    with SyncClient(api, steve) as client:
        client.submit(Erase(pseudonym=steve.id, record=record))


def receipts(api: str, site: Site, record: bytes) -> dict[bytes, int]:
    """What stands on the ledger, proved to the patient."""
    with SyncClient(api, site.steve, genesis=site.genesis) as client:
        (line,) = client.rows("records.erasure", OfRecord(site.steve.id, record), prove=True)
    assert isinstance(line, ErasureLine)
    return {one.organisation: one.receipt.destroyed for one in line.receipts}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("original") / "home")


@pytest.fixture
def site(original: Site, tmp_path: Path) -> Site:
    """A copy to play with."""
    played = copy(original)
    played.home = Path(shutil.copytree(original.home, tmp_path / "节点"))
    return played


def test_an_order_is_carried_out_signed_for_and_survives_old_charts(site: Site, tmp_path: Path) -> None:
    going, staying = (one.record_id for one in site.records[:2])
    old_charts = Path(shutil.copy(site.charts, tmp_path / "old.sqlite"))
    assert site.left(going)
    with node(site.home) as process:
        order(process.api, site.steve, going)
        process.wait_for('"erasure_confirmed"')
        assert site.left(going) == 0
        assert site.left(staying) == len(site.traces[staying])
        assert receipts(process.api, site, going) == {site.a.id: IN_CHARTS}
        with SyncClient(process.api, site.steve, genesis=site.genesis) as client:
            lines = client.rows("records.timeline", TimelinePage(site.steve.id), prove=True)
        shown = {line.record: line.erased is not None for line in lines if isinstance(line, AnchorLine)}
        assert {one: dead for one, dead in shown.items() if dead} == {going: True}
        process.ask_to_stop()
        assert process.end() == 0
        assert site.traces[going].isdisjoint(line.encode() for line in process.log)
    # Somebody puts an old copy of the charts back.
    shutil.copy(old_charts, site.charts)
    assert site.left(going)
    with node(site.home) as process:
        # When the node says that it serves, it has been carried out again; the ledger has its one receipt already.
        assert site.left(going) == 0
        assert receipts(process.api, site, going) == {site.a.id: IN_CHARTS}


def test_a_node_that_is_killed_at_any_moment_finishes_at_the_next_start(site: Site) -> None:
    first, second = (one.record_id for one in site.records[:2])
    with node(site.home) as process, writing(site.charts):
        order(process.api, site.steve, first)
        # Acknowledged and killed, while somebody writes to the charts: nothing can be destroyed yet.
        process.ask_to_stop(signal.SIGKILL)
        process.end()
    assert site.left(first)
    with node(site.home) as process:
        assert site.left(first) == 0
        order(process.api, site.steve, second)
        process.wait_for(second.hex())
        # Destroyed and killed: whether the receipt was sent is anybody's guess.
        process.ask_to_stop(signal.SIGKILL)
    with node(site.home) as process:
        assert site.left(second) == 0
        with SyncClient(process.api, site.steve) as client:
            client.submit(Erase(pseudonym=site.steve.id, record=site.records[2].record_id))
        process.wait_for(site.records[2].record_id.hex())
        process.wait_for('"erasure_confirmed"')
        for record in (first, second):
            assert receipts(process.api, site, record) == {site.a.id: IN_CHARTS}


def test_a_restored_backup_has_lost_what_its_ledger_says_is_erased(site: Site, tmp_path: Path) -> None:
    """The backup is of a moment when the order stood and nobody had carried it out."""
    going, staying = (one.record_id for one in site.records[:2])
    with node(site.home) as process, writing(site.charts):
        order(process.api, site.steve, going)
        process.ask_to_stop(signal.SIGKILL)
        process.end()
    assert site.left(going)
    password = site.home / "keys" / "password"
    carechain("backup", tmp_path / "b", "--password-file", password, home=site.home)
    new = tmp_path / "restored"
    carechain("restore", tmp_path / "b", "--password-file", password, home=new)
    # Before any node has run in it.
    assert site.left(going, new) == 0
    assert site.left(staying, new) == len(site.traces[staying])
    with node(new) as process:
        process.wait_for('"erasure_confirmed"')
        assert receipts(process.api, site, going) == {site.a.id: IN_CHARTS}


def test_the_command_line_orders_it_and_shows_the_receipts(site: Site) -> None:
    record = site.records[0].record_id.hex()
    password = site.home / "keys" / "password"
    wallet, _ = wallet_of("steve").with_relation(site.a.id, label="协和医院", since_day=0)
    wallet.save(site.home / "keys" / "steve.json", password=PASSWORD, entropy=os.urandom)
    with node(site.home) as process:
        by = ("--as", "steve", "--password-file", password, "--node", process.api)
        shown = carechain("record", "erase", record, *by, home=site.home, expect=1)
        assert shown["error"]["label"] == "COMMAND.ERASURE_NOT_CONFIRMED"
        carechain("record", "erase", record, "--yes", *by, home=site.home)
        process.wait_for('"erasure_confirmed"')
        status = carechain("record", "erasure", record, *by, home=site.home)
        again = carechain("record", "erase", record, "--yes", *by, home=site.home, expect=1)
        listed = carechain("record", "list", *by, home=site.home)
    assert [(one["organisation"], one["destroyed"]) for one in status["receipts"]] == [
        (site.a.id.hex(), ["salts", "chart"])
    ]
    assert again["error"]["label"] == "RECORDS.ALREADY_ORDERED"
    assert {one["record"] for one in listed["records"] if one["erased_s"]} == {record}


def test_an_organisation_that_must_keep_its_charts_serves_nothing_and_signs_nothing(site: Site) -> None:
    going = site.records[0].record_id
    with (site.home / "config.toml").open("a", encoding="utf-8") as config:
        config.write("[erasure]\nkeep_charts = true\n")
    with node(site.home) as process:
        order(process.api, site.steve, going)
        process.ask_to_stop()
        assert process.end() == 0
    with node(site.home) as process:
        # The start looked at every order.
        assert site.left(going)
        assert receipts(process.api, site, going) == {}


@contextmanager
def writing(charts: Path) -> Iterator[None]:
    """Somebody else writes to the charts and takes long: whoever wants to destroy something has to wait."""
    with closing(sqlite3.connect(charts, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def carechain(*words: str | Path, home: Path, expect: int = 0) -> dict[str, Any]:
    """A command in a process of its own, as an operator beside the node gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "carechain", *map(str, words), "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
