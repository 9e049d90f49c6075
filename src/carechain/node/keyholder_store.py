"""What a keyholder keeps secret: the seed of a ceremony under way, and its share of the consortium key (KEY-3).

One encrypted file, ``keyholder.json`` among the home's keys, of the format of every key file. Its password is hashed
from the secret of the organisation's first key, which its key file keeps for good: whoever can open the one can open
the other. So the node needs no second password, the file costs nothing to write while a ceremony goes on, and changing
the member key leaves it alone, whether the node runs meanwhile or not.

A seed is durable before anything is sent that follows from it, and gone when its ceremony is over. A share is gone when
the next epoch is on the ledger: fewer than the threshold of shares of one epoch are then worth nothing to a thief.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from carechain.contracts.keyring.schema import CeremonyId, HolderIndex
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.group import Scalar
from carechain.core.hashing import tagged
from carechain.core.ids import U32, U63
from carechain.core.rejection import Rejected
from carechain.sdk.identity import Identity
from carechain.sdk.keyfile import (
    Entropy,
    WalletCode,
    decode_key_file,
    encode_key_file,
    read_bounded,
    write_private_file,
)
from carechain.sealing.quorum.dealing import SEED_SIZE
from carechain.sealing.symmetric import ScryptCost

KEYHOLDER_FILE: Final = "keyholder.json"
_COST: Final = ScryptCost(n=1 << 10)
"""The password is 32 random bytes as hexadecimal digits: there is nothing to guess, so guesses need not be dear."""
_SEEDS: Final = 4
"""One ceremony goes on at a time; a few more may have ended while the node was down."""
_SHARES: Final = 2

Seed = Annotated[bytes, Meta(min_length=SEED_SIZE, max_length=SEED_SIZE)]


class KeyholderFileUnusable(Exception):  # noqa: N818 - names what is wrong with the file
    """The file with the keyholder's share cannot be used; the sentence says what to do."""


class HolderSecret(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A share of the consortium key: the epoch, the holder's number in it, and the scalar. Never printed."""

    epoch: U32
    index: HolderIndex
    scalar: Scalar

    def __repr__(self) -> str:
        return f"HolderSecret(epoch={self.epoch}, index={self.index})"


class _Begun(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    ceremony: CeremonyId
    seed: Seed
    height: U63
    """The block after which the ceremony was seen: a ledger that is behind it, being fetched anew, says nothing."""

    def __repr__(self) -> str:
        return f"_Begun({self.ceremony.hex()})"


class _Kept(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """The content of the file."""

    begun: Annotated[tuple[_Begun, ...], Meta(max_length=_SEEDS)] = ()
    shares: Annotated[tuple[HolderSecret, ...], Meta(max_length=_SHARES)] = ()


_kept = msgspec.msgpack.Decoder(_Kept)


def file_password(identity: Identity) -> str:
    """What the file of this organisation is encrypted under; the same before and after a change of its key."""
    # Before the first change the first key is the present one, and no founding seed is kept apart.
    first = identity.founding_seed[1:] or identity.signing_seed
    return tagged("carechain/keyholder-file/1", first).hex()


class KeyholderStore:
    """The file, read once and written whole at every change. One process at a time: the home is locked."""

    def __init__(self, path: Path, *, password: str, entropy: Entropy, kept: _Kept | None = None) -> None:
        """Use :meth:`open`."""
        self._path = path
        self._password = password
        self._entropy = entropy
        self._kept = kept or _Kept()

    def __repr__(self) -> str:
        return f"KeyholderStore({self._path})"

    @classmethod
    def open(cls, path: Path, *, identity: Identity, entropy: Entropy) -> "KeyholderStore":
        """Read the file; where there is none, the organisation has no share and none is written yet.

        Raises :class:`KeyholderFileUnusable` for a file that is damaged or another organisation's, and ``OSError``.
        """
        password = file_password(identity)
        if not path.is_file():
            return cls(path, password=password, entropy=entropy)
        try:
            kept = _read(path, password)
        except Rejected as refused:
            why = "It is another organisation's." if refused.code is WalletCode.PASSWORD_WRONG else refused.code.reason
            raise KeyholderFileUnusable(
                f"{path}: {why} Without it the organisation has no share until the members vote for keyholders again: "
                "put the right file back, or move this one away and start."
            ) from None
        return cls(path, password=password, entropy=entropy, kept=kept)

    # --- reading ------------------------------------------------------------------------------------------

    def share(self, epoch: int) -> HolderSecret | None:
        """The organisation's share in an epoch, if it is here."""
        return next((one for one in self._kept.shares if one.epoch == epoch), None)

    def seed(self, ceremony: bytes) -> bytes | None:
        """The seed of a ceremony, if it is here."""
        return next((one.seed for one in self._kept.begun if one.ceremony == ceremony), None)

    def begun(self, height: int) -> tuple[bytes, ...]:
        """The ceremonies whose seeds are here and that a ledger at ``height`` knows about."""
        return tuple(one.ceremony for one in self._kept.begun if one.height <= height)

    def has_before(self, epoch: int) -> bool:
        """Whether a share of an earlier epoch is here."""
        return any(one.epoch < epoch for one in self._kept.shares)

    # --- writing: durable on return, raises OSError -------------------------------------------------------

    def begin(self, ceremony: bytes, *, height: int) -> bytes:
        """The seed of a ceremony, made now if there is none; it is durable before anybody sees what follows from it.

        ``height`` is the ledger's when the ceremony was seen.
        """
        known = self.seed(ceremony)
        if known is not None:
            return known
        seed = self._entropy(SEED_SIZE)
        latest = self._kept.begun[1 - _SEEDS :]
        self._write(replace(self._kept, begun=(*latest, _Begun(ceremony=ceremony, seed=seed, height=height))))
        return seed

    def settle(self, ceremony: bytes, share: HolderSecret | None) -> None:
        """Forget the seed of a ceremony that is over, and keep the share that came of it, in one step."""
        begun = tuple(one for one in self._kept.begun if one.ceremony != ceremony)
        shares = self._kept.shares
        if share is not None:
            shares = (*(one for one in shares if one.epoch != share.epoch), share)[-_SHARES:]
        self._write(replace(self._kept, begun=begun, shares=shares))

    def forget_before(self, epoch: int) -> None:
        """Forget the shares of earlier epochs: call it once ``epoch`` is in force on the ledger."""
        self._write(replace(self._kept, shares=tuple(one for one in self._kept.shares if one.epoch >= epoch)))

    def _write(self, kept: _Kept) -> None:
        _write(self._path, kept, self._password, self._entropy)
        self._kept = kept


def _read(path: Path, password: str) -> _Kept:
    try:
        return decode_strict(_kept, decode_key_file(read_bounded(path), kind="keyholder", password=password))
    except Malformed:
        raise Rejected(WalletCode.FILE_DAMAGED) from None


def _write(path: Path, kept: _Kept, password: str, entropy: Entropy) -> None:
    data = encode_key_file(encode(kept), kind="keyholder", password=password, entropy=entropy, cost=_COST)
    write_private_file(path, data, replace=True)
