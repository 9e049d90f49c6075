"""Goal: nothing secret of sealed records, and nothing that was sealed, is anywhere but where it belongs.

Method: seven organisations hold two ceremonies on a real node; a laboratory seals, stores, indexes and anchors a
record; a doctor searches and reads it over sockets; a patient's key is recovered with cards; everything is also asked
for wrongly, with secrets in paths, headers and bodies; the home is backed up. On the way every secret is noted as it is
made. Then all of them are looked for, in the spellings that bytes and text take, in all that is left behind: every file
on the disk, the log, standard output, figures, answers to what was wrong, events and receipts.
"""

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from carechain.chain import genesis as founding
from carechain.chain.questions import AnchorLine
from carechain.charts.store import Charts
from carechain.contracts.access import RequestAccess
from carechain.contracts.recovery import CardKey, SetPolicy
from carechain.core.scope import EVERYTHING
from carechain.core.vocabulary import Category, Purpose, Role, Sensitivity
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.keyholder import Keyholder
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.objects_door import ObjectsDoor, PutTokens, SearchAnswer, SearchRequest
from carechain.gatekeeper.release import Gatekeeper
from carechain.gatekeeper.serve import app
from carechain.gatekeeper.shares_door import shares_door
from carechain.node.archive import Password
from carechain.node.backup import back_up
from carechain.node.logs import configure_logs
from carechain.sdk.door import DoorSession
from carechain.sdk.gathering import Gatherer
from carechain.sdk.recovery_cards import card_key, join_cards, make_cards
from carechain.sdk.sealed import About, Consortium, SealedReader, seal_record
from carechain.sdk.searching import IndexSecret
from carechain.sdk.shares import KeyholderClient
from carechain.sdk.signer import Signer as DoorKey
from carechain.sdk.wallet import Wallet, new_wallet
from carechain.sealing.blind_index import BlindIndex
from carechain.sealing.symmetric import ScryptCost
from carechain.vault.folder import FolderStore
from carechain.vault.metering import Metering
from carechain.vault.replicated import Replicated
from carechain.vault.service import VaultService
from carechain.vault.tokens import TokenStore
from ceremony_network import CeremonyNetwork, ceremony_network
from e2e.test_canary import found_in
from recoveries import start_of, terms_of
from world import CHAIN_ID, Actor, anything, bind_message, enrolment_of, record_id

NAME = "欧阳 Sealedname-Quetzal"
DIAGNOSIS = "Canarypox syndrome 金丝雀痘综合征"
KEYWORDS = ("canarypox", "金丝", "雀痘")
"""As they go into the index: a word, and pairs of neighbours."""
CODE = "sealed-canary-3391-7"
PASSWORD = "battery staple 口令"
TEXTS = (NAME, DIAGNOSIS, CODE, PASSWORD, *KEYWORDS)
CHEAP = ScryptCost(n=1024, r=1)


class Secrets:
    """What must be nowhere, by what it is; noted as it is made."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}
        self.words: list[str] = []

    def note(self, what: str, secret: bytes) -> bytes:
        self.known[f"{what} {len(self.known)}"] = secret
        return secret

    def drawn(self, *names: str) -> Callable[[int], bytes]:
        """Randomness that notes what the first draws are for; what is drawn afterwards is public."""
        left = list(names)

        def entropy(size: int) -> bytes:
            made = os.urandom(size)
            return self.note(left.pop(0), made) if left else made

        return entropy

    def watch(self, network: CeremonyNetwork) -> None:
        """Note every seed and share that the organisations' files are given."""
        for store in network.stores:
            begin, settle = store.begin, store.settle

            def begun(ceremony: bytes, *, height: int, begin: Any = begin) -> bytes:
                return self.note("ceremony seed", begin(ceremony, height=height))

            def settled(ceremony: bytes, share: Any, settle: Any = settle) -> None:
                if share is not None:
                    self.note("share", share.scalar)
                settle(ceremony, share)

            store.begin, store.settle = begun, settled  # type: ignore[method-assign]

    def found_in(self, data: bytes) -> list[str]:
        """Which of them the bytes hold, in whatever spelling."""
        found = [what for what, secret in self.known.items() if any(one in data for one in spellings(secret))]
        text = data.decode("utf-8", "replace")
        found += [one for one in TEXTS if found_in_bytes(one, data)]
        return found + [words for words in self.words if words in text] + found_in(text)


