"""Attacks on capsules and blindings. Every case: :mod:`attacks.conftest`.

Goal: a capsule opens under its own label or not at all, and a keyholder's answer is of use for the record that was
asked for alone. Method: writers, gatekeepers and requesters that cheat, against real keyholders on a real ledger.
"""

import asyncio
from hashlib import sha256

import pytest
from msgspec.structs import replace

from attacks.cast import blinding_with, remade
from carechain.contracts.records import SealedHashes
from carechain.core import group
from carechain.core.quorum import Blinding, Capsule, combined_point, label_bytes, lagrange
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.shares import KeyholderCode, SharesRefused, SharesRequest
from carechain.sealing.quorum.capsule import open_with, seal_key
from sealed_world import SealedWorld, Written, label_of
from world import Signer, anchor_of, anything, seeded


def refused(sealed: SealedWorld, code: KeyholderCode, request: SharesRequest, *, by: Signer | None = None) -> None:
    """No keyholder of five gives a share, and all say the same."""
    who = by or sealed.world.bert
    for label in "abcde":
        with pytest.raises(SharesRefused) as caught:
            sealed.ask(who, request, label)
        assert caught.value.code is code


# --- a writer that lies about what it anchored ------------------------------------------------------------


def test_capsule_moved_to_another_record(sealed: SealedWorld) -> None:
    """A writer anchors a copy of a restricted record's capsule as a harmless record, to have it opened."""
    secret = sealed.write("secret", sensitivity=Sensitivity.V)
    decoy = sealed.write("decoy", data=secret.data)
    refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), decoy))


def test_capsule_moved_to_another_pseudonym(sealed: SealedWorld) -> None:
    """Mary anchors Steve's capsule among her own records, which she may read."""
    mary = sealed.world.mary
    steves = sealed.write("steves")
    sealed.world.done(
        anchor_of(mary, "mine", sealed=SealedHashes(capsule=sealed_hash(steves), object=seeded("copy"))), by=mary
    )
    copy = Written(
        record=anchor_of(mary, "mine").record,
        version=1,
        label=label_of(mary.id, "mine"),
        capsule=steves.capsule,
        data=steves.data,
        key=steves.key,
    )
    reader = sealed.world.carl
    sealed.world.grant(anything(mary, reader), by=mary)
    ticket = sealed.ticket(by=reader, patient=mary)
    refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(ticket, copy, by=reader), by=reader)


def test_label_confusion_with_a_lower_grade(sealed: SealedWorld) -> None:
    """The same record, its capsule made for grade V, anchored as N; and with the label's hash exchanged in it too."""
    steve = sealed.world.steve.id
    graded = label_of(steve, "one", sensitivity=Sensitivity.V)
    confused = sealed.write("one", label=graded)
    refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), confused))
    honest = seal_key(
        sealed.key.public_key,
        label=label_of(steve, "two", sensitivity=Sensitivity.V),
        key=seeded("key"),
        entropy=seeded("entropy"),
    )
    forged = replace(honest, label=label_bytes(label_of(steve, "two")))
    other = sealed.write("two", data=forged.encode())
    refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), other))


def test_label_confusion_with_another_category_version_day_or_network(sealed: SealedWorld) -> None:
    """Every other part of the label, one at a time."""
    steve = sealed.world.steve.id
    for name, label in (
        ("category", label_of(steve, "category", category=Category.IMAGE)),
        ("version", label_of(steve, "version", version=2)),
        ("day", label_of(steve, "day", day=1)),
        ("network", replace(label_of(steve, "network"), chain_id="world-2")),
    ):
        written = sealed.write(name, label=label)
        refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), written))


