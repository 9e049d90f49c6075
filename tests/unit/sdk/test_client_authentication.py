"""Goal: only who holds a ledger key opens a session, each opening works once, and the book stays bounded.

Method: the pure book with a hand-set clock; one row per code, then its limits.
"""

import pytest
from msgspec.structs import replace

from carechain.chain.queries import View, share_of
from carechain.core.codec import encode
from carechain.core.crypto import Suite
from carechain.core.limits import CLOCK_SKEW_S, SESSION_LIFETIME_S, SESSIONS_PER_PARTY
from carechain.core.party import Party
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import PartyKind
from carechain.sdk import authentication
from carechain.sdk.authentication import (
    AuthCode,
    Opening,
    Service,
    SessionBook,
    bearer,
    decode_opening,
    sign_opening,
)
from world import Actor, fresh, seeded

NOW_S = 1_800_000_000
CHAIN = "world-1"
SERVER = seeded("server")


LEDGER: dict[bytes, Party] = {}
"""What the ledger has: every actor whose row a test has asked for."""


def party_of(actor: Actor) -> Party:
    LEDGER[actor.id] = Party(
        kind=PartyKind.STAFF,
        suite=actor.signing.suite,
        public_key=actor.signing.public_key,
        hpke_key=actor.hpke.public_key,
        organisation=actor.organisation,
        roles=4,
        valid_from_s=0,
    )
    return LEDGER[actor.id]


def new_book(service: Service = Service.NODE) -> SessionBook:
    return SessionBook(chain_id=CHAIN, service=service, server=SERVER, known=LEDGER.get)


def opening_of(
    actor: Actor,
    number: int = 0,
    *,
    time_s: int = NOW_S,
    chain_id: str = CHAIN,
    service: Service = Service.NODE,
    server: bytes = SERVER,
) -> Opening:
    return sign_opening(
        actor.signing,
        chain_id=chain_id,
        service=service,
        server=server,
        party=actor.id,
        time_s=time_s,
        nonce=number.to_bytes(16, "big"),
    )


@pytest.fixture
def book() -> SessionBook:
    return new_book()


@pytest.fixture
def carl() -> Actor:
    return Actor("carl")


def open_one(book: SessionBook, actor: Actor, number: int = 0, *, now_s: int = NOW_S) -> str:
    opening = opening_of(actor, number, time_s=now_s)
    return book.open(opening, party=party_of(actor), now_s=now_s, token=seeded(actor.label, number, now_s)).token


def refused(book: SessionBook, opening: Opening, party: Party | None, *, now_s: int = NOW_S) -> AuthCode:
    before = len(book)
    with pytest.raises(Rejected) as rejected:
        book.open(opening, party=party, now_s=now_s, token=bytes(32))
    assert len(book) == before
    code = rejected.value.code
    assert isinstance(code, AuthCode)
    return code


@pytest.mark.parametrize("suite", list(Suite))
def test_a_signed_opening_gives_a_token_for_the_party(book: SessionBook, suite: Suite) -> None:
    actor = Actor("someone", suite=suite)
    session = book.open(opening_of(actor), party=party_of(actor), now_s=NOW_S, token=seeded("token"))
    assert session.token == seeded("token").hex()
    assert session.expires_s == NOW_S + SESSION_LIFETIME_S
    assert book.party_of(session.token, NOW_S) == actor.id
    assert book.require_party(f"Bearer {session.token}", NOW_S) == actor.id


def test_a_session_ends_by_time_and_by_request(book: SessionBook, carl: Actor) -> None:
    token = open_one(book, carl)
    assert book.party_of(token, NOW_S + SESSION_LIFETIME_S - 1) == carl.id
    assert book.party_of(token, NOW_S + SESSION_LIFETIME_S) is None
    book.end(token)
    book.end(token)
    assert book.party_of(token, NOW_S) is None
    assert len(book) == 0


@pytest.mark.parametrize("suite", list(Suite))
def test_a_session_ends_when_the_party_has_another_key(book: SessionBook, carl: Actor, suite: Suite) -> None:
    old, other = open_one(book, carl), open_one(book, Actor("bert"))
    new = Actor("carl's next", suite=suite).signing
    LEDGER[carl.id] = replace(party_of(carl), suite=new.suite, public_key=new.public_key)
    with pytest.raises(Rejected) as ended:
        book.require_party(f"Bearer {old}", NOW_S)
    assert ended.value.code is AuthCode.SESSION_UNKNOWN
    assert book.party_of(other, NOW_S) is not None
    assert len(book) == 1, "the place is free again"
    assert refused(book, opening_of(carl, 1), LEDGER[carl.id]) is AuthCode.SIGNATURE_INVALID
    del LEDGER[carl.id]


