"""One organisation of the demonstration: a home of its own with keys, certificates, charts, a vault and doors."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from carechain.charts.store import Charts
from carechain.contracts.membership import EnrolStaff
from carechain.core.crypto import SigningKey
from carechain.core.organisation import NewMember
from carechain.core.vocabulary import OrganisationKind, PartyKind, Role, mask
from carechain.demo.drawn import Drawn
from carechain.demo.keeping import Copies, Keeping, Own, keeping
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.erasing import Eraser, Holdings, SealedObjects
from carechain.gatekeeper.erasure_journal import ErasureJournal
from carechain.gatekeeper.keyholder import Keyholder
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.reports import Reporter
from carechain.gatekeeper.serve import app
from carechain.node.ceremony import FollowedLedger
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.identity import Identity, enrolment_of, new_identity
from carechain.sdk.registrar import RegistrarSecret
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.symmetric import ScryptCost

QUICK: Final = ScryptCost(n=1 << 12)
"""These keys guard nothing, so their files need not cost a guesser anything."""
LAPSE_DAYS: Final = 90
PASSWORD_FILE: Final = "password"  # noqa: S105 - the name of the file that has it
_KEYS: Final = "keys"


class Post(Struct, frozen=True):
    """A member of staff: a short name for the program, a name for people, a role."""

    handle: str
    name: str
    role: Role


class Plan(Struct, frozen=True, kw_only=True):
    """What an organisation of the demonstration is to be."""

    handle: str
    name: str
    kind: OrganisationKind
    registrar: bool = False
    staff: tuple[Post, ...]


class Person(Struct, frozen=True, kw_only=True):
    """Someone who signs: id, keys, and a name that stays off the ledger."""

    id: bytes
    organisation: bytes
    name: str
    signing: SigningKey
    hpke: HpkePrivateKey


class Organisation:
    """A member at work. Made by :meth:`found`, put to work by :meth:`open_door`."""

    def __init__(
        self, *, plan: Plan, home: Path, entropy: Drawn, identity: Identity, authority: CertificateAuthority
    ) -> None:
        self.plan = plan
        self.home = home
        self.entropy = entropy
        self.authority = authority
        self.identity = identity
        self.member = person_of(identity, plan.name)
        self.secret: RegistrarSecret | None = None
        self.staff: dict[str, Person] = {}
        self.charts = Charts.open(home / "charts.sqlite")
        self.audit = Audit.open(home / "audit.sqlite")
        self.erasures = ErasureJournal.open(home / "erasures.sqlite")
        self.eraser: Eraser | None = None
        self.gatekeeper: Gatekeeper | None = None
        self.reporter: Reporter | None = None
        self.listener: Listener | None = None
        self._keeping: Keeping | None = None
        self._clock: Callable[[], int] = int
        self._open = AsyncExitStack()

    @classmethod
    def found(cls, plan: Plan, home: Path, *, seed: int, now_s: int) -> "Organisation":
        """Make the home: the member's key, its certificate authority, a registrar's secret where it has one."""
        keys = home / _KEYS
        keys.mkdir(parents=True, mode=0o700)
        entropy = Drawn(seed, plan.handle)
        password = entropy(16).hex()
        (keys / PASSWORD_FILE).touch(mode=0o600)
        (keys / PASSWORD_FILE).write_text(password + "\n", encoding="utf-8")
        identity = new_identity(kind=PartyKind.MEMBER, entropy=entropy, label=plan.name)
        now = datetime.fromtimestamp(now_s, UTC)
        authority = CertificateAuthority.create(
            identity.party,
            not_before=now - timedelta(days=1),
            not_after=now + timedelta(days=3650),
            entropy=entropy,
        )
        identity.save(keys / "member.json", password=password, entropy=entropy, cost=QUICK)
        authority.save(keys / "authority.json", password=password, entropy=entropy, cost=QUICK)
        made = cls(plan=plan, home=home, entropy=entropy, identity=identity, authority=authority)
        if plan.registrar:
            made.secret = RegistrarSecret.create(keys / "registrar.secret", entropy=entropy)
        return made

    @property
    def id(self) -> bytes:
        """The member's party id."""
        return self.member.id

    def as_new(self) -> NewMember:
        """What the genesis says of it."""
        return NewMember(
            kind=self.plan.kind,
            name=self.plan.name,
            suite=self.member.signing.suite,
            public_key=self.member.signing.public_key,
            hpke_key=self.member.hpke.public_key,
            authority=self.authority.certificate,
            registrar=self.plan.registrar,
            lapse_days=LAPSE_DAYS,
        )

    def employ(self, post: Post, *, chain_id: str, now_s: int) -> EnrolStaff:
        """Make a member of staff's keys and certificate; returns the message that enrols them."""
        now = datetime.fromtimestamp(now_s, UTC)
        identity = new_identity(kind=PartyKind.STAFF, entropy=self.entropy, organisation=self.id, label=post.name)
        certificate = self.authority.issue(
            identity.party,
            suite=identity.suite,
            public_key=identity.signing_key().public_key,
            roles=mask(post.role),
            not_before=now - timedelta(hours=1),
            not_after=now + timedelta(days=730),
            entropy=self.entropy,
        )
        keys = self.home / _KEYS
        password = (keys / PASSWORD_FILE).read_text(encoding="utf-8").strip()
        certified = identity.with_certificate(certificate)
        certified.save(keys / f"{post.handle}.json", password=password, entropy=self.entropy, cost=QUICK)
        self.staff[post.handle] = person_of(identity, post.name)
        return enrolment_of(
            identity.signing_key(),
            chain_id=chain_id,
            organisation=self.id,
            certificate=certificate,
            hpke_key=identity.hpke_key().public_key,
        )

    @property
    def keeping(self) -> Keeping:
        """What it keeps of sealed records."""
        if self._keeping is None:
            raise RuntimeError("the organisation is not at work yet")
        return self._keeping

    async def open_door(
        self, ledger: FollowedLedger, *, clock: Callable[[], int], copies: Copies | None = None
    ) -> None:
        """Open vault and keyholder's file, and put the doors on a loopback socket of their own."""
        self._clock = clock
        own = Own(home=self.home, identity=self.identity, ledger=ledger, clock=clock, entropy=self.entropy)
        opening = keeping(own, chain_id=ledger.chain_id, copies=copies or Copies())
        self._keeping = await self._open.enter_async_context(opening)
        self.gatekeeper = Gatekeeper(
            organisation=self.id,
            ledger=ledger,
            charts=self.charts,
            audit=self.audit,
            clock=clock,
            entropy=self.entropy,
        )
        self.reporter = Reporter(
            ledger=ledger, audit=self.audit, key=self.member.signing, member=self.id, entropy=self.entropy
        )
        vault = self._keeping.vault.service
        self.eraser = Eraser(
            ledger=ledger,
            journal=self.erasures,
            key=self.member.signing,
            member=self.id,
            clock=clock,
            entropy=self.entropy,
            holdings=Holdings(charts=self.charts, vault=SealedObjects(vault), tokens=vault.tokens),
        )
        await self.listen()

    async def listen(self, keyholder: type[Keyholder] = Keyholder) -> None:
        """Answer at a free port; ``keyholder`` is the software that releases the share of the key."""
        if self.gatekeeper is None:
            raise RuntimeError("the organisation is not at work yet")
        doors = self.keeping.doors(self.audit, keyholder)
        self.listener = Listener(app(self.gatekeeper, clock=self._clock, entropy=self.entropy, extensions=doors))
        await self.listener.start()

    async def shut(self) -> None:
        """Answer nobody, until :meth:`listen`."""
        if self.listener is not None:
            await self.listener.stop()
            self.listener = None

    def parts(self) -> tuple[Callable[[Any], Coroutine[Any, Any, None]], ...]:
        """What runs as long as the organisation does, each until the event it is given is set."""
        if self.reporter is None or self.eraser is None:
            raise RuntimeError("the organisation is not at work yet")
        return self.reporter.run, self.eraser.run, *self.keeping.parts()

    async def close(self) -> None:
        """Shut the door and the files."""
        await self.shut()
        await self._open.aclose()
        await asyncio.to_thread(self.charts.close)
        self.audit.close()
        self.erasures.close()


def person_of(identity: Identity, name: str) -> Person:
    """The signer behind an identity."""
    return Person(
        id=identity.party,
        organisation=identity.organisation,
        name=name,
        signing=identity.signing_key(),
        hpke=identity.hpke_key(),
    )
