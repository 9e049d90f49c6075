"""The memory of verified signatures and decoded transactions is bounded, in number and in bytes.

Method: lower the bounds and overfill: what is newest stays, what was dropped is verified or decoded again.
"""

import pytest

from carechain.chain import signatures
from carechain.chain.signatures import SignatureCache, fingerprint
from carechain.chain.tx import Tx, parse
from carechain.core.crypto import BadSignature
from ledgers import Life
from world import anchor_of


def parsed(count: int) -> list[Tx]:
    life = Life()
    return [parse(life.sign(anchor_of(life.world.steve, str(one)), by=life.world.carl)) for one in range(count)]


def test_the_newest_signatures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "SIGNATURE_CACHE", 8)
    cache = SignatureCache()
    keys = [fingerprint(1, bytes([one]), b"", b"") for one in range(20)]
    for key in keys:
        cache.remember(key)
        assert cache.holds(key)
    assert sum(map(cache.holds, keys)) <= 8
    assert all(map(cache.holds, keys[-4:]))


def test_decoded_transactions_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    txs = parsed(20)
    size = len(txs[0].raw)
    for name, bound in (("SIGNATURE_CACHE", 8), ("SUBMIT_QUEUE_BYTES", 8 * size)):
        with monkeypatch.context() as patch:
            patch.setattr(signatures, name, bound)
            cache = SignatureCache()
            for tx in txs:
                cache.keep_parsed(tx)
                cache.keep_parsed(tx)
                assert cache.parsed(tx.raw) is tx
            assert sum(cache.parsed(tx.raw) is not None for tx in txs) <= 9
            cache.forget([tx.raw for tx in txs])
            cache.forget([tx.raw for tx in txs])
            assert cache._parsed_bytes == 0
            assert not any(cache.parsed(tx.raw) for tx in txs)


def test_a_signature_that_does_not_hold_is_never_remembered() -> None:
    (tx,) = parsed(1)
    cache = SignatureCache()
    call = {"suite": 1, "public_key": bytes(32), "signature": tx.signature, "message": tx.body_bytes}
    for _ in range(2):
        with pytest.raises(BadSignature):
            cache.check(**call)
    assert not cache.holds(fingerprint(*call.values()))
