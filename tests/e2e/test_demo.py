"""The demonstration as an end-to-end test, each promise looked at a second time by other means than its own.

Goal: the six organisations really exchange, refuse, revoke, detect and prove what the story says. Method: one run with
a few patients in a kept home; afterwards the test opens the files of that home itself (ledger, audit, databases) and
compares. A second run takes bundles full of distinctive strings and looks for them in every file where they must not
be. Further runs break a promise on purpose and expect the story to stop there.
"""

import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from rich.console import Console

from carechain.chain.genesis import Genesis, read
from carechain.chain.queries import View
from carechain.charts.codes import ChartsCode
from carechain.contracts.access import EntryKind, LogRow, log_of
from carechain.contracts.keyring import Misdeed
from carechain.contracts.records import ErasedPart
from carechain.core.decision import DecisionCode
from carechain.core.ids import party_id
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Sensitivity
from carechain.demo import attacks, laboratory, releasing, run, steve_apple, story, synthetic
from carechain.demo.doors import Doors
from carechain.demo.network import HARBOUR, INSTITUTE, KANGNING, MEADOW, MINISTRY, PLANS, RIVERTOWN, VALIDATORS
from carechain.demo.patients import Intake, NoPatients, folder_intake, synthetic_intake
from carechain.demo.run import Addresses, Progress, Summary, run_demo
from carechain.demo.show import print_story
from carechain.demo.step import Step
from carechain.demo.story import Story
from carechain.engine.session import Session
from carechain.engine.verify import verify_chain
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.erasing import Eraser
from carechain.gatekeeper.keyholder import Keyholder
from carechain.node.keyholder_store import KEYHOLDER_FILE
from carechain.sdk.opening import OpenedRecord

PATIENTS = 5
SEED = 7
MEMBERS = tuple(plan.handle for plan in PLANS)
STEPS = [
    "network",
    "register",
    "consent",
    "write",
    "share",
    "read",
    "ceiling",
    "refuse",
    "delegate",
    "strangers",
    "tamper",
    "steve-apple",
    "guardians",
    "keyholders",
    "seal",
    "release",
    "grades",
    "search",
    "revoke",
    "recover",
    "erase",
    "log",
    "verify",
]


class Run(msgspec.Struct):
    """A finished story and what it left behind."""

    summary: Summary
    home: Path
    progress: list[Progress]
    opened: list[tuple[OpenedRecord, ...]]

    def step(self, name: str) -> Step:
        return next(one for one in self.summary.steps if one.name == name)

    @property
    def genesis(self) -> Genesis:
        return read((self.home / MINISTRY / "genesis.json").read_bytes())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The story, told once; what hospital B opened is kept as the SDK gave it out."""
    home = tmp_path_factory.mktemp("demo")
    progress: list[Progress] = []
    opened: list[tuple[OpenedRecord, ...]] = []
    original = Story.read

    async def reading(self: Story, *args: Any, **named: Any) -> tuple[OpenedRecord, ...]:
        records = await original(self, *args, **named)
        opened.append(records)
        return records

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story.Story, "read", reading)
        summary = run_demo(patients=PATIENTS, seed=SEED, home=home, progress=progress.append)
    return Run(summary, home, progress, opened)


@pytest.fixture(scope="module")
def ledger(told: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    """The ledger's last state, opened from a copy of its files."""
    copy = tmp_path_factory.mktemp("ledger")
    shutil.copytree(told.home / MINISTRY / "ledger", copy / "ledger")
    with Session.open(copy, told.genesis) as session:
        yield View(snapshot=session.snapshot(), height=session.head.height, time_s=session.head.time_s)


# --- the story as a whole -------------------------------------------------------------------------------


def test_every_step_holds(told: Run) -> None:
    failed = [
        (one.name, one.failure, [c.says for c in one.claims if not c.holds]) for one in told.summary.steps if not one.ok
    ]
    assert failed == []
    assert [one.name for one in told.summary.steps] == STEPS
    assert told.summary.ok


def test_the_summary_has_the_promised_keys(told: Run) -> None:
    shown = json.loads(json.dumps(told.summary.to_json(), ensure_ascii=False))
    assert {"network", "patients", "resources", "records", "height", "app_hash", "steps", "seconds"} <= shown.keys()
    assert all({"name", "ok", "height"} <= step.keys() for step in shown["steps"])
    assert len(shown["network"]["organisations"]) == 6
    bundles = [json.loads(synthetic.patient(index, SEED)) for index in (3, 7, 0, 1, 2)]
    assert shown["patients"] == PATIENTS
    assert shown["resources"] == sum(len(bundle["entry"]) for bundle in bundles)
    assert shown["records"] == sum(1 for _ in told_anchors(told))


