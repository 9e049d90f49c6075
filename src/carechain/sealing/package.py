"""What a gatekeeper hands out: records sealed to one requester under one ticket (KEY-2, REC-2; ARCHITECTURE step 6).

Every resource travels as the exact bytes the custodian received, with the salt and the Merkle path that lead to the
root on the ledger, so the requester needs to believe nobody. The recipient's key and the context (chain, ticket,
requester) are bound by HPKE; who sealed it needs no proof, because only the anchored bytes pass the check.

Layout of the plaintext (positional msgpack, :mod:`carechain.core.codec`)::

    [ticket_id, [[record_id, version, count, [[index, salt, content, [hash, ...]], ...]], ...]]
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.core import merkle
from carechain.core.codec import decode_strict, encode
from carechain.core.commitment import resource_leaf
from carechain.core.hashing import tagged
from carechain.core.ids import U32, Hash, RecordId, TicketId
from carechain.core.limits import GATEKEEPER_RECORDS, GATEKEEPER_RESPONSE_BYTES, RESOURCES_PER_RECORD
from carechain.core.suite import Institution
from carechain.sealing.hpke import LARGE_OVERHEAD_BYTES, CannotOpen, HpkePrivateKey, open_large, seal_large

SALT_SIZE: Final = 32
MERKLE_PATH_HASHES: Final = (RESOURCES_PER_RECORD - 1).bit_length()
"""The longest audit path of a record with ``RESOURCES_PER_RECORD`` resources."""

Salt = Annotated[bytes, Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]
Path = Annotated[tuple[Hash, ...], Meta(max_length=MERKLE_PATH_HASHES)]
Count = Annotated[int, Meta(ge=1, le=RESOURCES_PER_RECORD)]


class PackageTooLarge(Exception):  # noqa: N818 - names what is wrong with the argument
    """The records do not fit one answer; the gatekeeper has to serve fewer at a time."""


class SealedResource(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One resource: its place in the record, its salt, its received bytes and its audit path."""

    index: U32
    salt: Salt
    content: bytes
    path: Path

    def __repr__(self) -> str:
        return f"SealedResource(index={self.index}, size={len(self.content)})"


class SealedRecord(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """One version of one record; ``count`` is how many resources the anchored tree has."""

    record_id: RecordId
    version: U32
    count: Count
    resources: Annotated[tuple[SealedResource, ...], Meta(max_length=RESOURCES_PER_RECORD)]


class SealedRecords(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A gatekeeper's whole answer to one read under one ticket."""

    ticket_id: TicketId
    records: Annotated[tuple[SealedRecord, ...], Meta(max_length=GATEKEEPER_RECORDS)]


_decoder = msgspec.msgpack.Decoder(SealedRecords)


def seal_record(
    *,
    record_id: bytes,
    version: int,
    resources: Sequence[tuple[bytes, bytes]],
    institution: Institution = Institution.INTERNATIONAL,
) -> SealedRecord:
    """A record with the paths of all its resources, given as ``(salt, content)`` in the order of the anchor."""
    paths = merkle.prove_all([resource_leaf(salt, content, institution) for salt, content in resources])
    return SealedRecord(
        record_id=record_id,
        version=version,
        count=len(resources),
        resources=tuple(
            SealedResource(index=index, salt=salt, content=content, path=tuple(paths[index]))
            for index, (salt, content) in enumerate(resources)
        ),
    )


def package_info(*, chain_id: str, ticket_id: bytes, requester: bytes) -> bytes:
    """The 32 bytes of HPKE ``info`` for an answer: it opens only as this ticket's answer to this requester."""
    return tagged("carechain/records/1", chain_id.encode(), ticket_id, requester)


def build_package(
    *,
    chain_id: str,
    ticket_id: bytes,
    requester: bytes,
    requester_hpke_key: bytes,
    records: Sequence[SealedRecord],
    entropy: Callable[[int], bytes],
) -> bytes:
    """Seal records to the requester named by a committed ticket.

    ``requester`` is the ticket's party id and ``requester_hpke_key`` the 32-byte X25519 key the ticket names;
    ``entropy(n)`` gives ``n`` fresh random bytes. Raises :class:`PackageTooLarge`, and ``ValueError`` when the key
    is not a usable X25519 key.
    """
    if len(records) > GATEKEEPER_RECORDS:
        raise PackageTooLarge
    plaintext = encode(SealedRecords(ticket_id=ticket_id, records=tuple(records)))
    if len(plaintext) > GATEKEEPER_RESPONSE_BYTES:
        raise PackageTooLarge
    info = package_info(chain_id=chain_id, ticket_id=ticket_id, requester=requester)
    return seal_large(requester_hpke_key, info=info, plaintext=plaintext, entropy=entropy)


def unseal_package(
    sealed: bytes, *, chain_id: str, ticket_id: bytes, requester: bytes, private_key: HpkePrivateKey
) -> SealedRecords:
    """Decrypt and decode an answer without judging its content; use :mod:`carechain.sdk.opening` to verify it.

    Raises :class:`~carechain.sealing.hpke.CannotOpen` for a wrong key or context or altered bytes, and
    :class:`~carechain.core.codec.Malformed` when the plaintext is not a package. Which ticket and which records the
    plaintext names is for the caller to check.
    """
    if len(sealed) > GATEKEEPER_RESPONSE_BYTES + LARGE_OVERHEAD_BYTES:
        raise CannotOpen
    info = package_info(chain_id=chain_id, ticket_id=ticket_id, requester=requester)
    return decode_strict(_decoder, open_large(private_key, info=info, sealed=sealed))
