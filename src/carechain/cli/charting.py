"""The organisation's charts in its own home: ingest a bundle, anchor whatever the ledger does not have yet."""

import secrets
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.charts.record import StoredRecord
from carechain.charts.store import Charts
from carechain.cli.acting import Done, Seat
from carechain.cli.network import home_genesis
from carechain.cli.output import CannotRun, Desk
from carechain.core.limits import BUNDLE_SIZE_BYTES
from carechain.gatekeeper.anchoring import anchor_of, in_transactions

CHARTS_FOLDER: Final = "charts"
CHARTS_FILE: Final = "charts.sqlite"


class Added(Struct, frozen=True, kw_only=True):
    """What a bundle brought: resources read, versions anchored, and the transactions that did it."""

    resources: int
    anchored: list[StoredRecord]
    done: list[Done]


def charts_path(home: Path) -> Path:
    """Where a home keeps its charts."""
    return home / CHARTS_FOLDER / CHARTS_FILE


def open_charts(home: Path) -> Charts:
    """The charts of an organisation's home."""
    path = charts_path(home)
    if not path.parent.is_dir():
        raise CannotRun(f"{path.parent} is missing: this is not an organisation's home; see `carechain init`")
    return Charts.open(path, home_genesis(home).suite)


def add_bundle(desk: Desk, seat: Seat, bundle: Path, pseudonym: bytes) -> Added:
    """Ingest, then anchor every version of this patient's records that the ledger lacks."""
    with bundle.expanduser().open("rb") as file:
        data = file.read(BUNDLE_SIZE_BYTES + 1)
    with open_charts(desk.home) as charts:
        result = charts.ingest(pseudonym=pseudonym, bundle=data, received_s=int(time.time()), rng=secrets.token_bytes)
        waiting = not_anchored(charts, seat, pseudonym)
    return Added(resources=result.resources, anchored=waiting, done=anchor(desk, seat, waiting))


def anchor(desk: Desk, seat: Seat, waiting: list[StoredRecord]) -> list[Done]:
    """Anchor record versions, as many in a transaction as fit."""
    done = []
    messages = [anchor_of(one, entropy=secrets.token_bytes) for one in waiting]
    parts = list(in_transactions(messages))
    with desk.progress("anchoring") as advance:
        for number, part in enumerate(parts, start=1):
            done.append(seat.submit(*part))
            advance(number, len(parts))
    return done


def local_names(home: Path, pseudonyms: list[bytes]) -> dict[bytes, str | None]:
    """Who the pseudonyms are, as far as this organisation's own charts know."""
    with open_charts(home) as charts:
        people = [charts.local_patient(one) for one in pseudonyms]
    return {person.pseudonym: person.name for person in people if person is not None}


def not_anchored(charts: Charts, seat: Seat, pseudonym: bytes) -> list[StoredRecord]:
    """Every version the charts hold and the ledger does not, in order of record and version."""
    known = {(line.record, line.version) for line in seat.rows("records.timeline", AnchorLine, TimelinePage(pseudonym))}
    return [
        version
        for newest in charts.records_of(pseudonym)
        for version in charts.history(newest.record_id)
        if (version.record_id, version.version) not in known
    ]
