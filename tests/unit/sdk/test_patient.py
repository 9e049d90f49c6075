"""Goal: the typed view of one patient gives what the ledger has, as types, and nothing to who may not ask.

Method: a real node on a loopback port; the patient and a doctor ask the same questions.
"""

import asyncio
from pathlib import Path

import pytest

from carechain.contracts.access import RequestAccess, TicketRow
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Category, Purpose
from carechain.sdk.client import Client, Refused
from carechain.sdk.patient import PatientView
from served_node import served
from world import record_id, scope_of


def test_a_patients_side_of_the_ledger(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as node:
            net = node.net
            ask = RequestAccess(pseudonym=net.steve.id, scope=scope_of(Category.RESULT), purpose=Purpose.TREAT)
            (decided,) = await net.run(ask, by=net.bert)
            genesis = net.service.genesis
            async with Client(str(node.http.base_url), net.steve, genesis=genesis, clock=net.clock) as client:
                steve = PatientView(client, net.steve.id)
                assert {one.grant.grantees for one in await steve.grants()} == {(net.a.id,), (net.bert.id,)}
                assert [one.record for one in await steve.timeline(prove=True)] == sorted(
                    record_id(name) for name in ("r1", "r2", "r3")
                )
                assert [one.version for one in await steve.history(record_id("r1"))] == [1]
                assert (await steve.log()).lines[-1].line.ticket == decided.ticket
                assert {one.who for one in await steve.who_can_see(record_id("r1"))} >= {(net.bert.id,)}
                assert (await steve.may_read(net.bert.id, scope=EVERYTHING, purpose=Purpose.TREAT)).decision == 0
                ticket = await steve.ticket(decided.ticket)
                assert isinstance(ticket, TicketRow)
                assert ticket.requester == net.bert.id
                assert [await steve.requests(), await steve.rules(), await steve.representatives()] == [[], [], []]
            async with Client(str(node.http.base_url), net.bert, genesis=genesis, clock=net.clock) as client:
                with pytest.raises(Refused, match="ROLE_MAY_NOT_ASK"):
                    await PatientView(client, net.steve.id).grants()

    asyncio.run(main())
