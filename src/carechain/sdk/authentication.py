"""Who is on the other side of an HTTP connection: a signed opening, then a bearer token (API-3, ID-9).

A party signs once with its ledger key that it opens a session at one server of one chain, at one time, with one
nonce. The server checks that against the key the ledger has for the party and hands out a random token, good for
``SESSION_LIFETIME_S`` and only here. What the party may then do is judged at every request from the ledger's present
state, so a session gives no right that a revoked key has lost.

This file is pure: time and randomness are arguments. Nodes and gatekeepers share it.
"""

from collections import deque
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.core.crypto import BadSignature, SigningKey, Suite, verify
from carechain.core.hashing import tagged
from carechain.core.ids import U63, Nonce, PartyId
from carechain.core.limits import CHAIN_ID_CHARS, CLOCK_SKEW_S, SESSION_LIFETIME_S, SESSIONS, SIGNATURE_SIZE
from carechain.core.party import Party
from carechain.core.rejection import Rejected, RejectionCode, require

TOKEN_SIZE: Final = 32
"""Random bytes in a token; it travels as twice as many hexadecimal digits."""
SESSIONS_PER_PARTY: Final = 64
"""So that one party cannot use up the room of all others; also its openings within the clock's tolerance."""
_SCHEME: Final = "bearer "


class AuthCode(RejectionCode):
    """Why a caller is not authenticated (401), or may not open another session now (429)."""

    SESSION_MISSING = 1201, "Open a session and send its token in the header: Authorization: Bearer <token>."
    SESSION_UNKNOWN = 1202, "This session has ended. Open a new one."
    OPENING_MALFORMED = 1203, "An opening names chain, server, party, time and nonce, and carries a signature."
    WRONG_CHAIN = 1204, "The opening is for another network."
    WRONG_SERVER = 1205, "The opening is for another server. Ask this one for its id and sign that."
    CLOCK_DIFFERS = 1206, "Your clock and the server's differ by more than 30 seconds. Set your clock."
    NONCE_USED = 1207, "This opening was used before. Sign a new one with a fresh nonce."
    SIGNATURE_INVALID = 1208, "The ledger knows no such party with a key under which this signature holds."
    TOO_MANY_SESSIONS = 1209, "Too many sessions are being opened. Wait a minute, and reuse the sessions you have."


