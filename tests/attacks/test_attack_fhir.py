"""Goal: the FHIR server tells and does nothing beyond a caller's sight, role and scopes, and nobody can choke it.

Method: the real server over real charts (``fhir_world``); the attacker is a caller with a narrow sight or narrow
scopes. Where something must stay unknown, the answers for what is hidden and for what is not there are compared.
"""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from carechain.charts.binding import provisional
from carechain.charts.sight import of_patient
from carechain.core.limits import FHIR_DOWNLOADS, FHIR_DOWNLOADS_PER_CALLER, SEARCH_CHAINS
from carechain.core.rejection import Rejected
from carechain.core.scope import Scope
from carechain.core.vocabulary import Category, Sensitivity, mask
from carechain.gatekeeper.across import Given
from carechain.gateway import remote
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.app import FhirServer
from carechain.gateway.principal import Principal, Rights
from fhir_world import ALL, BASE, READ, FhirWorld, entry, observation, patient, principal, transaction

PATCH = {"content-type": "application/json-patch+json"}
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
V = {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "V"}]}
WRITES = {"*": ALL}
LABORATORY = ("category=laboratory",)
Json = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FhirWorld]:
    """Two patients. Of the first, a technician sees and may write results up to N; ``hid`` is in an encounter."""
    with FhirWorld(tmp_path / "charts.db") as world:
        for name in ("seen", "other"):
            world.put(patient(name))
            world.put(
                {
                    "resourceType": "Encounter",
                    "id": f"visit-{name}",
                    "status": "finished",
                    "class": {"code": "AMB"},
                    "subject": {"reference": f"Patient/{name}"},
                    "period": {"start": "2010-01-01"},
                }
            )
        world.put(observation("open", "seen"))
        world.put(observation("hid", "seen", code="1-1", encounter={"reference": "Encounter/visit-seen"}))
        world.put(observation("grave", "seen", code="2-2", meta=V))
        world.put(observation("others", "other", code="3-3"))
        results = Scope(categories=mask(Category.RESULT), ceiling=Sensitivity.N)
        world.caller("technician", of_patient(provisional("seen"), results), WRITES)
        world.readings.clear()
        yield world


def report(*results: str, **fields: Any) -> Json:
    return {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "report"},
        "effectiveDateTime": "2024-01-01",
        "result": [{"reference": one} for one in results],
        **fields,
    }


OF_SEEN = {"subject": {"reference": "Patient/seen"}}


def coded(category: str) -> list[Json]:
    return [{"coding": [{"system": CATEGORY, "code": category}]}]


def an_app(world: FhirWorld, rights: dict[str, Rights], name: str = "app") -> str:
    """An app that one patient let in, with narrow scopes and the patient's whole sight."""
    return world.caller(name, of_patient(provisional("seen")), rights, client_id=name)


# --- what is written draws nothing into sight -----------------------------------------------------------


def test_hidden_result_drawn_into_a_report_of_ones_own(world: FhirWorld) -> None:
    """A report gathers its results into its own record; naming a hidden one would bring it to where it is seen."""
    assert world.get("Observation/hid", by="technician").status == 404
    made = world.ask("POST", "DiagnosticReport", report("Observation/hid", **OF_SEEN), by="technician")
    assert made.status == 201
    assert world.get("Observation/hid", by="technician").status == 404
    sent = transaction(entry("POST", "DiagnosticReport", report("Observation/hid", **OF_SEEN)))
    assert world.ask("POST", "", sent, by="technician").status == 200
    made = world.ask(
        "PUT", f"DiagnosticReport/{made.json['id']}", made.json | report("Observation/hid", **OF_SEEN), by="technician"
    )
    assert world.get("Observation/hid", by="technician").status == 404
    assert world.get("Observation?_id=hid", by="technician").ids == []


