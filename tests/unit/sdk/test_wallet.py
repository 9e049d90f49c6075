"""Goal: every key of a wallet follows from its seed, pseudonyms share nothing, the binding proof covers all it names.

Method: HKDF is recomputed by hand (RFC 5869) for a pinned seed; contexts are varied one at a time; the proof is checked
with the verifier the ledger uses.
"""

import hashlib
import hmac
from pathlib import Path

import msgspec
import pytest

from carechain.core.binding import binding_message
from carechain.core.codec import encode
from carechain.core.crypto import BadSignature, Suite, verify
from carechain.core.ids import party_id
from carechain.core.rejection import Rejected
from carechain.sdk import wallet as module
from carechain.sdk.keyfile import Entropy, WalletCode, encode_key_file
from carechain.sdk.wallet import Wallet, binding_proof, derive_pseudonym, new_wallet
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.symmetric import ScryptCost

SEED = bytes(range(32))
HOSPITAL, CLINIC = b"A" * 32, b"B" * 32


def hkdf(info: bytes, size: int) -> bytes:
    key = hmac.digest(bytes(32), SEED, hashlib.sha256)
    result, block = b"", b""
    for counter in range(1, size // 32 + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha256)
        result += block
    return result


@pytest.mark.parametrize("suite", list(Suite))
def test_derivation_is_the_documented_one(suite: Suite) -> None:
    wallet = Wallet(seed=SEED, chain_id="链-1", suite=suite)
    pseudonym = wallet.pseudonym(HOSPITAL, 3)
    secrets = hkdf(b"carechain/pseudonym/1" + bytes([suite]) + "链-1".encode() + HOSPITAL + b"\x00\x00\x00\x03", 64)
    assert pseudonym.hpke.public_key == HpkePrivateKey(secrets[32:]).public_key
    assert pseudonym.signing.public_key == module.SigningKey(suite=suite, seed=secrets[:32]).public_key
    assert pseudonym.id == party_id(suite, pseudonym.signing.public_key)
    assert wallet.summary_key() == hkdf(b"carechain/summary-key/1" + "链-1".encode(), 32)


def test_derivation_is_pinned() -> None:
    pseudonym = derive_pseudonym(SEED, chain_id="test", suite=Suite.ED25519, organisation=HOSPITAL, counter=0)
    assert pseudonym.id.hex() == "8f3828e8c7271fde68011246b43610207a283a391cc8ce7aca2493af88cb920c"
    assert pseudonym.hpke.public_key.hex() == "c4defa336aa1812e4e21040bb233acb6a2dece9a075dd95831c6cd7194264d58"


def test_every_part_of_the_context_changes_every_key() -> None:
    contexts = [
        (SEED, "a", Suite.ED25519, HOSPITAL, 0),
        (bytes(32), "a", Suite.ED25519, HOSPITAL, 0),
        (SEED, "b", Suite.ED25519, HOSPITAL, 0),
        (SEED, "a", Suite.P256, HOSPITAL, 0),
        (SEED, "a", Suite.SM2, HOSPITAL, 0),
        (SEED, "a", Suite.ED25519, CLINIC, 0),
        (SEED, "a", Suite.ED25519, HOSPITAL, 1),
    ]
    made = [
        derive_pseudonym(seed, chain_id=chain, suite=suite, organisation=organisation, counter=counter)
        for seed, chain, suite, organisation, counter in contexts
    ]
    assert len({one.id for one in made}) == len({one.hpke.public_key for one in made}) == len(contexts)


def test_wrong_sizes_are_the_callers_bug() -> None:
    for seed, organisation in ((b"short", HOSPITAL), (SEED, b"short")):
        with pytest.raises(ValueError, match="32 bytes"):
            derive_pseudonym(seed, chain_id="a", suite=Suite.ED25519, organisation=organisation, counter=0)


def test_relations_count_per_organisation_and_the_wallet_is_immutable(entropy: Entropy) -> None:
    empty = new_wallet(chain_id="test", entropy=entropy)
    one, first = empty.with_relation(HOSPITAL, label="市立医院", since_day=45_000)
    two, other = one.with_relation(CLINIC, label="", since_day=45_001)
    three, second = two.with_relation(HOSPITAL, label="second", since_day=45_002)
    assert [first.counter, other.counter, second.counter] == [0, 0, 1]
    assert three.at(HOSPITAL) == (first, second)
    assert three.keys_of(second).id == second.pseudonym
    assert (empty.revision, three.revision) == (0, 3)
    assert empty.relations == ()


def test_label_and_number_of_relations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = Wallet(seed=SEED, chain_id="test")
    with pytest.raises(Rejected) as caught:
        wallet.with_relation(HOSPITAL, label="x" * 81, since_day=0)
    assert caught.value.code is WalletCode.LABEL_INVALID
    monkeypatch.setattr(module, "WALLET_RELATIONS", 1)
    full, _ = wallet.with_relation(HOSPITAL, label="", since_day=0)
    with pytest.raises(Rejected) as caught:
        full.with_relation(HOSPITAL, label="", since_day=0)
    assert caught.value.code is WalletCode.TOO_MANY_RELATIONS


@pytest.mark.parametrize("suite", list(Suite))
def test_binding_proof_covers_all_it_names(suite: Suite) -> None:
    pseudonym = Wallet(seed=SEED, chain_id="test", suite=suite).pseudonym(HOSPITAL)
    proof = binding_proof(pseudonym, chain_id="test", id_hash=b"h" * 32)
    right = {
        "chain_id": "test",
        "organisation": HOSPITAL,
        "id_hash": b"h" * 32,
        "suite": int(suite),
        "public_key": pseudonym.signing.public_key,
        "hpke_key": pseudonym.hpke.public_key,
        "number": 0,
    }
    wrong = {
        "chain_id": "other",
        "organisation": CLINIC,
        "id_hash": bytes(32),
        "suite": 9,
        "public_key": bytes(32),
        "hpke_key": bytes(32),
        "number": 1,
    }

    def check(fields: dict[str, object]) -> None:
        message = binding_message(**fields)  # type: ignore[arg-type]
        verify(suite=suite, public_key=pseudonym.signing.public_key, signature=proof, message=message)

    check(right)
    for name, value in wrong.items():
        with pytest.raises(BadSignature):
            check({**right, name: value})


def test_save_and_load(tmp_path: Path, entropy: Entropy, cheap: ScryptCost) -> None:
    path = tmp_path / "wallet.keys"
    wallet, _ = new_wallet(chain_id="test", entropy=entropy).with_relation(HOSPITAL, label="王医生", since_day=1)
    wallet.save(path, password="pw", entropy=entropy, cost=cheap)
    assert Wallet.load(path, password="pw") == wallet
    assert "王医生".encode() not in path.read_bytes()
    with pytest.raises(Rejected) as caught:
        wallet.save(path, password="pw", entropy=entropy, cost=cheap)
    assert caught.value.code is WalletCode.FILE_EXISTS
    later, _ = wallet.with_relation(CLINIC, label="", since_day=2)
    later.save(path, password="new", entropy=entropy, cost=cheap, replace_existing=True)
    assert Wallet.load(path, password="new") == later


@pytest.mark.parametrize("payload", [b"", b"\x90", encode([b"short", "test", 1, 0, []]), encode([SEED, "", 1, 0, []])])
def test_a_payload_that_is_no_wallet_is_damage(payload: bytes, entropy: Entropy, cheap: ScryptCost) -> None:
    data = encode_key_file(payload, kind="wallet", password="pw", entropy=entropy, cost=cheap)
    with pytest.raises(Rejected) as caught:
        Wallet.from_bytes(data, password="pw")
    assert caught.value.code is WalletCode.FILE_DAMAGED


def test_nothing_prints_a_secret() -> None:
    wallet = Wallet(seed=SEED, chain_id="test")
    pseudonym = wallet.pseudonym(HOSPITAL)
    for text in (repr(wallet), str(wallet), repr(pseudonym)):
        assert SEED.hex() not in text
        assert repr(SEED) not in text
        assert "seed" not in text


# --- keys that came later -------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [Suite.ED25519, Suite.P256])
def test_later_keys_follow_from_the_seed_and_the_id(suite: Suite) -> None:
    wallet = Wallet(seed=SEED, chain_id="链-1", suite=suite)
    adopted, relation = wallet.with_adopted(HOSPITAL, CLINIC, label="家", since_day=3)
    keys = adopted.keys_of(relation)
    secrets = hkdf(b"carechain/adopted/1" + bytes([suite]) + "链-1".encode() + CLINIC + b"\x00\x00\x00\x01", 64)
    assert keys.id == CLINIC
    assert keys.signing.public_key == module.SigningKey(suite=suite, seed=secrets[:32]).public_key
    assert keys.hpke.public_key == HpkePrivateKey(secrets[32:]).public_key
    assert adopted.with_adopted(HOSPITAL, CLINIC) == (adopted, relation), "the same keys when it is tried again"


def test_a_wallet_adopts_no_pseudonym_that_is_its_own() -> None:
    """Who has this wallet has those keys: a recovery leads into another one."""
    wallet, relation = Wallet(seed=SEED, chain_id="test").with_relation(HOSPITAL, label="", since_day=0)
    with pytest.raises(Rejected) as caught:
        wallet.with_adopted(HOSPITAL, relation.pseudonym)
    assert caught.value.code is WalletCode.PSEUDONYM_OWN
    with pytest.raises(Rejected) as caught:
        wallet.with_generation(CLINIC, 1)
    assert caught.value.code is WalletCode.RELATION_UNKNOWN


def test_generations_of_one_relation() -> None:
    wallet, relation = Wallet(seed=SEED, chain_id="test").with_relation(HOSPITAL, label="", since_day=0)
    other, _ = wallet.with_relation(HOSPITAL, label="", since_day=0)
    changed, second = other.with_generation(relation.pseudonym, 1)
    assert changed.keys_of(second).id == relation.pseudonym == wallet.keys_of(relation).id
    assert changed.of(relation.pseudonym) == second
    assert [one.generation for one in changed.relations] == [1, 0]
    keys = [wallet.keys_of(msgspec.structs.replace(relation, generation=number)) for number in range(4)]
    assert len({one.signing.public_key for one in keys}) == len({one.hpke.public_key for one in keys}) == 4
    for number, one in enumerate(keys):
        assert changed.generation_of(second, one.signing.public_key) == number
    assert changed.generation_of(second, bytes(32)) is None


def test_a_wallet_file_of_before_keys_could_be_changed(entropy: Entropy, cheap: ScryptCost) -> None:
    pseudonym = Wallet(seed=SEED, chain_id="test").pseudonym(HOSPITAL).id
    payload = encode([SEED, "test", 1, 7, [[HOSPITAL, 0, pseudonym, "家", 45_000]]])
    data = encode_key_file(payload, kind="wallet", password="pw", entropy=entropy, cost=cheap)
    wallet = Wallet.from_bytes(data, password="pw")
    (relation,) = wallet.relations
    assert (wallet.revision, wallet.cards, relation.generation, relation.label) == (7, 0, 0, "家")
    assert wallet.keys_of(relation).id == pseudonym
    again = Wallet.from_bytes(wallet.to_bytes(password="pw", entropy=entropy, cost=cheap), password="pw")
    assert again == wallet
