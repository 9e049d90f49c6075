"""FHIR R4 bundles from bytes: bounded, strict about form, and exact about content (REC-4, API-1).

A library that parses and writes a resource again turns 72.50 into 72.5, so each entry keeps the bytes of
its resource as they were received. What is refused is refused with a typed code; no message repeats input.
"""

import json
import re
from hashlib import sha256
from typing import Any, Final, NoReturn

import msgspec
import orjson
from msgspec import Struct

from carechain.charts.codes import ChartsCode
from carechain.charts.dates import day_of
from carechain.charts.resource_types import R4_TYPES
from carechain.core.limits import BUNDLE_ENTRIES, BUNDLE_NESTING, BUNDLE_SIZE_BYTES, FULL_URL_CHARS
from carechain.core.rejection import Rejected, require

Json = dict[str, Any]

BUNDLE_TYPES: Final = frozenset({"batch", "collection", "transaction"})
TYPES_WITH_REQUEST: Final = frozenset({"batch", "transaction"})
METHODS: Final = frozenset({"POST", "PUT"})

DATE_KEYS: Final = frozenset(
    {
        "authored",
        "authoredOn",
        "birthDate",
        "created",
        "date",
        "dateTime",
        "deceasedDateTime",
        "effectiveDateTime",
        "effectiveInstant",
        "end",
        "issued",
        "occurrenceDateTime",
        "onsetDateTime",
        "performedDateTime",
        "recorded",
        "recordedDate",
        "sent",
        "start",
        "startDate",
        "started",
    }
)
"""Elements that hold a date wherever they occur; each must exist in the calendar."""

_ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
_FULL_URL: Final = re.compile(r"(?:urn:uuid:|urn:oid:|https?://)[!-~]+", re.ASCII)
_KEY: Final = re.compile(rb'"(?:[^"\\]+|\\.)*"(\s*:)?')
_PROBE_BYTES: Final = 64
"""A whole part is slow to look for; so many bytes mostly tell it apart."""
_URL_OF_PUT: Final = re.compile(r"(?P<type>[A-Za-z]+)(?:/(?P<id>[A-Za-z0-9.\-]{1,64})|\?[!-~]*)?", re.ASCII)


class Entry(Struct, frozen=True, kw_only=True):
    """One resource of a bundle: where it says it lives, what it is, and its bytes as received."""

    full_url: str | None
    resource_type: str
    resource_id: str
    body: bytes

    def __repr__(self) -> str:
        return "Entry()"

    @property
    def key(self) -> str:
        """``Type/id``, how the rest of the chart names the resource."""
        return f"{self.resource_type}/{self.resource_id}"

    def tree(self) -> Json:
        """The resource as Python values; parsed on demand so that a bundle is not held twice in memory."""
        tree: Json = orjson.loads(self.body)
        return tree


class Bundle(Struct, frozen=True, kw_only=True):
    """A checked bundle: its type and its entries in the received order."""

    bundle_type: str
    entries: tuple[Entry, ...]


def parse(data: bytes) -> Bundle:
    """Read a bundle of type transaction, batch or collection, at most ``BUNDLE_SIZE_BYTES`` long.

    Raises ``Rejected`` with a :class:`ChartsCode` for everything that is not acceptable, and nothing else.
    """
    require(len(data) <= BUNDLE_SIZE_BYTES, ChartsCode.BUNDLE_TOO_LARGE)
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Rejected(ChartsCode.NOT_UTF8) from None
    bundle_type, raw_entries = _outer(data)
    require(len(raw_entries) <= BUNDLE_ENTRIES, ChartsCode.TOO_MANY_ENTRIES)
    require(raw_entries, ChartsCode.NO_ENTRIES)
    entries = tuple(_entry(bytes(raw), has_request=bundle_type in TYPES_WITH_REQUEST) for raw in raw_entries)
    full_urls = [entry.full_url for entry in entries if entry.full_url is not None]
    require(len(set(full_urls)) == len(full_urls), ChartsCode.DUPLICATE_FULL_URL)
    require(len({entry.key for entry in entries}) == len(entries), ChartsCode.DUPLICATE_RESOURCE)
    return Bundle(bundle_type=bundle_type, entries=entries)


def patient_of(bundle: Bundle) -> Entry:
    """The bundle's one Patient. Raises ``Rejected`` when there is none or more than one."""
    patients = [entry for entry in bundle.entries if entry.resource_type == "Patient"]
    require(patients, ChartsCode.NO_PATIENT)
    require(len(patients) == 1, ChartsCode.SEVERAL_PATIENTS)
    return patients[0]


