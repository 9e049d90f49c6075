"""Goal: one clock that is wrong by an hour moves neither block time nor anything else in a network of four.

Method: a real validator whose votes carry the time of a clock that is ahead, then behind. CometBFT reads the system's
clock past every library that could stand in between, so its votes are signed by a signer of the test's own, as by an
HSM: the engine asks it for every signature, and the time in a vote is the signer's.
"""

import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from carechain.core.crypto import SigningKey
from carechain.engine.cometbft.binary import find_cometbft
from carechain.engine.cometbft.config import FOLDER, VALIDATOR_KEY, read_key
from carechain.sdk.light.fetch import read_rpc
from e2e.consortium import Consortium, until
from world import CHAIN_ID

pytestmark = pytest.mark.engine

VICTIM: Final = "org-4"
HOUR_S: Final = 3600
NEAR_S: Final = 20
"""Block time is the median of the votes on the block before, which may be one empty block's pause old."""
PRECOMMIT: Final = 2
VOTE: Final = {"request": 3, "response": 4, "block": 4, "time": 5, "signature": 8}
PROPOSAL: Final = {"request": 5, "response": 6, "block": 5, "time": 6, "signature": 7}
WRAPPER = """#!/bin/sh
# CometBFT with a signer that connects to a socket in the folder it is started in.
if [ "$1" = start ]; then
    rm -f signer
    sed -i '1a priv_validator_laddr = "unix://signer"' "$3/config/config.toml"
fi
exec {program} "$@"
"""

Field = tuple[int, int | bytes]
"""A field's number and value: an integer, or bytes of known length."""


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def take(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7


def fields(data: bytes) -> list[Field]:
    """A protobuf message of integers, bytes and messages."""
    found: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = take(data, at)
        value, at = take(data, at)
        if tag & 7:
            found.append((tag >> 3, data[at : at + value]))
            at += value
        else:
            found.append((tag >> 3, value))
    return found


def message(*parts: Field) -> bytes:
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in parts
    )


class Signer:
    """Signs whatever the engine asks for, with a clock of its own. Ends with :meth:`close`."""

    def __init__(self, net: Consortium, key: SigningKey) -> None:
        self.ahead_s = 0
        self.signed = 0
        self._net, self._key = net, key
        self._ended, self._wake = os.pipe()
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        os.write(self._wake, b".")
        self._thread.join()
        os.close(self._ended)
        os.close(self._wake)

    def _run(self) -> None:
        while not self._stop:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as engine:
                engine.connect(f"/proc/{self._net.engine_of(VICTIM)}/cwd/signer")
                self._serve(engine)
            select.select([self._ended], [], [], 0.05)

    def _serve(self, engine: socket.socket) -> None:
        received = b""
        while self._ended not in select.select([self._ended, engine], [], [])[0]:
            data = engine.recv(65_536)
            if not data:
                return
            received += data
            size, at = take(received, 0)
            if len(received) - at >= size:
                answer = self._answer(fields(received[at : at + size])[0])
                received = received[at + size :]
                engine.sendall(varint(len(answer)) + answer)

    def _answer(self, request: Field) -> bytes:
        kind, body = request
        assert isinstance(body, bytes)
        if kind == 1:
            return message((2, message((1, message((1, self._key.public_key))))))
        if kind == 7:
            return message((8, b""))
        names = VOTE if kind == VOTE["request"] else PROPOSAL
        asked = dict(fields(body))[1]
        assert isinstance(asked, bytes)
        return message((names["response"], message((1, self._signed(asked, names)))))

    def _signed(self, asked: bytes, names: dict[str, int]) -> bytes:
        told = dict(fields(asked))
        if told[1] == PRECOMMIT:
            told[names["time"]] = message((1, int(time.time()) + self.ahead_s))
        block = told.get(names["block"], b"")
        assert isinstance(block, bytes)
        # What is signed: fixed-width height and round, no block where there is none, and the network's name.
        parts = message((1, told[1]))
        for number in (2, 3):
            value = told.get(number, 0)
            assert isinstance(value, int)
            parts += bytes([number << 3 | 1]) + value.to_bytes(8, "little") if value else b""
        if names is PROPOSAL and told.get(4):
            parts += message((4, told[4]))
        if dict(fields(block)).get(1):
            parts += message((names["block"], block))
        parts += message((names["time"], told[names["time"]]), (names["time"] + 1, CHAIN_ID.encode()))
        told[names["signature"]] = self._key.sign(varint(len(parts)) + parts)
        self.signed += 1
        return message(*sorted(told.items()))


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Consortium]:
    net = Consortium(tmp_path / "net", settings="propose_wait_ms = 1000\n")
    wrapper = net.home(VICTIM) / "engine.sh"
    wrapper.write_text(WRAPPER.replace("{program}", str(find_cometbft())))
    wrapper.chmod(0o700)
    config = net.home(VICTIM) / "config.toml"
    config.write_text(config.read_text() + f'program = "{wrapper}"\n')
    try:
        yield net
    finally:
        net.close()


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_a_clock_that_is_wrong_by_an_hour_moves_nothing(net: Consortium, ahead_s: int) -> None:
    signer = Signer(net, read_key(net.home(VICTIM) / FOLDER / VALIDATOR_KEY))
    try:
        net.up()
        net.populate()
        signer.ahead_s = ahead_s
        with net.load() as load:
            load.more(5)
            begin = net.height(VICTIM)
            until(lambda: wrong_votes(net, begin, ahead_s), "a block has a vote with the wrong time")
            load.more(20)
            net.reach(max(map(net.height, net.names)))
        net.agree()
        for name in net.names:
            status = net.status(name)
            assert status is not None
            assert status.ready
            assert abs(status.time_s - time.time()) < NEAR_S
        times = [one.time_s for one in net.headers]
        assert times == sorted(times)
    finally:
        signer.close()


def wrong_votes(net: Consortium, begin: int, ahead_s: int) -> bool:
    """Whether some block since ``begin`` was committed with a vote whose time is that of the wrong clock."""
    own = read_key(net.home(VICTIM) / FOLDER / VALIDATOR_KEY).public_key
    for height in range(begin, net.height("org-1")):
        commit, validators = (net.ask_engine("org-1", what, height=str(height)) for what in ("commit", "validators"))
        block = read_rpc(as_answer(commit), [as_answer(validators)])
        by = {validator.public_key: validator.address for validator in block.validators}
        for vote in block.commit.signatures:
            if vote is not None and vote.address == by[own] and abs(vote.time.seconds - time.time() - ahead_s) < 60:
                return True
    return False


def as_answer(result: dict[str, object]) -> bytes:
    """A result as the engine sends it."""
    return json.dumps({"jsonrpc": "2.0", "id": -1, "result": result}).encode()
