"""Who is on the other side of an HTTP connection: a signed opening, then a bearer token (API-3, ID-9).

A party signs once with its ledger key that it opens a session at one service of one organisation on one chain, at one
time, with one nonce. The server checks that against the key the ledger has for the party and hands out a random token,
good for ``SESSION_LIFETIME_S`` and only here. What the party may then do is judged at every request from the ledger's
present state, so a session gives no right that a revoked key has lost. It ends when the party has another key: it was
opened with one that is dead.

This file is pure: time and randomness are arguments. Nodes and gatekeepers share it.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from carechain.core.crypto import BadSignature, SigningKey, Suite, verify
from carechain.core.hashing import tagged
from carechain.core.ids import U63, Nonce, PartyId
from carechain.core.limits import (
    CHAIN_ID_CHARS,
    CLOCK_SKEW_S,
    SESSION_LIFETIME_S,
    SESSIONS,
    SESSIONS_PER_ORGANISATION,
    SESSIONS_PER_PARTY,
    SIGNATURE_SIZE,
)
from carechain.core.party import Party
from carechain.core.rejection import Rejected, RejectionCode, present, require

TOKEN_SIZE: Final = 32
"""Random bytes in a token; it travels as twice as many hexadecimal digits."""
_SCHEME: Final = "bearer "


class Service(StrEnum):
    """Which of an organisation's servers a session is for: all of them go by the organisation's id."""

    NODE = "node"
    GATEKEEPER = "gatekeeper"


class AuthCode(RejectionCode):
    """Why a caller is not authenticated (401), or may not open another session now (429)."""

    SESSION_MISSING = 1201, "Open a session and send its token in the header: Authorization: Bearer <token>."
    SESSION_UNKNOWN = 1202, "This session has ended. Open a new one."
    OPENING_MALFORMED = 1203, "An opening names chain, server, party, time and nonce, and carries a signature."
    WRONG_CHAIN = 1204, "The opening is for another network."
    WRONG_SERVER = 1205, "The opening is for another server. Check the address, and the server id you were given."
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

    def __repr__(self) -> str:
        return f"OpenSession(party={self.party.hex()}, expires_s={self.expires_s})"


_openings = msgspec.msgpack.Decoder(Opening)


def opening_message(
    *, chain_id: str, service: Service, server: bytes, party: bytes, time_s: int, nonce: bytes
) -> bytes:
    """The 32 bytes a party signs; covering all six, they serve at one server and once.

    The service is signed but never sent: each server knows its own, so what was signed for the node of an
    organisation cannot be passed on to its gatekeeper by whoever received it.
    """
    return tagged(
        "carechain/session/1",
        chain_id.encode(),
        service.encode(),
        server,
        party,
        time_s.to_bytes(8, "big"),
        nonce,
    )


def sign_opening(
    key: SigningKey, *, chain_id: str, service: Service, server: bytes, party: bytes, time_s: int, nonce: bytes
) -> Opening:
    """An opening signed with the party's ledger key; ``nonce`` is 16 fresh random bytes."""
    message = opening_message(
        chain_id=chain_id, service=service, server=server, party=party, time_s=time_s, nonce=nonce
    )
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
    """The open sessions of one server, and the openings that could still be replayed. Both are bounded.

    They are bounded per party and per organisation too: who makes keys by the thousand, as an organisation can for
    staff and for patients, uses up its own share and not the room of the others.
    """

    __slots__ = ("_chain_id", "_known", "_nonces", "_organisations", "_parties", "_server", "_service", "_sessions")

    def __init__(
        self, *, chain_id: str, service: Service, server: bytes, known: Callable[[bytes], Party | None]
    ) -> None:
        """Start without sessions. ``server`` is the party id of whoever runs this server.

        ``known`` gives what the ledger has under a party id now: with every use, a session is held against it.
        """
        self._chain_id = chain_id
        self._known = known
        self._service = service
        self._server = server
        self._sessions: dict[str, _Session] = {}
        self._nonces: dict[tuple[bytes, bytes], _Spent] = {}
        self._parties = _Shares(SESSIONS_PER_PARTY)
        self._organisations = _Shares(SESSIONS_PER_ORGANISATION)

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self,
        opening: Opening,
        *,
        party: Party | None,
        now_s: int,
        token: bytes,
        organisation: bytes | None = None,
    ) -> OpenSession:
        """Check an opening and start a session; raises :class:`Rejected` with an :class:`AuthCode`.

        ``party`` is what the ledger has under ``opening.party``, ``organisation`` whose share it uses (the party's own
        where None; see :func:`carechain.chain.queries.share_of`), ``token`` :data:`TOKEN_SIZE` fresh random bytes,
        ``now_s`` the server's clock. A party or an organisation over its number of sessions loses its oldest; too
        many openings within the clock's tolerance are refused.
        """
        if len(token) != TOKEN_SIZE:
            raise ValueError(f"a token has {TOKEN_SIZE} random bytes")
        require(opening.chain_id == self._chain_id, AuthCode.WRONG_CHAIN)
        require(opening.server == self._server, AuthCode.WRONG_SERVER)
        require(abs(opening.time_s - now_s) <= CLOCK_SKEW_S, AuthCode.CLOCK_DIFFERS)
        known = _verify(opening, party, self._service)
        organisation = known.organisation if organisation is None else organisation
        self._drop_old(now_s)
        nonce = (opening.party, opening.nonce)
        require(nonce not in self._nonces, AuthCode.NONCE_USED)
        self._require_room(opening.party, organisation)
        # The longest this opening could pass the clock check, counted from now so that all end in order.
        self._nonces[nonce] = _Spent(organisation, now_s + 2 * CLOCK_SKEW_S + 1)
        self._parties.spend(opening.party)
        self._organisations.spend(organisation)
        session = _Session(opening.party, organisation, now_s + SESSION_LIFETIME_S, (known.suite, known.public_key))
        return self._start(token.hex(), session)

    def party_of(self, token: str, now_s: int) -> bytes | None:
        """The party whose session this token opens, or None when there is no such session any more."""
        session = self._sessions.get(token)
        if session is None or now_s >= session.expires_s:
            return None
        party = self._known(session.party)
        if party is None or (party.suite, party.public_key) != session.key:
            self.end(token)
            return None
        return session.party

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
            self._parties.drop(session.party, token)
            self._organisations.drop(session.organisation, token)

    def _require_room(self, party: bytes, organisation: bytes) -> None:
        crowded = self._parties.is_spent(party) or self._organisations.is_spent(organisation)
        makes_room = self._parties.is_full(party) or self._organisations.is_full(organisation)
        full = len(self._nonces) >= SESSIONS or (len(self._sessions) >= SESSIONS and not makes_room)
        require(not crowded and not full, AuthCode.TOO_MANY_SESSIONS)

    def _start(self, token: str, session: "_Session") -> OpenSession:
        for shares, owner in ((self._parties, session.party), (self._organisations, session.organisation)):
            if shares.is_full(owner):
                self.end(shares.oldest(owner))
        self._parties.hold(session.party, token)
        self._organisations.hold(session.organisation, token)
        self._sessions[token] = session
        return OpenSession(token=token, party=session.party, expires_s=session.expires_s)

    def _drop_old(self, now_s: int) -> None:
        """Forget what has ended. Both memories end in the order they began, so only the front is looked at."""
        while self._sessions:
            token, session = next(iter(self._sessions.items()))
            if now_s < session.expires_s:
                break
            self.end(token)
        while self._nonces:
            nonce, spent = next(iter(self._nonces.items()))
            if now_s < spent.until_s:
                break
            del self._nonces[nonce]
            self._parties.regain(nonce[0])
            self._organisations.regain(spent.organisation)


