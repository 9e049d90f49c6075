"""A small consortium for tests: six organisations, staff of every role, patients with wallets, no clock and no disk.

Goal: let a test say who sends what and look at the receipt. Method: real keys, certificates and signatures made from
fixed seeds; every transaction is encoded, signed and applied by ``apply_block`` on the state trie held in memory. A
world is cheap to fork, because its state is an immutable snapshot: start from :func:`fresh` in every test.
"""

import hashlib
from collections.abc import Callable
from copy import copy, deepcopy
from datetime import UTC, datetime
from functools import cache

from carechain.chain.genesis import Genesis, apply_genesis
from carechain.chain.receipts import OK, Receipt, code_named
from carechain.chain.replay import REPLAY, ReplayWindow
from carechain.chain.routing import Contracts
from carechain.chain.signatures import SignatureCache
from carechain.chain.transition import Block, Ledger, apply_block
from carechain.chain.tx import build
from carechain.contracts.access import Decided, RequestAccess, TicketRow
from carechain.contracts.consent.schema import Appoint, Granted, TreatmentPolicy
from carechain.contracts.consent.schema import Grant as GrantMessage
from carechain.contracts.governance import AdmitMember, Propose, Proposed, Quorum, Vote
from carechain.contracts.membership import EnrolStaff
from carechain.contracts.records import Anchor
from carechain.contracts.recovery import RecoveryRules
from carechain.contracts.relationships import Bind
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import (
    AnnounceKey,
    FounderNode,
    FounderSeat,
    RegisterNode,
    Rotation,
    address_of,
    key_message,
    node_message,
)
from carechain.core.binding import appointment_message
from carechain.core.crypto import SigningKey, Suite
from carechain.core.evidence import Evidence
from carechain.core.hashing import digest
from carechain.core.ids import party_id
from carechain.core.message import Event, Message
from carechain.core.organisation import NewMember
from carechain.core.rejection import RejectionCode
from carechain.core.scope import EVERYTHING, LAST_DAY, Scope
from carechain.core.suite import Institution
from carechain.core.vocabulary import (
    ALL_POWERS,
    ALL_PURPOSES,
    Action,
    Category,
    OrganisationKind,
    Purpose,
    Role,
    Sensitivity,
    mask,
)
from carechain.sdk import identity
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.registrar import RegistrarSecret
from carechain.sdk.wallet import Pseudonym, Wallet, binding_proof
from carechain.sealing.hpke import HpkePrivateKey
from carechain.state.node import EMPTY
from carechain.state.overlay import Overlay
from carechain.state.snapshot import Snapshot

CHAIN_ID = "world-1"
START_S = 1_800_000_000
DAY_S = 86_400
YEAR_S = 365 * DAY_S
LATER_S = START_S + YEAR_S
"""An expiry for tests in which expiry does not matter."""
LAPSE_DAYS = 90
NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2046, 1, 1, tzinfo=UTC)
RESULTS = Scope(categories=mask(Category.RESULT), ceiling=Sensitivity.N)
TREAT = mask(Purpose.TREAT)
READ_WRITE_PASS_ON = int(Action.READ | Action.WRITE | Action.DELEGATE)

_LAYOUT: tuple[tuple[str, OrganisationKind, bool], ...] = (
    ("a", OrganisationKind.HOSPITAL, True),
    ("b", OrganisationKind.HOSPITAL, True),
    ("c", OrganisationKind.INSURER, True),
    ("d", OrganisationKind.INSURER, False),
    ("e", OrganisationKind.GOVERNMENT, False),
    ("f", OrganisationKind.GOVERNMENT, False),
)
_STAFF: tuple[tuple[str, str, Role], ...] = (
    ("carl", "a", Role.DOCTOR),
    ("dana", "a", Role.DOCTOR),
    ("nora", "a", Role.NURSE),
    ("john", "a", Role.LAB_TECHNICIAN),
    ("anna", "a", Role.ORGANISATION_ADMIN),
    ("vera", "a", Role.CONSORTIUM_ADMIN),
    ("rosa", "a", Role.REGISTRAR),
    ("ella", "a", Role.EMERGENCY_RESPONDER),
    ("bert", "b", Role.DOCTOR),
    ("bina", "b", Role.DOCTOR),
    ("ivan", "c", Role.INSURANCE_AUDITOR),
    ("gita", "e", Role.REGULATOR),
    ("rita", "f", Role.RESEARCHER),
)


