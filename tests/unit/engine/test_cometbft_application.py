"""CometBFT's application: what each call of ABCI answers, and that it decides nothing itself.

Goal: ``info`` tells only what is durable; a foreign genesis halts the node and says so; the pool and proposals are
judged by admission and never by policy; judging a proposal changes nothing; executing answers for every transaction;
what the disk refuses is acknowledged to nobody; only members' nodes are let in. Method: a real session of the small
world with four validators, driven by frames through the real server.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abci_wire import KINDS, Channels, Dropped, hooks, init_chain, misbehavior_of, update_of
from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import LogPage
from carechain.chain.receipts import encode_receipt
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts import validators
from carechain.contracts.access import Decided, RequestAccess
from carechain.contracts.governance import Propose, RemoveMember, SeatValidator, SetRotation, Vote
from carechain.contracts.sanctions import sanctions
from carechain.contracts.validators import RetireNode, address_of
from carechain.core import merkle
from carechain.core.evidence import Evidence, Offence
from carechain.core.ids import derived_id
from carechain.core.limits import BLOCK_TXS, EVIDENCE_PER_BLOCK, HEARTBEAT_S, PROPOSAL_BYTES
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Purpose
from carechain.engine.cometbft.application import (
    ADDRESS_FILTER,
    NODE_FILTER,
    NOT_CHECKABLE,
    Application,
    WrongNetwork,
    read_state,
)
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import CommittedBlock, IllegalOrder, Session
from ledgers import Life
from world import START_S, Actor, Organisation, anchor_of, fresh, seeded

NAMED = "aa" * 20
"""A node that the operator has named as a peer, and that nobody has registered."""
ACCEPT, REJECT = 1, 2


class Side:
    """One node's application with an engine before it, and everything that its hooks were told."""

    def __init__(self, home: Path, *, block_txs: int = BLOCK_TXS) -> None:
        self.home = home
        self.life = Life()
        self.life.world = fresh(validators="abcd")
        self.world = self.life.world
        self.block_txs = block_txs
        self.committed: list[CommittedBlock] = []
        self.refused: list[tuple[bytes, Rejected]] = []
        self.failed: list[BaseException] = []
        self.open()

    def open(self) -> None:
        """Both programs start."""
        self.session = Session.open(self.home, self.life.genesis, keeper=self.world.a.id)
        told = hooks(
            committed=self.committed.append, refused=self.note, failed=self.failed.append, knows_peer=NAMED.__eq__
        )
        sealer = BlockProducer.of(self.world.a.signing)
        self.application = Application(self.session, sealer, told, block_txs=self.block_txs)
        self.channels = Channels(self.application)
        self.call = self.channels.call

    def note(self, raw: bytes, refused: Rejected) -> None:
        """The pool has dropped it."""
        self.refused.append((raw, refused))

    def crash(self) -> None:
        """Nothing is written any more; then both start again."""
        self.session.__exit__(KeyboardInterrupt, None, None)
        self.open()

    def fields(self, *txs: bytes, **changed: Any) -> dict[str, Any]:
        """What ``finalize_block`` carries for the next block."""
        member: Organisation = changed.pop("proposer", self.world.b)
        fields: dict[str, Any] = {
            "txs": list(txs),
            "height": self.session.head.height + 1,
            "time": {"seconds": self.life.time_s},
            "proposer_address": address_of(member.consensus_key().public_key),
        }
        return fields | changed

    def block(self, *txs: bytes, **changed: Any) -> Any:
        """A block is executed and committed; returns the answer to ``finalize_block``."""
        self.life.time_s += 1
        answer = self.call("finalize_block", **self.fields(*txs, **changed))
        self.call("commit")
        return answer

    def check(self, raw: bytes) -> int:
        """The code that the pool is given."""
        code: int = self.call("check_tx", tx=raw).code
        return code

    def prepared(self, *txs: bytes, time_s: int | None = None) -> list[bytes]:
        """What becomes of these in a proposal."""
        seconds = self.life.time_s if time_s is None else time_s
        height = self.session.head.height + 1
        answer = self.call(
            "prepare_proposal", max_tx_bytes=PROPOSAL_BYTES, txs=list(txs), height=height, time={"seconds": seconds}
        )
        return list(answer.txs)

    def judged(self, *txs: bytes) -> int:
        """The answer to a proposal."""
        time = {"seconds": self.life.time_s}
        height = self.session.head.height + 1
        status: int = self.call("process_proposal", txs=list(txs), height=height, time=time).status
        return status

    def voted(self, change: Any) -> list[bytes]:
        """The transactions by which four of six members decide something."""
        a, *others = self.world.members[:4]
        raw = self.life.sign(Propose(change=change), by=a)
        ballot = Vote(proposal=derived_id("proposal", parse(raw).id, 0), aye=True)
        return [raw, *(self.life.sign(ballot, by=one) for one in others)]

    def peer(self, path: str | bytes) -> int:
        """The code for a question of the peer filter."""
        code: int = self.call("query", path=path.encode() if isinstance(path, str) else path).code
        return code


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    """A node at height 0 that has spoken with its engine."""
    side = Side(tmp_path)
    side.call("info")
    side.call("init_chain", **init_chain(side.life.genesis))
    yield side
    side.session.__exit__(KeyboardInterrupt, None, None)


