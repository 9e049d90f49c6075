"""Goal: the trie is a map whose root hash follows from its content alone, and whose proofs cannot be bent.

Method: random batches of puts and deletes against a plain dict, with keys chosen to collide, nest and share long
prefixes; every proof is checked against the dict and then with each of its bytes altered.
"""

import subprocess
import sys
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.hashing import ZERO_HASH
from carechain.core.limits import STATE_KEY_BYTES
from carechain.state import trie
from carechain.state.audit import check_tree
from carechain.state.node import EMPTY, Root, spell
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

pieces = st.sampled_from([b"a", b"b", b"q", b"\x00", b"\xff", b"\x0f\xf0", b"ab", bytes(20)])
keys = st.one_of(st.lists(pieces, min_size=1, max_size=6).map(b"".join), st.binary(min_size=1, max_size=3))
values = st.sampled_from([b"", b"v", b"value" * 9])
batches = st.lists(st.dictionaries(keys, st.one_of(st.none(), values), max_size=25), max_size=6)
contents = st.dictionaries(keys, values, max_size=30)


def load(reference: int) -> bytes:
    raise AssertionError(f"nothing is stored here: {reference}")


def build(content: dict[bytes, bytes]) -> Root:
    return trie.apply(load, EMPTY, sorted(content.items()))


@given(batches)
def test_it_behaves_as_a_dict_and_the_root_follows_from_the_content(
    changes: list[dict[bytes, bytes | None]],
) -> None:
    model: dict[bytes, bytes] = {}
    root = EMPTY
    for batch in changes:
        before, frozen = root, dict(model)
        for key, value in batch.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        root = trie.apply(load, root, sorted(batch.items()))
        assert root.hash == build(model).hash
        assert dict(trie.scan(load, root, b"")) == model
        # The version before the batch is as it was.
        assert dict(trie.scan(load, before, b"")) == frozen
        for key in batch:
            assert trie.get(load, root, key) == model.get(key)
    assert list(check_tree(load, root)) == sorted(model.items())


@given(contents, st.randoms(use_true_random=False))
def test_one_at_a_time_in_any_order_gives_the_same_root(content: dict[bytes, bytes], chance: object) -> None:
    order = list(content.items())
    chance.shuffle(order)  # type: ignore[attr-defined]
    root = EMPTY
    for entry in order:
        root = trie.apply(load, root, [entry])
    assert root.hash == build(content).hash
    for key, _ in order:
        root = trie.apply(load, root, [(key, None)])
    assert root[:2] == EMPTY[:2]


@given(contents, st.one_of(st.just(b""), keys), st.one_of(st.none(), keys))
def test_a_scan_is_the_sorted_dict(content: dict[bytes, bytes], prefix: bytes, after: bytes | None) -> None:
    expected = [
        (key, value)
        for key, value in sorted(content.items())
        if key.startswith(prefix) and (after is None or key > after)
    ]
    assert list(trie.scan(load, build(content), prefix, after)) == expected


@given(contents, contents)
def test_different_content_has_different_roots(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> None:
    assert (build(one).hash == build(other).hash) == (one == other)


@given(contents, keys)
def test_every_key_is_proved_present_or_absent_and_never_the_other(content: dict[bytes, bytes], asked: bytes) -> None:
    root = build(content)
    for key in {asked, *content}:
        proof = prove(load, root, key)
        if key in content:
            verify_presence(root.hash, key, content[key], proof)
            with pytest.raises(BadProof):
                verify_absence(root.hash, key, proof)
            with pytest.raises(BadProof):
                verify_presence(root.hash, key, content[key] + b"x", proof)
        else:
            verify_absence(root.hash, key, proof)
            with pytest.raises(BadProof):
                verify_presence(root.hash, key, b"", proof)
        with pytest.raises(BadProof):
            _verify(bytes(31) + b"\x01", key, content.get(key), proof)


def _verify(root_hash: bytes, key: bytes, value: bytes | None, proof: Proof) -> None:
    if value is None:
        verify_absence(root_hash, key, proof)
    else:
        verify_presence(root_hash, key, value, proof)


@given(contents, keys, st.integers(min_value=1, max_value=255))
def test_a_proof_with_any_byte_altered_is_refused(content: dict[bytes, bytes], asked: bytes, flip: int) -> None:
    root = build(content)
    for key in [asked, *sorted(content)[:2]]:
        proof = prove(load, root, key).to_bytes()
        assert decode_proof(proof) == prove(load, root, key)
        for at in range(len(proof)):
            altered = proof[:at] + bytes([proof[at] ^ flip]) + proof[at + 1 :]
            with pytest.raises(BadProof):
                _verify(root.hash, key, content.get(key), decode_proof(altered))


@given(contents, keys)
def test_a_proof_says_nothing_about_another_key(content: dict[bytes, bytes], asked: bytes) -> None:
    root = build(content)
    for key, other in pairwise([asked, *content]):
        proof = prove(load, root, key)
        if other in content:
            with pytest.raises(BadProof):
                verify_absence(root.hash, other, proof)
        else:
            with pytest.raises(BadProof):
                verify_presence(root.hash, other, b"v", proof)


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        pytest.param(Proof((), None), "not empty", id="empty tree claimed"),
        pytest.param(Proof((BranchStep(b"", 0, b""),), None), "not a branch", id="branch without children"),
        pytest.param(Proof((BranchStep(b"", 2, bytes(32)),), None), "not a branch", id="branch with one child"),
        pytest.param(Proof((BranchStep(b"", 6, bytes(63)),), None), "not a branch", id="hashes cut short"),
        pytest.param(Proof((), LeafEnd(b"k", bytes(32))), "own", id="leaf of the key itself"),
        pytest.param(
            Proof((BranchStep(bytes(9), 6, bytes(32)),), LeafEnd(b"z", bytes(32))),
            "on the way",
            id="skip leaves the key",
        ),
        pytest.param(
            Proof((BranchStep(spell(b"k"), 3, bytes(64)),), None), "end of the key", id="skip is the whole key"
        ),
    ],
)
def test_a_made_up_proof_of_absence_is_refused(proof: Proof, reason: str) -> None:
    with pytest.raises(BadProof, match=reason):
        verify_absence(build({b"k": b"v", b"l": b"v"}).hash, b"k", proof)