def test_capsule_rerandomised_to_be_opened_as_another(sealed: SealedWorld) -> None:
    """R + s·G with the key's mask shifted alike would be a fresh capsule of the same key, under a label of choice."""
    secret = sealed.write("secret", sensitivity=Sensitivity.V).capsule
    s = group.hash_to_scalar("shift", b"")
    label = label_bytes(label_of(sealed.world.steve.id, "mine"))
    for number, moved in enumerate(
        (
            {"r_point": group.add(secret.r_point, group.base_mul(s)), "r_bar": group.add(secret.r_bar, shifted(s))},
            {
                "r_point": group.add(secret.r_point, group.base_mul(s)),
                "r_bar": group.add(secret.r_bar, shifted(s)),
                "response": group.scalar_add(secret.response, group.scalar_mul(secret.challenge, s)),
            },
            {"r_point": group.mul(s, secret.r_point), "r_bar": group.mul(s, secret.r_bar)},
            {"masked": bytes(a ^ 1 for a in secret.masked)},
        )
    ):
        forged = replace(secret, label=label, **moved)
        name = f"mine {number}"
        honest_label = replace(forged, label=label_bytes(label_of(sealed.world.steve.id, name)))
        written = sealed.write(name, data=honest_label.encode())
        refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), written))


def shifted(s: bytes) -> bytes:
    return group.mul(s, group.SECOND)


def sealed_hash(written: Written) -> bytes:
    """The anchored hash of a capsule."""
    return sha256(written.data).digest()


def test_identity_point_in_a_capsule(sealed: SealedWorld) -> None:
    """With R the identity the pad would be known to everybody, and a share of it tells about Q alone."""
    honest = sealed.write("honest").capsule
    top = bytes(31) + b"\x80"
    for number, (r_point, r_bar) in enumerate(((group.IDENTITY, group.IDENTITY), (top, top), (honest.r_point, top))):
        name = f"identity {number}"
        label = label_bytes(label_of(sealed.world.steve.id, name))
        forged = replace(honest, label=label, r_point=r_point, r_bar=r_bar)
        written = sealed.write(name, data=forged.encode())
        refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), written))


def test_non_canonical_point_or_scalar_in_a_capsule(sealed: SealedWorld) -> None:
    """A second spelling of a sound capsule: R with the highest bit set, a scalar plus the group's order."""
    for number, spelled in enumerate((high_bit, unreduced, zero_challenge)):
        name = f"spelling {number}"
        label = label_of(sealed.world.steve.id, name)
        honest = seal_key(sealed.key.public_key, label=label, key=seeded("key"), entropy=seeded("e", number))
        written = sealed.write(name, data=spelled(honest).encode())
        refused(sealed, KeyholderCode.CAPSULE_UNSOUND, sealed.request(sealed.ticket(), written))


def high_bit(capsule: Capsule) -> Capsule:
    return replace(capsule, r_point=capsule.r_point[:-1] + bytes([capsule.r_point[-1] | 0x80]))


def unreduced(capsule: Capsule) -> Capsule:
    value = int.from_bytes(capsule.response, "little") + group.ORDER
    return replace(capsule, response=value.to_bytes(32, "little"))


def zero_challenge(capsule: Capsule) -> Capsule:
    return replace(capsule, challenge=group.ZERO)


# --- a requester that wants more than it asks for ---------------------------------------------------------


def test_q_chosen_from_another_records_r(sealed: SealedWorld) -> None:
    """Q = R2 - R1 makes a share for record 1 one for record 2; also plus q·G, with the proof for the q known."""
    one, secret = sealed.write("one"), sealed.write("secret", sensitivity=Sensitivity.V)
    ticket = sealed.ticket()
    request = sealed.request(ticket, one)
    difference = group.sub(secret.capsule.r_point, one.capsule.r_point)
    difference_bar = group.sub(secret.capsule.r_bar, one.capsule.r_bar)
    q = group.hash_to_scalar("attacker", b"q")
    own = blinding_with(q, ticket, one, sealed.world.bert)
    for rogue in (
        Blinding(q_point=difference, q_bar=difference_bar, proof=request.items[0].blinding.proof),
        Blinding(
            q_point=group.add(difference, own.q_point), q_bar=group.add(difference_bar, own.q_bar), proof=own.proof
        ),
        Blinding(q_point=group.add(difference, own.q_point), q_bar=own.q_bar, proof=own.proof),
    ):
        refused(sealed, KeyholderCode.BLINDING_UNSOUND, remade(request, blinding=rogue))


