"""Goal: from the length of an anchor nobody learns which record it is (LED-15).

Method: versions, days, grades and resource counts from the smallest to the largest that the ledger takes, sealed and
not; every transaction with one anchor has one size, and the padding is nothing but the randomness handed in.
"""

import os
from itertools import product

import pytest
from msgspec.structs import replace

from carechain.contracts.records import SealedHashes
from carechain.core.codec import encode
from carechain.core.limits import LOCATOR_SIZE_BYTES, RECORD_VERSIONS, RESOURCES_PER_RECORD
from carechain.core.scope import LAST_DAY
from carechain.core.vocabulary import Category, Sensitivity
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.sdk.padding import ANCHOR_BYTES, padded
from house import House
from world import entropy_of

SEALED = SealedHashes(capsule=b"\xff" * 32, object=b"\xff" * 32)


def test_every_anchor_has_one_size(house: House) -> None:
    record, world = house.records[0], house.world
    sizes = set()
    for version, resources, day in product((1, 200, RECORD_VERSIONS), (1, RESOURCES_PER_RECORD), (0, 45_000, LAST_DAY)):
        for category, grade in ((Category.DEMOGRAPHICS, Sensitivity.U), (Category.DOCUMENT, Sensitivity.V)):
            changed = replace(
                record,
                version=version,
                resource_count=resources,
                effective_day=day,
                category=category,
                sensitivity=grade,
            )
            plain = anchor_of(changed, entropy=os.urandom)
            for anchor in (plain, padded(replace(plain, sealed=SEALED), entropy=os.urandom)):
                assert 0 < len(anchor.locator) <= LOCATOR_SIZE_BYTES
                assert len(encode(anchor)) == ANCHOR_BYTES
                sizes.add(len(world.sign(anchor, by=world.carl)))
    assert len(sizes) == 1


def test_the_padding_is_drawn_for_each_anchor(house: House) -> None:
    record, drawn = house.records[0], entropy_of("padding")
    one, two = (anchor_of(record, entropy=drawn) for _ in range(2))
    assert one.locator != two.locator
    assert replace(one, locator=b"") == replace(two, locator=b"")
    assert anchor_of(record, entropy=entropy_of("padding")) == one


def test_a_sealed_anchor_differs_from_a_plain_one_in_its_two_hashes_and_padding_alone(house: House) -> None:
    plain = anchor_of(house.records[0], entropy=os.urandom)
    sealed = padded(replace(plain, sealed=SEALED), entropy=os.urandom)
    assert replace(sealed, sealed=None, locator=b"") == replace(plain, locator=b"")
    # Sealing again, or padding what was padded, changes nothing about the size.
    assert len(encode(padded(sealed, entropy=os.urandom))) == ANCHOR_BYTES


def test_what_cannot_be_padded_is_a_fault_of_the_program(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.sdk.padding.ANCHOR_BYTES", 100)
    with pytest.raises(ValueError, match="one size"):
        anchor_of(house.records[0], entropy=os.urandom)


def test_padded_anchors_are_cut_into_transactions_like_any_other(house: House) -> None:
    anchors = [anchor_of(house.records[0], entropy=os.urandom) for _ in range(130)]
    assert [len(part) for part in in_transactions(anchors)] == [64, 64, 2]