class _Resource(Struct):
    resource: msgspec.Raw = msgspec.Raw()


_outer_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entries_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_resource_decoder: Final = msgspec.json.Decoder(_Resource)


def _outer(data: bytes) -> tuple[str, list[msgspec.Raw]]:
    """The bundle's type and the raw bytes of each entry; everything around the entries is checked too."""
    try:
        outer = _outer_decoder.decode(data)
        entry_bytes = bytes(outer.get("entry", msgspec.Raw(b"[]")))
        entries = _entries_decoder.decode(entry_bytes)
    except msgspec.ValidationError:
        raise Rejected(ChartsCode.NOT_A_BUNDLE) from None
    except (msgspec.DecodeError, RecursionError) as error:
        _refuse_unreadable(error)
    # Cutting the entries out leaves a small object in which a repeated key still shows.
    rest = strict_json(without(data, entry_bytes, b"[]"))
    require(type(rest) is dict and rest.get("resourceType") == "Bundle", ChartsCode.NOT_A_BUNDLE)
    bundle_type = rest.get("type")
    require(type(bundle_type) is str and bundle_type in BUNDLE_TYPES, ChartsCode.BUNDLE_TYPE_UNSUPPORTED)
    return str(bundle_type), entries


def _entry(raw: bytes, *, has_request: bool) -> Entry:
    tree = strict_json(raw)
    require(type(tree) is dict and type(tree.get("resource")) is dict, ChartsCode.ENTRY_MALFORMED)
    full_url, resource = tree.get("fullUrl"), tree["resource"]
    if full_url is not None:
        require(type(full_url) is str, ChartsCode.ENTRY_MALFORMED)
        require(len(full_url) <= FULL_URL_CHARS and _FULL_URL.fullmatch(full_url), ChartsCode.BAD_FULL_URL)
    body = bytes(_resource_decoder.decode(raw).resource)
    resource_type, resource_id = _identity(resource)
    put_id = _check_request(tree.get("request"), resource_type, resource_id) if has_request else None
    require(not _has_impossible_date(resource), ChartsCode.IMPOSSIBLE_DATE)
    return Entry(
        full_url=full_url,
        resource_type=resource_type,
        resource_id=resource_id or put_id or _id_from_url(full_url) or sha256(body).hexdigest()[:32],
        body=body,
    )


def entry_of(
    body: bytes, resource_type: str, resource_id: str, tree: Json | None = None, *, is_valid: bool = False
) -> tuple[Entry, Json]:
    """One resource that comes by itself, under the id it is to have, and its tree, if need be parsed here.

    ``is_valid``: validation has passed it, which is strict about the JSON and about dates too. Raises ``Rejected`` with
    a :class:`ChartsCode`.
    """
    require(len(body) <= BUNDLE_SIZE_BYTES, ChartsCode.BUNDLE_TOO_LARGE)
    if tree is None:
        tree = orjson.loads(body) if is_valid else strict_json(body)
    if not isinstance(tree, dict):
        raise Rejected(ChartsCode.ENTRY_MALFORMED)
    found, _ = _identity({**tree, "id": resource_id})
    require(found == resource_type, ChartsCode.REQUEST_URL_MISMATCH)
    require(is_valid or not _has_impossible_date(tree), ChartsCode.IMPOSSIBLE_DATE)
    return Entry(full_url=None, resource_type=resource_type, resource_id=resource_id, body=body), tree


def _identity(resource: Json) -> tuple[str, str | None]:
    resource_type, resource_id = resource.get("resourceType"), resource.get("id")
    require(type(resource_type) is str, ChartsCode.NO_RESOURCE_TYPE)
    require(resource_type in R4_TYPES, ChartsCode.UNKNOWN_RESOURCE_TYPE)
    if resource_id is not None:
        require(type(resource_id) is str and _ID.fullmatch(resource_id), ChartsCode.BAD_RESOURCE_ID)
    return str(resource_type), resource_id