def seeded(*parts: object, size: int = 32) -> bytes:
    """Bytes that follow from ``parts`` alone."""
    return hashlib.shake_256("/".join(map(str, parts)).encode()).digest(size)


def entropy_of(*parts: object) -> Callable[[int], bytes]:
    """A repeatable stand-in for the machine's randomness."""
    calls = iter(range(1 << 30))
    return lambda size: seeded(*parts, next(calls), size=size)


class Actor:
    """Anyone with a key: id, signing key, HPKE key, organisation. Wallet pseudonyms have the same attributes."""

    def __init__(self, label: str, *, organisation: bytes | None = None, suite: Suite = Suite.ED25519) -> None:
        self.label = label
        self.signing = SigningKey(suite=suite, seed=seeded(label, "signing"))
        self.hpke = HpkePrivateKey(seeded(label, "hpke"))
        self.id = party_id(suite, self.signing.public_key)
        self.organisation = self.id if organisation is None else organisation

    def __repr__(self) -> str:
        return f"Actor({self.label})"


class Organisation(Actor):
    """A member: its own key, its certificate authority and its registrar's secret."""

    def __init__(
        self, label: str, *, kind: OrganisationKind, registrar: bool = False, suite: Suite = Suite.ED25519
    ) -> None:
        super().__init__(label, suite=suite)
        self.kind = kind
        self.registrar = registrar
        self.secret = RegistrarSecret(seeded(label, "registrar"))
        self.authority = self._authority("authority")

    def _authority(
        self, name: str, *, not_before: datetime = NOT_BEFORE, not_after: datetime = NOT_AFTER
    ) -> CertificateAuthority:
        return CertificateAuthority.create(
            self.id,
            not_before=not_before,
            not_after=not_after,
            entropy=entropy_of(self.label, name),
            suite=self.signing.suite,
        )

    def another_authority(self, **dates: datetime) -> CertificateAuthority:
        """A second authority of the same organisation, with another key; ``not_before`` and ``not_after`` as given."""
        return self._authority("another authority", **dates)

    def with_authority(self, authority: CertificateAuthority) -> "Organisation":
        """The same organisation, certifying with this authority."""
        other = copy(self)
        other.authority = authority
        return other

    def consensus_key(self, number: int = 0) -> SigningKey:
        """The key its validator votes with; another for every ``number``."""
        return SigningKey(suite=Suite.ED25519, seed=seeded(self.label, "consensus", number))

    def node_key(self, number: int = 0) -> SigningKey:
        """The key its node is known by."""
        return SigningKey(suite=Suite.ED25519, seed=seeded(self.label, "node", number))

    @property
    def node_id(self) -> bytes:
        """What its first node is called."""
        return address_of(self.node_key().public_key)

    def seat(self) -> FounderSeat:
        """Its seat in a genesis."""
        return FounderSeat(member=self.id, consensus_key=self.consensus_key().public_key)

    def announcement(self, number: int = 0, *, key: SigningKey | None = None) -> AnnounceKey:
        """It names a consensus key."""
        used = key or self.consensus_key(number)
        wanted = key_message(chain_id=CHAIN_ID, organisation=self.id, consensus_key=used.public_key)
        return AnnounceKey(consensus_key=used.public_key, proof=used.sign(wanted))

    def registration(self, number: int, *, key: SigningKey | None = None) -> RegisterNode:
        """It registers a node."""
        used = key or self.node_key(number)
        wanted = node_message(chain_id=CHAIN_ID, organisation=self.id, node_key=used.public_key)
        return RegisterNode(node_key=used.public_key, proof=used.sign(wanted))

    def as_new(self) -> NewMember:
        """What the consortium is told of it."""
        return NewMember(
            kind=self.kind,
            name=f"Organisation {self.label}",
            suite=self.signing.suite,
            public_key=self.signing.public_key,
            hpke_key=self.hpke.public_key,
            authority=self.authority.certificate,
            registrar=self.registrar,
            lapse_days=LAPSE_DAYS,
        )

    def certify(
        self,
        actor: Actor,
        *roles: Role,
        not_before: datetime = NOT_BEFORE,
        not_after: datetime = NOT_AFTER,
        party: bytes | None = None,
    ) -> bytes:
        """A staff certificate (DER) for the actor's key."""
        return self.authority.issue(
            actor.id if party is None else party,
            suite=actor.signing.suite,
            public_key=actor.signing.public_key,
            roles=mask(*roles),
            not_before=not_before,
            not_after=not_after,
            entropy=entropy_of(self.label, actor.label, "certificate"),
        )


