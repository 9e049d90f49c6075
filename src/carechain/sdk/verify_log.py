"""Proving that a shown access log is complete (AUD-3, LED-10).

The ledger keeps, per pseudonym, how many lines the log has and a hash that runs over all of them. Whoever has the
lines computes both again; the state proof of that one entry then shows that not a line is missing, altered
or added, up to the stated height and block time.
"""

from collections.abc import Sequence

from msgspec import Struct

from carechain.chain.questions import LogLine, OfPseudonym
from carechain.contracts.access import EMPTY_LOG, LogHead, running_hash
from carechain.sdk.answers import QueryAnswer
from carechain.sdk.proofs import NotProven, Trust, verify_answer


class CompleteLog(Struct, frozen=True, kw_only=True):
    """A log that is proven complete up to ``height`` and its block time ``time_s`` (Unix seconds)."""

    pseudonym: bytes
    lines: tuple[LogLine, ...]
    height: int
    time_s: int


def head_of(lines: Sequence[LogLine]) -> LogHead:
    """Count and running hash over ``lines``; raises :class:`NotProven` where their numbers leave a gap."""
    head = EMPTY_LOG
    for line in lines:
        if line.number != head.count:
            raise NotProven(f"the log has no line {head.count}")
        head = LogHead(count=head.count + 1, running=running_hash(head.running, line.line))
    return head


def verify_log(pseudonym: bytes, lines: Sequence[LogLine], answer: QueryAnswer, trust: Trust) -> CompleteLog:
    """Check that ``lines`` are all lines of the pseudonym's log; raises :class:`NotProven`.

    ``answer`` is that of ``access.log_head`` with proofs, and ``trust`` says why its state is believed. An empty log is
    proven by the absence of its entry.
    """
    proven = verify_answer("access.log_head", OfPseudonym(pseudonym), answer, trust)
    if proven.rows != (head_of(lines),):
        raise NotProven("these lines are not the log that the ledger commits to")
    return CompleteLog(pseudonym=pseudonym, lines=tuple(lines), height=proven.height, time_s=proven.time_s)
