"""Who is behind a FHIR request: an app by its access token, or a party by its session and its tickets (CON-7, ID-9).

Both end in a :class:`~carechain.gateway.principal.Principal`, made anew for every request: the token or the session
says who asks, the ledger's present state says what that is worth.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from carechain.chain.queries import share_of
from carechain.charts.sight import CUSTODIAN
from carechain.core.limits import ID_SIZE
from carechain.core.rejection import Rejected, present, require
from carechain.core.vocabulary import Purpose
from carechain.gatekeeper.ledger import LedgerReader
from carechain.gateway.clients import Approver, Apps, Authorisation, Client, Token, known
from carechain.gateway.codes import SmartCode
from carechain.gateway.principal import Principal, Rights
from carechain.gateway.rights import rights_of, within
from carechain.gateway.sights import TICKETS, Seen, Sights
from carechain.gateway.smart import scopes as smart
from carechain.gateway.smart.acting import ActingDesk
from carechain.gateway.smart.tokens import ACCESS_PREFIX
from carechain.sdk.authentication import Opening, OpenSession, SessionBook, bearer

TICKET_HEADER: Final = "x-consent-ticket"
PURPOSE_HEADER: Final = "x-purpose-of-use"
_HEADER_CHARS: Final = 4096
_PURPOSES: Final = {one.name: one for one in Purpose}


class GatewayAuthenticator:
    """The :class:`~carechain.gateway.principal.Authenticator` of a node's FHIR server."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        organisation: bytes,
        sights: Sights,
        sessions: SessionBook,
        apps: Apps,
        acting: ActingDesk,
        clock: Callable[[], int],
    ) -> None:
        """``sessions`` are the node's own, for :data:`carechain.sdk.authentication.Service.NODE`."""
        self._ledger = ledger
        self._organisation = organisation
        self._sights = sights
        self._sessions = sessions
        self._apps = apps
        self._acting = acting
        self._clock = clock

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller behind these headers; raises ``Rejected`` with a :class:`SmartCode`."""
        token = token_in(headers)
        wanted = purpose_in(headers)
        found = await (self._app(token, headers) if token.startswith(ACCESS_PREFIX) else self._native(token, headers))
        unjudged = wanted is None or not found.tickets
        require(unjudged or found.purpose is wanted, SmartCode.PURPOSE_DIFFERS)
        return found

    def party(self, headers: Mapping[str, str]) -> bytes:
        """The live party behind a session, for what an app cannot do; raises ``Rejected``."""
        party = present(self._sessions.party_of(token_in(headers), self._clock()), SmartCode.TOKEN_INVALID)
        self._sights.party(party)
        return party

    def open_session(self, opening: Opening, token: bytes) -> OpenSession:
        """Open a session with 32 random bytes as its token; raises ``Rejected`` with an ``AuthCode``."""
        view = self._ledger.view()
        party = view.contracts.membership.party(opening.party)
        organisation = None if party is None else share_of(view, party)
        return self._sessions.open(opening, party=party, organisation=organisation, now_s=self._clock(), token=token)

    async def _native(self, token: str, headers: Mapping[str, str]) -> Principal:
        party = present(self._sessions.party_of(token, self._clock()), SmartCode.TOKEN_INVALID)
        row = self._sights.party(party)
        seen = self._sights.by(tickets_in(headers), party)
        return Principal(
            party=party,
            sight=seen.sight,
            rights=rights_of(row.roles, creates=seen.creates, updates=seen.updates),
            tickets=seen.tickets,
            purpose=seen.purpose,
            roles=row.roles,
        )

    async def _app(self, token: str, headers: Mapping[str, str]) -> Principal:
        held, client = await asyncio.to_thread(self._held, token)
        authorisation, scopes = held.authorisation, _still_allowed(held.scopes, client.scopes)
        if client.system and authorisation.by is Approver.SYSTEM:
            return self._system(authorisation, scopes)
        self._sights.party(authorisation.party)
        seen = await self._seen(authorisation, client, headers)
        return self._of_app(authorisation, scopes, seen)

    def _held(self, token: str) -> tuple[Token, Client]:
        """What an access token stands for, and whose it is; raises ``Rejected``."""
        held = self._apps.token(token, self._clock())
        if held is None or held.refreshes:
            raise Rejected(SmartCode.TOKEN_INVALID)
        return held, known(self._apps, held.authorisation.client_id)

    async def _seen(self, authorisation: Authorisation, client: Client, headers: Mapping[str, str]) -> Seen:
        if authorisation.by is Approver.PATIENT:
            return await self._acting.seen(authorisation, client)
        tickets = authorisation.tickets if authorisation.by is Approver.STAFF else tickets_in(headers)
        return self._sights.by(tickets, authorisation.party)

    def _of_app(self, authorisation: Authorisation, scopes: tuple[str, ...], seen: Seen) -> Principal:
        """What the scopes, the role table and the tickets all allow."""
        roles = self._sights.party(authorisation.party).roles
        return Principal(
            party=authorisation.party,
            sight=seen.sight,
            rights=_rights(scopes, authorisation.by, roles, seen.creates, seen.updates),
            client_id=authorisation.client_id,
            patient=authorisation.patient,
            purpose=seen.purpose,
            tickets=seen.tickets,
            roles=roles,
        )

    def _system(self, authorisation: Authorisation, scopes: tuple[str, ...]) -> Principal:
        """One of the custodian's own systems: it keeps these charts, so it sees them; its scopes say which types."""
        self._sights.party(self._organisation)
        return Principal(
            party=authorisation.party,
            sight=CUSTODIAN,
            rights=_system_rights(scopes),
            client_id=authorisation.client_id,
            system=True,
        )


