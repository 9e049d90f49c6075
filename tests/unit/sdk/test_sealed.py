"""Sealing what one cannot read again, and opening what a ticket covers.

Goal: a writer keeps nothing with which it could open what it wrote; a requester gets its records back exactly, from
any three honest keyholders of five, whoever of the others lies or is down, and believes neither vault nor keyholder.
Method: real keyholders without sockets, wrapped so that they lie in every way a keyholder can; objects in a folder and
in memory.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from carechain.chain.questions import AnchorLine
from carechain.contracts.keyring import Misdeed
from carechain.contracts.records import Anchor, SealedHashes
from carechain.core import group
from carechain.core.codec import encode
from carechain.core.quorum import decode_capsule, statement_bytes
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sdk import gathering
from carechain.sdk import sealed as sealed_module
from carechain.sdk.failures import Refused, Unreachable
from carechain.sdk.gathering import Gatherer, NotEnoughShares, ToRelease
from carechain.sdk.opening import NotBelieved
from carechain.sdk.padding import ANCHOR_BYTES
from carechain.sdk.sealed import (
    About,
    Consortium,
    SealedReader,
    TooMuchAtOnce,
    seal_record,
    seal_record_file,
)
from carechain.sdk.shares import (
    KeyholderCode,
    SharesAnswer,
    SharesRefused,
    SharesRequest,
    SignedShare,
    open_shares,
    seal_shares,
)
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import Resource
from carechain.sealing.objects import read_prefix, seal_object
from carechain.vault.codes import VaultCode
from carechain.vault.folder import FolderStore
from sealed_world import Direct, SealedWorld
from world import CHAIN_ID, RESULTS, grant_of, record_id, seeded

TEXTS = ("空腹血糖 5.4 mmol/L".encode(), b"", b'{"resourceType":"Observation"}' * 100)


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[SealedWorld]:
    """A fresh world with five keyholders."""
    world = SealedWorld(tmp_path)
    yield world
    world.close()


class Shelf:
    """Objects in memory."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if address not in self.objects:
            raise Rejected(VaultCode.OBJECT_UNKNOWN)
        data = self.objects[address][start:end]
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]


def about(sealed: SealedWorld, name: str, **fields: object) -> About:
    values: dict[str, object] = {
        "pseudonym": sealed.world.steve.id,
        "record": record_id(name),
        "version": 1,
        "category": Category.RESULT,
        "sensitivity": Sensitivity.N,
        "day": 45_000,
    }
    return About(**values | fields)


def consortium(sealed: SealedWorld) -> Consortium:
    return Consortium(chain_id=CHAIN_ID, public_key=sealed.key.public_key)


def resources(name: str = "one") -> list[tuple[bytes, bytes]]:
    return [(seeded("salt", name, number), text) for number, text in enumerate(TEXTS)]


def write(sealed: SealedWorld, shelf: Shelf, name: str, **fields: object) -> AnchorLine:
    """The laboratory seals, stores and anchors one record; what the ledger then shows."""
    anchor, data = seal_record(
        resources(name), about=about(sealed, name, **fields), consortium=consortium(sealed), entropy=os.urandom
    )
    return place(sealed, shelf, anchor, data)


def place(sealed: SealedWorld, shelf: Shelf, anchor: Anchor, data: bytes) -> AnchorLine:
    assert anchor.sealed is not None
    shelf.objects[anchor.sealed.object] = data
    sealed.world.done(anchor, by=sealed.world.john)
    row = sealed.world.contracts().records.anchors.get(anchor.pseudonym, anchor.record, anchor.version)
    assert row is not None
    return AnchorLine(anchor.record, anchor.version, row)


def reader(sealed: SealedWorld, shelf: Shelf, holders: list[object] | None = None) -> SealedReader:
    return SealedReader(chain_id=CHAIN_ID, gatherer=sealed.gatherer(holders=holders), objects=shelf)


