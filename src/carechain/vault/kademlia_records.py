"""What travels between the nodes of the distributed store: records signed by the member that stores them.

A record is found by an address. A ``PIECE`` is believed because its address is the hash of its body. A ``ROOT`` says of
which pieces an object larger than one piece consists; its address is the object's, so it is only as good as who signed
it until the whole object was hashed. ``GONE`` takes back what the same member stored under this address before.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import BadSignature, SigningKey, verify
from carechain.core.hashing import HASH_SIZE, tagged
from carechain.core.ids import U63, Hash, Id, PartyId
from carechain.core.limits import CLOCK_SKEW_S, DHT_OBJECT_BYTES, DHT_PIECE_BYTES, DHT_ROOT_HASHES, SIGNATURE_SIZE
from carechain.vault.base import Hashing

KEY_SIZE: Final = 20
"""The routing of the library goes by 160 bits."""
FAN: Final = DHT_PIECE_BYTES // HASH_SIZE
"""Hashes in one index piece."""


class BadRecord(Exception):  # noqa: N818 - names what is wrong with the bytes
    """Not a record, not of this network, or signed by nobody who may store here."""


class SignerKey(NamedTuple):
    """The key of a member that may store records."""

    suite: int
    public_key: bytes


Signers = Callable[[bytes], SignerKey | None]
"""The key of a member by its party id; None for everybody who may not store."""


class Kind(IntEnum):
    """What a record is."""

    PIECE = 1
    ROOT = 2
    GONE = 3


class Record(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One signed record; ``time_s`` is the signer's clock and the newer one holds."""

    kind: Kind
    address: Id
    body: Annotated[bytes, Meta(max_length=DHT_PIECE_BYTES)]
    signer: PartyId
    time_s: U63
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class Root(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """An object of ``size`` bytes: the hashes of its pieces (depth 0), or of pieces that hold those (depth 1)."""

    size: Annotated[int, Meta(gt=DHT_PIECE_BYTES, le=DHT_OBJECT_BYTES)]
    depth: Annotated[int, Meta(ge=0, le=1)]
    hashes: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=DHT_ROOT_HASHES)]

    def pieces(self) -> int:
        """Of how many pieces the object consists."""
        return -(-self.size // DHT_PIECE_BYTES)

    def is_well_formed(self) -> bool:
        """Whether there are as many hashes as an object of this size needs."""
        pieces = self.pieces()
        needed = pieces if self.depth == 0 else -(-pieces // FAN)
        return len(self.hashes) == needed


_records: Final = msgspec.msgpack.Decoder(Record)
_roots: Final = msgspec.msgpack.Decoder(Root)


def key_of(address: bytes) -> bytes:
    """Where in the network a record belongs: 20 bytes that follow from its address."""
    return tagged("carechain/vault-key/1", address)[:KEY_SIZE]


def node_id_of(party: bytes, number: int) -> bytes:
    """A node's place in the network: it follows from the member that runs it, which so cannot choose its neighbours."""
    return tagged("carechain/vault-node/1", party, bytes([number]))[:KEY_SIZE]


def sign_record(
    key: SigningKey, *, network: str, kind: Kind, address: bytes, body: bytes, signer: bytes, time_s: int
) -> bytes:
    """A record's bytes, signed for one network."""
    signature = key.sign(_message(network, kind, address, body, signer, time_s))
    return encode(Record(kind=kind, address=address, body=body, signer=signer, time_s=time_s, signature=signature))


def read_record(
    raw: bytes, *, network: str, key: bytes, signers: Signers, hashing: Hashing, now_s: int | None = None
) -> Record:
    """A record, if everything about it is as it must be; raises :class:`BadRecord`.

    ``key`` is where it was found or is to be stored. With ``now_s`` one that is dated into the future is refused: it
    could never be taken back.
    """
    try:
        record = decode_strict(_records, raw)
    except Malformed:
        raise BadRecord("form") from None
    if key_of(record.address) != key:
        raise BadRecord("place")
    if not _body_fits(record, hashing):
        raise BadRecord("body")
    if now_s is not None and record.time_s > now_s + CLOCK_SKEW_S:
        raise BadRecord("time")
    known = signers(record.signer)
    if known is None:
        raise BadRecord("signer")
    message = _message(network, record.kind, record.address, record.body, record.signer, record.time_s)
    try:
        verify(suite=known.suite, public_key=known.public_key, signature=record.signature, message=message)
    except BadSignature:
        raise BadRecord("signature") from None
    return record


def read_root(record: Record) -> Root:
    """What a root says; raises :class:`BadRecord`."""
    try:
        root = decode_strict(_roots, record.body)
    except Malformed:
        raise BadRecord("root") from None
    if not root.is_well_formed():
        raise BadRecord("root")
    return root


def stored_record(raw: bytes) -> Record:
    """A record that was checked before it was stored; raises :class:`BadRecord` when the disk changed it."""
    try:
        return decode_strict(_records, raw)
    except Malformed:
        raise BadRecord("form") from None


def _body_fits(record: Record, hashing: Hashing) -> bool:
    if record.kind is Kind.GONE:
        return not record.body
    if record.kind is Kind.PIECE:
        hasher = hashing()
        hasher.update(record.body)
        return hasher.digest() == record.address
    try:
        read_root(record)
    except BadRecord:
        return False
    return True


def _message(network: str, kind: int, address: bytes, body: bytes, signer: bytes, time_s: int) -> bytes:
    return tagged(
        "carechain/vault-record/1",
        network.encode(),
        bytes([kind]),
        address,
        body,
        signer,
        time_s.to_bytes(8, "big"),
    )