def test_a_session_ends_with_the_party(book: SessionBook, carl: Actor) -> None:
    token = open_one(book, carl)
    del LEDGER[carl.id]
    assert book.party_of(token, NOW_S) is None


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"chain_id": "other"}, AuthCode.WRONG_CHAIN),
        ({"server": seeded("other")}, AuthCode.WRONG_SERVER),
        ({"service": Service.GATEKEEPER}, AuthCode.SIGNATURE_INVALID),
        ({"time_s": NOW_S - CLOCK_SKEW_S - 1}, AuthCode.CLOCK_DIFFERS),
        ({"time_s": NOW_S + CLOCK_SKEW_S + 1}, AuthCode.CLOCK_DIFFERS),
    ],
)
def test_an_opening_for_elsewhere_or_another_time_is_refused(
    book: SessionBook, carl: Actor, changed: dict[str, object], code: AuthCode
) -> None:
    assert refused(book, opening_of(carl, **changed), party_of(carl)) is code


@pytest.mark.parametrize(
    "changed",
    [
        {"party": seeded("someone else")},
        {"time_s": NOW_S + 1},
        {"nonce": bytes(15) + b"\1"},
        {"signature": bytes(64)},
    ],
)
def test_whatever_is_signed_cannot_be_changed(book: SessionBook, carl: Actor, changed: dict[str, object]) -> None:
    assert refused(book, replace(opening_of(carl), **changed), party_of(carl)) is AuthCode.SIGNATURE_INVALID


def test_an_unknown_party_is_refused_like_a_bad_signature(book: SessionBook, carl: Actor) -> None:
    assert refused(book, opening_of(carl), None) is AuthCode.SIGNATURE_INVALID
    assert refused(book, opening_of(carl), party_of(Actor("bert"))) is AuthCode.SIGNATURE_INVALID


def test_the_key_that_checks_unknown_parties_opens_nothing(book: SessionBook) -> None:
    nobody = Actor("nobody")
    nobody.signing = type(nobody.signing)(suite=Suite.ED25519, seed=bytes(32))
    assert refused(book, opening_of(nobody), None) is AuthCode.SIGNATURE_INVALID


def test_an_opening_works_once_as_long_as_its_time_passes(book: SessionBook, carl: Actor) -> None:
    opening = opening_of(carl, time_s=NOW_S + CLOCK_SKEW_S)
    book.open(opening, party=party_of(carl), now_s=NOW_S, token=bytes(32))
    for later_s in (0, CLOCK_SKEW_S, 2 * CLOCK_SKEW_S):
        assert refused(book, opening, party_of(carl), now_s=NOW_S + later_s) is AuthCode.NONCE_USED
    later_s = 2 * CLOCK_SKEW_S + 1
    assert refused(book, opening, party_of(carl), now_s=NOW_S + later_s) is AuthCode.CLOCK_DIFFERS


def test_one_party_cannot_crowd_out_others(book: SessionBook, carl: Actor) -> None:
    tokens = [open_one(book, carl, number) for number in range(SESSIONS_PER_PARTY)]
    assert refused(book, opening_of(carl, 999), party_of(carl)) is AuthCode.TOO_MANY_SESSIONS
    later_s = NOW_S + 2 * CLOCK_SKEW_S + 1
    newest = open_one(book, carl, 1000, now_s=later_s)
    assert book.party_of(tokens[0], later_s) is None
    assert book.party_of(tokens[1], later_s) == book.party_of(newest, later_s) == carl.id
    assert len(book) == SESSIONS_PER_PARTY
    assert open_one(book, Actor("bert"))


