"""Goal: over FHIR, nobody gets or changes more than role, ticket and grant allow together, whatever the interaction.

Method: every interaction of the server, by a caller of every role of the ledger, in every situation of consent, is
asked of the real gateway over a real ledger. What must come of a cell is said by :func:`expected`, which is written
from the rules (CON-3: a live member → its role → what the data owner allows) and uses none of the gateway's tables.
A hidden resource is compared with one that does not exist, byte for byte. The cells are counted.
"""

import base64
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

import httpx
import pytest
from msgspec import Struct

from carechain.contracts.roles import ROLES
from carechain.core.vocabulary import Role
from carechain.gateway.fhir.capabilities import OWN_OPERATIONS
from carechain.gateway.fhir.routing import Kind
from ward import (
    GRAVE,
    HELD_BY_GRANT,
    OLGA,
    PATIENT_MARK,
    PLAIN,
    STAFF,
    Situation,
    Ward,
    entry,
    mark,
    observation,
    transaction,
)

NOBODY: Final = "never-00001"
"""An id that no resource has, as long as the others."""

# --- the rules ------------------------------------------------------------------------------------------------

LETTERS: Final = {
    "P": Role.PATIENT,
    "F": Role.FAMILY_MEMBER,
    "D": Role.DOCTOR,
    "N": Role.NURSE,
    "L": Role.LAB_TECHNICIAN,
    "I": Role.INSURANCE_AUDITOR,
    "G": Role.REGULATOR,
    "S": Role.RESEARCHER,
    "E": Role.EMERGENCY_RESPONDER,
    "A": Role.ORGANISATION_ADMIN,
    "C": Role.CONSORTIUM_ADMIN,
    "R": Role.REGISTRAR,
}
READERS: Final = "PFDNLIGE"
"""Who may read laboratory results at all. Research has pseudonymised views; administration has no business here."""
CREATORS: Final = "PDNL"
"""Who may add some. Auditors, regulators and researchers have read-only roles (CON-3); so have relatives."""
CHANGERS: Final = "DNL"
"""Who may change some: those who write them."""
HOLDS_NO_TICKET: Final = "SACR"
"""Roles for which no ticket opens a chart: research is served pseudonymised, the others may not ask for records."""


class Need(Enum):
    """What an interaction takes."""

    NOTHING = "nothing, not even a caller"
    CALLER = "a caller whose tickets live"
    READ = "reading"
    CREATE = "adding"
    CHANGE = "changing"
    EVERYTHING = "the whole of the charts: the custodian's own systems alone"
    NEVER = "no one's"


class Outcome(Enum):
    """What must come of a cell."""

    OPEN = "answered, with nobody's data"
    SEEN = "given out"
    WRITTEN = "stored"
    HIDDEN = "as if it did not exist"
    FORBIDDEN = "refused, whatever there is"
    NOT_AUTHENTICATED = "the caller is nobody any more"
    REFUSED = "not for people"


TICKET_ENDED: Final = frozenset(
    {
        Situation.EXPIRED_GRANT,
        Situation.EXPIRED_TICKET,
        Situation.REVOKED_GRANT,
        Situation.REVOKED_TICKET,
        Situation.FOREIGN_TICKET,
        Situation.BEYOND,
    }
)
ALLOWED: Final = frozenset({Situation.GRANTED, Situation.READ_ONLY, Situation.SUBMIT_ONLY})


def is_one(role: Role, letters: str) -> bool:
    return role in {LETTERS[one] for one in letters}


def expected(need: Need, role: Role, situation: Situation) -> Outcome:
    """What the rules say about one cell: the three checks in their order."""
    if need is Need.NOTHING:
        return Outcome.OPEN
    if need is Need.NEVER:
        return Outcome.REFUSED
    # First: is this somebody? A relative is, as long as the appointment lasts.
    if role is Role.FAMILY_MEMBER and situation in {Situation.EXPIRED_GRANT, Situation.REVOKED_GRANT}:
        return Outcome.NOT_AUTHENTICATED
    if not shows_live_tickets(role, situation):
        return Outcome.FORBIDDEN
    if need is Need.CALLER:
        return Outcome.OPEN
    # Second: may this role do this at all?
    roles = {Need.READ: READERS, Need.CREATE: CREATORS, Need.CHANGE: CHANGERS, Need.EVERYTHING: ""}
    if not is_one(role, roles[need]):
        return Outcome.FORBIDDEN
    # Third: what does the data owner let it do?
    if need is not Need.READ and not lets_write(need, role, situation):
        return Outcome.FORBIDDEN
    if not (situation in ALLOWED or (situation is Situation.OWN and role not in STAFF)):
        return Outcome.HIDDEN
    return Outcome.SEEN if need is Need.READ else Outcome.WRITTEN


