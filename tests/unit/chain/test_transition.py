"""Goal: a block changes the state by whole transactions, and every outcome leaves a receipt with the LED-9 fields.

Method: blocks over an in-memory state; digests are computed again from what the state shows.
"""

import pytest

from carechain.chain.genesis import CHAIN, TABLES
from carechain.chain.header import (
    Header,
    SealedHeader,
    decode_sealed,
    header_hash,
    receipt_root,
    signing_bytes,
    tx_root,
)
from carechain.chain.receipts import OK, Receipt, decode_receipt, describe, encode_receipt
from carechain.chain.routing import EVENTS, MESSAGES, Contracts
from carechain.chain.signatures import SignatureCache, fingerprint
from carechain.chain.tx import SIGNING_DOMAIN, parse
from carechain.contracts.consent.schema import ConsentCode, Granted, Revoke
from carechain.contracts.records import RecordsCode
from carechain.core import merkle
from carechain.core.codec import Malformed, encode
from carechain.core.crypto import BadSignature
from carechain.core.hashing import ZERO_HASH, digest
from carechain.core.message import tag_of
from carechain.state.overlay import entries_digest
from world import CHAIN_ID, START_S, Actor, World, anchor_of, empty_state, fresh, grant_of, record_id, seeded


@pytest.fixture
def world() -> World:
    return fresh()


def test_all_messages_of_a_transaction_apply_or_none(world: World) -> None:
    good, bad = anchor_of(world.steve, "one"), anchor_of(world.steve, "two", version=2)
    receipt = world.refused(RecordsCode.VERSION_NOT_NEXT, good, good, by=world.steve)
    assert receipt.message == 1
    receipt = world.refused(RecordsCode.VERSION_NOT_NEXT, good, bad, by=world.steve)
    assert (receipt.message, receipt.writes) == (1, ZERO_HASH)
    assert receipt.reads != ZERO_HASH
    world.done(good, by=world.steve)


def test_a_rejection_in_the_middle_of_a_block_disturbs_nobody(world: World) -> None:
    receipts = world.block(
        world.sign(anchor_of(world.steve, "one"), by=world.steve),
        world.sign(anchor_of(world.steve, "one"), by=world.steve),
        world.sign(anchor_of(world.steve, "two"), by=world.steve),
    )
    assert [one.code for one in receipts] == [OK, RecordsCode.VERSION_NOT_NEXT, OK]
    alone = fresh()
    alone.block(
        alone.sign(anchor_of(alone.steve, "one"), by=alone.steve),
        alone.sign(anchor_of(alone.steve, "two"), by=alone.steve),
    )
    assert _rows(world) == _rows(alone)


def _rows(world: World) -> list[tuple[bytes, bytes]]:
    return [entry for entry in world.snapshot.scan(b"") if entry[0][0] != 0x02]


def test_later_transactions_of_a_block_see_earlier_ones(world: World) -> None:
    raws = [world.sign(anchor_of(world.steve, "one", version=number), by=world.steve) for number in (1, 2, 3)]
    assert [one.code for one in world.block(*raws)] == [OK] * 3


def test_an_empty_block_leaves_the_app_hash_alone(world: World) -> None:
    before = world.root_hash
    world.wait(5)
    world.wait(100_000)
    assert world.root_hash == before
    world.done(anchor_of(world.steve, "one"), by=world.steve)
    assert world.root_hash != before


def test_the_write_digest_is_that_of_the_committed_entries(world: World) -> None:
    receipt = world.run(anchor_of(world.steve, "one"), by=world.steve)
    written = {key: value for key, value in world.changes if key[0] != 0x02}
    assert receipt.writes == entries_digest(written)
    assert len(written) == 1


def test_touching_rights_is_part_of_the_transaction(world: World) -> None:
    world.wait(3 * 86_400)
    receipt = world.run(Revoke(pseudonym=world.steve.id, grant_id=bytes(32)), by=world.carl)
    assert receipt.code == ConsentCode.GRANT_NOT_FOUND
    assert world.changed_rows() == []
    world.decision(world.carl, world.steve)
    assert len(world.changed_rows()) == 4


# --- receipts -------------------------------------------------------------------------------------------


def test_a_receipt_reads_back_and_is_completed_from_its_transaction(world: World) -> None:
    raw = world.sign(grant_of(world.steve, world.carl), grant_of(world.steve, world.bert), by=world.steve)
    (receipt,) = world.block(raw)
    assert decode_receipt(encode_receipt(receipt)) == receipt
    full = describe(raw, receipt, height=world.height, index=0)
    tx = parse(raw)
    assert (full.tx_id, full.signer, full.request) == (tx.id, world.steve.id, digest(tx.body_bytes))
    assert (full.contract, full.messages) == ("consent", ("consent.grant", "consent.grant"))
    assert (full.code, full.label, full.failed_message) == (OK, "OK", 0)
    assert full.events == receipt.events
    assert all(isinstance(event, Granted) for event in full.events)
    assert (full.reads, full.writes) == (receipt.reads, receipt.writes)


def test_a_refused_receipt_names_the_check(world: World) -> None:
    raw = world.sign(Revoke(pseudonym=world.steve.id, grant_id=bytes(32)), by=world.steve)
    (receipt,) = world.block(raw)
    full = describe(raw, receipt, height=1, index=0)
    assert full.label == "CONSENT.GRANT_NOT_FOUND"
    assert full.reason == ConsentCode.GRANT_NOT_FOUND.reason