def spellings(secret: bytes) -> Iterator[bytes]:
    """As bytes, in either hexadecimal, in base64 at each of its three beginnings, in a repr, and as a number."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for skip in range(3):
        yield base64.b64encode(b"\0" * skip + secret)[4:-4]
        yield base64.urlsafe_b64encode(b"\0" * skip + secret)[4:-4]
    yield repr(secret)[2:-1].encode()
    yield str(int.from_bytes(secret, "little")).encode()
    yield str(int.from_bytes(secret, "big")).encode()


def found_in_bytes(text: str, data: bytes) -> bool:
    plain = (text.encode(), text.encode("utf-16-le"), json.dumps(text)[1:-1].encode(), text.encode().hex().encode())
    return any(one in data for one in (*plain, base64.b64encode(text.encode())[:-4]))


@contextmanager
def logged() -> Iterator[StringIO]:
    """The log of everything in this process, at its most talkative."""
    root, stream = logging.getLogger(), StringIO()
    handlers, level = root.handlers[:], root.level
    configure_logs("debug", stream)
    try:
        yield stream
    finally:
        root.handlers[:], root.level = handlers, level


def test_the_search_finds_what_it_looks_for() -> None:
    secrets = Secrets()
    secrets.note("a key", bytes(range(100, 132)))
    secrets.words.append("academic acid acrobat")
    for spelled in spellings(bytes(range(100, 132))):
        assert secrets.found_in(b"x" + spelled + b"y"), spelled
    for text in TEXTS:
        assert secrets.found_in(f"…{text}…".encode()), text
    assert secrets.found_in(b"the card: academic acid acrobat")
    assert secrets.found_in("nothing to see, 什么都没有".encode() + bytes(range(99))) == []


def test_nothing_secret_is_left_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = Secrets()
    story = Story(tmp_path, secrets)
    with logged() as log:
        asyncio.run(story.run())
    out = capfd.readouterr()
    said = log.getvalue()
    assert all(json.loads(line) for line in said.splitlines())
    assert '"share_kept"' in said, "the log was not simply silent"
    assert secrets.found_in(said.encode()) == []
    assert secrets.found_in((out.out + out.err).encode()) == []
    assert {what.split()[0] for what in secrets.known} >= {"ceremony", "share", "record", "index", "wallet", "recovery"}
    assert secrets.found_in(story.figures) == []
    assert len(story.answers) > 100
    assert secrets.found_in("\n".join(story.answers).encode()) == []
    assert secrets.found_in("\n".join(map(repr, story.events)).encode()) == []
    assert secrets.found_in(b"".join(map(msgspec.msgpack.encode, story.events))) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.name.rpartition(".")[2] for path in files} | {path.name for path in files}
    assert {"blocks.log", "keyholder.json", "tokens.sqlite", "vault.sqlite", "audit.sqlite", "backup"} <= kinds, kinds
    for path in files:
        assert secrets.found_in(path.read_bytes()) == [], path


class Story:
    """What happens, and what was seen on the way."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self.folder = folder
        self.home = folder / "node"
        self.secrets = secrets
        self.answers: list[str] = []
        self.events: list[object] = []
        self.figures = b""

    async def run(self) -> None:
        async with ceremony_network(self.folder) as network:
            self.secrets.watch(network)
            for _ in range(2):
                await network.hold(threshold=3)
            await self.with_doors(network)
            self.figures = network.service.metrics.exposition()
            self.back_up(network)

    # --- the organisation's doors -------------------------------------------------------------------------

    async def with_doors(self, network: CeremonyNetwork) -> None:
        self.network, self.a, self.b = network, network.members[0], network.members[1]
        self.service = network.service
        for name in ("vault", "charts", "audit", "keys"):
            (self.home / name).mkdir(exist_ok=True)
        self.vault = VaultService(
            Replicated([FolderStore(self.home / "vault" / "objects")], copies=1),
            Metering(self.home / "vault" / "vault.sqlite"),
            TokenStore(self.home / "vault" / "tokens.sqlite"),
            organisation=self.a.id,
            clock=now_s,
        )
        audits = [Audit.open(self.home / "audit" / f"shares-{one.label}.sqlite") for one in network.members]
        with (
            Charts.open(self.home / "charts" / "charts.sqlite") as charts,
            Audit.open(self.home / "audit" / "audit.sqlite") as audit,
        ):
            listeners = []
            for member, store, own in zip(network.members, network.stores, audits, strict=True):
                keyholder = Keyholder(
                    organisation=member.id,
                    signing=member.signing,
                    ledger=self.service,
                    secrets=store,
                    audit=own,
                    clock=now_s,
                    entropy=os.urandom,
                )
                gatekeeper = Gatekeeper(
                    organisation=member.id,
                    ledger=self.service,
                    charts=charts,
                    audit=audit,
                    clock=now_s,
                    entropy=os.urandom,
                )
                door = ObjectsDoor(
                    self.vault,
                    ledger=self.service,
                    organisation=member.id,
                    audit=audit,
                    clock=now_s,
                    incoming=self.home / "vault",
                )
                extensions = (shares_door(keyholder), door.routes)
                listener = Listener(app(gatekeeper, clock=now_s, entropy=os.urandom, extensions=extensions))
                await listener.start()
                listeners.append(listener)
            try:
                await self.play([one.url for one in listeners])
            finally:
                for one in listeners:
                    await one.stop()
        for one in audits:
            one.close()
        self.vault.metering.close()
        self.vault.tokens.close()

    async def play(self, doors: list[str]) -> None:
        await self.enrol()
        line, text = await self.write()
        await self.recover()
        https = [httpx.AsyncClient(base_url=url, trust_env=False) for url in doors]
        try:
            await self.search_and_read(https, line, text)
            await self.ask_wrongly(https[0])
        finally:
            for http in https:
                await http.aclose()

    async def send(self, message: Any, by: Any) -> tuple[Any, ...]:
        events = await self.network.send(message, by=by)
        self.events += events
        return events

    # --- people -------------------------------------------------------------------------------------------

    async def enrol(self) -> None:
        self.carl = Actor("carl", organisation=self.a.id)
        self.bert = Actor("bert", organisation=self.b.id)
        for actor, organisation in ((self.carl, self.a), (self.bert, self.b)):
            certificate = organisation.certify(actor, Role.DOCTOR)
            await self.send(enrolment_of(actor, certificate), organisation)
        self.wallet = new_wallet(chain_id=CHAIN_ID, entropy=self.secrets.drawn("wallet seed"))
        self.wallet = self.wallet.with_cards()
        self.wallet.save(self.folder / "wallet.json", password=PASSWORD, entropy=os.urandom, cost=CHEAP)
        assert Wallet.load(self.folder / "wallet.json", password=PASSWORD) == self.wallet
        self.steve = self.wallet.pseudonym(self.a.id)
        await self.send(bind_message(self.steve, self.a.secret.id_hash("mrn", CODE)), self.a)
        await self.send(anything(self.steve, *sorted((self.a, self.bert), key=lambda one: one.id)), self.steve)

    async def recover(self) -> None:
        """Cards are made and joined, and an attempt with them stands on the ledger."""
        secret = self.secrets.note("recovery secret", self.wallet.recovery_secret())
        cards = make_cards(secret, needed=2, cards=3)
        # A set's first two words are alike on every card; from the third on they are the secret's.
        self.secrets.words += [" ".join(card.split()[3:6]) for card in cards]
        assert join_cards(cards[1:]) == secret
        key = card_key(secret, chain_id=CHAIN_ID, pseudonym=self.steve.id)
        terms = terms_of(card=CardKey(suite=key.suite, public_key=key.public_key), wait_s=DAY_S)
        await self.send(SetPolicy(pseudonym=self.steve.id, terms=terms), self.steve)
        new = Actor("the patient's new key")
        attempt = start_of(self.steve, new)
        await self.send(attempt, self.a)

    # --- records ------------------------------------------------------------------------------------------

    async def write(self) -> tuple[AnchorLine, bytes]:
        """The laboratory seals, stores and anchors; then it indexes."""
        text = json.dumps({"name": NAME, "code": CODE, "text": DIAGNOSIS}, ensure_ascii=False).encode()
        key = self.network.key()
        assert key is not None
        anchor, data = seal_record(
            [(self.secrets.note("record salt", os.urandom(32)), text)],
            about=About(
                pseudonym=self.steve.id,
                record=record_id("sealed"),
                version=1,
                category=Category.RESULT,
                sensitivity=Sensitivity.R,
                day=45_000,
            ),
            consortium=Consortium(chain_id=CHAIN_ID, public_key=key.public_key),
            entropy=self.secrets.drawn("record key", "record entropy"),
        )
        assert anchor.sealed is not None
        await self.vault.put(anchor.sealed.object, data, pseudonym=self.steve.id)
        await self.send(anchor, self.carl)
        secret = IndexSecret(self.secrets.note("index secret", os.urandom(32)))
        salt, index = secret.index(
            chain_id=CHAIN_ID, pseudonym=self.steve.id, category=Category.RESULT, sensitivity=Sensitivity.R
        )
        self.secrets.note("index salt", salt)
        self.index = BlindIndex(self.secrets.note("index key", index))
        self.secrets.note("index token key", self.index._token_key)
        self.tokens = self.index.tokens(anchor.record, [NAME, DIAGNOSIS])
        row = self.service.view().contracts.records.anchors.get(anchor.pseudonym, anchor.record, 1)
        assert row is not None
        return AnchorLine(anchor.record, 1, row), text

    async def search_and_read(self, doors: list[httpx.AsyncClient], line: AnchorLine, text: bytes) -> None:
        put = msgspec.msgpack.encode(PutTokens(pseudonym=self.steve.id, record=line.record, tokens=self.tokens))
        assert (await self.post(doors[0], "/v1/tokens", self.carl, put)).status_code == 200
        ask = RequestAccess(pseudonym=self.steve.id, scope=EVERYTHING, purpose=Purpose.TREAT)
        (decided,) = await self.send(ask, self.bert)
        for phrase in ("金丝雀痘", "Canarypox"):
            wanted = SearchRequest(ticket=decided.ticket, tokens=self.index.search_tokens(phrase))
            answer = await self.post(doors[0], "/v1/search", self.bert, msgspec.msgpack.encode(wanted))
            assert msgspec.msgpack.decode(answer.content, type=SearchAnswer).records == (line.record,)
        key = self.network.key()
        assert key is not None
        membership = self.service.view().contracts.membership
        members = {one.id: membership.party(one.id) for one in self.network.members}
        holders = [
            KeyholderClient(
                http,
                DoorSession(
                    http,
                    DoorKey(self.bert.id, self.bert.signing),
                    chain_id=CHAIN_ID,
                    server=member.id,
                    clock=now_s,
                    entropy=os.urandom,
                ),
                holder=member.id,
            )
            for http, member in zip(doors, self.network.members, strict=True)
        ]
        gatherer = Gatherer(
            chain_id=CHAIN_ID,
            party=self.bert.id,
            hpke=self.bert.hpke,
            key=key,
            members={party: row for party, row in members.items() if row is not None},
            holders=holders,
            entropy=os.urandom,
        )
        reader = SealedReader(chain_id=CHAIN_ID, gatherer=gatherer, objects=self.vault)
        (opened,) = await reader.read(decided.ticket, self.steve.id, [line])
        assert opened.resources == (text,)
        self.ticket = decided.ticket

    async def post(self, http: httpx.AsyncClient, path: str, by: Actor, body: bytes) -> httpx.Response:
        session = DoorSession(
            http,
            DoorKey(by.id, by.signing),
            chain_id=CHAIN_ID,
            server=self.a.id,
            clock=now_s,
            entropy=os.urandom,
        )
        return await http.post(path, content=body, headers={"authorization": f"Bearer {await session.token()}"})

    async def ask_wrongly(self, http: httpx.AsyncClient) -> None:
        """Secrets and words in everything that a client can send."""
        session = DoorSession(
            http, DoorKey(self.bert.id, self.bert.signing), chain_id=CHAIN_ID, server=self.a.id, clock=now_s,
            entropy=os.urandom,
        )  # fmt: skip
        token = await session.token()
        said = " ".join((*TEXTS, *self.secrets.words))
        keys = list(self.secrets.known.values())
        paths = [
            *(f"/v1/objects/{key.hex()}" for key in keys),
            f"/v1/objects/{said}",
            f"/{CODE}",
            "/v1/search",
            "/v1/tokens",
            "/v1/shares",
            "/v1/release",
            "/v1/session",
            f"/v1/search?q={DIAGNOSIS}",
        ]
        bodies = [
            said.encode(),
            json.dumps({"ticket": said, "tokens": [said], said: 1}).encode(),
            msgspec.msgpack.encode({"ticket": self.ticket, "tokens": [keys[0], said]}),
            msgspec.msgpack.encode({"ticket": self.ticket, "tokens": keys[:4]}),
            msgspec.msgpack.encode({"ticket": keys[0], "items": [[keys[1], 1, said.encode(), [keys[2]] * 3]]}),
            msgspec.msgpack.encode({"pseudonym": keys[0], "record": keys[1], "tokens": keys[:2]}),
        ]
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            for path in paths:
                for body in bodies:
                    headers = {
                        "authorization": f"Bearer {token if method != 'DELETE' else keys[0].hex()}",
                        "range": f"bytes={CODE}",
                        "x-pseudonym": keys[0].hex(),
                        "user-agent": keys[-1].hex(),
                    }
                    answer = await http.request(method, path, content=body, headers=headers)
                    assert answer.status_code < 500, (method, path, answer.text)
                    self.answers.append(answer.text + str(answer.headers))

    # --- afterwards ---------------------------------------------------------------------------------------

    def back_up(self, network: CeremonyNetwork) -> None:
        """The home with the keyholder's file, the vault and the books, encrypted."""
        (self.home / "keys" / "keyholder.json").write_bytes(network.stores[0]._path.read_bytes())
        (self.home / "genesis.json").write_bytes(founding.write(network.service.genesis))
        made = back_up(
            self.home,
            self.folder / "backup",
            protection=Password(PASSWORD, CHEAP),
            program="test",
            now_s=now_s(),
            entropy=os.urandom,
        )
        assert made.manifest.files > 5


DAY_S = 86_400


def now_s() -> int:
    return int(time.time())