def shows_live_tickets(role: Role, situation: Situation) -> bool:
    """Whether every ticket that the caller shows lives. Who shows none shows no dead one."""
    if situation is Situation.OWN and role in STAFF:
        return True
    if role is Role.PATIENT and situation in HELD_BY_GRANT:
        return False
    return situation not in TICKET_ENDED and not is_one(role, HOLDS_NO_TICKET)


def lets_write(need: Need, role: Role, situation: Situation) -> bool:
    """Whether a grant to write stands behind the caller's tickets, to what part of whose record ever."""
    if situation is Situation.OWN:
        return role is Role.PATIENT
    if role is Role.PATIENT:
        return True
    if situation is Situation.SUBMIT_ONLY:
        return need is Need.CREATE
    return situation is not Situation.READ_ONLY


# --- the interactions -----------------------------------------------------------------------------------------


class Asked(Struct, frozen=True, kw_only=True):
    """One interaction. ``ask(ward, role, id)`` asks for a result by its id.

    ``shows`` must be in an answer that gives the result out, the result's own mark where it is empty. ``hidden`` is the
    status when it is hidden, ``role`` the one when the role may not (exports tell in their manifest what there is).
    ``by_id`` says that the id is part of the question, so that one which does not exist must give the same answer;
    ``stores`` is false for what writes only where nothing is there yet.
    """

    name: str
    need: Need
    ask: Callable[[Ward, Role, str], httpx.Response]
    kinds: tuple[Kind, ...]
    operation: str = ""
    shows: str = ""
    seen: int = 200
    hidden: int = 404
    role: int = 403
    by_id: bool = True
    stores: bool = True


def target(situation: Situation) -> str:
    """The result that is asked for."""
    return GRAVE if situation is Situation.HIGHER_SENSITIVITY else PLAIN


def get(path: str, **headers: str) -> Callable[[Ward, Role, str], httpx.Response]:
    """A GET; ``ID`` in the path is the result's id."""
    return lambda ward, role, rid: ward.call(role, "GET", path.replace("ID", rid), **headers)


def form(path: str, text: str) -> Callable[[Ward, Role, str], httpx.Response]:
    """A search by POST."""
    kind = "application/x-www-form-urlencoded"
    return lambda ward, role, rid: ward.call(role, "POST", path, text.replace("ID", rid).encode(), content_type=kind)


def changed(ward: Ward, rid: str, *, named: bool = True) -> dict[str, Any]:
    """A new version of a result, or a new result that lies where it lies; only the version has its mark."""
    text = mark(rid) if named else "another"
    made = observation(rid, grave=target(ward.situation) == GRAVE, note=ward.fresh(), text=text)
    return made if named else {name: value for name, value in made.items() if name != "id"}


def in_bundle(kind: str, method: str, url: str) -> Callable[[Ward, Role, str], httpx.Response]:
    """The interaction as the only entry of a bundle; a batch's answer counts as its entry's."""

    def ask(ward: Ward, role: Role, rid: str) -> httpx.Response:
        body = None if method == "GET" else changed(ward, rid, named=method == "PUT")
        answer = ward.call(role, "POST", "", transaction(entry(method, url.replace("ID", rid), body), kind=kind))
        if kind == "batch" and answer.status_code == 200:
            (inner,) = answer.json()["entry"]
            return httpx.Response(int(inner["response"]["status"][:3]), content=answer.content)
        return answer

    return ask


def create(query: str = "", *, condition: str = "") -> Callable[[Ward, Role, str], httpx.Response]:
    def ask(ward: Ward, role: Role, rid: str) -> httpx.Response:
        headers = {"if_none_exist": condition.replace("ID", rid)} if condition else {}
        return ward.call(
            role, "POST", f"Observation{query.replace('ID', rid)}", changed(ward, rid, named=False), **headers
        )

    return ask


