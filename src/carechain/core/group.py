"""The group ristretto255 (RFC 9496), and the only file that reaches for libsodium (through ``rbcl``).

Scalars are 32 bytes, little endian, below the group order ``ORDER``. Points are 32 bytes in the one encoding that
RFC 9496 allows; the identity is 32 zero bytes. The group has prime order, so there are no small subgroups, and a
product is the identity only where the scalar is zero or the point is the identity.

Who checks what: bytes from outside go through :func:`require_scalar` and :func:`require_point` before they are used.
:func:`mul` and :func:`base_mul` never take or give the identity. A sum may be the identity, with points that somebody
chose on purpose: :func:`add`, :func:`sub` and :func:`weighted_sum` take and give it like any other element, and whoever
must not go on with it compares with ``IDENTITY``.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha512
from typing import Annotated, Final

import rbcl
from msgspec import Meta

SCALAR_SIZE: Final = 32
POINT_SIZE: Final = 32
WIDE_SIZE: Final = 64
_TOP_BIT: Final = 0x80
ORDER: Final = 2**252 + 27742317777372353535851937790883648493

Scalar = Annotated[bytes, Meta(min_length=SCALAR_SIZE, max_length=SCALAR_SIZE)]
"""On the wire: the right length, nothing more. :func:`require_scalar` says whether it is one."""
Point = Annotated[bytes, Meta(min_length=POINT_SIZE, max_length=POINT_SIZE)]
"""On the wire: the right length, nothing more. :func:`require_point` says whether it is one."""

ZERO: Final = bytes(SCALAR_SIZE)
ONE: Final = (1).to_bytes(SCALAR_SIZE, "little")
IDENTITY: Final = bytes(POINT_SIZE)


class BadElement(Exception):  # noqa: N818 - names what is wrong with the argument
    """Not a canonical scalar, not the encoding of a point, or the identity where it has no business."""


# --- what comes from outside ------------------------------------------------------------------------------


def require_scalar(data: bytes, *, nonzero: bool = False) -> bytes:
    """``data`` if it is the encoding of a scalar; raises :class:`BadElement`. Zero passes unless ``nonzero``."""
    if len(data) != SCALAR_SIZE or int.from_bytes(data, "little") >= ORDER or (nonzero and data == ZERO):
        raise BadElement
    return data


def require_point(data: bytes) -> bytes:
    """``data`` if it is the encoding of a point other than the identity; raises :class:`BadElement`."""
    if data == IDENTITY:
        raise BadElement
    return _require_encoding(data)


def _require_encoding(data: bytes) -> bytes:
    if not _top_bit_clear(data) or not rbcl.crypto_core_ristretto255_is_valid_point(data):
        raise BadElement
    return data


def _top_bit_clear(*encodings: bytes) -> bool:
    """Whether each has the length of a point and no highest bit.

    RFC 9496 section 4.3.1 refuses that bit, and the release of libsodium that the library brings ignores it: every
    element would have a second spelling, and the identity one that is not ``IDENTITY``.
    """
    return all(len(one) == POINT_SIZE and one[-1] < _TOP_BIT for one in encodings)


def same(a: bytes, b: bytes) -> bool:
    """Whether two encodings are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(a, b)


# --- hashing ----------------------------------------------------------------------------------------------


def wide_hash(tag: str, *parts: bytes) -> bytes:
    """SHA-512 over a tag and length-prefixed parts: 64 bytes, and no two different inputs share one encoding."""
    hasher = sha512(len(tag).to_bytes(1, "big") + tag.encode("ascii"))
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return hasher.digest()


def hash_to_scalar(tag: str, *parts: bytes) -> bytes:
    """A scalar from a hash: 512 bits reduced, so that every scalar is as likely as any other."""
    return scalar_from_wide(wide_hash(tag, *parts))


def hash_to_point(tag: str, *parts: bytes) -> bytes:
    """A point whose logarithm nobody knows: the map of RFC 9496 section 4.3.4 on 64 hashed bytes."""
    return rbcl.crypto_core_ristretto255_from_hash(wide_hash(tag, *parts))


