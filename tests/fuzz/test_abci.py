"""Goal: no bytes on the ABCI socket, however made, raise out of the server, hang it, or damage the ledger.

Method: noise and cut, flipped and spliced frames; and well-formed requests of every kind with random contents. What
only asks is answered and leaves all as it was. What would execute or take over something may be carried out or halt the
node (the socket is its user's own), but what is durable then opens again, at the height that was acknowledged.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from abci_wire import KINDS, Channel, hooks, init_chain, misbehavior_of
from carechain.contracts.validators import address_of
from carechain.core.evidence import Evidence, Offence
from carechain.engine.cometbft.application import ADDRESS_FILTER, NODE_FILTER, Application
from carechain.engine.cometbft.messages import Request, Response
from carechain.engine.cometbft.server import frame_of, take_frames
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import Session
from ledgers import Life
from world import START_S, fresh

QUIET = settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
CHANGING = frozenset({"init_chain", "finalize_block", "commit", "offer_snapshot", "apply_snapshot_chunk"})
ASKING = sorted(set(KINDS) - CHANGING)
_STRINGS = ("", "echo", "节点", NODE_FILTER, NODE_FILTER + "ab" * 20, ADDRESS_FILTER, "/store", "x" * 1000)


class Target:
    """A node with a few blocks, which is opened again whenever something has halted it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.life = Life()
        self.life.world = fresh(validators="abcd")
        self.known = [*self.life.founding(), b""]
        self.acknowledged = 0
        self.open()
        fields = init_chain(self.life.genesis)
        self.channel().call("init_chain", **fields)
        for txs in (self.known, [self.life.anchor()]):
            self.life.time_s += 1
            fields = {"txs": txs, "height": self.session.head.height + 1, "time": {"seconds": self.life.time_s}}
            self.channel().call("finalize_block", **fields)
            self.channel().call("commit")

    def open(self) -> None:
        """Start, after a crash or for the first time."""
        self.failed: list[BaseException] = []
        world = self.life.world
        self.session = Session.open(self.home, self.life.genesis, keeper=world.a.id)
        assert self.session.head.height >= self.acknowledged
        told = hooks(committed=self.note, failed=self.failed.append)
        self.application = Application(self.session, BlockProducer.of(world.a.signing), told)

    def note(self, block: Any) -> None:
        """A block is durable."""
        self.acknowledged = block.height

    def channel(self) -> Channel:
        """A new connection."""
        return Channel(self.application)

    def again(self) -> None:
        """Both programs end without writing anything, and start again."""
        self.session.__exit__(KeyboardInterrupt, None, None)
        self.open()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = Target(tmp_path_factory.mktemp("target"))
    yield target
    target.session.__exit__(KeyboardInterrupt, None, None)


def contents(draw: Any, message: Any, known: list[bytes], depth: int = 0) -> None:
    """Fill in any of a message's fields with anything that their types allow."""
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.is_repeated:
                for _ in range(draw(st.integers(0, 3))):
                    contents(draw, getattr(message, field.name).add(), known, depth + 1)
            else:
                one = getattr(message, field.name)
                one.SetInParent()
                contents(draw, one, known, depth + 1)
            continue
        values = _values(field, known)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(values, max_size=4)))
        else:
            setattr(message, field.name, draw(values))


def _values(field: Any, known: list[bytes]) -> st.SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_BYTES:
            paths = [path.encode() for path in _STRINGS]
            return st.one_of(st.binary(max_size=80), st.sampled_from([*known, *paths, bytes(20), bytes(32)]))
        case FieldDescriptor.TYPE_STRING:
            return st.one_of(st.text(max_size=30), st.sampled_from(_STRINGS))
        case FieldDescriptor.TYPE_UINT32:
            return st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1))
        case FieldDescriptor.TYPE_INT32:
            return st.integers(-(2**31), 2**31 - 1)
        case FieldDescriptor.TYPE_UINT64:
            return st.one_of(st.integers(0, 4), st.integers(0, 2**64 - 1))
        case _:
            return st.one_of(st.integers(0, 4), st.just(START_S), st.integers(-(2**63), 2**63 - 1))


def request_of(draw: Any, kind: str, known: list[bytes]) -> bytes:
    """A frame with a request of this kind."""
    request = Request()
    one = getattr(request, kind)
    one.SetInParent()
    contents(draw, one, known)
    return frame_of(request.SerializeToString())


