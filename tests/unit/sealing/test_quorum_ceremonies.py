"""Goal: honest members come to one key and sound shares of it whoever lies, and the liars are found by what they did.

Method: whole key generations and resharings with liars of every kind, judged as the ledger judges; then what a member
keeps secret is looked for where it must not be, and everything is made twice.
"""

import itertools
from typing import Any

import pytest

from carechain.core.group import GENERATOR, SECOND, ZERO, BadElement, base_mul, hash_to_scalar
from carechain.core.quorum import check_pedersen, default_threshold
from carechain.sealing.quorum import dkg, resharing
from carechain.sealing.quorum.dealing import CeremonyKey, Pair, Polynomial, Received, Recipient, share_fits
from quorum_ceremony import (
    RECORD_KEY,
    Epoch,
    Lie,
    blinded,
    generate,
    logarithm_of,
    opened,
    reshare,
    sealed,
    seeded,
    shares_of,
)

CEREMONY = seeded("ceremony")
SEED = seeded("seed")


def assert_sound(epoch: Epoch) -> None:
    """Every share fits its public key, and the shares of the first and of the last holders open a capsule."""
    for index, held in epoch.secrets.items():
        assert share_fits(held.scalar, epoch.keys[index])
    capsule, secret = sealed(epoch), blinded()
    holders = list(epoch.secrets)
    for chosen in (holders[: epoch.threshold], holders[-epoch.threshold :]):
        assert opened(epoch, shares_of(epoch, chosen, capsule, secret), capsule, secret, epoch.threshold) == RECORD_KEY


@pytest.mark.parametrize("holders", [1, 2, 3, 4, 5, 7])
def test_honest_members_make_a_key(holders: int) -> None:
    run = generate(holders, default_threshold(holders))
    assert (run.disqualified, run.exposed) == ([], [])
    assert_sound(run.done)


def test_the_key_is_the_sum_of_what_everybody_dealt() -> None:
    epoch = generate(4, 3).done
    assert base_mul(logarithm_of(epoch)) == epoch.public_key


@pytest.mark.parametrize("lie", [Lie.FALSE_PAIR, Lie.NO_SCALARS])
def test_who_deals_falsely_is_disqualified_and_its_part_left_out(lie: Lie) -> None:
    run = generate(4, 3, lies={2: lie})
    assert (run.disqualified, run.exposed) == ([2], [])
    assert_sound(run.done)
    assert run.done.public_key != generate(4, 3).done.public_key


@pytest.mark.parametrize("lie", [Lie.FALSE_EXTRACTION, Lie.SILENT])
def test_who_lies_or_falls_silent_later_is_exposed_and_the_key_is_the_same(lie: Lie) -> None:
    """Attack: see the others' parts of the key, and then take one's own away. The key was settled before."""
    run = generate(4, 3, lies={3: lie})
    assert (run.disqualified, run.exposed) == ([], [3])
    assert_sound(run.done)
    assert run.done.public_key == generate(4, 3).done.public_key


def test_several_liars_at_once() -> None:
    run = generate(7, 3, lies={1: Lie.FALSE_EXTRACTION, 4: Lie.NO_SCALARS}, victim=6)
    assert (run.disqualified, run.exposed) == ([4], [1])
    assert_sound(run.done)


@pytest.mark.parametrize(("holders", "threshold"), [(4, 3), (5, 3), (3, 2), (7, 5)])
def test_a_resharing_keeps_the_key(holders: int, threshold: int) -> None:
    old = generate(4, 3).done
    new = reshare(old, holders, threshold).done
    assert (new.public_key, new.number, new.threshold) == (old.public_key, 2, threshold)
    assert logarithm_of(new) == logarithm_of(old)
    assert not {one.scalar for one in new.secrets.values()} & {one.scalar for one in old.secrets.values()}
    assert_sound(new)
    assert_sound(reshare(new, 4, 3, run="again").done)


@pytest.mark.parametrize("lie", [Lie.FALSE_PAIR, Lie.NO_SCALARS])
def test_a_liar_has_no_part_in_a_resharing(lie: Lie) -> None:
    old = generate(4, 3).done
    run = reshare(old, 4, 3, lies={1: lie})
    assert run.disqualified == [1]
    assert run.done.public_key == old.public_key
    assert_sound(run.done)


def test_a_resharing_with_too_few_sound_deals_fails() -> None:
    assert reshare(generate(4, 3).done, 4, 3, lies={1: Lie.FALSE_PAIR, 2: Lie.FALSE_PAIR}).epoch is None


def test_shares_of_two_epochs_give_another_logarithm() -> None:
    """The arithmetic itself: no mixture of old and new shares lies on a polynomial with the key at zero."""
    old = generate(4, 3).done
    new = reshare(old, 4, 3).done
    for chosen in itertools.combinations(range(1, 5), 3):
        for epochs in itertools.product((old, new), repeat=3):
            mixed = Epoch(
                number=0,
                public_key=old.public_key,
                threshold=3,
                keys={},
                secrets={index: one.secrets[index] for index, one in zip(chosen, epochs, strict=True)},
            )
            pure = all(one is epochs[0] for one in epochs)
            if pure:
                logarithm_of(mixed)
            else:
                with pytest.raises(AssertionError):
                    logarithm_of(mixed)


