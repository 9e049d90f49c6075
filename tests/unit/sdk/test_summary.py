"""Goal: the sealed summary is readable by its wallet alone and brings every relation back (REC-6, ID-8).

Method: a dictionary plays the ledger's answer to "what is stored under this pseudonym"; relations are made, their
summaries stored, the wallet thrown away and recovered from its seed.
"""

import pytest

from carechain.core.codec import encode
from carechain.core.hashing import tagged
from carechain.core.limits import SUMMARY_BUCKET_BYTES, SUMMARY_SIZE_BYTES, WALLET_RECOVERY_GAP
from carechain.core.rejection import Rejected
from carechain.sdk.keyfile import Entropy, WalletCode
from carechain.sdk.summary import open_summary, recover, seal_summary
from carechain.sdk.wallet import Wallet
from carechain.sealing import symmetric

SEED, NONCE = bytes(range(32)), bytes(range(12))
ORGANISATIONS = [bytes([number]) * 32 for number in range(6)]


def wallet_with(*organisations: bytes) -> Wallet:
    wallet = Wallet(seed=SEED, chain_id="test")
    for number, organisation in enumerate(organisations):
        wallet, _ = wallet.with_relation(organisation, label=f"医院 {number}", since_day=45_000 + number)
    return wallet


def stored(wallet: Wallet, entropy: Entropy) -> dict[bytes, bytes]:
    return {one.pseudonym: seal_summary(wallet, one.pseudonym, entropy(12)) for one in wallet.relations}


def refusal(wallet: Wallet, pseudonym: bytes, sealed: bytes) -> object:
    with pytest.raises(Rejected) as caught:
        open_summary(wallet, pseudonym, sealed)
    return caught.value.code


def test_round_trip_in_whole_buckets() -> None:
    wallet = wallet_with(*ORGANISATIONS)
    pseudonym = wallet.relations[0].pseudonym
    sealed = seal_summary(wallet, pseudonym, NONCE)
    assert len(sealed) % SUMMARY_BUCKET_BYTES == 0
    summary = open_summary(wallet, pseudonym, sealed)
    assert summary.relations == wallet.relations
    assert summary.revision == wallet.revision


def test_size_does_not_count_the_relations() -> None:
    sizes = {len(seal_summary(wallet_with(*ORGANISATIONS[:count]), b"p" * 32, NONCE)) for count in range(1, 6)}
    assert sizes == {SUMMARY_BUCKET_BYTES}


def test_a_summary_beyond_the_bound_is_refused() -> None:
    wallet = Wallet(seed=SEED, chain_id="test")
    for number in range(200):
        wallet, _ = wallet.with_relation(number.to_bytes(32, "big"), label="名" * 40, since_day=1)
    with pytest.raises(Rejected) as caught:
        seal_summary(wallet, b"p" * 32, NONCE)
    assert caught.value.code is WalletCode.SUMMARY_TOO_LARGE


def test_another_wallet_pseudonym_or_chain_and_altered_bytes_are_refused() -> None:
    wallet = wallet_with(ORGANISATIONS[0])
    pseudonym = wallet.relations[0].pseudonym
    sealed = seal_summary(wallet, pseudonym, NONCE)
    wrong = [
        (Wallet(seed=bytes(32), chain_id="test"), pseudonym, sealed),
        (Wallet(seed=SEED, chain_id="other"), pseudonym, sealed),
        (wallet, bytes(32), sealed),
        (wallet, pseudonym, b""),
        (wallet, pseudonym, sealed[:-1]),
        (wallet, pseudonym, sealed + bytes(SUMMARY_SIZE_BYTES)),
        *((wallet, pseudonym, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]) for at in range(len(sealed))),
    ]
    for opener, place, data in wrong:
        assert refusal(opener, place, data) is WalletCode.SUMMARY_UNREADABLE


def test_recovery_finds_everything_again(entropy: Entropy) -> None:
    wallet = wallet_with(ORGANISATIONS[0], ORGANISATIONS[1], ORGANISATIONS[0])
    ledger = stored(wallet, entropy)
    recovery = recover(SEED, chain_id="test", organisations=ORGANISATIONS, exists=ledger.get)
    assert recovery.wallet == wallet
    assert recovery.unreadable == ()


