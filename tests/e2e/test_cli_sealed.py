"""Goal: records that nobody can read but the holder of a ticket, by the command line alone (KEY-1, KEY-4, REC-3).

Method: a real node that makes the blocks and keeps the vault, and four more organisations as keyholders behind real
sockets, of whom one lies and one is down: three of five are enough. The way from end to end is gone with the installed
program in processes of its own, and killed with SIGKILL at every place where something was begun and not finished;
what is asked besides calls the same entry point inside the test.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from carechain.cli.keyring import MEMBER_KEY, Keyring
from carechain.cli.main import app
from carechain.contracts.governance import Propose, Proposed, Vote
from carechain.contracts.records import Erase
from carechain.core.crypto import Suite
from carechain.core.vocabulary import Category, OrganisationKind, PartyKind, Role, Sensitivity
from carechain.sdk.client import SyncClient
from carechain.sdk.identity import Identity
from carechain.sealing.blind_index import index_record_id
from carechain.sealing.symmetric import ScryptCost
from ceremonies import keyholders
from keyholder_services import Services, services
from node_network import founders, genesis_of
from node_process import GENESIS_S, PASSWORD, Process, make, node, populate
from world import (
    Actor,
    Organisation,
    anything,
    bind_message,
    enrolment_of,
    entropy_of,
    grant_of,
    scope_of,
    seeded,
    wallet_of,
)

if TYPE_CHECKING:
    from carechain.sdk.wallet import Pseudonym

DAY = "2026-11-20"
NOTE = {
    "resourceType": "Observation",
    "id": "lab-1",
    "status": "final",
    "identifier": [{"system": "urn:lab", "value": "PROBE-99417"}],
    "text": {"status": "generated", "div": "<div xmlns='http://www.w3.org/1999/xhtml'>空腹<b>血糖</b>偏高</div>"},
    "code": {"coding": [{"system": "http://loinc.org", "code": "1558-6", "display": "Fasting glucose"}]},
    "subject": {"reference": "Patient/p1", "display": "王小明"},
    "valueString": "7.8 mmol/L",
    "note": [{"text": "疑似糖尿病，三个月后复查"}],
}
SCREENING = {**NOTE, "id": "lab-2", "note": [{"text": "HIV 抗体阴性"}], "valueString": "non-reactive"}
BUNDLE = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [
        {"resource": {"resourceType": "Patient", "id": "p1", "name": [{"text": "王小明"}]}},
        {"resource": {"resourceType": "Practitioner", "id": "d1", "name": [{"text": "陈医生"}]}},
        {
            "resource": {
                "resourceType": "Condition",
                "id": "c1",
                "subject": {"reference": "Patient/p1"},
                "code": {"text": "2型糖尿病"},
                "recordedDate": "2026-11-19",
            }
        },
        {
            "resource": {
                "resourceType": "Condition",
                "id": "c2",
                "subject": {"reference": "Patient/p1"},
                "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": "B20", "display": "HIV"}]},
                "recordedDate": "2026-11-19",
            }
        },
    ],
}
PRIVATE = ("王小明", "糖尿病", "glucose", "PROBE-99417", "大脑磁共振", "mmol")
"""What must never reach the ledger, a log, an error text or a vault."""
CARE = scope_of(Category.RESULT, Category.IMAGE, Category.DIAGNOSIS, Category.DOCUMENT, ceiling=Sensitivity.N)


class Site:
    """Hospital a with its node, hospital b with a doctor, and what both homes are told of the network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members = {**founders(), "d": Organisation("d", kind=OrganisationKind.HOSPITAL, registrar=True)}
        for label in ("a", "b"):
            make(folder / label, self[label], self.members)
            Keyring(folder / label).note(MEMBER_KEY, self[label].id)
        self.bert = Actor("bert", organisation=self["b"].id)
        self.nora = Actor("nora", organisation=self["b"].id)
        self.carl = Actor("carl", organisation=self["a"].id)
        self.keep("a", self.carl)
        self.keep("b", self.bert)
        self.keep("b", self.nora)
        self.process: Process
        self.steve: Pseudonym
        self.holders: Services
        self.said = ""

    def __getitem__(self, label: str) -> Organisation:
        return self.members[label]

    def keep(self, home: str, actor: Actor) -> None:
        """A key file for one of the staff."""
        identity = Identity(
            kind=PartyKind.STAFF,
            suite=Suite.ED25519,
            signing_seed=seeded(actor.label, "signing"),
            hpke_seed=seeded(actor.label, "hpke"),
            party=actor.id,
            organisation=actor.organisation,
        )
        path = self.folder / home / "keys" / f"{actor.label}.json"
        identity.save(path, password=PASSWORD, entropy=entropy_of(actor.label), cost=ScryptCost(n=1024, r=1))
        Keyring(self.folder / home).note(actor.label, actor.id)

    def populate(self) -> None:
        """Enrol, bind, and let hospital a write and bert read, at most what is normal."""
        _, self.steve = populate(self.process.api, self["a"])
        with SyncClient(self.process.api, self["b"]) as member:
            for actor in (self.bert, self.nora):
                member.submit(enrolment_of(actor, self["b"].certify(actor, Role.DOCTOR)))
        with SyncClient(self.process.api, self.steve) as patient:
            patient.submit(grant_of(self.steve, self.bert, scope=CARE))

    def hold_ceremony(self) -> None:
        """The members vote for five keyholders, whose programs do the rest."""
        everyone = list(self.members.values())
        change = keyholders(*everyone, threshold=3)
        with SyncClient(self.process.api, self["a"]) as client:
            done = client.submit(Propose(change=change))
        proposal = next(one.proposal for one in done.receipt.events if isinstance(one, Proposed))
        for member in everyone[1:4]:
            with SyncClient(self.process.api, member) as client:
                client.submit(Vote(proposal=proposal, aye=True))
        self.process.wait_for("share_kept")
        for _ in self.holders.doors:
            assert self.holders.kept.acquire(timeout=60)

    @property
    def gatekeeper(self) -> str:
        return str(self.process.addresses["gatekeeper"])

    @property
    def vault(self) -> Path:
        return self.folder / "a" / "vault"

    def doors(self, without: str = "") -> list[str]:
        """Options for every keyholder but these; the own one is known at home a and nowhere else."""
        urls = {**self.holders.doors, self["a"].id: self.gatekeeper}
        return [
            word
            for label, member in self.members.items()
            if member.id in urls and label not in without
            for word in ("--keyholder", f"{member.id.hex()}={urls[member.id]}")
        ]

    def run(
        self, home: str, *words: str, expect: int = 0, stdin: str = "", program: str = "", apart: bool = False
    ) -> Any:
        """One command with --json: its object, after the exit status was checked."""
        line = [*words, "--json", "--home", str(self.folder / home)]
        begun = ["-c", program] if program else ["-m", "carechain"]
        called = self._apart([*begun, *line], home, stdin) if apart or program else self._here(line, home, stdin)
        status, out, err = called
        self.said += err
        assert status == expect, (words, out, err)
        assert "Traceback" not in err
        return json.loads(out) if out else None

    def _apart(self, line: list[str], home: str, stdin: str) -> tuple[int, str, str]:
        finished = subprocess.run(
            [sys.executable, *line],
            env=self.environment(home),
            input=stdin.encode(),
            capture_output=True,
            check=False,
            timeout=120,
        )
        return finished.returncode, finished.stdout.decode(), finished.stderr.decode()

    def _here(self, line: list[str], home: str, stdin: str) -> tuple[int, str, str]:
        out, err = StringIO(), StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in os.environ:
                patch.delenv(name)
            for name, value in self.environment(home).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", StringIO(stdin))
            try:
                app(line)
            except SystemExit as ended:
                return int(str(ended.code)), out.getvalue(), err.getvalue()
        raise AssertionError("the program ends with its status")

    def environment(self, home: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARECHAIN_")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "CARECHAIN_PASSWORD_FILE": str(self.folder / home / "keys" / "password"),
            "CARECHAIN_NODE": self.process.api,
            "CARECHAIN_GATEKEEPER": self.gatekeeper,
        }

    # --- what people do -----------------------------------------------------------------------------------

    def file(self, name: str, content: object) -> str:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())
        return str(path)

    def seal(self, file: str, *more: str, expect: int = 0, program: str = "") -> Any:
        words = ("record", "seal", file, "--patient", self.steve.id.hex(), "--as", "carl", *more)
        return self.run("a", *words, expect=expect, program=program)

    def ticket(self, who: str = "bert", *more: str) -> str:
        words = ("--categories", "result,image,diagnosis,document", *more)
        found = self.run("b", "request", "--as", who, "--patient", self.steve.id.hex(), *words)
        return str(found["ticket"])

    def open(
        self, ticket: str, *more: str, doors: Sequence[str] | None = None, who: str = "bert", expect: int = 0
    ) -> Any:
        at = self.doors() if doors is None else doors
        return self.run("b", "record", "open", "--as", who, "--ticket", ticket, *at, *more, expect=expect)

    def search(self, ticket: str, *words: str, expect: int = 0, stdin: str = "") -> Any:
        found = self.run(
            "b",
            "record",
            "search",
            *words,
            "--as",
            "bert",
            "--ticket",
            ticket,
            *self.doors(),
            expect=expect,
            stdin=stdin,
        )
        return {one["record"] for one in found["records"]} if expect == 0 else found


