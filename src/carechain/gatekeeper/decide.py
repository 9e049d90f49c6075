"""The gatekeeper's decision: whether this requester may have these records under this ticket now (REC-2, CON-3, AUD-3).

Pure: the committed ticket, the ledger's facts and two clocks come in, Allow or Deny goes out. Whoever asks cannot
bring its own ticket: the caller reads the row from the committed state. What is not allowed here is denied.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from carechain.contracts.access import TicketRow
from carechain.contracts.records import AnchorRow
from carechain.core.limits import GATEKEEPER_RECORDS, STALE_BLOCK_S
from carechain.core.vocabulary import Purpose, Role, Sensitivity, in_mask
from carechain.gatekeeper.codes import GatekeeperCode

ALLOWED: Final = 0


class Door(Enum):
    """What is asked for: the records as they are, or a study's pseudonymised view of them (RES-1)."""

    RECORDS = "records"
    STUDY = "study"


class Allow(Struct, frozen=True):
    """The release may go ahead under this ticket."""

    ticket: TicketRow


class Deny(Struct, frozen=True):
    """The release may not go ahead: the first check that failed, and the record it is about where there is one."""

    code: GatekeeperCode
    record_id: bytes | None = None


class Moment(Struct, frozen=True, kw_only=True):
    """The two clocks, in Unix seconds: the latest block's, and the gatekeeper's own."""

    block_s: int
    wall_s: int


class Wanted(Struct, frozen=True, kw_only=True):
    """One record that is asked for, as the ledger has it; ``anchor`` and ``newest`` are None where it has nothing.

    ``anchor`` is the version asked for and ``newest`` the latest one: a correction may have raised the grade, and
    then the old version is not given out under its old grade. ``grade_today`` is the highest grade the custodian's
    own charts know for the content; it is None before the charts were read.
    """

    record_id: bytes
    version: int
    anchor: AnchorRow | None
    newest: AnchorRow | None
    grade_today: Sensitivity | None = None
    erased: bool = False


def decide(
    *,
    ticket: TicketRow | None,
    requester: bytes,
    custodian: bytes,
    roles: int,
    path_is_live: bool,
    moment: Moment,
    wanted: Sequence[Wanted],
    door: Door = Door.RECORDS,
) -> Allow | Deny:
    """The whole decision: the ticket, then every record.

    ``roles`` is the requester's role mask on the ledger now, ``path_is_live`` is
    :func:`carechain.contracts.access.still_allowed` at the latest height. An empty ``wanted`` asks about the ticket
    alone.
    """
    verdict = decide_ticket(
        ticket=ticket,
        requester=requester,
        custodian=custodian,
        roles=roles,
        path_is_live=path_is_live,
        moment=moment,
        door=door,
    )
    if isinstance(verdict, Deny):
        return verdict
    if len(wanted) > GATEKEEPER_RECORDS:
        return Deny(GatekeeperCode.TOO_MANY_RECORDS)
    seen: set[bytes] = set()
    for one in wanted:
        code = GatekeeperCode.RECORD_REPEATED if one.record_id in seen else record_gap(verdict.ticket, one)
        if code is not None:
            return Deny(code, one.record_id)
        seen.add(one.record_id)
    return verdict


def decide_ticket(
    *,
    ticket: TicketRow | None,
    requester: bytes,
    custodian: bytes,
    roles: int,
    path_is_live: bool,
    moment: Moment,
    door: Door,
) -> Allow | Deny:
    """Whether the ticket may be served at all.

    A chain that stands still keeps every ticket alive, so the gatekeeper's own clock has a say: when the last block
    is too old, nothing is served. One block from the future does the same, because block time then waits for the
    clocks to catch up; so a block that far ahead is not judged by either. Block time alone judges expiry, as it did
    when the ticket was given.
    """
    if abs(moment.wall_s - moment.block_s) > STALE_BLOCK_S:
        return Deny(GatekeeperCode.LEDGER_STALE)
    if ticket is None:
        return Deny(GatekeeperCode.TICKET_UNKNOWN)
    if ticket.custodian != custodian:
        return Deny(GatekeeperCode.OTHER_CUSTODIAN)
    if ticket.requester != requester:
        return Deny(GatekeeperCode.NOT_THE_REQUESTER)
    if ticket.decision != ALLOWED:
        return Deny(GatekeeperCode.TICKET_REFUSED)
    if ticket.revoked_s:
        return Deny(GatekeeperCode.TICKET_REVOKED)
    if moment.block_s >= ticket.expires_s:
        return Deny(GatekeeperCode.TICKET_EXPIRED)
    if not path_is_live:
        return Deny(GatekeeperCode.NO_LONGER_ALLOWED)
    if pseudonyms_only(ticket.purpose, roles) is not (door is Door.STUDY):
        return Deny(GatekeeperCode.PSEUDONYMS_ONLY if door is Door.RECORDS else GatekeeperCode.NOT_RESEARCH)
    return Allow(ticket)


def pseudonyms_only(purpose: Purpose, roles: int) -> bool:
    """Whether this reading is research: by its purpose, or by a researcher who reads for public health."""
    as_researcher = in_mask(Role.RESEARCHER, roles) and not in_mask(Role.REGULATOR, roles)
    return purpose is Purpose.HRESCH or (purpose is Purpose.PUBHLTH and as_researcher)


def record_gap(ticket: TicketRow, wanted: Wanted) -> GatekeeperCode | None:
    """None when the ticket covers the record; otherwise why it does not. An erased record is as good as unknown."""
    if wanted.anchor is None or wanted.newest is None or wanted.erased:
        return GatekeeperCode.RECORD_UNKNOWN
    covered = all(covers(ticket, wanted.record_id, row) for row in (wanted.anchor, wanted.newest))
    graded = wanted.grade_today is None or wanted.grade_today <= ticket.scope.ceiling
    return None if covered and graded else GatekeeperCode.OUTSIDE_SCOPE


def covers(ticket: TicketRow, record_id: bytes, row: AnchorRow) -> bool:
    """Whether one anchored version lies inside the ticket's scope."""
    return ticket.scope.covers(category=row.category, sensitivity=row.sensitivity, day=row.day, record=record_id)
