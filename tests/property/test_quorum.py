"""Goal: any t honest shares open a capsule and t - 1 give nothing, whoever else lies, and after any resharing.

Method: Hypothesis draws the number of holders, a threshold that fits, the liars and what each does, the holders that
answer, and the sizes of the next epochs. What is opened is put to use: a wrong key must be refused by what it locks.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carechain.core.group import ORDER, scalar_from_int
from carechain.core.quorum import (
    check_feldman,
    evaluate,
    lagrange,
    rebuild_commitments,
    threshold_fits,
    weigh_commitments,
)
from carechain.core.rejection import Rejected
from carechain.sealing import symmetric
from carechain.sealing.codes import SealingCode
from carechain.sealing.quorum.dealing import Polynomial
from carechain.sealing.quorum.release import accept_share
from quorum_ceremony import (
    RECORD_KEY,
    Epoch,
    Lie,
    asked,
    blinded,
    generate,
    logarithm_of,
    opened,
    reshare,
    sealed,
    seeded,
    shares_of,
    statement,
)

few = settings(max_examples=25)
NONCE, LOCKED = bytes(12), symmetric.seal(RECORD_KEY, nonce=bytes(12), plaintext=b"a record", context=b"")


@st.composite
def groups(draw: st.DrawFn, most: int = 6) -> tuple[int, int]:
    """A number of holders and a threshold that fits."""
    holders = draw(st.integers(2, most))
    return holders, draw(st.sampled_from([t for t in range(1, holders + 1) if threshold_fits(holders, t)]))


def unlocks(key: bytes) -> bool:
    """Whether the key opens the record."""
    try:
        return symmetric.open_sealed(key, nonce=NONCE, sealed=LOCKED, context=b"") == b"a record"
    except symmetric.CannotOpen:
        return False


def assert_quorum(epoch: Epoch, order: list[int]) -> None:
    """The first t in this order open it, and the first t - 1 do not, whatever they take for the threshold."""
    t, capsule, secret = epoch.threshold, sealed(epoch), blinded()
    question = asked(epoch, capsule, secret)
    shares = [accept_share(question, statement(epoch, one, capsule, secret), index=one) for one in order[:t]]
    assert unlocks(opened(epoch, shares, capsule, secret, t))
    with pytest.raises(Rejected) as refused:
        opened(epoch, shares[:-1], capsule, secret, t)
    assert refused.value.code is SealingCode.TOO_FEW_SHARES
    if t > 1:
        assert not unlocks(opened(epoch, shares[:-1], capsule, secret, t - 1))


@few
@given(groups(), st.data())
def test_any_t_open_and_fewer_do_not(group: tuple[int, int], data: st.DataObject) -> None:
    holders, threshold = group
    epoch = generate(holders, threshold, run=f"{holders}/{threshold}").done
    assert_quorum(epoch, data.draw(st.permutations(list(epoch.secrets))))


@few
@given(groups(most=7), st.data())
def test_liars_are_found_for_what_they_did_and_the_others_have_a_key(
    group: tuple[int, int], data: st.DataObject
) -> None:
    holders, threshold = group
    indices = list(range(1, holders + 1))
    liars = data.draw(st.lists(st.sampled_from(indices), unique=True, max_size=(holders - 1) // 3))
    lies = {liar: data.draw(st.sampled_from(list(Lie))) for liar in liars}
    honest = [index for index in indices if index not in lies]
    run = generate(holders, threshold, lies=lies, victim=data.draw(st.sampled_from(honest)))
    false_pairs = [liar for liar, lie in lies.items() if lie in {Lie.FALSE_PAIR, Lie.NO_SCALARS}]
    assert sorted(run.disqualified) == sorted(false_pairs)
    assert sorted(run.exposed) == sorted(set(lies) - set(false_pairs))
    assert_quorum(run.done, data.draw(st.permutations(honest)))


@few
@given(groups(most=5), groups(most=5), st.data())
def test_a_resharing_keeps_the_key_and_mixed_epochs_give_nothing(
    before: tuple[int, int], after: tuple[int, int], data: st.DataObject
) -> None:
    old = generate(*before, run="old").done
    new = reshare(old, *after, run="new").done
    assert new.public_key == old.public_key
    assert_quorum(new, data.draw(st.permutations(list(new.secrets))))
    # At the larger threshold, with at least one share from each epoch and every index once.
    count = max(old.threshold, new.threshold)
    from_old = data.draw(st.lists(st.sampled_from(list(old.secrets)), unique=True, min_size=1, max_size=count))
    rest = [index for index in new.secrets if index not in from_old]
    if len(from_old) >= old.threshold or not rest or min(old.threshold, new.threshold) == 1:
        return
    capsule, secret = sealed(old), blinded()
    from_new = rest[: max(1, count - len(from_old))]
    mixed = shares_of(old, from_old, capsule, secret) + shares_of(new, from_new, capsule, secret)
    with pytest.raises(Rejected) as refused:
        opened(old, mixed, capsule, secret, len(mixed))
    assert refused.value.code is SealingCode.SHARES_OF_DIFFERENT_EPOCHS
    pretended = [type(one)(epoch=1, index=one.index, point=one.point, proof=one.proof) for one in mixed]
    if len(from_new) < new.threshold:
        assert not unlocks(opened(old, pretended, capsule, secret, len(mixed)))


@few
@given(st.integers(1, 6), st.data())
def test_commitments_agree_with_the_polynomial_they_are_of(threshold: int, data: st.DataObject) -> None:
    polynomial = Polynomial(seeded(data.draw(st.integers())), ceremony=b"", threshold=threshold, use=b"p")
    images = polynomial.images()
    at = data.draw(st.lists(st.integers(1, 255), unique=True, min_size=threshold, max_size=threshold))
    other = data.draw(st.integers(1, 255))
    assert rebuild_commitments([(index, polynomial.value(index)) for index in at]) == images
    value = sum(
        int.from_bytes(lagrange(at, index, other), "little") * int.from_bytes(polynomial.value(index), "little")
        for index in at
    )
    assert scalar_from_int(value % ORDER) == polynomial.value(other)
    assert check_feldman(images, other, polynomial.value(other))
    dealt = [
        (
            index,
            Polynomial(
                seeded("again", index), ceremony=b"", threshold=2, use=b"p", constant=polynomial.value(index)
            ).images(),
        )
        for index in at
    ]
    assert weigh_commitments(dealt)[0] == images[0]
    assert evaluate(weigh_commitments(dealt), other) != images[0]


def test_three_resharings_in_a_row_keep_the_key() -> None:
    first = generate(4, 3).done
    epoch = first
    for number, (holders, threshold) in enumerate(((7, 5), (5, 3), (4, 2))):
        epoch = reshare(epoch, holders, threshold, run=f"row {number}").done
        assert logarithm_of(epoch) == logarithm_of(first)
        assert_quorum(epoch, list(epoch.secrets))
