"""``Patient/$summary``: the International Patient Summary of what the caller sees, here and elsewhere (REC-11)."""

import asyncio
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, Final

from msgspec import Struct

from carechain.charts.repository import Repository
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.summary import Missing, Part, Stamp, decode_exact, references, summary
from carechain.core.limits import ID_SIZE
from carechain.core.rejection import present, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.providing import Handler
from carechain.gateway.principal import Principal, ReadingAudit
from carechain.gateway.providers.directory import organization
from carechain.gateway.providers.ledger import LedgerView
from carechain.gateway.providers.patients import Seen, directory_of, patient_id_of, visible_patient
from carechain.sdk.pcf_codes import DocumentCode
from carechain.sdk.pcf_writing import moment

Json = dict[str, Any]

SUMMARY: Final = "$summary"
UUID_SIZE: Final = 16
_MEMBER: Final = re.compile(rf"[0-9a-f]{{{2 * ID_SIZE}}}")
REFERRED: Final = 500
"""Shared resources (practitioners, organisations, places) that one document takes along."""


class RemotePart(Struct, frozen=True, kw_only=True):
    """A member's answer: its resources and their address, or why there is none (``missing``)."""

    member: bytes
    base_url: str = ""
    resources: tuple[Json, ...] = ()
    missing: str = ""


SOURCE: Final = "source"
"""The parameter that names a patient elsewhere, as ``pseudonym@member``: nobody here knows a pseudonym of there."""


class SummaryProvider:
    """The operation alone; summaries are not stored."""

    def __init__(  # noqa: PLR0913 - all are named, and have a use of their own
        self,
        *,
        ledger: LedgerView,
        charts: Repository,
        organisation: bytes,
        base_url: str,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float],
        remote: Handler | None = None,
        readings: ReadingAudit | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        """``organisation`` is the custodian; without ``remote`` the summary is of this member's charts alone.

        ``readings`` is told of every record before it is given out; ``zone`` is where dates without an offset count.
        """
        self._ledger = ledger
        self._charts = charts
        self._organisation = organisation
        self._base_url = base_url.rstrip("/")
        self._entropy = entropy
        self._clock = clock
        self._remote = remote
        self._readings = readings
        self._zone = zone
        self.operations: Final[Mapping[tuple[str, str], Handler]] = {("Patient", SUMMARY): self._summary}

    async def _summary(
        self,
        principal: Principal,
        resource_id: str,
        params: Sequence[tuple[str, str]],
        body: bytes,
    ) -> bytes:
        """The document; ``source`` and what goes with it is as in ``$remote-read``, for records at other members."""
        patient_id = patient_id_of(principal, resource_id, params)
        author = self._organization(self._organisation)
        seen, own = await asyncio.to_thread(self._own_part, principal, patient_id, author)
        if self._readings is not None:
            await self._readings.note(seen.reading(principal, SUMMARY))
        others = await self._elsewhere(principal, params, body)
        stamp = Stamp(
            uuid=str(uuid.UUID(bytes=self._entropy(UUID_SIZE), version=4)),
            instant=moment(int(self._clock())),
            custodian=own.author,
            base_url=self._base_url,
        )
        answered = [one for one in others if not one.missing]
        return await asyncio.to_thread(
            summary,
            seen.patient,
            [own, *(self._remote_part(one) for one in answered)],
            stamp,
            missing=[
                Missing(source=str(self._organization(one.member)["name"]), reason=one.missing)
                for one in others
                if one.missing
            ],
        )

    async def _elsewhere(
        self, principal: Principal, params: Sequence[tuple[str, str]], body: bytes
    ) -> Sequence[RemotePart]:
        """What other members gave, where the caller named the patient there; decided on and audited over there."""
        if not any(name == SOURCE for name, _ in params):
            return ()
        read = present(self._remote, FhirCode.OPERATION_UNKNOWN)
        named = [(name, value) for name, value in params if name != "patient"]
        return remote_parts(await read(principal, "", named, body))

    def _own_part(self, principal: Principal, patient_id: str, author: Json) -> tuple[Seen, Part]:
        with self._charts.reading() as reader:
            seen = visible_patient(reader, principal, patient_id, zone=self._zone)
            named = dict.fromkeys(name for one in seen.resources for name in references(one))
            shared = [name for name in named if name.partition("/")[0] in DIRECTORY]
            require(len(shared) <= REFERRED, DocumentCode.TOO_MANY_MATCHES)
            directory = directory_of(reader, principal, shared)
        return seen, self._part(author, self._base_url, [*seen.resources, *directory])

    def _remote_part(self, part: RemotePart) -> Part:
        return self._part(self._organization(part.member), part.base_url, part.resources)

    def _part(self, author: Json, base_url: str, resources: Sequence[Json]) -> Part:
        return Part(source=str(author["name"]), base_url=base_url, author=author, resources=resources)

    def _organization(self, member: bytes) -> Json:
        """A member's Organization; its name is public."""
        row = self._ledger.view().contracts.membership.member(member)
        return organization(member, present(row, DocumentCode.PARTS_MISSING), has_endpoint=False)


def remote_parts(body: bytes) -> tuple[RemotePart, ...]:
    """The members' answers in a Bundle of ``$remote-read``, in its order, and after them who gave nothing.

    An entry's address and an outcome's text tell the member (:mod:`carechain.gateway.remote_bundle`); every proof was
    checked before the Bundle was made.
    """
    given: dict[str, list[Json]] = {}
    missing: list[RemotePart] = []
    for entry in decode_exact(body)["entry"]:
        mode, resource = entry["search"]["mode"], entry["resource"]
        if mode == "match":
            given.setdefault(entry["fullUrl"].rpartition("/")[0].rpartition("/")[0], []).append(resource)
        elif mode == "outcome":
            missing += (_missing(issue) for issue in resource["issue"])
    answered = [
        RemotePart(member=_member_in(root), base_url=root, resources=tuple(resources))
        for root, resources in given.items()
    ]
    return (*answered, *missing)


def _missing(issue: Json) -> RemotePart:
    return RemotePart(member=_member_in(issue["diagnostics"]), missing=str(issue["details"]["text"]))


def _member_in(text: str) -> bytes:
    found = present(_MEMBER.search(text), DocumentCode.PARTS_MISSING)
    return bytes.fromhex(found[0])
