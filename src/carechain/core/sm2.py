"""SM2 signatures over SM3 (GB/T 32918.1, .2 and .5; GB/T 32905), as bytes in and bytes out.

The arithmetic with secrets is GmSSL's. What the standard leaves to an implementation is settled here, before anything
is computed, because every node must judge alike: one encoding of key and signature, the range of every number, and the
point at infinity, which GmSSL would let pass. The signer's id is the standard's default for everybody, since the key's
owner is named on the ledger and not in the signature. Checking needs no secret: GmSSL does it four times as fast, and
this file where there is no GmSSL, so that a node without it still judges what it is shown.

A signature cannot be turned into a second valid one by anybody but its signer: (r, s') with s' other than s holds only
for s' = -s - 2rd/(1 + d), from which the secret d would follow; another r needs another hash. So there is no "low s".
"""

from functools import lru_cache
from types import ModuleType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SM3, Hash

from carechain.core.limits import SM2_POINTS_REMEMBERED

try:
    import gmssl_pyx
except ImportError:
    # There are no packages for every kind of processor, and only networks founded with the SM suite sign with it.
    _gmssl: ModuleType | None = None
else:
    _gmssl = gmssl_pyx

ORDER: Final = 0xFFFFFFFE_FFFFFFFF_FFFFFFFF_FFFFFFFF_7203DF6B_21C6052B_53BBF409_39D54123
_FIELD: Final = 0xFFFFFFFE_FFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_00000000_FFFFFFFF_FFFFFFFF
_A: Final = _FIELD - 3
_B: Final = 0x28E9FA9E_9D9F5E34_4D5A9E4B_CF6509A7_F39789F5_15AB8F92_DDBCBD41_4D940E93
_BASE_X: Final = 0x32C4AE2C_1F198119_5F990446_6A39C994_8FE30BBF_F2660BE1_715A4589_334C74C7
_BASE_Y: Final = 0xBC3736A2_F4F6779C_59BDCEE3_6B692153_D0A9877C_C62A4740_02DF32E5_2139F0A0
_SIGNER_ID: Final = b"1234567812345678"
_BITS: Final = 256
_EVEN, _ODD = 2, 3


