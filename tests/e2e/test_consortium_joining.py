"""Goal: a hub becomes a consortium, and organisations join and leave it, by the commands that the documentation shows.

Method: a hub with two followers, real nodes throughout. The followers are given seats by vote. Then the command lines
of docs/operating/joining.md are read out of the page and run as they stand there, each in its organisation's home: a
fourth organisation joins with a node and gets a seat, a fifth is hosted, and leaves. The tests are one story; each goes
on from the one before.
"""

import json
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from carechain.cli import local_network as local
from carechain.core.vocabulary import Role
from carechain.node.ports import free_ports
from carechain.sdk.registrar import RegistrarSecret
from e2e.changing import QUICK, Changing, step
from e2e.consortium import Keys, environment, until
from world import Actor, anchor_of, anything, bind_message, enrolment_of, wallet_of

pytestmark = pytest.mark.engine

PAGE: Final = Path(__file__).parents[2] / "docs/operating/joining.md"
HOSTED: Final = "A small institution without a node"
BUNDLE: Final = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "resource": {
                "resourceType": "Patient",
                "id": "p1",
                "name": [{"text": "李雷"}],
                "identifier": [{"type": {"coding": [{"code": "MR"}]}, "value": "MRN-4711"}],
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
            },
            "request": {"method": "PUT", "url": "Encounter/e1"},
        },
    ],
}


def shown(title: str) -> list[str]:
    """The command lines under a heading of the page, in order."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Operator:
    """Somebody who types command lines, with a home of their own."""

    def __init__(self, home: Path, secret: Path) -> None:
        self.home = home
        self.exported: dict[str, str] = {}
        self.secret = secret

    def type(self, line: str, *, expect: int = 0, **values: object) -> Any:
        """Run a line as it is, but for its variables and ``--json``; what it answered."""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.exported[name] = string.Template(value).substitute(values)
            return None
        own = {"CARECHAIN_HOME": str(self.home), "CARECHAIN_PASSWORD_FILE": str(self.secret)}
        done = subprocess.run(
            ["/bin/sh", "-c", f'carechain() {{ "$PYTHON" -m carechain "$@"; }}\n{line} --json'],
            env={
                **environment(),
                **own,
                **self.exported,
                **{name: str(value) for name, value in values.items()},
                "PYTHON": sys.executable,
            },
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == expect, (line, done.stdout, done.stderr)
        return json.loads(done.stdout)


class Joining(Changing):
    """A hub with two followers, and the homes of those who come later."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, validators=1, followers=2, hub=True)
        secret = folder / local.PASSWORD_FILE
        self.newcomer = Operator(self.home("org-4"), secret)
        self.practice = Operator(folder / "practice", secret)
        self.patient = Operator(folder / "patient", secret)
        self.pseudonym = ""
        """The patient's, at the newcomer."""

    def treat(self) -> None:
        """The patient is registered by the newcomer, which adds a record to its charts."""
        folder, patient, newcomer = self.folder, self.patient, self.newcomer
        patient.exported["CARECHAIN_NODE"] = self.url("org-4")
        (folder / "id").write_text("MRN-4711\n", encoding="utf-8")
        (folder / "bundle.json").write_text(json.dumps(BUNDLE, ensure_ascii=False), encoding="utf-8")
        patient.type("carechain keys new mine --kind wallet --genesis $GENESIS", GENESIS=folder / local.GENESIS_FILE)
        wallet = patient.home / "keys/mine.json"
        newcomer.type("carechain staff enrol rosa --roles doctor")
        register = "carechain patient register --wallet $WALLET --id-file $ID"
        bound = newcomer.type(register, WALLET=wallet, ID=folder / "id")
        grant = "carechain grant --to $TO --categories all --ceiling V --actions write"
        patient.type(grant, TO=bound["organisation"])
        add = "carechain record add $BUNDLE --patient $PATIENT --as rosa"
        added = newcomer.type(add, BUNDLE=folder / "bundle.json", PATIENT=bound["pseudonym"])
        assert added["resources"] == len(BUNDLE["entry"])
        self.pseudonym = bound["pseudonym"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joining]:
    net = Joining(tmp_path_factory.mktemp("joining") / "net")
    try:
        net.testnet("up")
        yield net
    finally:
        net.close()


def at(net: Joining, name: str) -> Operator:
    """The operator of a founder's node."""
    return Operator(net.home(name), net.folder / local.PASSWORD_FILE)


