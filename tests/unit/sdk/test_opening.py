"""Goal: a requester believes only records it asked for, whole and as anchored, or names the failed check (REC-2).

Method: packages are built with the gatekeeper's own functions, then lie in one respect each: one row per
:class:`OpenCode`; every byte of a resource, salt and path is altered once.
"""

import os
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from carechain.core import merkle
from carechain.core.codec import encode
from carechain.core.commitment import resource_leaf
from carechain.core.suite import Institution
from carechain.sdk.opening import AnchoredRecord, NotBelieved, OpenCode, OpenedRecord, open_records, verify_record
from carechain.sealing.hpke import HpkePrivateKey, seal_large
from carechain.sealing.package import (
    SealedRecord,
    SealedRecords,
    SealedResource,
    build_package,
    package_info,
    seal_record,
)

KEY = HpkePrivateKey(bytes(range(32)))
TICKET, REQUESTER = b"t" * 32, b"q" * 32
CONTENTS = ['{"resourceType":"Patient","name":"王小明"}'.encode(), b'{"value":72.50}', b"{}", b"{ }", b"[]"]
RESOURCES = [(bytes([index]) * 32, content) for index, content in enumerate(CONTENTS)]
ROOT = merkle.root([resource_leaf(salt, content) for salt, content in RESOURCES])
RECORD = seal_record(record_id=b"r" * 32, version=2, resources=RESOURCES)
ANCHOR = AnchoredRecord(record_id=b"r" * 32, version=2, root=ROOT)
SMALL = seal_record(record_id=b"s" * 32, version=1, resources=RESOURCES[:1])
SMALL_ANCHOR = AnchoredRecord(record_id=b"s" * 32, version=1, root=resource_leaf(*RESOURCES[0]))


def opened(
    records: Sequence[SealedRecord], expected: Sequence[AnchoredRecord], key: HpkePrivateKey = KEY
) -> tuple[OpenedRecord, ...]:
    sealed = build_package(
        chain_id="test",
        ticket_id=TICKET,
        requester=REQUESTER,
        requester_hpke_key=KEY.public_key,
        records=records,
        entropy=os.urandom,
    )
    return open_bytes(sealed, expected, key)


def open_bytes(
    sealed: bytes, expected: Sequence[AnchoredRecord], key: HpkePrivateKey = KEY
) -> tuple[OpenedRecord, ...]:
    return open_records(
        sealed, chain_id="test", ticket_id=TICKET, requester=REQUESTER, private_key=key, expected=expected
    )


def sealed_plaintext(plaintext: bytes) -> bytes:
    info = package_info(chain_id="test", ticket_id=TICKET, requester=REQUESTER)
    return seal_large(KEY.public_key, info=info, plaintext=plaintext, entropy=os.urandom)


def with_resources(*resources: SealedResource, count: int = RECORD.count) -> SealedRecord:
    return replace(RECORD, resources=resources, count=count)


def test_records_come_back_as_received_in_the_order_asked() -> None:
    small, record = opened([RECORD, SMALL], [SMALL_ANCHOR, ANCHOR])
    assert list(record.resources) == CONTENTS
    assert list(small.resources) == CONTENTS[:1]
    assert (record.record_id, record.version, record.root) == (ANCHOR.record_id, 2, ROOT)


def test_a_record_is_believed_under_the_suite_it_was_committed_with_and_no_other() -> None:
    """KEY-6: the commitments of an SM network are SM3; every altered byte is found there too."""
    suite = Institution.SM
    root = merkle.root([resource_leaf(salt, content, suite) for salt, content in RESOURCES])
    record = seal_record(record_id=b"r" * 32, version=2, resources=RESOURCES, institution=suite)
    anchor = replace(ANCHOR, root=root)
    assert list(verify_record(record, anchor, suite).resources) == CONTENTS
    for pair in ((record, anchor), (RECORD, ANCHOR)):
        wrong = Institution.INTERNATIONAL if pair[0] is record else suite
        with pytest.raises(NotBelieved) as caught:
            verify_record(*pair, wrong)
        assert caught.value.code is OpenCode.RESOURCE_ALTERED
    first, *rest = record.resources
    contents = [replace(first, content=bad) for bad in altered(first.content)]
    for forged in [*contents, *(replace(first, salt=bad) for bad in altered(first.salt))]:
        with pytest.raises(NotBelieved) as caught:
            verify_record(replace(record, resources=(forged, *rest)), anchor, suite)
        assert caught.value.code is OpenCode.RESOURCE_ALTERED


def test_an_empty_question_has_an_empty_answer() -> None:
    assert opened([], []) == ()


