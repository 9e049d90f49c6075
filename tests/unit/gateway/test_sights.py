"""Goal: what a ticket lets its holder see and write over FHIR is what the ledger decides, at every moment anew.

Method: tickets of the small world are shown to the gateway's own functions as they live, expire and are revoked.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.contracts.access import RevokeTicket
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import Action, Category, Purpose, Sensitivity, mask
from carechain.gateway.codes import SmartCode
from carechain.gateway.sights import TICKETS, Seen, common, live_party, seen_by
from house import CARE, House
from world import Actor, grant_of


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def seen(house: House, *tickets: bytes, by: Actor | None = None) -> Seen:
    return seen_by(
        house.ledger.view(),
        tickets=tickets,
        requester=(by or house.world.bert).id,
        custodian=house.world.a.id,
        wall_s=house.clock(),
    )


def refused(house: House, *tickets: bytes, by: Actor | None = None) -> object:
    with pytest.raises(Rejected) as why:
        seen(house, *tickets, by=by)
    return why.value.code


def test_a_live_ticket_is_a_window(house: House) -> None:
    found = seen(house, house.ticket())
    (window,) = found.sight.windows
    assert window.pseudonym == house.world.steve.id
    assert window.scope == CARE
    assert found.purpose is Purpose.TREAT
    assert not found.sight.everything
    assert not found.creates


def test_without_a_ticket_the_directory_alone(house: House) -> None:
    found = seen(house)
    assert found.sight.windows == ()
    assert found.sight.directory
    assert not found.sight.everything


def test_one_code_for_whatever_is_wrong(house: House) -> None:
    world = house.world
    live, ended = house.ticket(), house.ticket()
    world.done(RevokeTicket(ticket=ended), by=world.bert)
    denied = house.ticket(scope=EVERYTHING)
    assert refused(house, ended) is SmartCode.TICKET_NOT_LIVE
    assert refused(house, denied) is SmartCode.TICKET_NOT_LIVE
    assert refused(house, bytes(32)) is SmartCode.TICKET_NOT_LIVE
    assert refused(house, live, by=world.carl) is SmartCode.TICKET_NOT_LIVE
    assert refused(house, live, ended) is SmartCode.TICKET_NOT_LIVE
    assert refused(house, *[live] * (TICKETS + 1)) is SmartCode.TICKET_MALFORMED
    house.skew_s = 31
    assert refused(house, live) is SmartCode.LEDGER_STALE
    house.skew_s = 0
    world.wait(901)
    assert refused(house, live) is SmartCode.TICKET_NOT_LIVE


def test_writing_takes_a_grant_to_write(house: House) -> None:
    world = house.world
    for actions, creates, updates in (
        (Action.READ | Action.SUBMIT, True, False),
        (Action.READ | Action.WRITE, True, True),
    ):
        world.grant(grant_of(world.steve, world.bina, scope=CARE, actions=int(actions)), by=world.steve)
        found = seen(house, house.ticket(world.bina), by=world.bina)
        assert (found.creates, found.updates) == (creates, updates)


def test_a_party_must_be_live(house: House) -> None:
    world = house.world
    assert live_party(house.ledger.view(), world.carl.id).organisation == world.a.id
    with pytest.raises(Rejected) as why:
        live_party(house.ledger.view(), bytes(32))
    assert why.value.code is SmartCode.NOT_LIVE


SCOPES = st.builds(
    lambda categories, ceiling, first, last, records: Scope(
        categories=categories,
        ceiling=ceiling,
        first_day=min(first, last),
        last_day=max(first, last),
        records=tuple(sorted(records)),
    ),
    st.integers(1, mask(*Category)),
    st.sampled_from(list(Sensitivity)),
    st.integers(0, 20),
    st.integers(0, 20),
    st.sets(st.sampled_from([bytes([n]) * 32 for n in range(4)]), max_size=3),
)


@given(SCOPES, SCOPES, st.sampled_from(list(Category)), st.sampled_from(list(Sensitivity)), st.integers(0, 20))
def test_what_is_common_is_covered_by_both(
    one: Scope, other: Scope, category: Category, grade: Sensitivity, day: int
) -> None:
    both = common(one, other)
    for record in (bytes([n]) * 32 for n in range(4)):
        told = {"category": category, "sensitivity": grade, "day": day, "record": record}
        covered = both is not None and both.covers(**told)
        assert covered == (one.covers(**told) and other.covers(**told))