@QUIET
@given(data=st.data())
def test_noise_and_mangled_frames_end_their_own_connection_at_most(target: Target, data: st.DataObject) -> None:
    whole = request_of(data.draw, data.draw(st.sampled_from(ASKING)), target.known)
    at = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.binary(max_size=60))
    stream = data.draw(st.sampled_from([noise, whole[:at], whole[:at] + noise, whole[:at] + noise + whole[at:], whole]))
    assume(not _changes(stream))
    head = target.session.head
    channel, other = target.channel(), target.channel()
    cut = data.draw(st.integers(0, len(stream)))
    channel.connection.data_received(stream[:cut])
    channel.connection.data_received(stream[cut:])
    assert target.failed == []
    assert target.session.head == head
    assert other.call("info").last_block_height == head.height


def _changes(stream: bytes) -> bool:
    """Whether mangling has made a request that changes something."""
    try:
        kinds = [Request.FromString(frame).WhichOneof("value") for frame in take_frames(bytearray(stream))]
    except Exception:  # noqa: BLE001 - whatever it is, it is no such request
        return False
    return any(kind in CHANGING for kind in kinds)


@pytest.mark.parametrize("kind", ASKING)
@settings(parent=QUIET, max_examples=40)
@given(data=st.data())
def test_questions_with_any_contents_are_answered_and_change_nothing(
    target: Target, kind: str, data: st.DataObject
) -> None:
    head = target.session.head
    channel = target.channel()
    channel.connection.data_received(request_of(data.draw, kind, target.known))
    (answer,) = channel.transport.answers()
    assert answer.WhichOneof("value") == kind
    assert not channel.transport.closed
    assert target.failed == []
    assert target.session.head == head
    assert target.session.snapshot().root_hash == head.app_hash


@pytest.mark.parametrize("kind", sorted(CHANGING))
@settings(parent=QUIET, max_examples=40)
@given(data=st.data())
def test_commands_with_any_contents_are_carried_out_or_halt_the_node(
    target: Target, kind: str, data: st.DataObject
) -> None:
    channel = target.channel()
    channel.connection.data_received(request_of(data.draw, kind, target.known))
    answers = channel.transport.answers()
    assert bool(answers) is not channel.transport.closed
    assert bool(target.failed) is channel.transport.closed
    if data.draw(st.booleans()):
        channel.connection.data_received(frame_of(_request("commit")))
    target.again()
    assert target.session.head.app_hash == target.session.snapshot().root_hash


@QUIET
@given(data=st.data())
def test_blocks_of_anything_are_executed_alike(target: Target, data: st.DataObject) -> None:
    """The right height and time, and any bytes as transactions and any evidence: a result for each, twice the same."""
    world, head = target.life.world, target.session.head
    txs = data.draw(
        st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([*target.known, target.life.anchor()])), max_size=8)
    )
    addresses = [address_of(one.consensus_key().public_key) for one in world.members]
    found = [
        Evidence(offence=Offence.DOUBLE_VOTE, address=address, height=1, time_s=START_S)
        for address in data.draw(st.lists(st.sampled_from([*addresses, bytes(20)]), max_size=3))
    ]
    fields = {
        "txs": txs,
        "height": head.height + 1,
        "time": {"seconds": head.time_s + data.draw(st.integers(0, 700))},
        "misbehavior": [misbehavior_of(one) for one in found],
        "proposer_address": data.draw(st.one_of(st.sampled_from(addresses), st.binary(max_size=24))),
    }
    first = target.channel().call("finalize_block", **fields)
    assert len(first.tx_results) == len(txs)
    assert target.channel().call("finalize_block", **fields) == first
    if data.draw(st.booleans()):
        target.channel().call("commit")
        assert target.session.head.app_hash == first.app_hash
        target.again()
        assert target.session.head.app_hash == first.app_hash


def _request(kind: str) -> bytes:
    request = Request()
    getattr(request, kind).SetInParent()
    return bytes(request.SerializeToString())


def test_every_request_has_its_response() -> None:
    """What is answered to a kind is the response of that kind, by name and by number."""
    numbers = {field.name: field.number for field in Response.DESCRIPTOR.fields}
    for field in Request.DESCRIPTOR.fields:
        assert numbers[field.name] == field.number + 1