RESULT = ("--category", "result", "--sensitivity", "N", "--day", DAY)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Five organisations with a key: d lies, e is down."""
    folder = tmp_path_factory.mktemp("密")
    made = Site(folder)
    with node(folder / "a") as made.process:
        made.populate()
        genesis = genesis_of(made.members, time_s=GENESIS_S)
        served = [made[label] for label in "bcde"]
        at: dict[str, Any] = {"producer": folder / "a", "api": made.process.api, "liars": "d"}
        (folder / "holders").mkdir()
        with services(folder / "holders", genesis, served, **at) as made.holders:
            made.hold_ceremony()
            made.holders.close_door(made["e"].id)
            yield made
        made.process.ask_to_stop()
        assert made.process.end() == 0


@pytest.fixture(scope="module")
def sealed(site: Site) -> dict[str, Any]:
    """What the laboratory seals: a result, a restricted one, a picture with words of its own, and a bundle."""
    image = b"\0" * 128 + b"DICM" + os.urandom(50_000)
    words = site.file("words.txt", "大脑磁共振 brain MRI".encode())
    found = {
        "result": site.seal(site.file("王小明 glucose.json", NOTE), *RESULT),
        "screening": site.seal(
            site.file("screening.json", SCREENING), "--category", "result", "--sensitivity", "R", "--day", DAY
        ),
        "image": site.seal(
            site.file("image.dcm", image),
            *("--category", "image", "--sensitivity", "N", "--day", DAY),
            "--words-file",
            words,
        ),
        "bundle": site.seal(site.file("bundle.json", BUNDLE)),
    }
    return {"image_bytes": image, **found}


def record_of(found: dict[str, Any]) -> str:
    return str(found["records"][0]["record"])


# --- sealing --------------------------------------------------------------------------------------------


def test_what_was_sealed_is_labelled_stored_and_anchored(site: Site, sealed: dict[str, Any]) -> None:
    result = sealed["result"]["records"][0]
    assert (result["category"], result["sensitivity"], result["day"]) == ("result", "N", DAY)
    assert result["searchable"] is True
    assert sealed["result"]["indices"] == 1
    stored = site.vault / "objects" / result["object"][:2] / result["object"][2:4] / result["object"]
    assert sha256(stored.read_bytes()).hexdigest() == result["object"]
    bundle = sealed["bundle"]
    assert bundle["left_out"] == 1
    assert {(one["category"], one["sensitivity"]) for one in bundle["records"]} >= {
        ("diagnosis", "N"),
        ("diagnosis", "V"),
    }
    usage = site.run("a", "vault", "usage", "--patient", site.steve.id.hex())["pseudonyms"]
    assert [one["size_bytes"] > 0 for one in usage] == [True]


def test_the_same_file_is_sealed_once(site: Site, sealed: dict[str, Any]) -> None:
    file = str(site.folder / "王小明 glucose.json")
    before = site.seal(file, *RESULT)
    assert before["already"] is True
    assert [one["record"] for one in before["records"]] == [record_of(sealed["result"])]
    again = site.seal(file, *RESULT, "--again", "--no-index")
    other = site.seal(file, *RESULT, "--no-index", "--again")
    assert len({record_of(sealed["result"]), record_of(again), record_of(other)}) == 3
    assert again["records"][0]["searchable"] is False


def test_a_correction_is_a_new_version(site: Site, sealed: dict[str, Any]) -> None:
    first = site.seal(site.file("first.txt", "血压正常".encode()), *RESULT)
    record = record_of(first)
    second = site.seal(site.file("second.txt", "血压偏高".encode()), *RESULT, "--record", record)
    assert (record_of(second), second["records"][0]["version"]) == (record, 2)
    ticket = site.ticket()
    (opened,) = site.open(ticket, "--record", record, "--out", str(site.folder / "corrected"))["records"]
    assert opened["version"] == 2
    assert Path(opened["resources"][0]["file"]).read_text(encoding="utf-8") == "血压偏高"
    assert record in site.search(ticket, "偏高")
    assert record not in site.search(ticket, "血压正常")


@pytest.mark.parametrize(
    ("name", "content", "more", "status", "said"),
    [
        ("plain.bin", b"x", ("--category", "result"), 2, "--sensitivity"),
        ("bundle.json", BUNDLE, ("--category", "result"), 2, "--whole"),
        ("none.json", None, RESULT, 3, "not a file"),
        ("other.txt", b"x", ("--category", "feelings", "--sensitivity", "N", "--day", DAY), 2, "none of"),
        ("unknown.txt", b"x", (*RESULT, "--record", "00" * 32), 1, "no record"),
        ("many.txt", " ".join(map(str, range(9000))).encode(), RESULT, 1, "--no-index"),
    ],
)
def test_what_cannot_be_sealed_says_why(
    site: Site, name: str, content: object, more: tuple[str, ...], status: int, said: str
) -> None:
    file = str(site.folder / name) if content is None else site.file(name, content)
    refused = site.seal(file, *more, expect=status)
    assert refused["ok"] is False
    assert said in json.dumps(refused, ensure_ascii=False) + site.said


def test_without_a_grant_it_is_refused_and_with_one_the_same_command_finishes(site: Site) -> None:
    mary = wallet_of("mary").pseudonym(site["a"].id)
    with SyncClient(site.process.api, site["a"]) as member:
        member.submit(bind_message(mary, site["a"].secret.id_hash("mrn", "mary")))
    file = site.file("later.txt", "稍后".encode())
    words = ("record", "seal", file, "--patient", mary.id.hex(), "--as", "carl", *RESULT)
    refused = site.run("a", *words, expect=1)
    assert refused["error"]["label"] == "RECORDS.WRITE_NOT_AUTHORISED"
    with SyncClient(site.process.api, mary) as patient:
        patient.submit(anything(mary, site["a"]))
    done = site.run("a", *words)
    assert (done["already"], done["records"][0]["searchable"], done["indices"]) == (False, True, 1)
    assert [one for one in (site.vault / "sealing").iterdir() if one.is_dir()] == []


def test_an_index_of_somebody_else_is_left_alone(site: Site, sealed: dict[str, Any]) -> None:
    """Without the secret that the index was made from, records are sealed all the same, and say so."""
    secret, kept = site.folder / "a" / "keys" / "index.secret", site.folder / "kept.secret"
    secret.rename(kept)
    try:
        other = site.seal(site.file("other-secret.txt", "另一个密钥".encode()), *RESULT)
        assert (other["records"][0]["searchable"], other["indices"]) == (False, 0)
        assert "is not indexed" in site.said
    finally:
        kept.replace(secret)


def test_a_grade_below_the_usual_is_remarked_on(site: Site, sealed: dict[str, Any]) -> None:
    before = len(site.said)
    site.seal(site.file("usual.txt", "血脂正常".encode()), *RESULT)
    assert "usually graded" not in site.said[before:]
    site.seal(site.file("low.txt", "精神分裂症复诊".encode()), *RESULT)
    assert "usually graded" in site.said[before:]


# --- a kill anywhere ------------------------------------------------------------------------------------

KILLED = """
import os, signal
from carechain.cli import acting, writing_sealed
from carechain.cli.main import app
from carechain.sealing import object_files

