"""What CometBFT reads at its start: keys, the genesis in its own form, and its settings.

Everything lies in ``cometbft/`` of the node's home. The keys are made once and never overwritten; genesis and settings
are written anew at every start, because this program's configuration is the only place where they are decided.
"""

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.contracts.validators import address_of, founding_keys
from carechain.core.crypto import SEED_SIZE, SigningKey, Suite
from carechain.core.limits import HEARTBEAT_S, MEMPOOL_BYTES, MEMPOOL_TXS, PROPOSAL_BYTES, TX_SIZE_BYTES
from carechain.engine.cometbft.application import genesis_state

FOLDER: Final = "cometbft"
NODE_KEY: Final = Path("config/node_key.json")
VALIDATOR_KEY: Final = Path("config/priv_validator_key.json")
VALIDATOR_STATE: Final = Path("data/priv_validator_state.json")
STANDBY_KEY: Final = Path("config/standby_key.json")
STANDBY_STATE: Final = Path("data/standby_state.json")
STANDBY_MARK: Final = Path("RESTORED")
"""While this file is there, nobody knows what the consensus key has signed: the node follows and signs nothing."""
STATE_WAS_MISSING: Final = b"the signing state was missing\n"
"""What that file says where the blocks are here and only the record of what was signed is not."""
STANDBY_CAUGHT_UP: Final = Path("RESTORED.caught-up")
"""Beside it once the node that follows has the blocks of the others: only then may it sign again."""
RESUME_BLOCKS: Final = 2
"""So far above the last block that is known here may the key have signed before, on a machine that is gone."""
GENESIS: Final = Path("config/genesis.json")
CONFIG: Final = Path("config/config.toml")
RPC_BATCH: Final = 1_000
_PRIVATE: Final = "tendermint/PrivKeyEd25519"
_PUBLIC: Final = "tendermint/PubKeyEd25519"
_EVIDENCE_BLOCKS: Final = 100_000
_EVIDENCE_S: Final = 14 * 24 * 3600
_EVIDENCE_BYTES: Final = 1024 * 1024


Writer = Callable[[Path, bytes], None]


class BadEngineKey(Exception):  # noqa: N818 - names what is wrong
    """A key file of the engine cannot be read."""


class Tuning(Struct, frozen=True, kw_only=True):
    """The engine's settings that a network or an operator may choose; times in milliseconds."""

    propose_ms: int = 3_000
    commit_ms: int = 200
    skip_commit_wait: bool = True
    """Go on as soon as everybody has voted instead of waiting for ``commit_ms``."""
    heartbeat_ms: Annotated[int, Meta(ge=1)] = HEARTBEAT_S * 1_000
    mempool_txs: int = MEMPOOL_TXS
    log_level: str = "error"


class Wiring(Struct, frozen=True, kw_only=True):
    """Addresses: of the two sockets between this program and the engine, of the peer port, and of known peers.

    Both sockets lie in one folder, which the engine is started in: it is told their names alone, since it passes the
    address of its RPC on to every peer and takes none that is not ASCII.
    """

    abci: Path
    rpc: Path
    p2p: str
    """``host:port`` at which other nodes reach this one."""
    peers: Sequence[str] = ()
    """``node id@host:port`` each."""
    same_host: bool = False
    """Several nodes on one host, as in a local network for trying things out."""
    rpc_tcp: str | None = None
    standby: bool = False
    """Sign nothing, with a key that has no seat."""


class SyncFrom(Struct, frozen=True, kw_only=True):
    """Where to take a snapshot of the state from instead of all blocks, and what is trusted about the chain."""

    servers: Sequence[str]
    trust_height: int
    trust_hash: str


def make_keys(folder: Path, entropy: bytes, *, write: Writer) -> None:
    """Make node key and consensus key below ``folder``, those that are not there yet, each with what belongs to it.

    ``entropy`` is 64 random bytes; ``write`` writes a private file durably. A consensus key without its signing state
    may have signed anything: such a node stands by until its operator has said otherwise.
    """
    node, validator = entropy[:SEED_SIZE], entropy[SEED_SIZE:]
    if not (folder / NODE_KEY).exists():
        write(folder / NODE_KEY, _json({"priv_key": _secret(SigningKey(suite=Suite.ED25519, seed=node), node)}))
    if not (folder / VALIDATOR_KEY).exists():
        # The key comes last: a state without a key is written over.
        write(folder / VALIDATOR_STATE, signing_state(0))
        write(folder / VALIDATOR_KEY, _validator_key(validator))
    elif not (folder / VALIDATOR_STATE).exists():
        write(folder / STANDBY_MARK, STATE_WAS_MISSING)


def make_standby(folder: Path, seed: bytes, *, write: Writer) -> None:
    """A consensus key that has no seat, for a node that follows only: 32 random bytes make it."""
    write(folder / STANDBY_KEY, _validator_key(seed))
    write(folder / STANDBY_STATE, signing_state(0))


def signing_state(height: int) -> bytes:
    """The engine's record that it has signed everything below ``height`` and may sign from there on."""
    return _json({"height": str(height), "round": 0, "step": 0})


def _validator_key(seed: bytes) -> bytes:
    key = SigningKey(suite=Suite.ED25519, seed=seed)
    return _json(
        {
            "address": address_of(key.public_key).hex().upper(),
            "pub_key": {"type": _PUBLIC, "value": base64.b64encode(key.public_key).decode()},
            "priv_key": _secret(key, seed),
        }
    )


def _json(content: object) -> bytes:
    return json.dumps(content, indent=2).encode() + b"\n"


