"""What the story's steps share: who is in it, what is known from step to step, and the errands they run."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import httpx

from carechain.chain.questions import AnchorLine, OfTicket, TimelinePage
from carechain.charts.record import IngestResult, StoredRecord
from carechain.contracts.access import Decided, RequestAccess
from carechain.contracts.consent.schema import Grant, Granted
from carechain.contracts.records import RecordsCode
from carechain.contracts.relationships import Bind
from carechain.core.rejection import Rejected, RejectionCode, present
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Category, Purpose, Sensitivity, mask
from carechain.demo.doors import KEYHOLDERS, Doors
from carechain.demo.network import HARBOUR, RIVERTOWN, Done, Network, Signer, wall_s
from carechain.demo.organisation import Organisation, Person
from carechain.demo.patients import ID_SYSTEM, Bundle, Intake, Patient
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.gatekeeper.audit import Numbered
from carechain.gatekeeper.fetch import GatekeeperClient, Reader, newest_of
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.opening import AnchoredRecord, OpenedRecord
from carechain.sdk.sealed import SealedReader
from carechain.sdk.wallet import Pseudonym, binding_proof

if TYPE_CHECKING:
    from carechain.demo.laboratory import Finding

YEAR_S: Final = 365 * DAY_S
HTTP_TIMEOUT_S: Final = 30.0
PAGE_RECORDS: Final = 50
"""Records per answer: bounds the memory of the one process that is hospital, gatekeeper and reader at once."""
OPEN_CATEGORIES: Final = mask(
    Category.DEMOGRAPHICS,
    Category.ENCOUNTER,
    Category.RESULT,
    Category.DIAGNOSIS,
    Category.PRESCRIPTION,
    Category.DOCUMENT,
)
SHARED: Final = Scope(categories=OPEN_CATEGORIES, ceiling=Sensitivity.N)
"""What the patient shares with the doctor at the other hospital: care, no bills, nothing above normal."""
CARE: Final = mask(Purpose.TREAT, Purpose.HOPERAT, Purpose.HPAYMT)


class Story:
    """The demonstration under way."""

    def __init__(self, *, network: Network, intake: Intake, advance: Callable[[str], None]) -> None:
        """``advance`` is told of every bit of progress."""
        self.network = network
        self.intake = intake
        self.advance = advance
        self.resources = 0
        self.shared_root: bytes = b""
        """The grant from the patient to the first doctor of the other hospital."""
        self.findings: tuple[Finding, ...] = ()
        """What the laboratory found; nobody has it but the story, until it is opened."""
        self.sealed: dict[str, bytes] = {}
        """The sealed records that the story talks about: name → record id."""
        self.ticket: bytes = b""
        """The doctor's running ticket for them."""
        self.doors = Doors(network)
        self._http: httpx.AsyncClient | None = None
        self._clients: dict[bytes, GatekeeperClient] = {}
        self.names: dict[bytes, str] = {
            person.id: person.name
            for member in network.members.values()
            for person in (member.member, *member.staff.values())
        }

    # --- who is in it ---------------------------------------------------------------------------------------

    @property
    def a(self) -> Organisation:
        """The hospital that writes."""
        return self.network[HARBOUR]

    @property
    def b(self) -> Organisation:
        """The hospital that reads."""
        return self.network[RIVERTOWN]

    @property
    def first(self) -> Person:
        """The doctor at hospital B whom the patient trusts."""
        return self.b.staff["first"]

    @property
    def second(self) -> Person:
        """The colleague at hospital B to whom the first passes the case on."""
        return self.b.staff["second"]

    @property
    def hero(self) -> Patient:
        """The patient whom the story follows: the first whose chart has something to keep back."""
        for patient in self.intake.patients:
            if patient.above(SHARED.ceiling) and any(not_above(one) for one in patient.records):
                return patient
        return self.intake.patients[0]

    # --- errands --------------------------------------------------------------------------------------------

    async def bind(self, patient: Patient, at: Organisation, *, since_day: int) -> Pseudonym:
        """Make the patient's pseudonym at an organisation in the wallet, and have its front desk bind it."""
        patient.wallet, relation = patient.wallet.with_relation(at.id, label=at.plan.name, since_day=since_day)
        pseudonym = patient.wallet.keys_of(relation)
        await self.network.send(at.staff["desk"], bind_message(self.network.chain_id, pseudonym, at, patient))
        return pseudonym

    async def grant(self, who: Signer, message: Grant) -> tuple[bytes, int]:
        """A grant's id and the height it stands at."""
        outcome = await self.network.send(who, message)
        return next(one.grant_id for one in outcome.events if isinstance(one, Granted)), outcome.height

    async def request(
        self, who: Signer, patient: Pseudonym, scope: Scope = SHARED, purpose: Purpose = Purpose.TREAT
    ) -> Decided:
        """Ask the ledger for access: the decision, allowed or refused."""
        message = RequestAccess(pseudonym=patient.id, scope=scope, purpose=purpose)
        outcome = await self.network.send(who, message)
        return next(one for one in outcome.events if isinstance(one, Decided))

    def expected(self, who: Person, patient: Pseudonym, ticket: bytes) -> tuple[AnchoredRecord, ...]:
        """What the ledger shows the holder of a ticket, all pages of it."""
        scope = self.network.ask(who, "access.ticket", OfTicket(ticket)).rows[0].row.scope
        return newest_of(self.lines(who, patient, ticket), scope)

    def lines(self, who: Signer, patient: Pseudonym, ticket: bytes) -> list[AnchorLine]:
        """The anchors that the ledger shows through a ticket, all pages of them."""
        page = TimelinePage(patient.id, ticket)
        lines: list[AnchorLine] = []
        while True:
            answer = self.network.ask(who, "records.timeline", page)
            lines.extend(answer.rows)
            if answer.after is None:
                return lines
            page = TimelinePage(patient.id, ticket, (answer.after[0], answer.after[1]))

    async def read(
        self, who: Person, ticket: bytes, expected: Sequence[AnchoredRecord], *, everything: bool = True
    ) -> tuple[OpenedRecord, ...]:
        """Fetch from hospital A's gatekeeper over its socket, open with the reader's key, verify against the ledger."""
        listener = self.a.listener
        if listener is None:
            raise RuntimeError("the gatekeeper is not listening")
        if self._http is None:
            self._http = httpx.AsyncClient(base_url=listener.url, timeout=HTTP_TIMEOUT_S, trust_env=False)
        client = self._clients.get(who.id)
        if client is None:
            client = self._clients[who.id] = GatekeeperClient(
                self._http,
                chain_id=self.network.chain_id,
                custodian=self.a.id,
                reader=Reader(party=who.id, signing=who.signing, hpke=who.hpke),
                clock=wall_s,
                entropy=self.b.entropy,
            )
        if everything:
            return await client.read_all(ticket, expected, page=PAGE_RECORDS)
        return await client.read(ticket, expected)

    def line(self, record: bytes) -> AnchorLine:
        """A record's newest anchor as the ledger has it, whoever may see it."""
        version, row = present(
            self.network.view().contracts.records.latest(self.hero.pseudonym.id, record), RecordsCode.RECORD_UNKNOWN
        )
        return AnchorLine(record, version, row)

    async def turned_down(self, reader: SealedReader, ticket: bytes, *records: bytes) -> dict[bytes, str] | None:
        """Try to open sealed records: keyholder → why it gave no share, where not one did. None: somebody gave one."""
        try:
            await reader.read(ticket, self.hero.pseudonym.id, [self.line(one) for one in records])
        except NotEnoughShares as nothing:
            return None if nothing.got else {one.holder: one.why for one in nothing.failed}
        return None

    def every_keyholder(self, code: RejectionCode) -> dict[bytes, str]:
        """What :meth:`turned_down` gives where all keyholders refuse for one reason."""
        return {self.network[one].id: code.label for one in KEYHOLDERS}

    async def close(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            await self._http.aclose()
        await self.doors.close()

    def ingest(self, patient: Pseudonym, bundle: Bundle) -> IngestResult:
        """Take a bundle into hospital A's charts."""
        return self.a.charts.ingest(pseudonym=patient.id, bundle=bundle(), received_s=wall_s(), rng=self.a.entropy)

    async def anchor(self, who: Signer, records: Sequence[StoredRecord]) -> list[Done]:
        """Commit to records on the ledger, many in one transaction."""
        messages = (anchor_of(one, entropy=self.a.entropy) for one in records)
        return await self.network.send_all([self.network.sign(who, *part) for part in in_transactions(messages)])

    def audited(self) -> list[Numbered]:
        """Every entry of hospital A's audit so far."""
        found: list[Numbered] = []
        while page := self.a.audit.entries(after=len(found)):
            found.extend(page)
        return found

    def name_of(self, party: bytes) -> str:
        """What people call a party in this story; the ledger knows no names."""
        return self.names.get(party, party.hex()[:12])


async def refusal_of(attempt: Awaitable[object]) -> RejectionCode | None:
    """The code with which an attempt is refused, or None when it succeeds. Anything but a refusal is let through."""
    try:
        await attempt
    except Rejected as refused:
        return refused.code
    return None


def grant_from(
    patient: Pseudonym,
    *grantees: bytes,
    actions: Action,
    expires_s: int,
    scope: Scope = EVERYTHING,
    purposes: int = CARE,
    parent: bytes | None = None,
) -> Grant:
    """A grant on the patient's record, grantees in the order the ledger wants."""
    return Grant(
        pseudonym=patient.id,
        grantees=tuple(sorted(grantees)),
        parent=parent,
        scope=scope,
        actions=int(actions),
        purposes=purposes,
        expires_s=expires_s,
    )


def bind_message(chain_id: str, pseudonym: Pseudonym, at: Organisation, patient: Patient) -> Bind:
    """What the front desk sends: the keyed hash of the existing id, and the wallet's own proof."""
    id_hash = id_hash_at(at, patient)
    key = pseudonym.signing
    return Bind(
        id_hash=id_hash,
        suite=key.suite,
        public_key=key.public_key,
        hpke_key=pseudonym.hpke.public_key,
        proof=binding_proof(pseudonym, chain_id=chain_id, id_hash=id_hash),
    )


def id_hash_at(at: Organisation, patient: Patient) -> bytes:
    """The keyed hash of the patient's existing id under this registrar's secret (ID-3)."""
    if at.secret is None:
        raise LookupError("this organisation is no registrar")
    return at.secret.id_hash(ID_SYSTEM, patient.existing_id)


def not_above(record: StoredRecord) -> bool:
    """Whether a record lies inside what the patient shares."""
    return SHARED.covers(
        category=record.category,
        sensitivity=record.sensitivity,
        day=record.effective_day,
        record=record.record_id,
    )
