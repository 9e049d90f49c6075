"""Acting on the ledger: who acts with which keys, and one seat at a node to submit and ask from.

This is the one place of the command line that knows the SDK's client. It loads cryptography and networking, so
commands import it when they run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.questions import OfPseudonym, OfTicket
from carechain.chain.receipts import code_named
from carechain.cli.addresses import nodes_of, own_member, serving_member, split_addresses, trust_of
from carechain.cli.codes import CommandCode
from carechain.cli.keyring import MEMBER_KEY, WALLET, Actor, Keyring
from carechain.cli.network import home_genesis
from carechain.cli.options import ByAnyone, ByOrganisation, ByPatient
from carechain.cli.output import CannotRun, Denied, Desk
from carechain.contracts.access import TicketRow
from carechain.contracts.consent.schema import ConsentCode, RequestRow, RuleRow
from carechain.contracts.governance import ProposalRow
from carechain.contracts.membership import MemberRow
from carechain.core.message import Event, Message
from carechain.core.party import Party
from carechain.core.rejection import Rejected
from carechain.sdk.answers import ROWS, NamedRow
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.client import Node, Refused, Signer, SyncClient, Trust, Unreachable
from carechain.sdk.light.client import TrustFile
from carechain.sdk.proofs import NotProven
from carechain.sdk.verify_log import CompleteLog
from carechain.sdk.wallet import Wallet

LIGHT_FILE: Final = "light.json"
"""The last header that a home believes on the validators' signatures."""

EventT = TypeVar("EventT", bound=Event)
RowT = TypeVar("RowT")


# --- rows of queries whose row has a type of its own ----------------------------------------------------


KnownParty = NamedRow[Party]
KnownMember = NamedRow[MemberRow]
KnownProposal = NamedRow[ProposalRow]
KnownTicket = NamedRow[TicketRow]
Waiting = NamedRow[RequestRow]
KnownRule = NamedRow[RuleRow]


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
        by: ByAnyone | ByOrganisation | ByPatient,
        *,
        wallet_password_file: Path | None = None,
    ) -> None:
        self.desk = desk
        self.keys = Keyring(desk.home)
        self._who = by.who
        self._at = None if isinstance(by, ByOrganisation) else by.at
        self._given = split_addresses(by.node)
        self._ca_file = by.ca
        self._password_file = by.password_file
        self._wallet_password_file = wallet_password_file or by.password_file

    @property
    def password(self) -> str:
        """The password of this home's key files."""
        return self.keys.password(self._password_file)

    @property
    def wallet_password(self) -> str:
        """The password of the patient's wallet."""
        return self.keys.password(self._wallet_password_file)

    # --- who acts -----------------------------------------------------------------------------------------

    def anyone(self, pseudonym: bytes | None = None) -> Actor:
        """The named key: a member, staff, or a wallet, under ``pseudonym`` where that is one of its own.

        Without a name: the member's own key where this is an organisation's home, else the only wallet.
        """
        name = self._who or (MEMBER_KEY if self._is_organisation() else self.keys.only_wallet())
        if self.keys.kind_of(name) == WALLET:
            return self._as_patient(name, pseudonym)
        return Actor.of_identity(self.keys.identity(name, self.password))

    def member(self) -> Actor:
        """The organisation's own key, or the named one of its staff."""
        return Actor.of_identity(self.keys.identity(self._who or MEMBER_KEY, self.password))

    def patient(self) -> tuple[Actor, bytes]:
        """The patient under one pseudonym."""
        actor = self._as_patient(self._who)
        return actor, actor.party

    def patient_or_deputy(self, patient: str | None) -> tuple[Actor, bytes]:
        """The patient, or with ``patient`` somebody else who acts for or about that patient."""
        if patient is None:
            return self.patient()
        pseudonym = self.keys.party(patient, hint="--patient")
        return self.anyone(pseudonym), pseudonym

    def ticket_holder(self, ticket: bytes) -> tuple[Actor, bytes]:
        """Whoever asked for a ticket, and the patient it is about."""
        actor = self.anyone()
        with self.seat(actor) as seat:
            return actor, seat.row("access.ticket", KnownTicket, OfTicket(ticket)).row.pseudonym

    def authority(self) -> CertificateAuthority:
        """The organisation's certificate authority."""
        return self.keys.authority(self.password)

    def wallet_or_new(self, name: str) -> Wallet:
        """A wallet, made now if there is none under this name: its seed is on the disk before anything is bound."""
        if self.keys.path_of(name).exists():
            return self.keys.wallet(name, self.wallet_password)[1]
        return self.keys.add_wallet(
            name,
            chain_id=self.genesis.chain_id,
            password=self.wallet_password,
            suite=self.genesis.suite.signature,
        )

    def _as_patient(self, who: str | None, pseudonym: bytes | None = None) -> Actor:
        _, wallet = self.keys.wallet(who, self.wallet_password)
        for relation in wallet.relations:
            if relation.pseudonym == pseudonym:
                return Actor.of_pseudonym(wallet.keys_of(relation))
        organisation = None if self._at is None else self.keys.party(self._at, hint="--at")
        return Actor.of_pseudonym(wallet.keys_of(self.keys.relation(wallet, organisation)))

    def _is_organisation(self) -> bool:
        return self.keys.path_of(MEMBER_KEY).is_file()

    # --- where --------------------------------------------------------------------------------------------

    @property
    def genesis(self) -> Genesis:
        """The network's genesis: what every proof is checked against."""
        return home_genesis(self.desk.home)

    def gatekeeper_url(self) -> str:
        """This home's own gatekeeper."""
        from carechain.cli.serving import gatekeeper_url  # noqa: PLC0415 - settings take a moment to load

        return gatekeeper_url(self.desk.home)

    def seat(self, actor: Actor, *, light: bool = False) -> "Seat":
        """A seat for one actor, at the nodes that were named or at this home's own.

        In a consortium an organisation takes its own node's word, unless ``light``; everyone else believes only what
        the validators signed.
        """
        keeper = None if light else own_member(self.keys)
        file = TrustFile(self.desk.home / LIGHT_FILE)
        return Seat(self.nodes, actor, self.genesis, self.trust, keeper=keeper, light=file)

    @property
    def nodes(self) -> list[Node]:
        """The nodes that were named, or this home's own."""
        if not self._given:
            from carechain.cli.serving import node_url  # noqa: PLC0415 - settings take a moment to load

            self._given = [node_url(self.desk.home)]
        return nodes_of(self._given, own=serving_member(self.genesis, self.keys), keys=self.keys)

    @property
    def trust(self) -> Trust:
        """Which servers are believed."""
        return trust_of(self.desk.home, self.genesis, ca_file=self._ca_file)