def test_reference_laid_out_for_a_result_to_come(world: FhirWorld) -> None:
    """The attacker knows how ids are made and names a result before it exists, to catch it when it is stored."""
    assert world.ask("POST", "DiagnosticReport", report("Observation/late", **OF_SEEN), by="technician").status == 201
    world.put(observation("late", "seen", encounter={"reference": "Encounter/visit-seen"}))
    assert world.get("Observation/late", by="technician").status == 404
    assert world.get("Observation/late").status == 200


@pytest.mark.parametrize("field", ["result", "encounter"])
def test_grade_of_ones_own_resource_as_an_oracle(world: FhirWorld, field: str) -> None:
    """What refers to something restricted becomes restricted: if it vanishes, its target is there."""
    world.put(
        {"resourceType": "Encounter", "id": "grave", "status": "finished", "class": {"code": "AMB"}, "meta": V}
        | OF_SEEN
    )
    seen = []
    for name in ("grave", "nothing"):
        pointing = {"encounter": {"reference": f"Encounter/{name}"}} if field == "encounter" else {}
        results = ["Observation/open", *([f"Observation/{name}"] if field == "result" else [])]
        made = world.ask("POST", "DiagnosticReport", report(*results, **pointing, **OF_SEEN), by="technician")
        seen.append((made.status, world.get(f"DiagnosticReport/{made.json['id']}", by="technician").status))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("others", [(), ("Observation/open",)])
@pytest.mark.parametrize("hidden", ["Observation/grave", "Observation/others", "Encounter/visit-other"])
def test_chart_of_ones_own_resource_as_an_oracle(world: FhirWorld, others: tuple[str, ...], hidden: str) -> None:
    """A resource without a subject goes where what it names lies: refused or not would tell whether that is there."""
    answers = [
        world.ask("POST", "DiagnosticReport", report(*others, name), by="technician").status
        for name in (hidden, hidden + "-nothing")
    ]
    assert answers[0] == answers[1]


def test_id_of_something_hidden_claimed_in_a_transaction(world: FhirWorld) -> None:
    """The uuid of something hidden is posted: it must be neither overwritten nor told of."""
    sent = transaction(entry("POST", "Observation", observation(None, "seen"), "urn:uuid:grave"))
    made = world.ask("POST", "", sent, by="technician")
    assert made.json["entry"][0]["response"]["status"] == "201 Created"
    assert "grave" not in made.body.decode()
    assert world.get("Observation/grave").json["meta"]["versionId"] == "1"


def test_conditional_reference_to_something_hidden(world: FhirWorld) -> None:
    """``Patient?identifier=…`` as a reference would be resolved to an id that the attacker does not know."""
    world.put(patient("secret", identifier=[{"system": "urn:mrn", "value": "7"}]))
    answers = []
    for number in ("7", "8"):
        subject = {"subject": {"reference": f"Patient?identifier=urn:mrn|{number}"}}
        sent = transaction(entry("POST", "Observation", observation(None, "x") | subject, "urn:uuid:a"))
        answers.append(world.ask("POST", "", sent, by="technician").whole())
    assert answers[0] == answers[1]


# --- scopes ---------------------------------------------------------------------------------------------


def test_patch_by_an_app_that_may_only_write(world: FhirWorld) -> None:
    """``patient/Observation.cu`` is no right to read: a patch's ``test`` and its answer would be one."""
    app = an_app(world, {"Observation": Rights(create=True, update=True)})
    steps = [{"op": "test", "path": "/valueQuantity/value", "value": 72.5}]
    data = b64encode(orjson.dumps(steps)).decode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}
    for answer in (
        world.ask("PATCH", "Observation/open", steps, by=app, headers=PATCH),
        world.ask("PATCH", "Observation?code=8867-4", steps, by=app, headers=PATCH),
        world.ask("POST", "", transaction(entry("PATCH", "Observation/open", binary)), by=app),
    ):
        assert (answer.status, answer.label) == (403, FhirCode.MAY_NOT.label)
        assert b"72.5" not in answer.body