@pytest.fixture
def founded(side: Side) -> Side:
    """The same, with staff and two patients."""
    side.block(*side.life.founding())
    return side


# --- info and genesis -----------------------------------------------------------------------------------


def test_info_tells_what_is_durable_and_no_more(side: Side) -> None:
    info = side.call("info")
    assert (info.data, info.last_block_height, info.last_block_app_hash) == (side.life.genesis.chain_id, 0, b"")
    answer = side.call("finalize_block", **side.fields(*side.life.founding()))
    assert side.call("info").last_block_height == 0
    side.crash()
    assert side.call("info").last_block_height == 0
    again = side.call("finalize_block", **side.fields(*side.life.founding()))
    side.call("commit")
    info = side.call("info")
    assert (info.last_block_height, info.last_block_app_hash) == (1, again.app_hash)
    side.crash()
    assert side.call("info") == info
    assert answer.app_hash != b""


def test_the_right_genesis_is_taken_as_often_as_it_comes(side: Side) -> None:
    fields = init_chain(side.life.genesis)
    first = side.call("init_chain", **fields)
    assert first.app_hash == side.session.head.app_hash
    assert not first.validators
    fields["app_state_bytes"] = b'{\n  "genesis": "%s"\n}\n' % side.session.genesis_hash.hex().encode()
    fields["validators"] = fields["validators"][::-1]
    assert side.call("init_chain", **fields) == first


FOREIGN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another name": lambda fields: fields.update(chain_id="world-2"),
    "another time": lambda fields: fields.update(time={"seconds": START_S + 1}),
    "another first height": lambda fields: fields.update(initial_height=2),
    "another ledger": lambda fields: fields.update(app_state_bytes=b'{"genesis":"%s"}' % (b"00" * 32)),
    "no ledger": lambda fields: fields.update(app_state_bytes=b"{}"),
    "no JSON": lambda fields: fields.update(app_state_bytes=b"\xff\x00"),
    "a validator too few": lambda fields: fields["validators"].pop(),
    "a validator too many": lambda fields: fields["validators"].append(update_of(seeded("stranger"))),
    "a validator twice": lambda fields: fields["validators"].append(fields["validators"][0]),
    "a validator with more votes": lambda fields: fields["validators"].append(
        update_of(fields["validators"].pop().pub_key.ed25519, 2)
    ),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_genesis_halts_the_node_and_says_so(side: Side, change: Callable[[dict[str, Any]], Any]) -> None:
    fields = init_chain(side.life.genesis)
    change(fields)
    with pytest.raises(Dropped):
        side.call("init_chain", **fields)
    (failure,) = side.failed
    assert isinstance(failure, WrongNetwork)
    assert "another genesis" in str(failure)
    for kind in ("info", "check_tx", "commit"):
        with pytest.raises(Dropped):
            side.call(kind)
    assert len(side.failed) == 1


def test_a_ledger_that_has_blocks_does_not_begin_again(founded: Side) -> None:
    with pytest.raises(Dropped):
        founded.call("init_chain", **init_chain(founded.life.genesis))
    assert isinstance(founded.failed[0], WrongNetwork)


@pytest.mark.parametrize(
    "state", [b"", b"[]", b'{"genesis":1}', b'{"genesis":"zz"}', b'{"other":""}', b"\xff", b"[" * 99]
)
def test_what_is_no_genesis_state_is_none(state: bytes) -> None:
    assert read_state(state) is None


# --- the pool -------------------------------------------------------------------------------------------