def test_noise_has_a_receipt_without_a_signer() -> None:
    full = describe(b"noise", Receipt(102), height=1, index=0)
    assert (full.signer, full.messages, full.contract, full.label) == (b"", (), "", "ADMISSION.MALFORMED")
    assert full.tx_id == digest(b"noise")


def test_receipts_and_events_hold_no_more_than_ids_numbers_and_hashes(world: World) -> None:
    """The canary: nothing of a name or an existing id that came near the ledger is found in a receipt."""
    receipts = [
        world.run(anchor_of(world.steve, "one"), by=world.steve),
        world.run(grant_of(world.steve, world.carl), by=world.steve),
    ]
    written = b"".join(encode_receipt(one) for one in receipts)
    for canary in (b"steve", b"MRN-1", b"carl"):
        assert canary not in written


# --- headers --------------------------------------------------------------------------------------------


def header(**changed: object) -> Header:
    fields: dict[str, object] = {
        "chain_id": CHAIN_ID,
        "height": 7,
        "time_s": START_S,
        "previous": seeded("previous"),
        "tx_count": 3,
        "tx_root": seeded("txs"),
        "receipt_root": seeded("receipts"),
        "app_hash": seeded("state"),
        "producer": seeded("producer"),
    }
    return Header(**fields | changed)


def test_the_hash_and_the_signature_cover_every_field() -> None:
    changes: list[dict[str, object]] = [
        {"version": 2},
        {"chain_id": "x"},
        {"height": 8},
        {"time_s": START_S + 1},
        {"tx_count": 2},
        *({field: seeded("other")} for field in ("previous", "tx_root", "receipt_root", "app_hash", "producer")),
    ]
    variants = [header(), *(header(**changed) for changed in changes)]
    assert len({header_hash(one) for one in variants}) == len(variants)
    assert len({signing_bytes(one) for one in variants}) == len(variants)


def test_a_sealed_header_reads_back_strictly() -> None:
    data = encode(SealedHeader(header(), bytes(64)))
    assert decode_sealed(data).header == header()
    for wrong in (data[:-1], data + b"\x00", b"", encode([header(), bytes(63)])):
        with pytest.raises(Malformed):
            decode_sealed(wrong)


def test_the_roots_are_those_of_rfc_6962(world: World) -> None:
    raws = tuple(world.sign(anchor_of(world.steve, str(number)), by=world.steve) for number in range(5))
    receipts = world.block(*raws)
    assert tx_root(raws) == merkle.root([merkle.leaf_hash(raw) for raw in raws])
    assert tx_root(()) == digest(b"")
    assert receipt_root(receipts) == merkle.root([merkle.leaf_hash(encode_receipt(one)) for one in receipts])
    assert receipt_root(receipts) != receipt_root(receipts[:-1])


# --- the memory of signatures ---------------------------------------------------------------------------


def test_a_remembered_signature_belongs_to_its_key_alone() -> None:
    one, other = Actor("one"), Actor("other")
    message = SIGNING_DOMAIN + b"body"
    signature = one.signing.sign(message)
    cache = SignatureCache()
    cache.check(suite=1, public_key=one.signing.public_key, signature=signature, message=message)
    assert cache.holds(fingerprint(1, one.signing.public_key, signature, message))
    for key, signed, text in (
        (other.signing.public_key, signature, message),
        (one.signing.public_key, other.signing.sign(message), message),
        (one.signing.public_key, signature, message + b"x"),
    ):
        assert not cache.holds(fingerprint(1, key, signed, text))
        with pytest.raises(BadSignature):
            cache.check(suite=1, public_key=key, signature=signed, message=text)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from carechain.chain import signatures  # noqa: PLC0415 - the module is patched

    monkeypatch.setattr(signatures, "SIGNATURE_CACHE", 4)
    cache = SignatureCache()
    keys = [seeded("key", number) for number in range(10)]
    for key in keys:
        cache.remember(key)
        assert sum(map(cache.holds, keys)) <= 4
    assert cache.holds(keys[-1])
    assert not cache.holds(keys[0])


def test_a_cold_and_a_warm_node_agree(world: World) -> None:
    raw = world.sign(anchor_of(world.steve, "one"), by=world.steve)
    warm, cold = world.fork(), world.fork()
    warm.signatures, cold.signatures = SignatureCache(), SignatureCache()
    tx = parse(raw)
    party = warm.contracts().membership.party(world.steve.id)
    assert party is not None
    warm.signatures.keep_parsed(tx)
    warm.signatures.remember(fingerprint(party.suite, party.public_key, tx.signature, SIGNING_DOMAIN + tx.body_bytes))
    assert warm.block(raw) == cold.block(raw)
    assert warm.root_hash == cold.root_hash


# --- the lists ------------------------------------------------------------------------------------------


def test_every_message_has_a_route_and_tags_and_prefixes_are_unique() -> None:
    contracts = Contracts(empty_state())
    assert contracts.routes.keys() == set(MESSAGES)
    tags = [tag_of(kind) for kind in (*MESSAGES, *EVENTS)]
    assert len(tags) == len(set(tags))
    for spec_of in (lambda spec: spec.prefix, lambda spec: spec.name):
        assert len({spec_of(spec) for spec in TABLES}) == len(TABLES)


def test_the_state_names_its_chain(world: World) -> None:
    row = CHAIN.bind(world.snapshot).get(0)
    assert row is not None
    assert row.chain_id == CHAIN_ID
    assert record_id("x") != record_id("y")
