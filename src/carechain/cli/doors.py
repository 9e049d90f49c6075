"""Other organisations' doors: where they answer, and one connection to each for keyholder, vault and search.

An address is taken from ``--keyholder``, else from what this home has noted (``doors.json``, written by
``carechain keyholders address``), else from its settings (``vault.partners``, ``relay.gatekeepers``); the own door is
known anyway. Whoever has no address is left out: the threshold says how many are needed.
"""

import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
import typer
from msgspec import Struct

from carechain.cli.acting import Desktop, Seat
from carechain.cli.addresses import own_member, split_addresses
from carechain.cli.keyring import Keyring
from carechain.cli.output import CannotRun
from carechain.cli.serving import gatekeeper_url, node_settings
from carechain.core.limits import MEMBERS
from carechain.gatekeeper.objects_door import PutTokens, SearchAnswer, SearchRequest
from carechain.node.relay import PREFIX
from carechain.sdk.door import DoorSession
from carechain.sdk.failures import refusal_in
from carechain.sdk.keyfile import read_bounded, write_private_file
from carechain.sdk.nodes import Node
from carechain.sdk.shares import MSGPACK, Keyholder, KeyholderClient
from carechain.sdk.signer import Signer
from carechain.sdk.tls import no_trust
from carechain.vault.base import VaultUnavailable
from carechain.vault.remote import RemoteStore

DOORS_FILE: Final = "doors.json"
_HINT: Final = "--keyholder"
_TIMEOUT_S: Final = 60.0
_UNAUTHORISED: Final = 401
_answers: Final = msgspec.msgpack.Decoder(SearchAnswer)
_encoder: Final = msgspec.msgpack.Encoder()

Url = Annotated[str, msgspec.Meta(pattern=r"^https?://\S+$")]


# --- addresses ------------------------------------------------------------------------------------------


