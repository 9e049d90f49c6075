"""Identifiers: 32-byte hashes, checked for length wherever bytes come in."""

from typing import Annotated

from msgspec import Meta

from carechain.core.hashing import tagged
from carechain.core.limits import ID_SIZE, NONCE_SIZE

Id = Annotated[bytes, Meta(min_length=ID_SIZE, max_length=ID_SIZE)]
PartyId = Id
"""Anyone with a key: a member, staff, a patient pseudonym, a representative, a service."""
GrantId = Id
RequestId = Id
RecordId = Id
TicketId = Id
ProposalId = Id
TxId = Id
Hash = Id
Nonce = Annotated[bytes, Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U63 = Annotated[int, Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]


def party_id(suite: int, public_key: bytes) -> bytes:
    """A party's id: the hash of its first signing key. It stays when the key is rotated."""
    return tagged("carechain/party/1", bytes([suite]), public_key)


def derived_id(kind: str, tx_id: bytes, index: int) -> bytes:
    """The id of something a message creates (a grant, a request, a ticket): unique per message."""
    return tagged(f"carechain/{kind}/1", tx_id, index.to_bytes(2, "big"))
