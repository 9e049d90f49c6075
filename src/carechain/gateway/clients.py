"""Which apps and systems may use this organisation's FHIR server, and what they have been given (API-1).

One SQLite file, ``gateway/apps.sqlite`` in the home, mode 0600, written by the node and by ``carechain app``. Secrets
and tokens are never in it: what is kept of each is a SHA-256 hash, which is enough because they are 256 random bits.
"""

from enum import StrEnum
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Final, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, KeySet, RSAKey
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import tagged
from carechain.core.ids import Hash, PartyId, TicketId
from carechain.core.rejection import Rejected, present, require
from carechain.core.scope import Scope
from carechain.core.vocabulary import Purpose
from carechain.engine.database import Database
from carechain.gateway.codes import SmartCode
from carechain.gateway.smart.scopes import SCOPES, of_kind, understood

T = TypeVar("T")

APPS_FILE: Final = Path("gateway") / "apps.sqlite"
"""In the home."""
APPS: Final = 1_000
REDIRECTS: Final = 16
ADDRESS_CHARS: Final = 1024
NAME_CHARS: Final = 80
SECRET_SIZE: Final = 32
_KEYS_BYTES: Final = 64 * 1024
_RSA_BITS: Final = 2048
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_Text = Annotated[str, Meta(max_length=ADDRESS_CHARS)]


class AppsUnavailable(OSError):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The file of the apps cannot be used now; nobody is let in by it. Names the driver's error class only."""


class AppsTooNew(Exception):  # noqa: N818 - names what is wrong with the file
    """The file was written by a newer release; run that release."""


class Proof(StrEnum):
    """How an app proves at the token endpoint that it is itself."""

    NONE = "none"
    SECRET = "client_secret"  # noqa: S105 - the name of a method
    KEYS = "private_key_jwt"