class _Session(NamedTuple):
    """An open session: whose it is, when it ends (Unix seconds), and with which suite and key it was opened."""

    party: bytes
    organisation: bytes
    expires_s: int
    key: tuple[int, bytes]


class _Spent(NamedTuple):
    """An opening that was used, remembered as long as its time would pass."""

    organisation: bytes
    until_s: int


class _Shares:
    """What parties, or organisations, have of a book: each its open sessions in order, and its recent openings."""

    __slots__ = ("_limit", "_openings", "_tokens")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens: dict[bytes, dict[str, None]] = {}
        self._openings: dict[bytes, int] = {}

    def is_full(self, owner: bytes) -> bool:
        return len(self._tokens.get(owner, ())) >= self._limit

    def oldest(self, owner: bytes) -> str:
        return next(iter(self._tokens[owner]))

    def hold(self, owner: bytes, token: str) -> None:
        self._tokens.setdefault(owner, {})[token] = None

    def drop(self, owner: bytes, token: str) -> None:
        held = self._tokens[owner]
        del held[token]
        if not held:
            del self._tokens[owner]

    def is_spent(self, owner: bytes) -> bool:
        return self._openings.get(owner, 0) >= self._limit

    def spend(self, owner: bytes) -> None:
        self._openings[owner] = self._openings.get(owner, 0) + 1

    def regain(self, owner: bytes) -> None:
        left = self._openings.pop(owner) - 1
        if left:
            self._openings[owner] = left


_NOBODY: Final = SigningKey(suite=Suite.ED25519, seed=bytes(32)).public_key


def _verify(opening: Opening, party: Party | None, service: Service) -> Party:
    """An unknown party costs a verification too, so that the time taken does not tell strangers who is known."""
    message = opening_message(
        chain_id=opening.chain_id,
        service=service,
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
    return present(party, AuthCode.SIGNATURE_INVALID)
