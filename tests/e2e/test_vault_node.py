"""Goal: a node keeps a vault from its settings alone, and the commands put, get, look, scrub and count.

Method: two homes as an operator has them, each with a real node; one keeps copies for the other. The program is called
as from a shell, and files are altered behind its back.
"""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from carechain.chain import genesis as founding
from carechain.cli.keyring import MEMBER_KEY, Keyring
from carechain.node.backup import is_left_out
from carechain.node.ports import free_ports
from carechain.node.settings import BadSettings, load_settings
from carechain.vault.metering import Metering
from node_network import founders, genesis_of
from node_process import ANY_PORT, GENESIS_S, make, node, populate
from world import Organisation

CONTENT = b"sealed " * 30_000
ADDRESS = sha256(CONTENT).hexdigest()
SECRET_NAME = "Steve-Apple"


@pytest.fixture
def members() -> dict[str, Organisation]:
    return founders()


def call(home: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "carechain", "vault", *words, "--home", str(home), "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return done.returncode, answer


def made(home: Path, owner: Organisation, members: dict[str, Organisation], config: str = ANY_PORT) -> Path:
    """A home as `carechain init` leaves it: the member's own name is in its book."""
    make(home, owner, members, config)
    # Each makes its own blocks: what the two know of each other stands in the genesis.
    network = replace(genesis_of(members, time_s=GENESIS_S), producers=(members["a"].id, members["b"].id))
    (home / "genesis.json").write_bytes(founding.write(network))
    Keyring(home).note(MEMBER_KEY, owner.id)
    return home


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    file = tmp_path / f"{SECRET_NAME}.sealed"
    file.write_bytes(CONTENT)
    return file


def stored(home: Path) -> Path:
    return home / "vault" / "objects" / ADDRESS[:2] / ADDRESS[2:4] / ADDRESS


@pytest.fixture
def home(tmp_path: Path, members: dict[str, Organisation]) -> Path:
    return made(tmp_path / "节点", members["a"], members)


def test_put_get_status_scrub_usage(tmp_path: Path, home: Path, sealed: Path, members: dict[str, Organisation]) -> None:
    assert call(home, "status")[0] == 3
    by = ("--password-file", str(home / "keys" / "password"))
    with node(home) as process:
        _, steve = populate(process.api, members["a"])
        for _ in range(2):
            status, put = call(home, "put", str(sealed), "--patient", steve.id.hex(), *by)
            assert (status, put["address"], put["size_bytes"]) == (0, ADDRESS, len(CONTENT))
        out = tmp_path / "出.sealed"
        assert call(home, "get", ADDRESS, "--out", str(out), *by)[0] == 0
        assert out.read_bytes() == CONTENT
        assert call(home, "get", ADDRESS, "--out", str(out), *by)[0] == 3
        status, refused = call(home, "get", "00" * 32, "--out", str(tmp_path / "none"), *by)
        assert (status, refused["error"]["label"]) == (1, "VAULT.OBJECT_UNKNOWN")
        status, said = call(home, "status")
        assert (said["objects"], said["size_bytes"], said["backend"]) == (1, len(CONTENT), "folder")
        status, said = call(home, "usage", "--patient", steve.id.hex())
        (row,) = said["pseudonyms"]
        assert (row["objects"], row["size_bytes"]) == (1, len(CONTENT))
        status, said = call(home, "scrub", *by)
        assert (status, said["ok"], said["objects"], said["repaired"]) == (0, True, 1, 0)
        stored(home).write_bytes(CONTENT[:-1] + b"x")
        status, refused = call(home, "get", ADDRESS, "--out", str(tmp_path / "none"), *by)
        assert (status, refused["error"]["label"]) == (1, "VAULT.OBJECT_ALTERED")
        status, said = call(home, "scrub", *by)
        assert (status, said["ok"], said["lost"], said["addresses"]) == (1, False, 1, [ADDRESS])
        process.ask_to_stop()
        assert process.end() == 0
        assert not any(SECRET_NAME in line or steve.id.hex() in line for line in process.log)


def test_copies_at_a_partner(tmp_path: Path, sealed: Path, members: dict[str, Organisation]) -> None:
    port = free_ports(1)[0]
    a, b = members["a"], members["b"]
    at_port = ANY_PORT.replace("[gatekeeper_api]\nport = 0", f"[gatekeeper_api]\nport = {port}")
    keeps = f'[vault]\nkeeps_for = ["{a.id.hex()}"]\nquota_bytes = 1000000\n'
    partner = made(
        tmp_path / "b",
        b,
        members,
        at_port + keeps,
    )
    copies = f'[vault]\ncopies = 2\n[vault.partners]\n{b.id.hex()} = "http://127.0.0.1:{port}"\n'
    home = made(tmp_path / "a", a, members, ANY_PORT + copies)
    by = ("--password-file", str(home / "keys" / "password"))
    with node(partner), node(home):
        assert call(home, "put", str(sealed), *by)[0] == 0
        assert stored(partner).read_bytes() == CONTENT
        stored(home).unlink()
        status, said = call(home, "scrub", *by)
        assert (status, said["missing"], said["repaired"]) == (0, 1, 1)
        assert stored(home).read_bytes() == CONTENT
        stored(partner).write_bytes(b"altered")
        status, said = call(home, "scrub", *by)
        assert (status, said["altered"], said["repaired"]) == (0, 1, 1)
        assert stored(partner).read_bytes() == CONTENT
    with Metering(partner / "vault" / "vault.sqlite") as books:
        assert books.held_bytes(a.id) == len(CONTENT)


def test_two_that_keep_each_others_copies(tmp_path: Path, sealed: Path, members: dict[str, Organisation]) -> None:
    """Neither passes on what the other brings, or asks for: both would do so without end."""
    ports = free_ports(2)
    a, b = members["a"], members["b"]

    def config(own: int, other: int, partner: Organisation) -> str:
        at_port = ANY_PORT.replace("[gatekeeper_api]\nport = 0", f"[gatekeeper_api]\nport = {own}")
        keeps = f'[vault]\ncopies = 2\nkeeps_for = ["{partner.id.hex()}"]\nquota_bytes = 1000000\n'
        return f'{at_port}{keeps}[vault.partners]\n{partner.id.hex()} = "http://127.0.0.1:{other}"\n'

    one = made(tmp_path / "a", a, members, config(ports[0], ports[1], b))
    two = made(tmp_path / "b", b, members, config(ports[1], ports[0], a))
    by = ("--password-file", str(one / "keys" / "password"))
    with node(one) as first, node(two) as second:
        assert call(one, "put", str(sealed), *by)[0] == 0
        assert stored(two).read_bytes() == CONTENT
        status, refused = call(one, "get", "00" * 32, "--out", str(tmp_path / "none"), *by)
        assert (status, refused["error"]["label"]) == (1, "VAULT.OBJECT_UNKNOWN")
        stored(one).unlink()
        assert call(one, "get", ADDRESS, "--out", str(tmp_path / "out"), *by)[0] == 0
        assert call(two, "scrub", "--password-file", str(two / "keys" / "password"))[1]["ok"]
        assert not stored(one).exists(), "the partner has made a copy of a copy"
        for process in (first, second):
            process.ask_to_stop()
            assert process.end() == 0
            assert not any("copy_not_written" in line for line in process.log)


def test_an_organisation_is_not_its_own_partner(tmp_path: Path, members: dict[str, Organisation]) -> None:
    own = members["a"].id.hex()
    home = made(tmp_path / "a", members["a"], members, f'{ANY_PORT}[vault.partners]\n{own} = "http://127.0.0.1:1"\n')
    (home / "vault").mkdir()
    Metering(home / "vault" / "vault.sqlite").close()
    status, refused = call(home, "scrub", "--password-file", str(home / "keys" / "password"))
    assert (status, "this organisation itself" in refused["error"]["reason"]) == (3, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vault]\ncopies = 2\n", "copies"),
        ("[vault]\nminimum = 2\n", "minimum"),
        ('[vault]\nbackend = "s3"\n', "s3.bucket"),
        ('[vault.partners]\nx = "https://x"\n', "64 hexadecimal"),
        ("[vault.kademlia]\nminimum = 5\n", "minimum"),
        ('[vault.kademlia]\npeers = ["nowhere"]\n', "peers"),
    ],
)
def test_settings_that_cannot_be_met(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadSettings, match=said):
        load_settings(file)