def noted_doors(home: Path) -> dict[bytes, str]:
    """The addresses that this home has noted, by member id; raises :class:`CannotRun` for a damaged file."""
    path = home / DOORS_FILE
    if not path.exists():
        return {}
    try:
        held = msgspec.json.decode(read_bounded(path), type=dict[str, Url])
        return {bytes.fromhex(member): url for member, url in held.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise CannotRun(f"{path} is damaged: correct it or remove it") from None


def note_door(home: Path, member: bytes, url: str | None) -> dict[bytes, str]:
    """Note where an organisation's gatekeeper answers, or forget it; returns all that is noted then."""
    doors = noted_doors(home)
    if url is None:
        doors.pop(member, None)
    else:
        doors[member] = require_url(url)
    if len(doors) > MEMBERS:
        raise CannotRun(f"{home / DOORS_FILE} has more addresses than a consortium has members: remove some")
    text = msgspec.json.format(msgspec.json.encode({one.hex(): doors[one] for one in sorted(doors)}), indent=2)
    write_private_file(home / DOORS_FILE, text + b"\n", replace=True)
    return doors


def known_doors(home: Path, keys: Keyring, given: Sequence[str] | None) -> dict[bytes, str]:
    """Every organisation's gatekeeper whose address is known here, by member id."""
    settings = node_settings(home)
    listed = {**settings.relay.gatekeepers, **settings.vault.partners}
    doors = {bytes.fromhex(member): url for member, url in listed.items()}
    own = own_member(keys)
    if own is not None:
        doors[own] = gatekeeper_url(home)
    return {**doors, **noted_doors(home), **_given(keys, given)}


def require_url(url: str) -> str:
    """``url`` if it is one that can be called; raises ``typer.BadParameter``."""
    try:
        return Node.of(url).url
    except ValueError:
        raise typer.BadParameter(
            f"{url!r} is no address such as https://gatekeeper.example:8712", param_hint=_HINT
        ) from None


def _given(keys: Keyring, given: Sequence[str] | None) -> dict[bytes, str]:
    found = {}
    for text in split_addresses(given):
        name, separator, url = text.partition("=")
        if not separator or "://" in name:
            raise typer.BadParameter(f"{text!r} does not say whose address it is: PARTY=URL", param_hint=_HINT)
        found[keys.party(name, hint=_HINT)] = require_url(url)
    return found


# --- connections ----------------------------------------------------------------------------------------


class Door(Struct, frozen=True):
    """One organisation's door, for one party."""

    member: bytes
    url: str
    http: httpx.AsyncClient
    session: DoorSession

    async def put_tokens(self, put: PutTokens) -> None:
        """Leave a record's search tokens; raises ``Refused`` and ``VaultUnavailable``."""
        await self._post("/v1/tokens", put)

    async def search(self, ticket: bytes, tokens: tuple[bytes, ...]) -> list[bytes]:
        """All records that the vault says have every token; raises ``Refused`` and ``VaultUnavailable``."""
        found: list[bytes] = []
        after: bytes | None = None
        while True:
            data = await self._post("/v1/search", SearchRequest(ticket=ticket, tokens=tokens, after=after))
            try:
                answer = _answers.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise VaultUnavailable(f"what answers at {self.url} is not a vault") from None
            found += answer.records
            if answer.after is None:
                return found
            if after is not None and answer.after <= after:
                raise VaultUnavailable(f"the vault at {self.url} goes in a circle")
            after = answer.after

    async def _post(self, path: str, body: Struct) -> bytes:
        for is_last in (False, True):
            headers = {"content-type": MSGPACK, "authorization": f"Bearer {await self.session.token()}"}
            try:
                answer = await self.http.post(path, content=_encoder.encode(body), headers=headers)
            except httpx.HTTPError as error:
                raise VaultUnavailable(f"{self.url} cannot be reached: {type(error).__name__}") from None
            if answer.status_code == _UNAUTHORISED and not is_last:
                self.session.ended()
                continue
            if answer.is_error:
                raise refusal_in(answer, answer.content)
            break
        return answer.content


class Corridor:
    """The doors that one command goes through, each connected once. Made by :func:`corridor`."""

    def __init__(self, seat: Seat, stack: AsyncExitStack) -> None:
        self._seat = seat
        self._stack = stack
        self._open: dict[tuple[bytes, str], Door] = {}

    async def door(self, member: bytes, url: str) -> Door:
        """The door of an organisation at an address."""
        known = self._open.get((member, url))
        if known is not None:
            return known
        http = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=url, timeout=_TIMEOUT_S, trust_env=False, verify=believed_at(self._seat, member, url)
            )
        )
        actor = self._seat.actor
        session = DoorSession(
            http,
            Signer(actor.party, actor.signing),
            chain_id=self._seat.chain_id,
            server=member,
            clock=now_s,
            entropy=secrets.token_bytes,
        )
        self._open[member, url] = Door(member, url, http, session)
        return self._open[member, url]

    async def vault(self, member: bytes, url: str, *, pseudonym: bytes | None = None) -> RemoteStore:
        """The vault of an organisation; ``pseudonym`` is for whom objects are put."""
        door = await self.door(member, url)
        return RemoteStore(
            door.http,
            door.session,
            name=f"the vault at {url}",
            hashing=self._seat.institution.new_hash,
            pseudonym=pseudonym,
        )

    async def keyholders(self, doors: Mapping[bytes, str]) -> Sequence[Keyholder]:
        """Each organisation as a keyholder."""
        opened = [await self.door(member, url) for member, url in doors.items()]
        return [KeyholderClient(one.http, one.session, holder=one.member) for one in opened]


@asynccontextmanager
async def corridor(seat: Seat) -> AsyncIterator[Corridor]:
    """Doors for one seat's actor; all connections are released at the end."""
    async with AsyncExitStack() as stack:
        yield Corridor(seat, stack)


def believed_at(seat: Seat, member: bytes, url: str) -> ssl.SSLContext | bool:
    """What a connection is verified with: only the organisation's own authority vouches for its door."""
    if not url.startswith("https://"):
        return no_trust()
    # A hub that passes on has an authority of its own.
    return seat.trust.context(None if PREFIX in url else member)


def own_door(desktop: Desktop, url: str | None) -> tuple[bytes, str]:
    """This organisation's member id, and where its gatekeeper answers; raises :class:`CannotRun` elsewhere."""
    member = own_member(desktop.keys)
    if member is None:
        raise CannotRun("this home is no organisation's: sealing and storing is done from the custodian's home")
    return member, url or desktop.gatekeeper_url()


def now_s() -> int:
    """Unix time in whole seconds."""
    return int(time.time())
