"""Goal: every list that can grow is answered in pages, and following them gives all rows once and in order.

Method: more rows than a page holds, with the page made small; pages are followed by ``after`` as a client does.
"""

from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain import queries
from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import HistoryPage, PatientPage, StaffPage
from carechain.contracts import membership, relationships
from carechain.contracts.records import views as records
from carechain.core.limits import QUERY_PAGE_ROWS
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Action, Role, Sensitivity
from world import Signer, World, anchor_of, fresh, grant_of, record_id, wallet_of

PAGE = 3


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = fresh()
    for module in (queries, membership, records, relationships):
        monkeypatch.setattr(module, "QUERY_PAGE_ROWS", PAGE)
    return world


def pages(world: World, who: Signer, name: str, args: Struct) -> list[tuple[Any, ...]]:
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    party = view.contracts.membership.party(who.id)
    assert party is not None
    found = []
    while True:
        answer = ask(view, Asker(who.id, party), name, args)
        assert len(answer.rows) <= PAGE
        found.append(answer.rows)
        if answer.after is None:
            return found
        args = replace(args, after=answer.after[0])


def versions(world: World, count: int) -> None:
    world.grant(grant_of(world.steve, world.carl, scope=EVERYTHING, actions=int(Action.WRITE)), by=world.steve)
    for version in range(1, count + 1):
        world.done(anchor_of(world.steve, "r", version=version), by=world.carl)


@pytest.mark.parametrize("count", [1, PAGE, 2 * PAGE + 1])
def test_every_version_of_a_record(world: World, count: int) -> None:
    versions(world, count)
    found = pages(world, world.steve, "records.history", HistoryPage(world.steve.id, record_id("r")))
    assert [line.version for page in found for line in page] == list(range(1, count + 1))
    assert len(found) == count // PAGE + 1


def test_versions_seen_through_a_grant_are_judged_by_the_newest_on_every_page(world: World) -> None:
    versions(world, PAGE + 1)
    world.grant(grant_of(world.steve, world.bert), by=world.steve)
    args = HistoryPage(world.steve.id, record_id("r"))
    assert [len(page) for page in pages(world, world.bert, "records.history", args)] == [PAGE, 1]
    graver = anchor_of(world.steve, "r", version=PAGE + 2, sensitivity=Sensitivity.R)
    world.done(graver, by=world.carl)
    assert [len(page) for page in pages(world, world.bert, "records.history", args)] == [0, 0]


def test_an_organisations_staff(world: World) -> None:
    before = len(list(membership.staff_of(world.contracts().membership, world.d.id)))
    enrolled = {world.enrol(world.d, f"auditor {number}", Role.INSURANCE_AUDITOR).id for number in range(2 * PAGE)}
    found = pages(world, world.d, "membership.staff", StaffPage(world.d.id))
    listed = [line.id for page in found for line in page]
    assert listed == sorted(enrolled)
    assert before == 0


def test_an_organisations_patients(world: World) -> None:
    for number in range(2 * PAGE):
        world.bind(wallet_of(f"patient {number}"), world.b, f"MRN-P{number}")
    found = pages(world, world.b, "relationships.patients", PatientPage(world.b.id))
    hashes = [line.id_hash for page in found for line in page]
    assert hashes == sorted(set(hashes))
    assert len(hashes) == 2 * PAGE + 1


def test_a_page_is_as_long_as_the_limit_says() -> None:
    world = fresh()
    actions = int(Action.WRITE)
    world.grant(grant_of(world.steve, world.carl, scope=EVERYTHING, actions=actions), by=world.steve)
    for base in range(0, QUERY_PAGE_ROWS + 56, 64):
        world.done(*[anchor_of(world.steve, "r", version=base + at + 1) for at in range(64)], by=world.carl)
    view = View(snapshot=world.snapshot, height=world.height, time_s=world.time_s)
    party = view.contracts.membership.party(world.steve.id)
    assert party is not None
    steve = Asker(world.steve.id, party)
    first = ask(view, steve, "records.history", HistoryPage(world.steve.id, record_id("r")))
    assert (len(first.rows), first.after) == (QUERY_PAGE_ROWS, (QUERY_PAGE_ROWS,))
    rest = ask(view, steve, "records.history", HistoryPage(world.steve.id, record_id("r"), after=QUERY_PAGE_ROWS))
    assert (len(rest.rows), rest.after) == (56, None)
