"""How an app proves at the token endpoint that it is the registered one: a secret, or a signed assertion (RFC 7523).

A public app has nothing to prove itself with; its code is bound to it by PKCE and its redirect address. Every wrong
proof gets the same answer as an app that is not registered.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Annotated, Final
from urllib.parse import unquote_plus

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from msgspec import Meta, Struct

from carechain.core.rejection import Rejected, present, require
from carechain.gateway.clients import Apps, Client, Proof
from carechain.gateway.codes import SmartCode

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS: Final = ("RS384", "ES384")
ASSERTION_S: Final = 300
"""The longest an assertion may be valid ahead."""
SKEW_S: Final = 30
JTI_CHARS: Final = 256
_BASIC: Final = "basic "


class _Issuer(Struct):
    iss: str


class _Claims(Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: int | float
    jti: Annotated[str, Meta(min_length=1, max_length=JTI_CHARS)]
    nbf: int | float | None = None


_issuers: Final = msgspec.json.Decoder(_Issuer)


def prove(
    apps: Apps, *, form: Mapping[str, str], authorization: str, audience: str, clock: Callable[[], int]
) -> Client:
    """The client behind a request to the token endpoint; raises ``Rejected``.

    ``audience`` is that endpoint's address, which an assertion must name.
    """
    if "client_assertion" in form:
        require(not authorization, SmartCode.REQUEST_MALFORMED)
        return _by_assertion(apps, form, audience, clock())
    if authorization:
        client_id, secret = _basic(authorization)
        require(form.get("client_id", client_id) == client_id, SmartCode.CLIENT_NOT_AUTHENTICATED)
    else:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    client = present(apps.client(client_id), SmartCode.CLIENT_NOT_AUTHENTICATED)
    if client.proof is Proof.SECRET:
        require(client.is_secret(secret), SmartCode.CLIENT_NOT_AUTHENTICATED)
    else:
        require(client.proof is Proof.NONE and not secret, SmartCode.CLIENT_NOT_AUTHENTICATED)
    return client


def _basic(authorization: str) -> tuple[str, str]:
    """Id and secret of HTTP Basic, form-encoded within (RFC 6749 section 2.3.1)."""
    require(authorization[: len(_BASIC)].lower() == _BASIC, SmartCode.CLIENT_NOT_AUTHENTICATED)
    try:
        text = base64.b64decode(authorization[len(_BASIC) :].strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Rejected(SmartCode.CLIENT_NOT_AUTHENTICATED) from None
    client_id, separator, secret = text.partition(":")
    require(separator, SmartCode.CLIENT_NOT_AUTHENTICATED)
    return unquote_plus(client_id), unquote_plus(secret)


def _by_assertion(apps: Apps, form: Mapping[str, str], audience: str, now_s: int) -> Client:
    """A JWT signed with a registered key: issuer and subject are the client, used once, at most five minutes ahead."""
    require(form.get("client_assertion_type") == ASSERTION_TYPE, SmartCode.ASSERTION_INVALID)
    assertion = form["client_assertion"]
    client = present(apps.client(_claimed_issuer(assertion)), SmartCode.ASSERTION_INVALID)
    require(client.proof is Proof.KEYS, SmartCode.ASSERTION_INVALID)
    require(form.get("client_id", client.client_id) == client.client_id, SmartCode.ASSERTION_INVALID)
    try:
        claims = msgspec.convert(jwt.decode(assertion, client.key_set(), algorithms=list(ALGORITHMS)).claims, _Claims)
    except (JoseError, msgspec.ValidationError, ValueError, TypeError, KeyError):
        raise Rejected(SmartCode.ASSERTION_INVALID) from None
    require(
        claims.iss == claims.sub == client.client_id
        and claims.aud in (audience, [audience])
        and now_s - SKEW_S < claims.exp <= now_s + ASSERTION_S + SKEW_S
        and (claims.nbf is None or claims.nbf <= now_s + SKEW_S),
        SmartCode.ASSERTION_INVALID,
    )
    first = apps.use_assertion(client.client_id, claims.jti, until_s=int(claims.exp) + SKEW_S + 1, now_s=now_s)
    require(first, SmartCode.ASSERTION_USED)
    return client


def _claimed_issuer(assertion: str) -> str:
    """Who an assertion says it is of, to know whose keys to check it with; nothing else is read before the check."""
    parts = assertion.split(".")
    require(len(parts) == 3, SmartCode.ASSERTION_INVALID)  # noqa: PLR2004 - header, claims, signature
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        return _issuers.decode(base64.urlsafe_b64decode(padded)).iss
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise Rejected(SmartCode.ASSERTION_INVALID) from None
