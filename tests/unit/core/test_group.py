"""Goal: the group is ristretto255, nothing that is not one of its elements gets in, and the edges are as documented.

Method: the test vectors of RFC 9496, its list of bytes that encode no point, and the laws of a group with the identity
and zero in every place.
"""

import subprocess
import sys
from collections.abc import Callable
from hashlib import sha512
from pathlib import Path

import pytest
import rbcl

from carechain.core import group
from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    ONE,
    ORDER,
    SECOND,
    ZERO,
    BadElement,
    add,
    base_mul,
    hash_to_point,
    hash_to_scalar,
    mul,
    require_point,
    require_scalar,
    same,
    scalar_add,
    scalar_from_int,
    scalar_from_wide,
    scalar_invert,
    scalar_mul,
    scalar_negate,
    scalar_sub,
    sub,
    weighted_sum,
    wide_hash,
)

# RFC 9496, appendix A.1: the first multiples of the generator.
MULTIPLES = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
    "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
    "94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259",
)
# RFC 9496, appendix A.2: bytes that encode no point.
NO_POINTS = (
    "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    # The generator, its double and the identity with the highest bit set, which libsodium itself may let pass.
    "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2df6",
    "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b999",
    "0000000000000000000000000000000000000000000000000000000000000080",
)
P, Q = hash_to_point("test/p"), hash_to_point("test/q")
A, B = hash_to_scalar("test/a"), hash_to_scalar("test/b")


def test_the_multiples_of_the_generator_are_those_of_the_rfc() -> None:
    total = IDENTITY
    for number, expected in enumerate(MULTIPLES):
        assert total.hex() == expected
        assert weighted_sum([scalar_from_int(number)], [GENERATOR]).hex() == expected
        total = add(total, GENERATOR)


def test_a_point_from_a_hash_is_that_of_the_rfc() -> None:
    wide = sha512(b"Ristretto is traditionally a short shot of espresso coffee").digest()
    point = rbcl.crypto_core_ristretto255_from_hash(wide)
    assert point.hex() == "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"


def test_the_second_generator_is_another_one_and_always_the_same() -> None:
    assert SECOND.hex() == "cce97884b370f4294ab38b7f4f803121e87a6aaddfa4d8f044d31b04e2a6bf03"
    assert require_point(SECOND) != GENERATOR


def uses_of(bad: bytes) -> tuple[Callable[[], bytes], ...]:
    """Every place where a point may stand."""
    return (
        lambda: require_point(bad),
        lambda: mul(A, bad),
        lambda: add(bad, P),
        lambda: add(P, bad),
        lambda: sub(bad, P),
        lambda: sub(P, bad),
        lambda: weighted_sum([A], [bad]),
    )


@pytest.mark.parametrize("encoding", NO_POINTS)
def test_bytes_that_encode_no_point_are_refused_everywhere(encoding: str) -> None:
    for use in uses_of(bytes.fromhex(encoding)):
        with pytest.raises(BadElement):
            use()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_the_length_is_checked(size: int) -> None:
    data = bytes(size)
    for use in (require_point, require_scalar, base_mul, lambda wrong: mul(A, wrong), lambda wrong: add(P, wrong)):
        with pytest.raises(BadElement):
            use(data)
    with pytest.raises(BadElement):
        sub(P, data)


@pytest.mark.parametrize("value", [ORDER, ORDER + 1, 2**253, 2**255, 2**256 - 1])
def test_a_scalar_that_is_not_reduced_is_refused(value: int) -> None:
    with pytest.raises(BadElement):
        require_scalar(value.to_bytes(32, "little"))


def test_zero_is_a_scalar_unless_it_may_not_be() -> None:
    assert require_scalar(ZERO) == ZERO
    assert require_scalar(scalar_from_int(ORDER - 1), nonzero=True) == scalar_negate(ONE)
    with pytest.raises(BadElement):
        require_scalar(ZERO, nonzero=True)


def test_the_identity_is_no_point_from_outside() -> None:
    with pytest.raises(BadElement):
        require_point(IDENTITY)


@pytest.mark.parametrize(("scalar", "point"), [(ZERO, P), (A, IDENTITY), (ZERO, IDENTITY)])
def test_a_product_is_never_the_identity(scalar: bytes, point: bytes) -> None:
    with pytest.raises(BadElement):
        mul(scalar, point)
    with pytest.raises(BadElement):
        base_mul(ZERO)


def test_sums_take_and_give_the_identity() -> None:
    assert add(P, IDENTITY) == add(IDENTITY, P) == sub(P, IDENTITY) == P
    assert sub(P, P) == add(IDENTITY, IDENTITY) == sub(IDENTITY, IDENTITY) == IDENTITY
    assert add(P, mul(scalar_negate(ONE), P)) == IDENTITY
    assert weighted_sum([], []) == IDENTITY
    assert weighted_sum([ZERO, A], [P, IDENTITY]) == IDENTITY
    assert weighted_sum([A, scalar_negate(A)], [P, P]) == IDENTITY
    assert weighted_sum([A, scalar_negate(A), ONE], [P, P, Q]) == Q


def test_a_sum_has_as_many_weights_as_points() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weighted_sum([A, B], [P])


def test_scalars_are_the_integers_modulo_the_order() -> None:
    a, b = int.from_bytes(A, "little"), int.from_bytes(B, "little")
    assert scalar_add(A, B) == scalar_from_int(a + b)
    assert scalar_sub(A, B) == scalar_from_int(a - b)
    assert scalar_mul(A, B) == scalar_from_int(a * b)
    assert scalar_negate(A) == scalar_from_int(-a)
    assert scalar_negate(ZERO) == ZERO
    assert scalar_mul(A, scalar_invert(A)) == ONE
    assert scalar_from_wide((a + ORDER * 7).to_bytes(64, "little")) == A
    with pytest.raises(BadElement):
        scalar_invert(ZERO)


def test_products_and_sums_agree() -> None:
    assert base_mul(scalar_add(A, B)) == add(base_mul(A), base_mul(B))
    assert mul(A, add(P, Q)) == add(mul(A, P), mul(A, Q)) == weighted_sum([A, A], [P, Q])
    assert mul(scalar_mul(A, B), P) == mul(A, mul(B, P))
    assert mul(A, GENERATOR) == base_mul(A)


def test_no_two_inputs_of_a_hash_share_one_encoding() -> None:
    hashes = [
        wide_hash("ab", b"c"),
        wide_hash("a", b"bc"),
        wide_hash("ab", b"c", b""),
        wide_hash("ab", b"", b"c"),
        wide_hash("ab"),
    ]
    assert len(dict.fromkeys(hashes)) == len(hashes)
    assert hash_to_scalar("t", b"x") != hash_to_scalar("u", b"x")
    assert hash_to_point("t", b"x") != hash_to_point("u", b"x")


def test_encodings_are_compared() -> None:
    assert same(P, bytes(P))
    assert not same(P, Q)


def test_only_this_file_reaches_for_the_library() -> None:
    """In a fresh interpreter nothing of the package but ``core.group`` names rbcl."""
    source = Path(group.__file__).parents[1]
    found = [path.name for path in source.rglob("*.py") if "import rbcl" in path.read_text(encoding="utf-8")]
    assert found == ["group.py"]


def test_the_hash_seed_of_the_interpreter_changes_nothing() -> None:
    code = (
        "from carechain.core import group, quorum;"
        "print(group.SECOND.hex(), quorum.lagrange((3, 1, 2), 2).hex(),"
        " quorum.rebuild_commitments([(1, group.ONE), (2, group.ZERO)])[0].hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(group.__file__).parents[2])},
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(printed) == 1
