"""``carechain verify --light``: what a consortium's validators signed, followed to the newest block of some nodes."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import typer
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.receipts import FullReceipt
from carechain.cli.acting import LIGHT_FILE, Desktop
from carechain.cli.options import ByAnyone
from carechain.cli.output import CannotRun, Denied, Desk, Exit, Report, counted, lines
from carechain.cli.terms import moment
from carechain.core.ids import party_id
from carechain.core.rejection import Rejected
from carechain.node.refusals import NodeCode
from carechain.sdk.client import Client, Node, Refused, Signer, Unreachable
from carechain.sdk.light.client import LightClient, Source, TrustFile, source_at, trust_of_genesis
from carechain.sdk.light.header import encode_block
from carechain.sdk.light.verify import Forked, TrustedHeader, TrustExpired
from carechain.sdk.proofs import NotProven
from carechain.sdk.tls import no_trust


class Start(Struct, frozen=True, kw_only=True):
    """Where trust begins: the file, or a block whose hash is known; the genesis without either."""

    trust: Path | None
    height: int | None
    hash: bytes | None

    def pinned(self) -> tuple[int, bytes] | None:
        """Height and hash, which belong together."""
        if (self.height is None) != (self.hash is None):
            raise typer.BadParameter("--height and --hash belong together")
        return None if self.height is None or self.hash is None else (self.height, self.hash)


class Found(Struct, frozen=True, kw_only=True):
    """What was proven on the way."""

    header: TrustedHeader
    since: int
    receipt: FullReceipt | None


def verify_light(desk: Desk, by: ByAnyone, start: Start, tx_id: bytes | None) -> Report:
    """Go the way, keep where it ended, and tell; what is not proven is told with exit status 1."""
    desktop = Desktop(desk, by)
    genesis = desktop.genesis
    if not genesis.validators:
        raise Rejected(NodeCode.NO_COMMITS)
    run = _Run(desktop, start)
    try:
        found = asyncio.run(run.run(tx_id))
    except NotProven as doubt:
        return _not_proven(run, doubt)
    except Unreachable as lost:
        raise CannotRun(f"no node can be used: {lost}") from None
    except Refused as refused:
        if refused.is_passing:
            raise CannotRun(f"no node can be used now: {refused}") from None
        raise Denied(code=refused.code, label=refused.label, reason=refused.reason) from None
    return _told(run, found)


class _Run:
    """One verification: what the report wants to know even if it fails."""

    def __init__(self, desktop: Desktop, start: Start) -> None:
        self.desktop = desktop
        self.pinned = start.pinned()
        self.path = (start.trust or desktop.desk.home / LIGHT_FILE).expanduser()
        self.file = TrustFile(self.path)
        self.client: LightClient | None = None
        self.checked = 0

    @property
    def genesis(self) -> Genesis:
        return self.desktop.genesis

    @property
    def signatures(self) -> int:
        return self.checked + (0 if self.client is None else self.client.signatures)

    async def run(self, tx_id: bytes | None) -> Found:
        trusted = trust_of_genesis(self.genesis)
        known = None if self.pinned else self.file.read(self.genesis.chain_id)
        async with AsyncExitStack() as until_done:
            sources = [await self._source(node, until_done) for node in self.desktop.nodes]
            self.client = LightClient(known or trusted, lambda: sources, clock=time.time, keep=self.file.keep)
            if self.pinned:
                await self.client.pin(*self.pinned)
            since = self.client.trusted.height
            header = await self.client.newest()
        receipt = None if tx_id is None else await self._prove(tx_id)
        return Found(header=header, since=since, receipt=receipt)

    async def _source(self, node: Node, until_done: AsyncExitStack) -> Source:
        believed = self.desktop.trust.context(node.server) if node.url.startswith("https://") else no_trust()
        http = await until_done.enter_async_context(httpx.AsyncClient(verify=believed, trust_env=False))
        return source_at(node.url, http)

    async def _prove(self, tx_id: bytes) -> FullReceipt:
        """A transaction is shown to its signer and to regulators only, so somebody has to sign in."""
        desktop, actor = self.desktop, self.desktop.anyone()
        signer = Signer(actor.party, actor.signing)
        client = Client(desktop.nodes, signer, genesis=self.genesis, trust=desktop.trust, light=self.file)
        async with client:
            try:
                return await client.proven_receipt(tx_id)
            finally:
                self.checked += client.light.signatures


def _not_proven(run: _Run, doubt: NotProven) -> Report:
    kind = "fork" if isinstance(doubt, Forked) else "stale" if isinstance(doubt, TrustExpired) else "proof"
    believed = 0 if run.client is None else run.client.trusted.height
    at = doubt.first.height if isinstance(doubt, Forked) else None if run.client is None else run.client.looking_at
    data: dict[str, object] = {
        "ok": False,
        "height": believed,
        "first_bad": {"kind": kind, "height": at, "key": "", "reason": str(doubt)},
        "signatures": run.signatures,
    }
    said = [f"NOT PROVEN{'' if not at else f' at height {at}'}: {doubt}"]
    if isinstance(doubt, Forked):
        data["blocks"] = [encode_block(one).hex() for one in (doubt.first, doubt.second)]
        said.append("two blocks that exclude each other are signed: keep both (--json) and show them to the members")
    if isinstance(doubt, TrustExpired):
        said.append("ask an organisation that you trust for a block's height and hash: --height N --hash HEX")
    said.append(f"believed up to height {believed}" if believed else "nothing is believed but the genesis")
    return Report(data=data, show=lines(*said), status=Exit.REFUSED)


def _told(run: _Run, found: Found) -> Report:
    header, block = found.header.block.header, found.header.block
    names = {seat.consensus_key: seat.member for seat in run.genesis.validators}
    members = {party_id(one.suite, one.public_key): one.name for one in run.genesis.members}
    signed = [one is not None for one in block.commit.signatures]
    validators = [
        {
            "key": one.public_key.hex(),
            "power": one.power,
            "signed": voted,
            "founder": members.get(names.get(one.public_key, b""), ""),
        }
        for one, voted in zip(block.validators, signed, strict=True)
    ]
    data: dict[str, object] = {
        "ok": True,
        "height": header.height,
        "first_bad": None,
        "hash": found.header.hash.hex(),
        "app_hash": header.app_hash.hex(),
        "time_s": header.time.seconds,
        "validators": validators,
        "signatures": run.signatures,
        "since": found.since,
        "trust": str(run.path),
    }
    said = [
        f"height {header.height} ({moment(header.time.seconds)} UTC), believed from "
        + (f"height {found.since} on" if found.since else "the genesis on"),
        f"hash {found.header.hash.hex()}",
        f"app hash {header.app_hash.hex()}, of the state after height {header.height - 1}",
        f"{sum(signed)} of {counted(len(validators), 'validator')} signed; {run.signatures} signatures checked",
        *(
            f"  {'signed' if one['signed'] else 'absent'}  {one['key']}  {one['founder']}".rstrip()
            for one in validators
        ),
        f"kept in {run.path}",
    ]
    if found.receipt is not None:
        receipt = found.receipt
        data["tx"] = {"id": receipt.tx_id.hex(), "height": receipt.height, "code": receipt.code, "label": receipt.label}
        said.append(f"transaction {receipt.tx_id.hex()} is in block {receipt.height}: {receipt.label}")
    return Report(data=data, show=lines(*said))