def dies(place, name, times=1):
    real, left = getattr(place, name), [times]
    def now(*args, **named):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)
    setattr(place, name, now)

{}
app()
"""
PLACES = {
    "inside the content": ("image", "dies(object_files.Sealer, 'seal', 2)"),
    "before the object has its name": ("image", "dies(object_files._Part, 'finish')"),
    "before the object is noted": ("image", "dies(writing_sealed.SealingJournal, 'note')"),
    "before it is stored": ("image", "dies(writing_sealed.SealingWriter, '_put')"),
    "before the tokens": ("image", "dies(writing_sealed, '_put_tokens')"),
    "before the anchors": ("image", "dies(writing_sealed.SealingWriter, '_anchor')"),
    "between a new index and the record": ("document", "dies(acting.Seat, 'submit', 2)"),
    "after the anchors": ("image", "dies(writing_sealed.SealingJournal, 'finish')"),
}


@pytest.mark.parametrize("place", list(PLACES))
def test_a_kill_anywhere_and_the_same_command_finishes(site: Site, sealed: dict[str, Any], place: str) -> None:
    """The content is of several pieces, so that a half-sealed object is gone on with."""
    category, death = PLACES[place]
    number = list(PLACES).index(place)
    content = f"第 {number} 例\n".encode() + b"\0" + sha256(place.encode()).digest() * 300_000
    words = site.file("kill-words.txt", f"中断 {number}".encode())
    file = site.file(f"kill-{number}.bin", content)
    more = ("--category", category, "--sensitivity", "N", "--day", DAY, "--words-file", words)
    site.seal(file, *more, expect=-signal.SIGKILL, program=KILLED.format(death))
    done = site.seal(file, *more)
    assert done["already"] is False
    assert site.seal(file, *more)["records"][0]["record"] == record_of(done)
    assert [one for one in (site.vault / "sealing").iterdir() if one.is_dir()] == []
    listed = site.run("a", "record", "list", "--patient", site.steve.id.hex(), "--as", "carl")["records"]
    assert [one["version"] for one in listed if one["record"] == record_of(done)] == [1]
    opened = site.open(site.ticket(), "--record", record_of(done), "--out", str(site.folder / "killed"))
    assert Path(opened["files"][0]).read_bytes() == content


# --- the whole way --------------------------------------------------------------------------------------


def test_the_whole_way_with_the_installed_program(site: Site, sealed: dict[str, Any]) -> None:
    file = site.file("whole-way.json", {"resourceType": "Observation", "note": [{"text": "维生素 D 缺乏"}]})
    words = ("record", "seal", file, "--patient", site.steve.id.hex(), "--as", "carl", *RESULT)
    record = record_of(site.run("a", *words, apart=True))
    asked = ("request", "--as", "bert", "--patient", site.steve.id.hex(), "--categories", "result")
    by = ("--as", "bert", "--ticket", site.run("b", *asked, apart=True)["ticket"], *site.doors())
    found = site.run("b", "record", "search", "维生素", *by, apart=True)["records"]
    assert [one["record"] for one in found] == [record]
    opened = site.run("b", "record", "open", "--record", record, *by, apart=True)["records"]
    assert opened[0]["resources"][0]["content"] == json.loads(Path(file).read_bytes())


# --- opening --------------------------------------------------------------------------------------------


def test_three_of_five_open_though_one_lies_and_one_is_down(site: Site, sealed: dict[str, Any]) -> None:
    out = site.folder / "out"
    opened = site.open(site.ticket(), "--out", str(out), "--accuse")
    assert opened["verified"] is True
    by_record = {one["record"]: one for one in opened["records"]}
    (result,) = by_record[record_of(sealed["result"])]["resources"]
    assert Path(result["file"]).read_bytes() == (site.folder / "王小明 glucose.json").read_bytes()
    (image,) = by_record[record_of(sealed["image"])]["resources"]
    assert image["file"].endswith(".dcm")
    assert Path(image["file"]).read_bytes() == sealed["image_bytes"]
    assert record_of(sealed["screening"]) not in by_record
    assert index_record_id(site.steve.id, Category.RESULT, Sensitivity.N).hex() not in by_record
    assert [one for one in out.rglob("*") if one.is_file() and one.stat().st_mode & 0o077] == []


def test_a_liar_is_named_on_the_ledger(site: Site, sealed: dict[str, Any]) -> None:
    ticket, record = site.ticket(), record_of(sealed["result"])
    with_liar = site.doors(without="ce")
    first = site.open(ticket, "--record", record, "--accuse", doors=with_liar, expect=3)
    assert first["ok"] is False
    misdeeds = site.run("a", "keyholders", "status")["misdeeds"]
    assert [one["holder"] for one in misdeeds] == [site["d"].id.hex()]
    again = site.open(ticket, "--record", record, "--accuse", doors=site.doors(without="e"))
    lied = again["keyholders"]["lied"]
    assert all(one["holder"] == site["d"].id.hex() for one in lied)
    assert all(one["accused"] == "KEYRING.ALREADY_CAUGHT" for one in lied)


def test_two_keyholders_open_nothing(site: Site, sealed: dict[str, Any]) -> None:
    few = site.open(site.ticket(), doors=site.doors(without="cde"), expect=3)
    assert site["c"].id.hex() in few["error"]["reason"]
    assert "--keyholder" in few["error"]["reason"]


def test_addresses_are_noted_for_good(site: Site, sealed: dict[str, Any]) -> None:
    urls = {**site.holders.doors, site["a"].id: site.gatekeeper}
    for label in "abc":
        site.run("b", "keyholders", "address", site[label].id.hex(), urls[site[label].id])
    try:
        assert len(site.run("b", "keyholders", "address")["doors"]) == 3
        shown = site.open(site.ticket(), "--record", record_of(sealed["result"]), doors=())["records"]
        assert shown[0]["resources"][0]["content"] == NOTE
    finally:
        (site.folder / "b" / "doors.json").unlink()
    assert site.run("b", "keyholders", "address", "member", expect=2)["ok"] is False
    assert site.run("b", "keyholders", "address", "member", "ftp://x", expect=2)["ok"] is False


def test_the_ceiling_holds(site: Site, sealed: dict[str, Any]) -> None:
    record = record_of(sealed["screening"])
    refused = site.open(site.ticket(), "--record", record, expect=1)
    assert refused["record"] == record
    assert refused["error"]["label"] in ("QUERY.NOT_FOUND", "KEYHOLDER.OUTSIDE_SCOPE")


def test_a_keyholder_refuses_what_a_bent_program_asks_for(site: Site, sealed: dict[str, Any]) -> None:
    """The command of a custodian's own doctor sees the restricted record, and is bent to ask for it all the same."""
    with SyncClient(site.process.api, site.steve) as patient:
        patient.submit(grant_of(site.steve, site.carl, scope=CARE))
    found = site.run("a", "request", "--as", "carl", "--patient", site.steve.id.hex(), "--categories", "result")
    program = (
        "from carechain.cli import unsealing\n"
        "from carechain.cli.main import app\n"
        "real = unsealing.newest_of\n"
        "unsealing.newest_of = lambda lines, scope=None: real(lines)\n"
        "app()\n"
    )
    words = ("record", "open", "--as", "carl", "--ticket", found["ticket"], "--record", record_of(sealed["screening"]))
    refused = site.run("a", *words, *site.doors(), expect=1, program=program)
    assert refused["error"]["label"] == "KEYHOLDER.OUTSIDE_SCOPE"
    honest = site.run("a", *words, *site.doors(), expect=1)
    assert honest["error"]["label"] == "KEYHOLDER.OUTSIDE_SCOPE"


