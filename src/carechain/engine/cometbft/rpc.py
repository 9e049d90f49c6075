"""Asking the running engine, over its own socket: to take transactions in, who its peers are, what was signed."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from carechain.core.limits import ABCI_FRAME_BYTES

ALREADY_THERE: Final = "tx already exists in cache"
_TIMEOUT_S: Final = 10.0


class EngineUnreachable(Exception):  # noqa: N818 - names the state of the engine
    """The engine does not answer now; it is being started, or started again."""


class EngineRefused(EngineUnreachable):
    """The engine answers, and refuses what it was asked: there is no such block, or it has been pruned."""


class EngineRpc:
    """The engine's RPC. Belongs to one event loop."""

    def __init__(self, socket: Path) -> None:
        """``socket`` is the unix socket that the engine listens at once it runs."""
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://engine", timeout=_TIMEOUT_S
        )

    async def close(self) -> None:
        """Release the connections."""
        await self._http.aclose()

    async def broadcast(self, raws: Sequence[bytes]) -> list[str | None]:
        """Hand transactions to the engine's pool: for each None, or why it was not taken.

        It answers before the pool has asked the application about them. Raises :class:`EngineUnreachable`.
        """
        calls = [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "broadcast_tx_async",
                "params": {"tx": base64.b64encode(raw).decode()},
            }
            for number, raw in enumerate(raws)
        ]
        answers = await self._post(calls)
        if not isinstance(answers, list):
            # A batch of one is answered like a single call.
            answers = [answers]
        reasons: list[str | None] = ["the engine did not answer for it"] * len(raws)
        for answer in answers:
            number = answer.get("id")
            if isinstance(number, int) and 0 <= number < len(raws):
                reasons[number] = _reason(answer)
        return reasons

    async def call(self, method: str, **params: Any) -> Any:  # noqa: ANN401 - JSON
        """The result of a method. Raises :class:`EngineUnreachable`, and :class:`EngineRefused` of that kind."""
        answer = await self._post({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
        reason = _reason(answer)
        if reason is not None:
            raise EngineRefused(reason)
        return answer["result"]

    async def peers(self) -> list[str]:
        """The ids of the nodes it is connected to."""
        return [one["node_info"]["id"] for one in (await self.call("net_info"))["peers"]]

    async def _post(self, body: object) -> Any:  # noqa: ANN401
        try:
            async with self._http.stream("POST", "/", content=orjson.dumps(body)) as response:
                data = bytearray()
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > ABCI_FRAME_BYTES:
                        raise EngineUnreachable("its answer is too large")
            return orjson.loads(data)
        except (httpx.HTTPError, orjson.JSONDecodeError) as error:
            raise EngineUnreachable(f"no answer ({type(error).__name__})") from None


def _reason(answer: dict[str, Any]) -> str | None:
    error = answer.get("error")
    if error is None:
        return None
    return f"{error.get('message', '')}: {error.get('data', '')}"