class Opening(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request to open a session: what is signed, and the signature. ``time_s`` is Unix time in whole seconds."""

    chain_id: Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]
    server: PartyId
    party: PartyId
    time_s: U63
    nonce: Nonce
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class OpenSession(Struct, frozen=True, kw_only=True):
    """What the server answers: the token to send along, and when it ends (Unix seconds)."""

    token: str
    party: bytes
    expires_s: int


_openings = msgspec.msgpack.Decoder(Opening)


def opening_message(*, chain_id: str, server: bytes, party: bytes, time_s: int, nonce: bytes) -> bytes:
    """The 32 bytes a party signs; covering all five, they serve at one server and once."""
    return tagged("carechain/session/1", chain_id.encode(), server, party, time_s.to_bytes(8, "big"), nonce)


def sign_opening(key: SigningKey, *, chain_id: str, server: bytes, party: bytes, time_s: int, nonce: bytes) -> Opening:
    """An opening signed with the party's ledger key; ``nonce`` is 16 fresh random bytes."""
    message = opening_message(chain_id=chain_id, server=server, party=party, time_s=time_s, nonce=nonce)
    return Opening(
        chain_id=chain_id, server=server, party=party, time_s=time_s, nonce=nonce, signature=key.sign(message)
    )


def decode_opening(data: bytes) -> Opening:
    """An opening from msgpack (a map by field name); raises :class:`Rejected`."""
    try:
        return _openings.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(AuthCode.OPENING_MALFORMED) from None


def bearer(authorization: str) -> str:
    """The token in an ``Authorization`` header's value (RFC 6750 section 2.1); raises :class:`Rejected`."""
    require(authorization[: len(_SCHEME)].lower() == _SCHEME, AuthCode.SESSION_MISSING)
    return authorization[len(_SCHEME) :].strip()


class SessionBook:
    """The open sessions of one server, and the openings that could still be replayed. Both are bounded."""

    __slots__ = ("_by_party", "_chain_id", "_nonces", "_openings", "_server", "_sessions")

    def __init__(self, *, chain_id: str, server: bytes) -> None:
        """Start without sessions. ``server`` is the party id of whoever runs this server."""
        self._chain_id = chain_id
        self._server = server
        self._sessions: dict[str, tuple[bytes, int]] = {}
        self._by_party: dict[bytes, deque[str]] = {}
        self._nonces: dict[tuple[bytes, bytes], int] = {}
        self._openings: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, opening: Opening, *, party: Party | None, now_s: int, token: bytes) -> OpenSession:
        """Check an opening and start a session; raises :class:`Rejected` with an :class:`AuthCode`.

        ``party`` is what the ledger has under ``opening.party``, ``token`` :data:`TOKEN_SIZE` fresh random bytes,
        ``now_s`` the server's clock. A party over its number of sessions loses its oldest.
        """
        if len(token) != TOKEN_SIZE:
            raise ValueError(f"a token has {TOKEN_SIZE} random bytes")
        require(opening.chain_id == self._chain_id, AuthCode.WRONG_CHAIN)
        require(opening.server == self._server, AuthCode.WRONG_SERVER)
        require(abs(opening.time_s - now_s) <= CLOCK_SKEW_S, AuthCode.CLOCK_DIFFERS)
        _verify(opening, party)
        self._drop_old(now_s)
        nonce = (opening.party, opening.nonce)
        require(nonce not in self._nonces, AuthCode.NONCE_USED)
        self._require_room(opening.party)
        # The longest this opening could pass the clock check, counted from now so that all end in order.
        self._nonces[nonce] = now_s + 2 * CLOCK_SKEW_S + 1
        self._openings[opening.party] = self._openings.get(opening.party, 0) + 1
        return self._start(opening.party, token.hex(), now_s + SESSION_LIFETIME_S)

    def party_of(self, token: str, now_s: int) -> bytes | None:
        """The party whose session this token opens, or None when there is no such session any more."""
        session = self._sessions.get(token)
        return session[0] if session is not None and now_s < session[1] else None

    def require_party(self, authorization: str | None, now_s: int) -> bytes:
        """The party behind an ``Authorization`` header's value; raises :class:`Rejected` with an :class:`AuthCode`."""
        if authorization is None:
            raise Rejected(AuthCode.SESSION_MISSING)
        party = self.party_of(bearer(authorization), now_s)
        if party is None:
            raise Rejected(AuthCode.SESSION_UNKNOWN)
        return party

    def end(self, token: str) -> None:
        """End a session; ending one that is not there is allowed."""
        session = self._sessions.pop(token, None)
        if session is not None:
            tokens = self._by_party[session[0]]
            tokens.remove(token)
            if not tokens:
                del self._by_party[session[0]]

    def _require_room(self, party: bytes) -> None:
        crowded = self._openings.get(party, 0) >= SESSIONS_PER_PARTY
        full = len(self._nonces) >= SESSIONS or len(self._sessions) >= SESSIONS
        require(not crowded and not full, AuthCode.TOO_MANY_SESSIONS)

    def _start(self, party: bytes, token: str, expires_s: int) -> OpenSession:
        tokens = self._by_party.setdefault(party, deque())
        if len(tokens) >= SESSIONS_PER_PARTY:
            del self._sessions[tokens.popleft()]
        tokens.append(token)
        self._sessions[token] = (party, expires_s)
        return OpenSession(token=token, party=party, expires_s=expires_s)

    def _drop_old(self, now_s: int) -> None:
        """Forget what has ended. Both memories end in the order they began, so only the front is looked at."""
        while self._sessions:
            token, (_, expires_s) = next(iter(self._sessions.items()))
            if now_s < expires_s:
                break
            self.end(token)
        while self._nonces:
            nonce, until_s = next(iter(self._nonces.items()))
            if now_s < until_s:
                break
            del self._nonces[nonce]
            left = self._openings[nonce[0]] - 1
            self._openings[nonce[0]] = left
            if not left:
                del self._openings[nonce[0]]


_NOBODY: Final = SigningKey(suite=Suite.ED25519, seed=bytes(32)).public_key


def _verify(opening: Opening, party: Party | None) -> None:
    """An unknown party costs a verification too, so that the time taken does not tell strangers who is known."""
    message = opening_message(
        chain_id=opening.chain_id,
        server=opening.server,
        party=opening.party,
        time_s=opening.time_s,
        nonce=opening.nonce,
    )
    suite, public_key = (Suite.ED25519, _NOBODY) if party is None else (party.suite, party.public_key)
    try:
        verify(suite=suite, public_key=public_key, signature=opening.signature, message=message)
    except BadSignature:
        raise Rejected(AuthCode.SIGNATURE_INVALID) from None
    require(party is not None, AuthCode.SIGNATURE_INVALID)