Signer = Actor | Pseudonym


class _InMemory:
    """The node source of a tree that was never stored: it is never asked."""

    epoch = 0

    def load(self, reference: int) -> bytes:
        raise KeyError(reference)

    load_recent = load


class World:
    """A consortium, its state, and a clock that the test moves. Members ``a`` … ``f``, staff by first name."""

    a: Organisation
    b: Organisation
    c: Organisation
    d: Organisation
    e: Organisation
    f: Organisation
    carl: Actor
    dana: Actor
    nora: Actor
    john: Actor
    anna: Actor
    vera: Actor
    rosa: Actor
    ella: Actor
    bert: Actor
    bina: Actor
    ivan: Actor
    gita: Actor
    rita: Actor
    steve: Pseudonym
    """Steve's pseudonym at hospital a."""
    steve_at_b: Pseudonym
    mary: Pseudonym
    """Another patient of hospital a."""

    def __init__(
        self,
        *,
        policy: TreatmentPolicy | None = None,
        quorum: Quorum | None = None,
        validators: str = "",
        rotation: Rotation | None = None,
        versions: tuple[ContractVersion, ...] = (),
        institution: Institution = Institution.INTERNATIONAL,
        recovery: RecoveryRules | None = None,
    ) -> None:
        """Found the consortium; prefer :func:`fresh`, which does it once.

        ``validators`` names the members with a seat (``"abcd"``); without any, hospital a produces the blocks.
        """
        self.institution = institution
        self.members = [self.organisation(label, kind=kind, registrar=registrar) for label, kind, registrar in _LAYOUT]
        for member in self.members:
            setattr(self, member.label, member)
        self.genesis = Genesis(
            chain_id=CHAIN_ID,
            time_s=START_S,
            members=tuple(member.as_new() for member in self.members),
            producers=() if validators else (self.a.id,),
            policy=policy or TreatmentPolicy(),
            quorum=quorum or Quorum(),
            validators=tuple(one.seat() for one in self.members if one.label in validators),
            nodes=tuple(FounderNode(member=one.id, node_id=one.node_id) for one in self.members if validators),
            rotation=rotation or Rotation(),
            versions=versions,
            suite=institution,
            recovery=recovery or RecoveryRules(),
        )
        self.replay = ReplayWindow()
        self.signatures = SignatureCache()
        self.height = 0
        self.time_s = START_S
        self.nonces = 0
        self.changes: list[tuple[bytes, bytes | None]] = []
        founding = empty_state()
        apply_genesis(founding, self.genesis)
        self.snapshot = Snapshot(_InMemory(), EMPTY).apply(founding.changes())
        for label, organisation, role in _STAFF:
            setattr(self, label, self.enrol(getattr(self, organisation), label, role))
        self.steve = self.bind(self.wallet("steve"), self.a, "MRN-1")
        self.steve_at_b = self.bind(self.wallet("steve"), self.b, "MRN-1")
        self.mary = self.bind(self.wallet("mary"), self.a, "MRN-2")

    def fork(self) -> "World":
        """A world that starts where this one stands and goes its own way."""
        other = copy(self)
        other.replay = deepcopy(self.replay)
        # Applying a snapshot hands its memory of recent reads on, so each fork gets a view of its own.
        other.snapshot = Snapshot(_InMemory(), self.snapshot.root)
        return other

    # --- sending --------------------------------------------------------------------------------------------

    def sign(
        self,
        *messages: Message,
        by: Signer,
        valid_until_s: int | None = None,
        chain_id: str = CHAIN_ID,
        nonce: bytes | None = None,
    ) -> bytes:
        """A signed transaction with a nonce of its own, valid for five minutes from the next block."""
        self.nonces += 1
        return build(
            key=by.signing,
            sender=by.id,
            chain_id=chain_id,
            nonce=self.nonces.to_bytes(16, "big") if nonce is None else nonce,
            valid_until_s=self.time_s + 301 if valid_until_s is None else valid_until_s,
            messages=messages,
        )

    def block(self, *txs: bytes, at: int | None = None, evidence: tuple[Evidence, ...] = ()) -> list[Receipt]:
        """Apply one block, one second after the last unless ``at`` says when; ``changes`` keeps what it changed."""
        self.height += 1
        self.time_s = self.time_s + 1 if at is None else at
        overlay = Overlay(self.snapshot)
        ledger = Ledger(chain_id=CHAIN_ID, state=overlay, replay=self.replay, signatures=self.signatures)
        receipts = apply_block(ledger, Block(height=self.height, time_s=self.time_s, txs=txs, evidence=evidence))
        self.changes = overlay.changes()
        self.snapshot = self.snapshot.apply(self.changes)
        self.replay.commit(self.time_s)
        return receipts

    def run(self, *messages: Message, by: Signer, at: int | None = None) -> Receipt:
        """Send one transaction in a block of its own."""
        when = self.time_s + 1 if at is None else at
        (receipt,) = self.block(self.sign(*messages, by=by, valid_until_s=when + 300), at=when)
        return receipt

    def done(self, *messages: Message, by: Signer, at: int | None = None) -> tuple[Event, ...]:
        """As :meth:`run`, for a transaction that must succeed; returns its events."""
        receipt = self.run(*messages, by=by, at=at)
        assert receipt.code == OK, code_named(receipt.code)
        return receipt.events

    def refused(self, code: RejectionCode, *messages: Message, by: Signer, at: int | None = None) -> Receipt:
        """As :meth:`run`, for a transaction that must be rejected with ``code`` and change nothing."""
        receipt = self.run(*messages, by=by, at=at)
        assert code_named(receipt.code) is code
        assert receipt.events == ()
        assert self.changed_rows() == []
        return receipt

    def wait(self, seconds: int) -> None:
        """Let time pass in an empty block."""
        self.block(at=self.time_s + seconds)

    # --- looking --------------------------------------------------------------------------------------------

    @property
    def root_hash(self) -> bytes:
        """The state's Merkle root."""
        return self.snapshot.root_hash

    def contracts(self) -> Contracts:
        """The contracts over the present state, for queries."""
        return Contracts(Overlay(self.snapshot))

    def changed_rows(self) -> list[bytes]:
        """The keys the last block changed, replay digests apart."""
        return [key for key, _ in self.changes if key[0] != REPLAY.prefix]

    def broken(self) -> list[str]:
        """Every invariant that does not hold; empty when all is well."""
        return self.contracts().check_state()

    def ticket(self, ticket_id: bytes) -> TicketRow:
        """A ticket's row."""
        row = self.contracts().access.tickets.get(ticket_id)
        assert row is not None
        return row

    # --- people of this network's suite ---------------------------------------------------------------------

    def organisation(self, label: str, *, kind: OrganisationKind, registrar: bool = False) -> Organisation:
        """An organisation that could be a member here."""
        return Organisation(label, kind=kind, registrar=registrar, suite=self.institution.signature)

    def actor(self, label: str, *, organisation: bytes | None = None) -> Actor:
        """Somebody with a key of the institutions' suite."""
        return Actor(label, organisation=organisation, suite=self.institution.signature)

    def wallet(self, name: str) -> Wallet:
        """The wallet that belongs to ``name``, with keys of the institutions' suite."""
        return wallet_of(name, suite=self.institution.signature)

    # --- common errands -------------------------------------------------------------------------------------

    def enrol(self, organisation: Organisation, label: str, *roles: Role, suite: Suite | None = None) -> Actor:
        """A new member of staff with these roles; with a key of the institutions' suite unless another is named."""
        actor = Actor(label, organisation=organisation.id, suite=suite or self.institution.signature)
        certificate = organisation.certify(actor, *roles)
        self.done(enrolment_of(actor, certificate), by=organisation)
        return actor

    def bind(self, wallet: Wallet, organisation: Organisation, mrn: str, *, counter: int = 0) -> Pseudonym:
        """Bind a patient's pseudonym at an organisation."""
        pseudonym = wallet.pseudonym(organisation.id, counter)
        self.done(bind_message(pseudonym, organisation.secret.id_hash("mrn", mrn)), by=organisation)
        return pseudonym

    def grant(self, message: GrantMessage, *, by: Signer, at: int | None = None) -> bytes:
        """Send a grant that must succeed; returns its id."""
        (event,) = self.done(message, by=by, at=at)
        assert isinstance(event, Granted)
        return event.grant_id

    def request(self, message: RequestAccess, *, by: Signer, at: int | None = None) -> Decided:
        """Ask for access; returns the decision, allowed or refused."""
        (event,) = self.done(message, by=by, at=at)
        assert isinstance(event, Decided)
        return event

    def decision(
        self,
        by: Signer,
        patient: Pseudonym,
        *,
        scope: Scope = RESULTS,
        purpose: Purpose = Purpose.TREAT,
        at: int | None = None,
    ) -> int:
        """The number of the decision on one request: 0 when allowed."""
        return self.request(RequestAccess(pseudonym=patient.id, scope=scope, purpose=purpose), by=by, at=at).decision

    def appoint(
        self,
        label: str,
        patient: Pseudonym,
        *,
        powers: int = ALL_POWERS,
        scope: Scope = EVERYTHING,
        expires_s: int = LATER_S,
    ) -> Actor:
        """A representative of the patient, with a key of its own."""
        actor = Actor(label, organisation=patient.id)
        self.done(appoint_message(actor, patient, powers=powers, scope=scope, expires_s=expires_s), by=patient)
        return actor

    def propose(self, change: object, *, ayes: tuple[Organisation, ...] = ()) -> bytes:
        """Hospital a proposes, the others named vote yes; returns the proposal's id."""
        events = self.done(Propose(change=change), by=self.a)
        proposed = events[0]
        assert isinstance(proposed, Proposed)
        for member in ayes:
            self.done(Vote(proposal=proposed.proposal, aye=True), by=member)
        return proposed.proposal

    def admit(self, newcomer: Organisation) -> None:
        """Take an organisation in by the votes of four members."""
        self.propose(AdmitMember(new=newcomer.as_new()), ayes=(self.b, self.c, self.d))


