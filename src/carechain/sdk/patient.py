"""One patient's side of the ledger, typed: who has access, what is asked, who looked, which records exist (API-3).

For the patient, a representative, the custodian or a regulator, as far as the ledger's three checks let each ask. Every
method is one query of :data:`carechain.chain.queries.QUERIES`, all pages of it; REST has the same ones as resources
(``GET /v1/patients/{pseudonym}/…``).
"""

from carechain.chain.questions import (
    AnchorLine,
    GrantPage,
    HistoryPage,
    MayRead,
    MayReadAnswer,
    OfPseudonym,
    OfRecord,
    OfTicket,
    TimelinePage,
)
from carechain.contracts.access import TicketRow
from carechain.contracts.consent.schema import RepresentativeRow, RequestRow, RuleRow
from carechain.contracts.consent.views import GrantView, Reason
from carechain.core.scope import Scope
from carechain.core.vocabulary import Purpose
from carechain.sdk.answers import NamedRow
from carechain.sdk.client import Client
from carechain.sdk.verify_log import CompleteLog


class PatientView:
    """What a client may ask about one pseudonym. Every method raises ``Refused`` and ``Unreachable``."""

    def __init__(self, client: Client, pseudonym: bytes) -> None:
        """``pseudonym`` is the patient's 32-byte id at one organisation."""
        self._client = client
        self.pseudonym = pseudonym

    async def grants(self) -> list[GrantView]:
        """Who has access: every grant, live or ended."""
        return await self._client.rows("consent.grants", GrantPage(self.pseudonym))

    async def requests(self) -> list[NamedRow[RequestRow]]:
        """Requests that wait for an answer."""
        return await self._client.rows("consent.inbox", OfPseudonym(self.pseudonym))

    async def rules(self) -> list[NamedRow[RuleRow]]:
        """The standing rules."""
        return await self._client.rows("consent.rules", OfPseudonym(self.pseudonym))

    async def representatives(self) -> list[NamedRow[RepresentativeRow]]:
        """Who acts for the patient."""
        return await self._client.rows("consent.representatives", OfPseudonym(self.pseudonym))

    async def who_can_see(self, record: bytes) -> list[Reason]:
        """Who can see a record, why, and what ends if that is revoked."""
        return await self._client.rows("consent.who_can_see", OfRecord(self.pseudonym, record))

    async def log(self) -> CompleteLog:
        """The whole access log, proven complete; raises ``NotProven`` besides."""
        return await self._client.access_log(self.pseudonym)

    async def timeline(self, ticket: bytes | None = None, *, prove: bool = False) -> list[AnchorLine]:
        """Every version of every record that is anchored; with a ticket, what it shows its holder."""
        return await self._client.rows("records.timeline", TimelinePage(self.pseudonym, ticket), prove=prove)

    async def history(self, record: bytes, ticket: bytes | None = None, *, prove: bool = False) -> list[AnchorLine]:
        """Every version of one record."""
        return await self._client.rows("records.history", HistoryPage(self.pseudonym, record, ticket), prove=prove)

    async def may_read(self, requester: bytes, *, scope: Scope, purpose: Purpose) -> MayReadAnswer:
        """Whether a request would be allowed now; leaves no trace."""
        asked = MayRead(pseudonym=self.pseudonym, requester=requester, scope=scope, purpose=purpose)
        answer: MayReadAnswer = (await self._client.rows("access.may_read", asked))[0]
        return answer

    async def ticket(self, ticket: bytes) -> TicketRow | None:
        """The decision on one request about this patient; None where it is about another."""
        found: list[NamedRow[TicketRow]] = await self._client.rows("access.ticket", OfTicket(ticket))
        return next((one.row for one in found if one.row.pseudonym == self.pseudonym), None)
