"""The networks benchmarks run on: real keys, real certificates, real consents, presigned 600-byte anchors.

Everything follows from a :class:`Plan`, so worker processes sign slices of the load on their own and two runs of
one plan differ in nothing but the clock. Nothing is written behind the ledger's back: staff are enrolled by
certificate, patients bound and their grants signed, and the state grows by ordered blocks.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import shake_256
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.tx import build
from carechain.contracts.consent.schema import Grant, TreatmentPolicy
from carechain.contracts.records import Anchor
from carechain.contracts.relationships import Bind
from carechain.contracts.validators import FounderNode, FounderSeat, address_of
from carechain.core.crypto import SEED_SIZE, SigningKey, Suite
from carechain.core.limits import ID_SIZE, LAPSE_MAX_DAYS, NONCE_SIZE
from carechain.core.message import Message
from carechain.core.organisation import NewMember
from carechain.core.scope import EVERYTHING
from carechain.core.units import DAY_S
from carechain.core.vocabulary import (
    ALL_PURPOSES,
    Action,
    Category,
    OrganisationKind,
    PartyKind,
    Role,
    Sensitivity,
    mask,
)
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.identity import Identity, enrolment_of, new_identity
from carechain.sdk.keyfile import Entropy
from carechain.sdk.registrar import RegistrarSecret
from carechain.sdk.wallet import Pseudonym, binding_proof, derive_pseudonym

TX_BYTES: Final = 600
"""Every anchor of the load: the whole signed transaction, locator included."""
VALIDITY_S: Final = 120
"""How long presigned transactions live: what a client would ask for. The ledger remembers an id for that long."""
STAFF: Final = 50
"""Signers of the load, all of the custodian."""
READERS: Final = 4
"""Doctors of the other hospital: they read by grant."""
KEYS_A_PATIENT: Final = 8
"""State keys that a patient brings: party, binding, relation, grant and that it stands, one for each grantee, head."""
KEYS_A_RECORD: Final = 1
RECORDS_A_PATIENT: Final = 10
"""In ledgers made to be large."""

_BINDS_A_TX: Final = 32
_ENROLMENTS_A_TX: Final = 32
_STRIDE: Final = 2_654_435_761
"""A prime, so that stepping by it visits every patient once before any twice (unless their number is a multiple)."""
_FIRST_DAY: Final = 40_000
_DAYS: Final = 5_000
_CERTIFIED_DAYS: Final = 3_650


class Plan(Struct, frozen=True, kw_only=True):
    """What a network is made of. ``genesis_s`` is where its time begins (Unix seconds)."""

    pseudonyms: int
    genesis_s: int
    chain_id: str = "carechain-bench"
    seed: str = "carechain"
    staff: int = STAFF
    validators: int = 0
    """0: the custodian makes the blocks alone; otherwise so many organisations agree on them."""


class Network(Struct, frozen=True, kw_only=True):
    """Two hospitals: the custodian, which also produces the blocks, and another one whose doctors read by grant.

    ``members`` are these two, and in a consortium as many more as it has validators.
    """

    plan: Plan
    genesis: Genesis
    members: tuple[Identity, ...]
    custodian: Identity
    authority: CertificateAuthority
    other: Identity
    other_authority: CertificateAuthority
    staff: tuple[Identity, ...]
    readers: tuple[Identity, ...]


class Signed(Struct, frozen=True):
    """The transactions that register some patients: their pseudonyms (32 bytes each), bindings, grants."""

    pseudonyms: bytes
    bindings: list[bytes]
    grants: list[bytes]


def stream(plan: Plan, *context: object) -> Entropy:
    """Bytes that look random and follow from the plan: each context has a stream of its own."""
    drawn = 0

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        name = "\x00".join(map(str, (plan.seed, *context, drawn)))
        return shake_256(name.encode()).digest(size)

    return draw


@cache
def network_of(plan: Plan) -> Network:
    """Make the organisations, their authorities and their staff; kept per process, since keys take a while."""
    custodian, authority, founder = hospital(plan, "hospital A")
    other, other_authority, second = hospital(plan, "hospital B")
    more = [hospital(plan, f"hospital {number}") for number in range(3, plan.validators + 1)]
    members = (custodian, other, *(one for one, _, _ in more))
    seated = members[: plan.validators]
    engines = [engine_keys(plan, number) for number in range(len(seated))]
    genesis = Genesis(
        chain_id=plan.chain_id,
        time_s=plan.genesis_s,
        members=(founder, second, *(new for _, _, new in more)),
        producers=() if seated else (custodian.party,),
        policy=TreatmentPolicy(),
        validators=tuple(
            FounderSeat(member=one.party, consensus_key=keys[1].public_key)
            for one, keys in zip(seated, engines, strict=True)
        ),
        nodes=tuple(
            FounderNode(member=one.party, node_id=address_of(keys[0].public_key))
            for one, keys in zip(seated, engines, strict=True)
        ),
    )
    return Network(
        plan=plan,
        genesis=genesis,
        members=members,
        custodian=custodian,
        authority=authority,
        other=other,
        other_authority=other_authority,
        staff=tuple(doctor(plan, authority, number) for number in range(plan.staff)),
        readers=tuple(doctor(plan, other_authority, number) for number in range(READERS)),
    )


def engine_seeds(plan: Plan, member: int) -> bytes:
    """64 bytes that make the node key and the consensus key of a member's engine."""
    return stream(plan, "engine", member)(2 * SEED_SIZE)