def empty_state() -> Overlay:
    """A state without entries, to write to."""
    return Overlay(Snapshot(_InMemory(), EMPTY))


@cache
def _founded(*settings: tuple[str, object]) -> World:
    return World(**dict(settings))


def fresh(**settings: object) -> World:
    """A world of one's own, founded once per process and forked from then on; settings as :class:`World` takes them."""
    return _founded(*sorted((name, value) for name, value in settings.items() if value is not None)).fork()


def wallet_of(name: str, *, suite: Suite = Suite.ED25519) -> Wallet:
    """The wallet that belongs to ``name``."""
    return Wallet(seed=seeded(name, "wallet"), chain_id=CHAIN_ID, suite=suite)


# --- messages with everything filled in -----------------------------------------------------------------


def enrolment_of(actor: Actor, certificate: bytes, *, organisation: bytes | None = None) -> EnrolStaff:
    """What the actor's organisation sends to enrol it, with the agreement of the actor's own key."""
    return identity.enrolment_of(
        actor.signing,
        chain_id=CHAIN_ID,
        organisation=actor.organisation if organisation is None else organisation,
        certificate=certificate,
        hpke_key=actor.hpke.public_key,
    )


def bind_message(pseudonym: Pseudonym, id_hash: bytes, *, number: int = 0, **changed: object) -> Bind:
    """What a registrar sends for a patient who is at the desk; ``number`` is how many proofs the relation has used."""
    fields: dict[str, object] = {
        "id_hash": id_hash,
        "suite": pseudonym.signing.suite,
        "public_key": pseudonym.signing.public_key,
        "hpke_key": pseudonym.hpke.public_key,
        "proof": binding_proof(pseudonym, chain_id=CHAIN_ID, id_hash=id_hash, number=number),
        "number": number,
    }
    return Bind(**fields | changed)


