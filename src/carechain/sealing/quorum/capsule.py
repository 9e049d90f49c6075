"""Making and opening capsules: a record key under the consortium key (TDH2, Shoup and Gennaro 2002).

Making one takes no secret of anybody's: a laboratory can seal what it cannot open again.
"""

from typing import Final

from carechain.core.group import GENERATOR, SECOND, base_mul, hash_to_scalar, mul
from carechain.core.hashing import tagged
from carechain.core.quorum import CAPSULE_VERSION, Capsule, Label, capsule_context, label_bytes
from carechain.sealing.quorum.proofs import prove_dleq

KEY_SIZE: Final = 32
ENTROPY_SIZE: Final = 32


def seal_key(public_key: bytes, *, label: Label, key: bytes, entropy: bytes) -> Capsule:
    """A capsule with the 32-byte ``key`` in it, to be opened only for what ``label`` says.

    ``entropy`` is 32 random bytes. Raises ``ValueError`` for another length, and
    :class:`~carechain.core.group.BadElement` where ``public_key`` is not a point.
    """
    if len(key) != KEY_SIZE or len(entropy) != ENTROPY_SIZE:
        raise ValueError("a capsule is made from a key and entropy of 32 bytes each")
    bound = label_bytes(label)
    # Key and label go in beside the entropy: even a broken source never gives two capsules one R.
    secret = hash_to_scalar("carechain/capsule-secret/1", entropy, key, public_key, bound)
    r_point, r_bar = base_mul(secret), mul(secret, SECOND)
    masked = _masked(key, public_key=public_key, label=bound, r_point=r_point, shared=mul(secret, public_key))
    proof = prove_dleq(
        secret,
        context=capsule_context(version=CAPSULE_VERSION, label=bound, masked=masked),
        base1=GENERATOR,
        value1=r_point,
        base2=SECOND,
        value2=r_bar,
        entropy=entropy,
    )
    return Capsule(
        version=CAPSULE_VERSION,
        label=bound,
        r_point=r_point,
        r_bar=r_bar,
        masked=masked,
        challenge=proof.challenge,
        response=proof.response,
    )


def open_with(capsule: Capsule, *, public_key: bytes, shared: bytes) -> bytes:
    """The 32 bytes in the capsule, given ``shared`` = x·R, which only t holders can compute together.

    A wrong ``shared`` gives other 32 bytes: it is the object that knows its key (``carechain.sealing.objects``).
    """
    return _masked(capsule.masked, public_key=public_key, label=capsule.label, r_point=capsule.r_point, shared=shared)


def _masked(data: bytes, *, public_key: bytes, label: bytes, r_point: bytes, shared: bytes) -> bytes:
    pad = tagged("carechain/capsule-pad/1", public_key, label, r_point, shared)
    return bytes(a ^ b for a, b in zip(data, pad, strict=True))