def told_anchors(told: Run) -> Iterator[bytes]:
    """The records of the synthetic patients in hospital A's database."""
    with sqlite3.connect(told.home / HARBOUR / "charts.sqlite") as connection:
        rows = connection.execute("SELECT record_id, pseudonym FROM records").fetchall()
        steve = connection.execute("SELECT pseudonym FROM patients WHERE mrn = ?", (steve_apple.MRN,)).fetchone()
    connection.close()
    yield from (record for record, pseudonym in rows if pseudonym != steve[0])


def test_progress_goes_up_to_the_end(told: Run) -> None:
    assert [one.done for one in told.progress] == list(range(1, len(told.progress) + 1))
    assert told.progress[-1].done == told.progress[-1].total


def test_heights_never_fall(told: Run) -> None:
    heights = [one.height for one in told.summary.steps]
    assert heights == sorted(heights)
    assert heights[0] > 0
    assert heights[-1] == told.summary.height


def test_people_can_read_it(told: Run) -> None:
    console = Console(width=100, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    print_story(told.summary, console)
    text = console.export_text()
    console.file.close()
    assert "✗" not in text
    assert "江城医院" in text
    assert told.summary.app_hash in text


# --- each promise a second time -------------------------------------------------------------------------


def test_six_homes_have_their_own_keys_and_databases(told: Run) -> None:
    homes = [told.home / handle for handle in (HARBOUR, RIVERTOWN, MEADOW, KANGNING, MINISTRY, INSTITUTE)]
    members = [(home / "keys" / "member.json").read_bytes() for home in homes]
    assert len(set(members)) == 6
    for home in homes:
        assert (home / "charts.sqlite").is_file()
        assert (home / "audit.sqlite").is_file()
        assert all(path.stat().st_mode & 0o077 == 0 for path in (home / "keys").iterdir())
    assert [home.name for home in homes if (home / "ledger").exists()] == [MINISTRY]


def test_what_b_opened_is_what_a_received(told: Run) -> None:
    received: dict[bytes, str] = {}
    for index in (3, 7, 0, 1, 2):
        for entry in json.loads(synthetic.patient(index, SEED))["entry"]:
            body = json.dumps(entry["resource"], ensure_ascii=False, separators=(",", ":"))
            received[body.encode()] = entry["resource"]["resourceType"]
    for bundle in (steve_apple.demographics(), steve_apple.encounter_note(), steve_apple.lipid_test()):
        for entry in json.loads(bundle)["entry"]:
            body = json.dumps(entry["resource"], ensure_ascii=False, separators=(",", ":"))
            received[body.encode()] = entry["resource"]["resourceType"]
    contents = [content for records in told.opened for record in records for content in record.resources]
    assert [content for content in contents if content not in received] == []
    assert len(contents) > 20
    kinds = {received[content] for content in contents}
    assert {"Patient", "Encounter", "Observation", "Condition"} <= kinds
    assert not kinds & {"Claim", "ExplanationOfBenefit"}


def test_nothing_above_the_ceiling_was_opened(told: Run, ledger: View) -> None:
    grades = {record: row.sensitivity for (_, record, _), row in ledger.contracts.records.anchors.scan()}
    opened = {one.record_id for records in told.opened for one in records}
    assert opened
    assert all(grades[record] <= Sensitivity.N for record in opened)
    assert {Sensitivity.R, Sensitivity.V} <= set(grades.values())


def hero_log(ledger: View) -> list[LogRow]:
    """The followed patient's log: the longest there is."""
    tables = ledger.contracts.access
    longest = max(tables.log_heads.scan(), key=lambda one: one[1].count)
    return [line for _, line in log_of(tables, longest[0][0])]


def test_refused_tickets_are_on_the_ledger_with_their_reasons(ledger: View) -> None:
    decisions = {line.decision for line in hero_log(ledger) if line.kind is EntryKind.REQUEST and line.decision}
    assert {
        DecisionCode.ROLE_MAY_NOT_REQUEST,
        DecisionCode.NO_GRANT,
        DecisionCode.GRANT_NOT_LIVE,
        DecisionCode.PURPOSE_NOT_COVERED,
        DecisionCode.SCOPE_NOT_COVERED,
    } <= decisions


def test_the_log_has_every_line_that_was_shown(told: Run, ledger: View) -> None:
    assert len(hero_log(ledger)) == told.step("log").figures["lines"] == len(told.step("log").lines)


def test_the_audit_agrees_with_the_log(told: Run, ledger: View) -> None:
    lines = [line for line in hero_log(ledger) if line.kind is EntryKind.RELEASE]
    tickets = {line.ticket for line in hero_log(ledger)}
    with Audit.open(told.home / HARBOUR / "audit.sqlite") as audit:
        audit.check()
        reads = [one.read for one in audit.entries(limit=10_000)]
    released = sum(len(one.records) for one in reads if not one.code and one.ticket in tickets)
    assert sum(line.records for line in lines) == released > 0


def test_the_tampered_record_is_named_in_the_audit(told: Run) -> None:
    record = bytes.fromhex(told.step("tamper").figures["record"])
    with Audit.open(told.home / HARBOUR / "audit.sqlite") as audit:
        reads = [one.read for one in audit.entries(limit=10_000)]
    incidents = [one for one in reads if one.code == GatekeeperCode.RECORD_ALTERED]
    assert incidents
    assert {one.records[0][0] for one in incidents} == {record}
    assert record.hex() in (told.home / run.LOG_FILE).read_text(encoding="utf-8")


def test_the_chain_verifies_from_its_files(told: Run) -> None:
    verdict = verify_chain(told.home / MINISTRY, told.genesis)
    assert verdict.ok
    assert (verdict.height, verdict.app_hash.hex()) == (told.summary.height, told.summary.app_hash)


# --- the sealed steps a second time ---------------------------------------------------------------------

WORDS = ("疑似糖尿病", "空腹血糖", "三个月后复查", "艾滋病毒筛查", "non-reactive", "Haemoglobin A1c")
"""What the laboratory found, and nobody may read from a file."""


def sealed_objects(ledger: View) -> dict[bytes, bool]:
    """Address of each sealed object → whether its record was erased."""
    tables = ledger.contracts.records
    return {
        row.sealed.object: tables.is_erased(pseudonym, record)
        for (pseudonym, record, _), row in tables.anchors.scan()
        if row.sealed is not None
    }


def member_id(told: Run, handle: str) -> bytes:
    name = next(plan.name for plan in PLANS if plan.handle == handle)
    return next(bytes.fromhex(one["party"]) for one in told.summary.network["organisations"] if one["name"] == name)


def test_five_homes_have_a_share_and_the_sixth_has_none(told: Run, ledger: View) -> None:
    key = ledger.contracts.keyring.current()
    assert key is not None
    assert (key.epoch, key.threshold, len(key.holders)) == (1, 3, 5)
    having = {plan.handle for plan in PLANS if (told.home / plan.handle / "keys" / KEYHOLDER_FILE).is_file()}
    assert having == {HARBOUR, RIVERTOWN, MEADOW, KANGNING, INSTITUTE}
    assert {one.party for one in key.holders} == {member_id(told, one) for one in having}


def test_the_ciphertext_lies_in_two_vaults_and_the_erased_object_in_none(told: Run, ledger: View) -> None:
    objects = sealed_objects(ledger)
    assert sorted(objects.values()) == [False] * 4 + [True]
    for plan in PLANS:
        found = {
            path.name: path for path in (told.home / plan.handle / "vault" / "objects").rglob("*") if path.is_file()
        }
        expected = {address.hex() for address, erased in objects.items() if not erased}
        assert set(found) == (expected if plan.handle in (HARBOUR, INSTITUTE) else set())
        assert all(sha256(path.read_bytes()).hexdigest() == name for name, path in found.items())


def test_what_the_laboratory_found_stands_in_no_file(told: Run) -> None:
    files = [path for path in told.home.rglob("*") if path.is_file()]
    assert [(path, word) for path in files for word in WORDS if word.encode() in path.read_bytes()] == []
    assert all(word in "".join(one.words for one in laboratory.findings("2026-01-01")) for word in WORDS)


def test_the_liar_stands_on_the_ledger_and_nobody_else(told: Run, ledger: View) -> None:
    misdeeds = [(holder, kind) for (holder, _, kind), _ in ledger.contracts.keyring.misdeeds.scan()]
    assert misdeeds == [(member_id(told, MEADOW), Misdeed.BAD_SHARE)]


def test_every_key_share_stands_in_the_log_and_in_its_holders_audit(told: Run, ledger: View) -> None:
    lines = [line for line in hero_log(ledger) if line.kind is EntryKind.KEY_SHARES]
    tickets = {line.ticket for line in hero_log(ledger)}
    told_by = {handle: sum(one.records for one in lines if one.actor == member_id(told, handle)) for handle in MEMBERS}
    for handle in MEMBERS:
        with Audit.open(told.home / handle / "shares.sqlite") as audit:
            audit.check()
            reads = [one.read for one in audit.entries(limit=10_000)]
        assert told_by[handle] == sum(len(one.records) for one in reads if not one.code and one.ticket in tickets)
    assert told_by.pop(MINISTRY) == 0
    assert min(told_by.values()) > 0


def test_the_pseudonym_has_another_key_and_its_old_id(ledger: View) -> None:
    tables = ledger.contracts.membership
    changed = [one for (one,), _ in tables.keys.scan()]
    assert len(changed) == 1
    party = tables.party(changed[0])
    assert party is not None
    assert party_id(party.suite, party.public_key) != changed[0]


def test_both_holders_signed_for_the_erasure(told: Run, ledger: View) -> None:
    receipts = {organisation: row.destroyed for (_, _, organisation), row in ledger.contracts.records.receipts.scan()}
    sealed = ErasedPart.OBJECT | ErasedPart.CAPSULE
    assert receipts == {member_id(told, HARBOUR): sealed | ErasedPart.TOKENS, member_id(told, INSTITUTE): sealed}


def test_the_contracts_invariants_hold(ledger: View) -> None:
    assert ledger.contracts.check_state() == []


def test_one_number_at_two_registrars_gives_unrelated_entries(ledger: View) -> None:
    bindings = list(ledger.contracts.relationships.bindings.scan())
    assert len({id_hash for (_, id_hash), _ in bindings}) == len(bindings) == PATIENTS + 2
    assert len({organisation for (organisation, _), _ in bindings}) == 2


# --- when something does not hold -----------------------------------------------------------------------


def test_a_promise_that_breaks_ends_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave_it(_: Path, __: bytes) -> tuple[int, bytes]:
        return -1, b""

    monkeypatch.setattr(attacks, "alter_one_byte", leave_it)
    summary = run_demo(patients=1)
    assert not summary.ok
    assert summary.steps[-1].name == "tamper"
    assert [one.says for one in summary.steps[-1].claims if not one.holds]


async def _nothing(*_: object, **__: object) -> None:
    """Somebody does not do what it should."""


async def _as_it_is(self: Story, _: Doors, __: bytes, *___: bytes) -> dict[bytes, str] | None:
    """Keyholders that give a share to anybody."""
    return None


BREAKS: list[tuple[str, object, str, object]] = [
    ("release", releasing.LyingKeyholder, "_share", Keyholder._share),
    ("seal", Story, "turned_down", _as_it_is),
    ("erase", Eraser, "carry_out", _nothing),
]


@pytest.mark.parametrize(("step", "owner", "name", "instead"), BREAKS, ids=[one[0] for one in BREAKS])
def test_a_sealed_promise_that_breaks_ends_the_story(
    monkeypatch: pytest.MonkeyPatch, step: str, owner: object, name: str, instead: object
) -> None:
    monkeypatch.setattr(owner, name, instead)
    summary = run_demo(patients=1)
    assert not summary.ok
    assert summary.steps[-1].name == step
    assert [one.says for one in summary.steps[-1].claims if not one.holds]


def test_an_unexpected_refusal_is_the_steps_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Rejected(ChartsCode.RECORD_NOT_FOUND)

    monkeypatch.setattr(Story, "ingest", refuse)
    summary = run_demo(patients=1)
    assert not summary.ok
    assert summary.steps[-1].name == "write"
    assert summary.steps[-1].failure.startswith("CHARTS.RECORD_NOT_FOUND (1027)")


def test_impossible_arguments_are_refused(tmp_path: Path) -> None:
    for patients in (0, 10_001):
        with pytest.raises(ValueError, match="choose 1 to"):
            run_demo(patients=patients)
    with pytest.raises(NoPatients):
        run_demo(bundles=tmp_path)


def test_a_home_in_use_is_left_alone(told: Run) -> None:
    with pytest.raises(FileExistsError):
        run_demo(patients=1, home=told.home)


def test_the_same_seed_gives_the_same_people_and_another_gives_others() -> None:
    def shape(intake: Intake) -> list[tuple[str, bytes]]:
        return [(one.existing_id, one.wallet.seed) for one in intake.patients]

    first = shape(synthetic_intake(3, seed=1, chain_id="x"))
    assert first == shape(synthetic_intake(3, seed=1, chain_id="x"))
    assert not set(first) & set(shape(synthetic_intake(3, seed=2, chain_id="x")))


def test_serving_goes_on_until_it_is_ended() -> None:
    answers: list[int] = []

    def visit(addresses: Addresses) -> None:
        for name, url in addresses.items():
            answer = (
                httpx.get(f"{url}/v1/status", timeout=10)
                if name == "node"
                else httpx.post(f"{url}/v1/release", timeout=10)
            )
            answers.append(answer.status_code)
        os.kill(os.getpid(), signal.SIGINT)

    def on_serving(_: Summary, addresses: Addresses) -> None:
        threading.Thread(target=visit, args=(addresses,)).start()

    summary = run_demo(patients=1, on_serving=on_serving)
    assert summary.ok
    assert answers == [200, 401, 401, 401, 401, 401, 401]


# --- anyone's bundles, and canaries ---------------------------------------------------------------------

NAME = "Quuxley-Zaphodine"
HAN_NAME = "諸葛金絲雀"
NUMBER = "CANARY-424242"
PHONE = "555-7741-909"
CODE = "86406008"
NOTE = "tangerine submarine"
CANARIES = (NAME, HAN_NAME, NUMBER, PHONE, NOTE, "1931-07-23", "Birdcage Walk")


def canary_bundle(number: int) -> bytes:
    patient = {"reference": f"Patient/canary-{number}"}
    coding = [{"system": "http://snomed.info/sct", "code": CODE, "display": NOTE}]
    resources: list[dict[str, Any]] = [
        {
            "resourceType": "Patient",
            "id": f"canary-{number}",
            "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": f"{NUMBER}-{number}"}],
            "name": [{"family": NAME, "given": [HAN_NAME]}],
            "telecom": [{"system": "phone", "value": PHONE}],
            "birthDate": "1931-07-23",
            "address": [{"line": ["Birdcage Walk"]}],
        },
        {
            "resourceType": "Encounter",
            "id": f"canary-visit-{number}",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": patient,
            "period": {"start": "2024-02-02T09:00:00Z", "end": "2024-02-02T09:30:00Z"},
            "reasonCode": [{"text": NOTE}],
        },
        {
            "resourceType": "Condition",
            "id": f"canary-condition-{number}",
            "code": {"coding": coding, "text": NOTE},
            "subject": patient,
            "encounter": {"reference": f"Encounter/canary-visit-{number}"},
            "recordedDate": "2024-02-02",
        },
    ]
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}, ensure_ascii=False).encode()


