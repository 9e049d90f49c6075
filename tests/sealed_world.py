"""The small world with sealed records: five keyholders, and a key of which three shares open something.

Goal: let a test ask keyholders for shares and look at what they did. Method: the key is dealt here by one hand instead
of by a ceremony (which has tests of its own) and put into the state; everything after it is real: capsules, anchors by
signed transactions, tickets, keyholders with audits on disk, blindings, shares and their signatures.
"""

import asyncio
import os
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from carechain.chain.routing import Contracts
from carechain.contracts.access import EntryKind, LogRow, RequestAccess, log_of
from carechain.contracts.keyring.schema import CurrentRow, Holder, KeyRow
from carechain.contracts.records import SealedHashes
from carechain.core import group
from carechain.core.party import Party
from carechain.core.quorum import Capsule, Label
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import ALL_PURPOSES, Action, Category, Purpose, Sensitivity
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.keyholder import RATES, Keyholder, ShareRates
from carechain.gatekeeper.reports import Reporter
from carechain.sdk.gathering import Gatherer, ToRelease
from carechain.sdk.shares import ShareItem, SharesAnswer, SharesRequest, SignedShare, open_shares
from carechain.sealing.quorum.capsule import seal_key
from carechain.sealing.quorum.release import BlindingSecret
from carechain.state.overlay import Overlay
from house import WorldLedger
from world import (
    CHAIN_ID,
    Actor,
    Organisation,
    Signer,
    World,
    anchor_of,
    fresh,
    grant_of,
    record_id,
    scope_of,
    seeded,
)

HOLDERS = "abcde"
THRESHOLD = 3
CARE = scope_of(Category.ENCOUNTER, Category.RESULT)


class Share(Struct, frozen=True):
    """One holder's share in one epoch."""

    epoch: int
    index: int
    scalar: bytes


class Shares:
    """Where a keyholder of the tests keeps its shares: by epoch."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, Share] = {}

    def share(self, epoch: int) -> Share | None:
        return self.by_epoch.get(epoch)


@cache
def _empty_audit() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "audit.sqlite"
        Audit.open(path).close()
        return path.read_bytes()


def install_key(world: World, members: list[Organisation], *, epoch: int = 1) -> tuple[KeyRow, list[Share]]:
    """Put a key with these holders into the state, as a ceremony leaves it, and give each its share.

    The public key is always the same one, as after a resharing; the shares differ in every epoch.
    """
    secret = group.hash_to_scalar("test/consortium-key", b"x")
    factors = [secret, *(group.hash_to_scalar("test/factor", bytes([epoch, one])) for one in range(1, THRESHOLD))]
    shares = [Share(epoch, index, _value_at(factors, index)) for index in range(1, len(members) + 1)]
    row = KeyRow(
        epoch=epoch,
        public_key=group.base_mul(secret),
        threshold=THRESHOLD,
        holders=tuple(
            Holder(party=member.id, index=one.index, key=group.base_mul(one.scalar))
            for member, one in zip(members, shares, strict=True)
        ),
        since_s=world.time_s,
        since_height=world.height,
    )

    def put(contracts: Contracts) -> None:
        contracts.keyring.keys.put(epoch, row=row)
        contracts.keyring.current_epoch.put(0, row=CurrentRow(epoch=epoch))

    rewrite(world, put)
    return row, shares


def rewrite(world: World, change: Callable[[Contracts], None]) -> None:
    """Change the state behind the contracts' back."""
    overlay = Overlay(world.snapshot)
    change(Contracts(overlay))
    world.snapshot = world.snapshot.apply(overlay.changes())


class Written(Struct, frozen=True, kw_only=True):
    """A sealed version as its writer leaves it: what is anchored, what stands in the object, and the test's own key."""

    record: bytes
    version: int
    label: Label
    capsule: Capsule
    data: bytes
    key: bytes

    def to_release(self) -> ToRelease:
        return ToRelease(record=self.record, version=self.version, data=self.data, capsule=self.capsule)


