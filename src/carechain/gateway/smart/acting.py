"""Tickets for the apps that patients approved: asked of the ledger by the party that the app acts as (CON-1, CON-7).

Nothing is given out on a token alone. Behind every use stands a live grant and a live ticket; a ticket is kept until
it ends, and asked for again only while the grant still stands, so an app that lost its grant writes no more lines into
the patient's log.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from carechain.chain.queries import View
from carechain.chain.receipts import OK
from carechain.chain.tx import AdmissionCode, build
from carechain.contracts.access import Decided, RequestAccess
from carechain.contracts.consent.schema import GrantRow
from carechain.core.limits import NONCE_SIZE, TX_LIFETIME_S
from carechain.core.rejection import Rejected, present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import Action, in_mask
from carechain.gatekeeper.ledger import LedgerReader
from carechain.gateway.clients import Authorisation, Client
from carechain.gateway.codes import SmartCode
from carechain.gateway.sights import Seen, Sights, common
from carechain.sdk.identity import Identity

OUTCOME_S: Final = 10
"""How long the ledger's decision is waited for."""
KEPT: Final = 10_000
"""Tickets at hand."""
_log = structlog.get_logger("carechain.gateway")

Unlock = Callable[[str], Identity]
"""The key file of this home with a name; raises ``Rejected`` or ``OSError``."""


class ActingKeys:
    """The opened keys of the parties that apps act as. Opening takes a while, so each is opened once."""

    def __init__(self, unlock: Unlock) -> None:
        self._unlock = unlock
        self._opened: dict[str, Identity] = {}

    async def of(self, client: Client) -> Identity:
        """The key a client acts with; raises ``Rejected``. The log says what is wrong with it."""
        found = self._opened.get(client.acting)
        if found is None:
            require(client.acting, SmartCode.CLIENT_UNUSABLE)
            try:
                found = await asyncio.to_thread(self._unlock, client.acting)
            except (Rejected, OSError) as failure:
                _log.error("acting_key_unusable", client=client.client_id, kind=type(failure).__name__)
                raise Rejected(SmartCode.CLIENT_UNUSABLE) from None
            self._opened[client.acting] = found
        require(found.party == client.party, SmartCode.CLIENT_UNUSABLE)
        return found

    def forget(self, client: Client) -> None:
        """Open the key anew next time: it may have been changed."""
        self._opened.pop(client.acting, None)


class ActingDesk:
    """Asks for tickets, and keeps them while they live."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        sights: Sights,
        keys: ActingKeys,
        entropy: Callable[[int], bytes],
    ) -> None:
        """``entropy(n)`` gives fresh random bytes."""
        self._ledger = ledger
        self._sights = sights
        self._keys = keys
        self._entropy = entropy
        self._tickets: OrderedDict[bytes, bytes] = OrderedDict()
        self._turns: dict[bytes, asyncio.Lock] = {}

    async def seen(self, authorisation: Authorisation, client: Client) -> Seen:
        """What a patient's approval lets the app see now; raises ``Rejected``."""
        scope = self._granted(self._ledger.view(), authorisation)
        found = self._at_hand(authorisation)
        if found is not None:
            return found
        turn = self._turns.setdefault(authorisation.id, asyncio.Lock())
        try:
            async with turn:
                found = self._at_hand(authorisation)
                if found is None:
                    self._keep(authorisation.id, await self._ask(authorisation, client, scope))
                    found = self._shown(authorisation)
        finally:
            if not turn.locked():
                self._turns.pop(authorisation.id, None)
        return found

    def _at_hand(self, authorisation: Authorisation) -> Seen | None:
        """By the ticket that is kept, if it still lives. A stale ledger stops everything."""
        if authorisation.id not in self._tickets:
            return None
        try:
            return self._shown(authorisation)
        except Rejected as refused:
            if refused.code is SmartCode.LEDGER_STALE:
                raise
            del self._tickets[authorisation.id]
            return None

    def _shown(self, authorisation: Authorisation) -> Seen:
        return self._sights.by((self._tickets[authorisation.id],), authorisation.party)

    def _granted(self, view: View, authorisation: Authorisation) -> Scope:
        """What the grant still lets through of what was approved; raises ``Rejected`` once that is nothing."""
        row = live_grant(view, authorisation)
        if row is None or authorisation.scope is None:
            raise Rejected(SmartCode.CONSENT_ENDED)
        return present(common(row.scope, authorisation.scope), SmartCode.CONSENT_ENDED)

    async def _ask(self, authorisation: Authorisation, client: Client, scope: Scope) -> bytes:
        if authorisation.pseudonym is None or authorisation.purpose is None:
            raise Rejected(SmartCode.CLIENT_UNUSABLE)
        identity = await self._keys.of(client)
        raw = build(
            key=identity.signing_key(),
            sender=identity.party,
            chain_id=self._ledger.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._ledger.view().time_s + TX_LIFETIME_S // 2,
            messages=(RequestAccess(pseudonym=authorisation.pseudonym, scope=scope, purpose=authorisation.purpose),),
        )
        try:
            async with asyncio.timeout(OUTCOME_S):
                receipt = (await self._ledger.submit(raw)).receipt
        except TimeoutError:
            raise Rejected(SmartCode.LEDGER_STALE) from None
        except Rejected as refused:
            self._keys.forget(client)
            _log.warning("ticket_not_admitted", client=client.client_id, label=refused.code.label)
            ours = isinstance(refused.code, AdmissionCode)
            raise Rejected(SmartCode.CLIENT_UNUSABLE if ours else SmartCode.LEDGER_STALE) from None
        decided = next((one for one in receipt.events if isinstance(one, Decided)), None)
        if receipt.code != OK or decided is None:
            _log.warning("ticket_not_given", client=client.client_id, code=receipt.code)
            raise Rejected(SmartCode.CLIENT_UNUSABLE)
        require(not decided.decision, SmartCode.CONSENT_ENDED)
        return decided.ticket

    def _keep(self, authorisation: bytes, ticket: bytes) -> None:
        self._tickets[authorisation] = ticket
        self._tickets.move_to_end(authorisation)
        if len(self._tickets) > KEPT:
            self._tickets.popitem(last=False)


def live_grant(view: View, authorisation: Authorisation) -> GrantRow | None:
    """The grant behind an authorisation, if it and what it hangs from are live and it still lets the party read."""
    if authorisation.pseudonym is None or authorisation.grant is None or authorisation.purpose is None:
        return None
    path = view.contracts.consent.path_to(authorisation.pseudonym, authorisation.grant, view.time_s)
    if not path:
        return None
    row = path[-1][1]
    fits = (
        authorisation.party in row.grantees
        and bool(row.actions & Action.READ)
        and in_mask(authorisation.purpose, row.purposes)
    )
    return row if fits else None