def read(sealed: SealedWorld, shelf: Shelf, *lines: AnchorLine, holders: list[object] | None = None) -> SealedReader:
    """Bert reads, and gets exactly what was written."""
    used = reader(sealed, shelf, holders)
    records = asyncio.run(used.read(sealed.ticket(), sealed.world.steve.id, lines))
    assert [one.record_id for one in records] == [line.record for line in lines]
    assert all(one.resources == TEXTS for one in records)
    return used


# --- sealing --------------------------------------------------------------------------------------------


def test_a_record_comes_back_exactly(sealed: SealedWorld) -> None:
    shelf = Shelf()
    lines = [write(sealed, shelf, name) for name in ("one", "two", "three")]
    used = read(sealed, shelf, *lines)
    assert used.gatherer.misbehaved == {}
    assert used.gatherer.failed == []


def test_every_sealed_anchor_has_one_size_and_names_capsule_and_object(sealed: SealedWorld) -> None:
    anchors = []
    for day, texts in ((1, TEXTS[:1]), (60_000, TEXTS * 300)):
        pairs = [(seeded("salt", number), text) for number, text in enumerate(texts)]
        anchor, data = seal_record(
            pairs, about=about(sealed, "one", day=day), consortium=consortium(sealed), entropy=os.urandom
        )
        assert anchor.resources == len(texts)
        assert len(encode(anchor)) == ANCHOR_BYTES
        assert not any(text in data for text in TEXTS if text)
        anchors.append(anchor)
    assert anchors[0].locator[:16] != anchors[1].locator[:16]


def test_the_writer_keeps_nothing_that_opens_what_it_wrote(sealed: SealedWorld) -> None:
    """Nothing that the program still holds has the key, and without a ticket the keyholders give the writer nothing."""
    drawn: list[bytes] = []

    def entropy(size: int) -> bytes:
        drawn.append(os.urandom(size))
        return drawn[-1]

    shelf = Shelf()
    anchor, data = seal_record(resources(), about=about(sealed, "one"), consortium=consortium(sealed), entropy=entropy)
    line = place(sealed, shelf, anchor, data)
    ticket = sealed.ticket()
    (release,) = [reader(sealed, shelf)._expected(sealed.world.steve.id, line, data).release]
    (key,) = asyncio.run(sealed.gatherer().keys(ticket, [release])).values()
    assert key in drawn
    drawn.clear()
    expected = bytes(key)
    del key
    kept = [one for one in gc.get_objects() if isinstance(one, list | tuple | dict) and one is not drawn]
    assert not any(_holds(one, expected) for one in kept if expected is not one)
    john = sealed.world.john
    holders = [Direct(one, john.id) for one in sealed.keyholders.values()]
    wanting = SealedReader(chain_id=CHAIN_ID, gatherer=sealed.gatherer(john, holders=holders), objects=shelf)
    for not_johns in (ticket, sealed.ticket(by=john), seeded("none")):
        with pytest.raises(NotEnoughShares) as nothing:
            asyncio.run(wanting.read(not_johns, sealed.world.steve.id, [line]))
        assert nothing.value.got == 0
    assert {one.why for one in nothing.value.failed} == {KeyholderCode.TICKET_UNKNOWN.label}


def _holds(container: object, secret: bytes) -> bool:
    values = container.values() if isinstance(container, dict) else container
    return any(isinstance(one, bytes) and secret in one for one in list(values))


