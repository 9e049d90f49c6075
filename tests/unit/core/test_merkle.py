"""Goal: the tree of RFC 6962 section 2.1, its audit paths, and nothing that could pass for them.

Method: the test vectors published with Certificate Transparency (eight leaves, its roots and paths), every size up to
70, and paths tampered with in every position.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.core.merkle import BadProof, check, leaf_hash, prove, root

LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("count", range(9))
def test_published_roots(count: int) -> None:
    assert root([leaf_hash(leaf) for leaf in LEAVES[:count]]).hex() == ROOTS[count]


def test_a_published_path() -> None:
    """The path of the sixth of eight leaves."""
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    assert [one.hex() for one in prove(hashes, 5)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("count", range(1, 71))
def test_every_leaf_of_every_size_is_proved(count: int) -> None:
    hashes = [leaf_hash(number.to_bytes(2, "big")) for number in range(count)]
    top = root(hashes)
    for index in range(count):
        path = prove(hashes, index)
        check(leaf=hashes[index], index=index, count=count, path=path, expected_root=top)
        assert len(path) <= (count - 1).bit_length()


@given(st.integers(1, 70), st.data())
def test_nothing_else_passes(count: int, data: st.DataObject) -> None:
    hashes = [leaf_hash(number.to_bytes(2, "big")) for number in range(count)]
    top, index = root(hashes), data.draw(st.integers(0, count - 1))
    path = prove(hashes, index)
    attempt = {"leaf": hashes[index], "index": index, "count": count, "path": path, "expected_root": top}
    wrong: list[dict[str, object]] = [
        {"leaf": leaf_hash(b"another")},
        {"index": count},
        {"index": -1},
        {"path": [*path, bytes(32)]},
        {"expected_root": bytes(32)},
    ]
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        wrong += [
            {"path": path[:-1]},
            {"path": [*path[:at], bytes([path[at][0] ^ bit]) + path[at][1:], *path[at + 1 :]]},
            {"path": [*path[:at], path[at][:-1], *path[at + 1 :]]},
            {"index": (index + 1) % count},
        ]
    for changed in wrong:
        with pytest.raises(BadProof):
            check(**attempt | changed)


def test_a_node_is_never_taken_for_a_leaf() -> None:
    """Second preimage: the inner node of two leaves, presented as the data of one."""
    one, two = leaf_hash(b"1"), leaf_hash(b"2")
    assert root([one, two]) != leaf_hash(one + two)
    assert root([one]) == one


def test_order_and_repetition_count() -> None:
    one, two = leaf_hash(b"1"), leaf_hash(b"2")
    assert root([one, two]) != root([two, one])
    assert root([one, two, two]) != root([one, two])


@pytest.mark.parametrize(("count", "index"), [(0, 0), (3, 3), (3, -1)])
def test_there_is_no_path_for_a_leaf_outside(count: int, index: int) -> None:
    with pytest.raises(IndexError):
        prove([leaf_hash(b"x")] * count, index)
