"""One bundle into the charts: store what is new, split the chart again, version the records that changed."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Table, func, insert, select, update

from carechain.charts.bundle import Bundle, Entry, Json, patient_of
from carechain.charts.codes import ChartsCode
from carechain.charts.dates import day_of_unix
from carechain.charts.facts import NO_DAY, Facts, Resolver, facts_of
from carechain.charts.reading import Known, is_latest, load_chart, load_records, read_content
from carechain.charts.record import IngestResult, ResourceLeaf, StoredRecord, Tampered, check, root_of
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.schema import directory, patients, record_resources, records, resources
from carechain.charts.split import Group, split
from carechain.core.commitment import resource_commitment
from carechain.core.hashing import HASH_SIZE
from carechain.core.limits import RESOURCES_PER_RECORD
from carechain.core.rejection import require
from carechain.core.suite import Institution

Rng = Callable[[int], bytes]


class Arrival(Struct, frozen=True, kw_only=True):
    """The circumstances of one ingest: whose, when (Unix seconds), randomness, and the suite that is committed with."""

    pseudonym: bytes
    received_s: int
    rng: Rng
    institution: Institution


def ingest_bundle(connection: Connection, bundle: Bundle, arrival: Arrival) -> IngestResult:
    """Add a bundle to a patient's chart inside the caller's transaction."""
    patient = patient_of(bundle)
    resolver = Resolver(bundle, patient)
    clinical = [entry for entry in bundle.entries if entry.resource_type not in DIRECTORY]
    arrived = [(entry, facts_of(entry, resolver)) for entry in clinical]
    _bind_patient(connection, arrival.pseudonym, patient)
    chart = load_chart(connection, arrival.pseudonym)
    new_resources = _store_resources(connection, chart, arrived, arrival)
    changed, unchanged = _store_records(connection, chart, arrival)
    shared = store_directory(connection, bundle, arrival.received_s)
    return IngestResult(
        records=tuple(changed),
        unchanged=unchanged,
        resources=len(clinical),
        new_resources=new_resources,
        directory=shared,
    )


def store_directory(connection: Connection, bundle: Bundle, received_s: int) -> int:
    """Keep the shared resources of a bundle; returns how many it holds, known ones included."""
    shared = [entry for entry in bundle.entries if entry.resource_type in DIRECTORY]
    rows: list[dict[str, Any]] = []
    for entry in shared:
        digest = sha256(entry.body).digest()
        latest = connection.execute(
            select(directory.c.version, directory.c.sha256)
            .where(directory.c.resource_type == entry.resource_type, directory.c.resource_id == entry.resource_id)
            .order_by(directory.c.version.desc())
            .limit(1)
        ).one_or_none()
        if latest is None or latest.sha256 != digest:
            version = 1 if latest is None else latest.version + 1
            rows.append(
                {
                    "resource_type": entry.resource_type,
                    "resource_id": entry.resource_id,
                    "version": version,
                    "sha256": digest,
                    "received_s": received_s,
                    "body": entry.body,
                }
            )
    _insert(connection, directory, rows)
    return len(shared)


def _bind_patient(connection: Connection, pseudonym: bytes, patient: Entry) -> None:
    """One pseudonym is one patient here, and one patient one pseudonym; both ways are checked."""
    mine = connection.execute(select(patients).where(patients.c.pseudonym == pseudonym)).one_or_none()
    same = connection.execute(select(patients).where(patients.c.patient_id == patient.resource_id)).one_or_none()
    require(same is None or same.pseudonym == pseudonym, ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM)
    require(mine is None or mine.patient_id == patient.resource_id, ChartsCode.PSEUDONYM_HAS_OTHER_PATIENT)
    tree = patient.tree()
    values = {"patient_id": patient.resource_id, "mrn": mrn_of(tree), "name": name_of(tree)}
    if mine is None:
        connection.execute(insert(patients).values(pseudonym=pseudonym, **values))
    else:
        connection.execute(update(patients).where(patients.c.pseudonym == pseudonym).values(**values))


def _store_resources(
    connection: Connection, chart: dict[str, Known], arrived: Sequence[tuple[Entry, Facts]], arrival: Arrival
) -> int:
    """Write resources whose bytes are new and bring ``chart`` up to date; returns how many were written."""
    seq = _last(connection, resources)
    rows: list[dict[str, Any]] = []
    for entry, facts in arrived:
        digest = sha256(entry.body).digest()
        before = chart.get(entry.key)
        if before is not None and before.sha256 == digest:
            continue
        seq += 1
        salt = arrival.rng(HASH_SIZE)
        known = Known(
            seq=seq,
            version=1 if before is None else before.version + 1,
            sha256=digest,
            commitment=resource_commitment(salt, entry.body, arrival.institution),
            facts=facts,
        )
        chart[entry.key] = known
        rows.append(
            {
                "seq": seq,
                "pseudonym": arrival.pseudonym,
                "resource_type": entry.resource_type,
                "resource_id": entry.resource_id,
                "version": known.version,
                "sha256": digest,
                "salt": salt,
                "commitment": known.commitment,
                "facts": msgspec.msgpack.encode(facts),
                "received_s": arrival.received_s,
                "body": entry.body,
            }
        )
    _insert(connection, resources, rows)
    return len(rows)


def _store_records(connection: Connection, chart: dict[str, Known], arrival: Arrival) -> tuple[list[StoredRecord], int]:
    """Write the records that are new or changed; returns them and the count of those that are neither."""
    query = select(records).where(records.c.pseudonym == arrival.pseudonym, is_latest()).order_by(records.c.seq)
    before = {record.group: record for record in load_records(connection, query)}
    groups = split([known.facts for known in chart.values()])
    named = {group.name for group in groups}
    sensitivity_of = {member: group.sensitivity for group in groups for member in group.members}
    emptied = [_kept(record, chart, sensitivity_of) for name, record in before.items() if name not in named]
    seq = _last(connection, records)
    changed: list[StoredRecord] = []
    record_rows: list[dict[str, Any]] = []
    member_rows: list[dict[str, Any]] = []
    for group in (*groups, *emptied):
        old = before.get(group.name)
        record = _next_version(group, old, chart, arrival)
        if record is None:
            continue
        if old is not None:
            # A new version must not lend its fresh root to content that was altered under the old one.
            check(read_content(connection, old.record_id, None, arrival.institution), old.root, arrival.institution)
        seq += 1
        changed.append(record)
        record_rows.append(_row_of(record, seq))
        member_rows += [
            {"record_seq": seq, "position": position, "resource_seq": chart[member].seq}
            for position, member in enumerate(group.members)
        ]
    _insert(connection, records, record_rows)
    _insert(connection, record_resources, member_rows)
    return changed, len(groups) + len(emptied) - len(changed)


def _kept(record: StoredRecord, chart: dict[str, Known], sensitivity_of: dict[str, Any]) -> Group:
    """A record whose resources all moved elsewhere keeps them: an anchor always stands for something."""
    members = tuple(f"{one.resource_type}/{one.resource_id}" for one in record.resources)
    if not members or any(member not in chart for member in members):
        raise Tampered("a stored record names resources that are not there")
    return Group(
        name=record.group,
        category=record.category,
        sensitivity=max(sensitivity_of[member] for member in members),
        labels=tuple(sorted({label for member in members for label in chart[member].facts.labels})),
        day=NO_DAY,
        members=members,
    )


def _next_version(
    group: Group, old: StoredRecord | None, chart: dict[str, Known], arrival: Arrival
) -> StoredRecord | None:
    """The record's next version, or None when nothing changed.

    The category stays what it was, and the grade never falls: old versions stay readable under it.
    """
    require(len(group.members) <= RESOURCES_PER_RECORD, ChartsCode.TOO_MANY_RESOURCES)
    day = group.day
    if day == NO_DAY:
        day = day_of_unix(arrival.received_s) if old is None else old.effective_day
    sensitivity = group.sensitivity if old is None else max(old.sensitivity, group.sensitivity)
    commitments = [chart[member].commitment for member in group.members]
    root = root_of(commitments)
    if old is not None and (old.root, old.sensitivity, old.effective_day) == (root, sensitivity, day):
        return None
    leaves = (
        ResourceLeaf(
            resource_type=chart[member].facts.resource_type,
            resource_id=chart[member].facts.resource_id,
            commitment=chart[member].commitment,
        )
        for member in group.members
    )
    return StoredRecord(
        record_id=arrival.rng(HASH_SIZE) if old is None else old.record_id,
        version=1 if old is None else old.version + 1,
        pseudonym=arrival.pseudonym,
        category=group.category if old is None else old.category,
        sensitivity=sensitivity,
        effective_day=day,
        root=root,
        resource_count=len(commitments),
        resources=tuple(leaves),
        labels=group.labels if old is None else tuple(sorted({*old.labels, *group.labels})),
        group=group.name,
        received_s=arrival.received_s,
    )


def _row_of(record: StoredRecord, seq: int) -> dict[str, Any]:
    return {
        "seq": seq,
        "record_id": record.record_id,
        "version": record.version,
        "pseudonym": record.pseudonym,
        "group_name": record.group,
        "category": int(record.category),
        "sensitivity": int(record.sensitivity),
        "labels": " ".join(record.labels),
        "effective_day": record.effective_day,
        "root": record.root,
        "resource_count": record.resource_count,
        "received_s": record.received_s,
    }


def _last(connection: Connection, table: Table) -> int:
    """The highest row number; safe to count on from because the writer holds the lock."""
    return int(connection.execute(select(func.coalesce(func.max(table.c.seq), 0))).scalar_one())


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


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