def test_patch_test_on_something_hidden(world: FhirWorld) -> None:
    """Right and wrong guesses about what is hidden, and about what is not there, are one answer."""
    answers = []
    for name, value in (("grave", 72.5), ("grave", 1), ("nothing", 1)):
        steps = [{"op": "test", "path": "/valueQuantity/value", "value": value}]
        answers.append(world.ask("PATCH", f"Observation/{name}", steps, by="technician", headers=PATCH).whole())
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    "path", ["Patient/seen/$everything?_count=1", "Patient/seen/$everything?_type=Condition&_count=1"]
)
def test_pages_that_count_what_the_scopes_hide(world: FhirWorld, path: str) -> None:
    """One entry a page: a next link after nothing would count what the app may not read."""
    app = an_app(world, {"Patient": READ, "Observation": Rights(read=True, search=True, filters=LABORATORY)})
    before = _pages(world, path, app)
    for number in range(5):
        world.put({"resourceType": "Condition", "id": f"c{number}", "code": {"text": "x"}} | OF_SEEN)
        world.put(observation(f"s{number}", "seen", category=coded("social-history")))
    assert _pages(world, path, app) == before


def test_history_that_counts_what_the_scopes_hide(world: FhirWorld) -> None:
    """The same through the history of a type."""
    app = an_app(world, {"Observation": Rights(read=True, search=True, filters=LABORATORY)})
    assert _pages(world, "Observation/_history?_count=1", app) == 1


def _pages(world: FhirWorld, path: str, app: str) -> int:
    number, url = 0, path
    while url:
        answer = world.get(url, by=app)
        assert answer.status == 200
        number, url = number + 1, answer.link("next") or ""
    return number


def test_old_version_that_the_scopes_do_not_cover(world: FhirWorld) -> None:
    """What became a laboratory result was a social history before; ``category=laboratory`` does not open that."""
    world.put(observation("moved", "seen", code="secret-1", category=coded("social-history")))
    world.put(observation("moved", "seen", code="plain-1", category=coded("laboratory")))
    app = an_app(world, {"Observation": Rights(read=True, search=True, filters=LABORATORY)})
    assert world.get("Observation/moved", by=app).status == 200
    for path in ("Observation/moved/_history/1", "Observation/moved/$received?versionId=1"):
        assert world.get(path, by=app).status == 404
    for path in ("Observation/moved/_history", "Observation/_history"):
        answer = world.get(path, by=app)
        assert answer.ids == ["Observation/moved"]
        assert b"secret-1" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "Observation?patient.family=Wang",
        "Observation?patient.name:contains=a",
        "Patient?_has:Observation:patient:code=1-1",
        "Observation?_has:Provenance:target:agent=x",
        "?_type=Patient,Observation",
        "Patient/seen/Patient",
    ],
)
def test_types_read_through_types_that_scopes_open(world: FhirWorld, path: str) -> None:
    """Chains, ``_has`` and searches over the whole system must not pass through a type that the app may not search."""
    app = an_app(world, {"Observation": READ, "Encounter": READ})
    answer = world.get(path, by=app)
    assert (answer.status, answer.label) == (403, FhirCode.MAY_NOT.label)


@pytest.mark.parametrize(
    "path",
    [
        "Observation?_include=Observation:patient",
        "Observation?_include=*",
        "Encounter?_revinclude=Observation:encounter",
        "Encounter?_revinclude:iterate=Observation:encounter&_include:iterate=Observation:patient",
        "Encounter?_include=*&_include:iterate=Patient:link",
    ],
)
def test_includes_of_what_the_scopes_hide(world: FhirWorld, path: str) -> None:
    """Includes bring along neither other types nor resources that a scope's query leaves out."""
    app = an_app(world, {"Encounter": READ, "Observation": Rights(read=True, search=True, filters=LABORATORY)})
    assert set(world.get(path, by=app).ids) <= {"Encounter/visit-seen"}


