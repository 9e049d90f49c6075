"""A bounded memory of what was read lately."""

from collections.abc import Callable, Iterable
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


class Fetched(dict[int, bytes]):
    """Fetches what it does not hold: ``fetched[reference]`` costs one dictionary look-up on a hit.

    It is a dictionary, and not an object around one, for that reason: a state read makes half a dozen of these. When
    full it starts over, which costs little because the few nodes near the root are all fetched again at once.
    """

    __slots__ = ("_fetch", "_free", "_room", "_wanted")

    def __init__(self, fetch: Callable[[int], bytes], *, wanted: Callable[[int], bool], room_bytes: int) -> None:
        """Keep what ``wanted`` says is worth it, up to ``room_bytes``."""
        super().__init__()
        self._fetch = fetch
        self._wanted = wanted
        self._room = room_bytes
        self._free = room_bytes

    def __missing__(self, reference: int) -> bytes:
        """Fetch, and keep if wanted."""
        stored = self._fetch(reference)
        if self._wanted(reference):
            self.keep(reference, stored)
        return stored

    def keep(self, reference: int, stored: bytes) -> None:
        """Hold what is at hand already, so that it need not be fetched."""
        self._free -= _OVERHEAD_BYTES + len(stored)
        if self._free < 0:
            self.clear()
            self._free = self._room - _OVERHEAD_BYTES - len(stored)
        self[reference] = stored

    def drop(self, references: Iterable[int]) -> None:
        """Let go of what nobody will ask for again."""
        for reference in references:
            stored = self.pop(reference, None)
            if stored is not None:
                self._free += _OVERHEAD_BYTES + len(stored)
