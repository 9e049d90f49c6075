"""Making the proofs that ``carechain.core.quorum`` checks.

The one-time secret of a proof is hashed from the secret that it is about, from the whole statement, and from entropy
(RFC 6979's idea, with added randomness): it differs for every statement even where the entropy repeats, and is not
foreseeable even where the statement repeats. Two proofs with one such secret would give the long-term secret away.
"""

from carechain.core.group import GENERATOR, base_mul, hash_to_scalar, mul, scalar_add, scalar_mul
from carechain.core.quorum import DleqProof, KeyProof, dleq_challenge, key_challenge


def prove_dleq(
    secret: bytes, *, context: bytes, base1: bytes, value1: bytes, base2: bytes, value2: bytes, entropy: bytes
) -> DleqProof:
    """Prove that value1 = secret·base1 and value2 = secret·base2, which the caller has computed.

    Raises :class:`~carechain.core.group.BadElement` where a base is not a point.
    """
    statement = (base1, value1, base2, value2)
    once = hash_to_scalar("carechain/dleq-secret/1", secret, entropy, context, *statement)
    first = base_mul(once) if base1 == GENERATOR else mul(once, base1)
    challenge = dleq_challenge(context, statement, (first, mul(once, base2)))
    return DleqProof(challenge=challenge, response=scalar_add(once, scalar_mul(challenge, secret)))


def prove_key(secret: bytes, *, context: bytes, key: bytes, entropy: bytes) -> KeyProof:
    """Prove that ``key`` = secret·G, which the caller has computed, is one's own."""
    once = hash_to_scalar("carechain/key-proof-secret/1", secret, entropy, context, key)
    challenge = key_challenge(context, key, base_mul(once))
    return KeyProof(challenge=challenge, response=scalar_add(once, scalar_mul(challenge, secret)))