def put(path: str, *, named: bool) -> Callable[[Ward, Role, str], httpx.Response]:
    def ask(ward: Ward, role: Role, rid: str) -> httpx.Response:
        body = changed(ward, rid)
        if not named:
            del body["id"]
        return ward.call(role, "PUT", path.replace("ID", rid), body)

    return ask


def patch(path: str) -> Callable[[Ward, Role, str], httpx.Response]:
    def ask(ward: Ward, role: Role, rid: str) -> httpx.Response:
        steps = [{"op": "replace", "path": "/note/0/text", "value": ward.fresh()}]
        kind = "application/json-patch+json"
        return ward.call(role, "PATCH", path.replace("ID", rid), steps, content_type=kind)

    return ask


def export(path: str) -> Callable[[Ward, Role, str], httpx.Response]:
    """The whole of an export: begun, followed, fetched, ended. The answer is the file's, its body manifest and file."""

    def ask(ward: Ward, role: Role, _rid: str) -> httpx.Response:
        begun = ward.call(role, "GET", f"{path}?_type=Observation", prefer="respond-async")
        if begun.status_code != 202:
            return begun
        status = begun.headers["content-location"]
        manifest = ward.call(role, "GET", status)
        assert manifest.status_code == 200, manifest.text
        file = ward.call(role, "GET", status.replace("$export-status", "$export-file") + "/Observation.ndjson")
        assert bool(manifest.json()["output"]) == bool(file.status_code == 200 and file.content)
        assert ward.call(role, "DELETE", status).status_code == 202
        assert ward.call(role, "GET", status).status_code == 404
        return httpx.Response(file.status_code, content=manifest.content + file.content)

    return ask


def graph(ward: Ward, role: Role, _rid: str) -> httpx.Response:
    """The graph travels in a Binary: it is unpacked, so that one sees what is in it."""
    answer = ward.call(role, "GET", f"Patient/{OLGA}/$graph")
    if answer.status_code != 200:
        return answer
    return httpx.Response(200, content=base64.b64decode(answer.json()["data"]))


def events(ward: Ward, role: Role, rid: str) -> httpx.Response:
    """What a stream from the beginning says first."""
    return ward.stream(role, f"$events?criteria=Observation?_id={rid}", 2, last_event_id="0")


def validate(ward: Ward, role: Role, rid: str) -> httpx.Response:
    return ward.call(role, "POST", "Observation/$validate", observation(rid, text="another"))


def delete(ward: Ward, role: Role, rid: str) -> httpx.Response:
    return ward.call(role, "DELETE", f"Observation/{rid}")


def row(name: str, need: Need, ask: Callable[[Ward, Role, str], httpx.Response], kind: Kind, **told: Any) -> Asked:
    return Asked(name=name, need=need, ask=ask, kinds=told.pop("kinds", (kind,)), **told)


