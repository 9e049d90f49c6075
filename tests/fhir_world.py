"""A FHIR server over real charts, asked over HTTP without sockets, by callers who are told apart by a header.

Nothing is replaced but the two things that come from the ledger: who a caller is and the audit trail; both are lists
that a test can read and change. Time is a counter, randomness is seeded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import httpx
import orjson
from starlette.types import Message

from carechain.charts.binding import provisional
from carechain.charts.repository import Repository
from carechain.charts.sight import CUSTODIAN, NOTHING, Sight, of_patient
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING, Scope
from carechain.gatekeeper.audit import AuditUnavailable
from carechain.gateway.codes import SmartCode
from carechain.gateway.fhir.app import fhir_app
from carechain.gateway.fhir.providing import Provider
from carechain.gateway.principal import Principal, Reading, Rights
from world import entropy_of

BASE = "http://fhir.test/fhir"
START_S = 1_760_000_000
ALL = Rights(create=True, read=True, update=True, search=True)
READ = Rights(read=True, search=True)
FHIR = {"content-type": "application/fhir+json"}
SYSTEM = "system"


Then = Callable[[int], Awaitable[None]]


class Answered:
    """An answer: status, headers, bytes, and its JSON."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.body = response.content

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def issue(self) -> dict[str, Any]:
        """The first issue of an OperationOutcome."""
        assert self.json["resourceType"] == "OperationOutcome", self.body
        found: dict[str, Any] = self.json["issue"][0]
        return found

    @property
    def label(self) -> str:
        """The label of the reason."""
        return str(self.issue["details"]["coding"][0]["code"])

    @property
    def ids(self) -> list[str]:
        """``Type/id`` of the entries of a Bundle, in order; outcomes are left out."""
        found = [one["resource"] for one in self.json.get("entry", []) if "resource" in one]
        return [f"{one['resourceType']}/{one['id']}" for one in found if one["resourceType"] != "OperationOutcome"]

    def link(self, relation: str) -> str | None:
        """A link of a Bundle."""
        return next((one["url"] for one in self.json.get("link", []) if one["relation"] == relation), None)

    def whole(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Everything that a caller could compare."""
        return self.status, sorted(self.headers.items()), self.body


class FhirWorld:
    """One server, its callers and its audit trail."""

    def __init__(self, place: Path | str, *, providers: Sequence[Provider] = (), zone: str = "UTC") -> None:
        self.charts = Charts.open(place, zone=ZoneInfo(zone))
        self.callers: dict[str, Principal] = {SYSTEM: principal(SYSTEM, CUSTODIAN, {"*": ALL}, system=True)}
        self.readings: list[Reading] = []
        self.audit_works = True
        self.now_s = START_S
        self.loop = asyncio.new_event_loop()
        self.app = fhir_app(
            repository=Repository(self.charts),
            authenticator=self,
            audit=self,
            base_url=BASE,
            zone=ZoneInfo(zone),
            providers=providers,
            entropy=entropy_of("fhir"),
            clock=self._clock,
        )
        transport = httpx.ASGITransport(self.app, root_path="/fhir", raise_app_exceptions=True)
        self.client = httpx.AsyncClient(transport=transport, base_url=BASE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run_until_complete(self.client.aclose())
        self.loop.run_until_complete(self.app.aclose())
        self.loop.close()
        self.charts.close()

    def _clock(self) -> float:
        self.now_s += 1
        return self.now_s

    # --- what the server asks ---------------------------------------------------------------------------
    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller that a header names."""
        found = self.callers.get(headers.get("x-caller", ""))
        if found is None:
            raise Rejected(SmartCode.TOKEN_INVALID)
        return found

    async def note(self, reading: Reading) -> None:
        """The audit trail."""
        if not self.audit_works:
            raise AuditUnavailable("the disk is full")
        self.readings.append(reading)

    # --- what tests ask ---------------------------------------------------------------------------------
    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str = SYSTEM,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """One request; ``path`` is below the base or absolute, ``body`` is bytes or becomes FHIR JSON."""
        url = path if path.startswith("http") else f"{BASE}/{path}"
        content = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        sent = {"x-caller": by} | (FHIR if content is not None else {}) | dict(headers or {})
        request = self.client.build_request(method, url, content=content, headers=sent)
        return Answered(self.loop.run_until_complete(self.client.send(request)))

    def together(self, path: str, number: int) -> list[Answered]:
        """The same GET so many times at once."""

        async def all_of_them() -> list[httpx.Response]:
            asked = (self.client.get(f"{BASE}/{path}", headers={"x-caller": SYSTEM}) for _ in range(number))
            return await asyncio.gather(*asked)

        return [Answered(one) for one in self.loop.run_until_complete(all_of_them())]

    async def store(self, resource: dict[str, Any]) -> None:
        """Store a resource while a stream is open."""
        name = f"{BASE}/{resource['resourceType']}/{resource['id']}"
        answer = await self.client.put(name, content=orjson.dumps(resource), headers=FHIR | {"x-caller": SYSTEM})
        assert answer.is_success, answer.content

    def get(self, path: str, **options: Any) -> Answered:
        """A GET."""
        return self.ask("GET", path, **options)

    def put(self, resource: dict[str, Any], **options: Any) -> Answered:
        """Store a resource under its id."""
        answer = self.ask("PUT", f"{resource['resourceType']}/{resource['id']}", resource, **options)
        assert answer.status in {200, 201}, answer.body
        return answer

    def caller(self, name: str, sight: Sight, rights: Mapping[str, Rights] | None = None, **fields: Any) -> str:
        """Another caller; may read everything that it sees unless said otherwise."""
        self.callers[name] = principal(name, sight, rights or {"*": READ}, **fields)
        return name

    def sees(self, name: str, patient_id: str, scope: Scope = EVERYTHING, **fields: Any) -> str:
        """A caller who sees one patient's records within a scope."""
        return self.caller(name, of_patient(provisional(patient_id), scope), **fields)

    def stream(self, path: str, *, by: str, most: int, after: str = "", then: Then | None = None) -> list[bytes]:
        """The first parts of a stream; ``then`` is awaited with the number of parts so far, before the next."""
        return self.loop.run_until_complete(self._stream(path, by, most, after, then))

    @contextmanager
    def open_streams(self, path: str, *, by: str, number: int) -> Iterator[None]:
        """So many streams that stay open meanwhile."""
        begun = [asyncio.Event() for _ in range(number)]

        def notice(event: asyncio.Event) -> Then:
            async def then(_number: int) -> None:
                event.set()

            return then

        tasks = [self.loop.create_task(self._stream(path, by, 99, "", notice(event))) for event in begun]
        self.loop.run_until_complete(_all(event.wait() for event in begun))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(_all(tasks))

    async def _stream(self, path: str, by: str, most: int, after: str, then: Then | None) -> list[bytes]:
        parts: list[bytes] = []
        closed = asyncio.Event()

        async def receive() -> Message:
            await closed.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200, message
                return
            if message.get("body"):
                parts.append(message["body"])
                if then is not None:
                    await then(len(parts))
                if len(parts) >= most:
                    raise _Enough

        raw, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/fhir/{raw}",
            "root_path": "/fhir",
            "query_string": query.encode(),
            "headers": [(b"x-caller", by.encode())] + ([(b"last-event-id", after.encode())] if after else []),
        }
        with suppress(_Enough):
            await self.app(scope, receive, send)
        return parts


