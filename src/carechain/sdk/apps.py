"""Approving apps at an organisation's FHIR server, as a patient, a representative or a clinician (API-1, CON-7).

A wallet signs in with its ledger key, looks at what waits under the code that the browser shows, and answers. What an
app may then do stands on the ledger: a patient submits the grant before it approves.
"""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from carechain.core.limits import NONCE_SIZE
from carechain.core.scope import Scope
from carechain.sdk.authentication import OpenSession, Service, sign_opening
from carechain.sdk.failures import Unreachable, refusal_in
from carechain.sdk.signer import Signer

T = TypeVar("T")

_MSGPACK: Final = "application/msgpack"
_JSON: Final = "application/json"


class AppRequest(Struct, frozen=True, kw_only=True):
    """What waits under a code: who asks for what, and the grant that would let it.

    ``sends_to`` is where the answer goes; ``party`` would be the grantee (None: the app acts for clinicians only),
    ``scope``, ``actions`` and ``purposes`` are a grant's. ``until_s`` is Unix time.
    """

    app: str
    client_id: str
    sends_to: str
    scopes: tuple[str, ...]
    wishes: tuple[str, ...]
    party: bytes | None
    scope: Scope | None
    actions: int
    purposes: int
    until_s: int


class AppLaunch(Struct, frozen=True, kw_only=True):
    """What a clinician's system opens in a browser: the app's address, with ``launch``, and the server as ``iss``."""

    launch: str
    expires_s: int
    launch_url: str


class AppDoor:
    """One party at one organisation's FHIR server. Raises ``Refused`` and ``Unreachable``."""

    def __init__(
        self,
        http: httpx.Client,
        signer: Signer,
        *,
        chain_id: str,
        server: bytes,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``http`` has the server's address (without ``/fhir``) as base URL; ``server`` is the organisation's id."""
        self._http = http
        self._signer = signer
        self._chain_id = chain_id
        self._server = server
        self._clock = clock
        self._entropy = entropy
        self._token = ""

    def request(self, code: str) -> AppRequest:
        """What waits under a code."""
        return self._decoded(self._ask("GET", f"/smart/approvals/{quote(code, safe='')}"), AppRequest)

    def approve_with_grant(self, code: str, grant: bytes, *, pseudonym: bytes | None = None) -> None:
        """Let the app in by a grant on the ledger; ``pseudonym`` is the patient's where a representative acts."""
        answer: dict[str, object] = {"approve": True, "grant": grant.hex()}
        self._answer(code, answer if pseudonym is None else {**answer, "pseudonym": pseudonym.hex()})

    def approve_with_tickets(self, code: str, tickets: Sequence[bytes]) -> None:
        """Let the app see what these tickets of one's own let one see, for as long as they last."""
        self._answer(code, {"approve": True, "tickets": [one.hex() for one in tickets]})

    def deny(self, code: str) -> None:
        """Let the app not in."""
        self._answer(code, {"approve": False})

    def launch(self, client_id: str, tickets: Sequence[bytes]) -> AppLaunch:
        """Start an app with tickets of one's own."""
        wanted: dict[str, object] = {"client_id": client_id, "tickets": [one.hex() for one in tickets]}
        return self._decoded(self._ask("POST", "/smart/launch", wanted), AppLaunch)

    def _answer(self, code: str, answer: dict[str, object]) -> None:
        self._ask("POST", f"/smart/approvals/{quote(code, safe='')}", answer)

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> bytes:
        if not self._token:
            self._token = self._opened()
        headers = {"authorization": f"Bearer {self._token}"}
        content = b"" if body is None else msgspec.json.encode(body)
        return self._sent(method, path, content, {**headers, "content-type": _JSON})

    def _opened(self) -> str:
        opening = sign_opening(
            self._signer.key,
            chain_id=self._chain_id,
            service=Service.NODE,
            server=self._server,
            party=self._signer.party,
            time_s=self._clock(),
            nonce=self._entropy(NONCE_SIZE),
        )
        data = self._sent("POST", "/smart/session", msgspec.msgpack.encode(opening), {"content-type": _MSGPACK})
        return self._decoded(data, OpenSession).token

    def _sent(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> bytes:
        try:
            answer = self._http.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the FHIR server cannot be reached ({type(error).__name__}): name it with --fhir, or start its node"
            ) from None
        if answer.status_code not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise refusal_in(answer, answer.content)
        return answer.content

    def _decoded(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unreachable("what answers there is not a FHIR server of this kind") from None