def test_the_pool_gets_the_code_of_admission(founded: Side) -> None:
    life = founded.life
    good = life.anchor()
    rows = {
        good: 0,
        b"": AdmissionCode.MALFORMED,
        good[:-1] + bytes([good[-1] ^ 1]): AdmissionCode.BAD_SIGNATURE,
        life.sign(anchor_of(life.world.steve, "x"), by=Actor("stranger")): AdmissionCode.UNKNOWN_SIGNER,
        life.sign(anchor_of(life.world.steve, "x"), by=life.world.carl, valid_s=0): AdmissionCode.EXPIRED,
        life.sign(anchor_of(life.world.steve, "x"), by=life.world.carl, valid_s=10_000): AdmissionCode.VALID_TOO_LONG,
        b"x" * 70_000: AdmissionCode.TOO_LARGE,
    }
    assert [founded.check(raw) for raw in rows] == list(rows.values())
    assert [raw for raw, _ in founded.refused] == [raw for raw, code in rows.items() if code]
    founded.block(good)
    assert founded.check(good) == AdmissionCode.REPLAYED


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """A node that only answers questions."""
    side = Side(tmp_path_factory.mktemp("shared"))
    side.call("init_chain", **init_chain(side.life.genesis))
    side.block(*side.life.founding())
    yield side
    side.session.__exit__(KeyboardInterrupt, None, None)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_checking_never_ends_the_node(shared: Side, data: st.DataObject) -> None:
    good = shared.life.founding()[0]
    at = data.draw(st.integers(0, len(good)))
    noise = data.draw(st.binary(max_size=64))
    raw = data.draw(st.sampled_from([noise, good[:at] + noise, good[:at] + noise + good[at:], noise + good[at:]]))
    code = shared.check(raw)
    assert code in list(AdmissionCode) or (code == 0 and raw == good)
    assert shared.failed == []


