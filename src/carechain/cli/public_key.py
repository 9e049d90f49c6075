"""The public half of a staff key as a file: what its owner sends to the organisation that enrols it."""

from pathlib import Path

import msgspec
from msgspec import Struct

from carechain.cli.output import CannotRun
from carechain.core.crypto import PUBLIC_KEY_SIZE
from carechain.core.ids import U8, party_id
from carechain.core.party import HpkeKey, PublicKey
from carechain.sdk.identity import Identity

_FILE_BYTES = 4096


class PublicHalf(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signature suite, public key and HPKE key; JSON with byte strings in base64. Holds no secret and no name."""

    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey

    @property
    def party(self) -> bytes:
        """The party id that follows from the key."""
        return party_id(self.suite, self.public_key)


def public_half(identity: Identity) -> PublicHalf:
    """The public half of an identity."""
    return PublicHalf(
        suite=identity.suite,
        public_key=identity.signing_key().public_key,
        hpke_key=identity.hpke_key().public_key,
    )


def write_public(path: Path, identity: Identity) -> None:
    """Write the public half of an identity."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(public_half(identity)), indent=2) + b"\n")


def read_public(path: Path) -> PublicHalf:
    """Read a public half; raises :class:`CannotRun` when the file is not one."""
    with path.open("rb") as file:
        data = file.read(_FILE_BYTES)
    try:
        half = msgspec.json.decode(data, type=PublicHalf)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CannotRun(f"{path} is not the public half of a key: make it with `carechain keys new --public`") from None
    if PUBLIC_KEY_SIZE.get(half.suite) != len(half.public_key):
        raise CannotRun(f"{path} holds a key that does not fit its signature suite")
    return half
