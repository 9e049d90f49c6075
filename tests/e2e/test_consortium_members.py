"""Goal: who lies or is voted out has no say and no connection any more, and who is let in is what the ledger says.

Method: four real validators. Two votes for different blocks are signed with one validator's own key and handed to
another's engine, as an engine does that has received both. Then nodes come with keys that nobody registered, are
registered and retired, and a member is voted out. A refused access and a late joiner come by the way.
"""

import base64
import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

import pytest

from carechain.chain.questions import LogPage, SanctionPage
from carechain.contracts.access import Decided, RequestAccess
from carechain.contracts.governance import Closed, Propose, Proposed, RemoveMember, SeatValidator, Vote
from carechain.contracts.validators import RegisterNode, RetireNode, node_message
from carechain.core.evidence import Offence
from carechain.core.vocabulary import Purpose, Role
from carechain.engine.cometbft.config import FOLDER, NODE_KEY, VALIDATOR_KEY, node_id, read_key
from carechain.node.consortium import prepare
from carechain.sdk.light.header import BlockId, Commit, Time, vote_bytes
from e2e.consortium import Consortium, holds_for, until
from world import CHAIN_ID, RESULTS, Actor, anchor_of, enrolment_of, seeded

pytestmark = pytest.mark.engine

GONE_S = 30.0
"""The issue's own figure: so soon a removed member has no connection any more."""
LATE_TXS = 3_000


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    net = Consortium(tmp_path_factory.mktemp("members"), settings="propose_wait_ms = 1000\n")
    try:
        net.up()
        net.populate()
        yield net
    finally:
        net.close()


def vote(net: Consortium, change: Any, *, by: list[str]) -> None:
    """These organisations, of which the first proposes, pass a change."""
    proposed = net.submit(by[0], Propose(change=change))
    (proposal,) = [one.proposal for one in proposed.receipt.events if isinstance(one, Proposed)]
    for name in by[1:]:
        done = net.submit(name, Vote(proposal=proposal, aye=True))
    assert any(isinstance(one, Closed) and one.passed for one in done.receipt.events)


# --- a validator that lies ------------------------------------------------------------------------------


def evidence_of(net: Consortium, liar: str, witness: str, *, key_of: str | None = None) -> dict[str, Any]:
    """Two votes of a validator for different blocks at a height that is past, as the engine's interface takes them."""
    height = net.height(witness)
    commit = net.ask_engine(witness, "commit", height=str(height))
    validators = net.ask_engine(witness, "validators", height=str(height))
    own = json.loads((net.home(liar) / FOLDER / VALIDATOR_KEY).read_text())["address"]
    place = [one["address"] for one in validators["validators"]].index(own)
    key = read_key(net.home(key_of or liar) / FOLDER / VALIDATOR_KEY)
    when = datetime.now(UTC).replace(microsecond=0)
    votes = []
    for block in sorted(seeded("block", number) for number in range(2)):
        told = BlockId(hash=block, parts=1, parts_hash=block)
        signed = Commit(height=height, round=0, block_id=told, signatures=(None,))
        signature = key.sign(vote_bytes(CHAIN_ID, signed, Time(int(when.timestamp()))))
        votes.append(
            {
                "type": 2,
                "height": str(height),
                "round": 0,
                "block_id": {"hash": block.hex().upper(), "parts": {"total": 1, "hash": block.hex().upper()}},
                "timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "validator_address": own,
                "validator_index": place,
                "signature": base64.b64encode(signature).decode(),
                "extension": None,
                "extension_signature": None,
            }
        )
    return {
        "type": "tendermint/DuplicateVoteEvidence",
        "value": {
            "vote_a": votes[0],
            "vote_b": votes[1],
            "TotalVotingPower": str(len(validators["validators"])),
            "ValidatorPower": "1",
            "Timestamp": commit["signed_header"]["header"]["time"],
        },
    }


def test_a_double_vote_costs_the_seat_and_is_on_record_everywhere(net: Consortium) -> None:
    liar, witness = "org-4", "org-1"
    forged = evidence_of(net, liar, witness, key_of="org-3")
    with pytest.raises(AssertionError, match="invalid signature"):
        net.ask_engine(witness, "broadcast_evidence", evidence=forged)
    evidence = evidence_of(net, liar, witness)
    offence_height = int(evidence["value"]["vote_a"]["height"])
    net.ask_engine(witness, "broadcast_evidence", evidence=evidence)
    for name in net.names:
        until(lambda n=name: net.at(n).rows("sanctions.list", SanctionPage()), f"{name} has it on record")
        (line,) = net.at(name).rows("sanctions.list", SanctionPage())
        assert line.organisation == net.member(liar).party
        assert line.height == offence_height
        assert line.row.offence is Offence.DOUBLE_VOTE
        assert line.row.unseated
    height = net.agree()
    net.write(witness, "a block after the sanction")
    net.reach(height + 3)
    for name in net.names:
        assert net.status(name).validators == 3  # type: ignore[union-attr]
        assert len(net.ask_engine(name, "validators")["validators"]) == 3
    # It stays a member, follows, and may be voted in again.
    net.write(liar, "written at the liar's node")
    vote(net, SeatValidator(member=net.member(liar).party, seated=True), by=net.names[:3])
    until(lambda: all(len(net.ask_engine(name, "validators")["validators"]) == 4 for name in net.names), "four again")
    net.agree()


