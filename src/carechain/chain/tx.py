"""Transactions: ``[version, body, signature]``, kept as the exact bytes that were signed (DESIGN section 4)."""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.chain.routing import AnyMessage
from carechain.contracts.access import RequestAccess
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import SigningKey
from carechain.core.hashing import tagged
from carechain.core.ids import U8, U63, Nonce, PartyId
from carechain.core.limits import CHAIN_ID_CHARS, SIGNATURE_SIZE, TX_MESSAGES, TX_SIZE_BYTES
from carechain.core.message import Message
from carechain.core.rejection import Rejected, RejectionCode, require

VERSION: Final = 1
SIGNING_DOMAIN: Final = b"carechain/tx/1\x00"


class AdmissionCode(RejectionCode):
    """Why a transaction is not admitted: form and signature only, never policy. It changes nothing at all."""

    TOO_LARGE = 101, "A transaction has at most 64 KiB. Send fewer messages."
    MALFORMED = 102, "These are not the canonical bytes of a transaction."
    VERSION_UNKNOWN = 103, "This node does not know the transaction's version. Update the client or the node."
    WRONG_CHAIN = 104, "The transaction is for another network."
    SEVERAL_PSEUDONYMS = 105, "One transaction concerns one pseudonym, so that it links none."
    EXPIRED = 106, "The transaction's time has passed. Sign a new one."
    VALID_TOO_LONG = 107, "A transaction is valid for at most 10 minutes. Sign a new one."
    REPLAYED = 108, "This transaction is on the ledger already."
    REPLAY_WINDOW_FULL = 109, "The ledger remembers too many recent transactions. Wait a minute."
    UNKNOWN_SIGNER = 110, "The ledger does not know this signer."
    BAD_SIGNATURE = 111, "The signature does not hold for the signer's present key."
    TOO_MANY_REQUESTS = 112, "A transaction asks for access at most 8 times. Send several."
    NOT_IN_FORCE = 113, "The members have not voted this message in yet, or its height is still to come. Wait for it."


class Envelope(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The outer bytes: what is signed stays a byte string, so nothing is ever encoded again."""

    version: U8
    body: Annotated[bytes, Meta(max_length=TX_SIZE_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class Body(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is signed: the network, the signer, a nonce, an end of validity (block time), and the messages."""

    chain_id: Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]
    sender: PartyId
    nonce: Nonce
    valid_until_s: U63
    messages: Annotated[tuple[AnyMessage, ...], Meta(min_length=1, max_length=TX_MESSAGES)]


class Tx(Struct, frozen=True):
    """A decoded transaction. ``id`` covers the body only, so a second valid signature makes no second id."""

    raw: bytes
    id: bytes
    body_bytes: bytes
    body: Body
    signature: bytes


_envelopes = msgspec.msgpack.Decoder(Envelope)
_bodies = msgspec.msgpack.Decoder(Body)


def tx_id(body_bytes: bytes) -> bytes:
    """The id of a transaction: SHA-256 of a domain tag and the body."""
    return tagged("carechain/tx-id/1", body_bytes)


def parse(raw: bytes) -> Tx:
    """Decode a transaction strictly; raises :class:`Rejected` with an :class:`AdmissionCode`."""
    require(len(raw) <= TX_SIZE_BYTES, AdmissionCode.TOO_LARGE)
    try:
        envelope = decode_strict(_envelopes, raw)
    except Malformed:
        raise Rejected(AdmissionCode.MALFORMED) from None
    require(envelope.version == VERSION, AdmissionCode.VERSION_UNKNOWN)
    try:
        body = decode_strict(_bodies, envelope.body)
    except Malformed:
        raise Rejected(AdmissionCode.MALFORMED) from None
    return Tx(raw, tx_id(envelope.body), envelope.body, body, envelope.signature)


def pseudonyms_in(body: Body, pseudonym_of: Callable[[bytes], bytes | None]) -> int:
    """How many different pseudonyms the messages are about, by name or by a ticket that ``pseudonym_of`` looks up."""
    if len(body.messages) == 1:
        return 1
    found: set[bytes] = set()
    for msg in body.messages:
        ticket: bytes | None = getattr(msg, "ticket", None)
        pseudonym = getattr(msg, "pseudonym", None) if ticket is None else pseudonym_of(ticket)
        if pseudonym is not None:
            found.add(pseudonym)
    return len(found)


def requests_in(body: Body) -> int:
    """How many access requests the messages are: each walks the patient's consent, so few fit one transaction."""
    return sum(1 for msg in body.messages if isinstance(msg, RequestAccess))


def build(
    *,
    key: SigningKey,
    sender: bytes,
    chain_id: str,
    nonce: bytes,
    valid_until_s: int,
    messages: tuple[Message, ...],
) -> bytes:
    """Encode and sign a transaction: the bytes to submit."""
    body = encode(Body(chain_id, sender, nonce, valid_until_s, messages))
    return encode(Envelope(VERSION, body, key.sign(SIGNING_DOMAIN + body)))