def test_a_large_record_is_sealed_into_a_file_and_opened_from_one(sealed: SealedWorld, tmp_path: Path) -> None:
    """Through a folder of objects; a fetch that was broken off goes on where it ended."""
    store = FolderStore(tmp_path / "vault")
    image = os.urandom(3_000_001)
    target = tmp_path / "record.sealed"
    parts = [Resource.of(seeded("salt", number), content) for number, content in enumerate((image, b"report"))]
    anchor, whole = seal_record_file(
        parts, target, about=about(sealed, "image"), consortium=consortium(sealed), entropy=os.urandom
    )
    assert anchor.sealed == SealedHashes(capsule=sha256(whole.capsule).digest(), object=whole.address)
    asyncio.run(store.put(whole.address, target))
    sealed.world.done(anchor, by=sealed.world.john)
    row = sealed.world.contracts().records.anchors.get(anchor.pseudonym, anchor.record, 1)
    assert row is not None
    line = AnchorLine(anchor.record, 1, row)
    fetched = tmp_path / "fetched"
    fetched.write_bytes(target.read_bytes()[:1_000_000])
    used = SealedReader(chain_id=CHAIN_ID, gatherer=sealed.gatherer(), objects=store)
    ticket = sealed.ticket()
    with asyncio.run(used.open_large(ticket, sealed.world.steve.id, line, fetched)) as opened:
        assert (opened.contents.read(0), opened.contents.read(1)) == (image, b"report")
    for damaged in (b"\0" * 2_000_000, target.read_bytes() + b"\0"):
        fetched.write_bytes(damaged)
        with pytest.raises(NotBelieved):
            asyncio.run(used.open_large(ticket, sealed.world.steve.id, line, fetched))
        assert not fetched.exists()
    with asyncio.run(used.open_large(ticket, sealed.world.steve.id, line, fetched)) as opened:
        assert opened.contents.read(1) == b"report"
    with pytest.raises(Rejected) as twice:
        seal_record_file(parts, target, about=about(sealed, "image"), consortium=consortium(sealed), entropy=os.urandom)
    assert twice.value.code is SealingCode.ALREADY_SEALED


# --- objects that are not believed ----------------------------------------------------------------------

Damage = Callable[[SealedWorld, Shelf, AnchorLine, AnchorLine], AnchorLine]


def nothing_there(_: SealedWorld, shelf: Shelf, line: AnchorLine, __: AnchorLine) -> AnchorLine:
    shelf.objects.clear()
    return line


def another_object(_: SealedWorld, shelf: Shelf, line: AnchorLine, other: AnchorLine) -> AnchorLine:
    assert line.anchor.sealed is not None
    assert other.anchor.sealed is not None
    shelf.objects[line.anchor.sealed.object] = shelf.objects[other.anchor.sealed.object]
    return line


def one_bit(_: SealedWorld, shelf: Shelf, line: AnchorLine, __: AnchorLine) -> AnchorLine:
    assert line.anchor.sealed is not None
    data = bytearray(shelf.objects[line.anchor.sealed.object])
    data[-1] ^= 1
    shelf.objects[line.anchor.sealed.object] = bytes(data)
    return line


def not_sealed(_: SealedWorld, __: Shelf, line: AnchorLine, ___: AnchorLine) -> AnchorLine:
    return replace(line, anchor=replace(line.anchor, sealed=None))


def another_capsule(_: SealedWorld, __: Shelf, line: AnchorLine, ___: AnchorLine) -> AnchorLine:
    assert line.anchor.sealed is not None
    return replace(line, anchor=replace(line.anchor, sealed=replace(line.anchor.sealed, capsule=bytes(32))))


def another_label(_: SealedWorld, __: Shelf, line: AnchorLine, ___: AnchorLine) -> AnchorLine:
    return replace(line, anchor=replace(line.anchor, sensitivity=Sensitivity.U))


def an_unproved_capsule(_: SealedWorld, shelf: Shelf, line: AnchorLine, __: AnchorLine) -> AnchorLine:
    """Its writer anchored it so: the keyholders would refuse everything that is asked for together with it."""
    assert line.anchor.sealed is not None
    _header, capsule = read_prefix(shelf.objects[line.anchor.sealed.object])
    proved = decode_capsule(capsule)
    unproved = replace(proved, response=group.scalar_add(proved.response, group.ONE)).encode()
    data = bytearray()
    made = seal_object(b"noise", data.extend, key=seeded("key"), capsule=unproved, record=line.record, version=1)
    shelf.objects[made.address] = bytes(data)
    hashes = SealedHashes(capsule=sha256(unproved).digest(), object=made.address)
    return replace(line, anchor=replace(line.anchor, sealed=hashes))