def admit(net: Joining, application: str, *voters: str) -> None:
    """As the page says under its second heading."""
    propose, look, vote = shown("Members admit it")
    proposal = at(net, "org-1").type(propose, APPLICATION=application)["proposal"]
    listed = at(net, voters[0]).type(look)["proposals"]
    assert proposal in {one["proposal"] for one in listed if one["standing"] == "open"}
    told = [at(net, name).type(vote, PROPOSAL=proposal)["standing"] for name in voters]
    assert told == [*["open"] * (len(voters) - 1), "passed"]


def seat(net: Joining, name: str, *voters: str) -> None:
    """Give an organisation a seat, and wait until its vote counts."""
    announce, propose, *_ = shown("It gets a seat")
    at(net, name).type(announce)
    proposal = at(net, "org-1").type(propose, NEWCOMER=net.member(name).party.hex())["proposal"]
    passed = net.pass_vote(proposal, *voters)
    net.write(voters[0], f"a seat for {name}")
    net.reach(passed + 2)


def acquaint(net: Joining, name: str, *others: str) -> None:
    """Its operator names these nodes as peers, and starts it again."""
    config = net.home(name) / "config.toml"
    peers = [f"{net.node(other).node_id}@127.0.0.1:{net.node(other).p2p}" for other in others]
    text, count = re.subn(r"^peers = .*$", f"peers = {json.dumps(peers)}", config.read_text(), flags=re.MULTILINE)
    assert count == 1
    config.write_text(text)
    net.stop(name)
    net.start(name)


@step()
def test_a_follower_of_a_hub_writes_through_its_own_node_and_reads_there(net: Joining) -> None:
    net.populate()
    vera = Actor("vera", organisation=net.member("org-2").party)
    anna = wallet_of("anna").pseudonym(vera.organisation)
    secret = RegistrarSecret.load(net.home("org-2") / "keys/registrar.secret")
    net.submit("org-2", enrolment_of(vera, net.certify("org-2", vera, Role.DOCTOR)))
    net.submit("org-2", bind_message(anna, secret.id_hash("mrn", "2")))
    net.submit("org-2", anything(anna, Keys(vera.organisation, net.member("org-2").signing_key())), by=anna)
    net.submit("org-2", anchor_of(anna, "at the follower"), by=vera)
    height = net.agree()
    assert all(header.producer == net.member("org-1").party for header in net.headers)
    assert [len(net.peers_of(name)) for name in net.names] == [2, 1, 1]
    net.kill("org-1")
    # What it has is its own copy: it answers without the hub.
    with net.client("org-2", by=anna) as client:
        assert client.access_log(anna.id).height >= height - 1
    net.start("org-1")
    net.meet("org-1", others=2)


@step(after=test_a_follower_of_a_hub_writes_through_its_own_node_and_reads_there)
def test_the_hub_becomes_a_consortium_by_vote(net: Joining) -> None:
    acquaint(net, "org-2", "org-1", "org-3")
    acquaint(net, "org-3", "org-1", "org-2")
    net.meet("org-2", "org-3", others=2)
    seat(net, "org-2", "org-3")
    seat(net, "org-3", "org-2")
    with net.load() as load:
        height = net.height("org-1")
        until(lambda: net.height("org-1") > height + 9, "everybody has had turns")
        load.more(5)
    net.agree()
    assert set(net.producers()[height + 1 :]) == set(net.names)
    assert net.acting(len(net.headers)) == set(net.names)


@step(after=test_the_hub_becomes_a_consortium_by_vote)
def test_a_newcomer_joins_as_the_page_says(net: Joining) -> None:
    p2p, api, ops, gatekeeper, fhir = free_ports(5)
    lender = net.node("org-2")
    (init,) = shown("The newcomer makes a home")
    made = net.newcomer.type(
        init,
        GENESIS=net.folder / local.GENESIS_FILE,
        PEER=f"{lender.node_id}@127.0.0.1:{lender.p2p}",
        LISTEN=f"127.0.0.1:{p2p}",
    )
    name_it, register = shown("The newcomer registers its node")
    net.newcomer.type(name_it, MEMBER=net.member("org-2").party.hex())
    early = net.newcomer.type(register, expect=1, NODE=net.url("org-2"))
    assert early["error"]["label"] == "ADMISSION.UNKNOWN_SIGNER"
    admit(net, made["application"], "org-2")
    assert net.newcomer.type(register, NODE=net.url("org-2"))["node"] == made["node"]

    config = net.newcomer.home / "config.toml"
    text = config.read_text(encoding="utf-8")
    for number, port in (("8710", api), ("8711", ops), ("8712", gatekeeper), ("8714", fhir)):
        text = text.replace(f"# port = {number}", f"port = {port}")
    # One machine stands for several here; elsewhere nothing has to be changed.
    text = text.replace("# password_file = ", f"password_file = {json.dumps(str(net.newcomer.secret))} # ")
    config.write_text(f"{text}same_host = true\n{QUICK}", encoding="utf-8")
    doctor, start, status, look = shown("The newcomer starts, and catches up")
    assert net.newcomer.type(doctor)["ok"]
    assert start == "carechain start"
    joined = local.LocalNode(
        name="org-4", seat=False, p2p=p2p, api=api, ops=ops, gatekeeper=gatekeeper, node_id=made["node"]
    )
    network = local.read(net.folder)
    local._keep(net.folder, msgspec.structs.replace(network, nodes=(*network.nodes, joined)))
    net.names.append("org-4")
    net.start("org-4")
    net.wait_ready("org-4")
    net.agree()
    told = net.newcomer.type(status)
    assert (told["ready"], told["validators"], told["server"]) == (True, 3, made["member"])
    assert len(net.newcomer.type(look)["members"]) == 4


