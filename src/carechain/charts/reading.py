"""Reading charts: rows of the database as records, as far as they still make sense."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, exists, select

from carechain.charts.codes import ChartsCode
from carechain.charts.dialect import marks, select_rows
from carechain.charts.facts import Facts
from carechain.charts.record import (
    RecordContent,
    ResourceContent,
    ResourceLeaf,
    StoredRecord,
    Tampered,
)
from carechain.charts.schema import record_resources, records, resources
from carechain.charts.split import split
from carechain.core import merkle
from carechain.core.commitment import resource_leaf
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity

IDS_PER_QUERY: Final = 500
T = TypeVar("T")

FACTS_DECODER: Final = msgspec.msgpack.Decoder(Facts)


def batches(ids: Sequence[T]) -> Iterator[list[T]]:
    """Ids in lists short enough for one statement."""
    waiting = iter(ids)
    while batch := list(islice(waiting, IDS_PER_QUERY)):
        yield batch


class Known(msgspec.Struct, frozen=True):
    """The latest version of one stored resource, without its bytes; ``grade`` is the version's own."""

    seq: int
    version: int
    sha256: bytes
    commitment: bytes
    facts: Facts
    updated_us: int
    grade: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The latest version of one record, with the numbers of its resources' versions in its order."""

    seq: int
    record_id: bytes
    version: int
    group: str
    category: Category
    sensitivity: Sensitivity
    effective_day: int
    root: bytes
    labels: tuple[str, ...]
    members: tuple[int, ...]


def is_latest() -> ColumnElement[bool]:
    """True for the newest version of each record."""
    newer = records.alias()
    return ~exists(
        select(newer.c.seq).where(newer.c.record_id == records.c.record_id, newer.c.version > records.c.version)
    )


def load_charts(connection: Connection, pseudonyms: Sequence[bytes]) -> dict[bytes, dict[str, Known]]:
    """The latest version of every resource of some patients, in the order in which they first arrived."""
    charts: dict[bytes, dict[str, Known]] = defaultdict(dict)
    statement = _CHARTS.format(marks(len(pseudonyms)))
    for pseudonym, seq, version, digest, commitment, packed, updated_us, grade in select_rows(
        connection, statement, tuple(pseudonyms)
    ):
        if type(digest) is not bytes or type(commitment) is not bytes:
            raise Tampered("what is stored about a resource cannot be read")
        facts = unpacked(packed)
        charts[pseudonym][facts.key] = Known(seq, version, digest, commitment, facts, updated_us, grade)
    return charts


def load_chart(connection: Connection, pseudonym: bytes) -> dict[str, Known]:
    """One patient's, likewise."""
    return load_charts(connection, [pseudonym]).get(pseudonym, {})


# Written out, because everything that is written begins with them: making a statement costs more than asking it.
_CHARTS: Final = (
    "SELECT pseudonym, seq, version, sha256, commitment, facts, updated_us, grade FROM resources"
    " WHERE pseudonym IN ({}) ORDER BY seq"
)
_RECORDS: Final = (
    "SELECT r.pseudonym, r.seq, r.record_id, r.version, r.group_name, r.category, r.sensitivity, r.effective_day,"
    " r.root, r.labels FROM records AS r WHERE r.pseudonym IN ({}) AND NOT EXISTS (SELECT 1 FROM records AS n"
    " WHERE n.record_id = r.record_id AND n.version > r.version) ORDER BY r.seq"
)
_MEMBERS: Final = (
    "SELECT m.record_seq, m.resource_seq FROM records AS r JOIN record_resources AS m ON m.record_seq = r.seq"
    " WHERE r.pseudonym IN ({}) AND NOT EXISTS (SELECT 1 FROM records AS n WHERE n.record_id = r.record_id"
    " AND n.version > r.version) ORDER BY m.record_seq, m.position"
)


def load_held(connection: Connection, pseudonyms: Sequence[bytes]) -> dict[bytes, dict[str, Held]]:
    """The latest version of every record of some patients, by what each is built around."""
    asked, wanted = marks(len(pseudonyms)), tuple(pseudonyms)
    members: dict[int, list[int]] = defaultdict(list)
    for record_seq, resource_seq in select_rows(connection, _MEMBERS.format(asked), wanted):
        members[record_seq].append(resource_seq)
    held: dict[bytes, dict[str, Held]] = defaultdict(dict)
    for pseudonym, seq, record_id, version, group, category, sensitivity, day, root, labels in select_rows(
        connection, _RECORDS.format(asked), wanted
    ):
        if type(record_id) is not bytes or type(root) is not bytes:
            raise Tampered("what is stored about a record cannot be read")
        held[pseudonym][group] = Held(
            seq=seq,
            record_id=record_id,
            version=version,
            group=group,
            category=_category(category),
            sensitivity=_sensitivity(sensitivity),
            effective_day=day,
            root=root,
            labels=tuple(str(labels).split()),
            members=tuple(members[seq]),
        )
    return held


def keys_of(connection: Connection, seqs: Sequence[int]) -> dict[int, str]:
    """The ``Type/id`` of stored versions by their numbers."""
    found: dict[int, str] = {}
    columns = (resources.c.seq, resources.c.resource_type, resources.c.resource_id)
    for batch in batches(seqs):
        for seq, resource_type, resource_id in connection.execute(select(*columns).where(resources.c.seq.in_(batch))):
            found[seq] = f"{resource_type}/{resource_id}"
    return found


