"""Approvals: a patient's grant on the ledger, or a clinician's tickets, become what an app may do (CON-1, CON-7).

There is no password here and nothing to type in a browser. Whoever approves signs in with its ledger key and shows what
stands on the ledger already; this file believes the ledger and nothing that it is told.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Protocol

from msgspec import Meta, Struct
from msgspec.structs import replace

from carechain.chain.queries import View
from carechain.contracts.consent.schema import GrantRow
from carechain.core.limits import ID_SIZE
from carechain.core.rejection import Rejected, present, require
from carechain.core.vocabulary import PartyKind
from carechain.gatekeeper.ledger import LedgerReader
from carechain.gateway.clients import Approver, Apps, Authorisation, Client, known
from carechain.gateway.codes import SmartCode
from carechain.gateway.sights import TICKETS, Seen, live_party, seen_by
from carechain.gateway.smart import scopes as smart
from carechain.gateway.smart.acting import live_grant
from carechain.gateway.smart.tokens import ACCESS_S, LAUNCH_PREFIX, OFFLINE_S, ONLINE_S, SIZE, new_token
from carechain.gateway.smart.waiting import LAUNCH_S, Asked, Launch, Waiting
from carechain.sdk.apps import AppLaunch, AppRequest

HexId = Annotated[str, Meta(pattern=f"^[0-9a-f]{{{2 * ID_SIZE}}}$")]
_Scope = Annotated[str, Meta(max_length=1024)]


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an approver posts. ``grant`` is a patient's, ``tickets`` are a clinician's; ``scopes`` None: all asked for.

    ``pseudonym`` is for a representative: whose grant it is.
    """

    approve: bool
    grant: HexId | None = None
    tickets: Annotated[tuple[HexId, ...], Meta(max_length=TICKETS)] = ()
    pseudonym: HexId | None = None
    scopes: Annotated[tuple[_Scope, ...], Meta(max_length=smart.SCOPES)] | None = None


class LaunchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A clinician's system starts an app with the clinician's tickets."""

    client_id: Annotated[str, Meta(max_length=64)]
    tickets: Annotated[tuple[HexId, ...], Meta(min_length=1, max_length=TICKETS)]


class Patients(Protocol):
    """What approvals need of the charts."""

    def patient(self, pseudonym: bytes) -> str | None:
        """The local id of the Patient resource of a pseudonym; None where there is none. It blocks."""


class Approvals:
    """Judges what approvers show."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        organisation: bytes,
        apps: Apps,
        waiting: Waiting,
        patients: Patients,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``organisation`` is the custodian here; ``clock()`` Unix seconds, ``entropy(n)`` random bytes."""
        self._ledger = ledger
        self._organisation = organisation
        self._apps = apps
        self._waiting = waiting
        self._patients = patients
        self._clock = clock
        self._entropy = entropy

    # --- at the door --------------------------------------------------------------------------------------

    def shown(self, code: str) -> AppRequest:
        """What waits under a code; raises ``Rejected``."""
        asked = self._waiting.asked(code, self._clock())
        client = known(self._apps, asked.client_id)
        resources = smart.of_kind(asked.scopes, "patient", "user")
        return AppRequest(
            app=client.name,
            client_id=client.client_id,
            sends_to=asked.redirect,
            scopes=asked.scopes,
            wishes=tuple(smart.in_words(asked.scopes)),
            party=client.party,
            scope=smart.grant_scope(resources),
            actions=smart.actions_of(resources),
            purposes=1 << client.purpose,
            until_s=asked.until_s,
        )

    async def answer(self, party: bytes, code: str, answer: Answer) -> None:
        """Approve or deny what waits under a code, as the party of a session; raises ``Rejected``."""
        asked = self._waiting.asked(code, self._clock())
        if not answer.approve:
            self._waiting.answer(code, None, self._clock())
            return
        client = known(self._apps, asked.client_id)
        scopes = _left(asked.scopes, answer.scopes)
        if answer.grant is not None:
            authorisation = await self._of_patient(client, party, answer, scopes)
        else:
            tickets = tuple(bytes.fromhex(one) for one in answer.tickets)
            authorisation = await self._of_staff(client, party, tickets, scopes)
        self._waiting.answer(code, authorisation, self._clock())

    async def launch(self, party: bytes, wanted: LaunchRequest) -> AppLaunch:
        """Start an app with a clinician's tickets; raises ``Rejected``."""
        client = known(self._apps, wanted.client_id)
        tickets = tuple(bytes.fromhex(one) for one in wanted.tickets)
        await self._of_staff(client, party, tickets, client.scopes)
        now_s = self._clock()
        launch = new_token(LAUNCH_PREFIX, self._entropy)
        what = Launch(client_id=client.client_id, party=party, tickets=tickets, until_s=now_s + LAUNCH_S)
        self._waiting.add_launch(launch, what, now_s)
        return AppLaunch(launch=launch, expires_s=what.until_s, launch_url=client.launch_url)

    async def of_launch(self, client: Client, asked: Asked, launch: Launch) -> Authorisation:
        """The authorisation of a started app, by the tickets as they are now; raises ``Rejected``."""
        return await self._of_staff(client, launch.party, launch.tickets, asked.scopes)

    def still_stands(self, authorisation: Authorisation) -> bool:
        """Whether what was approved still lets the app read: asked before anything is given anew."""
        view = self._ledger.view()
        if authorisation.by is Approver.PATIENT:
            return live_grant(view, authorisation) is not None
        try:
            self._seen(view, authorisation.party, authorisation.tickets)
        except Rejected as refused:
            if refused.code is SmartCode.LEDGER_STALE:
                raise
            return False
        return True

    def party_of_system(self, client: Client) -> bytes:
        """Who a system acts as: the organisation for its own, else the party it is registered with."""
        return self._organisation if client.system else present(client.party, SmartCode.CLIENT_UNUSABLE)

    # --- what is shown ------------------------------------------------------------------------------------

    async def _of_patient(self, client: Client, party: bytes, answer: Answer, scopes: tuple[str, ...]) -> Authorisation:
        """By a grant: the approver's own as patient, or one of the patient whom it represents."""
        view, now_s = self._ledger.view(), self._clock()
        pseudonym = party if answer.pseudonym is None else bytes.fromhex(answer.pseudonym)
        self._require_patient_side(view, party, pseudonym)
        acting = present(client.party, SmartCode.CLIENT_UNUSABLE)
        authorisation = Authorisation(
            id=self._entropy(SIZE),
            client_id=client.client_id,
            by=Approver.PATIENT,
            party=acting,
            scopes=scopes,
            purpose=client.purpose,
            pseudonym=pseudonym,
            patient=await self._patient(pseudonym),
            grant=bytes.fromhex(answer.grant or ""),
            user=party,
            started_s=now_s,
            until_s=now_s + _lasting(scopes),
        )
        grant = self._fitting(view, authorisation)
        return replace(authorisation, scope=grant.scope, until_s=min(authorisation.until_s, grant.expires_s))

    def _fitting(self, view: View, authorisation: Authorisation) -> GrantRow:
        """The grant, if it is the patient's own or made for the patient, to the app's party, for its purpose."""
        grant = present(live_grant(view, authorisation), SmartCode.GRANT_NOT_FITTING)
        require(grant.parent is None, SmartCode.GRANT_NOT_FITTING)
        return grant

    def _require_patient_side(self, view: View, party: bytes, pseudonym: bytes) -> None:
        row = present(view.contracts.membership.party(pseudonym), SmartCode.APPROVAL_NOT_YOURS)
        here = row.kind is PartyKind.PSEUDONYM and row.organisation == self._organisation
        own = party == pseudonym or view.contracts.consent.represents(pseudonym, party, view.time_s)
        require(here and own, SmartCode.APPROVAL_NOT_YOURS)
        live_party(view, party)

    async def _of_staff(
        self, client: Client, party: bytes, tickets: tuple[bytes, ...], scopes: tuple[str, ...]
    ) -> Authorisation:
        """By tickets: they are the clinician's, and the app acts as nobody else."""
        view, now_s = self._ledger.view(), self._clock()
        row = live_party(view, party)
        require(row.kind is PartyKind.STAFF and tickets, SmartCode.APPROVAL_NOT_YOURS)
        seen = self._seen(view, party, tickets)
        about = {one.pseudonym for one in seen.rows}
        patient_bound = bool(smart.of_kind(scopes, "patient")) or smart.LAUNCH_PATIENT in scopes
        require(len(about) == 1 or not patient_bound, SmartCode.APPROVAL_NOT_YOURS)
        (pseudonym,) = about if len(about) == 1 else (None,)
        return Authorisation(
            id=self._entropy(SIZE),
            client_id=client.client_id,
            by=Approver.STAFF,
            party=party,
            scopes=scopes,
            purpose=seen.purpose,
            pseudonym=pseudonym,
            patient="" if pseudonym is None else await self._patient(pseudonym),
            tickets=tickets,
            user=party,
            started_s=now_s,
            until_s=min(now_s + _lasting(scopes), *(one.expires_s for one in seen.rows)),
        )

    def _seen(self, view: View, party: bytes, tickets: tuple[bytes, ...]) -> Seen:
        return seen_by(view, tickets=tickets, requester=party, custodian=self._organisation, wall_s=self._clock())

    async def _patient(self, pseudonym: bytes) -> str:
        return present(await asyncio.to_thread(self._patients.patient, pseudonym), SmartCode.PATIENT_UNKNOWN)


def _left(asked: tuple[str, ...], chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """What the approver leaves of what was asked for; raises ``Rejected`` for anything more."""
    if chosen is None:
        return asked
    require(set(chosen) <= set(asked) and smart.of_kind(chosen, "patient", "user"), SmartCode.SCOPE_NOT_ASKED)
    return tuple(one for one in asked if one in chosen)


def _lasting(scopes: tuple[str, ...]) -> int:
    """How many seconds an approval lasts at most."""
    if "offline_access" in scopes:
        return OFFLINE_S
    return ONLINE_S if "online_access" in scopes else ACCESS_S
