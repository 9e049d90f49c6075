"""Goal: another FHIR server is read as it is, is asked for nothing but GET, and cannot lead this program elsewhere.

Method: a small FHIR server on a loopback port, over real HTTP, whose resources and behaviour a test chooses; the same
reader and comparison as for databases. Two servers stand for "elsewhere", and each remembers what it was asked.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from carechain.charts.record import Tampered, check
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category
from carechain.node.ports import free_ports
from carechain.sources.base import Pointer, SourceUnavailable
from carechain.sources.codes import SourceCode
from carechain.sources.fhir import source as fhir_source
from carechain.sources.fhir.source import FhirSource
from carechain.sources.pointers import Pointers
from carechain.sources.reader import SourceReader
from carechain.sources.registry import FhirSettings, Sources
from carechain.sources.syncing import Circumstances, Synced, sync_patient
from world import entropy_of

TYPES = ("Encounter", "Observation")
PSEUDONYM = b"p" * 32
PATIENT = '{"resourceType":"Patient","id":"p1","name":[{"family":"王","given":["小明"]}]}'
ENCOUNTER = """{
  "resourceType": "Encounter", "id": "e1", "status": "finished", "class": {"code": "AMB"},
  "subject": {"reference": "Patient/p1"}, "period": {"start": "2026-03-01T09:00:00+08:00"}
}"""


def observation(name: str, value: str = "72.50") -> str:
    return (
        f'{{"resourceType":"Observation","id":"{name}","status":"final","code":{{"text":"體重"}},'
        '"subject":{"reference":"Patient/p1"},"encounter":{"reference":"Encounter/e1"},'
        f'"effectiveDateTime":"2026-03-01","valueQuantity":{{"value":{value},"unit":"kg"}}}}'
    )


class Server:
    """Resources as text by ``Type/id``; ``special`` answers of a path come first."""

    def __init__(self) -> None:
        self.resources = {"Patient/p1": PATIENT, "Encounter/e1": ENCOUNTER}
        self.resources |= {f"Observation/o{number}": observation(f"o{number}") for number in range(5)}
        self.special: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.page = 2
        (self.port,) = free_ports(1)
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked.append((self.command, self.path, self.headers.get("authorization")))
                status, headers, body = served.answer(self.path)
                self.send_response(status)
                for name, value in {"content-type": "application/fhir+json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/fhir"

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(path)
        if parts.path in self.special:
            return self.special[parts.path]
        kind = parts.path.removeprefix("/fhir/")
        if kind == "metadata":
            return 200, {}, b'{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1"}'
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        found = [text for key, text in self.resources.items() if key.startswith(f"{kind}/")]
        if "_id" in asked:
            ids = asked["_id"].split(",")
            found = [text for text in found if json.loads(text)["id"] in ids]
        elif "patient" in asked:
            found = [text for text in found if json.loads(text)["subject"]["reference"] == asked["patient"]]
        start = int(asked.get("start", "0"))
        entries = ",".join(
            f'{{"resource":{text},"search":{{"mode":"match"}}}}' for text in found[start : start + self.page]
        )
        link = ""
        if len(found) > start + self.page:
            more = "&".join(f"{name}={value}" for name, value in {**asked, "start": start + self.page}.items())
            link = f',"link":[{{"relation":"next","url":"{self.base}/{kind}?{more}"}}]'
        return 200, {}, f'{{"resourceType":"Bundle","type":"searchset"{link},"entry":[{entries}]}}'.encode()

    def say(self, path: str, body: object, *, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.special[path] = (status, headers, data)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def source(server: Server) -> Iterator[FhirSource]:
    opened = FhirSource.open(server.base, token="secret", ca_file=None, types=TYPES)
    yield opened
    opened.close()


def test_a_chart_is_read_page_by_page(server: Server, source: FhirSource) -> None:
    found = {one.pointer: one.body for one in source.chart("p1")}
    assert set(found) == {
        Pointer("Patient", "p1"),
        Pointer("Encounter", "e1"),
        *(Pointer("Observation", f"o{number}") for number in range(5)),
    }
    assert b'"value":72.50,' in found[Pointer("Observation", "o3")]
    assert "王".encode() in found[Pointer("Patient", "p1")]
    assert {command for command, _, _ in server.asked} == {"GET"}
    assert {token for _, _, token in server.asked} == {"Bearer secret"}
    assert source.chart("nobody") == []
    assert source.patients() == ["p1"]
    assert source.check().product == "FHIR 4.0.1"


def test_another_layout_of_the_same_resource_is_the_same(server: Server, source: FhirSource) -> None:
    before = {one.pointer: one.body for one in source.chart("p1")}
    server.resources["Encounter/e1"] = json.dumps(json.loads(ENCOUNTER), indent=8)
    server.page = 100
    assert {one.pointer: one.body for one in source.read("p1", list(before))} == before


def test_only_what_was_asked_for_comes_back(server: Server, source: FhirSource) -> None:
    wanted = [Pointer("Observation", "o1"), Pointer("Observation", "gone"), Pointer("Patient", "p1")]
    assert {one.pointer for one in source.read("p1", wanted)} == {wanted[0], wanted[2]}
    others = f'{{"resource":{observation("o2")}}},{{"resource":{PATIENT}}}'
    server.say("/fhir/Observation", f'{{"resourceType":"Bundle","entry":[{others}]}}'.encode())
    assert source.read("p1", [Pointer("Observation", "o1")]) == []


class Home:
    """An organisation with this server as its source."""

    def __init__(self, folder: Path, server: Server) -> None:
        folder.mkdir()
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text("secret\n", encoding="utf-8")
        self.sources = Sources(folder)
        self.sources.add("other", FhirSettings(url=server.base, token_file=str(token), types=TYPES))
        self.pointers = Pointers.open(self.sources.pointers)
        self.pointers.link("other", PSEUDONYM, "p1")
        self.charts = Charts.open(folder / "charts.sqlite")
        self.reader = SourceReader(charts=self.charts, sources=self.sources)
        self._times = 0

    def compare(self) -> Synced:
        self._times += 1
        how = Circumstances(now_s=self._times, rng=entropy_of("fhir", self._times))
        link = self.pointers.linked("other", PSEUDONYM)
        return sync_patient(self.pointers, self.sources.source("other"), link, how)

    def close(self) -> None:
        self.reader.close()
        self.pointers.close()
        self.charts.close()


@pytest.fixture
def home(tmp_path: Path, server: Server) -> Iterator[Home]:
    opened = Home(tmp_path / "home", server)
    yield opened
    opened.close()


def test_changes_there_are_noticed_here(server: Server, home: Home) -> None:
    first = home.compare()
    assert (first.results, first.added) == (7, 7)
    record = next(one for one in first.records if one.category is Category.ENCOUNTER)
    check(home.reader.read(record.record_id), record.root)

    server.resources["Observation/o1"] = observation("o1", "72.5")
    with pytest.raises(Tampered):
        check(home.reader.read(record.record_id), record.root)
    second = home.compare()
    assert [(one.record_id, one.version) for one in second.records] == [(record.record_id, 2)]
    check(home.reader.read(record.record_id), second.records[0].root)

    del server.resources["Observation/o1"]
    with pytest.raises(Tampered):
        home.reader.read(record.record_id)
    third = home.compare()
    assert (third.deleted, [one.version for one in third.records]) == (1, [3])

    server.resources = {"Patient/p1": PATIENT}
    with pytest.raises(Rejected) as refused:
        home.reader.read(record.record_id)
    assert refused.value.code is SourceCode.RESULT_GONE
    assert home.compare().gone == (record.record_id,)


def test_a_next_page_elsewhere_is_not_followed(server: Server, elsewhere: Server, source: FhirSource) -> None:
    for url in (
        f"http://127.0.0.1:{elsewhere.port}/fhir/Patient",
        f"http://localhost:{server.port}/fhir/Patient",
        f"https://127.0.0.1:{server.port}/fhir/Patient",
        f"http://user@127.0.0.1:{server.port}/fhir/Patient",
        f"http://127.0.0.1:{server.port}/admin",
        f"http://127.0.0.1:{server.port}/fhirother/Patient",
        f"http://127.0.0.1:{server.port}/fhir/../admin",
        f"http://127.0.0.1:{server.port}/fhir/%2e%2e/admin",
        "file:///etc/passwd",
        "//169.254.169.254/latest",
        7,
    ):
        asked = len(server.asked)
        server.say("/fhir/Patient", {"resourceType": "Bundle", "link": [{"relation": "next", "url": url}]})
        with pytest.raises(Rejected) as refused:
            source.chart("p1")
        assert refused.value.code is SourceCode.LINK_ELSEWHERE, url
        assert len(server.asked) == asked + 1
    assert elsewhere.asked == []


def test_a_redirect_is_not_followed(server: Server, elsewhere: Server, source: FhirSource) -> None:
    server.say("/fhir/Patient", b"", status=302, location=f"http://127.0.0.1:{elsewhere.port}/fhir/Patient")
    with pytest.raises(SourceUnavailable, match="302"):
        source.chart("p1")
    assert elsewhere.asked == []


def test_references_are_never_followed(server: Server, elsewhere: Server, source: FhirSource) -> None:
    server.resources["Observation/o1"] = observation("o1").replace("Encounter/e1", f"{elsewhere.base}/Encounter/e1")
    source.chart("p1")
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b'{"resourceType":"OperationOutcome"}',
        b'{"resourceType":"Bundle","entry":7}',
        b'{"resourceType":"Bundle","resourceType":"Bundle"}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient"}}]}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"../../x"}}]}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":7}}]}',
        b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"p1","n":NaN}}]}',
        b"[" * 200_000,
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(server: Server, source: FhirSource, body: bytes) -> None:
    server.say("/fhir/Patient", body)
    with pytest.raises(Rejected) as refused:
        source.chart("p1")
    assert refused.value.code is SourceCode.ANSWER_UNREADABLE


def test_answers_are_bounded(server: Server, source: FhirSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_source, "ANSWER_BYTES", 500)
    with pytest.raises(Rejected) as refused:
        source.chart("p1")
    assert refused.value.code is SourceCode.ANSWER_UNREADABLE


def test_endless_pages_end(server: Server, source: FhirSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_source, "PAGES", 5)
    again = {"resourceType": "Bundle", "link": [{"relation": "next", "url": f"{server.base}/Patient?again"}]}
    server.say("/fhir/Patient", again)
    with pytest.raises(Rejected) as refused:
        source.chart("p1")
    assert refused.value.code is SourceCode.TOO_MANY_ROWS
    assert len(server.asked) == 5


def test_too_many_results_are_refused(source: FhirSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_source, "BUNDLE_ENTRIES", 3)
    with pytest.raises(Rejected) as refused:
        source.chart("p1")
    assert refused.value.code is SourceCode.TOO_MANY_ROWS


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_server_that_refuses_is_the_environment(server: Server, source: FhirSource, status: int) -> None:
    server.say("/fhir/Patient", PATIENT.encode(), status=status)
    with pytest.raises(SourceUnavailable) as failed:
        source.chart("p1")
    assert "王" not in str(failed.value)


def test_nobody_at_the_address() -> None:
    opened = FhirSource.open(f"http://127.0.0.1:{free_ports(1)[0]}/fhir", token=None, ca_file=None)
    with pytest.raises(SourceUnavailable):
        opened.check()
    opened.close()


@pytest.mark.parametrize(
    "statement",
    [
        {"resourceType": "Patient"},
        {"resourceType": "CapabilityStatement"},
        {"fhirVersion": "5.0.0", "resourceType": "CapabilityStatement"},
    ],
)
def test_only_an_r4_server_will_do(server: Server, source: FhirSource, statement: dict[str, Any]) -> None:
    server.say("/fhir/metadata", statement)
    with pytest.raises(Rejected) as refused:
        source.check()
    assert refused.value.code is SourceCode.ANSWER_UNREADABLE


@pytest.mark.parametrize(
    "base",
    [
        "http://example.org/fhir",
        "https://user:word@example.org/fhir",
        "https://example.org/fhir?x=1",
        "ftp://x/",
        "",
        "https://",
    ],
)
def test_an_address_that_is_none(base: str) -> None:
    with pytest.raises(Rejected) as refused:
        FhirSource.open(base, token=None, ca_file=None)
    assert refused.value.code is SourceCode.BAD_ADDRESS


@pytest.mark.parametrize("key", ["../p1", "p1?x=1", "p1/../p2", "", "p" * 65])
def test_a_patients_key_is_an_id(source: FhirSource, key: str) -> None:
    with pytest.raises(Rejected) as refused:
        source.chart(key)
    assert refused.value.code is SourceCode.PATIENT_KEY_MALFORMED


@pytest.mark.parametrize("kind", ["Patient", "Nonsense", "../admin"])
def test_types_are_those_of_r4(server: Server, kind: str) -> None:
    with pytest.raises(Rejected) as refused:
        FhirSource.open(server.base, token=None, ca_file=None, types=(kind,))
    assert refused.value.code is SourceCode.SETTINGS_MALFORMED