# --- what is found out leaves a trace -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "Observation?code=8867-4&_summary=count",
        "Observation?code=8867-4&_count=0",
        "Observation?value-quantity=gt70&_total=accurate&_count=0",
        "Patient?_has:Observation:patient:code=8867-4&_summary=count",
    ],
)
def test_reading_by_counting(world: FhirWorld, path: str) -> None:
    """A number of matches tells a diagnosis as well as the resource does: it is in the patient's audit trail."""
    assert world.get(path, by="technician" if "Patient?" not in path else an_app(world, WRITES)).json["total"] == 1
    (reading,) = world.readings
    assert reading.counted == 1
    world.readings.clear()
    world.audit_works = False
    assert world.get(path).status == 503


def test_reading_by_listening(world: FhirWorld) -> None:
    """Events name what meets the criteria, so a stream from the beginning is a search, and audited like one."""
    first, second = world.stream("$events?criteria=Observation?code=8867-4", by="technician", most=2, after="0")
    assert first == b": open\n\n"
    assert b"Observation/open" in second
    (reading,) = [one for one in world.readings if one.count]
    assert reading.records


def test_probing_by_batch(world: FhirWorld) -> None:
    """A batch of guesses is an answer with status 200; that what was asked for was refused is noted all the same."""
    guesses = [entry("GET", f"Observation/guess-{number}") for number in range(20)]
    assert world.ask("POST", "", transaction(*guesses, kind="batch"), by="technician").status == 200
    assert [one.refused for one in world.readings if one.refused] == [int(FhirCode.NOT_FOUND)]


def test_beats_that_tell_of_hidden_writes(world: FhirWorld) -> None:
    """A stream that stirs whenever anybody's resource is stored would tell when a hospital is busy, and with whom."""
    written = 0

    async def store(number: int) -> None:
        nonlocal written
        if number == 2:
            for written in range(1, 4):
                await world.store(observation(f"other-{written}", "other"))
            await world.store(observation("own", "seen"))

    parts = world.stream("$events?criteria=Observation", by="technician", most=3, then=store)
    assert written == 3
    assert parts[1] == b": beat\n\n"
    # The next part is about the caller's own resource: the three before it made none.
    assert b"Observation/own" in parts[2]


# --- links, jobs and streams of others ------------------------------------------------------------------


def test_stolen_page_link(world: FhirWorld) -> None:
    """A link to the next page is worth nothing to another caller, another app, or at another address."""
    for number in range(4):
        world.put(observation(f"o{number}", "seen"))
    link = world.get("Observation?_count=1", by=an_app(world, WRITES)).link("next")
    assert link is not None
    assert world.get(link, by="app").status == 200
    an_app(world, WRITES, "another")
    thief = world.get(link, by="another")
    assert (thief.status, thief.label) == (410, FhirCode.PAGE_UNKNOWN.label)
    for elsewhere in ("Encounter", "Observation/_history", "Patient/seen/$everything"):
        moved = f"{BASE}/{elsewhere}?{link.partition('?')[2]}"
        assert world.get(moved, by="app").status == 410


def test_export_of_another_caller(world: FhirWorld) -> None:
    """A job's number found somewhere opens neither its list nor its files, and cancels nothing."""
    begun = world.get("$export", headers={"prefer": "respond-async"})
    job = begun.headers["content-location"].rpartition("/")[2]
    for method, path in (
        ("GET", f"$export-status/{job}"),
        ("GET", f"$export-file/{job}/Observation.ndjson"),
        ("DELETE", f"$export-status/{job}"),
    ):
        assert world.ask(method, path, by="technician").label == FhirCode.EXPORT_UNKNOWN.label
    assert world.get(f"$export-status/{job}").status == 200


