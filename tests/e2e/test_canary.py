"""Goal: health data, names and existing ids stay where they belong, whatever a client sends and wherever it breaks.

Method: a real node logs everything it can. Canaries go into charts and, as good and as malformed requests, through
every port, path, header, parameter and body. Then each is looked for, in every spelling that text takes on its way, in
all that leaves the charts: log, standard output, figures, refusals, event streams, ledger.
"""

import asyncio
import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest

from carechain.chain.queries import QUERIES
from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.chain.tx import build
from carechain.charts.store import Charts
from carechain.contracts.access import Decided, RequestAccess
from carechain.contracts.membership import EnrolStaff
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Purpose, Role
from carechain.gatekeeper.anchoring import anchor_of
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.fetch import GatekeeperClient, Reader, newest_of
from carechain.sdk.client import Client, SyncClient
from carechain.sdk.wallet import Pseudonym
from node_network import founders
from node_process import LABEL, PASSWORD, Process, make, node, populate
from world import CHAIN_ID, Actor, Organisation, anything, enrolment_of

NAME = "司马 Canaryname-Zebedee"
DIAGNOSIS = "Canarywort fever 金丝雀热"
CODE = "canary-8480-6"
CANARIES = (NAME, DIAGNOSIS, CODE, LABEL)
BUNDLE = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "resource": {
                "resourceType": "Patient",
                "id": "p1",
                "name": [{"text": NAME}],
                "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": LABEL}],
            },
            "request": {"method": "PUT", "url": "Patient/p1"},
        },
        {
            "resource": {
                "resourceType": "Encounter",
                "id": "e1",
                "status": "finished",
                "class": {"code": "AMB"},
                "subject": {"reference": "Patient/p1"},
                "period": {"start": "2026-03-01T09:00:00Z"},
                "reasonCode": [{"text": DIAGNOSIS, "coding": [{"system": "http://loinc.org", "code": CODE}]}],
            },
            "request": {"method": "PUT", "url": "Encounter/e1"},
        },
    ],
}
INGEST = """
import sys
from pathlib import Path
import structlog
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.node.logs import configure_logs
configure_logs("debug")
with Charts.open(Path(sys.argv[1])) as charts:
    for path in sorted(Path(sys.argv[2]).iterdir()):
        try:
            charts.ingest(pseudonym=bytes(32), bundle=path.read_bytes(), received_s=1, rng=lambda size: bytes(size))
        except Rejected as refused:
            print(repr(refused), str(refused), refused.args, refused.__cause__)
            structlog.get_logger("ingest").error("refused", exc_info=refused, bundle=str(refused))
"""


def spellings(canary: str) -> set[str]:
    """What a text can look like after it went through JSON, a URL, a repr, hexadecimal or base64."""
    data = canary.encode()
    # The middle of base64 is the same wherever the text begins in a group of three, so each beginning is tried.
    shifted = {base64.b64encode(b"\0" * skip + data)[4:-4].decode() for skip in range(3)}
    escaped = {json.dumps(canary)[1:-1], repr(data)[2:-1], quote(canary), ascii(canary)[1:-1]}
    return {canary, data.hex(), *escaped, *shifted}


def found_in(text: str, *more: str) -> list[str]:
    """Which canaries ``text`` repeats."""
    return [one for canary in (*CANARIES, *more) for one in spellings(canary) if one in text]


class Story:
    """Who there is, and what was seen on the way."""

    def __init__(self, home: Path, process: Process, members: dict[str, Organisation]) -> None:
        self.home = home
        self.process = process
        self.a, self.b = members["a"], members["b"]
        self.answers: list[str] = []
        self.carl, self.steve = populate(process.api, self.a)
        self.bert = Actor("bert", organisation=self.b.id)
        with SyncClient(process.api, self.b) as client:
            certificate = self.b.certify(self.bert, Role.DOCTOR)
            client.submit(enrolment_of(self.bert, certificate))


def test_the_search_finds_what_it_looks_for() -> None:
    """A canary that sings: every spelling is noticed, and clean text is not."""
    for canary in CANARIES:
        wrapped = f"x{canary}y"
        data = wrapped.encode()
        for text in (
            wrapped,
            json.dumps(wrapped),
            repr(data),
            quote(wrapped),
            data.hex(),
            base64.b64encode(data).decode(),
        ):
            assert found_in(text), (canary, text)
    assert found_in("nothing to see, 什么都没有") == []


def test_nothing_is_repeated_anywhere(tmp_path: Path) -> None:
    members = founders()
    home = make(tmp_path / "节点", members["a"], members)
    with (home / "config.toml").open("a", encoding="utf-8") as file:
        file.write('[log]\nlevel = "debug"\n')
    with node(home) as process:
        story = Story(home, process, members)
        read_through_the_gatekeeper(story)
        send_what_is_wrong_in_every_way(story)
        send_wrong_transactions(story)
        speak_no_http(story)
        ingest_malformed_bundles(tmp_path)
        look_everywhere(story)


