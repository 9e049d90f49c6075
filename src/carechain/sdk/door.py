"""Signing in at an organisation's gatekeeper, for whoever asks at one of its doors."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from carechain.core.limits import NONCE_SIZE
from carechain.sdk.authentication import Service, sign_opening
from carechain.sdk.failures import Refused, refusal_in
from carechain.sdk.signer import Signer
from carechain.vault.base import VaultUnavailable

_MSGPACK: Final = "application/msgpack"


class SignInRefused(VaultUnavailable):
    """The gatekeeper opens no session for this party; ``refused`` says why."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"the gatekeeper opens no session: {refused.label}")
        self.refused = refused


class _Session(Struct):
    token: str

    def __repr__(self) -> str:
        return "_Session()"


_sessions: Final = msgspec.msgpack.Decoder(_Session)
_encoder: Final = msgspec.msgpack.Encoder()


class DoorSession:
    """One party's session at one gatekeeper: opened when it is first needed, and again once it has ended."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        signer: Signer,
        *,
        chain_id: str,
        server: bytes,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``http`` has the gatekeeper's address as base URL; ``server`` is the id of the organisation behind it."""
        self._http = http
        self._signer = signer
        self._chain_id = chain_id
        self._server = server
        self._clock = clock
        self._entropy = entropy
        self._token: str | None = None
        self._turn = asyncio.Lock()

    async def token(self) -> str:
        """A token that has not been refused yet; raises ``VaultUnavailable``, :class:`SignInRefused` among them."""
        async with self._turn:
            if self._token is None:
                self._token = await self._open()
            return self._token

    def ended(self) -> None:
        """The gatekeeper does not know the token any more."""
        self._token = None

    async def _open(self) -> str:
        opening = sign_opening(
            self._signer.key,
            chain_id=self._chain_id,
            service=Service.GATEKEEPER,
            server=self._server,
            party=self._signer.party,
            time_s=self._clock(),
            nonce=self._entropy(NONCE_SIZE),
        )
        try:
            answer = await self._http.post(
                "/v1/session", content=_encoder.encode(opening), headers={"content-type": _MSGPACK}
            )
        except httpx.HTTPError as error:
            raise VaultUnavailable(f"the gatekeeper cannot be reached: {type(error).__name__}") from None
        if answer.status_code != HTTPStatus.OK:
            raise SignInRefused(refusal_in(answer, answer.content))
        try:
            return _sessions.decode(answer.content).token
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise VaultUnavailable("what answers there is not a gatekeeper") from None
