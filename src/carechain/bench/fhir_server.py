"""The FHIR server of ``bench fhir``: the real application over real charts with a durable audit, and who asks it.

Callers are told apart by their bearer token. What a caller sees is given here and not looked up on the ledger: the
figures are of the server; authentication has its own cost, which the sum of a remote read includes.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from carechain.bench.filling import BenchFailed
from carechain.charts.binding import provisional
from carechain.charts.repository import Repository
from carechain.charts.sight import CUSTODIAN, Sight, Window
from carechain.charts.store import Charts
from carechain.core.rejection import Rejected
from carechain.core.scope import EVERYTHING
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.ledger import LedgerReader
from carechain.gateway.audit import GatewayAudit, OwnAudit
from carechain.gateway.codes import SmartCode
from carechain.gateway.fhir.app import Started, fhir_app
from carechain.gateway.main import ServedCharts
from carechain.gateway.principal import Principal, Rights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Message

BASE_URL: Final = "http://bench.example/fhir"
SYSTEM: Final = "system"
"""The custodian's own system: it sees everything, no condition stands in its statements."""
_CREATED: Final = 201
_OK: Final = 200
_ALL: Final = Rights(create=True, read=True, update=True, search=True)
_READ: Final = Rights(read=True, search=True)
_ID_SIZE: Final = 32


class Reply(Struct, frozen=True):
    """An answer, and the seconds from the first to the last of its bytes."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


class Server:
    """Made by :func:`served`."""

    def __init__(self, charts: Charts, audit: GatewayAudit) -> None:
        self._callers: dict[str, Principal] = {}
        self.add(SYSTEM, CUSTODIAN, _ALL, system=True)
        self.app: Final[Started] = fhir_app(
            repository=Repository(charts),
            authenticator=self,
            audit=audit,
            base_url=BASE_URL,
            zone=ZoneInfo("UTC"),
            entropy=os.urandom,
            clock=time.time,
        )

    def add(self, name: str, sight: Sight, rights: Rights = _READ, *, system: bool = False) -> str:
        """A caller by the token it will send; returns the token."""
        party = name.encode()[:_ID_SIZE].ljust(_ID_SIZE, b"\0")
        self._callers[name] = Principal(party=party, sight=sight, rights={"*": rights}, system=system)
        return name

    def add_reader(self, name: str, patients: Sequence[str]) -> str:
        """A caller who sees everything of these patients, and nothing of anybody else."""
        windows = tuple(Window(pseudonym=provisional(one), scope=EVERYTHING) for one in patients)
        return self.add(name, Sight(windows=windows))

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller that a token names."""
        caller = self._callers.get(headers.get("authorization", "").removeprefix("Bearer "))
        if caller is None:
            raise Rejected(SmartCode.TOKEN_INVALID)
        return caller

    # --- asking in this process -------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        *,
        by: str = SYSTEM,
        body: bytes = b"",
        prefer: str = "",
        taken: "Callable[[int], None] | None" = None,
    ) -> Reply:
        """One request; with ``taken`` the answer's parts are only counted, and dropped."""
        raw, _, query = path.partition("?")
        headers = [(b"authorization", f"Bearer {by}".encode())]
        headers += [(b"content-type", b"application/fhir+json")] if body else []
        headers += [(b"prefer", prefer.encode())] if prefer else []
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": f"/{raw}",
            "root_path": "",
            "query_string": query.encode(),
            "headers": headers,
        }
        heads: list[Message] = []
        parts: list[bytes] = []

        async def receive() -> "Message":
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: "Message") -> None:
            if message["type"] == "http.response.start":
                heads.append(message)
            elif taken is not None:
                taken(len(message.get("body", b"")))
            else:
                parts.append(message.get("body", b""))

        began = perf_counter()
        await self.app(scope, receive, send)
        seconds = perf_counter() - began
        head = heads[0]
        said = {name.decode(): value.decode() for name, value in head["headers"]}
        return Reply(int(head["status"]), said, b"".join(parts), seconds)

    async def get(self, path: str, by: str = SYSTEM) -> Reply:
        """A GET that must find what it asks for; raises :class:`BenchFailed`."""
        reply = await self.ask("GET", path, by=by)
        if reply.status != _OK:
            raise BenchFailed(f"the FHIR server answered {reply.status}")
        return reply

    async def load(self, transaction: bytes) -> float:
        """Seconds until a transaction is durable; raises :class:`BenchFailed` where it is refused."""
        reply = await self.ask("POST", "", body=transaction, prefer="return=minimal")
        if reply.status not in {_OK, _CREATED}:
            raise BenchFailed(f"the FHIR server refused a transaction with {reply.status}")
        return reply.seconds


@asynccontextmanager
async def served(place: Path | str, ledger: LedgerReader, folder: Path) -> "AsyncIterator[Server]":
    """The server over the charts at ``place``; its audit lies in ``folder``."""
    async with AsyncExitStack() as opened:
        charts = opened.enter_context(Charts.open(place))
        audit = Audit.open(folder / "audit.sqlite")
        opened.callback(audit.close)
        own = OwnAudit.open(folder / "fhir.sqlite")
        opened.callback(own.close)
        owners = ServedCharts(Repository(charts), time.time, os.urandom)
        readings = GatewayAudit(audit=audit, own=own, ledger=ledger, owners=owners, clock=lambda: int(time.time()))
        server = Server(charts, readings)
        opened.push_async_callback(server.app.aclose)
        yield server