def scope_of(
    *categories: Category,
    ceiling: Sensitivity = Sensitivity.N,
    first_day: int = 0,
    last_day: int = LAST_DAY,
    records: tuple[bytes, ...] = (),
) -> Scope:
    """A scope over these categories."""
    return Scope(categories=mask(*categories), ceiling=ceiling, first_day=first_day, last_day=last_day, records=records)


def grant_of(
    patient: Pseudonym,
    *grantees: Signer,
    parent: bytes | None = None,
    scope: Scope = RESULTS,
    actions: int = int(Action.READ),
    purposes: int = TREAT,
    expires_s: int = LATER_S,
) -> GrantMessage:
    """A grant on the patient's results for treatment, unless told otherwise."""
    return GrantMessage(
        pseudonym=patient.id,
        grantees=tuple(sorted(one.id for one in grantees)),
        parent=parent,
        scope=scope,
        actions=actions,
        purposes=purposes,
        expires_s=expires_s,
    )


def anything(patient: Pseudonym, *grantees: Signer, parent: bytes | None = None) -> GrantMessage:
    """A grant of everything for every purpose, to be passed on."""
    return grant_of(
        patient, *grantees, parent=parent, scope=EVERYTHING, actions=READ_WRITE_PASS_ON, purposes=ALL_PURPOSES
    )