def test_an_error_over_one_transaction_is_that_transactions(founded: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(raw: bytes) -> None:
        raise RecursionError

    with monkeypatch.context() as patch:
        patch.setattr(founded.session, "check", check)
        assert founded.check(b"anything") == NOT_CHECKABLE
    assert founded.failed == []
    assert founded.check(founded.life.anchor()) == 0


def test_what_policy_refuses_is_ordered_and_the_patient_sees_it(founded: Side) -> None:
    """CheckTx, PrepareProposal and ProcessProposal let it pass; only executing it says no, in a ticket for the log."""
    world = founded.world
    message = RequestAccess(pseudonym=world.steve.id, scope=EVERYTHING, purpose=Purpose.TREAT)
    request = founded.life.sign(message, by=world.bert)
    rejected = founded.life.sign(anchor_of(world.steve, "not his patient"), by=world.bert)
    assert [founded.check(request), founded.check(rejected)] == [0, 0]
    assert founded.prepared(request, rejected) == [request, rejected]
    assert founded.judged(request, rejected) == ACCEPT
    answer = founded.block(request, rejected)
    assert answer.tx_results[0].code == 0
    assert answer.tx_results[1].code not in (0, *AdmissionCode)
    (decided,) = founded.committed[-1].receipts[0].events
    assert isinstance(decided, Decided)
    assert decided.decision
    session = founded.session
    view = View(snapshot=session.snapshot(), height=session.head.height, time_s=session.head.time_s)
    patient = view.contracts.membership.party(world.steve.id)
    assert patient is not None
    lines = ask(view, Asker(world.steve.id, patient), "access.log", LogPage(world.steve.id)).rows
    assert [(row.line.ticket, row.line.decision) for row in lines] == [(decided.ticket, decided.decision)]


# --- proposals ------------------------------------------------------------------------------------------


def test_a_proposal_holds_what_is_admissible_at_its_time_in_order_and_once(founded: Side) -> None:
    life = founded.life
    first, second = life.anchor(), life.anchor()
    late = life.sign(anchor_of(life.world.steve, "late"), by=life.world.carl, valid_s=10)
    broken = first[:-1] + bytes([first[-1] ^ 1])
    assert founded.prepared(second, late, first, second, broken, b"", b"noise") == [second, late, first]
    assert founded.prepared(second, late, first, time_s=life.time_s + 10) == [second, first]
    assert founded.prepared() == []
    founded.block(second)
    assert founded.prepared(second, first) == [first]


def test_a_proposal_is_capped(tmp_path: Path) -> None:
    side = Side(tmp_path, block_txs=2)
    side.call("init_chain", **init_chain(side.life.genesis))
    side.block(*side.life.founding())
    txs = [side.life.anchor() for _ in range(4)]
    assert side.prepared(b"noise", *txs) == txs[:2]
    side.session.close()
    assert Side(tmp_path, block_txs=BLOCK_TXS * 2).application._block_txs == BLOCK_TXS


def test_a_proposal_is_judged_by_its_size_alone(founded: Side) -> None:
    life = founded.life
    assert founded.judged() == ACCEPT
    assert founded.judged(b"", b"noise", life.anchor(), life.founding()[0]) == ACCEPT
    assert founded.judged(*[b""] * BLOCK_TXS) == ACCEPT
    assert founded.judged(*[b""] * (BLOCK_TXS + 1)) == REJECT
    assert founded.judged(*[bytes(1024 * 1024)] * 17) == REJECT


def test_judging_changes_nothing(founded: Side) -> None:
    """Neither the state nor what is remembered of signatures, and a block that is being executed stays."""
    life = founded.life
    decided, other = life.anchor(), life.anchor()
    finalized = founded.call("finalize_block", **founded.fields(decided))
    session = founded.session

    def outlook() -> tuple[Any, ...]:
        signatures = session.signatures
        return session.head, session.snapshot().root_hash, list(signatures._held), list(signatures._parsed)

    before = outlook()
    assert [founded.judged(other, b"noise", other) for _ in range(3)] == [ACCEPT] * 3
    assert [founded.judged(*[b""] * (BLOCK_TXS + 1)) for _ in range(2)] == [REJECT] * 2
    assert outlook() == before
    founded.call("commit")
    assert session.head.app_hash == finalized.app_hash
    assert founded.committed[-1].txs == (decided,)


# --- executing ------------------------------------------------------------------------------------------


def test_every_transaction_has_its_result(founded: Side) -> None:
    life = founded.life
    good = life.anchor()
    late = life.sign(anchor_of(life.world.steve, "late"), by=life.world.carl, valid_s=0)
    txs = (b"", b"\xff" * 100, good, good, late, good[:-1], b"\x00", life.request())
    answer = founded.block(*txs)
    receipts = founded.committed[-1].receipts
    assert [one.code for one in answer.tx_results] == [one.code for one in receipts]
    assert [one.data for one in answer.tx_results] == [merkle.leaf_hash(encode_receipt(one)) for one in receipts]
    expected = [AdmissionCode.MALFORMED, AdmissionCode.MALFORMED, 0, AdmissionCode.REPLAYED, AdmissionCode.EXPIRED]
    assert [one.code for one in receipts][:5] == expected
    assert len(answer.tx_results) == len(txs)
    assert founded.failed == []


def test_executing_again_gives_the_same_and_only_the_last_block_counts(founded: Side) -> None:
    one, other = founded.life.anchor(), founded.life.anchor()
    first = founded.call("finalize_block", **founded.fields(one))
    founded.call("finalize_block", **founded.fields(other, b"noise"))
    assert founded.call("finalize_block", **founded.fields(one)) == first
    founded.call("commit")
    assert founded.committed[-1].txs == (one,)
    assert founded.call("info").last_block_app_hash == first.app_hash


def test_an_empty_block_leaves_the_root(founded: Side) -> None:
    """Otherwise the engine would make blocks without end, each because of the last."""
    before = founded.session.head.app_hash
    answer = founded.block()
    assert answer.app_hash == before
    assert not answer.tx_results
    assert not answer.validator_updates


OUT_OF_ORDER: dict[str, dict[str, Any]] = {
    "a height too far": {"height": 3},
    "the last height again": {"height": 1},
    "a time that goes back": {"time": {"seconds": START_S - 1}},
    "more than a block may hold": {"txs": [b""] * (BLOCK_TXS + 1)},
}


@pytest.mark.parametrize("changed", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER.keys())
def test_what_does_not_follow_halts_the_node(founded: Side, changed: dict[str, Any]) -> None:
    head = founded.session.head
    with pytest.raises(Dropped):
        founded.call("finalize_block", **founded.fields() | changed)
    assert isinstance(founded.failed[0], IllegalOrder)
    with pytest.raises(Dropped):
        founded.call("commit")
    assert founded.session.head == head
    founded.crash()
    assert founded.session.head == head


def test_there_is_nothing_to_commit_before_a_block_was_executed(founded: Side) -> None:
    with pytest.raises(Dropped):
        founded.call("commit")
    assert isinstance(founded.failed[0], IllegalOrder)


@pytest.mark.parametrize("kept", [False, True], ids=["nothing written", "all written"])
def test_a_disk_that_refuses_halts_the_node_and_nobody_is_told(founded: Side, *, kept: bool) -> None:
    log = founded.session._log

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def append(self, *args: Any) -> None:
            if kept:
                log.append(*args)
            raise OSError(28, "No space left on device")

    founded.session._log = Full()
    told = len(founded.committed)
    fields = founded.fields(founded.life.anchor())
    answer = founded.call("finalize_block", **fields)
    with pytest.raises(Dropped):
        founded.call("commit")
    assert isinstance(founded.failed[0], OSError)
    assert len(founded.committed) == told
    with pytest.raises(Dropped):
        founded.call("info")
    founded.crash()
    info = founded.call("info")
    assert info.last_block_height == 1 + kept
    if not kept:
        assert founded.call("finalize_block", **fields) == answer
        founded.call("commit")
    assert founded.session.head.app_hash == answer.app_hash


def test_the_header_names_who_put_the_block_together(founded: Side) -> None:
    founded.block(proposer=founded.world.c)
    assert founded.committed[-1].header.producer == founded.world.c.id
    founded.block(proposer=founded.world.e)
    assert founded.committed[-1].header.producer == bytes(32)
    keeper = founded.committed[-1].sealed.keeper
    assert keeper is not None
    assert keeper.party == founded.world.a.id


# --- validators -----------------------------------------------------------------------------------------


def changes(answer: Any) -> list[tuple[bytes, int]]:
    """The validator changes of an answer."""
    return [(one.pub_key.ed25519, one.power) for one in answer.validator_updates]


def test_members_vote_validators_out_and_in(founded: Side) -> None:
    world = founded.world
    key = world.d.consensus_key().public_key
    answer = founded.block(*founded.voted(SeatValidator(member=world.d.id, seated=False)))
    assert changes(answer) == [(key, 0)]
    assert changes(founded.block()) == []
    answer = founded.block(*founded.voted(SeatValidator(member=world.d.id, seated=True)))
    assert changes(answer) == [(key, 1)]


def test_a_new_key_replaces_the_old_one(founded: Side) -> None:
    world = founded.world
    answer = founded.block(founded.life.sign(world.b.announcement(1), by=world.b))
    old, new = (world.b.consensus_key(number).public_key for number in range(2))
    assert changes(answer) == sorted([(old, 0), (new, 1)])
    answer = founded.block(founded.life.sign(world.e.announcement(), by=world.e))
    assert changes(answer) == [], "a key without a seat"


def test_seats_take_turns_without_any_transaction(founded: Side) -> None:
    members = {one.consensus_key().public_key for one in founded.world.members[:4]}
    acting = set(members)
    seen = []
    answer = founded.block(*founded.voted(SetRotation(every_blocks=2, active=2)))
    for _ in range(9):
        for key, power in changes(answer):
            assert (key in acting) is not bool(power)
            acting ^= {key}
        assert len(acting) == 2
        seen.append(frozenset(acting))
        answer = founded.block()
    assert len(set(seen)) == 4
    assert set().union(*seen) == members


def evidence(member: Organisation, **changed: Any) -> Evidence:
    """The member's validator voted twice at the first height."""
    fields: dict[str, Any] = {
        "offence": Offence.DOUBLE_VOTE,
        "address": address_of(member.consensus_key().public_key),
        "height": 1,
        "time_s": START_S,
    }
    return Evidence(**fields | changed)


def test_evidence_costs_the_seat_and_is_recorded(founded: Side) -> None:
    world = founded.world
    answer = founded.block(misbehavior=[misbehavior_of(evidence(world.d))])
    assert changes(answer) == [(world.d.consensus_key().public_key, 0)]
    assert founded.committed[-1].header.evidence == (evidence(world.d),)
    ((organisation, height, row),) = sanctions(founded.session.ledger().contracts.sanctions)
    assert (organisation, height, row.offence, row.unseated) == (world.d.id, 1, Offence.DOUBLE_VOTE, True)
    founded.crash()
    assert founded.session.head.height == 2


def test_evidence_that_names_nobody_is_no_reason_to_stop(founded: Side) -> None:
    stranger = misbehavior_of(evidence(founded.world.a, address=bytes(20)))
    unknown, short, negative = (misbehavior_of(evidence(founded.world.a)) for _ in range(3))
    unknown.type = 7
    short.validator.address = b"short"
    negative.height = -1
    answer = founded.block(misbehavior=[stranger, unknown, short, negative, *[stranger] * EVIDENCE_PER_BLOCK])
    assert changes(answer) == []
    assert len(founded.committed[-1].header.evidence) == EVIDENCE_PER_BLOCK
    founded.crash()
    assert founded.session.head.height == 2


# --- peers ----------------------------------------------------------------------------------------------


def test_members_nodes_are_let_in_and_nobody_elses(founded: Side) -> None:
    world = founded.world
    assert founded.peer(NODE_FILTER + world.f.node_id.hex()) == 0
    assert founded.peer(NODE_FILTER + seeded("stranger", size=20).hex()) == 1
    assert founded.peer(NODE_FILTER + NAMED) == 0, "the operator has named it"
    assert founded.peer(NODE_FILTER + NAMED.upper()) == 0
    founded.block(founded.life.sign(world.c.registration(1), by=world.c))
    second = address_of(world.c.node_key(1).public_key)
    assert founded.peer(NODE_FILTER + second.hex()) == 0
    founded.block(founded.life.sign(RetireNode(node_id=second), by=world.c))
    assert founded.peer(NODE_FILTER + second.hex()) == 1


def test_a_removed_member_is_let_in_no_more_even_if_the_operator_named_it(founded: Side) -> None:
    founded.block(founded.life.sign(founded.world.f.registration(1), by=founded.world.f))
    node = address_of(founded.world.f.node_key(1).public_key).hex()
    assert founded.application.admits_peer(node)
    founded.block(*founded.voted(RemoveMember(member=founded.world.f.id)))
    assert founded.peer(NODE_FILTER + node) == 1
    assert founded.peer(NODE_FILTER + founded.world.f.node_id.hex()) == 1
    sealer = BlockProducer.of(founded.world.a.signing)
    knows_it = Application(founded.session, sealer, hooks(knows_peer=node.__eq__))
    assert not knows_it.admits_peer(node)
    assert validators.node_owner(founded.session.ledger().contracts.validators, bytes.fromhex(node)) is not None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/store",
        NODE_FILTER,
        NODE_FILTER + "zz" * 20,
        NODE_FILTER + "ab" * 19,
        NODE_FILTER + "ab" * 21,
        NODE_FILTER + "a" * 39,
        NODE_FILTER + "节点",
        NODE_FILTER + "../" * 50,
        NODE_FILTER + "\x00" * 40,
        NODE_FILTER + "a" * 100_000,
        "/p2p/filter/id",
        "/P2P/FILTER/ID/" + NAMED,
        b"\xff\xfe",
        NODE_FILTER.encode() + b"\x80" * 40,
    ],
    ids=lambda path: repr(path[:24]),
)
def test_any_other_question_is_refused_and_nothing_else_happens(shared: Side, path: str | bytes) -> None:
    assert shared.peer(path) == 1
    assert shared.failed == []