def is_whole(connection: Connection, held: Held, institution: Institution) -> bool:
    """Whether the stored bytes of a record still lead to its root."""
    found = connection.execute(
        select(resources.c.salt, resources.c.body)
        .join(record_resources, resources.c.seq == record_resources.c.resource_seq)
        .where(record_resources.c.record_seq == held.seq)
        .order_by(record_resources.c.position)
    )
    leaves = [resource_leaf(salt, body, institution) for salt, body in found]
    return bool(leaves) and merkle.root(leaves) == held.root


def unpacked(packed: bytes) -> Facts:
    """A resource's facts as they are stored; raises :class:`Tampered`."""
    try:
        return FACTS_DECODER.decode(packed)
    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError):
        raise Tampered("what is stored about a resource cannot be read") from None


def load_records(connection: Connection, query: Select[Any]) -> list[StoredRecord]:
    """The records a query over the record table finds, each with its leaves, in the query's order."""
    rows = connection.execute(query).all()
    leaves = _leaves(connection, [row.seq for row in rows])
    return [_record(row, leaves[row.seq]) for row in rows]


def _leaves(connection: Connection, record_seqs: Sequence[int]) -> dict[int, list[ResourceLeaf]]:
    found: dict[int, list[ResourceLeaf]] = defaultdict(list)
    columns = (
        record_resources.c.record_seq,
        resources.c.resource_type,
        resources.c.resource_id,
        resources.c.commitment,
    )
    for batch in batches(record_seqs):
        rows = connection.execute(
            select(*columns)
            .join(resources, resources.c.seq == record_resources.c.resource_seq)
            .where(record_resources.c.record_seq.in_(batch))
            .order_by(record_resources.c.record_seq, record_resources.c.position)
        )
        for seq, resource_type, resource_id, commitment in rows:
            found[seq].append(ResourceLeaf(resource_type=resource_type, resource_id=resource_id, commitment=commitment))
    return found


def _graded(row: Row[Any]) -> tuple[Category, Sensitivity]:
    return _category(row.category), _sensitivity(row.sensitivity)


def _category(value: int) -> Category:
    try:
        return Category(value)
    except ValueError:
        raise Tampered("a stored record has an unknown category") from None


def _sensitivity(value: int) -> Sensitivity:
    try:
        return Sensitivity(value)
    except ValueError:
        raise Tampered("a stored record has an unknown grade") from None


def _record(row: Row[Any], leaves: Iterable[ResourceLeaf]) -> StoredRecord:
    category, sensitivity = _graded(row)
    return StoredRecord(
        record_id=row.record_id,
        version=row.version,
        pseudonym=row.pseudonym,
        category=category,
        sensitivity=sensitivity,
        effective_day=row.effective_day,
        root=row.root,
        resource_count=row.resource_count,
        resources=tuple(leaves),
        labels=tuple(str(row.labels).split()),
        group=row.group_name,
        received_s=row.received_s,
    )


def find_record(connection: Connection, record_id: bytes, version: int | None) -> StoredRecord:
    """One version of a record, the newest when none is named. Raises ``Rejected(RECORD_NOT_FOUND)``."""
    row = _find_row(connection, record_id, version)
    return _record(row, _leaves(connection, [row.seq])[row.seq])


def _find_row(connection: Connection, record_id: bytes, version: int | None) -> Row[Any]:
    query = select(records).where(records.c.record_id == record_id)
    if version is not None:
        query = query.where(records.c.version == version)
    row = connection.execute(query.order_by(records.c.version.desc()).limit(1)).one_or_none()
    if row is None:
        raise Rejected(ChartsCode.RECORD_NOT_FOUND)
    return row


def read_content(
    connection: Connection, record_id: bytes, version: int | None, institution: Institution
) -> RecordContent:
    """A record version with the bytes, salt and audit path of every resource, as the database has them now."""
    row = _find_row(connection, record_id, version)
    found = connection.execute(
        select(resources)
        .join(record_resources, resources.c.seq == record_resources.c.resource_seq)
        .where(record_resources.c.record_seq == row.seq)
        .order_by(record_resources.c.position)
    ).all()
    paths = merkle.prove_all([resource_leaf(one.salt, one.body, institution) for one in found])
    record = _record(
        row,
        (
            ResourceLeaf(resource_type=one.resource_type, resource_id=one.resource_id, commitment=one.commitment)
            for one in found
        ),
    )
    contents = tuple(
        ResourceContent(
            resource_type=one.resource_type,
            resource_id=one.resource_id,
            version=one.version,
            body=one.body,
            salt=one.salt,
            index=index,
            path=tuple(paths[index]),
        )
        for index, one in enumerate(found)
    )
    today = record.sensitivity if version is None else _grade_today(connection, record)
    return RecordContent(record=record, sensitivity=today, resources=contents)


def _grade_today(connection: Connection, record: StoredRecord) -> Sensitivity:
    """The highest grade known today for anything in a record version.

    Every bundle splits the whole chart again, so the newest version of a record already has it; an older
    one may hold what has since been found to be more sensitive.
    """
    inside = {f"{one.resource_type}/{one.resource_id}" for one in record.resources}
    chart = [known.facts for known in load_chart(connection, record.pseudonym).values()]
    today = [group.sensitivity for group in split(chart) if inside.intersection(group.members)]
    return max([record.sensitivity, *today])
