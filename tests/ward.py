"""A ward of hospital a for the authorisation matrix: charts of two patients, and a caller of every role.

Goal: let a test put one caller into one situation (a live grant, an expired one, somebody else's ticket, …) and ask
anything. Method: the gateway of :mod:`smart_house` over the world's ledger; grants, appointments, tickets and sessions
are made by signed transactions of the people concerned, and time is the world's.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.types import Message

from carechain.charts.repository import Repository
from carechain.contracts.access import RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import Dismiss, Revoke
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import (
    ALL_CATEGORIES,
    ALL_POWERS,
    ALL_PURPOSES,
    Action,
    Category,
    Power,
    Purpose,
    Role,
    Sensitivity,
    mask,
)
from carechain.sdk.wallet import Pseudonym
from smart_house import ROOT, SmartHouse
from world import LATER_S, Actor, Signer, entropy_of, grant_of

Json = dict[str, Any]

OLGA: Final = "olga"
PLAIN: Final = "plain-00001"
"""Olga's laboratory result of normal grade."""
GRAVE: Final = "grave-00001"
"""The same with a restricted grade."""
OLDER: Final = "older-00001"
"""A result of years before."""
DAY: Final = "2024-03-01"
DAY_NUMBER: Final = 45_350
"""The same in days since 1900-01-01."""
FHIR_JSON: Final = "application/fhir+json"
CONFIDENTIALITY: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
PATIENT_MARK: Final = "mark-of-olga"


def mark(resource_id: str) -> str:
    """What stands in a resource and nowhere else: an answer that has it has given the resource out."""
    return f"mark-of-{resource_id}"


class Situation(StrEnum):
    """How a caller stands to Olga's record."""

    OWN = "own"
    GRANTED = "granted"
    READ_ONLY = "granted, reading alone"
    SUBMIT_ONLY = "granted, reading and adding"
    EXPIRED_GRANT = "the grant has expired"
    EXPIRED_TICKET = "the ticket has expired"
    REVOKED_GRANT = "the grant was revoked"
    REVOKED_TICKET = "the ticket was revoked"
    FOREIGN_PATIENT = "a live ticket for somebody else's record"
    FOREIGN_TICKET = "somebody else's live ticket"
    BEYOND = "a ticket beyond the grant"
    NARROWER_CATEGORY = "other categories"
    NARROWER_DAYS = "earlier days"
    HIGHER_SENSITIVITY = "a lower ceiling"


STAFF: Final[Mapping[Role, str]] = {
    Role.DOCTOR: "dana",
    Role.NURSE: "nora",
    Role.LAB_TECHNICIAN: "john",
    Role.INSURANCE_AUDITOR: "ivan",
    Role.REGULATOR: "gita",
    Role.RESEARCHER: "rita",
    Role.EMERGENCY_RESPONDER: "ella",
    Role.ORGANISATION_ADMIN: "anna",
    Role.CONSORTIUM_ADMIN: "vera",
    Role.REGISTRAR: "rosa",
}
PURPOSES: Final[Mapping[Role, Purpose]] = {
    Role.PATIENT: Purpose.PATRQT,
    Role.FAMILY_MEMBER: Purpose.FAMRQT,
    Role.INSURANCE_AUDITOR: Purpose.HPAYMT,
    Role.REGULATOR: Purpose.HOPERAT,
    Role.RESEARCHER: Purpose.HRESCH,
    Role.EMERGENCY_RESPONDER: Purpose.ETREAT,
}
"""For what each role asks; treatment where it does not say."""

_ALL_BUT_RESULTS: Final = Scope(categories=ALL_CATEGORIES & ~mask(Category.RESULT), ceiling=Sensitivity.V)
_EARLIER: Final = Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity.V, last_day=DAY_NUMBER - 1)
_NORMAL: Final = Scope(categories=ALL_CATEGORIES, ceiling=Sensitivity.N)
GRANTED_SCOPES: Final[Mapping[Situation, Scope]] = {
    Situation.BEYOND: _NORMAL,
    Situation.NARROWER_CATEGORY: _ALL_BUT_RESULTS,
    Situation.NARROWER_DAYS: _EARLIER,
    Situation.HIGHER_SENSITIVITY: _NORMAL,
}
"""What is granted and asked for; everything where it does not say."""
GRANTED_ACTIONS: Final[Mapping[Situation, Action]] = {
    Situation.READ_ONLY: Action.READ,
    Situation.SUBMIT_ONLY: Action.READ | Action.SUBMIT,
}
HELD_BY_GRANT: Final = frozenset(
    {
        Situation.GRANTED,
        Situation.READ_ONLY,
        Situation.SUBMIT_ONLY,
        Situation.EXPIRED_GRANT,
        Situation.REVOKED_GRANT,
        Situation.BEYOND,
    }
)
"""Situations that only a grant can bring about: another patient, who can hold none, asks for Olga's record here."""
_SHORT_S: Final = 400


