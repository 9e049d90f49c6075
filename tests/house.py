"""Hospital a of the small world with a door: real charts, a real audit, and the world's ledger to read.

Goal: let a test ask a gatekeeper for records and look at what it did. Method: a synthetic patient's bundle is taken
into a real chart and anchored by signed transactions; only sockets are left to the tests that are about them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from carechain.chain.queries import Asker, View, ask
from carechain.chain.questions import TimelinePage
from carechain.chain.receipts import Receipt
from carechain.chain.tx import AdmissionCode
from carechain.charts.record import StoredRecord
from carechain.charts.store import Charts
from carechain.contracts.access import RequestAccess
from carechain.core.rejection import Rejected
from carechain.core.scope import Scope
from carechain.core.vocabulary import Category, Purpose, Sensitivity
from carechain.demo import synthetic
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.fetch import newest_of
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.reports import Reporter
from carechain.node.metrics import Metrics
from carechain.sdk.opening import AnchoredRecord
from world import Actor, World, anything, entropy_of, fresh, grant_of, scope_of

if TYPE_CHECKING:
    from collections.abc import Callable

CARE = scope_of(Category.ENCOUNTER, Category.RESULT)


class Placed(Struct, frozen=True):
    """A transaction on the world's ledger."""

    height: int
    receipt: Receipt


class WorldLedger:
    """The world as a gatekeeper's ledger. ``before_submit`` runs first, so that a test can let things happen."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chain_id = world.genesis.chain_id
        self.metrics = Metrics()
        self.submitted: list[bytes] = []
        self.before_submit: Callable[[], None] = lambda: None

    def view(self) -> View:
        return View(snapshot=self.world.snapshot, height=self.world.height, time_s=self.world.time_s)

    async def submit(self, raw: bytes) -> Placed:
        self.before_submit()
        self.submitted.append(raw)
        (receipt,) = self.world.block(raw)
        for code in AdmissionCode:
            if receipt.code == code:
                raise Rejected(code)
        return Placed(self.world.height, receipt)


class House:
    """Hospital a with one synthetic patient (Steve's pseudonym) whose chart holds normal and very restricted records.

    Bert at hospital b may read encounters and results up to N.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = fresh()
        self.ledger = WorldLedger(self.world)
        self.charts = Charts.open(folder / "charts.sqlite")
        self.audit = Audit.open(folder / "audit.sqlite")
        self.skew_s = 0
        self.gatekeeper = Gatekeeper(
            organisation=self.world.a.id,
            ledger=self.ledger,
            charts=self.charts,
            audit=self.audit,
            clock=self.clock,
            entropy=os.urandom,
        )
        world = self.world
        self.may_write = world.grant(anything(world.steve, world.a), by=world.steve)
        self.records = self.write(synthetic.patient(3, seed=1))
        self.may_read = world.grant(grant_of(world.steve, world.bert, scope=CARE), by=world.steve)

    def clock(self) -> int:
        return self.world.time_s + self.skew_s

    def write(self, bundle: bytes) -> tuple[StoredRecord, ...]:
        """Take a bundle into the charts and anchor it."""
        world = self.world
        taken = self.charts.ingest(
            pseudonym=world.steve.id, bundle=bundle, received_s=world.time_s, rng=entropy_of("charts", world.height)
        )
        for messages in in_transactions(anchor_of(one, entropy=os.urandom) for one in taken.records):
            world.done(*messages, by=world.carl)
        return taken.records

    def ticket(self, by: Actor | None = None, scope: Scope = CARE, purpose: Purpose = Purpose.TREAT) -> bytes:
        """A ticket for a request, allowed or refused."""
        message = RequestAccess(pseudonym=self.world.steve.id, scope=scope, purpose=purpose)
        return self.world.request(message, by=by or self.world.bert).ticket

    def expected(self, ticket: bytes, by: Actor | None = None) -> tuple[AnchoredRecord, ...]:
        """What the ledger shows the holder of a ticket."""
        view, asker = self.ledger.view(), by or self.world.bert
        party = view.contracts.membership.party(asker.id)
        assert party is not None
        page = TimelinePage(self.world.steve.id, ticket)
        return newest_of(ask(view, Asker(asker.id, party), "records.timeline", page).rows)

    def of_grade(self, *grades: Sensitivity) -> list[StoredRecord]:
        """The encounters and results of these grades."""
        wanted = (Category.ENCOUNTER, Category.RESULT)
        return [one for one in self.records if one.sensitivity in grades and one.category in wanted]

    def reporter(self) -> Reporter:
        """The custodian's reporter, signing as hospital a."""
        a = self.world.a
        return Reporter(ledger=self.ledger, audit=self.audit, key=a.signing, member=a.id, entropy=os.urandom)

    def close(self) -> None:
        self.charts.close()
        self.audit.close()
