"""Goal: t sound answers to one question open the capsule; anything else is refused, each with its own code.

Method: capsules and shares of a key of four holders, t = 3; every code has its row, and what a keyholder could send
instead of its share is tried.
"""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from carechain.core.group import (
    GENERATOR,
    IDENTITY,
    BadElement,
    add,
    base_mul,
    hash_to_point,
    hash_to_scalar,
    mul,
    sub,
)
from carechain.core.quorum import BadProof, check_statement
from carechain.core.rejection import Rejected
from carechain.sealing.codes import SealingCode
from carechain.sealing.quorum.capsule import open_with, seal_key
from carechain.sealing.quorum.proofs import prove_dleq
from carechain.sealing.quorum.release import (
    BlindingSecret,
    accept_share,
    combine,
    make_share,
    read_capsule,
)
from quorum_ceremony import (
    CHAIN,
    LABEL,
    RECORD,
    RECORD_KEY,
    SENDER,
    TICKET,
    altered,
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

EPOCH = generate(4, 3).done
NEXT = reshare(EPOCH, 4, 3).done
CAPSULE = sealed(EPOCH)
BLINDED = blinded()
ASKED = asked(EPOCH, CAPSULE, BLINDED)
SHARES = shares_of(EPOCH, [1, 2, 3, 4], CAPSULE, BLINDED)
BASE = hash_to_point("test/base")


def refused_with(code: SealingCode, attempt: Callable[[], object]) -> None:
    with pytest.raises(Rejected) as refused:
        attempt()
    assert refused.value.code is code


# --- capsules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "data", "label"),
    [
        (SealingCode.CAPSULE_FORM, b"", LABEL),
        (SealingCode.CAPSULE_FORM, CAPSULE.encode() + b"\x00", LABEL),
        (SealingCode.CAPSULE_NEWER, replace(CAPSULE, version=2).encode(), LABEL),
        (SealingCode.CAPSULE_OTHER_LABEL, CAPSULE.encode(), replace(LABEL, sensitivity=5)),
        (SealingCode.CAPSULE_OTHER_LABEL, replace(CAPSULE, label=altered(CAPSULE.label)).encode(), LABEL),
        (SealingCode.CAPSULE_UNPROVED, replace(CAPSULE, masked=altered(CAPSULE.masked)).encode(), LABEL),
        (SealingCode.CAPSULE_UNPROVED, replace(CAPSULE, r_point=BASE).encode(), LABEL),
        (SealingCode.CAPSULE_UNPROVED, replace(CAPSULE, challenge=altered(CAPSULE.challenge)).encode(), LABEL),
    ],
)
def test_a_capsule_that_is_not_this_records_is_refused(code: SealingCode, data: bytes, label: Any) -> None:
    assert read_capsule(CAPSULE.encode(), LABEL) == CAPSULE
    refused_with(code, lambda: read_capsule(data, label))


def test_the_key_behind_the_capsule_opens_it_and_no_other() -> None:
    shared = mul(logarithm_of(EPOCH), CAPSULE.r_point)
    assert open_with(CAPSULE, public_key=EPOCH.public_key, shared=shared) == RECORD_KEY
    assert open_with(CAPSULE, public_key=EPOCH.public_key, shared=BASE) != RECORD_KEY
    assert open_with(CAPSULE, public_key=BASE, shared=shared) != RECORD_KEY
    assert open_with(replace(CAPSULE, label=seeded("x")), public_key=EPOCH.public_key, shared=shared) != RECORD_KEY


def test_capsules_of_one_entropy_have_nothing_in_common() -> None:
    """A broken source of randomness must not show which records have one key, or give away the mask."""
    others = [
        sealed(EPOCH, key=seeded("other key")),
        sealed(EPOCH, label=replace(LABEL, version=2)),
        sealed(EPOCH, entropy=seeded("other")),
        seal_key(BASE, label=LABEL, key=RECORD_KEY, entropy=seeded("seal")),
    ]
    assert sealed(EPOCH) == CAPSULE, "the same arguments, the same capsule"
    assert len(dict.fromkeys(one.r_point for one in (CAPSULE, *others))) == 5
    assert len(dict.fromkeys(one.masked for one in (CAPSULE, *others))) == 5