def read_through_the_gatekeeper(story: Story) -> None:
    """A chart is ingested, anchored, granted, read, altered behind the ledger's back, and withheld."""
    bundle = json.dumps(BUNDLE, ensure_ascii=False).encode()
    path = story.home / "charts" / "charts.sqlite"
    with Charts.open(path) as charts:
        charts.ingest(pseudonym=story.steve.id, bundle=bundle, received_s=1, rng=os.urandom)
        versions = charts.records_of(story.steve.id)
    with SyncClient(story.process.api, story.carl) as writer:
        for version in versions:
            writer.submit(anchor_of(version, entropy=os.urandom))
    with SyncClient(story.process.api, story.steve) as patient:
        patient.submit(anything(story.steve, story.bert))
    with SyncClient(story.process.api, story.bert) as reader:
        ask = RequestAccess(pseudonym=story.steve.id, scope=EVERYTHING, purpose=Purpose.TREAT)
        decided = reader.submit(ask).receipt.events[0]
        assert isinstance(decided, Decided)
        lines: list[AnchorLine] = reader.rows("records.timeline", TimelinePage(story.steve.id))
    expected = newest_of(lines)

    async def read() -> bytes:
        gatekeeper = story.process.addresses["gatekeeper"]
        async with httpx.AsyncClient(base_url=gatekeeper, trust_env=False) as http:
            client = GatekeeperClient(
                http,
                chain_id=CHAIN_ID,
                custodian=story.a.id,
                reader=Reader(party=story.bert.id, signing=story.bert.signing, hpke=story.bert.hpke),
                clock=lambda: int(time.time()),
                entropy=os.urandom,
            )
            return b"".join(
                one for record in await client.read_all(decided.ticket, expected) for one in record.resources
            )

    opened = asyncio.run(read()).decode()
    assert NAME in opened
    assert DIAGNOSIS in opened
    with sqlite3.connect(path) as database:
        database.execute(
            "UPDATE resources SET body = CAST(replace(CAST(body AS TEXT), 'finished', 'planned!') AS BLOB)"
        )
    database.close()
    with pytest.raises(Withheld) as withheld:
        asyncio.run(read())
    assert withheld.value.code is GatekeeperCode.RECORD_ALTERED
    story.answers.append(repr(withheld.value))
    story.process.wait_for("integrity_incident")


def send_what_is_wrong_in_every_way(story: Story) -> None:
    everywhere = [
        *((method, f"/{canary}") for canary in CANARIES for method in ("GET", "POST", "BREW")),
        *(("GET", f"/v1/blocks/{canary}") for canary in CANARIES),
        *(("GET", f"/v1/transactions/{canary}?x={canary}") for canary in CANARIES),
        *(("POST", f"/v1/query/{canary}?prove={canary}") for canary in CANARIES),
        *(("POST", f"/v1/query/{name}") for name in QUERIES),
        ("POST", "/v1/transactions"),
        ("POST", f"/v1/transactions?wait={CODE}"),
        ("POST", "/v1/transactions/batch"),
        ("POST", "/v1/session"),
        ("DELETE", "/v1/session"),
        ("GET", f"/v1/events?from={CODE}"),
        ("POST", "/v1/release"),
        ("GET", "/livez"),
        ("GET", f"/metrics?name={CODE}"),
    ]
    said = " ".join(CANARIES)
    bodies = (
        json.dumps({"tx": said, "txs": [said], "pseudonym": said, "ticket": said, "party": said}).encode(),
        msgspec.msgpack.encode({"pseudonym": said, "ticket": said.encode(), said: 1, "party": said, "chain_id": said}),
        msgspec.msgpack.encode([said, said.encode()]),
        said.encode(),
        json.dumps(BUNDLE).encode(),
    )
    token = asyncio.run(session_of(story.process.api, story.bert))
    addresses = [str(story.process.addresses[name]) for name in ("api", "gatekeeper", "ops")]
    with httpx.Client(trust_env=False, timeout=60) as http:
        for address in addresses:
            for method, path in everywhere:
                for body in bodies:
                    for media in ("application/json", "application/msgpack", f"text/{CODE}"):
                        headers = {
                            "content-type": media,
                            "authorization": f"Bearer {token if media.endswith('json') else CODE}",
                            "last-event-id": CODE,
                            "x-patient": quote(NAME),
                            "cookie": f"name={CODE}",
                            "user-agent": DIAGNOSIS.encode().hex(),
                        }
                        answer = http.request(method, address + path, content=body, headers=headers)
                        assert answer.status_code < 500, (method, path, body, answer.text)
                        story.answers.append(answer.text + str(answer.headers))


async def session_of(api: str, who: Actor | Pseudonym) -> str:
    async with Client(api, who) as client:
        return (await client.open_session()).token