OF_THE_PARTY: Final = frozenset({"AuditEvent", "Consent"})
"""What the ledger shows a party by who it is, and not by a ticket. An app's party holds the grants of many patients, so
what one patient approved must not open these; a patient reads them with the wallet."""
_WHO: Final = {
    Approver.PATIENT: ("patient", "user"),
    Approver.STAFF: ("patient", "user"),
    Approver.SYSTEM: ("system",),
}


@lru_cache(maxsize=1024)
def _rights(
    scopes: tuple[str, ...],
    by: Approver,
    roles: int,
    creates: bool,  # noqa: FBT001 - a key of the cache
    updates: bool,  # noqa: FBT001
) -> Mapping[str, Rights]:
    """What scopes and the role table both allow; the same for every request of a token, until a grant changes."""
    role = rights_of(roles, creates=creates, updates=updates)
    found = within(smart.rights_of(smart.of_kind(scopes, *_WHO[by])), role)
    if by is not Approver.SYSTEM:
        # A clinician's own view of these is wider than one patient, so only a scope about the user opens it.
        users = {} if by is Approver.PATIENT else within(smart.rights_of(smart.of_kind(scopes, "user")), role)
        found = {name: one for name, one in found.items() if name not in OF_THE_PARTY}
        found |= {name: one for name, one in users.items() if name in OF_THE_PARTY}
    return MappingProxyType(found)


@lru_cache(maxsize=1024)
def _still_allowed(scopes: tuple[str, ...], registered: tuple[str, ...]) -> tuple[str, ...]:
    """What a token's scopes are worth now: its app may have been registered for less since."""
    return smart.allowed(scopes, registered)


@lru_cache(maxsize=1024)
def _system_rights(scopes: tuple[str, ...]) -> Mapping[str, Rights]:
    return MappingProxyType(smart.rights_of(smart.of_kind(scopes, "system")))


def token_in(headers: Mapping[str, str]) -> str:
    """The bearer token; raises ``Rejected``."""
    given = headers.get("authorization", "")
    require(given, SmartCode.TOKEN_MISSING)
    try:
        token = bearer(given)
    except Rejected:
        raise Rejected(SmartCode.TOKEN_MISSING) from None
    require(token and len(token) <= _HEADER_CHARS, SmartCode.TOKEN_MISSING)
    return token


def tickets_in(headers: Mapping[str, str]) -> tuple[bytes, ...]:
    """The tickets a request shows: hexadecimal, separated by commas; raises ``Rejected``."""
    given = headers.get(TICKET_HEADER, "").strip()
    if not given:
        return ()
    parts = [one.strip() for one in given.split(",")] if len(given) <= _HEADER_CHARS else []
    require(0 < len(parts) <= TICKETS, SmartCode.TICKET_MALFORMED)
    try:
        tickets = tuple(bytes.fromhex(one) for one in parts)
    except ValueError:
        raise Rejected(SmartCode.TICKET_MALFORMED) from None
    require(all(len(one) == ID_SIZE for one in tickets), SmartCode.TICKET_MALFORMED)
    return tickets


def purpose_in(headers: Mapping[str, str]) -> Purpose | None:
    """The purpose of use a request names: a code, alone or behind its system as ``system|code``."""
    given = headers.get(PURPOSE_HEADER, "").strip()
    if not given:
        return None
    return present(_PURPOSES.get(given.rpartition("|")[2]), SmartCode.PURPOSE_UNKNOWN)
