"""Canonical bytes: positional msgpack in one form only.

msgspec alone accepts several encodings of one value (a long-form integer, a string key order). What a
signature or a hash covers must have exactly one, so strict decoding re-encodes and compares.
"""

from typing import TypeVar

import msgspec

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class Malformed(Exception):  # noqa: N818 - a description of the bytes, not of the program
    """The bytes are not the canonical encoding of the expected type."""


def encode(value: object) -> bytes:
    """The canonical encoding of a struct, tuple, list, integer, bytes, string, bool or None."""
    return _encoder.encode(value)


def decode_strict(decoder: "msgspec.msgpack.Decoder[T]", data: bytes) -> T:
    """Decode ``data`` and refuse anything that would not encode back to the same bytes.

    Raises :class:`Malformed`; the message never repeats the input.
    """
    try:
        value = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise Malformed(type(error).__name__) from None
    if _encoder.encode(value) != data:
        raise Malformed("not the canonical encoding")
    return value