# --- refused accesses and late joiners ------------------------------------------------------------------


def test_a_refused_access_is_in_the_patients_log_at_every_node(net: Consortium) -> None:
    """A doctor of another hospital asks without a grant, through each node in turn."""
    bert = Actor("bert", organisation=net.member("org-2").party)
    net.submit("org-2", enrolment_of(bert, net.certify("org-2", bert, Role.DOCTOR)))
    for asked_before, name in enumerate(net.names):
        done = net.submit(name, RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=bert)
        (decided,) = [one for one in done.receipt.events if isinstance(one, Decided)]
        assert decided.decision != 0
        net.agree()
        for other in net.names:
            with net.client(other, by=net.steve) as patient:
                lines = patient.rows("access.log", LogPage(pseudonym=net.steve.id))
            assert len(lines) == asked_before + 1, (name, other)
            assert lines[-1].line.decision == decided.decision


def test_a_late_joiner_catches_up_by_blocks(net: Consortium) -> None:
    late, *others = reversed(net.names)
    net.stop(late)
    shutil.rmtree(net.home(late) / "ledger")
    data = net.home(late) / FOLDER / "data"
    for one in data.iterdir():
        if one.is_dir():
            shutil.rmtree(one)
    with net.client(others[0], by=net.carl) as client:
        began_s = time.monotonic()
        for batch in range(0, LATE_TXS, 500):
            raws = [client.sign(anchor_of(net.steve, f"late {number}")) for number in range(batch, batch + 500)]
            net.acknowledged += [one.tx_id for one in client.send_many(raws)]  # type: ignore[union-attr]
        took_s = time.monotonic() - began_s
    height = net.agree(*others)
    began_s = time.monotonic()
    net.start(late)
    net.reach(height, late)
    caught_s = time.monotonic() - began_s
    net.agree()
    net.whole(late)
    print(f"{LATE_TXS} transactions written one batch after the other in {took_s:.1f} s")  # noqa: T201 - measured
    print(f"caught up {height} blocks with them in {caught_s:.1f} s, start of the node included")  # noqa: T201


# --- who is let in --------------------------------------------------------------------------------------


def test_only_registered_nodes_are_let_in(net: Consortium) -> None:
    """A node comes back with a new key: nobody knows it until its member registers it."""
    name, others = "org-3", ["org-1", "org-2", "org-4"]
    net.stop(name)
    folder = net.home(name) / FOLDER
    old = bytes.fromhex(node_id(folder))
    (folder / NODE_KEY).unlink()
    prepare(folder, seeded("another node key", size=64))
    key = read_key(folder / NODE_KEY)
    new = node_id(folder)
    height = net.height(name) or net.agree(*others)
    net.start(name)
    until(lambda: net.status(name), "it answers")
    holds_for(6.0, lambda: not any(new in net.peers_of(other) for other in others), "it is not let in")
    assert net.height(name) <= height
    wanted = node_message(chain_id=CHAIN_ID, organisation=net.member(name).party, node_key=key.public_key)
    with net.client("org-1", by=net.member(name)) as client:
        client.submit(RegisterNode(node_key=key.public_key, proof=key.sign(wanted)), RetireNode(node_id=old))
    until(lambda: all(new in net.peers_of(other) for other in others), "it is let in")
    net.reach(net.height("org-1"), name)
    net.agree()


def test_a_removed_member_is_disconnected_and_stays_out(net: Consortium) -> None:
    name, others = "org-4", ["org-1", "org-2", "org-3"]
    removed = node_id(net.home(name) / FOLDER)
    assert all(removed in net.peers_of(other) for other in others)
    with net.load(*others) as load:
        vote(net, RemoveMember(member=net.member(name).party), by=others)
        began_s = time.monotonic()
        for other in others:
            until(lambda o=other: removed not in peers(net, o), f"{other} has let go of it", within_s=GONE_S)
        print(f"disconnected everywhere after {time.monotonic() - began_s:.1f} s")  # noqa: T201 - measured
        load.more(5)
        holds_for(10.0, lambda: not any(removed in peers(net, other) for other in others), "it is not let in again")
        load.more(5)
    until(lambda: all(len(net.ask_engine(one, "validators")["validators"]) == 3 for one in others), "three validators")
    until(lambda: net.status("org-1").peers == 2, "the others are connected again")  # type: ignore[union-attr]
    net.agree(*others)


def peers(net: Consortium, name: str) -> set[str]:
    """The peers of a node whose engine may be starting again just now: then it has none."""
    try:
        return net.peers_of(name)
    except (OSError, HTTPException):
        return set()
