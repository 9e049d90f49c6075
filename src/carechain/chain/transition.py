"""START HERE. How a block of transactions changes the state: the same on every node, or the block stops.

``apply_block`` is the spine. Every transaction is admitted (form and signature), every message routed to its
contract, every outcome kept as a receipt. Nothing here reads a clock, a socket or a random number: time comes
with the block, keys come from the state.
"""

from msgspec import Struct

from carechain.chain.receipts import OK, Receipt
from carechain.chain.replay import ReplayWindow
from carechain.chain.routing import Contracts
from carechain.chain.signatures import SignatureCache
from carechain.chain.tx import SIGNING_DOMAIN, AdmissionCode, Tx, parse, pseudonyms_in, requests_in
from carechain.contracts import membership, sanctions
from carechain.contracts.membership import MembershipCode
from carechain.contracts.roles import may_send
from carechain.core.context import Ctx
from carechain.core.crypto import BadSignature
from carechain.core.evidence import Evidence
from carechain.core.limits import ACCESS_REQUESTS_PER_TX, TX_LIFETIME_S
from carechain.core.party import Party
from carechain.core.rejection import Rejected, RejectionCode, present, require
from carechain.state.overlay import Overlay


class Block(Struct, frozen=True, kw_only=True):
    """What the engine ordered: a height, a time in whole seconds, and transactions as the bytes that were sent.

    ``evidence`` is what the engine found out about validators: it is judged before the transactions.
    """

    height: int
    time_s: int
    txs: tuple[bytes, ...]
    evidence: tuple[Evidence, ...] = ()


class Ledger:
    """Everything a transition works on: the state, the contracts over it, recent ids, verified signatures."""

    __slots__ = ("chain_id", "contracts", "replay", "signatures", "state")

    def __init__(
        self,
        *,
        chain_id: str,
        state: Overlay,
        replay: ReplayWindow,
        signatures: SignatureCache,
        height: int | None = None,
    ) -> None:
        """``height`` is the next block's, for a ledger that only admits: what is not in force then is refused at once.

        Without it admission takes everything that this program has, and the block itself tells.
        """
        self.chain_id = chain_id
        self.state = state
        self.contracts = Contracts(state)
        if height is not None:
            self.contracts.expect(height)
        self.replay = replay
        self.signatures = signatures


def apply_block(ledger: Ledger, block: Block) -> list[Receipt]:
    """Execute a block on the ledger's overlay: one receipt per transaction, in order.

    A block without transactions and evidence changes nothing, so the app hash stands still while the chain only beats.
    Raises :class:`~carechain.chain.versions.UpgradeNeeded` when the members voted in what this program does not have.
    """
    if block.txs or block.evidence:
        ledger.contracts.enter(block.height)
    for one in block.evidence:
        sanctions.sanction(ledger.contracts.sanctions, ledger.contracts.validators, one, height=block.height)
    receipts = [apply_transaction(ledger, block, raw) for raw in block.txs]
    if block.txs:
        ledger.replay.close_block(ledger.state)
        ledger.replay.drop_expired(ledger.state, block.time_s)
    return receipts


def apply_transaction(ledger: Ledger, block: Block, raw: bytes) -> Receipt:
    """Admit one transaction and execute it whole, or leave nothing of it but its receipt."""
    try:
        tx = ledger.signatures.parsed(raw) or parse(raw)
        party = admit(ledger, tx, block.time_s)
    except Rejected as refused:
        return Receipt(int(_told_alike(refused.code)))
    ledger.replay.add(tx.id, tx.body.valid_until_s)
    state = ledger.state
    ctx = Ctx(
        chain_id=ledger.chain_id,
        height=block.height,
        time_s=block.time_s,
        tx_id=tx.id,
        sender=tx.body.sender,
        party=party,
        events=[],
    )
    state.begin()
    try:
        execute(ledger.contracts, ctx, tx)
    except Rejected as refused:
        reads = state.read_digest()
        state.rollback()
        return Receipt(int(refused.code), ctx.message_index, (), reads)
    receipt = Receipt(OK, 0, tuple(ctx.events), state.read_digest(), state.write_digest())
    state.commit()
    return receipt


def admit(ledger: Ledger, tx: Tx, time_s: int) -> Party:
    """The checks before ordering, cheapest first: form and signature, never policy. Returns the signer.

    The engine's queue, a validator's mempool and block execution all call this one function.
    """
    party = admit_form(ledger, tx, time_s)
    try:
        ledger.signatures.check(
            suite=party.suite,
            public_key=party.public_key,
            signature=tx.signature,
            message=SIGNING_DOMAIN + tx.body_bytes,
        )
    except BadSignature:
        raise Rejected(AdmissionCode.BAD_SIGNATURE) from None
    return party


def admit_form(ledger: Ledger, tx: Tx, time_s: int) -> Party:
    """Everything but the signature, which a caller with a verifier process has checked elsewhere."""
    body = tx.body
    routes = ledger.contracts.routes
    require(all(type(msg) in routes for msg in body.messages), AdmissionCode.NOT_IN_FORCE)
    require(body.chain_id == ledger.chain_id, AdmissionCode.WRONG_CHAIN)
    pseudonyms = pseudonyms_in(body, ledger.contracts.access.pseudonym_of)
    require(pseudonyms <= 1, AdmissionCode.SEVERAL_PSEUDONYMS)
    require(body.valid_until_s > time_s, AdmissionCode.EXPIRED)
    require(body.valid_until_s <= time_s + TX_LIFETIME_S, AdmissionCode.VALID_TOO_LONG)
    require(tx.id not in ledger.replay, AdmissionCode.REPLAYED)
    require(not ledger.replay.is_full, AdmissionCode.REPLAY_WINDOW_FULL)
    party = present(ledger.contracts.membership.party(body.sender), AdmissionCode.UNKNOWN_SIGNER)
    require(requests_in(body) <= ACCESS_REQUESTS_PER_TX, AdmissionCode.TOO_MANY_REQUESTS)
    return party


def execute(contracts: Contracts, ctx: Ctx, tx: Tx) -> None:
    """Run every message in order; the first rejection ends the transaction."""
    for index, msg in enumerate(tx.body.messages):
        ctx.message_index = index
        if index:
            ctx.party = contracts.membership.party(ctx.sender) or ctx.party
        route = contracts.routes[type(msg)]
        failed = contracts.membership.standing(ctx.party, ctx.time_s)
        if route.gated:
            if failed is not None:
                raise Rejected(failed)
            require(may_send(ctx.party, route.tag), MembershipCode.ROLE_MAY_NOT_SEND)
        if failed is None and not index:
            membership.touch(ctx, contracts.membership)
        route.handle(ctx, msg)


def _told_alike(code: RejectionCode) -> RejectionCode:
    """A message that comes into force later is malformed on the ledger, as it is to programs that do not know it yet.

    While nodes are updated one after the other, both kinds of program must give one receipt. Clients are told more.
    """
    return AdmissionCode.MALFORMED if code is AdmissionCode.NOT_IN_FORCE else code
