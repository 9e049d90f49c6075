"""Goal: a proven answer is about what was asked, whole where it promises one row, and carries nothing unproven.

Method: the answers of a world in memory with real proofs and a header that its block producer signed; then what a
lying node could put together from true entries and true headers, one lie per row.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.header import Header, SealedHeader, receipt_root, signing_bytes, tx_root
from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import (
    AnchorLine,
    GrantPage,
    HistoryPage,
    OfEpoch,
    OfOrganisation,
    OfParty,
    OfPseudonym,
    OfRecord,
    OfTicket,
    TimelinePage,
)
from carechain.chain.receipts import describe, encode_receipt
from carechain.chain.tx import parse
from carechain.contracts.access import EMPTY_LOG, RequestAccess
from carechain.contracts.records import ConfirmErasure, Erase
from carechain.contracts.recovery import NO_POLICY
from carechain.contracts.relationships import PutSummary
from carechain.core import merkle
from carechain.core.codec import encode
from carechain.core.limits import SUMMARY_BUCKET_BYTES
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Purpose
from carechain.sdk.answers import Inclusion, NamedRow, ProvenEntry, QueryAnswer, ShownReceipt, decode_answer
from carechain.sdk.proofs import (
    ABOUT_ONE,
    PROVABLE,
    Network,
    NotProven,
    verify_answer,
    verify_header,
    verify_inclusion,
)
from ceremonies import Player, make_key
from recoveries import guard, start_of
from world import CHAIN_ID, RESULTS, Actor, Signer, World, anchor_of, anything, fresh, grant_of, record_id


@pytest.fixture(scope="module")
def world() -> World:
    """Steve has three records, one in two versions, a grant that ended and a ticket of Bert's; the key was reshared.

    The registrar and a guardian have each begun to replace his key.
    """
    world = fresh()
    players = [Player(one) for one in world.members]
    make_key(world, players)
    make_key(world, players)
    world.grant(anything(world.steve, world.a), by=world.steve)
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    world.grant(grant_of(world.steve, world.bina, expires_s=world.time_s + 10), by=world.steve)
    world.wait(100)
    world.done(*[anchor_of(world.steve, name) for name in ("r", "s", "t")], by=world.carl)
    world.done(anchor_of(world.steve, "r", version=2, root=bytes(32)), by=world.carl)
    world.done(Erase(pseudonym=world.steve.id, record=record_id("t")), by=world.steve)
    world.done(ConfirmErasure(pseudonym=world.steve.id, record=record_id("t"), destroyed=12), by=world.a)
    world.done(PutSummary(pseudonym=world.steve.id, sealed=bytes(SUMMARY_BUCKET_BYTES)), by=world.steve)
    world.done(start_of(world.steve, Actor("another key")), by=world.a)
    guard(world, world.steve, world.bert, wait_s=DAY_S)
    world.done(start_of(world.steve, Actor("a third key"), attempt=1), by=world.bert)
    return world


@pytest.fixture(scope="module")
def ticket(world: World) -> bytes:
    message = RequestAccess(pseudonym=world.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
    return world.request(message, by=world.bert).ticket


def sealed(world: World, **changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "chain_id": CHAIN_ID,
        "height": world.height,
        "time_s": world.time_s,
        "previous": bytes(32),
        "tx_count": 0,
        "tx_root": tx_root(()),
        "receipt_root": receipt_root([]),
        "app_hash": world.snapshot.root_hash,
        "producer": world.a.id,
    }
    header = Header(**fields | changed)
    return encode(SealedHeader(header, world.a.signing.sign(signing_bytes(header))))


def answer(world: World, name: str, args: Struct, *, by: Signer | None = None) -> QueryAnswer:
    """What an honest node answers with proofs, as the client decodes it."""
    who = by or world.steve
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    party = view.contracts.membership.party(who.id)
    assert party is not None
    found = ask(view, Asker(who.id, party), name, args)
    shown = QueryAnswer(
        height=world.height,
        time_s=world.time_s,
        app_hash=world.snapshot.root_hash,
        rows=found.rows,
        after=found.after,
        sealed=sealed(world),
        proofs=entries(world, found.keys()),
    )
    return decode_answer(name, msgspec.msgpack.encode(shown))


def entries(world: World, keys: Sequence[bytes]) -> tuple[ProvenEntry, ...]:
    return tuple(
        ProvenEntry(key=key, value=world.snapshot.get(key), proof=world.snapshot.prove(key).to_bytes()) for key in keys
    )


def every_query(world: World, ticket: bytes) -> dict[str, Struct]:
    steve, record = world.steve.id, record_id("r")
    return {
        "membership.member": OfOrganisation(world.b.id),
        "membership.party": OfParty(world.carl.id),
        "relationships.relation": OfPseudonym(steve),
        "relationships.summary": OfPseudonym(steve),
        "consent.grants": GrantPage(steve),
        "records.anchor": OfRecord(steve, record),
        "records.erasure": OfRecord(steve, record_id("t")),
        "records.history": HistoryPage(steve, record),
        "records.timeline": TimelinePage(steve),
        "access.ticket": OfTicket(ticket),
        "access.log_head": OfPseudonym(steve),
        "keyring.key": OfEpoch(),
        "recovery.policy": OfPseudonym(steve),
        "recovery.pending": OfPseudonym(steve),
    }


def test_every_provable_answer_is_proven(world: World, ticket: bytes) -> None:
    network, queries = Network.of(world.genesis), every_query(world, ticket)
    assert set(queries) == set(PROVABLE)
    for name, args in queries.items():
        true = answer(world, name, args)
        proven = verify_answer(name, args, true, network)
        assert (proven.height, proven.time_s) == (world.height, world.time_s)
        assert len(proven.rows) == len(true.rows) > 0
        assert (len(true.rows) == 1) >= (name in ABOUT_ONE)
        if name != "consent.grants":
            assert proven.rows == true.rows


def test_where_one_row_is_promised_nothing_else_is_an_answer(world: World, ticket: bytes) -> None:
    network, queries = Network.of(world.genesis), every_query(world, ticket)
    for name in ABOUT_ONE:
        args = queries[name]
        true = answer(world, name, args)
        for rows in ((), true.rows * 2):
            with pytest.raises(NotProven, match="one row"):
                verify_answer(name, args, replace(true, rows=rows), network)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("membership.member", {"id": b"\x01" * 32}),
        ("membership.party", {"id": b"\x01" * 32}),
        ("consent.grants", {"pseudonym": b"\x01" * 32}),
        ("records.anchor", {"record": b"\x01" * 32}),
        ("records.history", {"record": b"\x01" * 32}),
        ("records.erasure", {"record": b"\x01" * 32}),
        ("access.ticket", {"id": b"\x01" * 32}),
    ],
)
def test_a_row_carries_the_id_that_was_asked_about(
    world: World, ticket: bytes, name: str, wrong: dict[str, bytes]
) -> None:
    args = every_query(world, ticket)[name]
    true = answer(world, name, args)
    lie = replace(true, rows=(replace(true.rows[0], **wrong), *true.rows[1:]))
    with pytest.raises(NotProven, match="something else"):
        verify_answer(name, args, lie, Network.of(world.genesis))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("consent.grants", {"grant_id": b"short"}),
        ("records.timeline", {"record": b""}),
        ("records.timeline", {"version": -1}),
        ("records.anchor", {"version": 1 << 32}),
        ("records.anchor", {"version": (1 << 32) - 1}),
        ("recovery.pending", {"number": 1 << 32}),
    ],
)
def test_a_row_that_cannot_be_is_not_proven(world: World, ticket: bytes, name: str, wrong: dict[str, Any]) -> None:
    args = every_query(world, ticket)[name]
    true = answer(world, name, args)
    lie = replace(true, rows=(replace(true.rows[0], **wrong), *true.rows[1:]))
    with pytest.raises(NotProven, match="cannot be on the ledger"):
        verify_answer(name, args, lie, Network.of(world.genesis))


def test_an_older_version_is_not_the_latest(world: World) -> None:
    network, args = Network.of(world.genesis), OfRecord(world.steve.id, record_id("r"))
    true = answer(world, "records.anchor", args)
    assert (true.rows[0].version, true.proofs[1].value) == (2, None)
    verify_answer("records.anchor", args, true, network)
    history = answer(world, "records.history", HistoryPage(world.steve.id, record_id("r")))
    older: AnchorLine = history.rows[0]
    proven = {one.key: one for one in (*true.proofs, *history.proofs)}
    with pytest.raises(NotProven):
        verify_answer("records.anchor", args, replace(true, rows=(older,), proofs=tuple(proven.values())), network)
    with pytest.raises(NotProven, match="no proof"):
        verify_answer("records.anchor", args, replace(true, proofs=true.proofs[:1]), network)


def test_whether_a_record_was_erased_cannot_be_invented_or_hidden(world: World) -> None:
    args, network = TimelinePage(world.steve.id), Network.of(world.genesis)
    true = answer(world, "records.timeline", args)
    erased = {line.record for line in true.rows if line.erased is not None}
    assert erased == {record_id("t")}
    (order,) = (line.erased for line in true.rows if line.erased is not None)
    hidden = tuple(replace(line, erased=None) for line in true.rows)
    invented = tuple(replace(line, erased=order) for line in true.rows)
    moved = tuple(replace(line, erased=line.erased and replace(order, ordered_s=1)) for line in true.rows)
    halved = tuple(replace(line, erased=order if line.version == 1 else None) for line in true.rows)
    for rows in (hidden, invented, moved, halved):
        with pytest.raises(NotProven):
            verify_answer("records.timeline", args, replace(true, rows=rows), network)


def test_a_receipt_cannot_be_invented_or_altered(world: World) -> None:
    args, network = OfRecord(world.steve.id, record_id("t")), Network.of(world.genesis)
    true = answer(world, "records.erasure", args)
    (line,) = true.rows
    (receipt,) = line.receipts
    other = replace(receipt, organisation=world.b.id)
    more = replace(receipt, receipt=replace(receipt.receipt, destroyed=31))
    for receipts in ((receipt, other), (other,), (more,), (receipt, receipt)):
        with pytest.raises(NotProven):
            verify_answer("records.erasure", args, replace(true, rows=(replace(line, receipts=receipts),)), network)


def test_an_epoch_before_is_not_the_one_in_force(world: World) -> None:
    network = Network.of(world.genesis)
    before, now = answer(world, "keyring.key", OfEpoch(epoch=1)), answer(world, "keyring.key", OfEpoch())
    assert (before.rows[0].epoch, now.rows[0].epoch) == (1, 2)
    verify_answer("keyring.key", OfEpoch(epoch=1), before, network)
    old = replace(now, rows=before.rows, proofs=(*before.proofs, *now.proofs))
    with pytest.raises(NotProven):
        verify_answer("keyring.key", OfEpoch(), old, network)
    with pytest.raises(NotProven, match="something else"):
        verify_answer("keyring.key", OfEpoch(epoch=2), before, network)


def test_whether_a_grant_is_live_is_not_handed_on(world: World) -> None:
    network, args = Network.of(world.genesis), GrantPage(world.steve.id)
    true = answer(world, "consent.grants", args)
    assert {one.live for one in true.rows} == {True, False}
    lie = replace(true, rows=tuple(replace(one, live=not one.live) for one in true.rows))
    proven = verify_answer("consent.grants", args, true, network)
    assert verify_answer("consent.grants", args, lie, network) == proven
    assert proven.rows == tuple(NamedRow(one.grant_id, one.grant) for one in true.rows)


@pytest.mark.parametrize("name", ["consent.grants", "records.history", "records.timeline", "recovery.pending"])
def test_a_row_is_there_once_and_in_order(world: World, ticket: bytes, name: str) -> None:
    args = every_query(world, ticket)[name]
    true = answer(world, name, args)
    for rows in ((true.rows[0], *true.rows), true.rows[::-1]):
        with pytest.raises(NotProven, match="twice or out of order"):
            verify_answer(name, args, replace(true, rows=rows), Network.of(world.genesis))


def test_an_empty_log_is_proven_by_absence(world: World) -> None:
    args = OfPseudonym(world.mary.id)
    empty = answer(world, "access.log_head", args, by=world.mary)
    assert empty.rows == (EMPTY_LOG,)
    assert verify_answer("access.log_head", args, empty, Network.of(world.genesis)).rows == (EMPTY_LOG,)
    with pytest.raises(NotProven):
        verify_answer(
            "access.log_head", OfPseudonym(world.steve.id), replace(empty, proofs=()), Network.of(world.genesis)
        )


def test_that_no_policy_was_ever_set_is_proven_by_absence(world: World) -> None:
    args, network = OfPseudonym(world.mary.id), Network.of(world.genesis)
    none = answer(world, "recovery.policy", args, by=world.mary)
    assert none.rows == (NO_POLICY,)
    assert verify_answer("recovery.policy", args, none, network).rows == (NO_POLICY,)
    with pytest.raises(NotProven):
        verify_answer("recovery.policy", OfPseudonym(world.steve.id), replace(none, proofs=()), network)


def test_a_recovery_cannot_be_invented_or_altered(world: World) -> None:
    args, network = OfPseudonym(world.steve.id), Network.of(world.genesis)
    true = answer(world, "recovery.pending", args)
    first, second = true.rows
    moved = replace(second, number=2)
    altered = replace(second, attempt=replace(second.attempt, public_key=first.attempt.public_key))
    for other in (moved, altered):
        with pytest.raises(NotProven):
            verify_answer("recovery.pending", args, replace(true, rows=(first, other)), network)


def test_who_may_recover_cannot_be_altered_or_left_out(world: World) -> None:
    args, network = OfPseudonym(world.steve.id), Network.of(world.genesis)
    true = answer(world, "recovery.policy", args)
    (row,) = true.rows
    assert (row.attempts, row.coming is not None) == (2, True)
    for lie in ((NO_POLICY,), (replace(row, coming=None),), (replace(row, attempts=0),), ()):
        with pytest.raises(NotProven):
            verify_answer("recovery.policy", args, replace(true, rows=lie), network)


def test_a_header_of_an_unknown_version_is_not_read(world: World) -> None:
    verify_header(sealed(world), Network.of(world.genesis))
    with pytest.raises(NotProven, match="version"):
        verify_header(sealed(world, version=2), Network.of(world.genesis))


def test_the_number_of_transactions_fixes_the_index(world: World) -> None:
    """Of three leaves, the last one's path also leads from place 1 of 2 to the same root."""
    raws = tuple(world.sign(anchor_of(world.steve, f"i{number}"), by=world.steve) for number in range(3))
    receipts = world.fork().block(*raws)
    leaves = [merkle.leaf_hash(raw) for raw in raws]
    outcomes = [merkle.leaf_hash(encode_receipt(one)) for one in receipts]
    network, tx_id = Network.of(world.genesis), parse(raws[2]).id

    def shown(*, index: int, tx_count: int) -> ShownReceipt:
        header = sealed(world, tx_count=tx_count, tx_root=tx_root(raws), receipt_root=receipt_root(receipts))
        return ShownReceipt(
            receipt=describe(raws[2], receipts[2], height=world.height, index=index),
            inclusion=Inclusion(
                raw=raws[2],
                receipt=encode_receipt(receipts[2]),
                tx_path=tuple(merkle.prove(leaves, 2)),
                receipt_path=tuple(merkle.prove(outcomes, 2)),
                sealed=header,
            ),
        )

    assert verify_inclusion(shown(index=2, tx_count=3), tx_id, network).index == 2
    for index in (0, 1, 3):
        with pytest.raises(NotProven):
            verify_inclusion(shown(index=index, tx_count=3), tx_id, network)
