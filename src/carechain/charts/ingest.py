"""One bundle into the charts: the patient's resources into the chart, the shared ones into the directory."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, select, tuple_

from carechain.charts.binding import bind
from carechain.charts.bundle import Bundle, Entry, Json, patient_of
from carechain.charts.charting import Arrival, write_charts
from carechain.charts.dialect import add_rows, run_many
from carechain.charts.facts import Resolver, facts_of
from carechain.charts.indexing import NO_DAY, Index, Placement
from carechain.charts.outbox import wait_for_anchor
from carechain.charts.reading import batches
from carechain.charts.record import IngestResult
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.schema import directory
from carechain.charts.searching.keys import resource_term


def ingest_bundle(
    connection: Connection, bundle: Bundle, pseudonym: bytes, arrival: Arrival, index: Index, *, waits: bool = False
) -> IngestResult:
    """Add a bundle to a chart inside the caller's transaction; with ``waits`` the node anchors what is new."""
    patient = patient_of(bundle)
    resolver = Resolver(bundle, patient)
    clinical = [entry for entry in bundle.entries if entry.resource_type not in DIRECTORY]
    arrived = [(entry, facts_of(entry, resolver)) for entry in clinical]
    bind(connection, patient.resource_id, pseudonym)
    name_patients(connection, {pseudonym: patient})
    index.know((one.resource_type, one.resource_id) for one in bundle.entries if one.resource_type in DIRECTORY)
    (written,) = write_charts(connection, {pseudonym: arrived}, arrival, index)
    if waits:
        wait_for_anchor(connection, written.record_seqs)
    shared = store_directory(connection, bundle.entries, arrival, index)
    index.flush()
    return IngestResult(
        records=written.records,
        unchanged=written.unchanged,
        resources=len(clinical),
        new_resources=written.new_resources,
        directory=shared,
    )


def name_patients(connection: Connection, named: Mapping[bytes, Entry]) -> None:
    """Keep the names and numbers that staff see, by pseudonym."""
    rows = []
    for pseudonym, patient in named.items():
        tree = patient.tree()
        rows.append((_storable(mrn_of(tree)), _storable(name_of(tree)), pseudonym))
    run_many(connection, "UPDATE patients SET mrn = ?, name = ? WHERE pseudonym = ?", rows)


def _storable(text: str | None) -> str | None:
    """PostgreSQL has no NUL in its texts, and nobody's name has one."""
    return None if text is None else text.replace("\0", "")


def store_directory(connection: Connection, entries: Iterable[Entry], arrival: Arrival, index: Index) -> int:
    """Keep the shared resources among the entries; returns how many there are, known ones included."""
    shared = [entry for entry in entries if entry.resource_type in DIRECTORY]
    before = _newest_shared(connection, shared)
    rows: list[tuple[Any, ...]] = []
    placements: list[Placement] = []
    for entry in shared:
        digest = sha256(entry.body).digest()
        version, known = before.get(entry.key, (0, b""))
        if known == digest:
            continue
        seq, version = index.next_seq(), version + 1
        identity = (entry.resource_type, entry.resource_id, version, digest)
        key = resource_term(entry.resource_type, entry.resource_id)
        rows.append((*identity, arrival.received_s, arrival.received_us, seq, key, entry.body))
        placements.append(
            Placement(
                resource_type=entry.resource_type,
                resource_id=entry.resource_id,
                version=version,
                seq=seq,
                updated_us=arrival.received_us,
                record_id=None,
                category=0,
                grade=0,
                day=NO_DAY,
                body=entry.body,
            )
        )
    add_rows(connection, directory, rows)
    index.put_shared(placements)
    return len(shared)


def _newest_shared(connection: Connection, entries: Sequence[Entry]) -> dict[str, tuple[int, bytes]]:
    """Version and hash of the newest version of each, as far as there is one."""
    found: dict[str, tuple[int, bytes]] = {}
    columns = (directory.c.resource_type, directory.c.resource_id, directory.c.version, directory.c.sha256)
    for batch in batches([(entry.resource_type, entry.resource_id) for entry in entries]):
        named = tuple_(directory.c.resource_type, directory.c.resource_id).in_(batch)
        rows = connection.execute(select(*columns).where(named).order_by(directory.c.version))
        found.update((f"{kind}/{identity}", (version, digest)) for kind, identity, version, digest in rows)
    return found


def mrn_of(tree: Json) -> str | None:
    """The medical record number of a Patient: the identifier of type MR, else the first one with a value."""
    identifiers = [one for one in _list(tree.get("identifier")) if isinstance(one.get("value"), str)]
    for one in identifiers:
        kind = one.get("type")
        codings = _list(kind.get("coding")) if isinstance(kind, dict) else []
        if any(coding.get("code") == "MR" for coding in codings):
            return str(one["value"])
    return str(identifiers[0]["value"]) if identifiers else None


def name_of(tree: Json) -> str | None:
    """A Patient's name as staff would write it: the text, else given and family, Chinese without a space."""
    for name in _list(tree.get("name")):
        if isinstance(name.get("text"), str):
            return str(name["text"])
        family = name["family"] if isinstance(name.get("family"), str) else ""
        given = [one for one in name["given"] if isinstance(one, str)] if isinstance(name.get("given"), list) else []
        if family or given:
            together = "".join((family, *given))
            return together if not together.isascii() and _is_han(together) else " ".join((*given, family)).strip()
    return None


def _is_han(text: str) -> bool:
    return all("\u3400" <= char <= "\u9fff" for char in text)


def _list(value: object) -> Iterable[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
