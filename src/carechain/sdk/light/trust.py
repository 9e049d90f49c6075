"""The trust file: the last header that a client believed, for the next time (LED-10).

JSON with one object: ``chain_id``, ``height``, ``hash`` (hexadecimal, for people to compare over the telephone) and
``block`` (base64 of the light block). It holds nothing secret, but whoever can change it decides what is believed: keep
it as safe from writing as a key.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.core.hashing import HASH_SIZE
from carechain.core.ids import U63
from carechain.core.limits import CHAIN_ID_CHARS, LIGHT_BLOCK_BYTES
from carechain.sdk.light.header import decode_block, encode_block
from carechain.sdk.light.verify import TrustedHeader, pin
from carechain.sdk.proofs import NotProven

TRUST_FILE_BYTES: Final = 2 * LIGHT_BLOCK_BYTES
_HEX: Final = f"^[0-9a-f]{{{2 * HASH_SIZE}}}\\Z"


class _TrustFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    chain_id: Annotated[str, Meta(max_length=CHAIN_ID_CHARS)]
    height: U63
    hash: Annotated[str, Meta(pattern=_HEX)]
    block: Annotated[bytes, Meta(max_length=LIGHT_BLOCK_BYTES)]


def write_trust(trusted: TrustedHeader) -> bytes:
    """The trust file's bytes."""
    content = _TrustFile(
        chain_id=trusted.chain_id,
        height=trusted.height,
        hash=trusted.hash.hex(),
        block=encode_block(trusted.block),
    )
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def read_trust(data: bytes, *, chain_id: str) -> TrustedHeader:
    """The inverse; raises :class:`NotProven` for anything that is not a trust file of this chain."""
    if len(data) > TRUST_FILE_BYTES:
        raise NotProven("the trust file is too large")
    try:
        content = msgspec.json.decode(data, type=_TrustFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NotProven("the trust file is malformed") from None
    if content.chain_id != chain_id:
        raise NotProven("the trust file is of another network")
    block = decode_block(content.block)
    return pin(block, chain_id=chain_id, height=content.height, expected_hash=bytes.fromhex(content.hash))