async def _all(awaited: Iterable[Awaitable[object]]) -> None:
    await asyncio.gather(*awaited, return_exceptions=True)


class _Enough(Exception):  # noqa: N818 - ends a stream
    pass


def principal(
    name: str, sight: Sight = NOTHING, rights: Mapping[str, Rights] | None = None, **fields: Any
) -> Principal:
    """A caller."""
    return Principal(party=name.encode().ljust(32, b"\0"), sight=sight, rights=rights or {}, **fields)


def patient(patient_id: str, family: str = "Wang", **fields: Any) -> dict[str, Any]:
    """A Patient."""
    return {"resourceType": "Patient", "id": patient_id, "name": [{"family": family}], **fields}


def observation(
    observation_id: str | None, patient_id: str, code: str = "8867-4", value: str = "72.50", **fields: Any
) -> dict[str, Any]:
    """A vital sign of a patient."""
    named = {"id": observation_id} if observation_id else {}
    return {
        "resourceType": "Observation",
        **named,
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "vital-signs",
                    }
                ]
            }
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{patient_id}"},
        "effectiveDateTime": "2024-03-01T10:00:00Z",
        "valueQuantity": {"value": float(value), "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
        **fields,
    }


def entry(method: str, url: str, resource: Any = None, full_url: str = "", **request: str) -> dict[str, Any]:
    """An entry of a transaction or batch."""
    made: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if full_url:
        made["fullUrl"] = full_url
    if resource is not None:
        made["resource"] = resource
    return made


def transaction(*entries: dict[str, Any], kind: str = "transaction") -> dict[str, Any]:
    """A Bundle of type transaction."""
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}