def test_all_downloads_held_by_one_caller(world: FhirWorld) -> None:
    """Whoever reads its files slowly keeps a snapshot open for each, and must not take everybody's turn."""
    assert FHIR_DOWNLOADS_PER_CALLER < FHIR_DOWNLOADS
    begun = world.get("$export", headers={"prefer": "respond-async"}, by="technician")
    job = begun.headers["content-location"].rpartition("/")[2]
    path = f"$export-file/{job}/Observation.ndjson"
    assert isinstance(world.app, FhirServer)
    with world.open_streams(path, by="technician", number=FHIR_DOWNLOADS_PER_CALLER):
        pass
    assert world.get(path, by="technician").status == 200
    exports = world.app._dispatch._exports
    exports._downloads[world.callers["technician"].party, ""] = FHIR_DOWNLOADS_PER_CALLER
    refused = world.get(path, by="technician")
    assert (refused.status, refused.label) == (429, FhirCode.TOO_MANY_EXPORTS.label)


# --- choking it -----------------------------------------------------------------------------------------


def test_chains_that_multiply(world: FhirWorld) -> None:
    """A few kilobytes of chains over types that refer to each other are thousands of questions to the database."""
    chain = "participant._has:CareTeam:participant:participant._has:CareTeam:participant:status=active"
    assert world.get(f"CareTeam?{chain}", by="technician").status == 200
    answer = world.get("CareTeam?" + "&".join([chain] * 60), by="technician")
    assert (answer.status, answer.issue["code"]) == (400, "too-costly")
    assert SEARCH_CHAINS < 60 * 10


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"resourceType":"Observation","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"resourceType":"Observation","valueInteger":' + b"9" * 100_000 + b"}",
        b'{"resourceType":"Observation","valueQuantity":{"value":1e999999999}}',
        b'{"resourceType":"Bundle","type":"transaction","entry":' + b"[" * 50_000,
        b'{"resourceType":"Bundle","type":"batch","entry":[' + b"{}," * 20_000 + b"{}]}",
        b'{"resourceType":"Observation","status":"' + b"\\u0000" * 10_000 + b'"}',
        b"\xff\xfe{\x00",
    ],
    ids=["arrays", "objects", "nested", "digits", "exponent", "bundle", "entries", "nul", "utf-16"],
)
@pytest.mark.parametrize("path", ["Observation", "", "Observation/$validate", "Patient/$everything"])
def test_bodies_that_break_parsers(world: FhirWorld, path: str, body: bytes) -> None:
    """Depth, digits, exponents and encodings are refused in words, never by a crash."""
    answer = world.ask("POST", path, body, by="technician")
    assert answer.status < 500
    assert answer.json["resourceType"] == "OperationOutcome"


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "add", "path": "/note", "value": [{"text": "x" * 1000}]}]
        + [{"op": "copy", "from": "/note", "path": "/note/0/extension"}] * 60,
        [{"op": "add", "path": "/a", "value": {}}] + [{"op": "copy", "from": "/a", "path": "/a/a"}] * 300,
        [{"op": "move", "from": "", "path": "/a"}],
        [{"op": "remove", "path": "/x/" + "0" * 5_000}],
    ],
    ids=["doubling", "nesting", "into-itself", "index"],
)
def test_patches_that_grow(world: FhirWorld, steps: list[Json]) -> None:
    """A patch that copies the whole into itself is stopped before it fills the memory."""
    assert 400 <= world.ask("PATCH", "Observation/open", steps, headers=PATCH).status < 500
    assert world.get("Observation/open").json["meta"]["versionId"] == "1"


# --- content that attacks its readers -------------------------------------------------------------------


