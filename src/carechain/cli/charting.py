"""The organisation's charts in its own home: ingest a bundle, anchor whatever the ledger does not have yet."""

import secrets
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.charts.bundle import parse
from carechain.charts.codes import ChartsCode
from carechain.charts.record import StoredRecord
from carechain.charts.store import Charts
from carechain.charts.validation import validate
from carechain.cli.acting import Done, Seat
from carechain.cli.network import home_genesis
from carechain.cli.output import CannotRun, Denied, Desk
from carechain.core.limits import BUNDLE_SIZE_BYTES
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.node.settings import BadSettings, load_settings

CHARTS_FOLDER: Final = "charts"
CHARTS_FILE: Final = "charts.sqlite"
FAULTS: Final = frozenset({"fatal", "error"})
"""Severities that keep a bundle out; a warning does not."""


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
    try:
        place = load_settings(home=home).charts(path)
    except BadSettings as wrong:
        raise CannotRun(str(wrong)) from None
    return Charts.open(place, home_genesis(home).suite)


def require_valid(bundle: bytes) -> None:
    """Refuse a bundle whose form or content is not FHIR R4, naming each place; no value of it is repeated."""
    parse(bundle)
    issues = [one for one in validate(bundle) if one.severity in FAULTS]
    if issues:
        code = ChartsCode.INVALID_RESOURCE
        shown = [{"location": one.location, "code": one.code, "problem": one.diagnostics} for one in issues]
        first = f"{issues[0].location}: {issues[0].diagnostics}"
        raise Denied(code=int(code), label=code.label, reason=f"{code.reason} {first}", data={"issues": shown})


def add_bundle(desk: Desk, seat: Seat, bundle: Path, pseudonym: bytes) -> Added:
    """Validate, ingest, then anchor every version of this patient's records that the ledger lacks."""
    with bundle.expanduser().open("rb") as file:
        data = file.read(BUNDLE_SIZE_BYTES + 1)
    require_valid(data)
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
