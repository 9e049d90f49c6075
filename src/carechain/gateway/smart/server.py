"""The authorisation server: from an app's request over somebody's approval to tokens (SMART App Launch 2.2, RFC 6749).

Bytes, time and randomness are arguments; HTTP stands in :mod:`carechain.gateway.smart.routes`. Before the app and its
redirect address are known to be registered, nothing is ever sent to that address. PKCE with S256 is required, a code
is used once, and whoever uses a code or a refresh token a second time ends everything that came of it (RFC 9700).
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from hmac import compare_digest
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

import structlog
from msgspec import Struct

from carechain.core.hashing import tagged
from carechain.core.rejection import Rejected, present, require
from carechain.gateway.clients import Approver, Apps, Authorisation, Client, Proof, Token, known
from carechain.gateway.codes import SmartCode
from carechain.gateway.smart import scopes as smart
from carechain.gateway.smart.approving import Approvals
from carechain.gateway.smart.identity_tokens import IdentityTokens
from carechain.gateway.smart.proof import prove
from carechain.gateway.smart.tokens import (
    ACCESS_PREFIX,
    ACCESS_S,
    BACKEND_S,
    CODE_PREFIX,
    CODE_S,
    HANDLE_PREFIX,
    REFRESH_PREFIX,
    SIZE,
    new_approval_code,
    new_token,
)
from carechain.gateway.smart.waiting import ASKING_S, Asked, Coded, Waiting

STATE_CHARS: Final = 2048
PARAMETER_CHARS: Final = 4096
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_log = structlog.get_logger("carechain.gateway")


class Redirect(Struct, frozen=True):
    """Send the browser to this address: a registered one, with the answer in its query."""

    url: str


class ShownPage(Struct, frozen=True, kw_only=True):
    """What the browser shows while it waits: who asks for what, and the code to approve it under."""

    handle: str
    code: str
    app: str
    host: str
    wishes: tuple[str, ...]


class AuthorisationServer:
    """Everything about authorisation at one FHIR server."""

    def __init__(
        self,
        *,
        apps: Apps,
        approvals: Approvals,
        waiting: Waiting,
        identity: IdentityTokens,
        base: str,
        token_url: str,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """``base`` is the FHIR server's address, which apps must name as ``aud``; ``clock()`` gives Unix seconds."""
        self._apps = apps
        self._approvals = approvals
        self._waiting = waiting
        self._identity = identity
        self._base = base
        self._token_url = token_url
        self._clock = clock
        self._entropy = entropy

    # --- the browser --------------------------------------------------------------------------------------

    async def authorize(self, form: Mapping[str, str]) -> Redirect | ShownPage:
        """An app's request. Raises ``Rejected`` only where the answer must not be sent to the address it gives."""
        client = await asyncio.to_thread(known, self._apps, form.get("client_id", ""))
        redirect = form.get("redirect_uri", "")
        require(redirect in client.redirects, SmartCode.REDIRECT_NOT_REGISTERED)
        state = form.get("state", "")
        require(len(state) <= STATE_CHARS, SmartCode.REQUEST_MALFORMED)
        try:
            asked = self._asked(client, redirect, state, form)
            if form.get("launch"):
                return Redirect(await self._launched(client, asked, form["launch"]))
            self._waiting.ask(asked, self._clock())
        except Rejected as refused:
            return Redirect(self._refusal(redirect, state, refused))
        return self._page(client, asked)

    async def collect(self, handle: str) -> Redirect | ShownPage:
        """What has become of a browser's request: still waiting, or an answer for the app. Raises ``Rejected``."""
        client = await asyncio.to_thread(known, self._apps, self._waiting.look(handle, self._clock()).client_id)
        # Looked at again, because it may have been answered or taken meanwhile.
        asked = self._waiting.look(handle, self._clock())
        if asked.authorisation is None and not asked.denied:
            return self._page(client, asked)
        self._waiting.take(asked)
        if asked.authorisation is None:
            return Redirect(self._refusal(asked.redirect, asked.state, Rejected(SmartCode.DENIED)))
        return Redirect(self._coded(asked, asked.authorisation))

    def _asked(self, client: Client, redirect: str, state: str, form: Mapping[str, str]) -> Asked:
        """The checked request; raises ``Rejected``."""
        require(all(len(value) <= PARAMETER_CHARS for value in form.values()), SmartCode.REQUEST_MALFORMED)
        require(form.get("response_type") == "code", SmartCode.RESPONSE_TYPE_UNSUPPORTED)
        require(state, SmartCode.REQUEST_MALFORMED)
        method, challenge = form.get("code_challenge_method", ""), form.get("code_challenge", "")
        require(method == "S256" and _CHALLENGE.fullmatch(challenge), SmartCode.PKCE_REQUIRED)
        require(form.get("aud", "").rstrip("/") == self._base, SmartCode.AUDIENCE_DIFFERS)
        scopes = smart.allowed(smart.split(form.get("scope", "")), client.scopes)
        require(smart.of_kind(scopes, "patient", "user"), SmartCode.SCOPE_INVALID)
        system = {one.text for one in smart.of_kind(scopes, "system")}
        return Asked(
            handle=new_token(HANDLE_PREFIX, self._entropy),
            code=new_approval_code(self._entropy),
            client_id=client.client_id,
            redirect=redirect,
            state=state,
            scopes=tuple(one for one in scopes if one not in system),
            challenge=challenge,
            nonce=form.get("nonce", ""),
            until_s=self._clock() + ASKING_S,
        )

    async def _launched(self, client: Client, asked: Asked, launch: str) -> str:
        """A clinician's own system has started the app: the approval is the launch, which only that app can use."""
        found = self._waiting.take_launch(launch, client.client_id, self._clock())
        authorisation = await self._approvals.of_launch(client, asked, found)
        return self._coded(asked, authorisation)

    def _coded(self, asked: Asked, authorisation: Authorisation) -> str:
        """The address that takes a fresh code to the app."""
        now_s = self._clock()
        code = new_token(CODE_PREFIX, self._entropy)
        what = Coded(
            authorisation=authorisation,
            redirect=asked.redirect,
            challenge=asked.challenge,
            nonce=asked.nonce,
            until_s=now_s + CODE_S,
        )
        self._waiting.add_code(code, what, now_s)
        return with_query(asked.redirect, {"code": code, "state": asked.state, "iss": self._base})

    def _refusal(self, redirect: str, state: str, refused: Rejected) -> str:
        error = error_of(refused)
        given = {"error": error, "error_description": refused.code.reason, "state": state, "iss": self._base}
        return with_query(redirect, {name: value for name, value in given.items() if value})

    def _page(self, client: Client, asked: Asked) -> ShownPage:
        parts = urlsplit(asked.redirect)
        return ShownPage(
            handle=asked.handle,
            code=asked.code,
            app=client.name,
            host=parts.netloc or f"{parts.scheme}:",
            wishes=tuple(smart.in_words(asked.scopes)),
        )

    # --- the app ------------------------------------------------------------------------------------------

    async def token(self, form: Mapping[str, str], authorization: str) -> dict[str, object]:
        """Answer a request at the token endpoint; raises ``Rejected``. To be called once at a time.

        What goes to the disk is done in a thread; the ledger is looked at here, where nothing else moves it.
        """
        require(all(len(value) <= 2 * PARAMETER_CHARS for value in form.values()), SmartCode.REQUEST_MALFORMED)
        client = await asyncio.to_thread(self._proven, form, authorization)
        kind = form.get("grant_type", "")
        if kind == "authorization_code":
            return await asyncio.to_thread(self._by_code, client, form)
        if kind == "refresh_token":
            held = await asyncio.to_thread(self._refreshable, client, form)
            stands = self._approvals.still_stands(held.authorisation)
            return await asyncio.to_thread(self._refreshed, held, form, stands=stands)
        require(kind == "client_credentials", SmartCode.GRANT_TYPE_UNSUPPORTED)
        return await asyncio.to_thread(self._by_itself, client, form)

    def revoke(self, form: Mapping[str, str], authorization: str) -> None:
        """End a token of the app's own (RFC 7009); one that is not known is as good as ended. Raises ``Rejected``."""
        client = self._proven(form, authorization)
        token = form.get("token", "")
        require(token, SmartCode.REQUEST_MALFORMED)
        held = self._apps.token(token, self._clock())
        if held is None or held.authorisation.client_id != client.client_id:
            return
        if held.refreshes:
            self._apps.end(held.authorisation.id)
        else:
            self._apps.drop_token(token)

    def introspect(self, form: Mapping[str, str], authorization: str) -> dict[str, object]:
        """What a token is (RFC 7662), for apps that can prove themselves; raises ``Rejected``.

        An app learns about its own tokens, one of the organisation's systems about all.
        """
        client = self._proven(form, authorization)
        require(client.proof is not Proof.NONE, SmartCode.CLIENT_NOT_AUTHENTICATED)
        held = self._apps.token(form.get("token", ""), self._clock())
        if held is None or held.used or not (client.system or held.authorisation.client_id == client.client_id):
            return {"active": False}
        told: dict[str, object] = {
            "active": True,
            "client_id": held.authorisation.client_id,
            "scope": " ".join(held.scopes),
            "exp": min(held.until_s, held.authorisation.until_s),
            "iat": held.authorisation.started_s,
            "iss": self._base,
            "token_type": "refresh_token" if held.refreshes else "Bearer",
        }
        if held.authorisation.patient:
            told["patient"] = held.authorisation.patient
        return told

    def _proven(self, form: Mapping[str, str], authorization: str) -> Client:
        return prove(self._apps, form=form, authorization=authorization, audience=self._token_url, clock=self._clock)

    def _by_code(self, client: Client, form: Mapping[str, str]) -> dict[str, object]:
        now_s = self._clock()
        code, verifier = form.get("code", ""), form.get("code_verifier", "")
        # Whatever comes of it, this code has been shown: it is not tried a second time.
        found = present(self._waiting.take_code(code), SmartCode.CODE_INVALID)
        if found.used:
            self._distrust(found.authorisation, "authorisation code used twice")
            raise Rejected(SmartCode.CODE_INVALID)
        fits = (
            found.authorisation.client_id == client.client_id
            and now_s < found.until_s
            and form.get("redirect_uri", "") == found.redirect
            and _VERIFIER.fullmatch(verifier) is not None
            and compare_digest(challenge_of(verifier), found.challenge)
        )
        require(fits, SmartCode.CODE_INVALID)
        self._apps.start(found.authorisation)
        return self._given(found.authorisation, found.authorisation.scopes, nonce=found.nonce)

    def _refreshable(self, client: Client, form: Mapping[str, str]) -> Token:
        """The refresh token, if it is this app's and was never used before; raises ``Rejected``."""
        token = form.get("refresh_token", "")
        held = self._apps.token(token, self._clock())
        if held is None or not held.refreshes or held.authorisation.client_id != client.client_id:
            raise Rejected(SmartCode.REFRESH_INVALID)
        if held.used:
            self._distrust(held.authorisation, "refresh token used twice")
            raise Rejected(SmartCode.REFRESH_INVALID)
        return held

    def _refreshed(self, held: Token, form: Mapping[str, str], *, stands: bool) -> dict[str, object]:
        scopes = self._narrowed(held, form)
        if not stands:
            self._apps.end(held.authorisation.id)
            raise Rejected(SmartCode.REFRESH_INVALID)
        if not self._apps.use_refresh(form.get("refresh_token", "")):
            self._distrust(held.authorisation, "refresh token used twice")
            raise Rejected(SmartCode.REFRESH_INVALID)
        return self._given(held.authorisation, scopes)

    def _narrowed(self, held: Token, form: Mapping[str, str]) -> tuple[str, ...]:
        """A refresh may ask for less, never for more (RFC 6749 section 6)."""
        wanted = form.get("scope", "")
        if not wanted:
            return held.authorisation.scopes
        scopes = smart.allowed(smart.split(wanted), held.authorisation.scopes)
        require(scopes, SmartCode.SCOPE_INVALID)
        return scopes

    def _by_itself(self, client: Client, form: Mapping[str, str]) -> dict[str, object]:
        """A system's own token (SMART Backend Services)."""
        require(client.is_backend, SmartCode.GRANT_TYPE_NOT_ALLOWED)
        allowed = smart.allowed(smart.split(form.get("scope", "")), client.scopes)
        scopes = tuple(one.text for one in smart.of_kind(allowed, "system"))
        require(scopes, SmartCode.SCOPE_INVALID)
        now_s = self._clock()
        authorisation = Authorisation(
            id=self._entropy(SIZE),
            client_id=client.client_id,
            by=Approver.SYSTEM,
            party=self._approvals.party_of_system(client),
            scopes=scopes,
            started_s=now_s,
            until_s=now_s + BACKEND_S,
        )
        self._apps.start(authorisation)
        return self._given(authorisation, scopes)

    def _given(self, authorisation: Authorisation, scopes: tuple[str, ...], *, nonce: str = "") -> dict[str, object]:
        """New tokens of an authorisation, and the launch context."""
        now_s = self._clock()
        left_s = min(ACCESS_S, authorisation.until_s - now_s)
        require(left_s > 0, SmartCode.REFRESH_INVALID)
        access = new_token(ACCESS_PREFIX, self._entropy)
        self._apps.add_token(access, authorisation.id, refreshes=False, scopes=scopes, until_s=now_s + left_s)
        answer: dict[str, object] = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": left_s,
            "scope": " ".join(scopes),
        }
        if smart.OFFLINE.intersection(authorisation.scopes):
            refresh = new_token(REFRESH_PREFIX, self._entropy)
            self._apps.add_token(
                refresh,
                authorisation.id,
                refreshes=True,
                scopes=authorisation.scopes,
                until_s=authorisation.until_s,
            )
            answer["refresh_token"] = refresh
        if authorisation.patient:
            answer["patient"] = authorisation.patient
        if "openid" in scopes and authorisation.user is not None:
            subject = subject_of(authorisation.client_id, authorisation.user)
            answer["id_token"] = self._identity.token(authorisation, subject=subject, nonce=nonce, now_s=now_s)
        return answer

    def _distrust(self, authorisation: Authorisation, what: str) -> None:
        """Somebody has a copy: everything that came of this authorisation ends."""
        self._apps.end(authorisation.id)
        _log.warning("app_distrusted", client=authorisation.client_id, reason=what)


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a verifier (RFC 7636 section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def with_query(address: str, given: Mapping[str, str]) -> str:
    """A registered address with parameters added to its own query."""
    parts = urlsplit(address)
    query = "&".join(one for one in (parts.query, urlencode(given)) if one)
    return urlunsplit(parts._replace(query=query))


def subject_of(client_id: str, user: bytes) -> str:
    """What an app knows a person by: another value at every app, so that apps cannot compare whom they know."""
    return tagged("carechain/smart/subject/1", client_id.encode(), user).hex()


_ERRORS: Final[Mapping[SmartCode, str]] = {
    SmartCode.CLIENT_UNKNOWN: "invalid_client",
    SmartCode.CLIENT_NOT_AUTHENTICATED: "invalid_client",
    SmartCode.ASSERTION_INVALID: "invalid_client",
    SmartCode.ASSERTION_USED: "invalid_client",
    SmartCode.RESPONSE_TYPE_UNSUPPORTED: "unsupported_response_type",
    SmartCode.SCOPE_INVALID: "invalid_scope",
    SmartCode.GRANT_TYPE_UNSUPPORTED: "unsupported_grant_type",
    SmartCode.GRANT_TYPE_NOT_ALLOWED: "unauthorized_client",
    SmartCode.CLIENT_UNUSABLE: "unauthorized_client",
    SmartCode.CODE_INVALID: "invalid_grant",
    SmartCode.REFRESH_INVALID: "invalid_grant",
    SmartCode.DENIED: "access_denied",
    SmartCode.TICKET_NOT_LIVE: "access_denied",
    SmartCode.BUSY: "temporarily_unavailable",
    SmartCode.LEDGER_STALE: "temporarily_unavailable",
    SmartCode.TOO_MANY_REQUESTS: "temporarily_unavailable",
}


def error_of(refused: Rejected) -> str:
    """OAuth's word for a refusal (RFC 6749 sections 4.1.2.1 and 5.2)."""
    code = refused.code
    return _ERRORS.get(code, "invalid_request") if isinstance(code, SmartCode) else "invalid_request"
