"""Recovery cards: a secret on paper, in shares of which any few give it back (ID-7; SLIP-0039).

The secret signs for a new key where the patient's own is lost, and opens nothing. Its public half stands in the
patient's recovery policy, another one for each pseudonym, so that the cards link none of them. Each card is a line of
twenty words with a checksum; fewer cards than needed say nothing about the secret (Shamir's scheme over GF(256)). Cards
follow the SLIP-0039 standard, so other programs can join them too.

Making shares takes randomness from the system, inside the library.
"""

from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from shamir_mnemonic import MnemonicError, Share, combine_mnemonics, generate_mnemonics

from carechain.core.crypto import SEED_SIZE, SigningKey, Suite
from carechain.core.limits import CARD_CHARS, ID_SIZE, RECOVERY_CARDS
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.sdk.wallet import CARD_SECRET_SIZE

_KEY_LABEL: Final = b"carechain/recovery-card-key/1"
_FEWEST: Final = 2
_PRINTABLE: Final = range(32, 127)


class CardsCode(RejectionCode):
    """Why recovery cards cannot be made or joined; no sentence repeats a word that is on a card."""

    NUMBERS_IMPOSSIBLE = 1151, "Make 2 to 16 cards, of which at least 2 and at most all are needed."
    PASSPHRASE_UNUSABLE = (
        1152,
        "A passphrase for cards has printable ASCII characters only, so that all programs agree.",
    )
    CARD_MISREAD = 1153, "A card has a word that is none, or a wrong checksum. Compare it with the paper."
    CARDS_DIFFER = 1154, "The cards are not of one set. Sort them, and use those of the newest set."
    TOO_FEW_CARDS = 1155, "These are fewer cards than their set needs. Each different card counts once."
    NOT_RECOVERY_CARDS = 1156, "These cards hold another kind of secret. Use the ones made for recovery."


def make_cards(secret: bytes, *, needed: int, cards: int, passphrase: str = "") -> tuple[str, ...]:
    """Share ``secret`` (16 bytes) among so many cards, of which any ``needed`` give it back.

    Two calls give different cards, which do not go together. Raises :class:`~carechain.core.rejection.Rejected`.
    """
    if len(secret) != CARD_SECRET_SIZE:
        raise ValueError(f"a recovery secret is {CARD_SECRET_SIZE} bytes")
    require(_FEWEST <= needed <= cards <= RECOVERY_CARDS, CardsCode.NUMBERS_IMPOSSIBLE)
    (made,) = generate_mnemonics(1, [(needed, cards)], secret, _passphrase(passphrase))
    return tuple(made)


def join_cards(cards: Sequence[str], *, passphrase: str = "") -> bytes:
    """The secret that these cards share; raises :class:`~carechain.core.rejection.Rejected`.

    A wrong passphrase is not noticed: it gives another secret, by the standard's design. The ledger refuses that one.
    """
    shares = {words: _read(words) for words in (" ".join(card.lower().split()) for card in cards)}
    _require_set(list(shares.values()))
    needed = next(iter(shares.values())).member_threshold
    require(len(shares) >= needed, CardsCode.TOO_FEW_CARDS)
    try:
        secret = combine_mnemonics(list(shares)[:needed], _passphrase(passphrase))
    except (MnemonicError, ValueError):
        # The library's own sentences repeat the first words of a card.
        raise Rejected(CardsCode.CARDS_DIFFER) from None
    require(len(secret) == CARD_SECRET_SIZE, CardsCode.NOT_RECOVERY_CARDS)
    return secret


def card_key(secret: bytes, *, chain_id: str, pseudonym: bytes, suite: Suite = Suite.ED25519) -> SigningKey:
    """The key that the cards sign with for one pseudonym.

    ``HKDF-SHA256(secret, info = label ‖ suite ‖ chain id ‖ pseudonym)`` gives its 32-byte seed (RFC 5869).
    """
    if len(secret) != CARD_SECRET_SIZE or len(pseudonym) != ID_SIZE:
        raise ValueError(f"a recovery secret is {CARD_SECRET_SIZE} bytes, a pseudonym {ID_SIZE}")
    info = _KEY_LABEL + bytes([suite]) + chain_id.encode() + pseudonym
    return SigningKey(suite=suite, seed=HKDF(algorithm=SHA256(), length=SEED_SIZE, salt=None, info=info).derive(secret))


def _read(words: str) -> Share:
    require(len(words) <= CARD_CHARS, CardsCode.CARD_MISREAD)
    try:
        return Share.from_mnemonic(words)
    except (MnemonicError, ValueError):
        raise Rejected(CardsCode.CARD_MISREAD) from None


def _require_set(shares: Sequence[Share]) -> None:
    require(shares, CardsCode.TOO_FEW_CARDS)
    first = shares[0]
    same = all((one.identifier, one.member_threshold) == (first.identifier, first.member_threshold) for one in shares)
    require(same and len({one.index for one in shares}) == len(shares), CardsCode.CARDS_DIFFER)
    require(first.group_threshold == 1, CardsCode.NOT_RECOVERY_CARDS)


def _passphrase(text: str) -> bytes:
    require(all(ord(symbol) in _PRINTABLE for symbol in text), CardsCode.PASSPHRASE_UNUSABLE)
    return text.encode("ascii")