@step(after=test_a_newcomer_joins_as_the_page_says)
def test_its_seat_lets_the_others_do_without_the_former_hub(net: Joining) -> None:
    *_, look, status = shown("It gets a seat")
    seat(net, "org-4", "org-2", "org-3")
    assert [one["seated"] for one in net.newcomer.type(look)["validators"]] == [True] * 4
    assert net.newcomer.type(status)["validators"] == 4
    net.kill("org-1")
    rest = net.names[1:]
    with net.load(*rest) as load:
        height = net.height("org-4")
        until(lambda: net.height("org-4") > height + 8, "they go on")
        load.more(5)
    net.agree(*rest)
    assert set(net.producers()[height + 2 :]) == set(rest)
    net.start("org-1")
    net.wait_ready("org-1")
    net.agree()


@step(after=test_its_seat_lets_the_others_do_without_the_former_hub)
def test_an_institution_without_a_node_acts_through_another_members(net: Joining) -> None:
    init, name_it, export, enrol, look, request, get = shown(HOSTED)
    made = net.practice.type(init, GENESIS=net.folder / local.GENESIS_FILE)
    net.practice.type(name_it, MEMBER=net.member("org-3").party.hex())
    net.practice.type(export, NODE=net.url("org-3"))
    assert net.practice.type(enrol, expect=1)["error"]["label"] == "ADMISSION.UNKNOWN_SIGNER"
    admit(net, made["application"], "org-2", "org-3")
    lin = net.practice.type(enrol)["party"]
    assert len(net.practice.type(look)["members"]) == 5

    net.treat()
    refused = net.practice.type(request, expect=1, PATIENT=net.pseudonym)
    assert refused["error"]["label"] == "DECISION.NO_GRANT"
    net.patient.type("carechain grant --to $LIN --categories encounter", LIN=lin)
    ticket = net.practice.type(request, PATIENT=net.pseudonym)["ticket"]
    gatekeeper = f"http://127.0.0.1:{net.node('org-4').gatekeeper}"
    read = net.practice.type(get, TICKET=ticket, GATEKEEPER=gatekeeper)
    assert read["verified"]
    resources = [one for record in read["records"] for one in record["resources"]]
    assert [one["resourceType"] for one in resources] == ["Encounter"]


@step(after=test_an_institution_without_a_node_acts_through_another_members)
def test_a_removed_member_is_refused(net: Joining) -> None:
    (propose,) = shown("When a member leaves")
    *_, enrol, look, request, _ = shown(HOSTED)
    leaving = next(one for one in net.practice.type(look)["members"] if one["name"] == "Village Practice")
    proposal = at(net, "org-1").type(propose, LEAVING=leaving["member"])["proposal"]
    net.pass_vote(proposal, "org-2", "org-3", "org-4")
    # As every request, this one is on the ledger with its answer, for the patient to see.
    refused = net.practice.type(request, expect=1, PATIENT=net.pseudonym)
    assert refused["error"]["label"] == "DECISION.REQUESTER_NOT_LIVE"
    assert refused["ticket"] in {one["ticket"] for one in net.patient.type("carechain log")["lines"]}
    assert (
        net.practice.type(enrol.replace("lin", "mei"), expect=1)["error"]["label"]
        == "MEMBERSHIP.ORGANISATION_NOT_A_MEMBER"
    )
    assert net.practice.type(look, expect=1)["error"]["label"] == "QUERY.NOT_A_LIVE_MEMBER"
    assert "Village Practice" not in {one["name"] for one in at(net, "org-4").type(look)["members"]}
    net.agree()