class Sm2Unavailable(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """Nothing can be signed with SM2 here: the package gmssl-pyx is not installed."""

    def __init__(self) -> None:
        super().__init__("SM2 keys need the package gmssl-pyx, which is not installed on this computer")


Point = tuple[int, int]
Jacobian = tuple[int, int, int]
_BASE: Final[Point] = (_BASE_X, _BASE_Y)


def secret_of(seed: bytes) -> bytes:
    """A private key, 1 to order - 2 as the standard wants it, from 32 uniform bytes."""
    return (int.from_bytes(seed, "big") % (ORDER - 2) + 1).to_bytes(32, "big")


def public_key_of(secret: bytes) -> bytes:
    """The 33-byte compressed point that belongs to a private key.

    The library makes two signatures with the secret, and the key is worked out from them: of all the numbers that this
    file computes with none is secret, so its timing tells nothing. The first leaves two keys open, the second one.
    Raises :class:`Sm2Unavailable`.
    """
    signed = [_signed_plainly(secret, digest) for digest in (_sm3(b"first"), _sm3(b"second"))]
    (r, s, x), (r2, s2, x2) = signed
    inverse = pow(r + s, -1, ORDER)
    for form in (_EVEN, _ODD):
        y = _root(x, form)
        found = None if y is None else _combine(-s * inverse % ORDER, (x, y), inverse)
        met = None if found is None else _combine(s2, found, (r2 + s2) % ORDER)
        if found is not None and met is not None and met[0] % ORDER == x2:
            return _short(_octets(found))
    raise ArithmeticError("no key fits two signatures that were just made")


def _signed_plainly(secret: bytes, digest: bytes) -> tuple[int, int, int]:
    """The pair (r, s) over a bare digest, and the x, modulo the order, of the point sG + (r + s)P that they name."""
    r, s = decode_dss_signature(_library().sm2_sign_sm3_digest(secret, digest))
    return r, s, (r - int.from_bytes(digest, "big")) % ORDER


def compressed(point: bytes) -> bytes:
    """The 33-byte form of the 64 bytes x ‖ y; raises ``ValueError`` where they are no key."""
    short = _short(point)
    if _decompress(short) != point:
        raise ValueError("not a point of the curve")
    return short


def uncompressed(public_key: bytes) -> bytes:
    """The 64 bytes x ‖ y of a 33-byte key; raises ``ValueError`` where it is none."""
    return _decompress(public_key)


def sign(secret: bytes, public_key: bytes, message: bytes) -> bytes:
    """A 64-byte signature r ‖ s; the library draws a random number from the operating system for each.

    Raises :class:`Sm2Unavailable`.
    """
    _, owner = _owner(public_key)
    r, s = decode_dss_signature(_library().sm2_sign_sm3_digest(secret, _sm3(owner + message)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a 64-byte signature is this 33-byte key's over ``message``; False for whatever is not one."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < ORDER and 0 < s < ORDER) or r + s == ORDER:
        return False
    try:
        point, owner = _owner(public_key)
    except ValueError:
        return False
    digest = _sm3(owner + message)
    if (r - int.from_bytes(digest, "big")) % ORDER == 0:
        # The point sG + (r + s)P is the one at infinity, as a signer can arrange, or one that nobody meets by chance.
        return False
    if _gmssl is not None:
        return bool(_gmssl.sm2_verify_sm3_digest(point, digest, encode_dss_signature(r, s)))
    met = _combine(s, (int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")), (r + s) % ORDER)
    return met is not None and (int.from_bytes(digest, "big") + met[0] - r) % ORDER == 0


def _library() -> Any:  # noqa: ANN401 - a module
    if _gmssl is None:
        raise Sm2Unavailable
    return _gmssl


@lru_cache(maxsize=SM2_POINTS_REMEMBERED)
def _owner(public_key: bytes) -> tuple[bytes, bytes]:
    """The point as 64 bytes, and Z: the hash of signer id, curve and key that stands before every message."""
    point = _decompress(public_key)
    curve = b"".join(one.to_bytes(32, "big") for one in (_A, _B, _BASE_X, _BASE_Y))
    return point, _sm3((len(_SIGNER_ID) * 8).to_bytes(2, "big") + _SIGNER_ID + curve + point)


def _decompress(public_key: bytes) -> bytes:
    """The 64 bytes of a compressed point; raises ``ValueError`` for a key in another form or that binds nobody.

    The key -G belongs to the secret that the standard excludes: with it every s would do.
    """
    form, x = public_key[0], int.from_bytes(public_key[1:], "big")
    if len(public_key) != 1 + 32 or form not in (_EVEN, _ODD) or x >= _FIELD:
        raise ValueError("not a compressed point")
    y = _root(x, form)
    if y is None or (x, y) == (_BASE_X, _FIELD - _BASE_Y):
        raise ValueError("not a point of the curve, or one that nobody may be bound to")
    return _octets((x, y))


def _root(x: int, form: int) -> int | None:
    """The y of this parity with y² = x³ + ax + b, or None where there is none. The order is odd, so y is never 0."""
    square = (x * x * x + _A * x + _B) % _FIELD
    y = pow(square, (_FIELD + 1) // 4, _FIELD)
    if y * y % _FIELD != square:
        return None
    return y if y & 1 == form & 1 else _FIELD - y


def _short(point: bytes) -> bytes:
    return bytes([_ODD if point[-1] & 1 else _EVEN]) + point[:32]


def _octets(point: Point) -> bytes:
    return point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def _sm3(data: bytes) -> bytes:
    hasher = Hash(SM3())
    hasher.update(data)
    return hasher.finalize()


# --- the group, for public values only ------------------------------------------------------------------
def _combine(base_factor: int, point: Point, factor: int) -> Point | None:
    """``base_factor``·G + ``factor``·point in one walk over the bits; None is the point at infinity."""
    both = _affine(_add((*_BASE, 1), point))
    if both is None:
        return None
    table = {(1, 0): _BASE, (0, 1): point, (1, 1): both}
    total: Jacobian = (1, 1, 0)
    for bit in reversed(range(_BITS)):
        total = _double(total)
        chosen = table.get((base_factor >> bit & 1, factor >> bit & 1))
        if chosen is not None:
            total = _add(total, chosen)
    return _affine(total)


def _double(point: Jacobian) -> Jacobian:
    """Doubling on a curve with a = -3, where (X, Y, Z) stands for (X/Z², Y/Z³)."""
    x, y, z = point
    delta, gamma = z * z % _FIELD, y * y % _FIELD
    beta, alpha = x * gamma % _FIELD, 3 * (x - delta) * (x + delta) % _FIELD
    doubled_x = (alpha * alpha - 8 * beta) % _FIELD
    return doubled_x, (alpha * (4 * beta - doubled_x) - 8 * gamma * gamma) % _FIELD, 2 * y * z % _FIELD


def _add(one: Jacobian, other: Point) -> Jacobian:
    x, y, z = one
    if not z:
        return (*other, 1)
    square = z * z % _FIELD
    across, up = (other[0] * square - x) % _FIELD, (other[1] * square * z - y) % _FIELD
    if not across:
        return (1, 1, 0) if up else _double(one)
    squared = across * across % _FIELD
    cubed, moved = squared * across % _FIELD, x * squared % _FIELD
    added_x = (up * up - cubed - 2 * moved) % _FIELD
    return added_x, (up * (moved - added_x) - y * cubed) % _FIELD, z * across % _FIELD


def _affine(point: Jacobian) -> Point | None:
    x, y, z = point
    if not z:
        return None
    inverse = pow(z, -1, _FIELD)
    return x * inverse * inverse % _FIELD, y * inverse * inverse * inverse % _FIELD