READ, CREATE, CHANGE = Need.READ, Need.CREATE, Need.CHANGE
EXPORTS: Final = (Kind.OPERATION, Kind.EXPORT_STATUS, Kind.EXPORT_FILE, Kind.EXPORT_CANCEL)
LISTED: Final = {"hidden": 200, "by_id": False}
INTERACTIONS: Final = (
    row("capabilities", Need.NOTHING, get("metadata"), Kind.CAPABILITIES),
    row("read", READ, get("Observation/ID"), Kind.READ),
    row("read, if changed", READ, get("Observation/ID", if_none_match='W/"0"'), Kind.READ),
    row("read, a part", READ, get("Observation/ID?_elements=value"), Kind.READ),
    row("vread", READ, get("Observation/ID/_history/1"), Kind.VREAD),
    row("history of one", READ, get("Observation/ID/_history"), Kind.HISTORY_INSTANCE),
    row("history of a type", READ, get("Observation/_history?_count=500"), Kind.HISTORY_TYPE, **LISTED),
    row("history of everything", Need.EVERYTHING, get("_history"), Kind.HISTORY_SYSTEM),
    row("search", READ, get("Observation?_id=ID"), Kind.SEARCH_TYPE, hidden=200),
    row("search by POST", READ, form("Observation/_search", "_id=ID"), Kind.SEARCH_TYPE, hidden=200),
    row("search by a value", READ, get(f"Observation?patient={OLGA}&code=718-7"), Kind.SEARCH_TYPE, **LISTED),
    row("search, counted", READ, get("Observation?_id=ID&_summary=count"), Kind.SEARCH_TYPE,
        shows='"total":1', hidden=200),
    row("search, sorted", READ, get("Observation?_sort=-date&_id=ID"), Kind.SEARCH_TYPE, hidden=200),
    row("search along a chain", READ, get("Observation?_id=ID&subject:Patient.family=Olsen"), Kind.SEARCH_TYPE,
        hidden=200),
    row("search by what refers", READ, get("Patient?_has:Observation:subject:_id=ID"), Kind.SEARCH_TYPE,
        shows=PATIENT_MARK, hidden=200),
    row("search with what refers", READ, get(f"Patient?_id={OLGA}&_revinclude=Observation:subject&_count=500"),
        Kind.SEARCH_TYPE, **LISTED),
    row("search everywhere", READ, get("?_type=Observation&_id=ID"), Kind.SEARCH_SYSTEM, hidden=200),
    row("search everywhere by POST", READ, form("_search", "_type=Observation&_id=ID"), Kind.SEARCH_SYSTEM, hidden=200),
    row("search in a compartment", READ, get(f"Patient/{OLGA}/Observation?_id=ID"), Kind.COMPARTMENT, hidden=200),
    row("create", CREATE, create(), Kind.CREATE, seen=201, hidden=403, by_id=False),
    row("create, unless there", CREATE, create(condition="_id=ID"), Kind.CREATE, hidden=403, stores=False),
    row("create at an address", CREATE, create("?_id=ID"), Kind.CREATE, hidden=403, stores=False),
    row("update", CHANGE, put("Observation/ID", named=True), Kind.UPDATE),
    row("update of a match", CHANGE, put("Observation?_id=ID", named=False), Kind.UPDATE_MATCHING, hidden=403),
    row("patch", CHANGE, patch("Observation/ID"), Kind.PATCH),
    row("patch of a match", CHANGE, patch("Observation?_id=ID"), Kind.PATCH_MATCHING),
    row("delete", Need.NEVER, delete, Kind.UPDATE, seen=405),
    row("read in a batch", READ, in_bundle("batch", "GET", "Observation/ID"), Kind.BUNDLE),
    row("search in a batch", READ, in_bundle("batch", "GET", "Observation?_id=ID"), Kind.BUNDLE, hidden=200),
    row("update in a batch", CHANGE, in_bundle("batch", "PUT", "Observation/ID"), Kind.BUNDLE),
    row("read in a transaction", READ, in_bundle("transaction", "GET", "Observation/ID"), Kind.BUNDLE),
    row("search in a transaction", READ, in_bundle("transaction", "GET", "Observation?_id=ID"), Kind.BUNDLE,
        hidden=200),
    row("create in a transaction", CREATE, in_bundle("transaction", "POST", "Observation"), Kind.BUNDLE,
        hidden=403, by_id=False),
    row("update in a transaction", CHANGE, in_bundle("transaction", "PUT", "Observation/ID"), Kind.BUNDLE),
    row("export", READ, export("$export"), Kind.OPERATION, kinds=EXPORTS, operation="export", role=404, **LISTED),
    row("export of patients", READ, export("Patient/$export"), Kind.OPERATION, kinds=EXPORTS, operation="export",
        role=404, **LISTED),
    row("everything", READ, get(f"Patient/{OLGA}/$everything?_count=500"), Kind.OPERATION, operation="everything",
        hidden=0, by_id=False),
    row("summary", READ, get(f"Patient/{OLGA}/$summary"), Kind.OPERATION, operation="summary", hidden=0, by_id=False),
    row("graph", READ, graph, Kind.OPERATION, operation="graph", hidden=0, by_id=False,
        shows="Observation/ID"),
    row("events", READ, events, Kind.OPERATION, operation="events", shows="Observation/ID", hidden=200),
    row("received bytes", READ, get("Observation/ID/$received"), Kind.OPERATION, operation="received"),
    row("meta", READ, get("Observation/ID/$meta"), Kind.OPERATION, operation="meta", shows='"versionId"'),
    row("validate", Need.CALLER, validate, Kind.OPERATION, operation="validate"),
)  # fmt: skip
ELSEWHERE: Final = {
    "to-messages": "turns a Consent that the caller brings into messages; gives no records out",
    "remote-read": "asks other members in the name of a system's own party; people have none (test_remote)",
}
"""Operations that are no part of the matrix, and why."""
CELLS: Final = 7224