def read_key(path: Path) -> SigningKey:
    """The key in one of the engine's key files. Raises :class:`BadEngineKey` or ``OSError``."""
    try:
        content = json.loads(path.read_bytes())
        value = base64.b64decode(content["priv_key"]["value"], validate=True)
        if content["priv_key"]["type"] != _PRIVATE or len(value) != 2 * SEED_SIZE:
            raise BadEngineKey(f"{path} holds no Ed25519 key of CometBFT")
        return SigningKey(suite=Suite.ED25519, seed=value[:SEED_SIZE])
    except (ValueError, KeyError, TypeError):
        raise BadEngineKey(f"{path} is not a key file of CometBFT") from None


def node_id(folder: Path) -> str:
    """The engine's id of this node, 40 hexadecimal digits. Raises :class:`BadEngineKey` or ``OSError``."""
    return address_of(read_key(folder / NODE_KEY).public_key).hex()


def _secret(key: SigningKey, seed: bytes) -> dict[str, str]:
    return {"type": _PRIVATE, "value": base64.b64encode(seed + key.public_key).decode()}


def genesis_file(genesis: Genesis) -> bytes:
    """The genesis in the engine's form: same name, same time, the founding validators with one vote each."""
    members = {one.consensus_key: one.member for one in genesis.validators}
    founding = founding_keys(genesis.validators, genesis.rotation)
    document = {
        "genesis_time": datetime.fromtimestamp(genesis.time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "chain_id": genesis.chain_id,
        "initial_height": "1",
        "consensus_params": {
            "block": {"max_bytes": str(PROPOSAL_BYTES), "max_gas": "-1"},
            "evidence": {
                "max_age_num_blocks": str(_EVIDENCE_BLOCKS),
                "max_age_duration": str(_EVIDENCE_S * 1_000_000_000),
                "max_bytes": str(_EVIDENCE_BYTES),
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": "0"},
            "abci": {"vote_extensions_enable_height": "0"},
        },
        "validators": [
            {
                "address": address_of(key).hex().upper(),
                "pub_key": {"type": _PUBLIC, "value": base64.b64encode(key).decode()},
                "power": "1",
                "name": members[key].hex(),
            }
            for key in founding
        ],
        "app_hash": "",
        "app_state": msgspec.Raw(genesis_state(genesis_hash(genesis))),
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def config_file(wiring: Wiring, tuning: Tuning, sync: SyncFrom | None = None) -> bytes:
    """The engine's settings; what is not named keeps the engine's own default.

    Peers are named by the operator and never gossiped (``pex``), so a follower of a hub learns of nobody but the hub.
    The engine's own RPC, which knows no authentication, is a socket that only this user can open.
    """
    sections: dict[str, dict[str, object]] = {
        "": {
            "proxy_app": f"unix://{wiring.abci.name}",
            "abci": "socket",
            "db_backend": "goleveldb",
            "log_level": tuning.log_level,
            "log_format": "json",
            "filter_peers": True,
            "priv_validator_key_file": str(STANDBY_KEY if wiring.standby else VALIDATOR_KEY),
            "priv_validator_state_file": str(STANDBY_STATE if wiring.standby else VALIDATOR_STATE),
        },
        "rpc": {
            "laddr": f"unix://{wiring.rpc.name}" + ("" if wiring.rpc_tcp is None else f",tcp://{wiring.rpc_tcp}"),
            # The node asks it to dial peers again; a port may be within others' reach, the socket is not.
            "unsafe": wiring.rpc_tcp is None,
            "max_request_batch_size": RPC_BATCH,
            "max_body_bytes": 4 * RPC_BATCH * TX_SIZE_BYTES // 3,
        },
        "p2p": {
            "laddr": f"tcp://{wiring.p2p}",
            "persistent_peers": ",".join(wiring.peers),
            "persistent_peers_max_dial_period": "5s",
            "pex": False,
            "addr_book_strict": False,
            "allow_duplicate_ip": wiring.same_host,
            "flush_throttle_timeout": "10ms",
            "max_packet_msg_payload_size": 10_240,
            "send_rate": 52_428_800,
            "recv_rate": 52_428_800,
        },
        "mempool": {
            "type": "flood",
            "recheck": True,
            "broadcast": True,
            "size": tuning.mempool_txs,
            "max_txs_bytes": MEMPOOL_BYTES,
            "max_tx_bytes": TX_SIZE_BYTES,
            "cache_size": 4 * tuning.mempool_txs,
        },
        "statesync": {"enable": sync is not None, **({} if sync is None else _sync(sync))},
        "blocksync": {"version": "v0"},
        "consensus": {
            "timeout_propose": f"{tuning.propose_ms}ms",
            "timeout_commit": f"{tuning.commit_ms}ms",
            "skip_timeout_commit": tuning.skip_commit_wait,
            "create_empty_blocks": False,
            "create_empty_blocks_interval": f"{tuning.heartbeat_ms}ms",
            "peer_gossip_sleep_duration": "10ms",
            "double_sign_check_height": 0,
        },
        "storage": {"discard_abci_responses": True},
        "tx_index": {"indexer": "null"},
        "instrumentation": {"prometheus": False},
    }
    lines = ["# Written by carechain at every start; change config.toml of the node's home instead."]
    for name, values in sections.items():
        if name:
            lines.append(f"\n[{name}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return ("\n".join(lines) + "\n").encode()


def _sync(sync: SyncFrom) -> dict[str, object]:
    return {
        "rpc_servers": ",".join(sync.servers),
        "trust_height": sync.trust_height,
        "trust_hash": sync.trust_hash,
        "trust_period": f"{_EVIDENCE_S}s",
        "discovery_time": "5s",
        "chunk_request_timeout": "10s",
    }
