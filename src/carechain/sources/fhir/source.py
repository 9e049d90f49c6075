"""Another FHIR server as a source: its resources stay there, and are asked for again at every read (REC-2, API-1).

Only GET is sent, only to the address that the operator gave, and redirects are not followed: whatever the other server
answers cannot lead this one elsewhere. Servers write the same resource with other blanks in a search and alone, so what
is committed to is the resource in one form (:mod:`carechain.sources.jsontext`) with every number and text as it was.
"""

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from carechain.charts.resource_types import R4_TYPES
from carechain.core.limits import BUNDLE_ENTRIES, BUNDLE_SIZE_BYTES
from carechain.core.rejection import Rejected, require
from carechain.sources.base import Checked, Found, Key, Pointer, SourceUnavailable
from carechain.sources.codes import SourceCode
from carechain.sources.jsontext import read, write

DEFAULT_TYPES: Final = (
    "AllergyIntolerance",
    "CarePlan",
    "CareTeam",
    "Condition",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "Goal",
    "Immunization",
    "MedicationRequest",
    "MedicationStatement",
    "Observation",
    "Procedure",
    "ServiceRequest",
)
"""What is asked for of a patient, besides the Patient, unless the operator says otherwise."""
ANSWER_BYTES: Final = BUNDLE_SIZE_BYTES
PAGE: Final = 200
IDS_AT_ONCE: Final = 50
PAGES: Final = 1_000
"""Pages of one search."""
PATIENTS: Final = 1_000_000
CONNECT_S: Final = 10
SILENCE_S: Final = 60
_PATIENT: Final = "Patient"
_ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_NOT_THERE: Final = frozenset({404, 410})
_OK: Final = 200


