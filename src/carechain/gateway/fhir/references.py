"""References inside a transaction, replaced in the received bytes and nowhere else (FHIR R4, 3.1.0.11.2, REC-4).

Parsing a resource and writing it again would turn 72.50 into 72.5 and change what is committed to. So the bytes are
searched for the elements that hold addresses, and only their string values are replaced. In well-formed JSON a quote
inside a string is always escaped, so a name between unescaped quotes and a colon after it are a key.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

import orjson

OTHER_KEYS: Final = ("uri", "url", "valueCanonical", "valueOid", "valueUri", "valueUrl", "valueUuid")
"""The elements beside ``reference`` that an address of the transaction is replaced in: uri, url, oid, uuid.

``Identifier.value`` is a string and keeps its urn; so does the text of a narrative.
"""

_VALUE: Final = rb'"\s*:\s*"(?P<value>[^"\\]*(?:\\.[^"\\]*)*)"'
# Each begins with fixed letters, which makes looking for it several times faster.
_REFERENCE: Final = re.compile(rb'"(?P<key>reference)' + _VALUE)
_OTHER: Final = re.compile(rb'"(?P<key>' + "|".join(OTHER_KEYS).encode() + rb")" + _VALUE)
Target = Callable[[str, str], str | None]


def _text(raw: bytes) -> str:
    if b"\\" in raw:
        text: str = orjson.loads(b'"' + raw + b'"')
        return text
    return raw.decode()


def _is_key(found: re.Match[bytes]) -> bool:
    """Whether the match begins at a quote that is not escaped, so not inside a string."""
    start = found.start()
    return not start or found.string[start - 1 : start] != b"\\"


def references(body: bytes) -> Iterator[str]:
    """Every literal reference in a resource, as it stands there."""
    for found in _REFERENCE.finditer(body):
        if _is_key(found):
            yield _text(found["value"])


def rewrite(body: bytes, target: Target, *, others: bytes = b'"') -> bytes:
    """The bytes with the addresses replaced for which ``target(key, value)`` gives another; the rest is untouched.

    The elements of :data:`OTHER_KEYS` are gone through only if ``others`` stands anywhere after that: it costs as much.
    """

    def replacement(found: re.Match[bytes]) -> bytes:
        new = target(found["key"].decode(), _text(found["value"])) if _is_key(found) else None
        if new is None:
            return found[0]
        start = found.start("value") - found.start() - 1
        return found[0][:start] + orjson.dumps(new)

    after = _REFERENCE.sub(replacement, body)
    return _OTHER.sub(replacement, after) if others in after else after