def test_somebody_elses_ticket_opens_nothing(site: Site, sealed: dict[str, Any]) -> None:
    ticket = site.ticket()
    assert site.open(ticket, who="nora", expect=1)["error"]["label"].startswith("QUERY.")
    assert site.open("00" * 32, expect=1)["error"]["label"].startswith("QUERY.")
    refused = site.run(
        "b", "request", "--as", "nora", "--patient", site.steve.id.hex(), "--categories", "result", expect=1
    )
    closed = site.open(refused["ticket"], who="nora", expect=1)
    assert closed["error"]["label"] == "DECISION.NO_GRANT"


def test_what_is_altered_in_the_vault_is_not_believed(site: Site, sealed: dict[str, Any]) -> None:
    address = sealed["image"]["records"][0]["object"]
    stored = site.vault / "objects" / address[:2] / address[2:4] / address
    sound = stored.read_bytes()
    out = site.folder / "altered"
    try:
        stored.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        refused = site.open(site.ticket(), "--record", record_of(sealed["image"]), "--out", str(out), expect=1)
        assert refused["error"]["label"] == "VAULT.OBJECT_ALTERED"
    finally:
        stored.write_bytes(sound)
    assert not [one for one in out.rglob("*") if one.is_file()]


def test_patients_open_and_search_their_own(site: Site, sealed: dict[str, Any]) -> None:
    """Whatever its grade; and a picture goes to a file or is described, never to the terminal."""
    home = site.folder / "patient"
    (home / "keys").mkdir(parents=True)
    (home / "genesis.json").write_bytes((site.folder / "a" / "genesis.json").read_bytes())
    (home / "keys" / "password").write_bytes((site.folder / "a" / "keys" / "password").read_bytes())
    (home / "keys" / "password").chmod(0o600)
    wallet, _ = wallet_of("steve").with_relation(site["a"].id, label="家", since_day=45_000)
    wallet.save(home / "keys" / "mine.json", password=PASSWORD, entropy=entropy_of("w"), cost=ScryptCost(n=1024, r=1))
    asking = ("request", "--patient", site.steve.id.hex(), "--categories", "result,image", "--ceiling", "V")
    by = ("--ticket", site.run("patient", *asking, "--purpose", "PATRQT")["ticket"], *site.doors())
    found = site.run("patient", "record", "search", "抗体", *by)["records"]
    assert [one["record"] for one in found] == [record_of(sealed["screening"])]
    named = ("--record", found[0]["record"], "--record", record_of(sealed["image"]))
    screening, image = site.run("patient", "record", "open", *by, *named)["records"]
    assert screening["resources"][0]["content"] == SCREENING
    assert image["resources"] == [{"size_bytes": len(sealed["image_bytes"])}]


