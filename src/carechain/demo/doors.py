"""How the story's people use the doors of six organisations: each over its own socket, and with their own keys."""

import ssl
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any, Final

import httpx
import msgspec
from msgspec.structs import replace

from carechain.contracts.keyring import KeyRow
from carechain.core.ids import RecordId
from carechain.core.party import Party
from carechain.core.rejection import present
from carechain.demo.drawn import Drawn
from carechain.demo.network import HARBOUR, INSTITUTE, KANGNING, MEADOW, RIVERTOWN, Network, wall_s
from carechain.demo.organisation import Person
from carechain.gatekeeper.objects_door import PutTokens, SearchAnswer, SearchRequest
from carechain.sdk.door import DoorSession
from carechain.sdk.failures import refusal_in
from carechain.sdk.gathering import Gatherer
from carechain.sdk.sealed import Objects, SealedReader
from carechain.sdk.shares import MSGPACK, KeyholderClient
from carechain.sdk.signer import Signer
from carechain.sdk.wallet import Pseudonym
from carechain.vault.codes import VaultCode
from carechain.vault.remote import RemoteStore

KEYHOLDERS: Final = (MEADOW, KANGNING, HARBOUR, RIVERTOWN, INSTITUTE)
"""Five of the six organisations, in the order in which they are asked. The ministry, which makes blocks, is none."""
THRESHOLD: Final = 3
HTTP_TIMEOUT_S: Final = 30.0

Asker = Person | Pseudonym
"""Whoever asks at a door: staff with the organisation's certificate, or a patient with a wallet."""
_answers: Final = msgspec.msgpack.Decoder(SearchAnswer)


class Shelf:
    """Objects that somebody kept, in the place of a vault."""

    def __init__(self, *objects: bytes) -> None:
        """Whole objects; they are found by their hash."""
        self._objects = {sha256(one).digest(): one for one in objects}

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As a vault's; raises ``Rejected`` for what nobody kept."""
        yield present(self._objects.get(address), VaultCode.OBJECT_UNKNOWN)[start:end]


class Doors:
    """Connections to every organisation, and who uses them."""

    def __init__(self, network: Network, *, seed: int = 0) -> None:
        """``seed`` is of the randomness of those who ask."""
        self._network = network
        self._entropy = Drawn(seed, "at the doors")
        self._http: dict[str, httpx.AsyncClient] = {}
        """By address."""
        self._last = {handle: network.url_of(handle) for handle in network.members}
        """Where each organisation answered last."""

    async def close(self) -> None:
        """Let go of the connections."""
        for one in self._http.values():
            await one.aclose()

    # --- keyholders ---------------------------------------------------------------------------------------

    def reader(
        self,
        who: Asker,
        *,
        objects: Objects | None = None,
        among: Sequence[str] = KEYHOLDERS,
        threshold: int | None = None,
    ) -> SealedReader:
        """What ``who`` opens sealed records with: objects from hospital A's vault unless they come from elsewhere.

        ``among`` are the keyholders that are asked; with another ``threshold`` than the ledger's, fewer are.
        """
        key = self.key
        return SealedReader(
            chain_id=self._network.chain_id,
            gatherer=Gatherer(
                chain_id=self._network.chain_id,
                party=who.id,
                hpke=who.hpke,
                key=key if threshold is None else replace(key, threshold=threshold),
                members=self._members(),
                holders=[self._keyholder(who, one) for one in among],
                entropy=self._entropy,
            ),
            objects=objects or self.vault(who, HARBOUR),
        )

    @property
    def key(self) -> KeyRow:
        """The consortium's key as the ledger has it."""
        row = self._network.view().contracts.keyring.current()
        if row is None:
            raise LookupError("the consortium has no key yet")
        return row

    def _keyholder(self, who: Asker, handle: str) -> KeyholderClient:
        holder = self._network[handle].id
        return KeyholderClient(self._connection(handle), self._session(who, handle), holder=holder)

    def _members(self) -> dict[bytes, Party]:
        membership = self._network.view().contracts.membership
        found = {one.id: membership.party(one.id) for one in self._network.members.values()}
        return {party: row for party, row in found.items() if row is not None}

    # --- vaults -------------------------------------------------------------------------------------------

    def vault(self, who: Asker, handle: str, *, pseudonym: bytes | None = None) -> RemoteStore:
        """An organisation's vault as ``who`` uses it; ``pseudonym`` is for whom objects are put."""
        session = self._session(who, handle)
        return RemoteStore(self._connection(handle), session, name=handle, pseudonym=pseudonym)

    async def put_tokens(self, who: Asker, handle: str, put: PutTokens) -> None:
        """Leave a record's search tokens at an organisation; raises ``Refused``."""
        await self._post(who, handle, "/v1/tokens", put)

    async def search(self, who: Asker, handle: str, ticket: bytes, tokens: tuple[bytes, ...]) -> tuple[RecordId, ...]:
        """The records there that the ticket covers and that have all the tokens; raises ``Refused``."""
        answer = await self._post(who, handle, "/v1/search", SearchRequest(ticket=ticket, tokens=tokens))
        return _answers.decode(answer).records

    async def _post(self, who: Asker, handle: str, path: str, body: msgspec.Struct) -> bytes:
        headers = {"content-type": MSGPACK, "authorization": f"Bearer {await self._session(who, handle).token()}"}
        data: Any = msgspec.msgpack.encode(body)
        answer = await self._connection(handle).post(path, content=data, headers=headers)
        if answer.is_error:
            raise refusal_in(answer, answer.content)
        return answer.content

    def _session(self, who: Asker, handle: str) -> DoorSession:
        return DoorSession(
            self._connection(handle),
            Signer.of(who),
            chain_id=self._network.chain_id,
            server=self._network[handle].id,
            clock=wall_s,
            entropy=self._entropy,
        )

    # --- connections --------------------------------------------------------------------------------------

    def _connection(self, handle: str) -> httpx.AsyncClient:
        """To where the organisation answers, or did when it answered last."""
        listener = self._network[handle].listener
        url = self._last[handle] if listener is None else listener.url
        self._last[handle] = url
        if url not in self._http:
            self._http[url] = httpx.AsyncClient(
                base_url=url,
                timeout=HTTP_TIMEOUT_S,
                trust_env=False,
                # Nothing is encrypted within one machine, and reading the system's authorities takes a while.
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            )
        return self._http[url]
