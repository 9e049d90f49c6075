"""Goal: whatever bytes are given as a proof of a state entry, checking them either raises ``BadProof`` or is right.

Method: Hypothesis makes random bytes, proofs put together from pieces of the key they are about, and real proofs with
bytes exchanged, cut or doubled; both checks run on all of them against a small tree whose content is known.
"""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from carechain.core.hashing import HASH_SIZE, ZERO_HASH
from carechain.core.limits import STATE_KEY_BYTES
from carechain.state import trie
from carechain.state.node import EMPTY, SYMBOLS, spell
from carechain.state.proof import (
    BadProof,
    BranchStep,
    LeafEnd,
    Proof,
    decode_proof,
    prove,
    verify_absence,
    verify_presence,
)

CONTENT = {
    b"k": b"v",
    b"k\x00": b"v",
    b"ka": b"other",
    b"l" * STATE_KEY_BYTES: b"",
    **{bytes([1, number]): b"%d" % number for number in range(0, 256, 5)},
}
KEYS = (*CONTENT, b"kb", b"\x01\x01", b"l", b"\xff" * STATE_KEY_BYTES, b"\x00")


def load(reference: int) -> bytes:
    raise AssertionError(f"nothing is stored here: {reference}")


ROOT = trie.apply(load, EMPTY, sorted(CONTENT.items()))
REAL = {key: prove(load, ROOT, key).to_bytes() for key in KEYS}
keys = st.sampled_from(KEYS)
roots = st.sampled_from([ROOT.hash, ZERO_HASH])
quick = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def check(root_hash: bytes, key: bytes, proof: Proof) -> None:
    """Both checks either refuse or say what is true."""
    content = CONTENT if root_hash == ROOT.hash else {}
    for value in (CONTENT.get(key, b""), b"never stored"):
        try:
            verify_presence(root_hash, key, value, proof)
        except BadProof:
            continue
        assert content.get(key) == value
    try:
        verify_absence(root_hash, key, proof)
    except BadProof:
        return
    assert key not in content


@quick
@given(data=st.binary(max_size=400), key=keys, root_hash=roots)
@example(data=b"\x92\x91\x93\xc4\x01\x00\x03\xc4\x00\xc0", key=b"\x00", root_hash=ZERO_HASH)
def test_random_bytes_prove_nothing_that_is_not_so(data: bytes, key: bytes, root_hash: bytes) -> None:
    try:
        proof = decode_proof(data)
    except BadProof:
        return
    check(root_hash, key, proof)


@st.composite
def made_up(draw: st.DrawFn) -> tuple[bytes, Proof]:
    """A key, and a proof whose skips are pieces of it more often than not."""
    key = draw(keys)
    symbols = spell(key)
    at = 0
    steps = []
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(0, len(symbols)))
        skip = draw(st.one_of(st.just(symbols[at : at + size]), st.just(symbols), st.binary(max_size=4)))
        bitmap = draw(st.one_of(st.integers(0, (1 << SYMBOLS) - 1), st.just(3)))
        hashes = HASH_SIZE * max(0, bitmap.bit_count() - draw(st.integers(0, 2)))
        steps.append(BranchStep(skip, bitmap, bytes(hashes)))
        at += len(skip) + 1
    ends = st.builds(LeafEnd, keys, st.binary(min_size=HASH_SIZE, max_size=HASH_SIZE))
    return key, Proof(tuple(steps), draw(st.one_of(st.none(), ends)))


@quick
@given(made_up(), roots)
@example((b"k", Proof((BranchStep(spell(b"k"), 3, bytes(2 * HASH_SIZE)),), None)), ZERO_HASH)
def test_made_up_proofs_prove_nothing_that_is_not_so(made: tuple[bytes, Proof], root_hash: bytes) -> None:
    key, proof = made
    check(root_hash, key, decode_proof(proof.to_bytes()))


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A real proof with some bytes exchanged, a piece cut out, or a piece there twice."""
    data = bytearray(REAL[draw(keys)])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        end = draw(st.integers(at, min(len(data), at + 40)))
        kind = draw(st.sampled_from(("exchange", "cut", "double")))
        if kind == "exchange":
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut" and end - at < len(data):
            del data[at:end]
        else:
            data[at:at] = data[at:end]
    return bytes(data)


@quick
@given(altered(), keys, roots)
def test_altered_proofs_prove_nothing_that_is_not_so(data: bytes, key: bytes, root_hash: bytes) -> None:
    try:
        proof = decode_proof(data)
    except BadProof:
        return
    check(root_hash, key, proof)


def test_the_real_ones_hold() -> None:
    for key, data in REAL.items():
        if key in CONTENT:
            verify_presence(ROOT.hash, key, CONTENT[key], decode_proof(data))
        else:
            verify_absence(ROOT.hash, key, decode_proof(data))