def anchor_of(patient: Pseudonym, name: str, **changed: object) -> Anchor:
    """The first version of a laboratory result named ``name``."""
    fields: dict[str, object] = {
        "pseudonym": patient.id,
        "record": record_id(name),
        "version": 1,
        "root": digest(name.encode()),
        "resources": 3,
        "category": Category.RESULT,
        "sensitivity": Sensitivity.N,
        "day": 45_000,
        "locator": b"",
    }
    return Anchor(**fields | changed)


def record_id(name: str) -> bytes:
    """The id of the record named ``name``."""
    return seeded("record", name)


def appoint_message(
    actor: Actor,
    patient: Pseudonym,
    *,
    powers: int = ALL_POWERS,
    scope: Scope = EVERYTHING,
    expires_s: int = LATER_S,
    proof: bytes | None = None,
) -> Appoint:
    """An appointment that the representative's key accepts."""
    wanted = appointment_message(
        chain_id=CHAIN_ID,
        pseudonym=patient.id,
        suite=actor.signing.suite,
        public_key=actor.signing.public_key,
        hpke_key=actor.hpke.public_key,
        powers=powers,
        scope=scope,
        expires_s=expires_s,
    )
    return Appoint(
        pseudonym=patient.id,
        suite=actor.signing.suite,
        public_key=actor.signing.public_key,
        hpke_key=actor.hpke.public_key,
        proof=actor.signing.sign(wanted) if proof is None else proof,
        powers=powers,
        scope=scope,
        expires_s=expires_s,
    )
