"""CometBFT's application: every call of ABCI 2.0 turned into one call of the :class:`Session`, which decides.

Nothing is judged here but form. What the engine asks before ordering (``check_tx``, ``prepare_proposal``) is answered
by admission alone, never by policy: a refused access is ordered like any other, so that the patient sees it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from carechain.chain.transition import Block, admit
from carechain.chain.tx import parse
from carechain.contracts import validators
from carechain.core.evidence import ADDRESS_SIZE, Evidence, Offence
from carechain.core.limits import BLOCK_TXS, EVIDENCE_PER_BLOCK, ID_SIZE
from carechain.core.rejection import Rejected
from carechain.engine.cometbft.messages import ValidatorUpdate
from carechain.engine.cometbft.server import Halted
from carechain.engine.cometbft.syncing import StateSync
from carechain.engine.sealed import beyond_bounds
from carechain.engine.session import CommittedBlock, Sealer, Session
from carechain.engine.snapshots import Snapshots

APP_VERSION: Final = 1
NODE_FILTER: Final = "/p2p/filter/id/"
ADDRESS_FILTER: Final = "/p2p/filter/addr/"
NOT_CHECKABLE: Final = 1
"""The code of a transaction over which checking failed in a way that no transaction should."""
_ACCEPT: Final = 1
_REJECT: Final = 2
_NOBODY: Final = bytes(ID_SIZE)
_OFFENCES: Final = {1: Offence.DOUBLE_VOTE, 2: Offence.LIGHT_CLIENT_ATTACK}

_log = structlog.get_logger("carechain.engine")


class WrongNetwork(Exception):  # noqa: N818 - names what the engine was started with
    """The engine's genesis is not this node's: its folder belongs to another network."""


def _nobody_waits() -> None:
    """For a node that takes over no snapshot."""


class Hooks(Struct, frozen=True):
    """What the node wants to be told."""

    committed: Callable[[CommittedBlock], None]
    """A block is durable."""
    refused: Callable[[bytes, Rejected], None]
    """A transaction is not, or no longer, admissible here: the engine's pool has dropped it."""
    failed: Callable[[BaseException], None]
    """No further block can be executed."""
    knows_peer: Callable[[str], bool]
    """Whether a node that nobody registered may connect, by the engine's id of it."""
    arrived: Callable[[], None] = _nobody_waits
    """The ledger has begun with a snapshot of other nodes."""


