"""Acting on the ledger: who acts with which keys, and one seat at a node to submit and ask from.

This is the one place of the command line that knows the SDK's client. It loads cryptography and networking, so
commands import it when they run.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec
import typer
from msgspec import Struct

from carechain.chain.receipts import OK, code_named
from carechain.cli.keyring import MEMBER_KEY, Actor, Keyring
from carechain.cli.output import CannotRun, Denied, Desk
from carechain.contracts.access import TicketRow
from carechain.contracts.consent.schema import RequestRow
from carechain.contracts.governance import ProposalRow
from carechain.contracts.membership import MemberRow
from carechain.core.message import Event, Message
from carechain.core.party import Party
from carechain.core.rejection import RejectionCode
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.wallet import Wallet

EventT = TypeVar("EventT", bound=Event)
RowT = TypeVar("RowT")

_WALLET: Final = "wallet"


# --- rows of queries whose row has a type of its own ----------------------------------------------------


class KnownParty(Struct, frozen=True):
    """A party as the ledger knows it."""

    id: bytes
    row: Party


class KnownMember(Struct, frozen=True):
    """An organisation as the ledger knows it."""

    id: bytes
    row: MemberRow


class KnownProposal(Struct, frozen=True):
    """A proposal and its votes."""

    id: bytes
    row: ProposalRow


class KnownTicket(Struct, frozen=True):
    """The ledger's decision on one request."""

    id: bytes
    row: TicketRow


class Waiting(Struct, frozen=True):
    """A request in a patient's inbox."""

    id: bytes
    row: RequestRow


class Done(Struct, frozen=True, kw_only=True):
    """A transaction that did what it asked for."""

    tx_id: bytes
    height: int
    events: tuple[Event, ...]

    def event(self, kind: type[EventT]) -> EventT:
        """The event of this kind; a receipt without it would be a bug of the ledger."""
        found = self.maybe(kind)
        if found is None:
            raise TypeError(f"no {kind.__name__} in the receipt")
        return found

    def maybe(self, kind: type[EventT]) -> EventT | None:
        """The first event of this kind, if there is one."""
        return next((one for one in self.events if isinstance(one, kind)), None)

    def data(self) -> dict[str, object]:
        """Where it stands, as JSON."""
        return {"tx": self.tx_id.hex(), "height": self.height}

    def text(self) -> str:
        """Where it stands, in words."""
        return f"on the ledger at height {self.height}, transaction {self.tx_id.hex()}"


class Desktop:
    """A command's keys and addresses. Nothing is opened or asked for before it is needed."""

    def __init__(
        self,
        desk: Desk,
        *,
        node: str | None,
        password_file: Path | None,
        wallet_password_file: Path | None = None,
    ) -> None:
        self.desk = desk
        self.keys = Keyring(desk.home)
        self._node = node
        self._password_file = password_file
        self._wallet_password_file = wallet_password_file or password_file

    @property
    def password(self) -> str:
        """The password of this home's key files."""
        return self.keys.password(self._password_file)

    @property
    def wallet_password(self) -> str:
        """The password of the patient's wallet."""
        return self.keys.password(self._wallet_password_file)

    # --- who acts -----------------------------------------------------------------------------------------

    def anyone(self, who: str | None, *, pseudonym: bytes | None = None, at: str | None = None) -> Actor:
        """A key by name or path: a member, staff, or a wallet under one of its pseudonyms.

        Without a name: the member's own key where this is an organisation's home, else the only wallet.
        """
        name = who or (MEMBER_KEY if self._is_organisation() else self.keys.only_wallet())
        if self.keys.kind_of(name) == _WALLET:
            return self._as_patient(name, at=at, pseudonym=pseudonym)
        return Actor.of_identity(self.keys.identity(name, self.password))

    def member(self, who: str | None) -> Actor:
        """The organisation's own key, or one of its staff by name."""
        return Actor.of_identity(self.keys.identity(who or MEMBER_KEY, self.password))

    administrator = member
    registrar = member

    def patient(self, who: str | None, *, at: str | None) -> tuple[Actor, bytes]:
        """The patient under one pseudonym."""
        actor = self._as_patient(who, at=at)
        return actor, actor.party

    def patient_or_deputy(self, who: str | None, *, at: str | None, patient: str | None) -> tuple[Actor, bytes]:
        """The patient, or with ``patient`` somebody else who acts for or about that patient."""
        if patient is None:
            return self.patient(who, at=at)
        pseudonym = self.keys.party(patient, hint="--patient")
        return self.anyone(who, pseudonym=pseudonym, at=at), pseudonym

    about_patient = patient_or_deputy

    def authority(self) -> CertificateAuthority:
        """The organisation's certificate authority."""
        return self.keys.authority(self.password)

    def wallet_or_new(self, name: str) -> Wallet:
        """A wallet, made now if there is none under this name: its seed is on the disk before anything is bound."""
        from carechain.cli.network import home_chain_id  # noqa: PLC0415 - only a new wallet needs the genesis

        if self.keys.path_of(name).exists():
            return self.keys.wallet(name, self.wallet_password)[1]
        return self.keys.add_wallet(name, chain_id=home_chain_id(self.desk.home), password=self.wallet_password)

    def _as_patient(self, who: str | None, *, at: str | None, pseudonym: bytes | None = None) -> Actor:
        _, wallet = self.keys.wallet(who, self.wallet_password)
        for relation in wallet.relations:
            if relation.pseudonym == pseudonym:
                return Actor.of_pseudonym(wallet.keys_of(relation))
        organisation = None if at is None else self.keys.party(at, hint="--at")
        return Actor.of_pseudonym(wallet.keys_of(self.keys.relation(wallet, organisation)))

    def _is_organisation(self) -> bool:
        return self.keys.path_of(MEMBER_KEY).is_file()
