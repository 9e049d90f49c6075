"""Speaking ABCI to the real server without a socket: what the engine sends and reads, frame by frame.

Goal: tests and the simulator drive the application as CometBFT does, through the code that frames, parses and answers.
Method: a :class:`Channel` is one connection; its transport keeps what is written in memory. Calls are noted as they are
answered, for ``abci_grammar.py``.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.contracts.validators import founding_keys
from carechain.core.evidence import Evidence
from carechain.core.rejection import Rejected
from carechain.engine.cometbft.application import Hooks, genesis_state
from carechain.engine.cometbft.messages import Request, Response
from carechain.engine.cometbft.server import Answering, Connection, frame_of, take_frames
from carechain.engine.session import CommittedBlock

KINDS = tuple(field.name for field in Request.DESCRIPTOR.fields)
QUERY, SNAPSHOT, MEMPOOL, CONSENSUS = ROLES = ("query", "snapshot", "mempool", "consensus")
"""The engine's four connections, in the order in which it opens them."""
ROLE_OF = {
    "info": QUERY,
    "query": QUERY,
    "check_tx": MEMPOOL,
    "list_snapshots": SNAPSHOT,
    "offer_snapshot": SNAPSHOT,
    "load_snapshot_chunk": SNAPSHOT,
    "apply_snapshot_chunk": SNAPSHOT,
}
"""Where a kind of request travels; the rest on the consensus connection, echo and flush on any."""


class Note(Struct, frozen=True):
    """One call that was answered: its kind, the height it is about, and the height that was answered (``info``)."""

    kind: str
    height: int = 0
    answered: int = 0


class Dropped(Exception):  # noqa: N818 - names what the server did
    """The server closed the connection instead of answering."""


class Transport(asyncio.Transport):
    """The engine's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def answers(self) -> list[Any]:
        """Every whole response written so far, taken off."""
        return [Response.FromString(frame) for frame in take_frames(self.written)]


class Channel:
    """One connection of the engine to an application."""

    def __init__(self, application: Answering, *, note: Callable[[Note], None] = lambda _: None) -> None:
        self.transport = Transport()
        self.connection = Connection(application)
        self.connection.connection_made(self.transport)
        self._note = note

    def call(self, kind: str, **fields: Any) -> Any:
        """Send one request and return what answers it; raises :class:`Dropped`."""
        self.connection.data_received(framed(kind, **fields))
        if self.transport.closed:
            raise Dropped(kind)
        (response,) = self.transport.answers()
        assert response.WhichOneof("value") == kind, "the engine ends itself over an answer to another question"
        answer = getattr(response, kind)
        self._note(Note(kind, fields.get("height", 0), answer.last_block_height if kind == "info" else 0))
        return answer


class Channels:
    """The four connections of one start of the engine; ``notes`` is everything that was answered, in order."""

    def __init__(self, application: Answering) -> None:
        self.notes: list[Note] = []
        self.of = {role: Channel(application, note=self.notes.append) for role in ROLES}

    def call(self, kind: str, **fields: Any) -> Any:
        """Send a request on the connection it belongs to."""
        return self.of[ROLE_OF.get(kind, CONSENSUS)].call(kind, **fields)


def hooks(
    *,
    committed: Callable[[CommittedBlock], None] | None = None,
    refused: Callable[[bytes, Rejected], None] | None = None,
    failed: Callable[[BaseException], None] | None = None,
    knows_peer: Callable[[str], bool] | None = None,
) -> Hooks:
    """Hooks of a node that wants to be told this much, and knows no peer unless ``knows_peer`` says so."""

    def nothing(*_: object) -> None:
        """Nobody is told."""

    def nobody(_: str) -> bool:
        return False

    return Hooks(committed or nothing, refused or nothing, failed or nothing, knows_peer or nobody)


def framed(kind: str, **fields: Any) -> bytes:
    """The frame of one request."""
    request = Request()
    one = getattr(request, kind)
    one.SetInParent()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(one, name).extend(value)
        elif isinstance(value, dict):
            part = getattr(one, name)
            part.SetInParent()
            for key, inner in value.items():
                setattr(part, key, inner)
        else:
            setattr(one, name, value)
    return frame_of(request.SerializeToString())


def init_chain(genesis: Genesis) -> dict[str, Any]:
    """What the engine sends of a genesis, as it has it from the file that ``config.genesis_file`` writes."""
    keys = founding_keys(genesis.validators, genesis.rotation)
    return {
        "time": {"seconds": genesis.time_s},
        "chain_id": genesis.chain_id,
        "validators": [update_of(key) for key in keys],
        "app_state_bytes": genesis_state(genesis_hash(genesis)),
        "initial_height": 1,
    }


def update_of(key: bytes, power: int = 1) -> Any:
    """A validator as ``init_chain`` names it."""
    request = Request()
    one = request.init_chain.validators.add(power=power)
    one.pub_key.ed25519 = key
    return one


def misbehavior_of(evidence: Evidence) -> Any:
    """Evidence as ``finalize_block`` brings it."""
    request = Request()
    one = request.finalize_block.misbehavior.add(type=int(evidence.offence), height=evidence.height)
    one.validator.address = evidence.address
    one.validator.power = 1
    one.time.seconds = evidence.time_s
    return one