def test_addresses_say_nothing_about_who_it_is(shared: Side) -> None:
    """The engine asks for the address before it knows the node's id: the id is what decides."""
    assert shared.peer(ADDRESS_FILTER + "127.0.0.1:26656") == 0


# --- the rest -------------------------------------------------------------------------------------------


def test_every_kind_of_request_is_answered_in_kind(side: Side) -> None:
    """With nothing in it; those that must come in an order have their own tests."""
    ordered = {"init_chain", "finalize_block", "commit"}
    for kind in [one for one in KINDS if one not in ordered]:
        side.call(kind)
    assert side.failed == []
    assert side.call("echo", text="回声").text == "回声"
    assert side.call("verify_vote_extension").status == ACCEPT


def test_hours_of_idleness_change_nothing_and_a_write_goes_at_once(founded: Side) -> None:
    """Three hours of a quiet chain's beats; then a transaction gets into the very next block, and all that expired."""
    side = founded
    app_hash, height = side.session.head.app_hash, side.session.head.height
    old = side.life.anchor()
    assert side.check(old) == 0
    for beat in range(1, 3 * 3600 // HEARTBEAT_S + 1):
        side.life.time_s += HEARTBEAT_S - 1
        answer = side.block()
        assert answer.app_hash == app_hash
        assert side.session.head.height == height + beat
    assert side.check(old) == AdmissionCode.EXPIRED
    fresh = side.life.anchor()
    assert side.check(fresh) == 0
    assert side.prepared(old, fresh) == [fresh]
    answer = side.block(fresh)
    assert [one.code for one in answer.tx_results] == [0]
    assert answer.app_hash != app_hash