FIRST, *REST = RECORD.resources
LIES = [
    ([RECORD], [SMALL_ANCHOR], OpenCode.RECORD_UNEXPECTED, None),
    ([RECORD, RECORD], [ANCHOR], OpenCode.RECORD_REPEATED, None),
    ([replace(RECORD, version=1)], [ANCHOR], OpenCode.VERSION_DIFFERS, None),
    ([with_resources(FIRST, FIRST, *REST)], [ANCHOR], OpenCode.RESOURCE_REPEATED, 0),
    ([with_resources(*reversed(RECORD.resources))], [ANCHOR], OpenCode.RESOURCE_REPEATED, 3),
    ([with_resources(replace(FIRST, content=b"x"), *REST)], [ANCHOR], OpenCode.RESOURCE_ALTERED, 0),
    ([with_resources(replace(FIRST, index=5), *REST)], [ANCHOR], OpenCode.RESOURCE_ALTERED, 5),
    ([RECORD], [replace(ANCHOR, root=bytes(32))], OpenCode.RESOURCE_ALTERED, 0),
    ([with_resources(*REST)], [ANCHOR], OpenCode.RESOURCE_MISSING, None),
    ([with_resources(FIRST, *REST[:-1])], [ANCHOR], OpenCode.RESOURCE_MISSING, None),
    ([with_resources()], [ANCHOR], OpenCode.RESOURCE_MISSING, None),
    ([SMALL], [ANCHOR, SMALL_ANCHOR], OpenCode.RECORD_MISSING, None),
    ([], [ANCHOR], OpenCode.RECORD_MISSING, None),
]


@pytest.mark.parametrize(("records", "expected", "code", "index"), LIES)
def test_each_lie_is_named(
    records: list[SealedRecord], expected: list[AnchoredRecord], code: OpenCode, index: int | None
) -> None:
    with pytest.raises(NotBelieved) as caught:
        opened(records, expected)
    assert caught.value.code is code
    assert caught.value.index == index
    assert caught.value.record_id is not None


def test_what_cannot_be_opened_or_is_no_package() -> None:
    right = encode(SealedRecords(ticket_id=TICKET, records=(RECORD,)))
    assert open_bytes(sealed_plaintext(right), [ANCHOR])
    rows = [
        (b"", OpenCode.CANNOT_OPEN),
        (sealed_plaintext(right)[:-1], OpenCode.CANNOT_OPEN),
        (sealed_plaintext(right[:-1]), OpenCode.NOT_A_PACKAGE),
        (sealed_plaintext(right + b"\x00"), OpenCode.NOT_A_PACKAGE),
        (sealed_plaintext(encode([bytes(32), [], "extra"])), OpenCode.NOT_A_PACKAGE),
        (sealed_plaintext(encode(SealedRecords(ticket_id=bytes(32), records=()))), OpenCode.WRONG_TICKET),
    ]
    for sealed, code in rows:
        with pytest.raises(NotBelieved) as caught:
            open_bytes(sealed, [ANCHOR])
        assert caught.value.code is code
    with pytest.raises(NotBelieved) as caught:
        opened([RECORD], [ANCHOR], HpkePrivateKey(bytes(32)))
    assert caught.value.code is OpenCode.CANNOT_OPEN


@pytest.mark.parametrize("position", range(len(RESOURCES)))
def test_every_altered_byte_of_a_resource_is_found(position: int) -> None:
    honest = RECORD.resources[position]
    forged = [
        *(replace(honest, content=bad) for bad in altered(honest.content)),
        *(replace(honest, salt=bad) for bad in altered(honest.salt)),
        *(
            replace(honest, path=(*honest.path[:at], bad, *honest.path[at + 1 :]))
            for at, step in enumerate(honest.path)
            for bad in altered(step)
        ),
        replace(honest, path=honest.path[:-1]),
        replace(honest, path=(*honest.path, bytes(32))),
        replace(honest, content=honest.content + b" "),
    ]
    for one in forged:
        resources = (*RECORD.resources[:position], one, *RECORD.resources[position + 1 :])
        with pytest.raises(NotBelieved) as caught:
            verify_record(replace(RECORD, resources=resources), ANCHOR)
        assert caught.value.code is OpenCode.RESOURCE_ALTERED
        assert caught.value.index == position


@pytest.mark.parametrize("count", [count for count in range(1, 12) if count != len(RESOURCES)])
def test_a_false_count_never_passes(count: int) -> None:
    """Dropping the last resources, with the paths that a tree of another size would need, cannot be hidden."""
    kept = RECORD.resources[:count]
    for trim in range(4):
        resources = tuple(replace(one, path=one.path[: len(one.path) - trim]) for one in kept)
        with pytest.raises(NotBelieved):
            verify_record(with_resources(*resources, count=count), ANCHOR)


def test_an_anchor_of_another_record_is_refused() -> None:
    with pytest.raises(NotBelieved) as caught:
        verify_record(RECORD, replace(ANCHOR, record_id=bytes(32)))
    assert caught.value.code is OpenCode.VERSION_DIFFERS


def altered(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