def another_root(_: SealedWorld, __: Shelf, line: AnchorLine, ___: AnchorLine) -> AnchorLine:
    return replace(line, anchor=replace(line.anchor, root=bytes(32)))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (nothing_there, VaultCode.OBJECT_UNKNOWN),
        (another_object, VaultCode.OBJECT_ALTERED),
        (one_bit, VaultCode.OBJECT_ALTERED),
        (not_sealed, SealingCode.NOT_AN_OBJECT),
        (another_capsule, SealingCode.CAPSULE_ALTERED),
        (another_label, SealingCode.CAPSULE_OTHER_LABEL),
        (an_unproved_capsule, SealingCode.CAPSULE_UNPROVED),
        (another_root, SealingCode.CONTENTS_NOT_ANCHORED),
    ],
)
def test_what_differs_from_the_ledger_is_not_believed(damage: Damage, code: object, sealed: SealedWorld) -> None:
    shelf = Shelf()
    line, other = write(sealed, shelf, "one"), write(sealed, shelf, "two")
    damaged = damage(sealed, shelf, line, other)
    with pytest.raises(NotBelieved) as caught:
        asyncio.run(reader(sealed, shelf).read(sealed.ticket(), sealed.world.steve.id, [damaged]))
    assert caught.value.code is code
    assert caught.value.record_id == line.record


def test_a_writer_that_sealed_under_another_key_convicts_no_keyholder(sealed: SealedWorld) -> None:
    """The capsule holds another key than the object: every share is sound, and the object is what is not believed."""
    shelf = Shelf()
    line = write(sealed, shelf, "one")
    assert line.anchor.sealed is not None
    data = shelf.objects[line.anchor.sealed.object]
    used = reader(sealed, shelf)
    fetched = used._expected(sealed.world.steve.id, line, data)
    never = asyncio.run(used.gatherer.keys(sealed.ticket(), [fetched.release], lambda _one, _key: False))
    assert list(never) == [(line.record, 1)]
    assert used.gatherer.misbehaved == {}
    assert used.gatherer.failed == []