def engine_keys(plan: Plan, member: int) -> tuple[SigningKey, SigningKey]:
    """The node key and the consensus key of a member's engine."""
    seeds = engine_seeds(plan, member)
    node, consensus = (SigningKey(suite=Suite.ED25519, seed=one) for one in (seeds[:SEED_SIZE], seeds[SEED_SIZE:]))
    return node, consensus


def hospital(plan: Plan, name: str) -> tuple[Identity, CertificateAuthority, NewMember]:
    """A member's keys, its authority, and what the genesis says of it."""
    entropy = stream(plan, name)
    member = new_identity(kind=PartyKind.MEMBER, entropy=entropy)
    since, until = _certified(plan)
    authority = CertificateAuthority.create(
        member.party, not_before=since, not_after=until + timedelta(days=1), entropy=entropy
    )
    founder = NewMember(
        kind=OrganisationKind.HOSPITAL,
        name=name,
        suite=member.suite,
        public_key=member.signing_key().public_key,
        hpke_key=member.hpke_key().public_key,
        authority=authority.certificate,
        registrar=True,
        lapse_days=LAPSE_MAX_DAYS,
    )
    return member, authority, founder


def doctor(plan: Plan, authority: CertificateAuthority, number: int) -> Identity:
    """A certified doctor of the organisation behind ``authority``; the ledger does not know it yet."""
    entropy = stream(plan, "doctor", authority.organisation.hex(), number)
    doctor = new_identity(kind=PartyKind.STAFF, entropy=entropy, organisation=authority.organisation)
    since, until = _certified(plan)
    certificate = authority.issue(
        doctor.party,
        suite=doctor.suite,
        public_key=doctor.signing_key().public_key,
        roles=mask(Role.DOCTOR),
        not_before=since,
        not_after=until,
        entropy=entropy,
    )
    return doctor.with_certificate(certificate)


def _certified(plan: Plan) -> tuple[datetime, datetime]:
    """From the day before genesis for ten years: a load may start the moment the chain does."""
    genesis = datetime.fromtimestamp(plan.genesis_s, UTC)
    return genesis - timedelta(days=1), genesis + timedelta(days=_CERTIFIED_DAYS)


# --- registration ---------------------------------------------------------------------------------------


def sign_enrolments(plan: Plan, valid_until_s: int) -> list[bytes]:
    """The transactions by which both hospitals enrol their doctors."""
    network = network_of(plan)
    signed: list[bytes] = []
    for member, doctors in ((network.custodian, network.staff), (network.other, network.readers)):
        for start in range(0, len(doctors), _ENROLMENTS_A_TX):
            messages = tuple(
                enrolment_of(
                    one.signing_key(),
                    chain_id=plan.chain_id,
                    organisation=member.party,
                    certificate=one.certificate,
                    hpke_key=one.hpke_key().public_key,
                )
                for one in doctors[start : start + _ENROLMENTS_A_TX]
            )
            nonce = stream(plan, "enrol", member.party.hex(), start)(NONCE_SIZE)
            signed.append(_signed(plan, member.signing_key(), member.party, nonce, valid_until_s, messages))
    return signed


def sign_patients(plan: Plan, start: int, stop: int, valid_until_s: int) -> Signed:
    """The bindings and grants of patients ``start`` to ``stop``: each lets both hospitals read and write."""
    network = network_of(plan)
    secret = RegistrarSecret(stream(plan, "registrar")(SEED_SIZE))
    patients = [patient_keys(plan, number) for number in range(start, stop)]
    bindings: list[bytes] = []
    for first in range(0, len(patients), _BINDS_A_TX):
        messages = tuple(
            _bind(plan, patient, secret.id_hash("mrn", str(start + first + offset)))
            for offset, patient in enumerate(patients[first : first + _BINDS_A_TX])
        )
        nonce = stream(plan, "bind", start + first)(NONCE_SIZE)
        registrar = network.custodian
        bindings.append(_signed(plan, registrar.signing_key(), registrar.party, nonce, valid_until_s, messages))
    grants = [
        _signed(
            plan,
            patient.signing,
            patient.id,
            stream(plan, "grant", start + offset)(NONCE_SIZE),
            valid_until_s,
            (_grant(network, patient.id),),
        )
        for offset, patient in enumerate(patients)
    ]
    return Signed(b"".join(patient.id for patient in patients), bindings, grants)


