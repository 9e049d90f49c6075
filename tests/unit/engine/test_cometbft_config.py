"""What CometBFT reads at its start: keys that are made once, the genesis, the settings.

Goal: a key is never overwritten and never signs what it may have signed before; the engine's genesis says what the
ledger's says; the settings are TOML whatever a path or name holds, name no peer that the operator has not named, and
let nobody in but through the filter. Method: the files are read again by other readers than those that wrote them.
"""

import base64
import json
import tomllib
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from abci_wire import Channels, hooks, init_chain
from carechain.chain.genesis import genesis_hash
from carechain.contracts.validators import Rotation, founding_keys
from carechain.core.limits import BLOCK_SIZE_BYTES, MEMPOOL_TXS, PROPOSAL_BYTES, TX_SIZE_BYTES
from carechain.engine.cometbft import config
from carechain.engine.cometbft.application import Application, read_state
from carechain.engine.cometbft.config import BadEngineKey, SyncFrom, Tuning, Wiring
from carechain.engine.embedded import BlockProducer
from carechain.engine.session import Session
from carechain.node.consortium import prepare
from carechain.node.home import replace_file
from world import fresh, seeded

KEYS = (config.NODE_KEY, config.VALIDATOR_KEY, config.VALIDATOR_STATE)
WIRING = Wiring(abci=Path("/run/节点 \U00020bb7/abci"), rpc=Path('/run/"x"\\/rpc'), p2p="127.0.0.1:26656")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An engine's folder with its keys."""
    prepare(tmp_path / "cometbft", seeded("keys", size=64))
    return tmp_path / "cometbft"


# --- keys -----------------------------------------------------------------------------------------------


def test_keys_are_as_the_engine_writes_them(folder: Path) -> None:
    for name in (config.NODE_KEY, config.VALIDATOR_KEY):
        content = json.loads((folder / name).read_bytes())
        secret = base64.b64decode(content["priv_key"]["value"])
        assert content["priv_key"]["type"] == "tendermint/PrivKeyEd25519"
        public = Ed25519PrivateKey.from_private_bytes(secret[:32]).public_key().public_bytes_raw()
        assert secret[32:] == public == config.read_key(folder / name).public_key
    validator = json.loads((folder / config.VALIDATOR_KEY).read_bytes())
    public = base64.b64decode(validator["pub_key"]["value"])
    assert validator["address"] == sha256(public).hexdigest()[:40].upper()
    node = config.read_key(folder / config.NODE_KEY).public_key
    assert config.node_id(folder) == sha256(node).hexdigest()[:40]
    assert node != public
    assert json.loads((folder / config.VALIDATOR_STATE).read_bytes()) == {"height": "0", "round": 0, "step": 0}


def test_keys_are_private_and_made_once(folder: Path) -> None:
    before = [(folder / name).read_bytes() for name in KEYS]
    assert [(folder / name).stat().st_mode & 0o777 for name in KEYS[:2]] == [0o600, 0o600]
    prepare(folder, seeded("other keys", size=64))
    assert [(folder / name).read_bytes() for name in KEYS] == before


def test_a_key_is_replaced_only_where_there_is_none(folder: Path) -> None:
    consensus = (folder / config.VALIDATOR_KEY).read_bytes()
    (folder / config.NODE_KEY).unlink()
    prepare(folder, seeded("other keys", size=64))
    assert (folder / config.VALIDATOR_KEY).read_bytes() == consensus
    assert config.read_key(folder / config.NODE_KEY).public_key


@pytest.mark.parametrize("kept", range(3))
def test_a_first_start_that_is_cut_short_is_made_up_for(tmp_path: Path, kept: int) -> None:
    """Whichever file was the last that was written, the next start gives a whole set."""
    left = kept

    def write(path: Path, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace_file(path, data)

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "cometbft", seeded("keys", size=64), write)
    prepare(tmp_path / "cometbft", seeded("again", size=64))
    assert all((tmp_path / "cometbft" / name).exists() for name in KEYS)
    config.read_key(tmp_path / "cometbft" / config.VALIDATOR_KEY)