@pytest.mark.parametrize("data", [b"", b"\xc1", bytes(300_000), b"\x92\x90\xc0\x00", b"\x92\xdc\x00\x00\xc0"])
def test_what_is_not_a_proof_is_refused(data: bytes) -> None:
    with pytest.raises(BadProof):
        decode_proof(data)


def test_the_empty_tree_proves_every_absence() -> None:
    verify_absence(ZERO_HASH, b"anything", prove(load, EMPTY, b"anything"))


@pytest.mark.parametrize("changes", [[(b"b", b""), (b"a", b"")], [(b"a", b""), (b"a", None)], [(b"", b"")]])
def test_changes_out_of_order_are_a_bug(changes: list[tuple[bytes, bytes | None]]) -> None:
    with pytest.raises(ValueError, match="sorted"):
        trie.apply(load, EMPTY, changes)


def by_the_book(entries: list[tuple[list[int], bytes, bytes]]) -> bytes:
    """The hash of the subtree over (symbols still to spell, key, value), straight from the definition."""
    if not entries:
        return bytes(32)
    if len(entries) == 1:
        ((_, key, value),) = entries
        return sha256(b"\x00" + len(key).to_bytes(2, "big") + key + sha256(value).digest()).digest()
    shared = 0
    while len({symbols[shared] for symbols, _, _ in entries}) == 1:
        shared += 1
    bitmap, hashes = 0, b""
    for symbol in range(17):
        below = [(symbols[shared + 1 :], key, value) for symbols, key, value in entries if symbols[shared] == symbol]
        if below:
            bitmap |= 1 << symbol
            hashes += by_the_book(below)
    skip = bytes(entries[0][0][:shared])
    return sha256(b"\x01" + bitmap.to_bytes(4, "big") + shared.to_bytes(2, "big") + skip + hashes).digest()


@given(contents)
def test_the_hashes_are_those_of_the_definition(content: dict[bytes, bytes]) -> None:
    entries = [([int(digit, 16) + 1 for digit in key.hex()] + [0], key, value) for key, value in content.items()]
    assert build(content).hash == by_the_book(entries)


def test_the_deepest_possible_tree_is_no_deeper_than_the_stack() -> None:
    whole = bytes(STATE_KEY_BYTES)
    deep = {whole[:at] + bytes([side]) + whole[at + 1 :]: b"v" for at in range(len(whole)) for side in (0x01, 0x10)}
    deep |= {whole[:at]: b"nested" for at in range(1, len(whole) + 1)}
    root = build(deep)
    half = sorted(deep)[::2]
    root = trie.apply(load, root, [(key, b"changed") for key in half])
    assert list(trie.scan(load, root, b"")) == sorted((deep | dict.fromkeys(half, b"changed")).items())
    for key in (whole, whole[:-1] + b"\x02"):
        _verify(root.hash, key, trie.get(load, root, key), decode_proof(prove(load, root, key).to_bytes()))
    assert trie.apply(load, root, [(key, None) for key in sorted(deep)])[:2] == EMPTY[:2]


_PROGRAM = """
from carechain.state import trie
from carechain.state.node import EMPTY
content = {b"key %d" % (n * 7919 % 500): b"value %d" % n for n in range(500)}
root = trie.apply(None, EMPTY, sorted(content.items()))
root = trie.apply(None, root, [(key, None) for key in sorted(content)[::3]])
print(root.hash.hex())
"""


def test_the_root_does_not_depend_on_the_hash_seed() -> None:
    roots = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(roots) == 1


def test_the_root_is_what_it_was_when_the_format_was_fixed() -> None:
    content = {bytes([number]) * 33: b"%d" % number for number in range(40)} | {b"a": b"", b"ab": b"x"}
    assert build(content).hash.hex() == "e4ba94c61a5f3f4c467e0ff2aeeca006a7379e0d902055ee4419ae5aae3e8424"