def test_no_interaction_role_or_situation_is_missing(ward: Ward) -> None:
    assert {kind for one in INTERACTIONS for kind in one.kinds} == set(Kind)
    (rest,) = ward.ask("GET", "/fhir/metadata").json()["rest"]
    offered = {one["name"] for one in rest["operation"]}
    offered |= {one["name"] for kind in rest["resource"] for one in kind.get("operation", [])}
    offered |= {name.removeprefix("$") for name in OWN_OPERATIONS}
    assert {one.operation for one in INTERACTIONS if one.operation} | ELSEWHERE.keys() == offered
    assert set(LETTERS.values()) == set(Role) == set(ROLES)
    assert len(INTERACTIONS) * len(Role) * len(Situation) == CELLS


# --- the cells ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(Situation), ids=lambda one: one.name.lower())
def situation(request: pytest.FixtureRequest) -> Situation:
    found: Situation = request.param
    return found


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    ward = Ward(tmp_path_factory.mktemp("ward"))
    yield ward
    ward.close()


@pytest.fixture(scope="module")
def standing(situation: Situation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    ward = Ward(tmp_path_factory.mktemp("ward"))
    ward.stand(situation)
    yield ward
    ward.close()


@pytest.mark.parametrize("role", list(Role), ids=lambda one: one.name.lower())
def test_cells(standing: Ward, situation: Situation, role: Role) -> None:
    wrong: list[str] = []
    judged = 0
    for one in INTERACTIONS:
        wanted = expected(one.need, role, situation)
        wrong += [f"{one.name}: {wanted.value}, but {what}" for what in judge(standing, one, role, situation, wanted)]
        judged += 1
    assert wrong == []
    assert judged * len(Role) * len(Situation) == CELLS


def judge(ward: Ward, one: Asked, role: Role, situation: Situation, wanted: Outcome) -> Iterator[str]:
    """What is wrong with one cell."""
    rid = target(situation)
    before = ward.last_seq()
    answer = one.ask(ward, role, rid)
    stored = ward.last_seq() - before
    status, body = answer.status_code, answer.text
    statuses = {
        Outcome.OPEN: 200,
        Outcome.SEEN: one.seen,
        Outcome.WRITTEN: one.seen,
        Outcome.HIDDEN: one.hidden or hidden_status(role, situation),
        Outcome.FORBIDDEN: one.role if shows_live_tickets(role, situation) else 403,
        Outcome.NOT_AUTHENTICATED: 401,
        Outcome.REFUSED: 405,
    }
    if status != statuses[wanted]:
        yield f"the status is {status}: {body[:300]}"
    if stored != (wanted is Outcome.WRITTEN and one.stores):
        yield f"{stored} versions were stored"
    shows = one.shows.replace("ID", rid) or mark(rid)
    if wanted is Outcome.SEEN and shows not in body:
        yield f"it is not shown: {body[:300]}"
    if wanted not in {Outcome.SEEN, Outcome.WRITTEN} and (mark(rid) in body or shows in body):
        yield f"it is shown: {body[:300]}"
    if wanted is Outcome.HIDDEN and one.by_id:
        nothing = one.ask(ward, role, NOBODY)
        if comparable(answer, rid) != comparable(nothing, NOBODY):
            yield f"it can be told from nothing: {comparable(answer, rid)} {comparable(nothing, NOBODY)}"


def hidden_status(role: Role, situation: Situation) -> int:
    """What an operation on a whole patient answers when the result is hidden: 200 where something else is seen."""
    sees_the_rest = {Situation.NARROWER_CATEGORY, Situation.NARROWER_DAYS, Situation.HIGHER_SENSITIVITY}
    return 200 if situation in sees_the_rest and is_one(role, READERS) else 404


def comparable(answer: httpx.Response, rid: str) -> tuple[int, tuple[tuple[str, str], ...], str]:
    """Everything that a caller could compare, the id that was asked for apart."""
    headers = tuple(sorted(answer.headers.items()))
    return answer.status_code, headers, answer.text.replace(rid, "ID")