def test_a_backup_takes_the_books_and_not_the_objects() -> None:
    taken = ("vault/vault.sqlite", "vault/tokens.sqlite")
    left = ("vault/objects/ab/cd/x", "vault/dht.sqlite", "vault/arriving/x", "vault/vault.sqlite-wal")
    assert not any(map(is_left_out, taken))
    assert all(map(is_left_out, left))


def test_the_members_own_store(tmp_path: Path, sealed: Path, members: dict[str, Organisation]) -> None:
    ports = free_ports(2)

    def config(own: int, other: int) -> str:
        peers = f'port = {own}\npeers = ["127.0.0.1:{other}"]\ncopies = 2\nminimum = 2\n'
        return f'{ANY_PORT}[vault]\nbackend = "kademlia"\n[vault.kademlia]\n{peers}'

    one = made(tmp_path / "a", members["a"], members, config(*ports))
    two = made(tmp_path / "b", members["b"], members, config(*reversed(ports)))
    out = tmp_path / "out"
    with node(one), node(two):
        assert call(one, "put", str(sealed), "--password-file", str(one / "keys" / "password"))[0] == 0
        by = ("--password-file", str(two / "keys" / "password"))
        assert call(two, "get", ADDRESS, "--out", str(out), *by)[0] == 0
        assert out.read_bytes() == CONTENT
        # The node has the port, so it does this by itself.
        status, refused = call(two, "scrub", *by)
        assert (status, "the node looks after it" in refused["error"]["reason"]) == (3, True)