class Application:
    """One node's side of ABCI. Belongs to the thread of its session."""

    def __init__(
        self,
        session: Session,
        sealer: Sealer,
        hooks: Hooks,
        *,
        block_txs: int = BLOCK_TXS,
        snapshots: Snapshots | None = None,
    ) -> None:
        """``block_txs`` caps the transactions of the blocks that this node proposes (LED-7).

        ``snapshots`` are begun when one is due, and handed out; the caller lets them go on between other work.
        """
        self._session = session
        self._sealer = sealer
        self._hooks = hooks
        self._block_txs = min(block_txs, BLOCK_TXS)
        self._snapshots = snapshots
        self._sync = sync = StateSync(session, sealer, snapshots=snapshots, arrived=hooks.arrived)
        self._producer = _NOBODY
        self._halted = False
        self.block_seconds = 0.0
        """How long the last block took to execute and to make durable, without the engine's time between the two."""
        self._handlers: Final[dict[str, Callable[[Any, Any], None]]] = {
            "echo": _echo,
            "flush": _nothing,
            "info": self._info,
            "init_chain": self._init_chain,
            "query": self._query,
            "check_tx": self._check_tx,
            "prepare_proposal": self._prepare_proposal,
            "process_proposal": self._process_proposal,
            "extend_vote": _nothing,
            "verify_vote_extension": _accept,
            "finalize_block": self._finalize_block,
            "commit": self._commit,
            "list_snapshots": sync.list_snapshots,
            "offer_snapshot": sync.offer,
            "load_snapshot_chunk": sync.load_chunk,
            "apply_snapshot_chunk": sync.apply_chunk,
        }

    def answer(self, kind: str, request: Any, response: Any) -> None:  # noqa: ANN401 - messages made at run time
        """See :class:`~carechain.engine.cometbft.server.Answering`.

        An error in what changes the state halts the node instead of guessing: every other node would differ.
        """
        if self._halted:
            raise Halted
        try:
            self._handlers[kind](request, response)
        except Exception as error:
            self._halted = True
            self._hooks.failed(error)
            raise Halted from error

    def close(self) -> None:
        """Give up a snapshot that is on its way in or out: before the session is closed."""
        self._sync.close()

    # --- before ordering ----------------------------------------------------------------------------------

    def _info(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """Where the chain stands: only what is durable."""
        head = self._session.head
        response.data = self._session.genesis.chain_id
        response.version = request.version
        response.app_version = APP_VERSION
        response.last_block_height = head.height
        response.last_block_app_hash = head.app_hash if head.height else b""

    def _init_chain(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """The first block is about to come: both sides must start from the same genesis."""
        genesis, head = self._session.genesis, self._session.head
        expected = [(key, 1) for key in self._active(0)]
        given = sorted((one.pub_key.ed25519, one.power) for one in request.validators)
        fits = (
            request.chain_id == genesis.chain_id
            and read_state(request.app_state_bytes) == self._session.genesis_hash
            and request.time.seconds == genesis.time_s
            and request.initial_height == 1
            and given == sorted(expected)
        )
        if not fits or head.height:
            raise WrongNetwork("the consensus engine was started from another genesis than this home has")
        response.app_hash = head.app_hash

    def _query(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """Only what the engine itself asks: whether a peer may connect. Clients ask the node's own API."""
        path: str = request.path.decode("utf-8", "replace")
        if path.startswith(ADDRESS_FILTER):
            return
        if not path.startswith(NODE_FILTER) or not self.admits_peer(path.removeprefix(NODE_FILTER)):
            response.code = 1
            response.log = "not a node of a member"

    def admits_peer(self, node: str) -> bool:
        """Whether a node may connect: a live member registered it, or nobody did and the hook knows it.

        That is a node which the operator named, while blocks are fetched that tell who the members are.
        """
        contracts = self._session.ledger().contracts
        try:
            node_id = bytes.fromhex(node)
        except ValueError:
            return False
        if len(node_id) != ADDRESS_SIZE:
            return False
        if validators.node_owner(contracts.validators, node_id) is None:
            return self._hooks.knows_peer(node.lower())
        return validators.admits(contracts.validators, contracts.membership, node_id)

    def _check_tx(self, request: Any, response: Any) -> None:  # noqa: ANN401
        raw: bytes = request.tx
        try:
            self._session.check(raw)
        except Rejected as refused:
            response.code = int(refused.code)
            self._hooks.refused(raw, refused)
        except Exception as bug:  # noqa: BLE001 - one transaction must not end the node for all
            _log.error("transaction_not_checkable", exc_info=bug)
            response.code = NOT_CHECKABLE

    def _prepare_proposal(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """Of what the engine would propose, all that admission lets pass at the block's time, each once."""
        response.txs.extend(self._admissible(request.txs, request.time.seconds))

    def _admissible(self, raws: Iterable[bytes], time_s: int) -> list[bytes]:
        ledger = self._session.ledger()
        signatures = self._session.signatures
        chosen: dict[bytes, bytes] = {}
        for raw in raws:
            if len(chosen) >= self._block_txs:
                break
            try:
                tx = signatures.parsed(raw) or parse(raw)
                admit(ledger, tx, time_s)
            except Rejected:
                continue
            chosen.setdefault(tx.id, raw)
        return list(chosen.values())

    def _process_proposal(self, request: Any, response: Any) -> None:  # noqa: ANN401
        """Accept what can be executed within bounds; bad transactions in it get their codes there."""
        response.status = _REJECT if beyond_bounds(request.txs) else _ACCEPT

    # --- executing ----------------------------------------------------------------------------------------

    def _finalize_block(self, request: Any, response: Any) -> None:  # noqa: ANN401
        began = time.perf_counter()
        session = self._session
        height: int = request.height
        before = self._active(session.head.height)
        self._producer = self._organisation_at(request.proposer_address)
        block = Block(
            height=height,
            time_s=request.time.seconds,
            txs=tuple(request.txs),
            evidence=_evidence(request.misbehavior),
        )
        finalized = session.finalize(block)
        after = validators.active(session.finalized_ledger().contracts.validators, height)
        response.app_hash = finalized.app_hash
        for receipt, leaf in zip(finalized.receipts, finalized.leaves, strict=True):
            response.tx_results.add(code=receipt.code, data=leaf)
        response.validator_updates.extend(validator_updates(before, after))
        self.block_seconds = time.perf_counter() - began

    def _commit(self, _request: Any, _response: Any) -> None:  # noqa: ANN401
        """Durable when answered. No height to retain: history stays for audit."""
        began = time.perf_counter()
        block = self._session.commit(self._sealer, producer=self._producer)
        self.block_seconds += time.perf_counter() - began
        if self._snapshots is not None and self._snapshots.is_due(block.height):
            self._snapshots.begin(self._session.capture())
        self._hooks.committed(block)

    def _organisation_at(self, address: bytes) -> bytes:
        if len(address) != ADDRESS_SIZE:
            return _NOBODY
        return validators.organisation_of(self._session.ledger().contracts.validators, address) or _NOBODY

    def _active(self, height: int) -> tuple[bytes, ...]:
        return validators.active(self._session.ledger().contracts.validators, height)


def genesis_state(genesis_hash: bytes) -> bytes:
    """What stands as ``app_state`` in the engine's genesis file: the hash of the ledger's, as JSON."""
    return b'{"genesis":"%s"}' % genesis_hash.hex().encode()


def read_state(app_state: bytes) -> bytes | None:
    """The hash in what :func:`genesis_state` made, however the engine has indented it since; None for anything else."""
    try:
        found = msgspec.json.decode(app_state, type=dict[str, str])
        return bytes.fromhex(found["genesis"])
    except (msgspec.MsgspecError, KeyError, ValueError):
        return None


def validator_updates(before: Sequence[bytes], after: Sequence[bytes]) -> list[Any]:
    """The change from one set of consensus keys to another: one vote each, none for those that leave."""
    powers = [(key, 0) for key in before if key not in after] + [(key, 1) for key in after if key not in before]
    updates = [ValidatorUpdate(power=power) for _, power in sorted(powers)]
    for update, (key, _) in zip(updates, sorted(powers), strict=True):
        update.pub_key.ed25519 = key
    return updates


def _evidence(misbehaviour: Iterable[Any]) -> tuple[Evidence, ...]:
    found = [
        Evidence(
            offence=_OFFENCES[one.type],
            address=one.validator.address,
            height=one.height,
            time_s=max(0, one.time.seconds),
        )
        for one in misbehaviour
        if one.type in _OFFENCES and len(one.validator.address) == ADDRESS_SIZE and one.height >= 0
    ]
    return tuple(found[:EVIDENCE_PER_BLOCK])


def _echo(request: Any, response: Any) -> None:  # noqa: ANN401
    response.text = request.text


def _nothing(_request: Any, _response: Any) -> None:  # noqa: ANN401
    """The empty answer is the right one."""


def _accept(_request: Any, response: Any) -> None:  # noqa: ANN401
    response.status = _ACCEPT