def test_q_reused_for_two_records(sealed: SealedWorld) -> None:
    """Both proofs hold. Two shares under one Q differ by that of R1 - R2: who may read one has the other too."""
    one, two, ticket = sealed.write("one"), sealed.write("two"), sealed.ticket()
    q = group.hash_to_scalar("reused", b"q")
    request = sealed.request(ticket, one, two)
    items = tuple(
        remade(replace(request, items=(item,)), blinding=blinding_with(q, ticket, written, sealed.world.bert)).items[0]
        for item, written in zip(request.items, (one, two), strict=True)
    )
    refused(sealed, KeyholderCode.BLINDING_REPEATED, replace(request, items=items))


def test_q_in_a_second_spelling(sealed: SealedWorld) -> None:
    """The same Q with its highest bit set looks like another one to whoever compares bytes."""
    one, ticket = sealed.write("one"), sealed.ticket()
    own = blinding_with(group.hash_to_scalar("reused", b"q"), ticket, one, sealed.world.bert)
    spelled = replace(own, q_point=own.q_point[:-1] + bytes([own.q_point[-1] | 0x80]))
    refused(sealed, KeyholderCode.BLINDING_UNSOUND, remade(sealed.request(ticket, one), blinding=spelled))


def test_blinding_of_another_requester_replayed(sealed: SealedWorld) -> None:
    """Bina, who has a ticket of her own, sends what Bert had sent; she does not know his q, but might learn it."""
    world, one = sealed.world, sealed.write("one")
    world.grant(anything(world.steve, world.bina), by=world.steve)
    berts = sealed.request(sealed.ticket(), one)
    ticket = sealed.ticket(by=world.bina)
    hers = remade(sealed.request(ticket, one, by=world.bina), blinding=berts.items[0].blinding)
    refused(sealed, KeyholderCode.BLINDING_UNSOUND, hers, by=world.bina)


def test_blinding_of_an_older_ticket_replayed(sealed: SealedWorld) -> None:
    """What the requester itself had sent under the ticket before, q and all."""
    one = sealed.write("one")
    older = sealed.request(sealed.ticket(), one)
    newer = remade(sealed.request(sealed.ticket(), one), blinding=older.items[0].blinding)
    refused(sealed, KeyholderCode.BLINDING_UNSOUND, newer)


def test_identity_or_non_canonical_blinding(sealed: SealedWorld) -> None:
    """With Q the identity the answer would be x·R itself, for everybody who sees it."""
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    honest = request.items[0].blinding
    top, wide = bytes(31) + b"\x80", b"\xff" * 32
    for changed in (
        {"q_point": group.IDENTITY, "q_bar": group.IDENTITY},
        {"q_point": top, "q_bar": top},
        {"q_point": wide},
        {"q_bar": wide},
        {"proof": replace(honest.proof, challenge=group.ZERO, response=group.ZERO)},
        {"proof": replace(honest.proof, response=wide)},
    ):
        refused(sealed, KeyholderCode.BLINDING_UNSOUND, remade(request, blinding=replace(honest, **changed)))


def test_blinding_that_undoes_the_capsule(sealed: SealedWorld) -> None:
    """A writer knows r and can prove Q = -R: the answer would be the identity, whose proof says what x is not."""
    one, ticket = sealed.write("one"), sealed.ticket()
    r = group.hash_to_scalar(
        "carechain/capsule-secret/1", seeded("capsule", "one", 1), one.key, sealed.key.public_key, one.capsule.label
    )
    assert group.base_mul(r) == one.capsule.r_point
    undone = blinding_with(group.scalar_negate(r), ticket, one, sealed.world.bert)
    refused(sealed, KeyholderCode.BLINDED_TO_NOTHING, remade(sealed.request(ticket, one), blinding=undone))


# --- too few shares ---------------------------------------------------------------------------------------