class Client(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A registered app. ``party`` is who it acts as on the ledger, with the key file ``acting`` of this home.

    ``system`` is for the custodian's own systems, which see everything; no ticket stands behind them. ``keys`` is a
    public JSON Web Key Set.
    """

    client_id: Annotated[str, Meta(min_length=8, max_length=64)]
    name: Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]
    proof: Proof = Proof.NONE
    redirects: Annotated[tuple[_Text, ...], Meta(max_length=REDIRECTS)] = ()
    launch_url: _Text = ""
    scopes: Annotated[tuple[_Text, ...], Meta(max_length=SCOPES)] = ()
    secret_hash: Annotated[bytes, Meta(max_length=32)] = b""
    keys: Annotated[bytes, Meta(max_length=_KEYS_BYTES)] = b""
    acting: Annotated[str, Meta(max_length=64)] = ""
    party: PartyId | None = None
    purpose: Purpose = Purpose.CAREMGT
    system: bool = False

    @property
    def is_backend(self) -> bool:
        """Whether it gets tokens for itself: it proves itself and is registered for ``system/`` scopes."""
        return self.proof is not Proof.NONE and bool(of_kind(self.scopes, "system"))

    def key_set(self) -> KeySet:
        """Its public keys; raises ``Rejected`` for none that can be used."""
        return read_keys(self.keys)

    def is_secret(self, secret: str) -> bool:
        """Whether this is its secret, in the same time for every wrong one."""
        return compare_digest(hash_of(secret), self.secret_hash or bytes(32)) and bool(self.secret_hash)


class Approver(StrEnum):
    """Whose word stands behind an authorisation."""

    PATIENT = "patient"
    STAFF = "staff"
    SYSTEM = "system"


class Authorisation(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What an app was let do, and by what: a patient's grant, a clinician's tickets, or its own registration.

    ``party`` is who acts on the ledger. ``patient`` is the local id of the patient in context, ``scope`` the part of
    the record that was granted. Times are Unix seconds.
    """

    id: Hash
    client_id: str
    by: Approver
    party: PartyId
    scopes: tuple[str, ...]
    purpose: Purpose | None = None
    pseudonym: PartyId | None = None
    patient: str = ""
    grant: Hash | None = None
    scope: Scope | None = None
    tickets: tuple[TicketId, ...] = ()
    user: PartyId | None = None
    started_s: int
    until_s: int


class Token(Struct, frozen=True, kw_only=True):
    """What is kept of a token. ``used`` is for refresh tokens: one that was used is replaced by another."""

    authorisation: Authorisation
    refreshes: bool
    scopes: tuple[str, ...]
    until_s: int
    used: bool


_clients: Final = msgspec.msgpack.Decoder(Client)
_authorisations: Final = msgspec.msgpack.Decoder(Authorisation)
_scopes: Final = msgspec.msgpack.Decoder(tuple[str, ...])


def hash_of(secret: str) -> bytes:
    """What is kept of a secret or a token."""
    return tagged("carechain/gateway/secret/1", secret.encode())


# --- registering ----------------------------------------------------------------------------------------


def checked(client: Client) -> Client:
    """The client with the scopes this server understands; raises ``Rejected`` for one that must not be registered."""
    require(client.name.strip() and client.name.isprintable(), SmartCode.REGISTRATION_MALFORMED)
    scopes = understood(client.scopes)
    require(len(scopes) == len(set(client.scopes)) > 0, SmartCode.REGISTRATION_MALFORMED)
    for address in (*client.redirects, *((client.launch_url,) if client.launch_url else ())):
        require(is_safe_address(address), SmartCode.REDIRECT_UNSAFE)
    people, system = of_kind(scopes, "patient", "user"), of_kind(scopes, "system")
    require(bool(people) == bool(client.redirects), SmartCode.REGISTRATION_MALFORMED)
    require(not (client.system or system) or client.proof is not Proof.NONE, SmartCode.SYSTEM_NEEDS_PROOF)
    require(not system or client.system or client.party is not None, SmartCode.ACTING_PARTY_MISSING)
    if of_kind(scopes, "patient"):
        require(client.party is not None and client.acting, SmartCode.ACTING_PARTY_MISSING)
    if client.proof is Proof.KEYS:
        client.key_set()
    return msgspec.structs.replace(client, scopes=scopes)


def is_safe_address(text: str) -> bool:
    """Whether codes may be sent there: https, http on this machine, or an app's own scheme (RFC 8252 section 7)."""
    if not text.isascii() or not text.isprintable() or any(one in text for one in ' "<>\\^`{|}#'):
        return False
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if "@" in parts.netloc or port == 0:
        return False
    if parts.scheme == "https":
        return bool(host)
    if parts.scheme == "http":
        return host in _LOOPBACK
    return "." in parts.scheme and parts.path.startswith("/")


def read_keys(data: bytes) -> KeySet:
    """A public key set; raises ``Rejected`` with ``KEYS_UNUSABLE`` for anything else."""
    try:
        found = KeySet.import_key_set(msgspec.json.decode(data))
    except (msgspec.MsgspecError, JoseError, SecurityWarning, ValueError, TypeError, KeyError, AttributeError):
        raise Rejected(SmartCode.KEYS_UNUSABLE) from None
    require(found.keys and all(_is_usable(key) for key in found.keys), SmartCode.KEYS_UNUSABLE)
    return found


def _is_usable(key: object) -> bool:
    if not isinstance(key, RSAKey | ECKey) or key.is_private or not key.kid:
        return False
    if isinstance(key, RSAKey):
        return key.public_key.key_size >= _RSA_BITS
    return key.curve_name == "P-384"


# --- the file -------------------------------------------------------------------------------------------


class Apps(Database):
    """The file of clients and of what they were given. Several threads and processes may use it."""

    tables = (
        "CREATE TABLE clients (client_id TEXT PRIMARY KEY, body BLOB NOT NULL)",
        """CREATE TABLE authorisations (
            id BLOB PRIMARY KEY, client_id TEXT NOT NULL, until_s INTEGER NOT NULL, ended INTEGER NOT NULL,
            body BLOB NOT NULL
        )""",
        "CREATE INDEX authorisations_until ON authorisations (until_s)",
        """CREATE TABLE tokens (
            hash BLOB PRIMARY KEY, authorisation BLOB NOT NULL, refreshes INTEGER NOT NULL, until_s INTEGER NOT NULL,
            used INTEGER NOT NULL, scopes BLOB NOT NULL
        )""",
        "CREATE INDEX tokens_until ON tokens (until_s)",
        "CREATE INDEX tokens_authorisation ON tokens (authorisation)",
        """CREATE TABLE assertions (
            client_id TEXT NOT NULL, jti BLOB NOT NULL, until_s INTEGER NOT NULL, PRIMARY KEY (client_id, jti)
        )""",
        "CREATE INDEX assertions_until ON assertions (until_s)",
    )
    unavailable = AppsUnavailable
    too_new = AppsTooNew

    @classmethod
    def at(cls, home: Path) -> Self:
        """Open or create the file of a home; raises :class:`AppsUnavailable`, :class:`AppsTooNew` and ``OSError``."""
        path = home / APPS_FILE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls.open(path)

    # --- clients ------------------------------------------------------------------------------------------

    def register(self, client: Client) -> Client:
        """Add a client, or replace the one with its id; raises ``Rejected``."""
        client = checked(client)

        def write() -> None:
            others = "SELECT count(*) FROM clients WHERE client_id != ?"
            (count,) = self._connection.execute(others, (client.client_id,)).fetchone()
            require(count < APPS, SmartCode.TOO_MANY_APPS)
            self._connection.execute("INSERT OR REPLACE INTO clients VALUES (?, ?)", (client.client_id, encode(client)))

        self._write(write)
        return client

    def remove(self, client_id: str) -> bool:
        """Remove a client with everything it was given; False when there was none."""

        def write() -> bool:
            self._connection.execute(
                "DELETE FROM tokens WHERE authorisation IN (SELECT id FROM authorisations WHERE client_id = ?)",
                (client_id,),
            )
            self._connection.execute("DELETE FROM authorisations WHERE client_id = ?", (client_id,))
            return self._connection.execute("DELETE FROM clients WHERE client_id = ?", (client_id,)).rowcount > 0

        return self._write(write)

    def client(self, client_id: str) -> Client | None:
        """A client by its id."""
        rows = self._select("SELECT body FROM clients WHERE client_id = ?", client_id)
        return _read(_clients, rows[0][0]) if rows else None

    def clients(self) -> list[Client]:
        """Every client, by id."""
        return [_read(_clients, body) for (body,) in self._select("SELECT body FROM clients ORDER BY client_id")]

    # --- what they were given -----------------------------------------------------------------------------

    def start(self, authorisation: Authorisation) -> None:
        """Keep what an app was let do; what ended long ago is forgotten."""

        def write() -> None:
            self._connection.execute("DELETE FROM tokens WHERE until_s <= ?", (authorisation.started_s,))
            self._connection.execute("DELETE FROM authorisations WHERE until_s <= ?", (authorisation.started_s,))
            self._connection.execute(
                "INSERT INTO authorisations VALUES (?, ?, ?, 0, ?)",
                (authorisation.id, authorisation.client_id, authorisation.until_s, encode(authorisation)),
            )

        self._write(write)

    def end(self, authorisation: bytes) -> None:
        """End it: no token of it holds any more, and none is given again."""

        def write() -> None:
            self._connection.execute("UPDATE authorisations SET ended = 1 WHERE id = ?", (authorisation,))
            self._connection.execute("DELETE FROM tokens WHERE authorisation = ? AND refreshes = 0", (authorisation,))

        self._write(write)

    def add_token(
        self, token: str, authorisation: bytes, *, refreshes: bool, scopes: tuple[str, ...], until_s: int
    ) -> None:
        """Keep the hash of a token."""
        kept = (hash_of(token), authorisation, int(refreshes), until_s, encode(scopes))
        self._execute("INSERT INTO tokens VALUES (?, ?, ?, ?, 0, ?)", *kept)

    def token(self, token: str, now_s: int) -> Token | None:
        """What a token stands for while it, its authorisation and its client hold; used refresh tokens included."""
        rows = self._select(
            "SELECT t.refreshes, t.until_s, t.used, t.scopes, a.body FROM tokens t"
            " JOIN authorisations a ON a.id = t.authorisation JOIN clients c ON c.client_id = a.client_id"
            " WHERE t.hash = ? AND t.until_s > ? AND a.ended = 0 AND a.until_s > ?",
            hash_of(token),
            now_s,
            now_s,
        )
        if not rows:
            return None
        refreshes, until_s, used, scopes, body = rows[0]
        return Token(
            authorisation=_read(_authorisations, body),
            refreshes=bool(refreshes),
            scopes=_read(_scopes, scopes),
            until_s=until_s,
            used=bool(used),
        )

    def use_refresh(self, token: str) -> bool:
        """Mark a refresh token as used; False when somebody was first, and then both must be distrusted."""
        mark = "UPDATE tokens SET used = 1 WHERE hash = ? AND refreshes = 1 AND used = 0"
        return self._execute(mark, hash_of(token)) > 0

    def drop_token(self, token: str) -> None:
        """An access token holds no more."""
        self._execute("DELETE FROM tokens WHERE hash = ?", hash_of(token))

    def use_assertion(self, client_id: str, jti: str, *, until_s: int, now_s: int) -> bool:
        """Remember a signed assertion durably; False when it was used before."""

        def write() -> bool:
            self._connection.execute("DELETE FROM assertions WHERE until_s <= ?", (now_s,))
            done = self._connection.execute(
                "INSERT OR IGNORE INTO assertions VALUES (?, ?, ?)", (client_id, hash_of(jti), until_s)
            )
            return done.rowcount > 0

        return self._write(write)


def _read(decoder: "msgspec.msgpack.Decoder[T]", data: object) -> T:
    try:
        return decode_strict(decoder, data if isinstance(data, bytes) else b"")
    except Malformed:
        raise AppsUnavailable(
            "the file of the apps is damaged: restore it, or remove it and register them anew"
        ) from None


def known(apps: Apps, client_id: str) -> Client:
    """A client that must be there; raises ``Rejected``."""
    return present(apps.client(client_id), SmartCode.CLIENT_UNKNOWN)
