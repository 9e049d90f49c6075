"""One patient's records from several members: a ticket and a gatekeeper for each, side by side (REC-2, CON-10).

A patient has another pseudonym at every member, so each member is asked under its own: the ledger decides once for
each, and each custodian's gatekeeper serves what its ticket allows. A member that refuses or does not answer is named
with its reason; what the others gave is not lost, and nobody takes a part for the whole.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import httpx
from msgspec import Struct

from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.contracts.access import Decided, RequestAccess
from carechain.core.decision import DecisionCode
from carechain.core.rejection import Rejected
from carechain.core.scope import Scope
from carechain.core.suite import Institution
from carechain.core.vocabulary import Purpose
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.fetch import GatekeeperClient, GatekeeperUnreachable, Reader, newest_of
from carechain.sdk.client import Client
from carechain.sdk.failures import Refused, Unreachable
from carechain.sdk.opening import AnchoredRecord, OpenedRecord

_BEHIND_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""How long to wait between the questions to a gatekeeper that is behind: six seconds in all."""
NO_ANSWER: Final = "GATEKEEPER.UNREACHABLE"
"""The label where a member's door could not be reached."""


class Custodian(Struct, frozen=True, kw_only=True):
    """One member to ask: its id, the patient's pseudonym there, and its gatekeeper (the base URL is set)."""

    organisation: bytes
    pseudonym: bytes
    door: httpx.AsyncClient


class Given(Struct, frozen=True, kw_only=True):
    """What one member gave: verified records, the ledger's line of each, the ticket, and the height of its decision."""

    organisation: bytes
    pseudonym: bytes
    ticket: bytes
    height: int
    records: tuple[OpenedRecord, ...]
    lines: tuple[AnchorLine, ...]

    def line_of(self, record: OpenedRecord) -> AnchorLine:
        """What the ledger says about one of the records."""
        return next(one for one in self.lines if (one.record, one.version) == (record.record_id, record.version))


class Missing(Struct, frozen=True, kw_only=True):
    """A member whose records are not there, and why: a label, and whether the ledger refused (with its ticket)."""

    organisation: bytes
    pseudonym: bytes
    label: str
    reason: str
    ticket: bytes | None = None


class Ledger(Protocol):
    """What a reader needs of the ledger, in its own name: through a node of its organisation, or inside it."""

    async def request(self, message: RequestAccess) -> tuple[Decided, int]:
        """The decision on a request and its height; raises ``Rejected``, :class:`Refused`, :class:`Unreachable`."""

    async def timeline(self, pseudonym: bytes, ticket: bytes) -> Sequence[AnchorLine]:
        """The anchors that the ticket shows, every version."""


class OverNode:
    """The ledger through a client's nodes; anchors are proven where the client knows the network's genesis."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def request(self, message: RequestAccess) -> tuple[Decided, int]:
        """As :class:`Ledger`."""
        submitted = await self._client.submit(message)
        return next(one for one in submitted.receipt.events if isinstance(one, Decided)), submitted.height

    async def timeline(self, pseudonym: bytes, ticket: bytes) -> Sequence[AnchorLine]:
        """As :class:`Ledger`."""
        prove = self._client.network is not None
        return await self._client.rows("records.timeline", TimelinePage(pseudonym, ticket), prove=prove)


class Across:
    """One reader's way to several members. The doors' sessions are kept, so a second reading is quicker."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        reader: Reader,
        chain_id: str,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        institution: Institution = Institution.INTERNATIONAL,
    ) -> None:
        """``clock()`` is Unix time in seconds; ``institution`` is the network's suite."""
        self._ledger = ledger
        self._reader = reader
        self._chain_id = chain_id
        self._clock = clock
        self._entropy = entropy
        self._institution = institution
        self._doors: dict[bytes, tuple[httpx.AsyncClient, GatekeeperClient]] = {}

    async def read(
        self, custodians: Sequence[Custodian], *, scope: Scope, purpose: Purpose
    ) -> tuple[list[Given], list[Missing]]:
        """Ask every member at the same time, each with a new ticket; both lists are in the members' given order."""
        answers = await asyncio.gather(*(self._read(one, scope, purpose) for one in custodians))
        given = [one for one in answers if isinstance(one, Given)]
        return given, [one for one in answers if isinstance(one, Missing)]

    async def _read(self, custodian: Custodian, scope: Scope, purpose: Purpose) -> Given | Missing:
        ticket: bytes | None = None

        def missing(label: str, reason: str) -> Missing:
            return Missing(
                organisation=custodian.organisation,
                pseudonym=custodian.pseudonym,
                label=label,
                reason=reason,
                ticket=ticket,
            )

        try:
            request = RequestAccess(pseudonym=custodian.pseudonym, scope=scope, purpose=purpose)
            decided, height = await self._ledger.request(request)
            ticket = decided.ticket
            if decided.decision:
                code = next(one for one in DecisionCode if one == decided.decision)
                return missing(code.label, code.reason)
            lines = await self._ledger.timeline(custodian.pseudonym, ticket)
            expected = newest_of(lines, scope)
            opened = await self._open(custodian, ticket, expected) if expected else ()
        except Rejected as refused:
            return missing(refused.code.label, refused.code.reason)
        except Refused as refused:
            return missing(refused.label, refused.reason)
        except GatekeeperUnreachable:
            return missing(NO_ANSWER, "The member's gatekeeper did not answer. Ask again later.")
        except Unreachable:
            return missing("CLIENT.UNREACHABLE", "No node answered. Ask again later.")
        return Given(
            organisation=custodian.organisation,
            pseudonym=custodian.pseudonym,
            ticket=ticket,
            height=height,
            records=opened,
            lines=tuple(lines),
        )

    async def _open(
        self, custodian: Custodian, ticket: bytes, expected: tuple[AnchoredRecord, ...]
    ) -> tuple[OpenedRecord, ...]:
        """The records; a gatekeeper whose replica has not seen the ticket's block yet is asked again."""
        for wait_s in _BEHIND_S:
            try:
                return await self._door(custodian).read_all(ticket, expected)
            except Withheld as withheld:
                if withheld.code is not GatekeeperCode.TICKET_UNKNOWN:
                    raise
            await asyncio.sleep(wait_s)
        return await self._door(custodian).read_all(ticket, expected)

    def _door(self, custodian: Custodian) -> GatekeeperClient:
        """The client of a member's door; made again when its connection is another one."""
        known = self._doors.get(custodian.organisation)
        if known is None or known[0] is not custodian.door:
            client = GatekeeperClient(
                custodian.door,
                chain_id=self._chain_id,
                custodian=custodian.organisation,
                reader=self._reader,
                clock=self._clock,
                entropy=self._entropy,
                institution=self._institution,
            )
            known = self._doors[custodian.organisation] = (custodian.door, client)
        return known[1]