# --- searching ------------------------------------------------------------------------------------------


def test_search_in_chinese_and_english(site: Site, sealed: dict[str, Any]) -> None:
    ticket = site.ticket()
    result, image = record_of(sealed["result"]), record_of(sealed["image"])
    diagnosis = next(
        one["record"]
        for one in sealed["bundle"]["records"]
        if (one["category"], one["sensitivity"]) == ("diagnosis", "N")
    )
    assert site.search(ticket, "糖尿病") == {result, diagnosis}
    assert site.search(ticket, "FASTING", "ｇｌｕｃｏｓｅ") == {result}
    assert site.search(ticket, "空腹血糖", "glucose") == {result}
    assert site.search(ticket, "-", stdin="磁共振\n") == {image}
    assert site.search(ticket, "1558-6") == {result}
    for word in ("PROBE-99417", "王小明", "高血压", "HIV"):
        assert site.search(ticket, word) == set()
    assert site.search(ticket, "，", expect=1)["error"]["label"] == "SEALING.NOTHING_TO_SEARCH"


def test_a_ticket_without_an_index_key_searches_nothing(site: Site, sealed: dict[str, Any]) -> None:
    ticket = site.ticket("bert", "--record", record_of(sealed["result"]))
    assert site.search(ticket, "糖尿病", expect=1)["error"]["label"] == "SEARCH.NO_INDEX"


