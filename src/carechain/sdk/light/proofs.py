"""States and transactions under believed headers of a CometBFT chain (LED-10).

A header says what came of the block *before* it: header ``h + 1`` has the app hash and the results of block ``h``. So a
proof about block ``h`` needs two believed headers, ``h`` for its time and its transactions and ``h + 1`` for the rest;
:class:`Settled` is that pair, and the state after the block is checked with it as with a sealed header
(``verify_answer`` and ``verify_log`` take it as their ``trust``).

A header does not say how many transactions there are. Without that number the path of a transaction proves that it is
in the block, and that the receipt stands in the same place as the transaction, but not which place: ``index`` in a
proven receipt is the node's word.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from carechain.chain.receipts import FullReceipt, Receipt, code_named, decode_receipt, describe
from carechain.chain.tx import AdmissionCode, parse
from carechain.core import merkle
from carechain.core.codec import Malformed
from carechain.core.hashing import digest
from carechain.core.ids import Hash
from carechain.core.limits import BLOCK_TXS
from carechain.core.rejection import Rejected
from carechain.sdk.answers import QueryAnswer
from carechain.sdk.light.header import result_leaf
from carechain.sdk.light.verify import (
    DEFAULT_RULES,
    Fetch,
    FetchAsync,
    Rules,
    Trusted,
    TrustedHeader,
    catch_up,
    catch_up_async,
)
from carechain.sdk.proofs import Believed, NotProven, verify_entry

_PATH_HASHES = BLOCK_TXS.bit_length()
"""No leaf of a block's trees lies deeper."""

Path = Annotated[tuple[Hash, ...], Meta(max_length=_PATH_HASHES)]


class Settled(Struct, frozen=True):
    """A block, and the one above it that says what came of it. Made by :func:`settle`."""

    block: TrustedHeader
    above: TrustedHeader

    def believe(self, answer: QueryAnswer) -> Believed:
        """The state after the block, whichever answer it is for: ``verify_answer`` compares them."""
        del answer
        header = self.block.block.header
        return Believed(height=header.height, time_s=header.time.seconds, app_hash=self.app_hash)

    @property
    def app_hash(self) -> bytes:
        """The state's root after the block."""
        return self.above.block.header.app_hash


def settle(block: TrustedHeader, above: TrustedHeader) -> Settled:
    """The pair, if the one is built on the other; raises :class:`NotProven`.

    :func:`settle_at` goes the way to it.
    """
    below = above.block.header.last_block_id
    if above.height != block.height + 1 or below is None or below.hash != block.hash:
        raise NotProven("the two headers are not of one block and the next")
    return Settled(block, above)


def settle_at(trusted: Trusted, height: int, fetch: Fetch, *, now_s: int, rules: Rules = DEFAULT_RULES) -> Settled:
    """Block ``height`` settled: catches up to the header above it and steps down once.

    Raises :class:`NotProven`, also while the block above is not there yet, and whatever ``fetch`` raises.
    ``above`` is the one to keep in the trust file if it is the latest.
    """
    above = catch_up(trusted, height + 1, fetch, now_s=now_s, rules=rules)
    return settle(catch_up(above, height, fetch, now_s=now_s, rules=rules), above)


async def settle_at_async(
    trusted: Trusted, height: int, fetch: FetchAsync, *, now_s: int, rules: Rules = DEFAULT_RULES
) -> Settled:
    """As :func:`settle_at`, where fetching is awaited."""
    above = await catch_up_async(trusted, height + 1, fetch, now_s=now_s, rules=rules)
    return settle(await catch_up_async(above, height, fetch, now_s=now_s, rules=rules), above)


def verify_state(above: TrustedHeader, key: bytes, value: bytes | None, proof: bytes) -> None:
    """Check that after block ``above.height - 1`` the state has ``value`` under ``key``; None: that it has nothing.

    ``proof`` is the encoding of :class:`carechain.state.proof.Proof`. Raises :class:`NotProven`.
    """
    verify_entry(above.block.header.app_hash, key, value, proof)


class LightInclusion(Struct, frozen=True, kw_only=True):
    """A transaction and its receipt as they are stored, with audit paths to the two headers (RFC 6962).

    ``count`` is how many transactions the block has, by the node's word.
    """

    raw: bytes
    receipt: bytes
    height: int
    index: int
    count: int
    tx_path: Path
    result_path: Path


def result_of(receipt: bytes, code: int) -> bytes:
    """What stands under ``last_results_hash`` for a receipt's bytes and its code, the leaf without its hash."""
    return result_leaf(code=code, data=merkle.leaf_hash(receipt))


def make_inclusion(*, height: int, index: int, txs: Sequence[bytes], receipts: Sequence[bytes]) -> LightInclusion:
    """What a node shows for transaction ``index`` of a block whose transactions and receipts it has as stored bytes.

    Raises ``Malformed`` for a receipt that is none, ``IndexError`` for an index outside the block.
    """
    results = [result_of(one, decode_receipt(one).code) for one in receipts]
    return LightInclusion(
        raw=txs[index],
        receipt=receipts[index],
        height=height,
        index=index,
        count=len(txs),
        tx_path=tuple(merkle.prove([merkle.leaf_hash(digest(raw)) for raw in txs], index)),
        result_path=tuple(merkle.prove([merkle.leaf_hash(one) for one in results], index)),
    )


def verify_inclusion(settled: Settled, shown: LightInclusion, tx_id: bytes) -> FullReceipt:
    """The receipt of transaction ``tx_id``, worked out again from proven bytes; raises :class:`NotProven`.

    Transaction and result stand at the same place because both trees have one shape and both paths one index. A receipt
    that refuses admission is no outcome: the transaction's bytes, or others with the same id, may have been put into a
    block once more after they were executed in another.
    """
    header, above = settled.block.block.header, settled.above.block.header
    if shown.height != header.height:
        raise NotProven("the transaction is shown for another block")
    receipt = _receipt(shown.receipt)
    if isinstance(code_named(receipt.code), AdmissionCode):
        raise NotProven("these bytes were not admitted here, which does not say what became of the transaction")
    result = result_of(shown.receipt, receipt.code)
    _lead_to(digest(shown.raw), shown, shown.tx_path, header.data_hash)
    _lead_to(result, shown, shown.result_path, above.last_results_hash)
    try:
        same_id = parse(shown.raw).id == tx_id
    except Rejected:
        raise NotProven("the transaction is malformed") from None
    if not same_id:
        raise NotProven("the proven transaction is another one than was asked about")
    return describe(shown.raw, receipt, height=header.height, index=shown.index)


def _receipt(data: bytes) -> Receipt:
    try:
        return decode_receipt(data)
    except Malformed:
        raise NotProven("the receipt is malformed") from None


def _lead_to(leaf: bytes, shown: LightInclusion, path: tuple[bytes, ...], root: bytes) -> None:
    if not 0 < shown.count <= BLOCK_TXS:
        raise NotProven("the block cannot have as many transactions")
    try:
        hashed = merkle.leaf_hash(leaf)
        merkle.check(leaf=hashed, index=shown.index, count=shown.count, path=list(path), expected_root=root)
    except merkle.BadProof as bad:
        raise NotProven(str(bad)) from None
