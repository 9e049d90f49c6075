"""Recoveries and changes of keys for tests: messages with everything filled in, and a policy that is in force."""

from carechain.contracts.recovery import (
    Approve,
    CardKey,
    Finish,
    SetPolicy,
    Start,
    Terms,
    Veto,
    Withdraw,
    card_message,
    recovery_message,
)
from carechain.contracts.rotation import RotateKey, RotateStaff, rotation_message
from carechain.core.crypto import SigningKey
from carechain.core.ids import party_id
from carechain.core.vocabulary import Role
from carechain.sdk.recovery_cards import card_key
from carechain.sdk.wallet import Pseudonym
from world import CHAIN_ID, Actor, Organisation, Signer, World, seeded

WAIT_S = 1000
CARD_SECRET = seeded("cards", size=16)


def terms_of(*guardians: Signer, threshold: int | None = None, **changed: object) -> Terms:
    """Two of these guardians, or all where there are fewer, unless told otherwise."""
    fields: dict[str, object] = {
        "wait_s": WAIT_S,
        "guardians": tuple(sorted(one.id for one in guardians)),
        "threshold": min(2, len(guardians)) if threshold is None else threshold,
    }
    return Terms(**fields | changed)


def cards_of(patient: Signer, secret: bytes = CARD_SECRET) -> SigningKey:
    """What the cards sign with for this patient."""
    return card_key(secret, chain_id=CHAIN_ID, pseudonym=patient.id)


def card_of(patient: Signer) -> CardKey:
    """The public half, as a policy has it."""
    key = cards_of(patient)
    return CardKey(suite=key.suite, public_key=key.public_key)


def guard(world: World, patient: Pseudonym, *guardians: Signer, **changed: object) -> Terms:
    """The patient's policy, in force."""
    terms = terms_of(*guardians, **changed)
    world.done(SetPolicy(pseudonym=patient.id, terms=terms), by=patient)
    row = world.contracts().recovery.policies.get(patient.id)
    assert row is not None
    if row.coming_s > world.time_s:
        world.block(at=row.coming_s)
    return terms


def start_of(
    patient: Signer,
    key: Actor,
    *,
    attempt: int = 0,
    cards: SigningKey | None = None,
    signed_for: int | None = None,
    chain_id: str = CHAIN_ID,
    **changed: object,
) -> Start:
    """The first attempt to give the patient this key."""
    named = {
        "chain_id": chain_id,
        "pseudonym": patient.id,
        "attempt": attempt if signed_for is None else signed_for,
        "suite": key.signing.suite,
        "public_key": key.signing.public_key,
        "hpke_key": key.hpke.public_key,
    }
    fields: dict[str, object] = {
        **{name: value for name, value in named.items() if name != "chain_id"},
        "attempt": attempt,
        "proof": key.signing.sign(recovery_message(**named)),  # type: ignore[arg-type]
        "card_proof": b"" if cards is None else cards.sign(card_message(**named)),  # type: ignore[arg-type]
    }
    return Start(**fields | changed)


def approval_of(patient: Signer, key: Actor, *, attempt: int = 0, cards: SigningKey | None = None) -> Approve:
    """Somebody agrees to the attempt for this key."""
    signed = start_of(patient, key, attempt=attempt, cards=cards)
    return Approve(pseudonym=patient.id, attempt=attempt, key=key_id(key), card_proof=signed.card_proof)


def key_id(key: Actor) -> bytes:
    """What an approval names the key by."""
    return party_id(key.signing.suite, key.signing.public_key)


def veto_of(patient: Signer, attempt: int = 0) -> Veto:
    """An objection."""
    return Veto(pseudonym=patient.id, attempt=attempt)


def withdrawal_of(patient: Signer, attempt: int = 0) -> Withdraw:
    """Somebody no longer agrees."""
    return Withdraw(pseudonym=patient.id, attempt=attempt)


def finish_of(patient: Signer, attempt: int = 0) -> Finish:
    """The end of the waiting time."""
    return Finish(pseudonym=patient.id, attempt=attempt)


def with_key_of(party: Signer, key: Actor | Pseudonym) -> Actor:
    """Whoever ``party`` is, acting with another key."""
    other = Actor("", organisation=party.organisation)
    other.signing, other.hpke, other.id = key.signing, key.hpke, party.id
    return other


def proof_of(key: Actor, party: bytes, *, chain_id: str = CHAIN_ID) -> bytes:
    """What a new key signs to become this party's."""
    return key.signing.sign(
        rotation_message(
            chain_id=chain_id,
            party=party,
            suite=key.signing.suite,
            public_key=key.signing.public_key,
            hpke_key=key.hpke.public_key,
        )
    )


def rotation_of(party: Signer, key: Actor, *, chain_id: str = CHAIN_ID, **changed: object) -> RotateKey:
    """The party takes another key."""
    fields: dict[str, object] = {
        "suite": key.signing.suite,
        "public_key": key.signing.public_key,
        "hpke_key": key.hpke.public_key,
        "proof": proof_of(key, party.id, chain_id=chain_id),
    }
    return RotateKey(**fields | changed)


def staff_rotation(organisation: Organisation, staff: Actor, key: Actor, *roles: Role) -> RotateStaff:
    """The organisation gives one of its staff another key; a doctor's unless told otherwise."""
    return RotateStaff(
        certificate=organisation.certify(key, *(roles or (Role.DOCTOR,)), party=staff.id),
        hpke_key=key.hpke.public_key,
        proof=proof_of(key, staff.id),
    )