def patient_keys(plan: Plan, number: int) -> Pseudonym:
    """The keys of one patient toward the custodian, from the patient's own wallet seed."""
    return derive_pseudonym(
        stream(plan, "wallet", number)(SEED_SIZE),
        chain_id=plan.chain_id,
        suite=Suite.ED25519,
        organisation=network_of(plan).custodian.party,
        counter=0,
    )


def _bind(plan: Plan, patient: Pseudonym, id_hash: bytes) -> Bind:
    return Bind(
        id_hash=id_hash,
        suite=patient.signing.suite,
        public_key=patient.signing.public_key,
        hpke_key=patient.hpke.public_key,
        proof=binding_proof(patient, chain_id=plan.chain_id, id_hash=id_hash),
    )


def _grant(network: Network, pseudonym: bytes) -> Grant:
    return Grant(
        pseudonym=pseudonym,
        grantees=tuple(sorted((network.custodian.party, network.other.party))),
        parent=None,
        scope=EVERYTHING,
        actions=int(Action.READ | Action.WRITE),
        purposes=ALL_PURPOSES,
        expires_s=network.plan.genesis_s + _CERTIFIED_DAYS * DAY_S,
    )


# --- the load -------------------------------------------------------------------------------------------


def sign_anchors(plan: Plan, pseudonyms: Path, start: int, stop: int, valid_until_s: int) -> bytes:
    """Anchors ``start`` to ``stop`` of the load, :data:`TX_BYTES` each, one after the other.

    ``pseudonyms`` is the file of 32-byte pseudonyms by patient number. Neighbouring anchors go to different patients
    and come from different signers, so that a block touches the state all over.
    """
    patients = _pseudonyms(pseudonyms)
    signers = _signers(plan)
    locator_bytes = _locator_bytes(plan)
    signed: list[bytes] = []
    for number in range(start, stop):
        pseudonym = patients[patient_of(number, len(patients))]
        sender, key = signers[number % len(signers)]
        drawn = shake_256(f"{plan.seed}/anchor/{number}".encode()).digest(2 * ID_SIZE + NONCE_SIZE + locator_bytes)
        message = _anchor(pseudonym, number, drawn)
        signed.append(_signed(plan, key, sender, drawn[2 * ID_SIZE :][:NONCE_SIZE], valid_until_s, (message,)))
    return b"".join(signed)


def patient_of(number: int, patients: int) -> int:
    """Which patient anchor ``number`` belongs to: all of them once, scattered, before any a second time."""
    return number * _STRIDE % patients


def record_of(plan: Plan, number: int) -> bytes:
    """The record id of anchor ``number``."""
    return shake_256(f"{plan.seed}/anchor/{number}".encode()).digest(ID_SIZE)


def _anchor(pseudonym: bytes, number: int, drawn: bytes) -> Anchor:
    """``drawn`` gives record id, root, nonce and locator: as incompressible as what they stand for."""
    return Anchor(
        pseudonym=pseudonym,
        record=drawn[:ID_SIZE],
        version=1,
        root=drawn[ID_SIZE : 2 * ID_SIZE],
        resources=1 + number % 8,
        category=Category.ENCOUNTER if number % 2 else Category.RESULT,
        sensitivity=Sensitivity.N,
        day=_FIRST_DAY + number % _DAYS,
        locator=drawn[2 * ID_SIZE + NONCE_SIZE :],
    )


def _signed(
    plan: Plan, key: SigningKey, sender: bytes, nonce: bytes, valid_until_s: int, messages: tuple[Message, ...]
) -> bytes:
    return build(
        key=key, sender=sender, chain_id=plan.chain_id, nonce=nonce, valid_until_s=valid_until_s, messages=messages
    )


@cache
def _pseudonyms(path: Path) -> tuple[bytes, ...]:
    data = path.read_bytes()
    return tuple(data[start : start + ID_SIZE] for start in range(0, len(data), ID_SIZE))


@cache
def _signers(plan: Plan) -> tuple[tuple[bytes, SigningKey], ...]:
    return tuple((one.party, one.signing_key()) for one in network_of(plan).staff)


@cache
def _locator_bytes(plan: Plan) -> int:
    """How long a locator makes the whole transaction :data:`TX_BYTES` long."""
    sender, key = _signers(plan)[0]
    size = 0
    for _ in range(3):  # The length prefix of the locator may itself grow, so the first difference can be off by one.
        message = _anchor(bytes(ID_SIZE), 0, bytes(2 * ID_SIZE + NONCE_SIZE + size))
        raw = _signed(plan, key, sender, bytes(NONCE_SIZE), plan.genesis_s + VALIDITY_S, (message,))
        if len(raw) == TX_BYTES:
            return size
        size += TX_BYTES - len(raw)
    raise ValueError("no locator gives a transaction of the wanted size")
