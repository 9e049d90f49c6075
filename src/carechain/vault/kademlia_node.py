"""A node of the distributed store: the library's routing and lookups, open to members only.

Every datagram is signed by the member that sends it, for one network and one moment, and an answer counts only when it
comes from the node that was asked. So nobody else can learn what is stored, fill it, answer for a node, or use a node
to flood a third party. A node's place follows from the member's id. Values are checked before they are believed: a node
that gives something else is passed over, and the search goes on.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec
import structlog
from kademlia.crawling import NodeSpiderCrawl, ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from msgspec import Meta, Struct

from carechain.core.codec import encode
from carechain.core.crypto import BadSignature, SigningKey, verify
from carechain.core.hashing import tagged
from carechain.core.limits import CLOCK_SKEW_S, DHT_CALLS_AT_ONCE, DHT_RECORDS_PER_KEY, ID_SIZE, SIGNATURE_SIZE
from carechain.core.units import DAY_S
from carechain.vault.base import SHA256, Hashing, VaultUnavailable
from carechain.vault.kademlia_records import (
    KEY_SIZE,
    BadRecord,
    Kind,
    Record,
    Signers,
    key_of,
    node_id_of,
    read_record,
    stored_record,
)
from carechain.vault.kademlia_storage import Kept, PersistentStorage, RecordFile

ROUTES: Final = 20
"""Contacts per bucket of the routing table, the paper's k; how many copies are made is another figure."""
LOOKUPS_AT_ONCE: Final = 3
REPUBLISH_S: Final = 3600
UNCLAIMED_S: Final = 7 * DAY_S
"""A record whose member has left the network is kept for so long."""
_REQUEST: Final = b"\x00"
_ANSWER: Final = b"\x01"
_MESSAGE_ID: Final = 20
_TRAILER: Final = 8 + 1 + ID_SIZE + SIGNATURE_SIZE
_DATAGRAM_BYTES: Final = 48 * 1024
_TRIES: Final = 2
_GREETINGS: Final = 64
_log = structlog.get_logger("carechain.vault")
# The library logs every call, with what was stored; failures are this module's to tell.
for _name in ("kademlia", "rpcudp"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


class Seat(Struct, frozen=True, kw_only=True):
    """Who runs a node: the network's name, the member and its key, and the node's number among the member's own.

    ``signers`` gives the keys of everybody who may take part and ``clock`` Unix seconds.
    """

    network: str
    party: bytes
    key: SigningKey
    signers: Signers
    clock: Callable[[], int]
    number: int = 0
    hashing: Hashing = SHA256

    @property
    def node_id(self) -> bytes:
        """The node's place."""
        return node_id_of(self.party, self.number)


class Reach(Struct, frozen=True, kw_only=True):
    """How a node works: ``copies`` of each record, and how many seconds an answer may take before it is asked again."""

    copies: int = 4
    patience_s: float = 1.0


class _Opened(Struct, frozen=True):
    kind: bytes
    message_id: bytes
    body: bytes
    sender: bytes


Bytes20 = Annotated[bytes, Meta(min_length=KEY_SIZE, max_length=KEY_SIZE)]
Contact = tuple[Bytes20, Annotated[str, Meta(max_length=64)], Annotated[int, Meta(ge=1, le=65_535)]]
_calls: Final = msgspec.msgpack.Decoder(tuple[str, list[Any]])
_contacts: Final = Annotated[list[Contact], Meta(max_length=ROUTES)]


class MemberProtocol(KademliaProtocol):
    """The library's calls, in signed datagrams between members."""

    def __init__(self, seat: Seat, reach: Reach, storage: PersistentStorage) -> None:
        super().__init__(Node(seat.node_id), storage, ROUTES)
        self._wait_timeout = reach.patience_s
        self._seat = seat
        self._file = storage.file
        self._waiting: list[tuple[Record, bytes, asyncio.Future[Kept]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeting: set[bytes] = set()
        self._silent: dict[bytes, float] = {}
        self._silence_s = 30 * reach.patience_s
        self.refused = 0
        """Datagrams that no member of the network has signed."""

    # --- datagrams ------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - every event loop has a class of its own
        """Everything that is sent is signed."""
        self.transport = _Signing(transport, self._seat)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Take a datagram of a member; anything else is dropped, without an answer."""
        opened = self._opened(data)
        if opened is None or len(self._tasks) >= DHT_CALLS_AT_ONCE:
            self.refused += opened is None
            return
        if opened.kind == _ANSWER:
            self._take_answer(opened)
        else:
            self._begin(self._serve(opened, (addr[0], addr[1])))

    def error_received(self, exc: Exception) -> None:
        """A port where nobody listens: the call that went there ends by its own time."""

    def _opened(self, data: bytes) -> _Opened | None:
        """The parts of a datagram, if a member signed it for this network a moment ago."""
        if not 1 + _MESSAGE_ID + _TRAILER < len(data) <= _DATAGRAM_BYTES or data[:1] not in (_REQUEST, _ANSWER):
            return None
        content, trailer = data[:-_TRAILER], data[-_TRAILER:]
        time_s, number = int.from_bytes(trailer[:8], "big"), trailer[8]
        party, signature = trailer[9 : 9 + ID_SIZE], trailer[9 + ID_SIZE :]
        if abs(time_s - self._seat.clock()) > CLOCK_SKEW_S:
            return None
        known = self._seat.signers(party)
        if known is None:
            return None
        try:
            message = _datagram_message(self._seat.network, content, time_s, number, party)
            verify(suite=known.suite, public_key=known.public_key, signature=signature, message=message)
        except BadSignature:
            return None
        body = content[1 + _MESSAGE_ID :]
        return _Opened(data[:1], content[1 : 1 + _MESSAGE_ID], body, node_id_of(party, number))

    def _take_answer(self, answer: _Opened) -> None:
        pending = self._outstanding.pop(answer.message_id, None)
        if pending is None:
            return
        future, timer = pending
        timer.cancel()
        try:
            data = msgspec.msgpack.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            data = None
        if not future.done():
            future.set_result((True, (answer.sender, data)))

    def _timeout(self, msg_id: bytes) -> None:
        pending = self._outstanding.pop(msg_id, None)
        if pending is not None and not pending[0].done():
            pending[0].set_result((False, None))

    # --- calls of others ------------------------------------------------------------------------------------

    async def _serve(self, call: _Opened, address: tuple[str, int]) -> None:
        try:
            name, args = _calls.decode(call.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        caller = Node(call.sender, *address)
        self._greet(caller)
        answer = await self._answer(name, args, caller)
        if answer is not None:
            self.transport.sendto(_ANSWER + call.message_id + msgspec.msgpack.encode(answer), address)

    async def _answer(self, name: str, args: list[Any], caller: Node) -> object:
        """What a call is answered; None for a call that is not one. The library's first argument is not believed."""
        if name == "ping":
            return self.source_node.id
        key = args[1] if len(args) > 1 else None
        if not isinstance(key, bytes) or len(key) != KEY_SIZE:
            return None
        match name:
            case "find_node":
                return self._neighbours(key, caller)
            case "find_value":
                values = self._file.values(key)
                return {"value": values} if values else self._neighbours(key, caller)
            case "store":
                return await self._store(key, args[2] if len(args) > 2 else None)  # noqa: PLR2004 - its third argument
        return None

    def _neighbours(self, key: bytes, caller: Node) -> list[tuple[bytes, str, int]]:
        found = self.router.find_neighbors(Node(key), exclude=caller)
        return [(one.id, one.ip, one.port) for one in found]

    async def _store(self, key: bytes, raw: object) -> bool | bytes:
        """Whether the record is durable here now; or the record by which it was taken back."""
        if not isinstance(raw, bytes):
            return False
        seat = self._seat
        try:
            record = read_record(
                raw, network=seat.network, key=key, signers=seat.signers, hashing=seat.hashing, now_s=seat.clock()
            )
        except BadRecord:
            return False
        kept = await self.keep(record, raw)
        return kept.ok if kept.gone is None else kept.gone

    async def keep(self, record: Record, raw: bytes) -> Kept:
        """Write a checked record; those that come while the disk is busy share the next write."""
        future: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, raw, future))
        if len(self._waiting) == 1:
            self._begin(self._write())
        return await future

    async def _write(self) -> None:
        # One turn of the loop, so that what arrived together is written together.
        await asyncio.sleep(0)
        while self._waiting:
            batch = list(self._waiting)
            try:
                kept = await asyncio.to_thread(
                    self._file.keep, [(record, raw) for record, raw, _ in batch], self._seat.clock()
                )
            except OSError as lost:
                _log.error("records_not_written", reason=type(lost).__name__)
                kept = [Kept(ok=False)] * len(batch)
            for (_, _, future), one in zip(batch, kept, strict=True):
                if not future.done():
                    future.set_result(one)
            del self._waiting[: len(batch)]

    # --- own calls ------------------------------------------------------------------------------------------

    async def call_ping(self, node_to_ask: Node) -> tuple[bool, Any]:
        """Whether the node is there."""
        return await self._twice(lambda: self.ping(_at(node_to_ask), b""), node_to_ask)

    async def call_find_node(self, node_to_ask: Node, node_to_find: Node) -> tuple[bool, Any]:
        """The contacts a node names."""
        happened, data = await self._twice(lambda: self.find_node(_at(node_to_ask), b"", node_to_find.id), node_to_ask)
        return happened, self._believable(data)

    async def call_find_value(self, node_to_ask: Node, node_to_find: Node) -> tuple[bool, Any]:
        """The records of a key, as ``{"value": [...]}``, or the contacts a node names."""
        happened, data = await self._twice(lambda: self.find_value(_at(node_to_ask), b"", node_to_find.id), node_to_ask)
        if isinstance(data, dict):
            given = data.get("value")
            values = given[:DHT_RECORDS_PER_KEY] if isinstance(given, list) else []
            return happened, {"value": [one for one in values if isinstance(one, bytes)]}
        return happened, self._believable(data)

    async def call_store(self, node_to_ask: Node, key: bytes, value: bytes) -> tuple[bool, Any]:
        """Whether a node keeps a record: True, or the record by which it was taken back."""
        return await self._twice(lambda: self.store(_at(node_to_ask), b"", key, value), node_to_ask)

    async def _twice(self, call: Callable[[], Coroutine[Any, Any, tuple[bool, Any]]], node: Node) -> tuple[bool, Any]:
        """Datagrams get lost, so a call is made again before a node counts as silent."""
        result: tuple[bool, Any] = (False, None)
        for _ in range(_TRIES):
            result = await call()
            if result[0]:
                break
        return self.handle_call_response(result, node)

    def handle_call_response(self, result: tuple[bool, Any], node: Node) -> tuple[bool, Any]:
        """Count an answer only from the node that was asked; forget nodes that are silent."""
        happened, answer = result
        if not happened or answer[0] != node.id:
            self.router.remove_contact(node)
            self._silent[node.id] = asyncio.get_running_loop().time() + self._silence_s
            return False, None
        self._silent.pop(node.id, None)
        if self.router.is_new_node(node):
            self.router.add_contact(node)
        return True, answer[1]

    def welcome_if_new(self, node: Node) -> None:
        """Contacts are made by :meth:`handle_call_response` only: by an answer, never by a claim."""

    def _believable(self, data: object) -> list[tuple[bytes, str, int]]:
        """The contacts in an answer that can be ones: numeric addresses, not this node, not just found silent."""
        try:
            given = msgspec.convert(data, type=_contacts, strict=True)
        except msgspec.ValidationError:
            return []
        now = asyncio.get_running_loop().time()
        self._silent = {one: until for one, until in self._silent.items() if now < until}
        found = []
        for node_id, host, port in given:
            with suppress(ValueError):
                ipaddress.ip_address(host)
                if node_id != self.source_node.id and node_id not in self._silent:
                    found.append((node_id, host, port))
        return found

    def _greet(self, caller: Node) -> None:
        """Somebody new called: ask back, so that its address is known to be its own before it is passed on."""
        if caller.id == self.source_node.id or caller.id in self._greeting or len(self._greeting) >= _GREETINGS:
            return
        if self.router.is_new_node(caller):
            self._greeting.add(caller.id)
            self._begin(self._ask_back(caller))

    async def _ask_back(self, caller: Node) -> None:
        try:
            self._silent.pop(caller.id, None)
            await self.call_ping(caller)
        finally:
            self._greeting.discard(caller.id)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what waits for an answer, and finish what is being written."""
        for message_id in list(self._outstanding):
            self._outstanding[message_id][1].cancel()
            self._timeout(message_id)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class _Signing:
    """The transport as the library uses it; signs what it sends."""

    def __init__(self, transport: Any, seat: Seat) -> None:  # noqa: ANN401 - as the event loop made it
        self._transport = transport
        self._seat = seat

    def sendto(self, content: bytes, address: tuple[str, int]) -> None:
        if self._transport.is_closing():
            return
        seat = self._seat
        time_s = seat.clock()
        signature = seat.key.sign(_datagram_message(seat.network, content, time_s, seat.number, seat.party))
        trailer = time_s.to_bytes(8, "big") + bytes([seat.number]) + seat.party + signature
        self._transport.sendto(content + trailer, address)


class _RecordCrawl(ValueSpiderCrawl):
    """A search that believes a record only when it holds, and else goes on without whoever gave it."""

    def __init__(
        self,
        protocol: KademliaProtocol,
        node: Node,
        peers: list[Node],
        *,
        breadth: int,
        read: Callable[[bytes], Record | None],
        everywhere: bool,
    ) -> None:
        super().__init__(protocol, node, peers, breadth, LOOKUPS_AT_ONCE)
        self._read = read
        self._everywhere = everywhere
        self.found: dict[bytes, Record] = {}

    async def _nodes_found(self, responses: dict[bytes, tuple[bool, Any]]) -> None:
        away = []
        for peer, (happened, data) in responses.items():
            if not happened:
                away.append(peer)
            elif isinstance(data, dict):
                good = [one for one in map(self._read, data["value"]) if one is not None]
                self.found.update({encode(one): one for one in good})
                if not good:
                    away.append(peer)
            else:
                self.nearest.push([Node(*one) for one in data])
        self.nearest.remove(away)
        if (self.found and not self._everywhere) or self.nearest.have_contacted_all():
            return
        await self.find()


class DhtNode(Server):
    """One node: it listens, finds others, stores and finds records, and publishes what it keeps again."""

    def __init__(self, seat: Seat, file: RecordFile, reach: Reach | None = None) -> None:
        """``file`` stays the caller's to close, after :meth:`close`."""
        self.reach: Final = reach or Reach()
        self.seat: Final = seat
        self.file: Final = file
        super().__init__(
            ksize=ROUTES, alpha=LOOKUPS_AT_ONCE, node_id=seat.node_id, storage=PersistentStorage(file, seat.clock)
        )
        self._members: MemberProtocol | None = None

    @property
    def members(self) -> MemberProtocol:
        """The protocol; raises ``VaultUnavailable`` while the node does not listen."""
        if self._members is None:
            raise VaultUnavailable("the node of the distributed store does not listen")
        return self._members

    def _create_protocol(self) -> MemberProtocol:
        storage = self.storage
        if not isinstance(storage, PersistentStorage):
            raise TypeError("the storage was exchanged")
        self._members = MemberProtocol(self.seat, self.reach, storage)
        return self._members

    def refresh_table(self, interval: int = REPUBLISH_S) -> None:
        """Nothing: :meth:`republish` is called by whoever runs the node."""

    async def start(self, *, host: str, port: int, peers: Sequence[tuple[str, int]]) -> int:
        """Listen, and look for the network at the given peers and at those known from before.

        Returns how many nodes answered; none is no failure, because somebody must be first. Raises ``OSError``.
        """
        await self.listen(port, host)
        return await self.join(peers)

    async def join(self, peers: Sequence[tuple[str, int]]) -> int:
        """Look for the network again; returns how many nodes are known then."""
        given = [(*await _numeric(host, port),) for host, port in peers]
        known = await asyncio.to_thread(self.file.peers)
        await self.bootstrap(list(dict.fromkeys([*given, *known])))
        await asyncio.to_thread(self.file.note_peers, self.bootstrappable_neighbors())
        return len(self.neighbours())

    async def bootstrap_node(self, addr: tuple[str, int]) -> Node | None:
        """The node at an address, by its signed answer."""
        for _ in range(_TRIES):
            happened, answer = await self.members.ping(addr, b"")
            if happened and answer[0] != self.node.id:
                node = Node(answer[0], *addr)
                self.members.handle_call_response((True, answer), node)
                return node
        return None

    def neighbours(self) -> list[Node]:
        """The nodes this one knows nearest to itself."""
        return self.members.router.find_neighbors(self.node)

    async def close(self) -> None:
        """Stop listening; what was acknowledged is on the disk."""
        if self._members is None:
            return
        await asyncio.to_thread(self.file.note_peers, self.bootstrappable_neighbors())
        await self._members.close()
        self.stop()
        self._members = None

    async def store(self, key: bytes, raw: bytes) -> int:
        """Have the nodes nearest to a record's key keep it; returns how many do, this one included."""
        target = Node(key)
        peers = self.members.router.find_neighbors(target)
        copies = self.reach.copies
        nodes = []
        if peers:
            nodes = await NodeSpiderCrawl(self.members, target, peers, copies, LOOKUPS_AT_ONCE).find()
        order = sorted([*nodes, self.node], key=target.distance_to)[:copies]
        results = await asyncio.gather(*(self._store_at(one, key, raw) for one in order))
        return sum(results)

    async def _store_at(self, node: Node, key: bytes, raw: bytes) -> bool:
        if node.id == self.node.id:
            return (await self.members.keep(stored_record(raw), raw)).ok
        happened, answer = await self.members.call_store(node, key, raw)
        if happened and isinstance(answer, bytes):
            await self._taken_back(key, answer)
        return happened and answer is True

    async def _taken_back(self, key: bytes, raw: bytes) -> None:
        """Another node knows that a record was taken back: then it goes here too."""
        record = self._read(key, raw)
        if record is not None and record.kind is Kind.GONE:
            await self.members.keep(record, raw)

    async def find(self, address: bytes, *, everywhere: bool = False) -> list[Record]:
        """The records of an address that hold; with ``everywhere`` from every node that should have them."""
        key = key_of(address)
        own = [record for raw in self.file.values(key) if (record := self._read(key, raw)) is not None]
        target = Node(key)
        peers = self.members.router.find_neighbors(target)
        if (own and not everywhere) or not peers:
            return own
        crawl = _RecordCrawl(
            self.members,
            target,
            peers,
            breadth=2 * self.reach.copies,
            read=lambda raw: self._read(key, raw),
            everywhere=everywhere,
        )
        await crawl.find()
        return list({encode(one): one for one in (*own, *crawl.found.values())}.values())

    async def republish(self, older_s: int = REPUBLISH_S) -> int:
        """Store again, at the nodes that are nearest now, what was not confirmed for so long; returns how many records.

        So copies move when nodes come and go. What a node keeps of a member that has left is dropped in the end.
        """
        now_s, done = self.seat.clock(), 0
        # Read as it goes: pages, never everything.
        rows = self.file.older_than(now_s - older_s)
        while (row := await asyncio.to_thread(next, rows, None)) is not None:
            number, key, raw = row
            if self._read(key, raw) is None:
                continue
            if await self.store(key, raw):
                await asyncio.to_thread(self.file.confirm, number, self.seat.clock())
                done += 1
        await asyncio.to_thread(self._drop_unclaimed, now_s - UNCLAIMED_S)
        return done

    def _drop_unclaimed(self, before_s: int) -> None:
        for number, _, raw in self.file.older_than(before_s):
            with suppress(BadRecord):
                signer = stored_record(raw).signer
                if self.seat.signers(signer) is None:
                    self.file.drop(number, signer, len(raw))

    def _read(self, key: bytes, raw: bytes) -> Record | None:
        seat = self.seat
        try:
            return read_record(raw, network=seat.network, key=key, signers=seat.signers, hashing=seat.hashing)
        except BadRecord:
            return None


def _at(node: Node) -> tuple[str, int]:
    return node.ip, node.port


async def _numeric(host: str, port: int) -> tuple[str, int]:
    """An address in digits, as datagrams carry it; raises ``OSError``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=2)
    return str(found[0][4][0]), port


def _datagram_message(network: str, content: bytes, time_s: int, number: int, party: bytes) -> bytes:
    return tagged(
        "carechain/vault-datagram/1", network.encode(), content, time_s.to_bytes(8, "big"), bytes([number]), party
    )