def test_recovery_takes_the_newest_summary(entropy: Entropy) -> None:
    old = wallet_with(ORGANISATIONS[0])
    new = wallet_with(ORGANISATIONS[0], ORGANISATIONS[1])
    ledger = {
        old.relations[0].pseudonym: seal_summary(old, old.relations[0].pseudonym, entropy(12)),
        new.relations[1].pseudonym: seal_summary(new, new.relations[1].pseudonym, entropy(12)),
    }
    recovery = recover(SEED, chain_id="test", organisations=ORGANISATIONS, exists=ledger.get)
    assert recovery.wallet == new


def test_recovery_follows_a_summary_to_organisations_that_were_not_asked(entropy: Entropy) -> None:
    wallet = wallet_with(*ORGANISATIONS)
    ledger = stored(wallet, entropy)
    recovery = recover(SEED, chain_id="test", organisations=ORGANISATIONS[2:3], exists=ledger.get)
    assert recovery.wallet == wallet


def test_a_relation_the_ledger_does_not_know_is_not_taken_over(entropy: Entropy) -> None:
    wallet = wallet_with(ORGANISATIONS[0], ORGANISATIONS[5])
    ledger = stored(wallet, entropy)
    del ledger[wallet.relations[1].pseudonym]
    recovery = recover(SEED, chain_id="test", organisations=ORGANISATIONS[:1], exists=ledger.get)
    assert recovery.wallet.relations == wallet.relations[:1]


def test_relations_without_or_with_a_foreign_summary_are_still_found(entropy: Entropy) -> None:
    wallet = wallet_with(ORGANISATIONS[0], ORGANISATIONS[1])
    ledger = {wallet.relations[0].pseudonym: b"", wallet.relations[1].pseudonym: entropy(1024)}
    recovery = recover(SEED, chain_id="test", organisations=ORGANISATIONS, exists=ledger.get)
    assert {one.pseudonym for one in recovery.wallet.relations} == set(ledger)
    assert recovery.unreadable == (wallet.relations[1].pseudonym,)
    assert all(one.label == "" for one in recovery.wallet.relations)


def test_recovery_crosses_unused_counters_up_to_the_gap() -> None:
    wallet = Wallet(seed=SEED, chain_id="test")
    near = wallet.pseudonym(ORGANISATIONS[0], WALLET_RECOVERY_GAP - 1).id
    far = wallet.pseudonym(ORGANISATIONS[1], WALLET_RECOVERY_GAP).id
    recovery = recover(SEED, chain_id="test", organisations=ORGANISATIONS, exists={near: b"", far: b""}.get)
    assert [one.pseudonym for one in recovery.wallet.relations] == [near]


def test_an_unknown_seed_finds_nothing(entropy: Entropy) -> None:
    ledger = stored(wallet_with(*ORGANISATIONS), entropy)
    recovery = recover(bytes(32), chain_id="test", organisations=ORGANISATIONS, exists=ledger.get)
    assert recovery.wallet.relations == ()


def test_an_adopted_pseudonym_is_found_by_any_summary(entropy: Entropy) -> None:
    wallet, _ = wallet_with(ORGANISATIONS[0]).with_adopted(ORGANISATIONS[1], b"p" * 32, label="家")
    ledger = stored(wallet, entropy)
    found = recover(SEED, chain_id="test", organisations=ORGANISATIONS, exists=ledger.get)
    assert set(found.wallet.relations) == set(wallet.relations)
    alone = {b"p" * 32: ledger[b"p" * 32]}
    assert recover(SEED, chain_id="test", organisations=ORGANISATIONS, exists=alone.get).wallet.relations == ()
    told = recover(SEED, chain_id="test", organisations=(), exists=ledger.get, adopted=[b"p" * 32, b"q" * 32])
    assert set(told.wallet.relations) == set(wallet.relations)
    assert told.unreadable == ()


def test_a_summary_of_before_keys_could_be_changed() -> None:
    wallet = wallet_with(ORGANISATIONS[0])
    (relation,) = wallet.relations
    old = [wallet.revision, [[relation.organisation, 0, relation.pseudonym, relation.label, relation.since_day]]]
    padded = symmetric.pad(encode(old), bucket_bytes=SUMMARY_BUCKET_BYTES, overhead_bytes=1 + 12 + 16)
    context = tagged("carechain/summary/1", b"test", relation.pseudonym)
    sealed = b"\x01" + NONCE + symmetric.seal(wallet.summary_key(), nonce=NONCE, plaintext=padded, context=context)
    assert open_summary(wallet, relation.pseudonym, sealed).relations == wallet.relations