def test_two_of_five_shares(sealed: SealedWorld) -> None:
    """Two keyholders that hand their secrets to the attacker, who also knows every public key and its own ticket."""
    one = sealed.write("one")
    stolen = [sealed.secrets[label].by_epoch[1] for label in "ab"]
    indices = tuple(share.index for share in stolen)
    released = group.IDENTITY
    for share in stolen:
        part = group.mul(share.scalar, one.capsule.r_point)
        released = group.add(released, group.mul(lagrange(indices, share.index), part))
    assert open_with(one.capsule, public_key=sealed.key.public_key, shared=released) != one.key
    # With a third holder's public key, or made-up number, in the place of its share: still nothing.
    for guess in (*(seat.key for seat in sealed.key.holders), one.capsule.r_bar, one.capsule.r_point):
        third = (*indices, 3)
        points = [group.mul(share.scalar, one.capsule.r_point) for share in stolen]
        total = group.weighted_sum([lagrange(third, index) for index in third], [*points, guess])
        assert open_with(one.capsule, public_key=sealed.key.public_key, shared=total) != one.key
    gatherer = sealed.gatherer(holders=sealed.direct()[:2])
    with pytest.raises(NotEnoughShares):
        asyncio.run(gatherer.keys(sealed.ticket(), [one.to_release()]))


def test_old_epochs_share_mixed_with_new_ones(sealed: SealedWorld) -> None:
    """A thief takes two shares in each of two epochs: four scalars, of which three would do in one epoch."""
    one = sealed.write("one")
    old = {share.index: share.scalar for share in (sealed.secrets[label].by_epoch[1] for label in "ab")}
    sealed.install(epoch=2)
    new = {share.index: share.scalar for share in (sealed.secrets[label].by_epoch[2] for label in "cd")}
    for chosen in ({**old, 3: new[3]}, {1: old[1], **new}, {**old, **new}):
        points = {index: group.mul(scalar, one.capsule.r_point) for index, scalar in chosen.items()}
        shared = group.weighted_sum([lagrange(tuple(points), index) for index in points], list(points.values()))
        assert open_with(one.capsule, public_key=sealed.key.public_key, shared=shared) != one.key
    # Three of the new epoch do, and the key is the one it always was.
    points = {}
    for label in "cde":
        share = sealed.secrets[label].by_epoch[2]
        points[share.index] = group.mul(share.scalar, one.capsule.r_point)
    shared = group.weighted_sum([lagrange(tuple(points), index) for index in points], list(points.values()))
    assert open_with(one.capsule, public_key=sealed.key.public_key, shared=shared) == one.key


def test_keyholder_that_was_put_out_answers_with_its_old_share(sealed: SealedWorld) -> None:
    """Its door still runs, on a replica that has heard of the new epoch."""
    world = sealed.world
    request = sealed.request(sealed.ticket(), sealed.write("one"))
    kept = dict(sealed.secrets["a"].by_epoch)
    sealed.install(epoch=2, members=[world.b, world.c, world.d, world.e, world.f])
    sealed.secrets["a"].by_epoch = kept
    with pytest.raises(SharesRefused) as caught:
        sealed.ask(world.bert, request, "a")
    assert caught.value.code is KeyholderCode.NO_SHARE


def test_answers_overheard_without_q(sealed: SealedWorld) -> None:
    """Somebody sees three answers in the clear and puts them together as the requester would, but does not know q."""
    one, ticket = sealed.write("one"), sealed.ticket()
    request = sealed.request(ticket, one)
    points = {}
    for label in "abc":
        (signed,) = sealed.opened(sealed.ask(sealed.world.bert, request, label), ticket)
        points[signed.statement.share.index] = signed.statement.share.point
        assert signed.statement.combined == combined_point(one.capsule, request.items[0].blinding)
    together = group.weighted_sum([lagrange(tuple(points), index) for index in points], list(points.values()))
    q_point = request.items[0].blinding.q_point
    for guess in (together, group.sub(together, q_point), group.sub(together, sealed.key.public_key)):
        assert open_with(one.capsule, public_key=sealed.key.public_key, shared=guess) != one.key
