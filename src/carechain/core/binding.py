"""What a new key signs to show that its holder wants to be bound (ID-1, ID-3, ID-8, CON-8).

Nobody becomes a party of the ledger by somebody else's word: a public key is no secret, and whoever entered it first
could keep its holder out.
"""

from typing import Annotated

from msgspec import Meta

from carechain.core.codec import encode
from carechain.core.hashing import digest, tagged
from carechain.core.limits import SIGNATURE_SIZE
from carechain.core.scope import Scope

Signature = Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]
"""A fixed-width signature inside a message."""


def binding_message(
    *, chain_id: str, organisation: bytes, id_hash: bytes, suite: int, public_key: bytes, hpke_key: bytes, number: int
) -> bytes:
    """The 32 bytes a pseudonym's key signs for the registrar of ``organisation``.

    The chain, the organisation, the keyed hash of the existing id and both keys are covered, so the proof
    cannot be used at another registrar, for another person or with another reading key. ``number`` counts the proofs
    the relation has taken (0 for the first), so a registrar cannot open again what the patient has left.
    """
    return tagged(
        "carechain/bind/1",
        chain_id.encode(),
        organisation,
        id_hash,
        bytes([suite]),
        public_key,
        hpke_key,
        number.to_bytes(4, "big"),
    )


def enrolment_message(*, chain_id: str, organisation: bytes, certificate: bytes, hpke_key: bytes) -> bytes:
    """The 32 bytes a member of staff's new key signs for ``organisation``.

    ``certificate`` is the DER that names the key, its roles and its end, so the holder agrees to exactly these.
    """
    return tagged("carechain/enrol/1", chain_id.encode(), organisation, digest(certificate), hpke_key)


def appointment_message(
    *,
    chain_id: str,
    pseudonym: bytes,
    suite: int,
    public_key: bytes,
    hpke_key: bytes,
    powers: int,
    scope: Scope,
    expires_s: int,
) -> bytes:
    """The 32 bytes a representative's key signs to accept acting for ``pseudonym``, with these powers until then.

    The whole appointment is covered, so nobody acts for a patient, or with a power, it did not agree to.
    """
    terms = encode((powers, scope, expires_s))
    return tagged("carechain/appoint/1", chain_id.encode(), pseudonym, bytes([suite]), public_key, hpke_key, terms)