def test_no_canary_leaves_the_custodians_database(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundles, home = tmp_path / "bundles", tmp_path / "home"
    bundles.mkdir()
    for number in range(2):
        (bundles / f"{number}.json").write_bytes(canary_bundle(number))
    (bundles / "broken.json").write_bytes(canary_bundle(9).replace(b"2024-02-02T09:00:00Z", b"2024-02-31T09:00:00Z"))
    (bundles / "notes.json").write_text(json.dumps({"resourceType": NAME, "id": NUMBER}), encoding="utf-8")
    (bundles / "readme.txt").write_text("not a bundle", encoding="utf-8")
    summary = run_demo(bundles=bundles, home=home)
    assert [step.name for step in summary.steps if not step.ok] == []
    assert summary.steps[STEPS.index("register")].figures["refused_bundles"] == {
        "CHARTS.IMPOSSIBLE_DATE": 1,
        "CHARTS.NOT_A_BUNDLE": 1,
    }

    own = (home / HARBOUR / "charts.sqlite").read_bytes()
    assert all(word.encode() in own for word in CANARIES)
    out, err = capfd.readouterr()
    shown = json.dumps(summary.to_json(), ensure_ascii=False) + out + err
    assert [word for word in CANARIES if word in shown] == []
    elsewhere = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("charts.sqlite")]
    elsewhere += [path for path in home.rglob("charts.sqlite*") if path.parent.name != HARBOUR]
    assert len(elsewhere) > 30
    leaks = [(path.name, word) for path in elsewhere for word in CANARIES if word.encode() in path.read_bytes()]
    assert leaks == []


def test_two_files_of_one_patient_make_one_patient(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_bytes(canary_bundle(1))
    intake = folder_intake(tmp_path, seed=1, chain_id="x")
    assert [(one.existing_id, len(one.bundles)) for one in intake.patients] == [(f"{NUMBER}-1", 2)]


@pytest.mark.engine
def test_four_nodes_tell_the_same_story(tmp_path: Path) -> None:
    summary = run_demo(patients=1, home=tmp_path / "home", consortium=True)
    assert summary.ok, [(step.name, step.failure, step.claims) for step in summary.steps if not step.ok]
    assert summary.network["engine"] == "cometbft"
    assert summary.network["nodes"] == 4
    logs = {one: (tmp_path / "home" / one / "ledger" / "blocks.log").stat().st_size for one in VALIDATORS}
    assert min(logs.values()) > 0
