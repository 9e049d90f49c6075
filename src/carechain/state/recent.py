"""A bounded memory of what was read lately."""

from typing import Final

_OVERHEAD_BYTES: Final = 160
"""What an entry costs besides its bytes: dictionary slot, object headers, key."""


class Recent:
    """Two generations of entries: what is used moves to the young one, and a full young one becomes the old.

    That costs one dictionary look-up per hit, where an exact order of use costs several. ``room_bytes`` bounds
    each generation.
    """

    __slots__ = ("_free", "_old", "_room", "_young")

    def __init__(self, room_bytes: int) -> None:
        """Start empty."""
        self._room = room_bytes
        self._free = room_bytes
        self._young: dict[object, bytes | None] = {}
        self._old: dict[object, bytes | None] = {}

    def get(self, key: object, default: bytes | None) -> bytes | None:
        """The remembered value, or ``default``."""
        young = self._young
        if key in young:
            return young[key]
        old = self._old
        if key in old:
            value = old[key]
            self.put(key, value)
            return value
        return default

    def put(self, key: object, value: bytes | None) -> None:
        """Remember ``value``; None is a value too: known to be absent."""
        self._free -= _OVERHEAD_BYTES + (len(value) if value else 0)
        if self._free < 0:
            self._old, self._young = self._young, {}
            self._free = self._room
        self._young[key] = value
