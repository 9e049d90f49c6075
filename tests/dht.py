"""Nodes of the distributed store on loopback, each with its own member key, file and port: a network for a test."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from carechain.core.crypto import SigningKey, Suite
from carechain.core.ids import party_id
from carechain.node.ports import free_ports
from carechain.vault.kademlia_node import DhtNode, Reach, Seat
from carechain.vault.kademlia_records import SignerKey
from carechain.vault.kademlia_storage import RecordFile
from carechain.vault.kademlia_store import KademliaStore

NETWORK = "clinic-test-测试"
HOST = "127.0.0.1"
PATIENCE_S = 0.5


class Member:
    """A member with its key."""

    def __init__(self, label: str) -> None:
        self.key = SigningKey(suite=Suite.ED25519, seed=sha256(label.encode()).digest())
        self.party = party_id(Suite.ED25519, self.key.public_key)

    @property
    def signer(self) -> SignerKey:
        return SignerKey(int(self.key.suite), self.key.public_key)


class Net:
    """Members, their nodes that run, and a clock that a test may move."""

    def __init__(self, folder: Path, count: int, *, copies: int) -> None:
        self.folder = folder
        self.members = [Member(f"member {number}") for number in range(count)]
        self.allowed = {one.party: one.signer for one in self.members}
        self.ports = free_ports(count)
        self.copies = copies
        self.nodes: dict[int, DhtNode] = {}
        self.later_s = 0
        self.capacity_bytes = 1 << 30
        self.share_bytes = 1 << 30

    def clock(self) -> int:
        return int(time.time()) + self.later_s

    def seat(self, member: Member) -> Seat:
        return Seat(network=NETWORK, party=member.party, key=member.key, signers=self.allowed.get, clock=self.clock)

    async def start(self, number: int, *, peers: Sequence[int] = (0,)) -> DhtNode:
        """Start a node, or start it again on the file it had."""
        file = RecordFile(
            self.folder / f"{number}.sqlite", capacity_bytes=self.capacity_bytes, signer_bytes=self.share_bytes
        )
        node = DhtNode(self.seat(self.members[number]), file, Reach(copies=self.copies, patience_s=PATIENCE_S))
        known = [(HOST, self.ports[one]) for one in peers if one != number]
        await node.start(host=HOST, port=self.ports[number], peers=known)
        self.nodes[number] = node
        return node

    async def kill(self, number: int) -> None:
        """The node answers no more; nothing is handed over and nothing is said."""
        node = self.nodes.pop(number)
        node.stop()
        await node.members.close()
        node.file.close()

    def store(self, number: int, *, minimum: int = 2) -> KademliaStore:
        return KademliaStore(self.nodes[number], minimum=minimum)


@asynccontextmanager
async def network(folder: Path, count: int, *, copies: int = 4) -> AsyncIterator[Net]:
    """A network in which everybody has found everybody near."""
    net = Net(folder, count, copies=copies)
    try:
        for number in range(count):
            await net.start(number)
        await asyncio.gather(*(one.join([]) for one in net.nodes.values()))
        yield net
    finally:
        for number in list(net.nodes):
            await net.kill(number)
