"""What a stored resource looks like when it is served: its bytes, with the server's id and meta set into them.

A resource that is parsed and written again has other bytes: 72.50 becomes 72.5. So nothing is parsed here beyond
finding where ``id`` and ``meta`` stand; every other byte is as it was received, and can be checked against the anchor
by asking for the stored bytes.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from carechain.charts.versions import Stored

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEY: Final = re.compile(rb'[\s,]*"(?:[^"\\]|\\.)*"\s*:\s*')
_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE: Final = b" \t\r\n"


class _Span(Struct, frozen=True):
    """Where a member's value stands: from its first byte to behind its last."""

    start: int
    end: int


def instant_of(updated_us: int) -> str:
    """A moment in Unix microseconds as a FHIR instant, to the millisecond, in UTC."""
    moment = _EPOCH + timedelta(microseconds=updated_us)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def served(stored: Stored) -> bytes:
    """The resource's bytes with ``id``, ``meta.versionId`` and ``meta.lastUpdated`` as the server has them."""
    ours = {
        "versionId": f'"{stored.version}"'.encode(),
        "lastUpdated": f'"{instant_of(stored.updated_us)}"'.encode(),
    }
    members = _members(stored.body, {"id", "meta"})
    meta = members.get("meta")
    given = stored.body[meta.start : meta.end] if meta is not None else b"{}"
    if not given.startswith(b"{"):
        # Not an object, so nothing that FHIR knows: what was stored before meta was checked.
        given = b"{}"
    return _with(stored.body, {"id": f'"{stored.resource_id}"'.encode(), "meta": _with(given, ours)}, members)


def _with(text: bytes, values: dict[str, bytes], members: dict[str, _Span] | None = None) -> bytes:
    """A JSON object's text with some members' values replaced; those it does not have come first."""
    found = _members(text, set(values)) if members is None else members
    new = b",".join(b'"%s":%s' % (name.encode(), value) for name, value in values.items() if name not in found)
    opened = text.index(b"{") + 1
    # An object that was empty must not end in a comma.
    comma = b"," if new and not text[opened:].lstrip(_SPACE).startswith(b"}") else b""
    parts, position = [text[:opened], new, comma], opened
    for name, span in sorted(found.items(), key=lambda one: one[1].start):
        parts += (text[position : span.start], values[name])
        position = span.end
    parts.append(text[position:])
    return b"".join(parts)


def _members(text: bytes, wanted: set[str]) -> dict[str, _Span]:
    """Where the values of an object's own members stand, as far as they are wanted and there.

    The decoder says which members there are and how long each value is, in their order; so only the keys between them
    have to be read over.
    """
    values = _decoder.decode(text)
    found: dict[str, _Span] = {}
    if wanted.isdisjoint(values):
        return found
    position = text.index(b"{") + 1
    for name, value in values.items():
        key = _KEY.match(text, position)
        if key is None:
            raise ValueError("what is stored is not an object without repeated keys")
        position = key.end() + len(memoryview(value))
        if name in wanted:
            found[name] = _Span(key.end(), position)
            if len(found) == len(wanted):
                break
    return found
