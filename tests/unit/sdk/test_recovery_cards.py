"""Goal: any few cards give the secret back, fewer give nothing, and every misreading has its own refusal (ID-7).

Method: published vectors of SLIP-0039, so that cards of other programs are read alike; then every subset of small sets,
and one row per way to get it wrong. Derivation of the signing key is recomputed by hand.
"""

import hashlib
import hmac
from itertools import combinations

import pytest

from carechain.core.crypto import SigningKey, Suite
from carechain.core.rejection import Rejected
from carechain.sdk.recovery_cards import CardsCode, card_key, join_cards, make_cards
from carechain.sdk.wallet import Wallet

SECRET = bytes(range(16))
PSEUDONYM = b"P" * 32

ONE_OF_ONE = (
    "duckling enlarge academic academic agency result length solution fridge kidney coal piece deal husband erode duke "
    "ajar critical decision keyboard"
)
TWO_OF_THREE = (
    (
        "shadow pistol academic always adequate wildlife fancy gross oasis cylinder mustang wrist rescue view short "
        "owner flip making coding armed"
    ),
    (
        "shadow pistol academic acid actress prayer class unknown daughter sweater depict flip twice unkind craft "
        "early superior advocate guest smoking"
    ),
)


@pytest.mark.parametrize(
    ("cards", "secret"),
    [([ONE_OF_ONE], "bb54aac4b89dc868ba37d9cc21b2cece"), (TWO_OF_THREE, "b43ceb7e57a0ea8766221624d01b0864")],
)
def test_cards_of_the_standards_own_vectors_are_joined(cards: list[str], secret: str) -> None:
    assert join_cards(cards, passphrase="TREZOR").hex() == secret


@pytest.mark.parametrize(("needed", "cards"), [(2, 2), (2, 3), (3, 5), (16, 16)])
def test_any_needed_cards_give_the_secret(needed: int, cards: int) -> None:
    made = make_cards(SECRET, needed=needed, cards=cards)
    assert all(len(card.split()) == 20 for card in made)
    for chosen in list(combinations(made, needed))[:10]:
        assert join_cards(chosen) == SECRET
    assert join_cards(made) == SECRET, "more than needed do no harm"
    assert join_cards([card.upper().replace(" ", "\n  ") for card in made]) == SECRET, "as people type them"


def test_fewer_give_nothing() -> None:
    made = make_cards(SECRET, needed=3, cards=5)
    for chosen in combinations(made, 2):
        assert refused(chosen) is CardsCode.TOO_FEW_CARDS
    assert refused([made[0], made[0], made[1]]) is CardsCode.TOO_FEW_CARDS, "a card counts once"
    assert refused([]) is CardsCode.TOO_FEW_CARDS


def test_what_each_card_says_depends_on_chance_and_not_on_the_secret_alone() -> None:
    assert set(make_cards(SECRET, needed=2, cards=3)).isdisjoint(make_cards(SECRET, needed=2, cards=3))


def test_cards_of_two_sets_do_not_go_together() -> None:
    one, other = make_cards(SECRET, needed=2, cards=2), make_cards(SECRET, needed=2, cards=2)
    for mixed in ([one[0], other[1]], [*one, other[0]], [one[0], make_cards(SECRET, needed=3, cards=3)[1]]):
        assert refused(mixed) is CardsCode.CARDS_DIFFER


@pytest.mark.parametrize(
    "card",
    [
        ONE_OF_ONE.replace("duckling", "duckweed"),
        ONE_OF_ONE.replace("keyboard", "academic"),
        " ".join(reversed(ONE_OF_ONE.split())),
        ONE_OF_ONE.rpartition(" ")[0],
        "",
        "王小明 " * 20,
        "academic " * 5000,
    ],
)
def test_a_misread_card_is_noticed_and_not_repeated(card: str) -> None:
    with pytest.raises(Rejected) as rejected:
        join_cards([card])
    assert rejected.value.code is CardsCode.CARD_MISREAD
    assert rejected.value.__cause__ is None
    assert not any(word in str(rejected.value).lower().split() for word in card.lower().split())


def test_a_secret_of_another_size_is_another_secret() -> None:
    from shamir_mnemonic import generate_mnemonics  # noqa: PLC0415 - what another program would do

    (long,) = generate_mnemonics(1, [(2, 2)], bytes(32))
    assert refused(long) is CardsCode.NOT_RECOVERY_CARDS
    groups = generate_mnemonics(2, [(2, 2), (2, 2)], bytes(16))
    assert refused(groups[0]) is CardsCode.NOT_RECOVERY_CARDS


def test_a_wrong_passphrase_gives_another_secret() -> None:
    made = make_cards(SECRET, needed=2, cards=2, passphrase="correct")
    assert join_cards(made, passphrase="correct") == SECRET
    assert join_cards(made) != SECRET


def refused(cards: object, **options: str) -> CardsCode:
    with pytest.raises(Rejected) as rejected:
        join_cards(cards, **options)  # type: ignore[arg-type]
    code = rejected.value.code
    assert isinstance(code, CardsCode)
    return code


@pytest.mark.parametrize(("needed", "cards"), [(1, 1), (1, 3), (0, 0), (3, 2), (2, 17)])
def test_numbers_that_make_no_sense(needed: int, cards: int) -> None:
    with pytest.raises(Rejected) as rejected:
        make_cards(SECRET, needed=needed, cards=cards)
    assert rejected.value.code is CardsCode.NUMBERS_IMPOSSIBLE


def test_a_passphrase_that_programs_would_read_differently() -> None:
    with pytest.raises(Rejected) as rejected:
        make_cards(SECRET, needed=2, cards=2, passphrase="口令")
    assert rejected.value.code is CardsCode.PASSPHRASE_UNUSABLE


@pytest.mark.parametrize("suite", [Suite.ED25519, Suite.P256])
def test_the_signing_key_is_the_documented_one(suite: Suite) -> None:
    info = b"carechain/recovery-card-key/1" + bytes([suite]) + "链-1".encode() + PSEUDONYM
    seed = hmac.digest(hmac.digest(bytes(32), SECRET, hashlib.sha256), info + b"\x01", hashlib.sha256)
    found = card_key(SECRET, chain_id="链-1", pseudonym=PSEUDONYM, suite=suite)
    assert found.public_key == SigningKey(suite=suite, seed=seed).public_key


def test_cards_link_no_pseudonyms() -> None:
    keys = {
        card_key(SECRET, chain_id=chain, pseudonym=pseudonym).public_key
        for chain in ("a", "b")
        for pseudonym in (PSEUDONYM, bytes(32))
    }
    assert len(keys) == 4


def test_wrong_sizes_are_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        make_cards(bytes(32), needed=2, cards=2)
    with pytest.raises(ValueError, match="16 bytes"):
        card_key(bytes(32), chain_id="a", pseudonym=PSEUDONYM)


def test_a_wallets_secret_is_another_for_every_set_and_never_its_seed() -> None:
    wallet = Wallet(seed=bytes(range(32)), chain_id="a")
    secrets = [wallet.recovery_secret(), wallet.with_cards().recovery_secret()]
    assert len({*secrets, wallet.seed[:16], wallet.seed[16:], wallet.summary_key()[:16]}) == 5
    assert wallet.with_cards().cards == 1
    again = Wallet(seed=wallet.seed, chain_id="a", cards=1)
    assert again.recovery_secret() == secrets[1], "cards can be made again from the wallet"
