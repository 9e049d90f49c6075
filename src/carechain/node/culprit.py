"""Which transaction it was: one whose execution fails in a way that no transaction should, a bug, stops no node.

Such a transaction must neither get on the ledger, where every replay would fail over it, nor end the node, because
its sender would send it again after the restart. The block is tried without it: trying keeps nothing.
"""

from collections.abc import Sequence
from typing import Final

import lmdb

from carechain.chain.transition import Block
from carechain.chain.versions import UpgradeNeeded
from carechain.engine.blocklog import CorruptHistory
from carechain.engine.session import IllegalOrder, Session
from carechain.state.log import StoreDamaged

NOBODYS_FAULT: Final = (OSError, MemoryError, lmdb.Error, StoreDamaged, CorruptHistory, IllegalOrder, UpgradeNeeded)
"""What no transaction is to blame for: the machine, the stored data, this program's age or its own order of calls."""


def find_culprit(session: Session, *, time_s: int, txs: Sequence[bytes]) -> int | None:
    """The index of the first transaction that cannot be executed after those before it, or None if that is not it.

    Costs about as many executions as ``txs`` can be halved. Leaves a finalised block that is not to be committed.
    Raises what is in :data:`NOBODYS_FAULT`.
    """
    if not _fails(session, time_s, txs) or _fails(session, time_s, ()):
        return None
    good, bad = 0, len(txs)
    while bad - good > 1:
        middle = (good + bad) // 2
        if _fails(session, time_s, txs[:middle]):
            bad = middle
        else:
            good = middle
    return good


def _fails(session: Session, time_s: int, txs: Sequence[bytes]) -> bool:
    try:
        session.finalize(Block(height=session.head.height + 1, time_s=time_s, txs=tuple(txs)))
    except NOBODYS_FAULT:
        raise
    except Exception:  # noqa: BLE001 - any other is what is looked for; the caller has it and logs it
        return True
    return False
