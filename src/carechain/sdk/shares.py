"""What a requester and a keyholder say to each other: the wire of ``POST /v1/shares`` (KEY-1, AUD-3; DESIGN section 7).

A requester names its ticket and, for every record, the version, the capsule and a blinding that is used once. The
keyholder answers with signed shares, sealed to the key that the *ticket* names: whoever carries the answer, or asked
for it under somebody else's name, reads nothing. The signature on each share makes a false one the proof of its maker's
fault (``keyring.accuse``).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Protocol

import httpx
import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.hashing import tagged
from carechain.core.ids import U32, U63, RecordId, TicketId
from carechain.core.limits import (
    CAPSULE_SIZE_BYTES,
    SHARES_PER_REQUEST,
    SHARES_REQUEST_BYTES,
    SIGNATURE_SIZE,
)
from carechain.core.quorum import Blinding, ShareStatement
from carechain.core.rejection import Rejected, RejectionCode
from carechain.sdk.authentication import AuthCode
from carechain.sdk.door import DoorSession, SignInRefused
from carechain.sdk.failures import Refused, Unreachable, refusal_in
from carechain.sealing.hpke import HpkePrivateKey, open_large, seal_large
from carechain.vault.base import VaultUnavailable

MSGPACK: Final = "application/msgpack"
SHARES_PATH: Final = "/v1/shares"
_OK: Final = 200


class KeyholderCode(RejectionCode):
    """Why a keyholder gives no share, in the order of its checks. Append-only.

    One code covers everything that is wrong with a record's category, grade or day, as at the gatekeeper: telling them
    apart would tell a requester how sensitive a record is that it may not see.
    """

    REQUEST_MALFORMED = 2201, "The request does not fit. See docs/concepts/sealed-records.md."
    TOO_MANY_SHARES = 2202, "You asked for more shares than this keyholder gives in so short a time. Wait, then go on."
    BUSY = 2203, "The keyholder is computing as many shares as it may. Try again in a moment."
    LEDGER_STALE = 2204, "The last block's time is too far from this clock to judge by. Try again when blocks are made."
    TICKET_UNKNOWN = 2205, "The keyholder's ledger has no such ticket yet. Try again in a moment, or request one."
    NOT_THE_REQUESTER = 2206, "This ticket was given to somebody else. Request your own."
    TICKET_REFUSED = 2207, "This ticket was refused. The ticket names the check that failed."
    TICKET_REVOKED = 2208, "This ticket was revoked."
    TICKET_EXPIRED = 2209, "This ticket has expired. Request a new one."
    NO_LONGER_ALLOWED = 2210, "What allowed this ticket has ended since, or your key has changed. Request a new one."
    PSEUDONYMS_ONLY = 2211, "For research no record is opened: ask the custodian for the study's pseudonymised view."
    NO_SHARE = 2212, "This organisation has no share of the consortium key's present epoch. Ask the other keyholders."
    RECORD_REPEATED = 2213, "A record is named twice. Name it once."
    RECORD_UNKNOWN = 2214, "The ledger has no such record of this patient, or not in this version, or it was erased."
    OUTSIDE_SCOPE = 2215, "The ticket does not cover this record."
    NOT_SEALED = 2216, "This version of the record is not sealed. Ask its custodian's gatekeeper."
    CAPSULE_NOT_ANCHORED = 2217, "This is not the capsule that the ledger names. Take the one in the record's object."
    CAPSULE_UNSOUND = 2218, "The capsule's proof does not hold for this record's label. Report who wrote the record."
    BLINDING_REPEATED = 2219, "Two records have the same blinding. Make a fresh one for every record."
    BLINDING_UNSOUND = (
        2220,
        "The blinding's proof does not hold for you, this ticket and this record. Make a fresh one.",
    )
    BLINDED_TO_NOTHING = 2221, "The blinding undoes the capsule. Make a fresh one."
    KEY_UNUSABLE = 2222, "Nothing can be sealed to the reading key your ticket names. Enrol with a sound key."


class SharesRefused(Rejected):
    """A refused request for shares: the code, and which record it is about where that is known."""

    def __init__(self, code: KeyholderCode, *, record_id: bytes | None = None) -> None:
        super().__init__(code)
        self.record_id = record_id


# --- messages -------------------------------------------------------------------------------------------


class ShareItem(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One version of one record, its capsule's bytes, and a blinding for this ticket, record and requester alone."""

    record: RecordId
    version: U32
    capsule: Annotated[bytes, Meta(max_length=CAPSULE_SIZE_BYTES)]
    blinding: Blinding


class SharesRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a requester sends: all of it is answered, or nothing."""

    ticket: TicketId
    items: Annotated[tuple[ShareItem, ...], Meta(min_length=1, max_length=SHARES_PER_REQUEST)]


class SharesAnswer(Struct, frozen=True, kw_only=True):
    """What a keyholder answers: its epoch, the block whose state allowed it, and the shares, sealed to the ticket."""

    epoch: U32
    height: U63
    sealed: Annotated[bytes, Meta(max_length=SHARES_REQUEST_BYTES)]


class SignedShare(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A share and the keyholder's signature under it: enough to convict whoever made a false one."""

    statement: ShareStatement
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


