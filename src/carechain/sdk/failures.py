"""How talking to nodes fails: a node says no, none answers, or another one answers than should."""

from typing import Final

import httpx
import msgspec

from carechain.sdk.answers import Refusal
from carechain.sdk.proofs import NotProven

_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_FOREIGN: Final = "HTTP."


class Refused(Exception):  # noqa: N818 - the node's answer, not a fault of the client
    """A node or the ledger said no: the code's number, its stable label, and what to do."""

    def __init__(self, *, code: int, label: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{label} ({code}): {reason}")
        self.code = code
        self.label = label
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def is_foreign(self) -> bool:
        """Whether it comes from something that is not a node, such as a proxy in front of one that is down."""
        return self.label.startswith(_FOREIGN)

    @property
    def is_passing(self) -> bool:
        """Whether it says nothing about the request, so that another node, or this one later, may take it."""
        return self.is_foreign or self.retry_after_s is not None


class Unreachable(Exception):  # noqa: N818 - names the state of the network
    """No node answered. ``tx_id`` names a transaction whose outcome is open: ask for it by ``wait``.

    ``sent`` is False where it is certain that nothing reached the node.
    """

    def __init__(self, reason: str, *, tx_id: bytes | None = None, sent: bool = True) -> None:
        super().__init__(reason)
        self.tx_id = tx_id
        self.sent = sent


class WrongNode(NotProven):
    """Another node or network answers than the one this client is for. Nothing was signed; check the address."""


def graver(known: Exception | None, new: Exception) -> Exception:
    """Which of two failures to tell, when every node failed: the one that says most about what to do."""
    return new if known is None or _weight(new) > _weight(known) else known


def _weight(failure: Exception) -> int:
    if isinstance(failure, Refused):
        return 1 if failure.is_foreign else 3
    return 2 if isinstance(failure, WrongNode) else 0


def refusal_in(response: httpx.Response, body: bytes) -> Refused:
    """The refusal in an answer's body; an answer without one comes from something that is not a node."""
    retry = response.headers.get("retry-after", "")
    retry_after_s = float(retry) if retry.isdigit() and response.status_code in (_TOO_MANY, _UNAVAILABLE) else None
    as_json = response.headers.get("content-type", "").startswith("application/json")
    try:
        refusal = msgspec.json.decode(body, type=Refusal) if as_json else msgspec.msgpack.decode(body, type=Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Refused(
            code=response.status_code,
            label=f"{_FOREIGN}{response.status_code}",
            reason="The answer is not a node's. Check the address.",
            retry_after_s=retry_after_s,
        )
    return Refused(code=refusal.code, label=refusal.label, reason=refusal.reason, retry_after_s=retry_after_s)
