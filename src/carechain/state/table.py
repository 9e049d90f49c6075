"""Typed tables: rows of one struct under fixed-width keys, each table in its own part of the key space.

A key is the table's prefix byte followed by its parts, each of a fixed width, so keys of one table sort by
their parts and none is a prefix of another. Numbers are big-endian, so they sort as numbers.
"""

import struct
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar, overload

import msgspec

from carechain.core.codec import Malformed
from carechain.core.limits import STATE_KEY_BYTES
from carechain.core.message import Row
from carechain.state.overlay import Reader, Writer

RowT = TypeVar("RowT", bound=Row)
Part = bytes | int
_NUMBER_WIDTH: Final = 8
"""A part of at most this many bytes is handed back as a number, a longer one as bytes."""
_NUMBERS: Final = MappingProxyType({1: "B", 2: "H", 4: "I", 8: "Q"})
"""The widths a number may have in a key, and how ``struct`` calls them."""
_MAX_PREFIX: Final = 0xFF

_encode = msgspec.msgpack.Encoder().encode


class TableSpec(Generic[RowT]):
    """The name, place, key layout and row type of one table; immutable, and registered nowhere by itself.

    ``key`` lists the widths of the key's parts in bytes; ``prefix`` is the table's one-byte place in the key
    space, unique in ``chain/routing.py``; ``note`` says in a sentence what a row is, for the reference.
    """

    __slots__ = ("_decode", "_head", "_parts", "_plain", "key", "name", "note", "prefix", "row", "size_bytes")

    def __init__(self, *, name: str, prefix: int, key: tuple[int, ...], row: type[RowT], note: str) -> None:
        """Raises ``ValueError`` for a layout that cannot be a key."""
        possible = all(width in _NUMBERS or width > _NUMBER_WIDTH for width in key)
        if not 0 <= prefix <= _MAX_PREFIX or not possible or 1 + sum(key) > STATE_KEY_BYTES:
            raise ValueError(f"table {name}: impossible key layout")
        set_once = super().__setattr__
        set_once("name", name)
        set_once("prefix", prefix)
        set_once("key", key)
        set_once("row", row)
        set_once("note", note)
        set_once("size_bytes", 1 + sum(key))
        set_once("_head", bytes([prefix]))
        set_once("_parts", struct.Struct(">x" + "".join(_layout_of(width) for width in key)).unpack)
        set_once("_plain", all(width > _NUMBER_WIDTH for width in key))
        set_once("_decode", msgspec.msgpack.Decoder(row).decode)

    name: str
    prefix: int
    key: tuple[int, ...]
    row: type[RowT]
    note: str
    size_bytes: int
    _head: bytes
    _parts: Callable[[bytes], tuple[Part, ...]]
    _plain: bool
    _decode: Any

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a table specification does not change: {name}")

    def __repr__(self) -> str:
        return f"TableSpec({self.name}, prefix={self.prefix:#04x}, key={self.key})"

    @overload
    def bind(self, state: Writer) -> "Table[RowT]": ...
    @overload
    def bind(self, state: Reader) -> "ReadTable[RowT]": ...
    def bind(self, state: Reader) -> "ReadTable[RowT]":
        """The table over an overlay (read and write) or over a committed reader (read only)."""
        return Table(self, state) if hasattr(state, "put") else ReadTable(self, state)

    def key_of(self, *parts: Part) -> bytes:
        """The raw state key of a row; a wrong number or width of parts is a bug (``TypeError``/``ValueError``)."""
        widths = self.key
        if len(parts) != len(widths):
            raise TypeError(f"table {self.name}: a key has {len(widths)} parts, not {len(parts)}")
        if self._plain:
            # The common case, written out because every read of every contract passes here.
            if len(widths) == 1 and len(parts[0]) == widths[0]:  # type: ignore[arg-type]
                return self._head + parts[0]  # type: ignore[operator]
            if tuple(map(len, parts)) == widths:  # type: ignore[arg-type]
                return self._head + b"".join(parts)  # type: ignore[arg-type]
        return self.prefix_of(parts)

    def prefix_of(self, parts: tuple[Part, ...]) -> bytes:
        """The raw prefix shared by all rows whose leading key parts are ``parts``."""
        key = self._head
        widths = self.key
        if len(parts) > len(widths):
            raise TypeError(f"table {self.name}: a key has {len(widths)} parts, not {len(parts)}")
        for width, part in zip(widths, parts, strict=False):
            if isinstance(part, int):
                if part < 0 or part >> 8 * width:
                    raise ValueError(f"table {self.name}: {part} does not fit {width} bytes")
                key += part.to_bytes(width, "big")
            elif len(part) == width:
                key += part
            else:
                raise ValueError(f"table {self.name}: {len(part)} bytes where {width} belong")
        return key

    def parts_of(self, key: bytes) -> tuple[Part, ...]:
        """The parts of a raw key: numbers for parts of at most 8 bytes, bytes for longer ones.

        Raises ``ValueError`` when ``key`` is not a key of this table.
        """
        if len(key) != self.size_bytes or key[0] != self.prefix:
            raise ValueError(f"not a key of table {self.name}")
        return self._parts(key)

    def decode(self, value: bytes) -> RowT:
        """The row stored as ``value``; raises :class:`Malformed` when it is none, which means a damaged store."""
        try:
            row: RowT = self._decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Malformed(f"table {self.name}: {type(error).__name__}") from None
        return row

    def describe(self, key: bytes) -> str:
        """Name a raw key for people: ``consent.grants[ab12cd34…, 7]``; says so when it is not of this table."""
        try:
            parts = self.parts_of(key)
        except ValueError:
            return f"{self.name}[not a key: {key.hex()}]"
        return f"{self.name}[{', '.join(_shown(part) for part in parts)}]"


