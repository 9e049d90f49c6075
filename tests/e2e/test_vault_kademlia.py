"""Goal: what members put into their distributed store is there although a third of the nodes die, lie or come back.

Method: nine nodes with real sockets on loopback and a file each. Nodes are killed without a word, restarted on their
files, told to answer with other records, or run by somebody who is no member.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from carechain.core.codec import encode
from carechain.core.limits import DHT_OBJECT_BYTES, DHT_PIECE_BYTES
from carechain.core.rejection import Rejected
from carechain.vault.base import VaultUnavailable
from carechain.vault.codes import VaultCode
from carechain.vault.kademlia_node import DhtNode, Reach
from carechain.vault.kademlia_records import Kind, Root, key_of, sign_record
from carechain.vault.kademlia_storage import RecordFile
from carechain.vault.kademlia_store import KademliaStore
from dht import HOST, NETWORK, PATIENCE_S, Member, Net, network
from vaults import check_store, listed, read

NODES = 9


def made(*sizes: int) -> dict[bytes, bytes]:
    """Objects of these sizes."""
    return {sha256(content).digest(): content for content in map(os.urandom, sizes)}


async def put_all(store: KademliaStore, contents: dict[bytes, bytes]) -> None:
    for address, content in contents.items():
        await store.put(address, content)


def test_it_does_what_every_store_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            assert all(len(one.neighbours()) == NODES - 1 for one in net.nodes.values())
            # Large enough for index pieces.
            await check_store(net.store(3), tmp_path, large_bytes=1_500_001)

    asyncio.run(main())


def test_what_another_member_stored_is_nobody_elses_to_take_back_or_to_sign_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            author, other = net.store(0), net.store(4)
            for address, content in made(100, 20_000).items():
                await author.put(address, content)
                assert await other.size(address) == len(content)
                assert (await author.holds_own(address), await other.holds_own(address)) == (True, False)
                assert not await other.delete(address)
                # A node that lost its notes still finds what it signed.
                net.nodes[0].file.forget_own(address)
                assert await author.holds_own(address)
                assert await author.delete(address)
                assert not await author.holds_own(address)

    asyncio.run(main())


def test_every_object_is_there_when_a_third_of_the_nodes_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            contents = made(1, DHT_PIECE_BYTES, DHT_PIECE_BYTES + 1, 200_000, 1_300_000)
            await put_all(net.store(0), contents)
            for number in (2, 5, 8):
                await net.kill(number)
            for reader in (0, 4, 7):
                for address, content in contents.items():
                    assert await read(net.store(reader), address) == content
            # And what is written now finds its places among those that are left.
            more = made(100_000)
            await put_all(net.store(1), more)
            for address, content in more.items():
                assert await read(net.store(6), address) == content

    asyncio.run(main())


def test_publishing_again_restores_the_copies_so_that_another_third_may_die(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            contents = made(5000, 60_000)
            await put_all(net.store(0), contents)
            for third in ((2, 5, 8), (1, 4)):
                for number in third:
                    await net.kill(number)
                net.later_s += 20
                for one in net.nodes.values():
                    await one.republish(10)
            keys = {key_of(address) for address in contents}
            for key in keys:
                assert sum(bool(one.file.values(key)) for one in net.nodes.values()) == 4
            for address, content in contents.items():
                assert await read(net.store(7), address) == content

    asyncio.run(main())


def test_nodes_come_back_with_what_they_had_and_find_the_network_by_themselves(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            contents = made(30_000)
            await put_all(net.store(0), contents)
            counts = {number: one.file.count() for number, one in net.nodes.items()}
            for number in range(NODES):
                await net.nodes[number].close()
                net.nodes[number].file.close()
            net.nodes.clear()
            for number in range(NODES):
                # Nobody is told where anybody is.
                await net.start(number, peers=())
            assert {number: one.file.count() for number, one in net.nodes.items()} == counts
            for one in net.nodes.values():
                assert await one.join([]) == NODES - 1
            for address, content in contents.items():
                assert await read(net.store(8), address) == content
            assert await listed(net.store(0)) == list(contents)

    asyncio.run(main())


Lie = Callable[[bytes, list[bytes]], object]


def make_lie(node: DhtNode, lie: Lie) -> None:
    """Have a node answer searches with something else than it has."""
    honest = node.members._answer

    async def lying(name: str, args: list[Any], caller: Any) -> object:
        if name == "find_value":
            return lie(args[1], node.file.values(args[1]))
        return await honest(name, args, caller)

    node.members._answer = lying  # type: ignore[method-assign]


def test_nodes_that_lie_are_passed_over(tmp_path: Path) -> None:
    forger = Member("member 1")

    def other_piece(_key: bytes, _have: list[bytes]) -> object:
        body = b"something else"
        raw = sign_record(
            forger.key,
            network=NETWORK,
            kind=Kind.PIECE,
            address=sha256(body).digest(),
            body=body,
            signer=forger.party,
            time_s=int(time.time()),
        )
        return {"value": [raw]}

    lies: list[Lie] = [
        other_piece,
        lambda _, have: {"value": [one[:-1] + bytes([one[-1] ^ 1]) for one in have] or [b"x"]},
        lambda _, __: {"value": [b"", b"\xc1", "text", 7, None]},
        lambda _, __: {"value": "not a list"},
        lambda _, __: [(bytes(20), "127.0.0.1", 9), (b"short", "x", 0), 5],
        lambda _, __: [(os.urandom(20), "203.0.113.9", 1)] * 20,
        lambda _, __: "nothing that was ever agreed",
    ]

    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            contents = made(4000, 40_000)
            await put_all(net.store(0), contents)
            for lie in lies:
                for number in (1, 4, 7):
                    make_lie(net.nodes[number], lie)
                for reader in (2, 8):
                    for address, content in contents.items():
                        assert await read(net.store(reader), address) == content

    asyncio.run(main())


def test_a_member_that_signs_a_false_root_is_found_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            ((address, content),) = made(30_000).items()
            false = made(30_000)
            await put_all(net.store(4), false)
            ((other, _),) = false.items()
            (record,) = await net.nodes[4].find(other)
            liar = net.members[4]
            raw = sign_record(
                liar.key,
                network=NETWORK,
                kind=Kind.ROOT,
                address=address,
                body=record.body,
                signer=liar.party,
                time_s=net.clock(),
            )
            await net.nodes[4].store(key_of(address), raw)
            await net.store(0).put(address, content, replace=True)
            for reader in (0, 4, 8):
                assert await read(net.store(reader), address) == content
            # What the liar takes back is its own.
            assert await net.store(4).delete(address)
            assert await read(net.store(8), address) == content
            assert await net.store(0).delete(address)
            with pytest.raises(Rejected) as unknown:
                await read(net.store(8), address)
            assert unknown.value.code is VaultCode.OBJECT_UNKNOWN

    asyncio.run(main())


def test_what_was_taken_back_does_not_come_back_with_a_node_that_was_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, NODES) as net:
            contents = made(3000, 30_000)
            await put_all(net.store(0), contents)
            away = [2, 5, 8]
            for number in away:
                await net.kill(number)
            net.later_s += 5
            for address in contents:
                assert await net.store(0).delete(address)
            for number in away:
                await net.start(number)
            net.later_s += 20
            for _ in range(2):
                for one in net.nodes.values():
                    await one.republish(10)
            for address in contents:
                for one in net.nodes.values():
                    assert one.file.values(key_of(address)) == []
                with pytest.raises(Rejected):
                    await read(net.store(8), address)

    asyncio.run(main())


def test_who_is_no_member_is_not_answered_and_cannot_store(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, 4) as net:
            stranger = Member("stranger")
            file = RecordFile(tmp_path / "stranger.sqlite", capacity_bytes=1 << 20, signer_bytes=1 << 20)
            seat = net.seat(stranger)
            node = DhtNode(seat, file, Reach(copies=2, patience_s=PATIENCE_S))
            assert await node.start(host=HOST, port=0, peers=[(HOST, net.ports[0])]) == 0
            with pytest.raises(VaultUnavailable):
                await KademliaStore(node).put(sha256(b"spam").digest(), b"spam")
            assert net.nodes[0].members.refused > 0
            assert all(len(one.neighbours()) == 3 for one in net.nodes.values())
            # A member that passes a stranger's record on is refused as well.
            raw = sign_record(
                stranger.key,
                network=NETWORK,
                kind=Kind.PIECE,
                address=sha256(b"spam").digest(),
                body=b"spam",
                signer=stranger.party,
                time_s=net.clock(),
            )
            key = key_of(sha256(b"spam").digest())
            peer = net.nodes[1].neighbours()[0]
            assert await net.nodes[1].members.call_store(peer, key, raw) == (True, False)
            await node.close()
            file.close()

    asyncio.run(main())


def test_a_member_that_left_is_shut_out_and_its_records_go_in_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, 5) as net:
            contents = made(3000)
            await put_all(net.store(4), contents)
            ((address, _),) = contents.items()
            del net.allowed[net.members[4].party]
            with pytest.raises(Rejected):
                await read(net.store(1), address)
            for days in (1, 8):
                net.later_s = days * 86_400
                for number in range(4):
                    await net.nodes[number].republish()
                held = sum(net.nodes[number].file.count() for number in range(4))
                assert held > 0 if days == 1 else held == 0
            assert all(net.nodes[number].file.used_bytes == 0 for number in range(4))

    asyncio.run(main())


def test_room_is_bounded_in_all_and_per_member(tmp_path: Path) -> None:
    async def main() -> None:
        net = Net(tmp_path, 3, copies=3)
        net.capacity_bytes, net.share_bytes = 50_000, 20_000
        try:
            for number in range(3):
                await net.start(number)
            await net.store(0).put(*next(iter(made(12_000).items())))
            with pytest.raises(VaultUnavailable, match="only 0 of 2"):
                await put_all(net.store(0), made(12_000))
            await put_all(net.store(1), made(12_000))
            with pytest.raises(VaultUnavailable):
                await put_all(net.store(1), made(30_000))
            await put_all(net.store(2), made(2000))
            for one in net.nodes.values():
                assert one.file.used_bytes <= 50_000
        finally:
            for number in list(net.nodes):
                await net.kill(number)

    asyncio.run(main())


def test_what_is_too_large_or_too_lonely_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, 1) as net:
            with pytest.raises(VaultUnavailable, match="only 1 of 2"):
                await put_all(net.store(0), made(10))
            await put_all(net.store(0, minimum=1), made(10))
            large = tmp_path / "large"
            with large.open("wb") as file:
                file.truncate(DHT_OBJECT_BYTES + 1)
            with pytest.raises(Rejected) as refused:
                await net.store(0).put(bytes(32), large)
            assert refused.value.code is VaultCode.OBJECT_TOO_LARGE

    asyncio.run(main())


def test_nothing_in_a_datagram_makes_a_node_fail(tmp_path: Path) -> None:
    async def main() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with network(tmp_path, 3) as net:
            outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with outside:
                for size in (0, 1, 21, 22, 150, 8000, 60_000):
                    outside.sendto(os.urandom(size), (HOST, net.ports[0]))
            # A member's own datagrams, with anything inside.
            transport = net.nodes[1].members.transport
            bodies = [b"", b"\xc1", encode(["ping"]), encode(["ping", 5]), encode(["store", [b"", b"x" * 20, 5]])]
            bodies += [encode([name, [b"", b"x" * 20, b"y"]]) for name in ("store", "find_value", "stun", "__init__")]
            bodies += [encode(["find_node", [b"", key]]) for key in (b"", b"x" * 19, None, [1], "王")]
            for kind in (b"\x00", b"\x01"):
                for body in bodies:
                    transport.sendto(kind + os.urandom(20) + body, (HOST, net.ports[0]))
            ((address, content),) = made(20_000).items()
            await net.store(1).put(address, content)
            assert await read(net.store(0), address) == content
        assert failures == []

    asyncio.run(main())


def test_old_datagrams_and_those_of_another_network_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, 2) as net:
            members = net.nodes[0].members
            sent: list[bytes] = []

            class Recorder:
                def is_closing(self) -> bool:
                    return False

                def sendto(self, data: bytes, _: object) -> None:
                    sent.append(data)

            signing = net.nodes[1].members.transport
            signing._transport = Recorder()
            signing.sendto(b"\x00" + bytes(20) + encode(["ping", [b""]]), (HOST, 1))
            (datagram,) = sent
            assert members._opened(datagram) is not None
            for at in (0, 1, 25, len(datagram) - 100, len(datagram) - 1):
                assert members._opened(datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1 :]) is None
            net.later_s = 31
            assert members._opened(datagram) is None

    asyncio.run(main())


def test_a_root_cannot_promise_what_its_pieces_do_not_hold(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, 3, copies=3) as net:
            pieces = made(100, 200)
            await put_all(net.store(0), pieces)
            address = sha256(b"promised").digest()
            root = Root(size=2 * DHT_PIECE_BYTES, depth=0, hashes=tuple(pieces))
            await net.store(0)._publish(Kind.ROOT, address, encode(root))
            with pytest.raises(VaultUnavailable, match="as long as"):
                await read(net.store(1), address)

    asyncio.run(main())
