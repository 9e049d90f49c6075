"""Goal: the keys of members, staff and representatives survive their file and name nobody outside it.

Method: round trips on real files, in both suites, with a Chinese name as the label.
"""

from pathlib import Path

import pytest

from carechain.core.codec import encode
from carechain.core.crypto import Suite, verify
from carechain.core.ids import party_id
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import PartyKind
from carechain.sdk.identity import Identity, new_identity
from carechain.sdk.keyfile import Entropy, WalletCode, encode_key_file
from carechain.sealing.hpke import open_sealed, seal
from carechain.sealing.symmetric import ScryptCost


@pytest.mark.parametrize("suite", list(Suite))
def test_keys_work_and_survive_the_file(tmp_path: Path, entropy: Entropy, cheap: ScryptCost, suite: Suite) -> None:
    made = new_identity(kind=PartyKind.STAFF, organisation=b"o" * 32, suite=suite, label="王小明", entropy=entropy)
    identity = made.with_certificate(b"certificate")
    path = tmp_path / "staff.keys"
    identity.save(path, password="pw", entropy=entropy, cost=cheap)
    assert "王小明".encode() not in path.read_bytes()
    loaded = Identity.load(path, password="pw")
    assert loaded == identity
    key = loaded.signing_key()
    assert loaded.party == party_id(suite, key.public_key)
    verify(suite=suite, public_key=key.public_key, signature=key.sign(b"m"), message=b"m")
    assert open_sealed(loaded.hpke_key(), b"i", seal(loaded.hpke_key().public_key, b"i", b"x")) == b"x"


def test_a_member_is_its_own_organisation(entropy: Entropy) -> None:
    member = new_identity(kind=PartyKind.MEMBER, entropy=entropy)
    assert member.organisation == member.party


def test_a_wallet_file_is_not_an_identity(entropy: Entropy, cheap: ScryptCost) -> None:
    data = encode_key_file(b"\x90", kind="wallet", password="pw", entropy=entropy, cost=cheap)
    with pytest.raises(Rejected) as caught:
        Identity.from_bytes(data, password="pw")
    assert caught.value.code is WalletCode.FILE_OF_ANOTHER_KIND


def test_a_payload_that_is_no_identity_is_damage(entropy: Entropy, cheap: ScryptCost) -> None:
    data = encode_key_file(b"\x90", kind="identity", password="pw", entropy=entropy, cost=cheap)
    with pytest.raises(Rejected) as caught:
        Identity.from_bytes(data, password="pw")
    assert caught.value.code is WalletCode.FILE_DAMAGED


def test_label_is_checked_and_nothing_prints_a_secret_or_a_name(entropy: Entropy) -> None:
    with pytest.raises(Rejected) as caught:
        new_identity(kind=PartyKind.STAFF, label="a\nb", entropy=entropy)
    assert caught.value.code is WalletCode.LABEL_INVALID
    identity = new_identity(kind=PartyKind.STAFF, label="Carl", entropy=entropy)
    assert "Carl" not in repr(identity)
    assert repr(identity.signing_seed) not in repr(identity)


# --- other keys for the same party ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(PartyKind))
def test_keys_on_their_way_are_in_the_file_and_replace_the_old_ones(
    kind: PartyKind, entropy: Entropy, cheap: ScryptCost
) -> None:
    first = new_identity(kind=kind, entropy=entropy)
    assert first.with_keys_taken_over() == first
    waiting = first.with_coming(entropy=entropy, suite=Suite.P256)
    assert waiting.with_coming(entropy=entropy) == waiting, "whoever tries again tries with the same keys"
    read = Identity.from_bytes(waiting.to_bytes(password="pw", entropy=entropy, cost=cheap), password="pw")
    assert read == waiting
    assert waiting.signing_key().public_key == first.signing_key().public_key
    assert waiting.coming is not None
    second = waiting.with_keys_taken_over()
    assert (second.party, second.organisation, second.coming) == (first.party, first.organisation, None)
    assert second.signing_key().public_key == waiting.coming.signing_key().public_key
    assert second.hpke_key().public_key == waiting.coming.hpke_key().public_key
    third = second.with_coming(entropy=entropy).with_keys_taken_over(b"certificate")
    assert third.suite is Suite.P256
    if kind is PartyKind.MEMBER:
        assert third.block_key().public_key == second.block_key().public_key == first.signing_key().public_key
        assert party_id(Suite.ED25519, third.block_key().public_key) == first.party
    else:
        assert third.founding_seed == b"", "an old key that serves nothing is not kept"
    assert third.certificate == b"certificate"


def test_nothing_prints_the_keys_on_their_way(entropy: Entropy) -> None:
    waiting = new_identity(kind=PartyKind.MEMBER, entropy=entropy).with_coming(entropy=entropy)
    assert waiting.coming is not None
    assert waiting.coming.signing_seed.hex() not in repr(waiting) + repr(waiting.coming)
    assert repr(waiting.coming.signing_seed) not in repr(waiting) + repr(waiting.coming)


def test_a_file_of_before_keys_could_be_changed(entropy: Entropy, cheap: ScryptCost) -> None:
    identity = new_identity(kind=PartyKind.STAFF, entropy=entropy, label="王医生")
    fields = [2, 1, identity.signing_seed, identity.hpke_seed, identity.party, identity.organisation, b"der", "王医生"]
    data = encode_key_file(encode(fields), kind="identity", password="pw", entropy=entropy, cost=cheap)
    read = Identity.from_bytes(data, password="pw")
    assert read == identity.with_certificate(b"der")
