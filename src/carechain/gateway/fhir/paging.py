"""Opaque links to the next page: sealed by the server, so that they can be neither read nor made up (API-1).

A link holds the query and where it goes on. Both may say something of a patient (a name that was searched for in a
form), and a link stands in addresses, which are logged: so it is encrypted (AES-256-GCM), not only signed. It is bound
to the caller it was given to; for anybody else it is the same as one that was made up. It carries no right: the next
page is judged again like the first.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from carechain.core.hashing import tagged
from carechain.core.limits import FHIR_PAGE_LINK_CHARS
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.principal import Principal

KEY_SIZE: Final = 32
PAGE_PARAMETER: Final = "_page"
_NONCE_SIZE: Final = 12


class Place(Struct, frozen=True, array_like=True):
    """Where a listing goes on: what was asked, the key of the last row given out, and when the link expires."""

    kind: str
    resource_type: str
    resource_id: str
    member_type: str
    params: list[tuple[str, str]]
    after: bytes
    expires_s: int


class Pages:
    """Makes and reads the links; ``secret`` is the process's own or stored where several processes share it."""

    __slots__ = ("_cipher", "_entropy")

    def __init__(self, secret: bytes, entropy: Callable[[int], bytes]) -> None:
        """``secret`` is 32 bytes."""
        self._cipher = AESGCM(tagged("carechain/fhir/pages/1", secret))
        self._entropy = entropy

    def link(self, principal: Principal, place: Place) -> str:
        """The token of a place for this caller."""
        nonce = self._entropy(_NONCE_SIZE)
        sealed = self._cipher.encrypt(nonce, msgspec.msgpack.encode(place), _bound_to(principal))
        return urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def place(self, principal: Principal, token: str, now_s: int) -> Place:
        """The place behind a token; raises ``Rejected`` when it is not this caller's, altered or expired."""
        require(len(token) <= FHIR_PAGE_LINK_CHARS and token.isascii(), FhirCode.PAGE_UNKNOWN)
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
            packed = self._cipher.decrypt(raw[:_NONCE_SIZE], raw[_NONCE_SIZE:], _bound_to(principal))
        except (NotBase64, InvalidTag, ValueError):
            raise Rejected(FhirCode.PAGE_UNKNOWN) from None
        place = msgspec.msgpack.decode(packed, type=Place)
        require(now_s < place.expires_s, FhirCode.PAGE_UNKNOWN)
        return place


def _bound_to(principal: Principal) -> bytes:
    return tagged("carechain/fhir/caller/1", principal.party, principal.client_id.encode(), principal.patient.encode())
