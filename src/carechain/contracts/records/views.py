"""Records: invariants, and what queries and workers read."""

from collections.abc import Iterator

from carechain.contracts.records.anchoring import Membership
from carechain.contracts.records.schema import ALL_PARTS, AnchorRow, ErasureRow, ReceiptRow, RecordsTables
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.vocabulary import PartyKind

# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: RecordsTables, membership: Membership) -> list[str]:
    """Versions are numbered from 1 without gaps and written by one side; every anchor belongs to a pseudonym.

    An object belongs to one record, an erased record has anchors and took none since, and only what was ordered to be
    erased has receipts.
    """
    return [*_broken_anchors(tables, membership), *_broken_objects(tables), *_broken_erasures(tables)]


def _broken_anchors(tables: RecordsTables, membership: Membership) -> Iterator[str]:
    expected = (b"", b"", 0)
    authors: set[bytes] = set()
    for (pseudonym, record, version), row in tables.anchors.scan():
        following = expected[2] + 1 if expected[:2] == (pseudonym, record) else 1
        if version != following:
            yield f"record {record.hex()} jumps to version {version}"
        authors = {row.author} if version == 1 else authors | {row.author}
        if row.sole_author != (len(authors) == 1):
            yield f"record {record.hex()} miscounts its authors at version {version}"
        if pseudonym in authors and len(authors) > 1:
            yield f"record {record.hex()} was written by both sides"
        party = membership.party(pseudonym)
        if party is None or party.kind is not PartyKind.PSEUDONYM:
            yield f"record {record.hex()} belongs to nobody"
        owner = None if row.sealed is None else tables.objects.get(row.sealed.object)
        if row.sealed is not None and (owner is None or (owner.pseudonym, owner.record) != (pseudonym, record)):
            yield f"record {record.hex()} shares its object with another"
        expected = (pseudonym, record, version)


def _broken_objects(tables: RecordsTables) -> Iterator[str]:
    for (address,), owner in tables.objects.scan():
        sealed = (row.sealed for _, row in tables.anchors.scan(owner.pseudonym, owner.record))
        if not any(one is not None and one.object == address for one in sealed):
            yield f"object {address.hex()} belongs to no anchor"


def _broken_erasures(tables: RecordsTables) -> Iterator[str]:
    for (pseudonym, record), order in tables.erasures.scan():
        if not tables.queue.has(order.ordered_height, pseudonym, record):
            yield f"the erasure of record {record.hex()} is not in the queue"
        found = tables.latest(pseudonym, record)
        if found is None or found[1].anchored_s > order.ordered_s:
            yield f"record {record.hex()} was erased without an anchor, or took a version afterwards"
    for (height, pseudonym, record), _ in tables.queue.scan():
        queued = tables.erasures.get(pseudonym, record)
        if queued is None or queued.ordered_height != height:
            yield f"the queue names record {record.hex()}, whose erasure nobody ordered then"
    for (pseudonym, record, _), receipt in tables.receipts.scan():
        if not tables.is_erased(pseudonym, record) or not 0 < receipt.destroyed <= ALL_PARTS:
            yield f"a receipt for record {record.hex()} confirms nothing"


# --- queries --------------------------------------------------------------------------------------------


def timeline(
    tables: RecordsTables, pseudonym: bytes, after: tuple[bytes, int] | None = None, limit: int = QUERY_PAGE_ROWS
) -> Iterator[tuple[bytes, int, AnchorRow]]:
    """A page of the patient's anchors, every version, in order of record id and version (REC-7).

    Those of erased records stay in it: that there was something is what the ledger keeps.
    """
    start = None if after is None else (pseudonym, *after)
    for (_, record, version), row in tables.anchors.scan(pseudonym, after=start, limit=limit):
        yield record, version, row


def history(
    tables: RecordsTables, pseudonym: bytes, record: bytes, after: int | None = None
) -> Iterator[tuple[int, AnchorRow]]:
    """A page of one record's versions, oldest first (REC-5)."""
    start = None if after is None else (pseudonym, record, after)
    for (_, _, version), row in tables.anchors.scan(pseudonym, record, after=start, limit=QUERY_PAGE_ROWS):
        yield version, row


def erased_in(tables: RecordsTables, pseudonym: bytes, first: bytes, last: bytes) -> dict[bytes, ErasureRow]:
    """The orders to erase any of a patient's records from ``first`` to ``last``: one range of the state."""
    order = tables.erasures.get(pseudonym, first)
    found = {} if order is None else {first: order}
    for (_, record), row in tables.erasures.scan(pseudonym, after=(pseudonym, first)):
        if record > last:
            break
        found[record] = row
    return found


def receipts_of(tables: RecordsTables, pseudonym: bytes, record: bytes) -> Iterator[tuple[bytes, ReceiptRow]]:
    """Which organisation destroyed what of a record, by organisation; at most one receipt each."""
    for (_, _, organisation), row in tables.receipts.scan(pseudonym, record):
        yield organisation, row


def ordered_since(tables: RecordsTables, height: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Every erasure ordered above ``height``, oldest first: height of the order, pseudonym, record."""
    last = b"\xff" * 32
    for (ordered, pseudonym, record), _ in tables.queue.scan(after=(height, last, last)):
        yield ordered, pseudonym, record
