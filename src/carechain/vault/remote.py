"""Objects at another organisation's door: one of the places that copies are written to, or a place to read from."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Final, Protocol

import httpx
import msgspec
from msgspec import Struct

from carechain.core.limits import VAULT_CHUNK_BYTES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.vault.base import (
    SHA256,
    Hashing,
    Source,
    VaultUnavailable,
    address_of,
    pieces_of,
    require_address,
    size_of,
    span,
)
from carechain.vault.codes import VaultCode

PATH: Final = "/v1/objects/"
PSEUDONYM_HEADER: Final = "carechain-pseudonym"
REPLACE_HEADER: Final = "carechain-replace"
_REFUSAL_BYTES: Final = 64 * 1024
_CODES: Final[dict[int, RejectionCode]] = {int(code): code for code in VaultCode}
_GONE: Final = (VaultCode.OBJECT_UNKNOWN, VaultCode.OBJECT_ERASED)


class Session(Protocol):
    """What opens a session at the other organisation's gatekeeper, and gives its token."""

    async def token(self) -> str:
        """The token of a session that is open; raises ``OSError`` when none can be opened."""

    def ended(self) -> None:
        """The last token is good no more."""


class _Refusal(Struct):
    code: int


_refusals = msgspec.json.Decoder(_Refusal)


class RemoteStore:
    """A vault behind HTTP. What it keeps for us only we can list, so it lists nothing: our own books do."""

    is_near: Final = False
    is_ours: Final = False

    def __init__(
        self,
        http: httpx.AsyncClient,
        session: Session,
        *,
        name: str,
        hashing: Hashing = SHA256,
        pseudonym: bytes | None = None,
    ) -> None:
        """``http`` has the gatekeeper's address as base URL and stays the caller's to close.

        ``pseudonym`` is for the books of the organisation's own vault; copies at others' are not told whose they are.
        """
        self.name: Final = name
        self._http = http
        self._session = session
        self._hashing = hashing
        self._headers = {} if pseudonym is None else {PSEUDONYM_HEADER: pseudonym.hex()}

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        """As :meth:`carechain.vault.base.Vault.put`; with every code of the other side's door."""
        size = size_of(source)
        if await asyncio.to_thread(address_of, source, self._hashing) != require_address(address):
            raise Rejected(VaultCode.CONTENT_DIFFERS)

        async def content() -> AsyncIterator[bytes]:
            pieces = pieces_of(source)
            while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
                yield piece

        extra = {"content-length": str(size), **self._headers, **({REPLACE_HEADER: "1"} if replace else {})}
        for is_last in (False, True):
            try:
                answer = await self._http.put(_path(address), content=content(), headers=await self._sent(extra))
            except httpx.HTTPError as error:
                raise self._lost(error) from None
            if not self._must_renew(answer.status_code, is_last=is_last):
                self._require_ok(answer.status_code, answer.content)
                return

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """As :meth:`carechain.vault.base.Vault.open`. An answer of another length is ``VaultUnavailable``."""
        size = await self.size(address)
        if size is None:
            raise Rejected(VaultCode.OBJECT_UNKNOWN)
        first, last = span(start, end, size)
        if first == last:
            return
        headers = {} if (first, last) == (0, size) else {"range": f"bytes={first}-{last - 1}"}
        left = last - first
        try:
            request = self._http.build_request("GET", _path(address), headers=await self._sent(headers))
            answer = await self._http.send(request, stream=True)
            try:
                if answer.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    self._require_ok(answer.status_code, await _start_of(answer))
                async for chunk in answer.aiter_bytes(VAULT_CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        if left:
            raise VaultUnavailable("the other vault did not send what was asked for")

    async def size(self, address: bytes) -> int | None:
        """As :meth:`carechain.vault.base.Vault.size`; an object that was erased there is none."""
        answer = await self._plain("HEAD", address)
        if answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return None
        if answer.status_code != HTTPStatus.OK:
            raise VaultUnavailable(f"the other vault answers with status {answer.status_code}")
        length = answer.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise VaultUnavailable("the other vault does not say how large an object is")
        return int(length)

    async def holds_own(self, address: bytes) -> bool:
        """As :meth:`carechain.vault.base.Vault.holds_own`."""
        return await self.size(address) is not None

    async def delete(self, address: bytes) -> bool:
        """The other organisation keeps this copy for us no more; says whether it did."""
        answer = await self._plain("DELETE", address)
        try:
            self._require_ok(answer.status_code, answer.content)
        except Rejected as refused:
            if refused.code not in _GONE:
                raise
            return False
        return True

    async def addresses(self) -> AsyncIterator[bytes]:
        """Nothing: another organisation's list is not ours."""
        none: tuple[bytes, ...] = ()
        for address in none:
            yield address

    async def _plain(self, method: str, address: bytes) -> httpx.Response:
        for is_last in (False, True):
            try:
                answer = await self._http.request(method, _path(address), headers=await self._sent({}))
            except httpx.HTTPError as error:
                raise self._lost(error) from None
            if not self._must_renew(answer.status_code, is_last=is_last):
                return answer
        raise VaultUnavailable("the other vault opens no session")

    async def _sent(self, headers: dict[str, str]) -> dict[str, str]:
        return {"authorization": f"Bearer {await self._session.token()}", "accept-encoding": "identity", **headers}

    def _must_renew(self, status: int, *, is_last: bool) -> bool:
        """Whether the session had ended, so that the same is asked once more with a new one."""
        if status != HTTPStatus.UNAUTHORIZED:
            return False
        self._session.ended()
        if is_last:
            raise VaultUnavailable("the other vault takes none of our sessions")
        return True

    def _require_ok(self, status: int, body: bytes) -> None:
        if status < HTTPStatus.BAD_REQUEST:
            return
        try:
            code = _CODES.get(_refusals.decode(body).code)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            code = None
        if code is None or code is VaultCode.BUSY:
            raise VaultUnavailable(f"the other vault answers with status {status}")
        raise Rejected(code)

    def _lost(self, error: httpx.HTTPError) -> VaultUnavailable:
        return VaultUnavailable(f"the other vault cannot be reached: {type(error).__name__}")


def _path(address: bytes) -> str:
    return f"{PATH}{require_address(address).hex()}"


async def _start_of(answer: httpx.Response) -> bytes:
    """The body of a refusal, which is short."""
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > _REFUSAL_BYTES:
            break
    return bytes(body[:_REFUSAL_BYTES])
