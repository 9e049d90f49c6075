"""Who takes part in the attacks: a hospital with a real vault, readers, keyholders that lie, and a door on loopback.

Goal: a case reads as what an attacker does and what becomes of it. Method: everything honest is the project's own
code over the ledger of ``world``; a liar is the real keyholder with its answers altered by whoever runs it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import httpx
from msgspec.structs import replace

from carechain.chain.questions import AnchorLine
from carechain.contracts.records import Anchor
from carechain.core import group
from carechain.core.quorum import Blinding, blinding_context, statement_bytes
from carechain.core.vocabulary import Category, Sensitivity
from carechain.gatekeeper.listen import Listener
from carechain.gatekeeper.objects_door import ObjectsDoor, Policy
from carechain.gatekeeper.serve import app
from carechain.sdk.door import DoorSession
from carechain.sdk.sealed import About, Consortium, SealedReader, seal_record
from carechain.sdk.shares import ShareItem, SharesAnswer, SharesRequest, SignedShare, open_shares, seal_shares
from carechain.sdk.signer import Signer as DoorKey
from carechain.sealing.quorum.proofs import prove_dleq
from carechain.vault.folder import FolderStore
from carechain.vault.metering import Metering
from carechain.vault.replicated import Replicated
from carechain.vault.service import VaultService
from carechain.vault.tokens import TokenStore
from house import House
from sealed_world import Direct, SealedWorld, Written
from world import CHAIN_ID, Actor, Signer, record_id, seeded

P = ParamSpec("P")
Asynchronous = Callable[P, Coroutine[None, None, None]]
Lie = Callable[[SignedShare], SignedShare]
TEXTS = ("空腹血糖 5.4 mmol/L".encode(), b'{"resourceType":"Observation"}' * 100)


def synchronous(test: Asynchronous[P]) -> Callable[P, None]:
    """A test of coroutines, on a loop of its own."""

    @wraps(test)
    def run(*args: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*args, **named))

    return run


def remade(request: SharesRequest, **fields: object) -> SharesRequest:
    """The same request with the first item altered."""
    first, *others = request.items
    values = {"record": first.record, "version": first.version, "capsule": first.capsule, "blinding": first.blinding}
    return replace(request, items=(ShareItem(**values | fields), *others))


def blinding_with(q: bytes, ticket: bytes, written: Written, by: Signer) -> Blinding:
    """A blinding with a q of the attacker's choice, and a proof that holds."""
    context = blinding_context(
        chain_id=CHAIN_ID, ticket=ticket, record=written.record, version=written.version, sender=by.id
    )
    q_point, q_bar = group.base_mul(q), group.mul(q, group.SECOND)
    proof = prove_dleq(
        q,
        context=context,
        base1=group.GENERATOR,
        value1=q_point,
        base2=group.SECOND,
        value2=q_bar,
        entropy=seeded("proof"),
    )
    return Blinding(q_point=q_point, q_bar=q_bar, proof=proof)


# --- records in a vault -----------------------------------------------------------------------------------


class Ward:
    """Sealed records from end to end: sealed by the laboratory, in a folder on the disk, anchored, and read by Bert."""

    def __init__(self, sealed: SealedWorld, folder: Path) -> None:
        self.sealed = sealed
        self.world = sealed.world
        self.folder = folder / "objects"
        self.store = FolderStore(self.folder)

    def seal(self, name: str, texts: tuple[bytes, ...] = TEXTS, **about: object) -> tuple[Anchor, bytes]:
        """What the laboratory makes of a record."""
        values: dict[str, object] = {
            "pseudonym": self.world.steve.id,
            "record": record_id(name),
            "version": 1,
            "category": Category.RESULT,
            "sensitivity": Sensitivity.N,
            "day": 45_000,
        }
        return seal_record(
            [(seeded("salt", name, number), text) for number, text in enumerate(texts)],
            about=About(**values | about),
            consortium=Consortium(chain_id=CHAIN_ID, public_key=self.sealed.key.public_key),
            entropy=os.urandom,
        )

    def place(self, anchor: Anchor, data: bytes, *, by: Signer | None = None) -> AnchorLine:
        """Put the object into the vault and the anchor on the ledger."""
        assert anchor.sealed is not None
        asyncio.run(self.store.put(anchor.sealed.object, data))
        self.world.done(anchor, by=by or self.world.john)
        return self.line(anchor)

    def line(self, anchor: Anchor) -> AnchorLine:
        """What the ledger shows of it."""
        row = self.world.contracts().records.anchors.get(anchor.pseudonym, anchor.record, anchor.version)
        assert row is not None
        return AnchorLine(anchor.record, anchor.version, row)

    def write(self, name: str, texts: tuple[bytes, ...] = TEXTS, **about: object) -> AnchorLine:
        """An honest record."""
        return self.place(*self.seal(name, texts, **about))

    def reader(self, by: Actor | None = None, *, holders: list[Any] | None = None) -> SealedReader:
        """Bert's, or somebody else's, reader."""
        gatherer = self.sealed.gatherer(by, holders=holders)
        return SealedReader(chain_id=CHAIN_ID, gatherer=gatherer, objects=self.store)

    def read(self, line: AnchorLine, *, holders: list[Any] | None = None) -> SealedReader:
        """Bert reads one record and gets exactly what was written."""
        used = self.reader(holders=holders)
        (opened,) = asyncio.run(used.read(self.sealed.ticket(), self.world.steve.id, [line]))
        assert opened.resources == TEXTS
        return used

    def file(self, line: AnchorLine) -> Path:
        """Where on the disk the vault's operator finds the object."""
        assert line.anchor.sealed is not None
        name = line.anchor.sealed.object.hex()
        (path,) = (one for one in self.folder.rglob("*") if one.is_file() and name.endswith(one.name[-32:]))
        return path


