"""One request and its answer, apart from HTTP's machinery; and what every interaction has at hand (API-1).

Handlers are plain functions of a snapshot and a call, so that an entry of a transaction is served by the same code as a
request of its own.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from carechain.charts.repository import Repository, Stored
from carechain.charts.serving import served
from carechain.gateway.fhir.conditions import etag, last_modified
from carechain.gateway.fhir.negotiation import FHIR_JSON_UTF8, Preferences
from carechain.gateway.fhir.paging import Pages
from carechain.gateway.fhir.parameters import Params
from carechain.gateway.fhir.routing import Target
from carechain.gateway.principal import Principal

OK: Final = 200
CREATED: Final = 201
NOT_MODIFIED: Final = 304
REFUSED_AND_NOTED: Final = frozenset({403, 404})
"""Statuses of refusals that are about somebody's data: they are in the audit trail too."""


class Site(Struct, frozen=True, kw_only=True):
    """What the interactions of one server share. ``base_url`` has no slash at its end; ``clock_us`` is Unix time."""

    repository: Repository
    base_url: str
    zone: ZoneInfo
    pages: Pages
    entropy: Callable[[int], bytes]
    clock_us: Callable[[], int]

    def url(self, resource_type: str, resource_id: str) -> str:
        """The absolute address of a resource."""
        return f"{self.base_url}/{resource_type}/{resource_id}"


class Call(Struct, frozen=True, kw_only=True):
    """One authenticated interaction; header names are in lower case."""

    principal: Principal
    method: str
    target: Target
    params: Params
    headers: Mapping[str, str]
    preferences: Preferences
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Call({self.target.kind.value})"


class Given(Struct, frozen=True, kw_only=True):
    """What an answer gives out, for the audit: types, ledger records, how many resources.

    ``counted`` is how many matches of patients' resources it tells of without giving them out.
    """

    resource_types: frozenset[str] = frozenset()
    records: frozenset[tuple[bytes, int]] = frozenset()
    count: int = 0
    counted: int = 0

    def and_also(self, other: "Given") -> "Given":
        """Both together."""
        return Given(
            resource_types=self.resource_types | other.resource_types,
            records=self.records | other.records,
            count=self.count + other.count,
            counted=self.counted + other.counted,
        )


NOTHING: Final = Given()


def given(stored: Iterable[Stored], *more_types: str) -> Given:
    """What an answer with these resources gives out."""
    listed = list(stored)
    return Given(
        resource_types=frozenset((*(one.resource_type for one in listed), *more_types)),
        records=frozenset(one.record for one in listed if one.record is not None),
        count=len(listed),
    )


class Answer(Struct, frozen=True, kw_only=True):
    """An answer before it is sent; a ``stream`` stands in for the body and audits itself part by part.

    ``is_audited`` is False for what says nothing about anybody, such as the CapabilityStatement. ``refused`` is the
    number of a refusal inside the answer that is noted (in a batch, where it does not become the whole answer).
    """

    status: int = OK
    body: bytes = b""
    headers: Mapping[str, str] = {}
    media_type: str = FHIR_JSON_UTF8
    given: Given = NOTHING
    stream: AsyncGenerator[bytes, None] | None = None
    is_audited: bool = True
    refused: int = 0


def resource_headers(stored: Stored) -> dict[str, str]:
    """The headers that go with one version of a resource."""
    return {"etag": etag(stored.version), "last-modified": last_modified(stored.updated_us)}


def resource_answer(stored: Stored, *, status: int = OK, headers: Mapping[str, str] | None = None) -> Answer:
    """A resource as the answer."""
    return Answer(
        status=status,
        body=served(stored),
        headers={**resource_headers(stored), **(headers or {})},
        given=given([stored]),
    )


def merged(parts: Sequence[Given]) -> Given:
    """Everything that several answers give out."""
    whole = NOTHING
    for part in parts:
        whole = whole.and_also(part)
    return whole