def test_records_are_named_once_and_fit_in_memory(sealed: SealedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    line = write(sealed, shelf, "one")
    used, ticket, steve = reader(sealed, shelf), sealed.ticket(), sealed.world.steve.id
    with pytest.raises(ValueError, match="once"):
        asyncio.run(used.read(ticket, steve, [line, line]))
    monkeypatch.setattr(sealed_module, "READ_BYTES", 100)
    with pytest.raises(TooMuchAtOnce):
        asyncio.run(used.read(ticket, steve, [line]))


# --- keyholders that lie --------------------------------------------------------------------------------


class Lying(Direct):
    """A keyholder whose operator alters its shares before they are signed and sealed."""

    def __init__(self, sealed: SealedWorld, label: str, lie: Callable[[SignedShare], SignedShare]) -> None:
        super().__init__(sealed.keyholders[label], sealed.world.bert.id)
        self.sealed = sealed
        self.lie = lie

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        bert = self.sealed.world.bert
        answer = await super().shares(request)
        signed = open_shares(
            answer, chain_id=CHAIN_ID, ticket_id=request.ticket, requester=bert.id, private_key=bert.hpke
        )
        return replace(answer, sealed=self.resealed([self.lie(one) for one in signed], request.ticket, answer.epoch))

    def resealed(self, shares: list[SignedShare], ticket: bytes, epoch: int) -> bytes:
        bert = self.sealed.world.bert
        return seal_shares(
            shares,
            chain_id=CHAIN_ID,
            ticket_id=ticket,
            requester=bert.id,
            epoch=epoch,
            hpke_key=bert.hpke.public_key,
            entropy=os.urandom,
        )


def signed_anew(sealed: SealedWorld, label: str, signed: SignedShare, **fields: object) -> SignedShare:
    """Another statement with the same keyholder's signature."""
    statement = replace(signed.statement, **fields)
    key = getattr(sealed.world, label).signing
    return SignedShare(statement, key.sign(statement_bytes(CHAIN_ID, statement)))


def garbage(sealed: SealedWorld, label: str) -> Callable[[SignedShare], SignedShare]:
    def lie(signed: SignedShare) -> SignedShare:
        share = signed.statement.share
        wrong = replace(share, point=group.add(share.point, group.GENERATOR))
        return signed_anew(sealed, label, signed, share=wrong)

    return lie


def no_point(sealed: SealedWorld, label: str) -> Callable[[SignedShare], SignedShare]:
    def lie(signed: SignedShare) -> SignedShare:
        return signed_anew(sealed, label, signed, share=replace(signed.statement.share, point=b"\xff" * 32))

    return lie


def unsigned_garbage(_: SealedWorld, __: str) -> Callable[[SignedShare], SignedShare]:
    """It sends rubbish and signs something else, so as not to be convicted."""

    def lie(signed: SignedShare) -> SignedShare:
        share = signed.statement.share
        wrong = replace(share, point=group.add(share.point, group.GENERATOR))
        return SignedShare(replace(signed.statement, share=wrong), signed.signature)

    return lie


def a_neighbours_number(sealed: SealedWorld, label: str) -> Callable[[SignedShare], SignedShare]:
    def lie(signed: SignedShare) -> SignedShare:
        share = signed.statement.share
        return signed_anew(sealed, label, signed, share=replace(share, index=share.index % 5 + 1))

    return lie


def another_epoch(sealed: SealedWorld, label: str) -> Callable[[SignedShare], SignedShare]:
    def lie(signed: SignedShare) -> SignedShare:
        return signed_anew(sealed, label, signed, share=replace(signed.statement.share, epoch=7))

    return lie


LIES = [
    (garbage, True, SealingCode.SHARE_FALSE.label),
    (no_point, True, SealingCode.SHARE_FALSE.label),
    (unsigned_garbage, False, "a share that its maker did not sign"),
    (a_neighbours_number, False, "a share of another epoch or holder"),
    (another_epoch, False, "a share of another epoch or holder"),
]


@pytest.mark.parametrize(("lie", "convicts", "why"), LIES)
@pytest.mark.parametrize("tried", [True, False], ids=["tried", "proved"])
def test_one_lies_one_is_down_and_three_suffice(
    lie: Callable[[SealedWorld, str], Callable[[SignedShare], SignedShare]],
    sealed: SealedWorld,
    *,
    convicts: bool,
    why: str,
    tried: bool,
) -> None:
    shelf = Shelf()
    lines = [write(sealed, shelf, name) for name in ("one", "two")]
    liar, down = Lying(sealed, "a", lie(sealed, "a")), Down(sealed, "b")
    holders = [liar, down, *(one for one in sealed.direct() if one.party not in (liar.party, down.party))]
    if tried:
        gatherer = read(sealed, shelf, *lines, holders=holders).gatherer
    else:
        gatherer = sealed.gatherer(holders=holders)
        wanted = [expected(sealed, shelf, line) for line in lines]
        assert len(asyncio.run(gatherer.keys(sealed.ticket(), wanted))) == 2
    assert {one.holder: one.why for one in gatherer.failed} == {liar.party: why, down.party: "no answer"}
    assert list(gatherer.misbehaved) == ([liar.party] if convicts else [])
    if convicts:
        sealed.world.done(gatherer.misbehaved[liar.party].accusation(), by=sealed.world.bert)
        misdeeds = sealed.world.contracts().keyring.misdeeds
        assert misdeeds.get(liar.party, 1, Misdeed.BAD_SHARE) is not None
    # From now on the two come last.
    assert {one.party for one in gatherer._in_order()[-2:]} == {liar.party, down.party}


def expected(sealed: SealedWorld, shelf: Shelf, line: AnchorLine) -> ToRelease:
    assert line.anchor.sealed is not None
    data = shelf.objects[line.anchor.sealed.object]
    return reader(sealed, shelf)._expected(sealed.world.steve.id, line, data).release


class Down(Direct):
    """A keyholder that cannot be reached."""

    def __init__(self, sealed: SealedWorld, label: str) -> None:
        super().__init__(sealed.keyholders[label], sealed.world.bert.id)

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        del request
        raise Unreachable("ConnectError")


class Silent(Down):
    """A keyholder that takes the request and never answers."""

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        del request
        return await asyncio.get_running_loop().create_future()


class Misdirected(Direct):
    """A keyholder that answers another request of the same ticket, or with fewer shares, or as an epoch of its own."""

    def __init__(self, sealed: SealedWorld, label: str, how: str) -> None:
        super().__init__(sealed.keyholders[label], sealed.world.bert.id)
        self.sealed = sealed
        self.how = how
        self.before: SharesAnswer | None = None

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        if self.how == "replayed":
            self.before = self.before or await super().shares(request)
            return self.before
        answer = await super().shares(request)
        if self.how == "epoch":
            return replace(answer, epoch=9)
        if self.how == "altered":
            return replace(answer, sealed=answer.sealed[::-1])
        part = SharesRequest(ticket=request.ticket, items=request.items[:1])
        return await super().shares(part)


@pytest.mark.parametrize("how", ["replayed", "epoch", "altered", "fewer"])
def test_an_answer_to_something_else_is_no_answer(how: str, sealed: SealedWorld) -> None:
    shelf = Shelf()
    lines = [write(sealed, shelf, name) for name in ("one", "two")]
    odd = Misdirected(sealed, "a", how)
    holders = [odd, *(one for one in sealed.direct() if one.party != odd.party)]
    ticket, gatherer = sealed.ticket(), sealed.gatherer(holders=holders)
    wanted = [expected(sealed, shelf, line) for line in lines]
    for _ in range(2):
        assert len(asyncio.run(gatherer.keys(ticket, wanted))) == 2
        gatherer._turn = 0
    assert [one.holder for one in gatherer.failed] in ([odd.party], [])
    assert gatherer.misbehaved == {}


def test_two_of_five_open_nothing(sealed: SealedWorld) -> None:
    shelf = Shelf()
    line = write(sealed, shelf, "one")
    holders = [*sealed.direct()[:2], *(Down(sealed, label) for label in "cde")]
    with pytest.raises(NotEnoughShares) as caught:
        asyncio.run(reader(sealed, shelf, holders).read(sealed.ticket(), sealed.world.steve.id, [line]))
    assert (caught.value.needed, caught.value.got) == (3, 2)
    with pytest.raises(NotEnoughShares):
        asyncio.run(reader(sealed, shelf, []).read(sealed.ticket(), sealed.world.steve.id, [line]))


def test_a_keyholder_named_twice_is_one(sealed: SealedWorld) -> None:
    shelf = Shelf()
    line = write(sealed, shelf, "one")
    with pytest.raises(NotEnoughShares):
        asyncio.run(reader(sealed, shelf, sealed.direct()[:1] * 3).read(sealed.ticket(), sealed.world.steve.id, [line]))


def test_who_is_silent_is_not_waited_for(sealed: SealedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "HEDGE_S", 0.01)
    shelf = Shelf()
    line = write(sealed, shelf, "one")
    holders = [Silent(sealed, "a"), Silent(sealed, "b"), *sealed.direct()[2:]]
    read(sealed, shelf, line, holders=holders)
    monkeypatch.setattr(gathering, "ANSWER_S", 0.01)
    with pytest.raises(NotEnoughShares) as caught:
        read(sealed, shelf, line, holders=[Silent(sealed, label) for label in "abc"])
    assert {one.why for one in caught.value.failed} == {"no answer"}


def test_a_keyholder_that_is_behind_is_asked_again(sealed: SealedWorld) -> None:
    """Its ledger does not know the ticket yet; only after some attempts it counts as one that gave nothing."""

    class Behind(Direct):
        async def shares(self, request: SharesRequest) -> SharesAnswer:
            if self.asked < 3:
                self.asked += 1
                raise SharesRefused(KeyholderCode.TICKET_UNKNOWN)
            return await super().shares(request)

    shelf = Shelf()
    line = write(sealed, shelf, "one")
    holders = [Behind(one, sealed.world.bert.id) for one in list(sealed.keyholders.values())[:3]]
    used = read(sealed, shelf, line, holders=holders)
    assert used.gatherer.failed == []
    assert [one.asked for one in holders] == [4, 4, 4]


def test_what_a_door_says_that_is_no_keyholder_is_a_failure_with_its_label(sealed: SealedWorld) -> None:
    class Proxy(Down):
        async def shares(self, request: SharesRequest) -> SharesAnswer:
            del request
            raise Refused(code=502, label="HTTP.502", reason="x")

    shelf = Shelf()
    line = write(sealed, shelf, "one")
    used = read(sealed, shelf, line, holders=[Proxy(sealed, "a"), *sealed.direct()[1:]])
    assert [one.why for one in used.gatherer.failed] == ["HTTP.502"]


def test_an_error_of_this_program_is_no_keyholders_failure(sealed: SealedWorld) -> None:
    class Broken(Down):
        async def shares(self, request: SharesRequest) -> SharesAnswer:
            del request
            raise KeyError

    shelf = Shelf()
    line = write(sealed, shelf, "one")
    with pytest.raises(KeyError):
        read(sealed, shelf, line, holders=[Broken(sealed, label) for label in "abcde"])


def test_the_shares_of_two_epochs_do_not_combine(sealed: SealedWorld) -> None:
    """Whoever kept an old share answers with it: it is not counted, and it convicts nobody."""
    shelf = Shelf()
    line = write(sealed, shelf, "one")
    old = sealed.gatherer()
    sealed.install(epoch=2)
    wanted = [expected(sealed, shelf, line)]
    with pytest.raises(NotEnoughShares) as caught:
        asyncio.run(old.keys(sealed.ticket(), wanted))
    assert {one.why for one in caught.value.failed} == {"a share of another epoch"}
    read(sealed, shelf, line)


def test_another_reader_with_the_same_grant_opens_it_too(sealed: SealedWorld) -> None:
    """One capsule, many readers: nothing is encrypted anew, and neither learns the other's blinding."""
    shelf, world = Shelf(), sealed.world
    line = write(sealed, shelf, "one")
    world.grant(grant_of(world.steve, world.bina), by=world.steve)
    used = SealedReader(chain_id=CHAIN_ID, gatherer=sealed.gatherer(world.bina), objects=shelf)
    ticket = sealed.ticket(by=world.bina, scope=RESULTS)
    (record,) = asyncio.run(used.read(ticket, world.steve.id, [line]))
    assert record.resources == TEXTS
    read(sealed, shelf, line)


def test_nothing_that_is_printed_shows_a_secret(sealed: SealedWorld) -> None:
    gatherer: Gatherer = sealed.gatherer()
    wanted = [sealed.write("one").to_release()]
    asking = gatherer._prepare(sealed.ticket(), wanted, None)
    secret = asking.secrets[0]._secret
    assert secret.hex() not in repr(asking) + repr(asking.secrets)
    assert repr(secret) not in repr(asking) + repr(asking.secrets)