_Shares = Annotated[tuple[SignedShare, ...], Meta(max_length=SHARES_PER_REQUEST)]
_requests: Final = msgspec.msgpack.Decoder(SharesRequest)
_answers: Final = msgspec.msgpack.Decoder(SharesAnswer)
_shares: Final = msgspec.msgpack.Decoder(_Shares)
_encoder: Final = msgspec.msgpack.Encoder()


def decode_request(data: bytes) -> SharesRequest:
    """A request from msgpack; raises :class:`SharesRefused`."""
    try:
        return _requests.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise SharesRefused(KeyholderCode.REQUEST_MALFORMED) from None


def seal_shares(
    shares: Sequence[SignedShare],
    *,
    chain_id: str,
    ticket_id: bytes,
    requester: bytes,
    epoch: int,
    hpke_key: bytes,
    entropy: Callable[[int], bytes],
) -> bytes:
    """The shares for the holder of the ticket's key alone; raises ``ValueError`` where that key is not usable."""
    info = _info(chain_id, ticket_id, requester, epoch)
    return seal_large(hpke_key, info=info, plaintext=encode(tuple(shares)), entropy=entropy)


def open_shares(
    answer: SharesAnswer, *, chain_id: str, ticket_id: bytes, requester: bytes, private_key: HpkePrivateKey
) -> tuple[SignedShare, ...]:
    """What :func:`seal_shares` was given; nothing in it is checked yet.

    Raises :class:`~carechain.sealing.hpke.CannotOpen`, and :class:`~carechain.core.codec.Malformed`.
    """
    info = _info(chain_id, ticket_id, requester, answer.epoch)
    opened = open_large(private_key, info=info, sealed=answer.sealed)
    if len(opened) > SHARES_REQUEST_BYTES:
        raise Malformed("more than any answer has")
    return decode_strict(_shares, opened)


def _info(chain_id: str, ticket_id: bytes, requester: bytes, epoch: int) -> bytes:
    return tagged("carechain/shares/1", chain_id.encode(), ticket_id, requester, epoch.to_bytes(4, "big"))


# --- asking ---------------------------------------------------------------------------------------------


class Keyholder(Protocol):
    """One keyholder as a requester sees it."""

    @property
    def party(self) -> bytes:
        """Whose it is: the member's id."""

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        """Ask it; raises ``Rejected`` or ``Refused`` with its reason, :class:`Unreachable` where it does not answer."""


class KeyholderClient:
    """One party at one keyholder over HTTP, within its session at the organisation's door.

    Refusals are raised as they were made: :class:`SharesRefused` with its :class:`KeyholderCode`, ``Refused`` for what
    else the server says. Neither the connection nor its failures name any content.
    """

    def __init__(self, http: httpx.AsyncClient, session: DoorSession, *, holder: bytes) -> None:
        """``http`` has the address of the keyholder's door as its base URL and stays the caller's to close."""
        self.party: Final = holder
        self._http = http
        self._session = session

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        """Ask for shares; signs in again once if the server has forgotten the session."""
        try:
            return await self._ask(request)
        except Refused as refused:
            if refused.code != AuthCode.SESSION_UNKNOWN:
                raise
        self._session.ended()
        return await self._ask(request)

    async def _ask(self, request: SharesRequest) -> SharesAnswer:
        try:
            token = await self._session.token()
        except SignInRefused as no:
            raise no.refused from None
        except VaultUnavailable as lost:
            raise Unreachable(str(lost)) from None
        data = await self._post(SHARES_PATH, _encoder.encode(request), {"authorization": f"Bearer {token}"})
        try:
            return _answers.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unreachable("the answer is not a keyholder's") from None

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        data = bytearray()
        try:
            async with self._http.stream(
                "POST", path, content=body, headers={"content-type": MSGPACK, **headers}
            ) as response:
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > 2 * SHARES_REQUEST_BYTES:
                        raise Unreachable("the answer is larger than any answer may be")
        except httpx.HTTPError as error:
            raise Unreachable(type(error).__name__) from None
        if response.status_code != _OK:
            raise _as_made(refusal_in(response, bytes(data)), bytes(data))
        return bytes(data)


class _About(Struct):
    record: Annotated[str, Meta(max_length=64)] | None = None


def _as_made(refused: Refused, data: bytes) -> Exception:
    """A keyholder's own refusal with its code and record; anything else stays what it was."""
    known = {int(code): code for code in KeyholderCode}
    if refused.code not in known:
        return refused
    try:
        record = msgspec.json.decode(data, type=_About).record
        return SharesRefused(known[refused.code], record_id=None if record is None else bytes.fromhex(record))
    except (msgspec.MsgspecError, ValueError):
        return SharesRefused(known[refused.code])