# --- one member -------------------------------------------------------------------------------------------


def recipients(count: int = 3) -> list[Recipient]:
    return [
        Recipient(index=index, key=CeremonyKey(seeded("r", index), ceremony=CEREMONY).public)
        for index in range(1, count + 1)
    ]


def test_a_member_that_starts_again_sends_the_same_bytes() -> None:
    words: dict[str, Any] = {"ceremony": CEREMONY, "threshold": 3}
    first = dkg.make_deal(SEED, **words, dealer=1, recipients=recipients())
    assert first == dkg.make_deal(SEED, **words, dealer=1, recipients=recipients())
    assert dkg.extract(SEED, **words) == dkg.extract(SEED, **words)
    share = hash_to_scalar("test/share")
    again = [resharing.make_deal(SEED, **words, share=share, dealer=1, recipients=recipients()) for _ in range(2)]
    assert again[0] == again[1]
    key = CeremonyKey(SEED, ceremony=CEREMONY)
    assert key.prove(b"party") == CeremonyKey(SEED, ceremony=CEREMONY).prove(b"party")


def test_nothing_is_used_twice_in_two_ceremonies() -> None:
    words: dict[str, Any] = {"threshold": 3, "dealer": 1, "recipients": recipients()}
    one = dkg.make_deal(SEED, ceremony=CEREMONY, **words)
    other = dkg.make_deal(SEED, ceremony=seeded("other"), **words)
    assert not set(one.commitments) & set(other.commitments)
    assert not set(one.ciphertexts) & set(other.ciphertexts)
    assert CeremonyKey(SEED, ceremony=CEREMONY).public != CeremonyKey(SEED, ceremony=seeded("other")).public


def test_the_polynomials_of_one_seed_differ_in_every_coefficient() -> None:
    kinds = [
        Polynomial(SEED, ceremony=CEREMONY, threshold=3, use=b"a"),
        Polynomial(SEED, ceremony=CEREMONY, threshold=3, use=b"b"),
        Polynomial(SEED, ceremony=CEREMONY, threshold=4, use=b"a"),
        Polynomial(SEED, ceremony=CEREMONY, threshold=3, use=b"a", constant=hash_to_scalar("test/x")),
        Polynomial(SEED, ceremony=CEREMONY, threshold=3, use=b"a", constant=hash_to_scalar("test/y")),
    ]
    images = [image for kind in kinds for image in kind.images()]
    assert len(dict.fromkeys(images)) == len(images)
    assert kinds[0].images(SECOND) != kinds[0].images(GENERATOR)


def test_a_polynomial_is_never_evaluated_where_its_secret_lies() -> None:
    with pytest.raises(ValueError, match="from 1 on"):
        Polynomial(SEED, ceremony=CEREMONY, threshold=3, use=b"a").value(0)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        CeremonyKey(seed, ceremony=CEREMONY)
    with pytest.raises(ValueError, match="32 bytes"):
        dkg.extract(seed, ceremony=CEREMONY, threshold=2)


def test_a_share_that_is_zero_cannot_be_dealt_on() -> None:
    with pytest.raises(BadElement):
        resharing.make_deal(SEED, ceremony=CEREMONY, threshold=2, share=ZERO, dealer=1, recipients=recipients())


def test_only_the_recipient_opens_a_pair() -> None:
    deal = dkg.make_deal(SEED, ceremony=CEREMONY, threshold=3, dealer=1, recipients=recipients())
    dealer = CeremonyKey(SEED, ceremony=CEREMONY)
    for index in (1, 2, 3):
        for place in (1, 2, 3):
            received = Received(
                dealer=1, key=dealer.public, commitments=deal.commitments, ciphertext=deal.ciphertexts[place - 1]
            )
            pair = CeremonyKey(seeded("r", index), ceremony=CEREMONY).open(received, recipient=place)
            sound = pair is not None and check_pedersen(deal.commitments, place, *pair)
            assert sound == (index == place)


def test_a_share_is_compared_with_its_public_key() -> None:
    scalar = hash_to_scalar("test/share")
    assert share_fits(scalar, base_mul(scalar))
    assert not share_fits(scalar, GENERATOR)
    assert not share_fits(ZERO, GENERATOR)
    assert not share_fits(b"short", GENERATOR)


def test_nothing_secret_is_shown() -> None:
    scalar = hash_to_scalar("test/share")
    key = CeremonyKey(SEED, ceremony=CEREMONY)
    shown = [
        repr(Pair(dealer=3, value=scalar, blind=scalar)),
        repr(key),
        repr(Polynomial(SEED, ceremony=CEREMONY, threshold=3, use=b"a", constant=scalar)),
        repr(blinded()),
    ]
    assert shown[:3] == ["Pair(dealer=3)", f"CeremonyKey(public={key.public.hex()})", "Polynomial(degree=2)"]
    assert shown[3].startswith("BlindingSecret(q_point=")
    for text in shown:
        for secret in (scalar, SEED, hash_to_scalar("carechain/ceremony-key/1", SEED, CEREMONY)):
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