@pytest.mark.parametrize(
    "div",
    [
        "<script>alert(1)</script>",
        "<p onclick='x'>a</p>",
        "<a href='javascript:alert(1)'>a</a>",
        "<a href='&#106;ava&#x9;script:alert(1)'>a</a>",
        "<img src='x' onerror='x'/>",
        "<iframe src='https://evil.example'/>",
        "<p style='background:url(https://evil.example)'>a</p>",
        "<svg xmlns='http://www.w3.org/2000/svg' onload='x'/>",
    ],
)
def test_narrative_that_runs_in_a_browser(world: FhirWorld, div: str) -> None:
    """What runs or reaches out is not stored; and nothing is served as a page."""
    text = {"status": "generated", "div": f"<div xmlns='http://www.w3.org/1999/xhtml'>{div}</div>"}
    answer = world.ask("POST", "Observation", observation(None, "seen", text=text), by="technician")
    assert answer.status in {400, 422}
    assert b"evil" not in answer.body
    assert b"alert" not in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert world.get("Observation/open", headers={"accept": "text/html"}).status == 406


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "Observation?code-value-quantity=Geheimnis", None),
        ("GET", "Observation?Geheimnis=1", None),
        ("GET", "Observation?date=Geheimnis", None),
        ("GET", "Geheimnis/1", None),
        ("GET", "Observation/Geheimnis", None),
        ("GET", "Observation?_page=Geheimnis", None),
        ("POST", "Observation", {"resourceType": "Observation", "status": "Geheimnis", "Geheimnis": "Geheimnis"}),
        ("POST", "", transaction(entry("PUT", "Geheimnis/1", patient("Geheimnis")))),
        ("POST", "Observation", b'{"resourceType":"Geheimnis'),
    ],
)
def test_errors_that_repeat_what_was_sent(
    world: FhirWorld, method: str, path: str, body: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal stands in logs and on screens: what was sent is neither in it nor on the output."""
    answer = world.ask(method, path, body, by="technician", headers={"prefer": "handling=strict"})
    told = orjson.dumps([one | {"expression": []} for one in answer.json["issue"]])
    assert answer.status >= 400
    assert b"Geheimnis" not in told
    captured = capsys.readouterr()
    assert "Geheimnis" not in captured.out + captured.err


# --- other members --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"no JSON",
        b"[1]",
        b'{"id":"a"}',
        b'{"resourceType":"Evil","id":"a"}',
        b'{"resourceType":"Patient","id":"../../x"}',
        b'{"resourceType":"Patient","id":7}',
        b'{"resourceType":"Patient","resourceType":"Observation","id":"a"}',
        b'{"resourceType":"Patient","id":"a","text":{"div":"<div xmlns=\'http://www.w3.org/1999/xhtml\'><script/></div>"}}',
        b'{"resourceType":"Patient","id":"a","contained":[{"text":{"div":"<script/>"}}]}',
        b"[" * 100_000,
    ],
)
def test_malicious_member_gives_what_breaks_or_runs(content: bytes) -> None:
    """Anchored and proven is not harmless: such a part is left out and said to be, and the others' parts are whole."""
    assert not remote._is_usable(content)
    assert remote._is_usable(orjson.dumps(observation("a", "b")))
    given = Given(organisation=bytes(32), pseudonym=bytes(32), ticket=bytes(32), height=1, records=(), lines=())
    assert remote._unusable(given).label == "REMOTE.CONTENT_UNUSABLE"


def test_remote_reading_beyond_the_tokens_scopes() -> None:
    """A system's token for one type must not fetch the others from elsewhere, where its party's ticket opens them."""
    held = [
        orjson.dumps(one)
        for one in (
            patient("a"),
            observation("lab", "a", category=coded("laboratory")),
            observation("social", "a", category=coded("social-history")),
        )
    ]
    caller: Principal = principal("system", rights={"Observation": Rights(read=True, filters=LABORATORY)})
    assert remote._readable(caller, held, ZoneInfo("UTC")) == [held[1]]
    assert remote._readable(principal("system"), held, ZoneInfo("UTC")) == []
    strange = principal("system", rights={"*": Rights(read=True, filters=("no-such-parameter=1",))})
    with pytest.raises(Rejected):
        remote._readable(strange, held, ZoneInfo("UTC"))
