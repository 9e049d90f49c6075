"""DER, the one encoding certificates are read and written in (ITU-T X.690): definite lengths in their shortest form."""

from typing import Final

SEQUENCE: Final = 0x30
SET: Final = 0x31
BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
TRUE: Final = b"\xff"

_SHORT_LENGTH: Final = 0x80
_ONE_BYTE_LENGTH: Final = 0x81
_TWO_BYTE_LENGTH: Final = 0x82
_SIGN_BIT: Final = 0x80


class BadDer(Exception):  # noqa: N818 - names what is wrong with the argument
    """The bytes are not DER, or not the values that were expected."""


class Reader:
    """Reads values one after another: definite lengths in their shortest form, nothing left over."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def more(self) -> bool:
        """Whether another value follows."""
        return self._at < len(self._data)

    def peek(self) -> int:
        """The tag of the next value, or -1 at the end."""
        return self._data[self._at] if self.more() else -1

    def take(self, tag: int) -> bytes:
        """The content of the next value, which must have ``tag``; raises :class:`BadDer`."""
        start, end = self._span(tag)
        self._at = end
        return self._data[start:end]

    def whole(self, tag: int) -> bytes:
        """The next value with its tag and length; raises :class:`BadDer`."""
        begin = self._at
        _, end = self._span(tag)
        self._at = end
        return self._data[begin:end]

    def finish(self) -> None:
        """Refuse bytes after the last value; raises :class:`BadDer`."""
        _check(not self.more())

    def _span(self, tag: int) -> tuple[int, int]:
        data, at = self._data, self._at
        _check(at + 2 <= len(data) and data[at] == tag)
        first = data[at + 1]
        extra = {_ONE_BYTE_LENGTH: 1, _TWO_BYTE_LENGTH: 2}.get(first, 0)
        _check(first < _SHORT_LENGTH or extra > 0)
        start = at + 2 + extra
        size = int.from_bytes(data[at + 2 : start], "big") if extra else first
        smallest = (0, _SHORT_LENGTH, 0x100)[extra]
        _check(size >= smallest and start + size <= len(data))
        return start, start + size


def positive(content: bytes, limit_bytes: int) -> int:
    """A positive INTEGER's value from its content, in its shortest form (section 8.3); raises :class:`BadDer`."""
    padded = len(content) > 1 and content[0] == 0 and content[1] < _SIGN_BIT
    _check(0 < len(content) <= limit_bytes and not padded)
    value = int.from_bytes(content, "big", signed=True)
    _check(value > 0)
    return value


def value_of(tag: int, *parts: bytes) -> bytes:
    """One value with this content; raises ``ValueError`` above 65,535 bytes, which no certificate has."""
    content = b"".join(parts)
    size = len(content)
    if size < _SHORT_LENGTH:
        return bytes([tag, size]) + content
    if size <= 0xFF:  # noqa: PLR2004 - one byte
        return bytes([tag, _ONE_BYTE_LENGTH, size]) + content
    if size > 0xFFFF:  # noqa: PLR2004 - two bytes
        raise ValueError("too long for a certificate")
    return bytes([tag, _TWO_BYTE_LENGTH]) + size.to_bytes(2, "big") + content


def integer(value: int) -> bytes:
    """A positive INTEGER in its shortest form."""
    return value_of(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid_content(dotted: str) -> bytes:
    """The content of an object identifier (section 8.19)."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    encoded = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(groups))
    return bytes(encoded)


def _check(condition: object) -> None:
    if not condition:
        raise BadDer
