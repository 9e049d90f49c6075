"""What a new key signs to show that its holder wants to be bound (ID-3, ID-8, CON-8)."""

from carechain.core.hashing import tagged


def binding_message(
    *, chain_id: str, organisation: bytes, id_hash: bytes, suite: int, public_key: bytes, hpke_key: bytes
) -> bytes:
    """The 32 bytes a pseudonym's key signs for the registrar of ``organisation``.

    The chain, the organisation, the keyed hash of the existing id and both keys are covered, so the proof
    cannot be used at another registrar, for another person or with another reading key.
    """
    return tagged("carechain/bind/1", chain_id.encode(), organisation, id_hash, bytes([suite]), public_key, hpke_key)


def appointment_message(*, chain_id: str, pseudonym: bytes, suite: int, public_key: bytes, hpke_key: bytes) -> bytes:
    """The 32 bytes a representative's key signs to accept acting for ``pseudonym``."""
    return tagged("carechain/appoint/1", chain_id.encode(), pseudonym, bytes([suite]), public_key, hpke_key)
