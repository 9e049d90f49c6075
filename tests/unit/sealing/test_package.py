"""Goal: a package carries records with correct proofs, within its bounds, to one requester under one ticket.

Method: paths are compared with :func:`carechain.core.merkle.prove` for every size up to 40; a golden vector pins the
resource commitment; bounds and contexts are exceeded one at a time.
"""

import hashlib
import os

import pytest

from carechain.core import merkle
from carechain.core.codec import Malformed
from carechain.core.commitment import resource_commitment, resource_leaf
from carechain.core.limits import GATEKEEPER_RECORDS, GATEKEEPER_RESPONSE_BYTES
from carechain.core.suite import Institution
from carechain.sealing.hpke import CannotOpen, HpkePrivateKey, seal_large
from carechain.sealing.package import (
    PackageTooLarge,
    SealedRecord,
    SealedResource,
    build_package,
    package_info,
    seal_record,
    unseal_package,
)

KEY = HpkePrivateKey(bytes(range(32)))
TICKET, REQUESTER = b"t" * 32, b"q" * 32


def resources(count: int) -> list[tuple[bytes, bytes]]:
    return [(hashlib.sha256(bytes([index])).digest(), f'{{"n":{index}.50}}'.encode()) for index in range(count)]


def build(records: list[SealedRecord]) -> bytes:
    return build_package(
        chain_id="test",
        ticket_id=TICKET,
        requester=REQUESTER,
        requester_hpke_key=KEY.public_key,
        records=records,
        entropy=os.urandom,
    )


def test_commitment_is_pinned() -> None:
    salt, content = bytes(range(32)), b'{"resourceType":"Patient"}'
    tag = b"carechain/resource/1"
    expected = hashlib.sha256(
        bytes([len(tag)]) + tag + (32).to_bytes(4, "big") + salt + len(content).to_bytes(4, "big") + content
    )
    assert resource_commitment(salt, content) == expected.digest()
    assert resource_leaf(salt, content) == hashlib.sha256(b"\x00" + expected.digest()).digest()


@pytest.mark.parametrize("institution", list(Institution))
@pytest.mark.parametrize("count", range(1, 41))
def test_paths_are_those_of_the_merkle_tree(count: int, institution: Institution) -> None:
    leaves = [resource_leaf(salt, content, institution) for salt, content in resources(count)]
    record = seal_record(record_id=b"r" * 32, version=1, resources=resources(count), institution=institution)
    assert record.count == count
    for resource in record.resources:
        assert list(resource.path) == merkle.prove(leaves, resource.index)
        merkle.check(
            leaf=leaves[resource.index],
            index=resource.index,
            count=count,
            path=list(resource.path),
            expected_root=merkle.root(leaves),
        )


def test_round_trip_keeps_received_bytes() -> None:
    record = seal_record(record_id=b"r" * 32, version=3, resources=[*resources(5), (bytes(32), "姓名".encode())])
    answer = unseal_package(build([record]), chain_id="test", ticket_id=TICKET, requester=REQUESTER, private_key=KEY)
    assert answer.ticket_id == TICKET
    assert answer.records == (record,)


@pytest.mark.parametrize(
    ("chain_id", "ticket", "requester", "key"),
    [
        ("other", TICKET, REQUESTER, KEY),
        ("test", bytes(32), REQUESTER, KEY),
        ("test", TICKET, bytes(32), KEY),
        ("test", TICKET, REQUESTER, HpkePrivateKey(bytes(32))),
    ],
)
def test_another_context_does_not_open(chain_id: str, ticket: bytes, requester: bytes, key: HpkePrivateKey) -> None:
    sealed = build([])
    with pytest.raises(CannotOpen):
        unseal_package(sealed, chain_id=chain_id, ticket_id=ticket, requester=requester, private_key=key)


def test_oversized_answers_are_refused_on_both_sides() -> None:
    record = seal_record(record_id=b"r" * 32, version=1, resources=resources(1))
    with pytest.raises(PackageTooLarge):
        build([record] * (GATEKEEPER_RECORDS + 1))
    huge = SealedResource(index=0, salt=bytes(32), content=bytes(GATEKEEPER_RESPONSE_BYTES), path=())
    with pytest.raises(PackageTooLarge):
        build([SealedRecord(record_id=b"r" * 32, version=1, count=1, resources=(huge,))])
    with pytest.raises(CannotOpen):
        unseal_package(
            bytes(GATEKEEPER_RESPONSE_BYTES + 200),
            chain_id="test",
            ticket_id=TICKET,
            requester=REQUESTER,
            private_key=KEY,
        )


@pytest.mark.parametrize("plaintext", [b"", b"\xc0", b"\x90", b"\x92\xc4\x01a\x90", b"\x92\xc4\x20" + bytes(32)])
def test_a_sealed_non_package_is_malformed(plaintext: bytes) -> None:
    info = package_info(chain_id="test", ticket_id=TICKET, requester=REQUESTER)
    sealed = seal_large(KEY.public_key, info=info, plaintext=plaintext, entropy=os.urandom)
    with pytest.raises(Malformed):
        unseal_package(sealed, chain_id="test", ticket_id=TICKET, requester=REQUESTER, private_key=KEY)