class Direct:
    """A keyholder as a requester sees it, without a socket between them; ``change`` may alter the answer on its way."""

    def __init__(self, keyholder: Keyholder, requester: bytes) -> None:
        self.party = keyholder.organisation
        self.keyholder = keyholder
        self.requester = requester
        self.asked = 0

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        self.asked += 1
        return await self.keyholder.release(self.requester, request)


class SealedWorld:
    """A world with sealed records. Hospital a may write; Bert at hospital b may read encounters and results up to N."""

    def __init__(self, folder: Path, *, rates: ShareRates = RATES, holders: str = HOLDERS) -> None:
        self.folder = folder
        self.world = fresh()
        self.ledger = WorldLedger(self.world)
        self.skew_s = 0
        self.members: list[Organisation] = [getattr(self.world, label) for label in holders]
        self.secrets = {member.label: Shares() for member in self.members}
        self.audits = {member.label: self.audit(f"shares-{member.label}.sqlite") for member in self.members}
        self.key = self.install(epoch=1)
        self.keyholders = {member.label: self.keyholder(member, rates=rates) for member in self.members}
        world = self.world
        writing = grant_of(world.steve, world.a, scope=EVERYTHING, actions=int(Action.WRITE), purposes=ALL_PURPOSES)
        self.may_write = world.grant(writing, by=world.steve)
        self.may_read = world.grant(grant_of(world.steve, world.bert, scope=CARE), by=world.steve)

    def audit(self, name: str) -> Audit:
        """A keyholder's audit, not synced: nobody pulls the plug here, and many syncs would be waited for."""
        path = self.folder / name
        path.write_bytes(_empty_audit())
        audit = Audit.open(path)
        audit._connection.execute("PRAGMA synchronous=OFF")
        return audit

    # --- the key ------------------------------------------------------------------------------------------

    def install(self, *, epoch: int, members: list[Organisation] | None = None) -> KeyRow:
        """Deal the key anew, as a resharing leaves it: same public key, other shares, the older ones deleted."""
        members = members or self.members
        self.key, dealt = install_key(self.world, members, epoch=epoch)
        for shares in self.secrets.values():
            shares.by_epoch.clear()
        for member, share in zip(members, dealt, strict=True):
            self.secrets.setdefault(member.label, Shares()).by_epoch[epoch] = share
        return self.key

    def keyholder(
        self,
        member: Organisation,
        *,
        rates: ShareRates = RATES,
        ledger: WorldLedger | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> Keyholder:
        """A keyholder of this member over the member's own audit."""
        return Keyholder(
            organisation=member.id,
            signing=member.signing,
            ledger=ledger or self.ledger,
            secrets=self.secrets[member.label],
            audit=self.audits[member.label],
            clock=self.clock,
            entropy=entropy,
            rates=rates,
        )

    def clock(self) -> int:
        return self.world.time_s + self.skew_s

    # --- writing ------------------------------------------------------------------------------------------

    def write(
        self,
        name: str,
        *,
        sensitivity: Sensitivity = Sensitivity.N,
        category: Category = Category.RESULT,
        day: int = 45_000,
        version: int = 1,
        label: Label | None = None,
        patient: object = None,
        data: bytes | None = None,
    ) -> Written:
        """A sealed version, anchored; ``label`` and ``data`` may differ from what the anchor says: a bad writer's."""
        steve = patient or self.world.steve
        record = record_id(name)
        honest = label_of(steve.id, name, version=version, category=category, sensitivity=sensitivity, day=day)
        key = seeded("record key", name, version)
        entropy = seeded("capsule", name, version)
        capsule = seal_key(self.key.public_key, label=label or honest, key=key, entropy=entropy)
        data = capsule.encode() if data is None else data
        sealed = SealedHashes(capsule=sha256(data).digest(), object=seeded("object", name, version))
        message = anchor_of(
            steve, name, version=version, category=category, sensitivity=sensitivity, day=day, sealed=sealed
        )
        self.world.done(message, by=self.world.carl)
        return Written(record=record, version=version, label=honest, capsule=capsule, data=data, key=key)

    # --- asking -------------------------------------------------------------------------------------------

    def ticket(
        self, by: Signer | None = None, scope: Scope = CARE, purpose: Purpose = Purpose.TREAT, patient: object = None
    ) -> bytes:
        """A ticket for a request, allowed or refused."""
        message = RequestAccess(pseudonym=(patient or self.world.steve).id, scope=scope, purpose=purpose)
        return self.world.request(message, by=by or self.world.bert).ticket

    def blinding(self, ticket: bytes, written: Written, by: Signer | None = None, **changed: object) -> BlindingSecret:
        """A blinding for exactly this; ``changed`` binds it to something else."""
        fields: dict[str, object] = {
            "chain_id": CHAIN_ID,
            "ticket": ticket,
            "record": written.record,
            "version": written.version,
            "sender": (by or self.world.bert).id,
            "entropy": os.urandom(32),
        }
        return BlindingSecret(**fields | changed)

    def request(self, ticket: bytes, *written: Written, by: Signer | None = None) -> SharesRequest:
        """What an honest requester sends."""
        items = (
            ShareItem(one.record, one.version, one.data, self.blinding(ticket, one, by).blinding) for one in written
        )
        return SharesRequest(ticket=ticket, items=tuple(items))

    def ask(self, by: Signer, request: SharesRequest, label: str = "a") -> SharesAnswer:
        """One keyholder's answer."""
        return asyncio.run(self.keyholders[label].release(by.id, request))

    def opened(self, answer: SharesAnswer, ticket: bytes) -> tuple[SignedShare, ...]:
        """What Bert finds in it."""
        bert = self.world.bert
        return open_shares(answer, chain_id=CHAIN_ID, ticket_id=ticket, requester=bert.id, private_key=bert.hpke)

    def direct(self, by: Signer | None = None) -> list[Direct]:
        """All keyholders as this requester sees them."""
        return [Direct(one, (by or self.world.bert).id) for one in self.keyholders.values()]

    def gatherer(self, by: Actor | None = None, *, holders: list[object] | None = None) -> Gatherer:
        """Bert's, or somebody else's, way to the keys."""
        who = by or self.world.bert
        return Gatherer(
            chain_id=CHAIN_ID,
            party=who.id,
            hpke=who.hpke,
            key=self.key,
            members=self.parties(),
            holders=self.direct(who) if holders is None else holders,
            entropy=os.urandom,
            pause=_no_pause,
        )

    def parties(self) -> dict[bytes, Party]:
        """The members as the ledger has them."""
        tables = self.world.contracts().membership
        found = {member.id: tables.party(member.id) for member in self.world.members}
        return {party: row for party, row in found.items() if row is not None}

    # --- looking ------------------------------------------------------------------------------------------

    def reporter(self, label: str) -> Reporter:
        """A keyholder's reporter."""
        member: Organisation = getattr(self.world, label)
        return Reporter(
            ledger=self.ledger,
            audit=self.audits[label],
            key=member.signing,
            member=member.id,
            entropy=os.urandom,
            kind=EntryKind.KEY_SHARES,
        )

    def log(self, patient: object = None) -> list[LogRow]:
        """The patient's access log."""
        return [line for _, line in log_of(self.world.contracts().access, (patient or self.world.steve).id)]

    def close(self) -> None:
        for audit in self.audits.values():
            audit.close()


def label_of(
    pseudonym: bytes,
    name: str,
    *,
    version: int = 1,
    category: Category = Category.RESULT,
    sensitivity: Sensitivity = Sensitivity.N,
    day: int = 45_000,
) -> Label:
    """What the capsule of the record named ``name`` must be bound to."""
    return Label(
        chain_id=CHAIN_ID,
        pseudonym=pseudonym,
        record=record_id(name),
        version=version,
        category=category,
        sensitivity=sensitivity,
        day=day,
    )


async def _no_pause(_seconds: float) -> None:
    return


def _value_at(factors: list[bytes], index: int) -> bytes:
    at, total = group.scalar_from_int(index), group.ZERO
    for factor in reversed(factors):
        total = group.scalar_add(group.scalar_mul(total, at), factor)
    return total
