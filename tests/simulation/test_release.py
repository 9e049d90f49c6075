"""Nothing is released without a live ticket, whoever asks, whatever is shown, and whoever of the keyholders lies.

Goal: over long, random stories the keyholders give shares exactly when a plain reckoning says they may, every release
stands in the patient's log, any three honest keyholders of five suffice, and a liar ends up on the ledger.

Method: seeded stories on a real ledger with real keyholders and audits. Records are written, graded anew and erased;
grants and tickets come and go; keys are shared anew and rotated; requesters ask honestly or with one of the attacks
below. A model that knows only what was told to the ledger says what may be released; every answer is compared with it.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.routing import Contracts
from carechain.contracts.access import EntryKind, RequestAccess, RevokeTicket
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.keyring import Misdeed
from carechain.contracts.records import Erase
from carechain.core.limits import SHARES_PER_REQUEST, STALE_BLOCK_S
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Category, Purpose, Sensitivity
from carechain.gatekeeper.keyholder import ShareRates
from carechain.gatekeeper.rates import Rate
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.shares import (
    ShareItem,
    SharesAnswer,
    SharesRefused,
    SharesRequest,
    SignedShare,
    open_shares,
)
from carechain.sealing.hpke import CannotOpen, HpkePrivateKey
from sealed_world import THRESHOLD, Direct, SealedWorld, Written, rewrite
from simulation.releases import ATTACKS, Attempt, Bad, Known, Model, Promise, Terms
from world import CHAIN_ID, Actor, grant_of, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

GRADES: Final = (Sensitivity.L, Sensitivity.N, Sensitivity.R, Sensitivity.V)
CATEGORIES: Final = (Category.RESULT, Category.ENCOUNTER, Category.IMAGE)
STEPS: Final = 300
MOSTLY, OFTEN, SOMETIMES, RARELY = 0.95, 0.75, 0.3, 0.1
NO_LIMIT: Final = ShareRates(
    party=Rate(per_s=1, burst=100 * SHARES_PER_REQUEST), total=Rate(per_s=1, burst=100 * SHARES_PER_REQUEST)
)


# --- the story --------------------------------------------------------------------------------------------


class Sent(Struct, frozen=True):
    """A request that somebody sent."""

    label: str
    request: SharesRequest
    names: list[str]
    attacked: bool


class Story:
    """One random story, and the comparison of every answer with the model."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.sealed = SealedWorld(folder, holders="abcdef", rates=NO_LIMIT)
        self.world = self.sealed.world
        self.model = Model()
        self.epoch = 1
        self.sealed.install(epoch=1, members=self.sealed.members[:5])
        self.model.holders = set("abcde")
        terms = Terms(frozenset((Category.RESULT, Category.ENCOUNTER)), Sensitivity.N)
        self.model.grants[self.sealed.may_read] = ("bert", terms)
        self.people = ("bert", "bina", "steve")
        self.sent: list[Sent] = []
        self.heard: dict[str, list[SignedShare]] = {}
        """Keyholder → what it answered at the last reading, to be replayed."""
        self.released: Counter[tuple[str, bytes]] = Counter()
        self.seen: Counter[str] = Counter()
        for name in ("first", "second", "third"):
            self.writes(name)

    def who(self, label: str) -> Actor:
        return getattr(self.world, label)

    def run(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (3, self.writes),
            (2, self.grades_anew),
            (1, self.erases),
            (3, self.grants),
            (2, self.revokes),
            (6, self.requests),
            (1, self.revokes_ticket),
            (1, self.shares_anew),
            (1, self.rotates),
            (2, self.waits),
            (30, self.asks),
            (4, self.replays),
            (8, self.reads),
        ]
        weights, actions = zip(*steps, strict=True)
        for _ in range(STEPS):
            self.random.choices(actions, weights)[0]()
        self.compare_logs()

    # --- what happens on the ledger -----------------------------------------------------------------------

    def writes(self, name: str | None = None) -> None:
        name = name or f"record {len(self.model.records)}"
        category, grade = self.random.choice(CATEGORIES), self.random.choice(GRADES)
        written = self.sealed.write(name, category=category, sensitivity=grade)
        self.model.records[name] = Known(category, [written], [grade])

    def grades_anew(self) -> None:
        name = self.random.choice(sorted(self.model.records))
        known = self.model.records[name]
        if known.erased:
            return
        grade, version = self.random.choice(GRADES), len(known.versions) + 1
        written = self.sealed.write(name, category=known.category, sensitivity=grade, version=version)
        known.versions.append(written)
        known.grades.append(grade)

    def erases(self) -> None:
        name = self.random.choice(sorted(self.model.records))
        known = self.model.records[name]
        if not known.erased and sum(not one.erased for one in self.model.records.values()) > 2:
            self.world.done(Erase(pseudonym=self.world.steve.id, record=known.versions[0].record), by=self.world.steve)
            known.erased = True

    def terms(self) -> Terms:
        categories = frozenset(self.random.sample(CATEGORIES, self.random.randint(1, 3)))
        return Terms(categories, self.random.choice(GRADES))

    def grants(self) -> None:
        label, terms = self.random.choice(("bert", "bina")), self.terms()
        message = grant_of(self.world.steve, self.who(label), scope=terms.scope())
        self.model.grants[self.world.grant(message, by=self.world.steve)] = (label, terms)

    def revokes(self) -> None:
        if len(self.model.grants) > 1:
            grant = self.random.choice(sorted(self.model.grants))
            self.world.done(Revoke(pseudonym=self.world.steve.id, grant_id=grant), by=self.world.steve)
            del self.model.grants[grant]

    def requests(self) -> bytes:
        label, terms = self.random.choice(self.people), self.terms()
        held = [one for who, one in self.model.grants.values() if who == label]
        if held and self.random.random() < OFTEN:
            terms = self.random.choice(sorted(held, key=repr))
        purpose = Purpose.PATRQT if label == "steve" else Purpose.TREAT
        scope = EVERYTHING if label == "steve" else terms.scope()
        if label == "steve":
            terms = Terms(frozenset(Category), Sensitivity.V)
        message = RequestAccess(pseudonym=self.world.steve.id, scope=scope, purpose=purpose)
        decided = self.world.request(message, by=self.who(label))
        assert (decided.decision == 0) == self.model.granted(label, terms)
        promise = Promise(label, terms, decided.decision == 0, decided.expires_s, self.model.key_numbers[label])
        self.model.tickets[decided.ticket] = promise
        return decided.ticket

    def revokes_ticket(self) -> None:
        live = [one for one in sorted(self.model.tickets) if self._is_open(self.model.tickets[one])]
        if live:
            ticket = self.random.choice(live)
            self.world.done(RevokeTicket(ticket=ticket), by=self.world.steve)
            self.model.tickets[ticket].revoked = True

    def _is_open(self, promise: Promise) -> bool:
        return promise.allowed and not promise.revoked and self.world.time_s + 1 < promise.expires_s

    def shares_anew(self) -> None:
        # Reports leave every few seconds; a resharing takes longer.
        self.report()
        self.epoch += 1
        members = self.random.sample(self.sealed.members, 5)
        self.sealed.install(epoch=self.epoch, members=members)
        self.model.holders = {one.label for one in members}

    def rotates(self) -> None:
        """A doctor gets another reading key: what was promised to the old one is over."""
        label = self.random.choice(("bert", "bina"))
        self.model.key_numbers[label] += 1
        actor = self.who(label)
        fresh = HpkePrivateKey(seeded(label, "hpke", self.model.key_numbers[label], self.world.height))

        def put(contracts: Contracts) -> None:
            party = contracts.membership.party(actor.id)
            assert party is not None
            contracts.membership.put_party(actor.id, replace(party, hpke_key=fresh.public_key))

        rewrite(self.world, put)
        renewed = Actor(label, organisation=actor.organisation)
        renewed.hpke = fresh
        setattr(self.world, label, renewed)

    def waits(self) -> None:
        self.world.wait(self.random.choice((1, 200, 500)))

    # --- asking one keyholder -----------------------------------------------------------------------------

    def asks(self) -> None:
        """Somebody asks for some records under some ticket, honestly or with an attack on one item."""
        label = self.random.choice(self.people)
        ticket = self._some_ticket(label)
        names = self._some_records(ticket, label, most=4)
        versions = [self.random.randint(1, len(self.model.records[name].versions)) for name in names]
        wanted = [self.model.records[name].versions[at - 1] for name, at in zip(names, versions, strict=True)]
        request = self.sealed.request(ticket, *wanted, by=self.who(label))
        may = all(
            self.model.may_release(ticket, label, name, version, self.world.time_s)
            for name, version in zip(names, versions, strict=True)
        )
        attacked = self.random.random() < (OFTEN if may else SOMETIMES)
        if attacked:
            request = self._attacked(request, wanted, label)
            may = False
        self._compare(label, request, may=may)
        self.sent.append(Sent(label, request, names, attacked))

    def _attacked(self, request: SharesRequest, wanted: list[Written], label: str) -> SharesRequest:
        requester = self.who(label)
        others = [
            one
            for known in self.model.records.values()
            for one in known.versions
            if one.record not in {mine.record for mine in wanted}
        ]
        other = self.random.choice(others)
        past = [
            item
            for one in self.sent
            if (one.label, one.request.ticket) != (label, request.ticket)
            for item in one.request.items
        ]
        spare = ShareItem(
            other.record, other.version, other.data, self.sealed.blinding(seeded("x"), other, requester).blinding
        )
        at = self.random.randrange(len(wanted))
        before = self.random.choice(past) if past else spare
        attempt = Attempt(self.sealed, request.items[at], request.ticket, wanted[at], other, requester, before)
        item = self.random.choice(ATTACKS)(attempt)
        items = (*request.items[:at], item, *request.items[at + 1 :])
        return replace(request, items=items)

    def _some_ticket(self, label: str) -> bytes:
        """Mostly one's own; also somebody else's, and none at all."""
        tickets = self.model.tickets
        own = [one for one in tickets if tickets[one].requester == label and tickets[one].allowed]
        chance = self.random.random()
        if own and chance < OFTEN:
            return self.random.choice(own[-3:])
        if tickets and chance < MOSTLY:
            return self.random.choice(list(tickets))
        return seeded("no ticket", self.world.height)

    def _some_records(self, ticket: bytes, label: str, *, most: int) -> list[str]:
        """Mostly such of which the ticket covers some version, if there are any."""
        everything = sorted(self.model.records)
        promise = self.model.tickets.get(ticket)
        covered = [
            name
            for name in everything
            if promise is not None
            and promise.requester == label
            and any(
                promise.terms.cover(self.model.records[name].category, grade)
                for grade in self.model.records[name].grades
            )
        ]
        names = covered if covered and self.random.random() < OFTEN else everything
        return self.random.sample(names, self.random.randint(1, min(most, len(names), len(everything) - 1)))

    def replays(self) -> None:
        """Bytes that were sent before are sent again, by the same party or by another."""
        if not self.sent:
            return
        past = self.random.choice(self.sent)
        again = self.random.choice(self.people)
        may = (
            not past.attacked
            and again == past.label
            and all(
                self.model.may_release(past.request.ticket, again, name, item.version, self.world.time_s)
                for item, name in zip(past.request.items, past.names, strict=True)
            )
        )
        self._compare(again, past.request, may=may)

    def _compare(self, label: str, request: SharesRequest, *, may: bool) -> None:
        """One keyholder's answer, at a random one, now and then with a chain that stands still."""
        holder = self.random.choice("abcdef")
        self.sealed.skew_s = STALE_BLOCK_S + 1 if self.random.random() < RARELY else 0
        may = may and holder in self.model.holders and not self.sealed.skew_s
        answer = self._answer(holder, label, request)
        self.sealed.skew_s = 0
        assert (answer is not None) == may
        if answer is not None:
            self.released[holder, request.ticket] += len(request.items)
            self._require_sealed(answer, label, request)

    def _answer(self, holder: str, label: str, request: SharesRequest) -> SharesAnswer | None:
        try:
            answer = asyncio.run(self.sealed.keyholders[holder].release(self.who(label).id, request))
        except SharesRefused as refused:
            self.seen[refused.code.name] += 1
            return None
        self.seen["released"] += 1
        return answer

    def _require_sealed(self, answer: SharesAnswer, label: str, request: SharesRequest) -> None:
        """Only the holder of the key that the ticket names opens it."""
        for one in self.people:
            who = self.who(one)
            for requester in (who.id, self.who(label).id):
                opens = _opened(answer, request.ticket, requester, who.hpke)
                assert len(opens) == (len(request.items) if one == label else 0)

    # --- reading with keyholders that are bad -------------------------------------------------------------

    def reads(self) -> None:
        """Somebody gathers keys while two of the five are bad; with three bad ones nothing opens."""
        label = self.random.choice(self.people)
        ticket = self._some_ticket(label)
        names = self._some_records(ticket, label, most=2)
        wanted = [self.model.records[name].versions[-1] for name in names]
        may = all(
            self.model.may_release(ticket, label, name, one.version, self.world.time_s)
            for name, one in zip(names, wanted, strict=True)
        )
        bad = self.random.choice((0, 1, 2, 2, 3))
        order = self.random.sample(sorted(self.model.holders), 5)
        who = self.who(label)
        holders: list[Direct] = [
            Bad(self.sealed, one, who, self.random.choice(Bad.WAYS), self.heard)
            if at < bad
            else Direct(self.sealed.keyholders[one], who.id)
            for at, one in enumerate(order)
        ]
        gatherer = self.sealed.gatherer(who, holders=holders)
        known = {one.record: one.key for one in wanted}
        fits = None if self.random.random() < 0.5 else lambda one, key: known[one.record] == key
        before = {one: len(self.sealed.audits[one].entries(limit=10_000)) for one in order}
        try:
            keys = asyncio.run(gatherer.keys(ticket, [one.to_release() for one in wanted], fits))
        except NotEnoughShares:
            assert not may or bad > 5 - THRESHOLD
        else:
            assert may
            assert bad <= 5 - THRESHOLD
            assert keys == {(one.record, one.version): one.key for one in wanted}
            self.seen["opened"] += 1
        for one in order:
            for entry in self.sealed.audits[one].entries(after=before[one], limit=10_000):
                assert may or entry.read.code
                self.released[one, ticket] += 0 if entry.read.code else len(entry.read.records)
        self._accuse(gatherer.misbehaved, holders)

    def _accuse(self, misbehaved: dict[bytes, object], holders: list[Direct]) -> None:
        """Whoever is convicted is guilty; the ledger agrees, once per epoch."""
        ways = {one.party: one.way for one in holders if isinstance(one, Bad)}
        for party, evidence in misbehaved.items():
            assert ways.get(party) in Bad.PROVABLE
            self.world.run(evidence.accusation(), by=self.world.carl)
            assert self.world.contracts().keyring.misdeeds.get(party, self.epoch, Misdeed.BAD_SHARE) is not None
            self.seen["convicted"] += 1

    # --- at the end ---------------------------------------------------------------------------------------

    def compare_logs(self) -> None:
        """What the audits say was released is what was, and the patient's log shows all of it."""
        audited: Counter[tuple[str, bytes]] = Counter()
        for label, audit in self.sealed.audits.items():
            audit.check()
            for entry in audit.entries(limit=10_000):
                if not entry.read.code:
                    audited[label, entry.read.ticket] += len(entry.read.records)
        assert +audited == +self.released
        self.report()
        organisations = {getattr(self.world, label).id: label for label in self.sealed.audits}
        logged: Counter[tuple[str, bytes]] = Counter()
        for line in self.sealed.log():
            if line.kind is EntryKind.KEY_SHARES:
                logged[organisations[line.organisation], line.ticket] += line.records
        assert +logged == +self.released
        assert self.world.broken() == []

    def report(self) -> None:
        for label in self.sealed.audits:
            asyncio.run(self.sealed.reporter(label).report())


def _opened(answer: SharesAnswer, ticket: bytes, requester: bytes, key: HpkePrivateKey) -> tuple[SignedShare, ...]:
    try:
        return open_shares(answer, chain_id=CHAIN_ID, ticket_id=ticket, requester=requester, private_key=key)
    except CannotOpen:
        return ()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_released_without_a_live_ticket(seed: int, tmp_path: Path) -> None:
    story = Story(tmp_path, seed)
    try:
        story.run()
    finally:
        story.sealed.close()
    assert {"released", "opened", "convicted", "NOT_THE_REQUESTER"} <= set(story.seen)
