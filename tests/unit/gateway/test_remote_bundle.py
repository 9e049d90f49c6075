"""Goal: records of several members come back as one Bundle, each resource provable, and what is missing is named.

Method: a real gatekeeper on a loopback port with a patient's chart; beside it a door where nobody listens and a patient
who granted nothing. The Bundle is read by what a receiver has: its bytes and the ledger.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import orjson
import pytest

from carechain.chain.queries import Asker, ask
from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.contracts.access import Decided, RequestAccess
from carechain.core.merkle import BadProof
from carechain.core.vocabulary import Purpose
from carechain.gatekeeper.across import NO_ANSWER, Across, Custodian, Given, Missing
from carechain.gatekeeper.fetch import Reader
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.serve import app
from carechain.gateway.remote_bundle import MEMBER, PROOF, proofs_in, remote_bundle
from carechain.node.ports import free_ports
from house import CARE, House

BASE = "https://node.example/fhir"


class BertsLedger:
    """The world's ledger as Bert sees it."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def request(self, message: RequestAccess) -> tuple[Decided, int]:
        world = self.house.world
        return world.request(message, by=world.bert), world.height

    async def timeline(self, pseudonym: bytes, ticket: bytes) -> Sequence[AnchorLine]:
        view, bert = self.house.ledger.view(), self.house.world.bert
        party = view.contracts.membership.party(bert.id)
        assert party is not None
        rows: tuple[AnchorLine, ...] = ask(
            view, Asker(bert.id, party), "records.timeline", TimelinePage(pseudonym, ticket)
        ).rows
        return rows


def read(house: House) -> tuple[list[Given], list[Missing]]:
    """Bert asks hospital a for Steve and Mary, and hospital d, where nobody listens, for Steve."""
    world = house.world

    async def main() -> tuple[list[Given], list[Missing]]:
        listener = Listener(app(house.gatekeeper, clock=house.clock, entropy=os.urandom))
        await listener.start()
        (closed,) = free_ports(1)
        try:
            async with (
                httpx.AsyncClient(base_url=listener.url, trust_env=False) as here,
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{closed}", trust_env=False) as nobody,
            ):
                across = Across(
                    ledger=BertsLedger(house),
                    reader=Reader(party=world.bert.id, signing=world.bert.signing, hpke=world.bert.hpke),
                    chain_id=house.ledger.chain_id,
                    clock=house.clock,
                    entropy=os.urandom,
                )
                asked = [
                    Custodian(organisation=world.a.id, pseudonym=world.steve.id, door=here),
                    Custodian(organisation=world.a.id, pseudonym=world.mary.id, door=here),
                    Custodian(organisation=world.d.id, pseudonym=world.steve.id, door=nobody),
                ]
                return await across.read(asked, scope=CARE, purpose=Purpose.TREAT)
        finally:
            await listener.stop()

    return asyncio.run(main())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def test_one_bundle_with_a_proof_for_each_resource_and_the_missing_named(house: House) -> None:
    given, missing = read(house)
    world = house.world
    assert [one.organisation for one in given] == [world.a.id]
    assert [(one.pseudonym, one.label) for one in missing] == [
        (world.mary.id, "DECISION.NO_GRANT"),
        (world.steve.id, NO_ANSWER),
    ]
    bundle = remote_bundle(given, missing, base_url=BASE)
    shown = orjson.loads(bundle)
    outcomes = [one["resource"] for one in shown["entry"] if one["search"]["mode"] == "outcome"]
    assert [one["issue"][0]["details"]["coding"][0]["code"] for one in outcomes] == ["DECISION.NO_GRANT", NO_ANSWER]
    # The ledger allowed the second one too: that nobody answered is no refusal.
    assert all(one.ticket is not None for one in missing)
    assert [one["issue"][0]["code"] for one in outcomes] == ["forbidden", "incomplete"]
    assert world.d.id.hex() in outcomes[1]["issue"][0]["diagnostics"]
    assert "total" not in shown
    stored = {one.body for record in house.records for one in house.charts.read(record.record_id).resources}
    roots = {record.record_id: record.root for record in house.records}
    proven = list(proofs_in(bundle))
    assert len(proven) == sum(len(record.resources) for record in given[0].records) > 5
    for content, proof in proven:
        assert content in stored
        assert proof.root == roots[proof.record]
        proof.check(content)


def test_an_altered_resource_does_not_fit_its_proof(house: House) -> None:
    given, _ = read(house)
    bundle = remote_bundle(given, (), base_url=BASE)
    assert orjson.loads(bundle)["total"] == len(list(proofs_in(bundle)))
    content, proof = next(proofs_in(bundle))
    with pytest.raises(BadProof):
        proof.check(content.replace(b'"resourceType"', b'"resourcetype"'))


def test_a_match_without_a_provenance_is_refused(house: House) -> None:
    given, _ = read(house)
    shown = orjson.loads(remote_bundle(given, (), base_url=BASE))
    shown["entry"] = [one for one in shown["entry"] if one["search"]["mode"] == "match"]
    with pytest.raises(BadProof):
        list(proofs_in(orjson.dumps(shown)))


def test_only_what_is_wanted_is_in_it_and_every_provenance_names_the_member(house: House) -> None:
    given, _ = read(house)
    bundle = remote_bundle(given, (), base_url=BASE, wanted=lambda _, one: b'"Observation"' in one[:60])
    entries = orjson.loads(bundle)["entry"]
    assert {one["resource"]["resourceType"] for one in entries} == {"Observation", "Provenance"}
    for one in entries:
        if one["search"]["mode"] == "include":
            agents = [agent["who"]["identifier"] for agent in one["resource"]["agent"]]
            assert {"system": MEMBER, "value": house.world.a.id.hex()} in agents
            assert [extension["url"] for extension in one["resource"]["extension"]] == [PROOF]