def send_wrong_transactions(story: Story) -> None:
    """Signed as they should be, with something else inside: as a certificate, as a chain, behind the end."""
    certificate = NAME.encode() + b"\x30\x82" + DIAGNOSIS.encode()
    grant = anything(story.steve, story.bert)
    with SyncClient(story.process.api, story.a) as client:
        whole = client.sign(EnrolStaff(certificate=certificate, hpke_key=bytes(32), proof=bytes(64)))
        raws = [whole, whole + NAME.encode(), msgspec.msgpack.encode([NAME, DIAGNOSIS.encode()]), DIAGNOSIS.encode()]
        fields = msgspec.msgpack.decode(whole)
        raws.append(msgspec.msgpack.encode([*fields, DIAGNOSIS]))
        raws.append(
            build(
                key=story.a.signing,
                sender=story.a.id,
                chain_id=CODE,
                nonce=os.urandom(16),
                valid_until_s=int(time.time()) + 60,
                messages=(grant,),
            )
        )
        for outcome in client.send_many(raws):
            story.answers.append(repr(outcome))
    # Only the first has the form of a transaction for this chain; what it says is judged by the ledger and refused.
    assert "MEMBERSHIP" in story.answers[-len(raws)] or "code=2" in story.answers[-len(raws)]


def speak_no_http(story: Story) -> None:
    for name in ("api", "gatekeeper", "ops"):
        port = int(str(story.process.addresses[name]).rpartition(":")[2])
        for said in (
            f"{NAME} {DIAGNOSIS}\r\n\r\n",
            f"GET /{NAME} HTTP/1.1\r\nhost: {NAME}\r\n\r\n",
            f"POST / {CODE}\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(said.encode())
                raw.shutdown(socket.SHUT_WR)
                story.answers.append(everything(lambda raw=raw: raw.recv(65536)).decode())  # type: ignore[misc]


def everything(receive: Callable[[], bytes]) -> bytes:
    parts = []
    while part := receive():
        parts.append(part)
    return b"".join(parts)


def ingest_malformed_bundles(tmp_path: Path) -> None:
    """What refuses a bundle names the rule, not what was in it."""
    good = json.dumps(BUNDLE, ensure_ascii=False)
    wrong = [good[:-9], good.replace("Encounter", NAME), good.replace("2026-03-01", DIAGNOSIS), f'{{"{NAME}": [', "[]"]
    wrong += [
        good.replace("PUT", NAME),
        good.replace('"transaction"', f'"{DIAGNOSIS}"'),
        good.replace("Patient/p1", NAME),
    ]
    folder = tmp_path / "bundles"
    folder.mkdir()
    for number, text in enumerate(wrong):
        (folder / str(number)).write_text(text, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-c", INGEST, str(tmp_path / "charts.sqlite"), str(folder)],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert len(finished.stdout.splitlines()) >= 4, "several of these bundles must be refused"
    assert found_in(finished.stdout + finished.stderr) == []


def look_everywhere(story: Story) -> None:
    """By now everything above has gone through the node."""
    process = story.process
    streams = asyncio.run(followed(story))
    figures = httpx.get(f"{process.addresses['ops']}/metrics", trust_env=False).text
    ready = httpx.get(f"{process.addresses['ops']}/readyz", trust_env=False).text
    process.ask_to_stop()
    assert process.end() == 0
    log = "".join(process.log)
    assert all(json.loads(line) for line in process.log), "every line is JSON"
    assert "Traceback" not in log
    assert '"level": "error"' in log  # The incident is there, so the log was not simply silent.
    parties = [one.id.hex() for one in (story.carl, story.bert, story.steve)]
    existing = story.a.secret.id_hash("mrn", LABEL).hex()
    for text in (log, process.out, figures, ready):
        assert found_in(text, PASSWORD) == []
        assert not [one for one in (*parties, existing) if one in text]
    assert found_in("".join(story.answers), PASSWORD) == []
    assert found_in(streams, PASSWORD) == []
    # What travels in transactions that were admitted is on the ledger as sent: the first of the wrong ones was.
    kept = [path.read_bytes() for path in (story.home / "ledger").rglob("*") if path.is_file()]
    ledger = b"".join(kept).replace(NAME.encode() + b"\x30\x82" + DIAGNOSIS.encode(), b"")
    assert not [one for canary in CANARIES for one in spellings(canary) if one.encode() in ledger]


async def followed(story: Story) -> str:
    """All that the patient, a clinician and an organisation are streamed from the first block on."""
    seen: list[Any] = []
    for who in (story.steve, story.bert, story.a):
        async with Client(story.process.api, who) as client:
            until = (await client.status()).height
            async for message in client.events(from_height=1):
                seen.append(message)
                if message.get("height", 0) >= until or message["kind"] != "events":
                    break
    assert any(message["kind"] == "events" for message in seen)
    return json.dumps(seen, ensure_ascii=False)