def _secret(kind: str, size: int) -> bytes:
    return json.dumps({"priv_key": {"type": kind, "value": base64.b64encode(bytes(size)).decode()}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"priv_key": "x"}',
        b'{"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": "not base64!"}}',
        b'{"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": 7}}',
        _secret("tendermint/PrivKeyEd25519", 32),
        _secret("tendermint/PrivKeyEd25519", 65),
        _secret("tendermint/PrivKeySecp256k1", 64),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(BadEngineKey) as refused:
        config.read_key(path)
    assert str(path) in str(refused.value)
    assert base64.b64encode(bytes(24)).decode() not in str(refused.value)


def test_a_key_that_is_not_there_is_the_environments_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        config.read_key(tmp_path / "key.json")


# --- genesis --------------------------------------------------------------------------------------------


def test_the_engines_genesis_says_what_the_ledgers_says() -> None:
    genesis = fresh(validators="abcd", rotation=Rotation(every_blocks=2, active=3)).genesis
    document = json.loads(config.genesis_file(genesis))
    assert document["chain_id"] == genesis.chain_id
    assert datetime.fromisoformat(document["genesis_time"]).timestamp() == genesis.time_s
    keys = [base64.b64decode(one["pub_key"]["value"]) for one in document["validators"]]
    assert tuple(keys) == founding_keys(genesis.validators, genesis.rotation)
    assert len(keys) == 3
    for one, key in zip(document["validators"], keys, strict=True):
        assert one["address"] == sha256(key).hexdigest()[:40].upper()
        assert one["power"] == "1"
    members = {one.consensus_key: one.member.hex() for one in genesis.validators}
    assert [one["name"] for one in document["validators"]] == [members[key] for key in keys]
    assert read_state(json.dumps(document["app_state"]).encode()) == genesis_hash(genesis)
    assert int(document["consensus_params"]["block"]["max_bytes"]) == PROPOSAL_BYTES <= BLOCK_SIZE_BYTES
    assert document["app_hash"] == ""


def test_no_name_of_a_member_is_in_it() -> None:
    """Only ids: who a follower's engine is shown to cannot tell who validates."""
    genesis = fresh(validators="abcd").genesis
    assert not any(one.name.encode() in config.genesis_file(genesis) for one in genesis.members)


def test_the_application_takes_what_the_file_says(tmp_path: Path) -> None:
    """As the engine sends it: every field from the file itself."""
    world = fresh(validators="abcd")
    document = json.loads(config.genesis_file(world.genesis))
    with Session.open(tmp_path, world.genesis, keeper=world.a.id) as session:
        failed: list[BaseException] = []
        told = hooks(failed=failed.append)
        channels = Channels(Application(session, BlockProducer.of(world.a.signing), told))
        fields = init_chain(world.genesis)
        fields["app_state_bytes"] = json.dumps(document["app_state"], indent=4).encode()
        fields["chain_id"] = document["chain_id"]
        assert channels.call("init_chain", **fields).app_hash == session.head.app_hash
        assert failed == []


# --- settings -------------------------------------------------------------------------------------------


def settings_of(wiring: Wiring = WIRING, sync: SyncFrom | None = None, **tuning: Any) -> dict[str, Any]:
    """The settings as another reader of TOML finds them."""
    return tomllib.loads(config.config_file(wiring, Tuning(**tuning), sync).decode())


def test_settings_are_toml_whatever_a_name_holds() -> None:
    found = settings_of()
    assert found["proxy_app"].startswith("unix://")
    assert found["abci"] == "socket"
    peer = "ab" * 20 + "@主机:26656"
    sync = SyncFrom(servers=["http://a:1", 'http://"\U00020bb7"\\:2'], trust_height=7, trust_hash="00" * 32)
    wiring = Wiring(abci=WIRING.abci, rpc=WIRING.rpc, p2p=WIRING.p2p, peers=(peer, peer))
    found = settings_of(wiring, sync)
    assert found["p2p"]["persistent_peers"] == f"{peer},{peer}"
    assert found["statesync"]["rpc_servers"] == 'http://a:1,http://"\U00020bb7"\\:2'
    assert (found["statesync"]["enable"], found["statesync"]["trust_height"]) == (True, 7)


def test_nobody_is_let_in_or_learnt_of_but_by_name() -> None:
    found = settings_of()
    assert found["filter_peers"] is True
    assert found["p2p"]["pex"] is False
    assert found["p2p"]["persistent_peers"] == ""
    assert found["p2p"]["laddr"] == "tcp://127.0.0.1:26656"
    assert found["rpc"]["laddr"].startswith("unix://")
    assert found["instrumentation"]["prometheus"] is False


def test_what_the_ledger_relies_on_is_set() -> None:
    found = settings_of()
    assert found["mempool"]["recheck"] is True, "without it, what has expired would stay for ever"
    assert found["mempool"]["max_tx_bytes"] == TX_SIZE_BYTES
    assert found["mempool"]["size"] == MEMPOOL_TXS
    assert found["consensus"]["create_empty_blocks"] is False
    assert found["consensus"]["double_sign_check_height"] == 0, "a hub would not come back after a crash"
    assert found["tx_index"]["indexer"] == "null"


def test_tuning_is_passed_on() -> None:
    found = settings_of(propose_ms=1_234, commit_ms=7, skip_commit_wait=False, heartbeat_ms=50, mempool_txs=9)
    consensus = found["consensus"]
    assert (consensus["timeout_propose"], consensus["timeout_commit"]) == ("1234ms", "7ms")
    assert consensus["skip_timeout_commit"] is False
    assert consensus["create_empty_blocks_interval"] == "50ms"
    assert found["mempool"]["size"] == 9