def test_the_vault_knows_no_word(site: Site, sealed: dict[str, Any]) -> None:
    for path in site.vault.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in PRIVATE if word.encode() in content], path.name


# --- afterwards -----------------------------------------------------------------------------------------


def test_an_erased_record_is_gone_for_every_ticket(site: Site) -> None:
    file = site.file("going.txt", "将被删除".encode())
    record = record_of(site.seal(file, *RESULT))
    ticket = site.ticket()
    assert site.search(ticket, "将被删除") == {record}
    with SyncClient(site.process.api, site.steve) as patient:
        patient.submit(Erase(pseudonym=site.steve.id, record=bytes.fromhex(record)))
    refused = site.open(ticket, "--record", record, expect=1)
    assert refused["error"]["label"] in ("QUERY.NOT_FOUND", "KEYHOLDER.OUTSIDE_SCOPE")
    assert site.search(ticket, "将被删除") == set()
    gone = site.seal(site.file("next.txt", "新版".encode()), *RESULT, "--record", record, expect=1)
    assert gone["error"]["label"] == "RECORDS.RECORD_ERASED"


def test_nothing_private_or_secret_was_said_or_stored_on_the_ledger(site: Site, sealed: dict[str, Any]) -> None:
    secret = (site.folder / "a" / "keys" / "index.secret").read_text(encoding="ascii").strip()
    said = site.said + "".join(site.process.log)
    assert not [word for word in (*PRIVATE, secret) if word in said]
    for path in (site.folder / "a" / "ledger").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in PRIVATE if word.encode() in content], path.name
            assert bytes.fromhex(secret) not in content
