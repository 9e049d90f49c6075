"""The blocks whose transactions could be sent again: what a start has to know and believe of them."""

import msgspec

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.chain.header import Header, header_hash
from carechain.chain.replay import ReplayWindow
from carechain.core.limits import REPLAY_BUCKET_S, TX_LIFETIME_S
from carechain.engine.base import Base
from carechain.engine.blocklog import BlockLog, CorruptHistory, StoredBlock
from carechain.engine.sealed import Sealers, check_contents, check_follows, check_signed, read_header
from carechain.engine.txindex import admitted, id_and_validity

_Ids = list[tuple[bytes, int]]
"""The ids that a block admitted, each with the time at which it expires."""


def read_window(log: BlockLog, height: int, *, genesis: Genesis, sealers: Sealers, replay: ReplayWindow) -> Header:
    """Check the block at ``height`` and the window before it, and fill ``replay``; returns the block's header.

    What is believed of these blocks is what their producers signed: each header's chain, place and signature, and the
    roots of transactions and receipts. Where the window reaches back to the log's base, that is believed as this node
    signed it. Raises :class:`CorruptHistory`. What lies before the window is looked at by ``verify``.
    """
    headers: list[Header] = []
    admitted_ids: list[_Ids] = []
    for earlier in range(height, log.base_height, -1):
        stored = log.read(earlier)
        sealed = read_header(earlier, stored)
        header = sealed.header
        check_signed(sealed, chain_id=genesis.chain_id, sealers=sealers)
        if headers:
            check_follows(headers[-1], previous=header_hash(header), time_s=header.time_s)
        headers.append(header)
        if header.time_s + TX_LIFETIME_S + REPLAY_BUCKET_S <= headers[0].time_s:
            admitted_ids.append([])
            break
        admitted_ids.append(_ids_in(header, stored))
    else:
        _begin(log.base, headers, genesis=genesis, sealers=sealers, replay=replay)
    # In ledger order and block by block, because the digests in the state were made so.
    for header, ids in zip(reversed(headers), reversed(admitted_ids), strict=True):
        for one, valid_until_s in ids:
            replay.add(one, valid_until_s)
        replay.commit(header.time_s)
    return headers[0] if headers else _header_of(log.base)


def check_base(base: Base, *, genesis: Genesis, sealers: Sealers) -> Header:
    """The header at which a log begins, which this node has signed. Raises :class:`CorruptHistory`."""
    check_signed(base.sealed, chain_id=genesis.chain_id, sealers=sealers)
    return base.header


def _begin(
    base: Base | None, headers: list[Header], *, genesis: Genesis, sealers: Sealers, replay: ReplayWindow
) -> None:
    """The first block in the log must follow its base, or the genesis; the base's ids come first."""
    previous, time_s = genesis_hash(genesis), genesis.time_s
    if base is not None:
        header = check_base(base, genesis=genesis, sealers=sealers)
        previous, time_s = header_hash(header), header.time_s
        replay.take_over(base.window)
        replay.commit(time_s)
    if headers:
        check_follows(headers[-1], previous=previous, time_s=time_s)


def _header_of(base: Base | None) -> Header:
    if base is None:
        raise ValueError("a log without blocks and without a base has no header")
    return base.header


def _ids_in(header: Header, stored: StoredBlock) -> _Ids:
    try:
        return [
            id_and_validity(raw)
            for raw, receipt in zip(stored.txs, check_contents(header, stored), strict=True)
            if admitted(receipt)
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise CorruptHistory(header.height, "a transaction is malformed") from None