@pytest.mark.parametrize("words", [{"key": bytes(31)}, {"entropy": bytes(31)}, {"key": b""}, {"entropy": bytes(33)}])
def test_key_and_entropy_have_32_bytes(words: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sealed(EPOCH, **words)
    with pytest.raises(ValueError, match="32 random bytes"):
        blinded(bytes(31))


@pytest.mark.parametrize("public_key", [IDENTITY, bytes.fromhex("01" + "00" * 31)])
def test_nothing_is_sealed_to_what_is_no_key(public_key: bytes) -> None:
    with pytest.raises(BadElement):
        seal_key(public_key, label=LABEL, key=RECORD_KEY, entropy=seeded("seal"))


# --- shares -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "bend"),
    [
        (SealingCode.SHARE_OF_ANOTHER_REQUEST, lambda s: replace(s, ticket=seeded("x"))),
        (SealingCode.SHARE_OF_ANOTHER_REQUEST, lambda s: replace(s, record=seeded("x"))),
        (SealingCode.SHARE_OF_ANOTHER_REQUEST, lambda s: replace(s, version=2)),
        (SealingCode.SHARE_OF_ANOTHER_EPOCH, lambda s: replace(s, share=replace(s.share, epoch=2))),
        (SealingCode.SHARE_OF_ANOTHER_HOLDER, lambda s: replace(s, share=replace(s.share, index=1))),
        (SealingCode.SHARE_OF_ANOTHER_HOLDER, lambda s: replace(s, share=replace(s.share, index=0))),
        (SealingCode.SHARE_OF_ANOTHER_POINT, lambda s: replace(s, combined=BASE)),
        (SealingCode.SHARE_FALSE, lambda s: replace(s, share=replace(s.share, point=BASE))),
        (SealingCode.SHARE_FALSE, lambda s: replace(s, share=replace(s.share, point=IDENTITY))),
        (SealingCode.SHARE_FALSE, lambda s: replace(s, share=replace(s.share, proof=SHARES[2].proof))),
    ],
)
def test_a_share_that_is_not_the_answer_is_refused(code: SealingCode, bend: Callable[[Any], Any]) -> None:
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    assert accept_share(ASKED, sound, index=2) == SHARES[1]
    refused_with(code, lambda: accept_share(ASKED, bend(sound), index=2))


def test_a_share_in_the_name_of_nobody_is_refused() -> None:
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    stranger = replace(sound, share=replace(sound.share, index=9))
    refused_with(SealingCode.SHARE_OF_ANOTHER_HOLDER, lambda: accept_share(ASKED, stranger, index=9))


def test_a_lie_with_a_proof_for_another_secret_convicts_its_maker() -> None:
    """The holder multiplies with another number and proves that: the ledger compares with its public key."""
    lie = hash_to_scalar("test/lie")
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    false = make_share(
        replace_scalar(2, lie),
        holder_key=EPOCH.keys[2],
        chain_id=CHAIN,
        ticket=TICKET,
        record=RECORD,
        version=1,
        combined=sound.combined,
        entropy=seeded("x"),
    )
    told = replace(sound, share=false)
    refused_with(SealingCode.SHARE_FALSE, lambda: accept_share(ASKED, told, index=2))
    with pytest.raises(BadProof):
        check_statement(CHAIN, told, holder_key=EPOCH.keys[2])


def replace_scalar(index: int, scalar: bytes) -> Any:
    secret = EPOCH.secrets[index]
    return type(secret)(secret.epoch, secret.index, scalar)


def test_a_blinding_that_cancels_the_capsule_is_refused() -> None:
    cancelling = replace(BLINDED.blinding, q_point=sub(IDENTITY, CAPSULE.r_point))
    hostile = replace(ASKED, blinding=cancelling)
    sound = statement(EPOCH, 2, CAPSULE, BLINDED)
    refused_with(SealingCode.BLINDED_TO_NOTHING, lambda: accept_share(hostile, sound, index=2))
    with pytest.raises(BadElement):
        make_share(
            EPOCH.secrets[2],
            holder_key=EPOCH.keys[2],
            chain_id=CHAIN,
            ticket=TICKET,
            record=RECORD,
            version=1,
            combined=IDENTITY,
            entropy=seeded("x"),
        )


def test_the_proofs_of_one_holder_never_share_their_one_time_secret() -> None:
    """Two proofs with one commitment would give the share away: here entropy repeats, or everything else does."""
    secret, other = EPOCH.secrets[1], blinded(seeded("other"))
    proofs = []
    for blinding, ticket, entropy in (
        (BLINDED, TICKET, b""),
        (other, TICKET, b""),
        (BLINDED, SENDER, b""),
        (BLINDED, TICKET, seeded("e")),
    ):
        combined = add(CAPSULE.r_point, blinding.blinding.q_point)
        share = make_share(
            secret,
            holder_key=EPOCH.keys[1],
            chain_id=CHAIN,
            ticket=ticket,
            record=RECORD,
            version=1,
            combined=combined,
            entropy=entropy,
        )
        committed = sub(base_mul(share.proof.response), mul(share.proof.challenge, EPOCH.keys[1]))
        proofs.append((committed, share.proof.response))
    assert len(dict.fromkeys(committed for committed, _ in proofs)) == 4
    assert len(dict.fromkeys(response for _, response in proofs)) == 4