class Ward(SmartHouse):
    """The hospital with the charts of Olga and Omar; :meth:`stand` makes the callers of one situation."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        world = self.world
        self.olga = world.bind(world.wallet("olga"), world.a, "MRN-8")
        self.omar = world.bind(world.wallet("omar"), world.a, "MRN-9")
        self.repository = Repository(self.charts)
        self.callers: dict[Role, dict[str, str]] = {}
        self.count = 0
        self.situation = Situation.OWN
        self.file(self.olga, [patient(OLGA, PATIENT_MARK), observation(PLAIN), observation(GRAVE, grave=True)])
        self.file(self.olga, [observation(OLDER, day="2001-01-01")])
        self.file(self.olga, [observation(PLAIN, note="second"), observation(GRAVE, grave=True, note="second")])
        self.file(self.omar, [patient("omar", "mark-of-omar")])

    def file(self, owner: Pseudonym, resources: list[Json]) -> None:
        """Take resources into a chart."""
        name = "olga" if owner is self.olga else "omar"
        named = (
            resources if resources[0]["resourceType"] == "Patient" else [patient(name, f"mark-of-{name}"), *resources]
        )
        self.count += 1
        self.charts.ingest(
            pseudonym=owner.id,
            bundle=json.dumps(transaction(*(entry("PUT", path_of(one), one) for one in named))).encode(),
            received_s=self.world.time_s,
            rng=entropy_of("ward", name, self.count),
        )

    # --- situations -------------------------------------------------------------------------------------------

    def stand(self, situation: Situation) -> None:
        """Put a caller of every role into the situation."""
        self.situation = situation
        staff = {role: getattr(self.world, name) for role, name in STAFF.items()}
        grant = self._grant(situation, tuple(staff.values()))
        relative = self._relative(situation)
        people: dict[Role, Signer] = {Role.PATIENT: self._patient(situation), Role.FAMILY_MEMBER: relative, **staff}
        tickets = {role: self._ticket(situation, role, by) for role, by in people.items()}
        if situation is Situation.EXPIRED_TICKET:
            self.world.wait(901)
        sessions = {role: self.session(by) for role, by in people.items()}
        match situation:
            case Situation.EXPIRED_GRANT:
                self.world.wait(_SHORT_S + 1)
            case Situation.REVOKED_GRANT:
                self.world.done(Revoke(pseudonym=self.olga.id, grant_id=grant), by=self.olga)
                self.world.done(Dismiss(pseudonym=self.olga.id, representative=relative.id), by=self.olga)
            case Situation.REVOKED_TICKET:
                for role, by in people.items():
                    ticket = tickets[role]
                    if ticket and not self.world.ticket(ticket).decision:
                        self.world.done(RevokeTicket(ticket=ticket), by=by)
            case _:
                pass
        for role in Role:
            shown = {"x-consent-ticket": tickets[role].hex()} if tickets[role] else {}
            self.callers[role] = {**sessions[role], **shown}

    def _grant(self, situation: Situation, staff: tuple[Signer, ...]) -> bytes:
        """Olga's grant to the staff (Omar's, where that is the situation); nothing where nothing is granted."""
        if situation is Situation.OWN:
            return b""
        owner = self.omar if situation is Situation.FOREIGN_PATIENT else self.olga
        grantees = (self.world.bina,) if situation is Situation.FOREIGN_TICKET else staff
        return self.world.grant(
            grant_of(
                owner,
                *grantees,
                scope=GRANTED_SCOPES.get(situation, EVERYTHING),
                actions=int(GRANTED_ACTIONS.get(situation, Action.READ | Action.WRITE)),
                purposes=ALL_PURPOSES,
                expires_s=self._until(situation),
            ),
            by=owner,
        )

    def _relative(self, situation: Situation) -> Actor:
        owner = self.omar if situation is Situation.FOREIGN_PATIENT else self.olga
        return self.world.appoint(
            f"relative of {owner.id.hex()}",
            owner,
            powers=int(Power.READ_RECORDS) if situation is Situation.READ_ONLY else ALL_POWERS,
            scope=GRANTED_SCOPES.get(situation, EVERYTHING),
            expires_s=self._until(situation),
        )

    def _patient(self, situation: Situation) -> Pseudonym:
        elsewhere = situation in HELD_BY_GRANT or situation is Situation.FOREIGN_PATIENT
        return self.omar if elsewhere else self.olga

    def _until(self, situation: Situation) -> int:
        return self.world.time_s + _SHORT_S if situation is Situation.EXPIRED_GRANT else LATER_S

    def _ticket(self, situation: Situation, role: Role, by: Signer) -> bytes:
        """The ticket a caller shows, given or refused; none for staff without anything."""
        if situation is Situation.OWN and role in STAFF:
            return b""
        owner = self.omar if situation is Situation.FOREIGN_PATIENT else self.olga
        foreign = situation is Situation.FOREIGN_TICKET
        scope = EVERYTHING if situation is Situation.BEYOND else GRANTED_SCOPES.get(situation, EVERYTHING)
        purpose = Purpose.TREAT if foreign else PURPOSES.get(role, Purpose.TREAT)
        asked = RequestAccess(pseudonym=owner.id, scope=scope, purpose=purpose)
        return self.world.request(asked, by=self.world.bina if foreign else by).ticket

    # --- asking -----------------------------------------------------------------------------------------------

    def call(self, role: Role, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """One request of a caller; ``path`` is below the FHIR base or absolute."""
        told = {**self.callers[role], **{name.replace("_", "-"): value for name, value in headers.items()}}
        given: dict[str, Any] = {}
        if body is not None:
            given["content"] = body if isinstance(body, bytes) else json.dumps(body).encode()
            told.setdefault("content-type", FHIR_JSON)
        where = path.removeprefix(ROOT) if path.startswith(ROOT) else f"/fhir/{path}"
        return self.ask(method, where, headers=told, **given)

    def stream(self, role: Role, path: str, parts: int, **headers: str) -> httpx.Response:
        """The first parts of an answer that does not end by itself."""
        return self.runner.run(self._stream(role, path, parts, headers))

    async def _stream(self, role: Role, path: str, parts: int, headers: Mapping[str, str]) -> httpx.Response:
        got: list[bytes] = []
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message.get("body"):
                got.append(message["body"])
                if len(got) >= parts:
                    raise _Enough

        raw, _, query = path.partition("?")
        told = {**self.callers[role], **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/fhir/{raw}",
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in told.items()],
            "client": ("127.0.0.1", 1),
            "server": ("fhir.test", 80),
            "scheme": "http",
        }
        transport = self.http._transport
        assert isinstance(transport, httpx.ASGITransport)
        with suppress(_Enough):
            await transport.app(scope, receive, send)
        return httpx.Response(status, content=b"".join(got))

    def last_seq(self) -> int:
        """The number of the newest stored version of anything."""
        with self.repository.reading() as reader:
            return reader.last_seq()

    def fresh(self) -> str:
        """Another word every time, so that every write changes something."""
        self.count += 1
        return f"note {self.count}"


class _Enough(Exception):  # noqa: N818 - ends a stream
    pass


# --- resources ------------------------------------------------------------------------------------------------


def patient(patient_id: str, text: str) -> Json:
    return {"resourceType": "Patient", "id": patient_id, "name": [{"family": "Olsen", "text": text}]}


def observation(resource_id: str, *, grave: bool = False, note: str = "first", text: str = "", day: str = DAY) -> Json:
    """A laboratory result of Olga's."""
    graded = {"meta": {"security": [{"system": CONFIDENTIALITY, "code": "R"}]}} if grave else {}
    return {
        "resourceType": "Observation",
        "id": resource_id,
        **graded,
        "status": "final",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]},
        "subject": {"reference": f"Patient/{OLGA}"},
        "effectiveDateTime": f"{day}T10:00:00Z",
        "valueString": text or mark(resource_id),
        "note": [{"text": note}],
    }


def transaction(*entries: Json, kind: str = "transaction") -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def entry(method: str, url: str, resource: Json | None = None) -> Json:
    return {"request": {"method": method, "url": url}, **({} if resource is None else {"resource": resource})}


def path_of(resource: Json) -> str:
    return f"{resource['resourceType']}/{resource['id']}"