class Seat:
    """One actor at one or several nodes. A context manager; sessions are opened by the first request to each."""

    def __init__(
        self,
        nodes: list[Node],
        actor: Actor,
        genesis: Genesis,
        trust: Trust,
        *,
        keeper: bytes | None,
        light: TrustFile,
    ) -> None:
        """``genesis`` is this home's own copy: nothing a node says about the network is believed without it."""
        self.actor = actor
        self.chain_id = genesis.chain_id
        self.institution = genesis.suite
        self.trust = trust
        self._addresses = ", ".join(one.url for one in nodes)
        self._client = SyncClient(
            nodes, Signer(actor.party, actor.signing), genesis=genesis, trust=trust, keeper=keeper, light=light
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def time_s(self) -> int:
        """The ledger's time."""
        with self._translated():
            return self._client.status().time_s

    def submit(self, *messages: Message) -> Done:
        """Sign and order a transaction; returns when it is durable and did what it asked. Raises :class:`Denied`."""
        with self._translated():
            submitted = self._client.submit(*messages)
        return Done(tx_id=submitted.tx_id, height=submitted.height, events=tuple(submitted.receipt.events))

    def rows(self, name: str, kind: type[RowT], args: Struct, *, prove: bool = False) -> list[RowT]:
        """All rows of a query, page after page. ``kind`` is what its rows are; the client has decoded them as such."""
        if kind != ROWS[name]:
            raise TypeError(f"the rows of {name} are {ROWS[name]}")
        with self._translated():
            return self._client.rows(name, args, prove=prove)

    def row(self, name: str, kind: type[RowT], args: Struct) -> RowT:
        """The one row of a query about one thing, proved."""
        return self.rows(name, kind, args, prove=True)[0]

    def complete_log(self, pseudonym: bytes) -> CompleteLog:
        """A patient's access log, proved complete."""
        with self._translated():
            return self._client.access_log(pseudonym)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The client's ways of failing as the command line's."""
        try:
            yield
        except Refused as refused:
            raise Denied(code=refused.code, label=refused.label, reason=refused.reason) from None
        except Unreachable as lost:
            may_be_there = lost.tx_id if lost.sent else None
            open_end = f"; look up transaction {may_be_there.hex()} before you try again" if may_be_there else ""
            raise CannotRun(f"the node at {self._addresses} cannot be used: {lost}{open_end}") from None
        except NotProven as doubt:
            code = CommandCode.NOT_PROVEN
            raise Denied(code=int(code), label=code.label, reason=f"{code.reason} ({doubt})") from None


def refused_ticket(decision: int, data: Mapping[str, object]) -> Denied:
    """A decision that says no, as a refusal with the check that failed."""
    code = code_named(decision)
    label, reason = (code.label, code.reason) if code is not None else (f"CODE.{decision}", "")
    return Denied(code=decision, label=label, reason=reason, data=data)


def waiting_request(seat: Seat, pseudonym: bytes, request_id: bytes) -> RequestRow:
    """A request in the inbox, by id."""
    for waiting in seat.rows("consent.inbox", Waiting, OfPseudonym(pseudonym)):
        if waiting.id == request_id:
            return waiting.row
    raise Rejected(ConsentCode.REQUEST_NOT_FOUND)