def _check_request(request: object, resource_type: str, resource_id: str | None) -> str | None:
    """Check an entry's request; returns the id that a PUT names, if it names one."""
    require(request is not None, ChartsCode.METHOD_MISSING)
    if not isinstance(request, dict):
        raise Rejected(ChartsCode.ENTRY_MALFORMED)
    method, url = request.get("method"), request.get("url")
    require(type(method) is str and type(url) is str, ChartsCode.ENTRY_MALFORMED)
    require(method in METHODS, ChartsCode.METHOD_UNSUPPORTED)
    named = _URL_OF_PUT.fullmatch(str(url))
    if named is None or named["type"] != resource_type or (method == "POST" and url != resource_type):
        raise Rejected(ChartsCode.REQUEST_URL_MISMATCH)
    require(named["id"] is None or resource_id in (None, named["id"]), ChartsCode.REQUEST_URL_MISMATCH)
    return named["id"]


def _id_from_url(full_url: str | None) -> str | None:
    """A POST without an id is named by the urn:uuid its siblings refer to it with."""
    tail = full_url.removeprefix("urn:uuid:") if full_url and full_url.startswith("urn:uuid:") else ""
    return tail if _ID.fullmatch(tail) else None


def _has_impossible_date(resource: Json) -> bool:
    stack: list[Any] = [resource]
    try:
        while stack:
            node = stack.pop()
            if type(node) is list:
                stack += node
            elif type(node) is dict:
                for key, value in node.items():
                    if type(value) is str:
                        if key in DATE_KEYS:
                            day_of(value)
                    elif type(value) is dict or type(value) is list:
                        stack.append(value)
    except Rejected:
        return True
    return False


def strict_json(data: bytes) -> Any:  # noqa: ANN401 - JSON can be anything
    """Parse JSON that has one meaning only: no repeated keys, no NaN, no lone surrogates, bounded depth.

    Raises ``Rejected`` (NOT_UTF8, NOT_JSON, NESTED_TOO_DEEPLY or DUPLICATE_KEY).
    """
    try:
        tree = orjson.loads(data)
        if repeats_a_key(data, tree):
            raise Rejected(ChartsCode.DUPLICATE_KEY)
    except (ValueError, TypeError):
        tree = _explained(data)
    # What has no more brackets than levels are allowed cannot be too deep: most resources need no walk.
    deep = data.count(b"{") + data.count(b"[") > BUNDLE_NESTING and _is_too_deep(tree)
    require(not deep, ChartsCode.NESTED_TOO_DEEPLY)
    return tree


def _explained(data: bytes) -> Any:  # noqa: ANN401 - JSON can be anything
    """What is wrong with JSON that the fast parser refuses."""
    try:
        tree = _decoder.decode(data.decode())
        orjson.loads(data)
    except UnicodeDecodeError:
        raise Rejected(ChartsCode.NOT_UTF8) from None
    except (ValueError, RecursionError) as error:
        _refuse_unreadable(error)
    return tree


def repeats_a_key(data: bytes, tree: object) -> bool:
    """Whether ``data``, which was read as ``tree``, has more keys than went into it.

    Text holds as many quotes when it is written anew; only a key that went missing makes fewer. An escape by number may
    stand for a quote, and then keys are counted. Raises TypeError for what is nested too deeply to be written.
    """
    compact = orjson.dumps(tree)
    if b"\\" not in data or b"\\u" not in data:
        return data.count(b'"') != compact.count(b'"')
    return sum(1 for found in _KEY.finditer(data) if found[1]) != _count_keys(tree)


def _count_keys(tree: object) -> int:
    count = 0
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            count += len(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return count


def without(data: bytes, part: bytes, stand_in: bytes) -> bytes:
    """``data`` with something short in place of the first ``part``, which is in it."""
    start = data.find(part[:_PROBE_BYTES])
    if not data.startswith(part, start):
        return data.replace(part, stand_in, 1)
    return b"".join((data[:start], stand_in, data[start + len(part) :]))


def _refuse_unreadable(error: Exception) -> NoReturn:
    deep = isinstance(error, RecursionError)
    raise Rejected(ChartsCode.NESTED_TOO_DEEPLY if deep else ChartsCode.NOT_JSON) from None


def _is_too_deep(tree: object) -> bool:
    level = [tree]
    for _ in range(BUNDLE_NESTING):
        below: list[object] = []
        for node in level:
            if type(node) is dict:
                below += [one for one in node.values() if type(one) is dict or type(one) is list]
            elif type(node) is list:
                below += [one for one in node if type(one) is dict or type(one) is list]
        if not below:
            return False
        level = below
    return True


def _object(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Rejected(ChartsCode.DUPLICATE_KEY)
    return value


def _not_a_number(_: str) -> NoReturn:
    raise Rejected(ChartsCode.NOT_JSON)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_not_a_number)
