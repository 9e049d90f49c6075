"""The blocks whose transactions could be sent again: what a start has to know and believe of them."""

import msgspec

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.chain.header import Header, header_hash
from carechain.chain.replay import ReplayWindow
from carechain.core.limits import REPLAY_BUCKET_S, TX_LIFETIME_S
from carechain.engine.blocklog import BlockLog, CorruptHistory, StoredBlock
from carechain.engine.sealed import ProducerKeys, check_contents, check_follows, check_signed, read_header
from carechain.engine.txindex import admitted, id_and_validity


def read_window(
    log: BlockLog, height: int, *, genesis: Genesis, producers: ProducerKeys, replay: ReplayWindow
) -> Header:
    """Check the block at ``height`` and the window before it, and fill ``replay``; returns the block's header.

    What is believed of these blocks is what their producers signed: each header's chain, place and signature, and the
    roots of transactions and receipts. Raises :class:`CorruptHistory`. What lies before the window is looked at by
    ``verify``.
    """
    headers: list[Header] = []
    for earlier in range(height, 0, -1):
        stored = log.read(earlier)
        sealed = read_header(earlier, stored)
        header = sealed.header
        check_signed(sealed, chain_id=genesis.chain_id, producers=producers)
        if headers:
            check_follows(headers[-1], previous=header_hash(header), time_s=header.time_s)
        headers.append(header)
        if header.time_s + TX_LIFETIME_S + REPLAY_BUCKET_S <= headers[0].time_s:
            break
        _remember_ids(header, stored, replay)
    else:
        check_follows(headers[-1], previous=genesis_hash(genesis), time_s=genesis.time_s)
    replay.commit(headers[0].time_s)
    return headers[0]


def _remember_ids(header: Header, stored: StoredBlock, replay: ReplayWindow) -> None:
    for raw, receipt in zip(stored.txs, check_contents(header, stored), strict=True):
        if admitted(receipt):
            try:
                replay.add(*id_and_validity(raw))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise CorruptHistory(header.height, "a transaction is malformed") from None
