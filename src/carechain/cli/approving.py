"""Answering an app's request: the party's keys, the organisation's FHIR server, and the grant on the ledger."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from carechain.chain.questions import OfParty, OfTicket
from carechain.cli.acting import Desktop, Done, KnownParty, KnownTicket
from carechain.cli.options import ByAnyone
from carechain.cli.output import CannotRun, Denied, Desk
from carechain.cli.serving import fhir_url
from carechain.contracts.consent.schema import Grant, Granted, Revoke
from carechain.core.rejection import Rejected, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import PartyKind, Sensitivity
from carechain.gateway.codes import SmartCode
from carechain.gateway.smart import scopes as smart
from carechain.sdk.apps import AppDoor, AppRequest
from carechain.sdk.failures import Refused, Unreachable
from carechain.sdk.signer import Signer
from carechain.sdk.tls import no_trust

_TIMEOUT_S: Final = 30.0


class Approval:
    """One party that answers at one FHIR server."""

    def __init__(self, desk: Desk, by: ByAnyone, *, fhir: str | None, tickets: tuple[bytes, ...] = ()) -> None:
        """``fhir`` is the server's address with or without ``/fhir``; ``tickets`` say whose server it is."""
        self._desktop = Desktop(desk, by)
        self._tickets = tickets
        self.actor = self._desktop.anyone()
        self.url = (fhir or fhir_url(desk.home)).rstrip("/").removesuffix("/fhir")
        self._door: AppDoor | None = None

    @contextmanager
    def opened(self, ticket: bytes | None = None) -> Iterator[AppDoor]:
        """The server's door; a clinician's ticket says whose it is. Failures become the command line's."""
        server = self._server(ticket or (self._tickets[0] if self._tickets else None))
        secure = self.url.startswith("https://")
        believed = self._desktop.trust.context(server) if secure else no_trust()
        try:
            with httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, trust_env=False, verify=believed) as http:
                self._door = AppDoor(
                    http,
                    Signer(self.actor.party, self.actor.signing),
                    chain_id=self._desktop.genesis.chain_id,
                    server=server,
                    clock=lambda: int(time.time()),
                    entropy=secrets.token_bytes,
                )
                yield self._door
        except Refused as refused:
            raise Denied(code=refused.code, label=refused.label, reason=refused.reason) from None
        except Unreachable as lost:
            raise CannotRun(f"{self.url}: {lost}") from None

    def scope(self, asked: AppRequest, ceiling: Sensitivity) -> Scope:
        """What to grant, worked out here from the scopes: nobody else's word decides what this party signs."""
        found = smart.grant_scope(smart.of_kind(asked.scopes, "patient", "user"), ceiling=ceiling)
        if found is None or asked.party is None:
            raise Rejected(SmartCode.GRANT_NOT_FITTING)
        return found

    def grant(self, asked: AppRequest, scope: Scope, lasting_s: int, code: str) -> Granted:
        """Put the grant on the ledger and approve; an approval that fails takes the grant back."""
        if asked.party is None or self._door is None:
            raise Rejected(SmartCode.GRANT_NOT_FITTING)
        resources = smart.of_kind(asked.scopes, "patient", "user")
        with self._desktop.seat(self.actor) as seat:
            party = seat.row("membership.party", KnownParty, OfParty(asked.party)).row
            own = party.kind is PartyKind.STAFF and party.organisation == self.actor.organisation
            require(own, SmartCode.GRANT_NOT_FITTING)
            done: Done = seat.submit(
                Grant(
                    pseudonym=self.actor.party,
                    grantees=(asked.party,),
                    parent=None,
                    scope=scope,
                    actions=smart.actions_of(resources),
                    purposes=asked.purposes,
                    expires_s=seat.time_s + lasting_s,
                )
            )
            granted = done.event(Granted)
            try:
                self._door.approve_with_grant(code, granted.grant_id)
            except (Refused, Unreachable):
                seat.submit(Revoke(pseudonym=self.actor.party, grant_id=granted.grant_id))
                raise
        return granted

    def _server(self, ticket: bytes | None) -> bytes:
        """The organisation behind the server: the custodian of a ticket, else where the patient is registered."""
        if ticket is None:
            return self.actor.organisation
        with self._desktop.seat(self.actor) as seat:
            return seat.row("access.ticket", KnownTicket, OfTicket(ticket)).row.custodian