# --- keyholders that lie ----------------------------------------------------------------------------------


class Lying(Direct):
    """A keyholder whose operator alters its shares before they are sealed to the requester."""

    def __init__(self, sealed: SealedWorld, label: str, lie: Lie) -> None:
        super().__init__(sealed.keyholders[label], sealed.world.bert.id)
        self.sealed = sealed
        self.lie = lie

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        """As the real one answers, with every share altered."""
        bert = self.sealed.world.bert
        answer = await super().shares(request)
        signed = open_shares(
            answer, chain_id=CHAIN_ID, ticket_id=request.ticket, requester=bert.id, private_key=bert.hpke
        )
        lies = seal_shares(
            [self.lie(one) for one in signed],
            chain_id=CHAIN_ID,
            ticket_id=request.ticket,
            requester=bert.id,
            epoch=answer.epoch,
            hpke_key=bert.hpke.public_key,
            entropy=os.urandom,
        )
        return replace(answer, sealed=lies)


def signed_anew(sealed: SealedWorld, label: str, signed: SignedShare, **fields: object) -> SignedShare:
    """Another statement, under the same keyholder's signature."""
    statement = replace(signed.statement, **fields)
    key = getattr(sealed.world, label).signing
    return SignedShare(statement, key.sign(statement_bytes(CHAIN_ID, statement)))


def bent(signed: SignedShare) -> SignedShare:
    """A share that does not hold, under the signature of the one that did."""
    share = signed.statement.share
    wrong = replace(share, point=group.add(share.point, group.GENERATOR))
    return SignedShare(replace(signed.statement, share=wrong), signed.signature)


def among_honest(sealed: SealedWorld, liar: Direct) -> list[Any]:
    """The liar first, then everybody else."""
    return [liar, *(one for one in sealed.direct() if one.party != liar.party)]


# --- a door -----------------------------------------------------------------------------------------------


class Doorway:
    """Hospital a's vault behind its real door on loopback."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.world = self.house.world
        self.vault = VaultService(
            Replicated([FolderStore(folder / "objects")], copies=1),
            Metering(folder / "vault.sqlite"),
            TokenStore(folder / "tokens.sqlite"),
            organisation=self.world.a.id,
            clock=self.house.clock,
            is_erased=self.is_erased,
        )
        (folder / "arriving").mkdir()
        self.door = ObjectsDoor(
            self.vault,
            ledger=self.house.ledger,
            organisation=self.world.a.id,
            audit=self.house.audit,
            clock=self.house.clock,
            incoming=folder / "arriving",
            policy=Policy(partners=frozenset([self.world.b.id]), quota_bytes=1000),
        )
        self.http = httpx.AsyncClient()

    def is_erased(self, address: bytes) -> bool:
        """What the ledger says now."""
        return self.house.ledger.view().contracts.records.is_erased_object(address)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Doorway"]:
        """Listen."""
        served = app(self.house.gatekeeper, clock=self.house.clock, entropy=os.urandom, extensions=[self.door.routes])
        listener = Listener(served)
        await listener.start()
        try:
            async with httpx.AsyncClient(base_url=listener.url, trust_env=False) as self.http:
                yield self
        finally:
            await listener.stop()

    async def ask(self, method: str, path: str, by: Signer | None, body: bytes = b"") -> httpx.Response:
        """A request in somebody's session, or without any."""
        if by is None:
            return await self.http.request(method, path, content=body)
        session = DoorSession(
            self.http,
            DoorKey(by.id, by.signing),
            chain_id=CHAIN_ID,
            server=self.world.a.id,
            clock=self.house.clock,
            entropy=os.urandom,
        )
        token = await session.token()
        return await self.http.request(method, path, content=body, headers={"authorization": f"Bearer {token}"})

    def close(self) -> None:
        """Close every file."""
        self.vault.metering.close()
        self.vault.tokens.close()
        self.house.close()