class FhirSource:
    """A FHIR R4 server, read where it stands. See :class:`carechain.sources.base.Source`."""

    def __init__(self, http: httpx.Client, *, base: str, types: Sequence[str] = DEFAULT_TYPES) -> None:
        """``http`` must follow no redirects. ``types`` are asked for with the search parameter ``patient``."""
        self._http = http
        self._base = _base_address(base)
        self._types = tuple(types)
        require(all(one in R4_TYPES and one != _PATIENT for one in self._types), SourceCode.SETTINGS_MALFORMED)

    @classmethod
    def open(cls, base: str, *, token: str | None, ca_file: Path | None, types: Sequence[str] = DEFAULT_TYPES) -> Self:
        """A source at the base address of a FHIR server; ``token`` is sent as a bearer token. Raises ``OSError``."""
        http = httpx.Client(
            headers={"accept": "application/fhir+json", **({"authorization": f"Bearer {token}"} if token else {})},
            follow_redirects=False,
            # Neither a proxy nor a password of whoever started the node.
            trust_env=False,
            verify=ssl.create_default_context(cafile=ca_file),
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
        )
        try:
            return cls(http, base=base, types=types)
        except BaseException:
            http.close()
            raise

    def close(self) -> None:
        """Let go of every connection."""
        self._http.close()

    def check(self) -> Checked:
        """Ask what the server is; a token's rights cannot be asked for, and nothing but GET is ever sent."""
        statement = self._get(self._base + "metadata", {})
        if statement is None or statement.get("resourceType") != "CapabilityStatement":
            raise Rejected(SourceCode.ANSWER_UNREADABLE)
        version = statement.get("fhirVersion")
        require(isinstance(version, str) and version.startswith("4.0"), SourceCode.ANSWER_UNREADABLE)
        return Checked(product=f"FHIR {version}", queries=(_PATIENT, *self._types))

    def patients(self) -> list[Key]:
        """See :class:`carechain.sources.base.Source`."""
        found = self._search(_PATIENT, {"_elements": "id"}, limit=PATIENTS)
        return sorted((one.pointer.key for one in found), key=str)

    def chart(self, patient: Key) -> list[Found]:
        """See :class:`carechain.sources.base.Source`."""
        name = _id_of(patient)
        found = list(self._search(_PATIENT, {"_id": name}, limit=1))
        if not found:
            return []
        for kind in self._types:
            found += self._search(kind, {"patient": f"{_PATIENT}/{name}"}, limit=BUNDLE_ENTRIES - len(found))
        return list({one.pointer: one for one in found}.values())

    def read(self, patient: Key, wanted: Sequence[Pointer]) -> list[Found]:
        """See :class:`carechain.sources.base.Source`."""
        del patient
        ids: dict[str, list[str]] = {}
        for one in wanted:
            ids.setdefault(one.query, []).append(_id_of(one.key))
        found: list[Found] = []
        for kind, some in ids.items():
            waiting = iter(some)
            while batch := list(islice(waiting, IDS_AT_ONCE)):
                found += self._search(kind, {"_id": ",".join(batch)}, limit=len(batch))
        asked = set(wanted)
        return [one for one in found if one.pointer in asked]

    def _search(self, kind: str, parameters: Mapping[str, str], *, limit: int) -> Iterator[Found]:
        """All matches of a search, page by page; raises ``Rejected(TOO_MANY_ROWS)`` beyond the limit."""
        url: str | None = self._base + kind
        given: Mapping[str, str] = {**parameters, "_count": str(PAGE)}
        count = 0
        for _ in range(PAGES):
            if url is None:
                return
            bundle = self._get(url, given)
            if bundle is None:
                return
            for found in _matches(bundle, kind):
                count += 1
                require(count <= limit, SourceCode.TOO_MANY_ROWS)
                yield found
            url, given = self._next(bundle), {}
        raise Rejected(SourceCode.TOO_MANY_ROWS)

    def _next(self, bundle: dict[str, Any]) -> str | None:
        """Where the next page is, if that is still the same server."""
        links = bundle.get("link")
        for one in links if isinstance(links, list) else []:
            if isinstance(one, dict) and one.get("relation") == "next":
                return self._same_server(one.get("url"))
        return None

    def _same_server(self, url: object) -> str:
        base = httpx.URL(self._base)
        try:
            # A number is a text here, with a type of its own.
            found = base.join(url) if type(url) is str else None
        except (httpx.InvalidURL, ValueError):
            found = None
        same = (
            found is not None
            and (found.scheme, found.host, found.port) == (base.scheme, base.host, base.port)
            and not found.userinfo
            and ".." not in found.path
            and (found.path.startswith(base.path) or found.path + "/" == base.path)
        )
        if found is None or not same:
            raise Rejected(SourceCode.LINK_ELSEWHERE)
        return str(found)

    def _get(self, url: str, parameters: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer as a tree; None where there is nothing at that place."""
        data = bytearray()
        try:
            with self._http.stream("GET", url, params=parameters or None) as response:
                if response.status_code in _NOT_THERE:
                    return None
                if response.status_code != _OK:
                    raise SourceUnavailable(f"the FHIR server answers with status {response.status_code}")
                for chunk in response.iter_bytes():
                    data += chunk
                    require(len(data) <= ANSWER_BYTES, SourceCode.ANSWER_UNREADABLE)
        except httpx.HTTPError as error:
            raise SourceUnavailable(f"the FHIR server cannot be reached ({type(error).__name__})") from None
        try:
            tree = read(bytes(data))
        except (ValueError, RecursionError):
            raise Rejected(SourceCode.ANSWER_UNREADABLE) from None
        require(isinstance(tree, dict), SourceCode.ANSWER_UNREADABLE)
        return dict(tree)


def _matches(bundle: dict[str, Any], kind: str) -> Iterator[Found]:
    require(bundle.get("resourceType") == "Bundle", SourceCode.ANSWER_UNREADABLE)
    entries = bundle.get("entry", [])
    require(isinstance(entries, list), SourceCode.ANSWER_UNREADABLE)
    for entry in entries:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict) or resource.get("resourceType") != kind:
            # An included resource or an outcome; what was asked for is of one kind.
            continue
        name = resource.get("id")
        if type(name) is not str or _ID.fullmatch(name) is None:
            raise Rejected(SourceCode.ANSWER_UNREADABLE)
        yield Found(pointer=Pointer(kind, name), body=write(resource))


def _base_address(base: str) -> str:
    """The base address with a slash at its end. Raises ``Rejected(BAD_ADDRESS)``."""
    try:
        url = httpx.URL(base)
    except (httpx.InvalidURL, ValueError):
        raise Rejected(SourceCode.BAD_ADDRESS) from None
    secure = url.scheme == "https" or (url.scheme == "http" and url.host in _LOOPBACK)
    require(secure and url.host and not url.userinfo and not url.query and not url.fragment, SourceCode.BAD_ADDRESS)
    return str(url).rstrip("/") + "/"


def _id_of(key: Key) -> str:
    name = str(key)
    require(_ID.fullmatch(name), SourceCode.PATIENT_KEY_MALFORMED)
    return quote(name, safe="")