# --- combining --------------------------------------------------------------------------------------------


def open_from(shares: list[Any], threshold: int = 3, **changed: Any) -> bytes:
    words: dict[str, Any] = {"secret": BLINDED, "public_key": EPOCH.public_key, "capsule": CAPSULE}
    return combine(shares, threshold=threshold, **(words | changed))


def test_any_three_open_it_in_any_order() -> None:
    for chosen in ((0, 1, 2), (3, 1, 0), (2, 3, 1), (0, 1, 2, 3)):
        assert open_from([SHARES[place] for place in chosen]) == RECORD_KEY


@pytest.mark.parametrize(
    ("code", "shares", "threshold"),
    [
        (SealingCode.TOO_FEW_SHARES, [], 3),
        (SealingCode.TOO_FEW_SHARES, SHARES[:2], 3),
        (SealingCode.TOO_FEW_SHARES, SHARES, 0),
        (SealingCode.SHARE_REPEATED, [SHARES[0], SHARES[1], SHARES[0]], 3),
        (SealingCode.SHARES_OF_DIFFERENT_EPOCHS, [*SHARES[:2], *shares_of(NEXT, [3], CAPSULE, BLINDED)], 3),
        (SealingCode.SHARE_FALSE, [*SHARES[:2], replace(SHARES[2], point=bytes.fromhex("01" + "00" * 31))], 3),
    ],
)
def test_shares_that_do_not_combine_are_refused(code: SealingCode, shares: list[Any], threshold: int) -> None:
    refused_with(code, lambda: open_from(shares, threshold))


def test_shares_that_cancel_the_blinding_are_refused() -> None:
    """Only lying holders together can make this; none of their shares would have been accepted."""
    target = mul(hash_to_scalar("carechain/none"), GENERATOR)
    wanted = sub(target, BLINDED.taken_off(target, public_key=EPOCH.public_key))
    single = replace(SHARES[0], point=wanted)
    refused_with(SealingCode.BLINDED_TO_NOTHING, lambda: open_from([single], 1))


def test_mixed_epochs_that_hide_it_give_another_key() -> None:
    later = replace(shares_of(NEXT, [3], CAPSULE, BLINDED)[0], epoch=EPOCH.number)
    assert open_from([*SHARES[:2], later]) != RECORD_KEY
    assert opened(NEXT, shares_of(NEXT, [1, 2, 4], CAPSULE, BLINDED), CAPSULE, BLINDED, 3) == RECORD_KEY


def test_the_shares_are_of_no_use_to_who_does_not_know_q() -> None:
    """Somebody who sees all answers, the holders' operators together below t included, gets another key."""
    other = blinded(seeded("eavesdropper"))
    assert open_from(SHARES, secret=other) != RECORD_KEY
    nobody = type("NoBlinding", (), {"taken_off": lambda _, released, **__: released})()
    assert open_from(SHARES, secret=nobody) != RECORD_KEY


def test_two_records_never_have_one_q() -> None:
    """Even when the randomness repeats: two answers under one q would give away their difference."""
    words: dict[str, Any] = {"chain_id": CHAIN, "ticket": TICKET, "record": RECORD, "version": 1, "sender": SENDER}
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"record": seeded("2")},
        {"version": 2},
        {"ticket": seeded("2")},
        {"sender": seeded("2")},
        {"chain_id": "other"},
    )
    points = [BlindingSecret(**(words | change), entropy=bytes(32)).blinding.q_point for change in changes]
    assert len(dict.fromkeys(points)) == len(points)


def test_a_false_statement_is_proved_by_nobody() -> None:
    """With the true share in hand a proof for another point still fails: the proof is sound, not only the maker."""
    combined = add(CAPSULE.r_point, BLINDED.blinding.q_point)
    proof = prove_dleq(
        EPOCH.secrets[1].scalar,
        context=seeded("x"),
        base1=GENERATOR,
        value1=EPOCH.keys[1],
        base2=combined,
        value2=BASE,
        entropy=b"",
    )
    told = statement(EPOCH, 1, CAPSULE, BLINDED)
    told = replace(told, share=replace(told.share, point=BASE, proof=proof))
    refused_with(SealingCode.SHARE_FALSE, lambda: accept_share(ASKED, told, index=1))
