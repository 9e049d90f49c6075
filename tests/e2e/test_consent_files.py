"""Goal: a patient puts a Consent written elsewhere into force, and takes grants away as Consents, by commands (CON-10).

Method: a real home, node and wallet on a temporary disk; the installed program's own entry point for every step.
"""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.test_cli_exchange import Program, addresses, node

PORTS = ("--port", "0", "--gatekeeper-port", "0", "--ops-port", "0", "--fhir-port", "0")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("consents"))


@pytest.fixture(scope="module")
def people(program: Program) -> Iterator[dict[str, str]]:
    """Doctor Carl and a patient of hospital A."""
    program.run("a", "init", "--name", "协和医院", "--kind", "hospital", "--chain-id", "consents")
    with (program.folder / "node.log").open("w+b") as log, node(program, *PORTS) as started:
        program.node = addresses(started, log)["api"]
        carl = program.run("a", "staff", "enrol", "carl", "--roles", "doctor")["party"]
        genesis = str(program.folder / "a" / "genesis.json")
        program.run("patient", "keys", "new", "mine", "--kind", "wallet", "--genesis", genesis)
        wallet = str(program.folder / "patient" / "keys" / "mine.json")
        bound = program.run("a", "patient", "register", "--wallet", wallet, "--id-file", "-", stdin="MRN-1")
        program.run("patient", "keys", "name", "dr-carl", carl)
        yield {"carl": carl, "patient": bound["pseudonym"]}
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=60)
        assert started.returncode == 0


def consent(program: Program, name: str, **fields: Any) -> str:
    """A file with a Consent for treatment to a practitioner that the hospital calls 17."""
    system = "http://terminology.hl7.org/CodeSystem"
    recipient = {"coding": [{"system": f"{system}/v3-ParticipationType", "code": "IRCP"}]}
    tree: dict[str, Any] = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": f"{system}/consentscope", "code": "patient-privacy"}]},
        "patient": {"display": "王小明", "reference": "Patient/17"},
        "provision": {
            "type": "permit",
            "period": {"end": "2090-06-30"},
            "actor": [{"role": recipient, "reference": {"reference": "Practitioner/17"}}],
            "purpose": [{"system": f"{system}/v3-ActReason", "code": "TREAT"}],
            "provision": [{"type": "deny", "dataPeriod": {"start": "2020", "end": "2020"}}],
        },
        **fields,
    }
    path = program.folder / name
    path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    return str(path)


def test_a_consent_is_looked_at_taken_and_ended(program: Program, people: dict[str, str]) -> None:
    file = consent(program, "treat.json")
    unknown = program.run("patient", "consent", "take", file, expect=1)
    assert unknown["error"]["label"] == "DOCUMENT.ACTOR_UNKNOWN"
    words = ("consent", "take", file, "--is", "Practitioner/17=dr-carl", "--time-zone", "Asia/Shanghai")

    looked = program.run("patient", *words, "--preview")
    assert looked["sent"] is False
    assert [one["scope"]["first_day"] for one in looked["messages"]] == [None, "2021-01-01"]

    taken = program.run("patient", *words)
    assert len(taken["grants"]) == 2
    granted = {one["grant"]: one for one in program.run("patient", "grants")["grants"]}
    assert set(granted) == set(taken["grants"])
    assert all(one["grantees"] == [people["carl"]] for one in granted.values())

    shown = program.run("patient", "consent", "show", taken["grants"][0])["consents"]
    assert [one["id"] for one in shown] == [taken["grants"][0]]
    assert shown[0]["provision"]["period"]["end"] == "2090-06-30T15:59:59Z"

    ended = program.folder / "ended.json"
    ended.write_text(json.dumps({**shown[0], "status": "inactive"}), encoding="utf-8")
    done = program.run("patient", "consent", "take", str(ended))
    assert done["messages"] == [{"message": "revoke", "grant": taken["grants"][0]}]
    assert program.run("patient", "consent", "show", taken["grants"][0])["consents"][0]["status"] == "inactive"
    assert program.run("patient", "consent", "show", "00" * 32, expect=1)["error"]["label"] == "CONSENT.GRANT_NOT_FOUND"


def test_what_cannot_be_taken_says_so_and_sends_nothing(program: Program, people: dict[str, str]) -> None:
    draft = consent(program, "draft.json", status="draft")
    refused = program.run("patient", "consent", "take", draft, "--is", "Practitioner/17=dr-carl", expect=1)
    assert refused["error"]["code"] == 2705
    for wrong in (("--is", "Practitioner/17"), ("--time-zone", "Mars/Olympus")):
        program.run("patient", "consent", "take", draft, *wrong, expect=2)
    assert "王小明" not in program.said