def _layout_of(width: int) -> str:
    return _NUMBERS.get(width) or f"{width}s"


def _shown(part: Part) -> str:
    if isinstance(part, int):
        return str(part)
    text = part.hex()
    return text if len(text) <= 2 * _NUMBER_WIDTH else f"{text[: 2 * _NUMBER_WIDTH]}…"


class ReadTable(Generic[RowT]):
    """A table one can read."""

    __slots__ = ("_spec", "_state")

    def __init__(self, spec: TableSpec[RowT], state: Reader) -> None:
        """Use :meth:`TableSpec.bind`."""
        self._spec = spec
        self._state = state

    @property
    def spec(self) -> TableSpec[RowT]:
        """The table's specification."""
        return self._spec

    def get(self, *parts: Part) -> RowT | None:
        """The row under the key ``parts``, or None."""
        spec = self._spec
        value = self._state.get(spec.key_of(*parts))
        return None if value is None else spec.decode(value)

    def has(self, *parts: Part) -> bool:
        """Whether there is a row under the key ``parts``."""
        return self._state.get(self._spec.key_of(*parts)) is not None

    def scan(
        self, *leading: Part, after: tuple[Part, ...] | None = None, limit: int | None = None
    ) -> Iterator[tuple[tuple[Any, ...], RowT]]:
        """Rows whose key starts with the ``leading`` parts, in key order, as (all key parts, row).

        ``after`` is a whole key of the table: only rows above it are returned, which is how pages continue.
        Parts of at most 8 bytes come back as numbers, longer ones as bytes.
        """
        spec = self._spec
        edge = None if after is None else spec.key_of(*after)
        for key, value in self._state.scan(spec.prefix_of(leading), edge, limit):
            yield spec.parts_of(key), spec.decode(value)


class Table(ReadTable[RowT]):
    """A table one can also write; bound to an overlay only."""

    __slots__ = ()

    _state: Writer

    def put(self, *parts: Part, row: RowT) -> None:
        """Set the row under the key ``parts``."""
        self._state.put(self._spec.key_of(*parts), _encode(row))

    def delete(self, *parts: Part) -> None:
        """Remove the row under the key ``parts``; removing what is not there is allowed."""
        self._state.delete(self._spec.key_of(*parts))