def test_one_organisation_cannot_crowd_out_others(carl: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "SESSIONS", 8)
    monkeypatch.setattr(authentication, "SESSIONS_PER_ORGANISATION", 4)
    book = new_book()
    staff = [Actor(f"staff {number}", organisation=seeded("large")) for number in range(5)]
    tokens = [open_one(book, one) for one in staff[:4]]
    assert refused(book, opening_of(staff[4]), party_of(staff[4])) is AuthCode.TOO_MANY_SESSIONS
    assert open_one(book, carl)
    # Its oldest makes room once openings are no longer too many, and so it goes on for as long as it likes.
    for number in range(20):
        later_s = NOW_S + (number + 1) * (2 * CLOCK_SKEW_S + 1)
        if later_s < NOW_S + SESSION_LIFETIME_S:
            newest = open_one(book, staff[number % 5], number + 1, now_s=later_s)
            assert book.party_of(newest, later_s) == staff[number % 5].id
            assert len(book) == 5
    assert book.party_of(tokens[0], NOW_S) is None
    assert open_one(book, Actor("bert"))


def test_representatives_count_for_the_organisation_of_their_patient(
    book: SessionBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fresh()
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    patient = world.contracts().membership.party(world.steve.id)
    assert patient is not None
    assert share_of(view, patient) == world.a.id
    acting = replace(patient, kind=PartyKind.REPRESENTATIVE, organisation=world.steve.id)
    assert share_of(view, acting) == world.a.id
    monkeypatch.setattr(authentication, "SESSIONS_PER_ORGANISATION", 1)
    book = new_book()
    one, other = Actor("one", organisation=seeded("p1")), Actor("other", organisation=seeded("p2"))
    home = world.a.id
    book.open(opening_of(one), party=party_of(one), organisation=home, now_s=NOW_S, token=bytes(32))
    with pytest.raises(Rejected) as crowded:
        book.open(opening_of(other), party=party_of(other), organisation=home, now_s=NOW_S, token=bytes(31) + b"1")
    assert crowded.value.code is AuthCode.TOO_MANY_SESSIONS


def test_an_opening_for_the_node_does_not_open_the_gatekeeper(book: SessionBook, carl: Actor) -> None:
    door = new_book(Service.GATEKEEPER)
    opening = opening_of(carl)
    assert book.open(opening, party=party_of(carl), now_s=NOW_S, token=bytes(32)).party == carl.id
    assert refused(door, opening, party_of(carl)) is AuthCode.SIGNATURE_INVALID
    entered = door.open(
        opening_of(carl, service=Service.GATEKEEPER), party=party_of(carl), now_s=NOW_S, token=bytes(32)
    )
    assert entered.party == carl.id


def test_a_full_book_refuses_until_sessions_end(
    book: SessionBook, carl: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "SESSIONS", 3)
    for number in range(3):
        open_one(book, Actor(f"party {number}"))
    assert refused(book, opening_of(carl), party_of(carl)) is AuthCode.TOO_MANY_SESSIONS
    open_one(book, carl, now_s=NOW_S + SESSION_LIFETIME_S)
    assert len(book) == 1


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "abc"])
def test_a_header_without_a_bearer_token_is_no_session(book: SessionBook, header: str) -> None:
    with pytest.raises(Rejected) as rejected:
        book.require_party(header, NOW_S)
    assert rejected.value.code is AuthCode.SESSION_MISSING


def test_no_header_and_an_unknown_token(book: SessionBook) -> None:
    for header, code in ((None, AuthCode.SESSION_MISSING), ("bearer 00", AuthCode.SESSION_UNKNOWN)):
        with pytest.raises(Rejected) as rejected:
            book.require_party(header, NOW_S)
        assert rejected.value.code is code
    assert bearer("BEARER  x ") == "x"


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc1", encode([1, 2]), encode({"chain_id": "x"}), b"\x91" * 5000])
def test_what_is_no_opening_is_malformed(data: bytes) -> None:
    with pytest.raises(Rejected) as rejected:
        decode_opening(data)
    assert rejected.value.code is AuthCode.OPENING_MALFORMED


def test_an_opening_survives_the_wire(carl: Actor) -> None:
    opening = opening_of(carl)
    assert decode_opening(encode(opening)) == opening
    with pytest.raises(Rejected):
        decode_opening(encode({**{f: getattr(opening, f) for f in opening.__struct_fields__}, "more": 1}))


def test_a_short_token_is_a_bug(book: SessionBook, carl: Actor) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        book.open(opening_of(carl), party=party_of(carl), now_s=NOW_S, token=b"short")