# --- scalars ----------------------------------------------------------------------------------------------


def scalar_from_wide(wide: bytes) -> bytes:
    """64 uniform bytes reduced modulo the order: the bias is below 2**-250."""
    return rbcl.crypto_core_ristretto255_scalar_reduce(wide)


def scalar_from_int(value: int) -> bytes:
    """An integer modulo the order; negative ones too."""
    return (value % ORDER).to_bytes(SCALAR_SIZE, "little")


def scalar_add(a: bytes, b: bytes) -> bytes:
    """``a + b`` modulo the order."""
    return rbcl.crypto_core_ristretto255_scalar_add(a, b)


def scalar_sub(a: bytes, b: bytes) -> bytes:
    """``a - b`` modulo the order."""
    return rbcl.crypto_core_ristretto255_scalar_sub(a, b)


def scalar_mul(a: bytes, b: bytes) -> bytes:
    """``a * b`` modulo the order."""
    return rbcl.crypto_core_ristretto255_scalar_mul(a, b)


def scalar_negate(a: bytes) -> bytes:
    """``-a`` modulo the order."""
    return rbcl.crypto_core_ristretto255_scalar_negate(a)


def scalar_invert(a: bytes) -> bytes:
    """``1 / a`` modulo the order; raises :class:`BadElement` for zero."""
    if a == ZERO:
        raise BadElement
    return rbcl.crypto_core_ristretto255_scalar_invert(a)


# --- points -----------------------------------------------------------------------------------------------


def base_mul(scalar: bytes) -> bytes:
    """``scalar * GENERATOR``; raises :class:`BadElement` for zero."""
    try:
        return rbcl.crypto_scalarmult_ristretto255_base(scalar)
    except (RuntimeError, ValueError):
        raise BadElement from None


def mul(scalar: bytes, point: bytes) -> bytes:
    """``scalar * point``; raises :class:`BadElement` for zero, the identity, and bytes that encode no point."""
    if not _top_bit_clear(point):
        raise BadElement
    try:
        return rbcl.crypto_scalarmult_ristretto255(scalar, point)
    except (RuntimeError, ValueError):
        raise BadElement from None


def add(p: bytes, q: bytes) -> bytes:
    """``p + q``, which may be ``IDENTITY``; raises :class:`BadElement` for bytes that encode no point."""
    if not _top_bit_clear(p, q):
        raise BadElement
    try:
        total = rbcl.crypto_core_ristretto255_add(p, q)
    except ValueError:
        raise BadElement from None
    if total == IDENTITY:  # The library gives the same bytes where an argument encodes no point.
        _require_encoding(p)
        _require_encoding(q)
    return total


def sub(p: bytes, q: bytes) -> bytes:
    """``p - q``, which may be ``IDENTITY``; raises :class:`BadElement` for bytes that encode no point."""
    if not _top_bit_clear(p, q):
        raise BadElement
    try:
        difference = rbcl.crypto_core_ristretto255_sub(p, q)
    except ValueError:
        raise BadElement from None
    if difference == IDENTITY:
        _require_encoding(p)
        _require_encoding(q)
    return difference


def weighted_sum(scalars: Sequence[bytes], points: Sequence[bytes]) -> bytes:
    """The sum of ``scalars[i] * points[i]``, which may be ``IDENTITY``; so may the points, and scalars may be zero.

    Raises ``ValueError`` where there are not as many scalars as points, :class:`BadElement` as :func:`add`.
    """
    total = IDENTITY
    for scalar, point in zip(scalars, points, strict=True):
        if scalar == ZERO or point == IDENTITY:
            continue
        product = point if scalar == ONE else mul(scalar, point)
        total = product if total == IDENTITY else add(total, product)
    return total


GENERATOR: Final = base_mul(ONE)
SECOND: Final = hash_to_point("carechain/second-generator/1")
"""A second generator: nobody knows its logarithm to the base ``GENERATOR``."""
