"""The sealed summary: a patient's whole set of relations, on the ledger, readable by the wallet alone (REC-6, ID-8).

A copy is stored under every pseudonym. Whoever has the seed finds all relations again from the network: derive the
pseudonyms of each organisation, look which of them exist, open what they hold.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import Suite
from carechain.core.hashing import tagged
from carechain.core.ids import U32
from carechain.core.limits import SUMMARY_BUCKET_BYTES, SUMMARY_SIZE_BYTES, WALLET_RECOVERY_GAP, WALLET_RELATIONS
from carechain.core.rejection import Rejected, require
from carechain.sdk.keyfile import WalletCode
from carechain.sdk.wallet import FirstRelation, Relation, Wallet
from carechain.sealing import symmetric
from carechain.sealing.symmetric import GCM_NONCE_SIZE, TAG_SIZE, CannotOpen

_VERSION: Final = b"\x01"
_HEADER_SIZE: Final = len(_VERSION) + GCM_NONCE_SIZE
_OVERHEAD_BYTES: Final = _HEADER_SIZE + TAG_SIZE


class Summary(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """All relations of one wallet at one revision."""

    revision: U32
    relations: Annotated[tuple[Relation, ...], Meta(max_length=WALLET_RELATIONS)]


class Recovery(Struct, frozen=True, kw_only=True):
    """A wallet found again, and the pseudonyms whose stored summary this wallet could not open."""

    wallet: Wallet
    unreadable: tuple[bytes, ...]


class _FirstSummary(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A summary of before keys could be changed, as it may still lie on the ledger."""

    revision: U32
    relations: Annotated[tuple[FirstRelation, ...], Meta(max_length=WALLET_RELATIONS)]


_decoder = msgspec.msgpack.Decoder(Summary)
_first_decoder = msgspec.msgpack.Decoder(_FirstSummary)


def seal_summary(wallet: Wallet, pseudonym: bytes, nonce: bytes) -> bytes:
    """The summary as the ledger keeps it under ``pseudonym``: version 0x01 ‖ nonce ‖ ciphertext and tag.

    Its length is a whole number of ``SUMMARY_BUCKET_BYTES``, so it hardly tells how many relations there are.
    ``nonce`` is 12 fresh random bytes, another one for every copy. Raises ``SUMMARY_TOO_LARGE``.
    """
    plaintext = encode(Summary(revision=wallet.revision, relations=wallet.relations))
    padded = symmetric.pad(plaintext, bucket_bytes=SUMMARY_BUCKET_BYTES, overhead_bytes=_OVERHEAD_BYTES)
    require(len(padded) + _OVERHEAD_BYTES <= SUMMARY_SIZE_BYTES, WalletCode.SUMMARY_TOO_LARGE)
    context = _context(wallet.chain_id, pseudonym)
    sealed = symmetric.seal(wallet.summary_key(), nonce=nonce, plaintext=padded, context=context)
    return _VERSION + nonce + sealed


def open_summary(wallet: Wallet, pseudonym: bytes, sealed: bytes) -> Summary:
    """What :func:`seal_summary` was given; raises ``SUMMARY_UNREADABLE``."""
    header, body = sealed[:_HEADER_SIZE], sealed[_HEADER_SIZE:]
    fits = len(header) == _HEADER_SIZE and header.startswith(_VERSION) and len(sealed) <= SUMMARY_SIZE_BYTES
    require(fits, WalletCode.SUMMARY_UNREADABLE)
    nonce = header[len(_VERSION) :]
    context = _context(wallet.chain_id, pseudonym)
    try:
        padded = symmetric.open_sealed(wallet.summary_key(), nonce=nonce, sealed=body, context=context)
        return _decode(symmetric.unpad(padded))
    except (CannotOpen, Malformed):
        raise Rejected(WalletCode.SUMMARY_UNREADABLE) from None


def _decode(plaintext: bytes) -> Summary:
    try:
        return decode_strict(_decoder, plaintext)
    except Malformed:
        first = decode_strict(_first_decoder, plaintext)
        return Summary(revision=first.revision, relations=tuple(one.relation() for one in first.relations))


def recover(
    seed: bytes,
    *,
    chain_id: str,
    organisations: Iterable[bytes],
    exists: Callable[[bytes], bytes | None],
    suite: Suite = Suite.ED25519,
    adopted: Iterable[bytes] = (),
) -> Recovery:
    """Find a wallet's relations again from its seed and what the ledger answers.

    ``exists(pseudonym)`` gives None for an unknown pseudonym, and otherwise its sealed summary (empty when none was
    stored). At each organisation counters are tried upward until ``WALLET_RECOVERY_GAP`` unused ones follow each other.
    The newest summary gives labels and dates, and relations with organisations that were not asked for; a relation
    that the ledger does not know is not taken over. A relation without any summary is recovered without its label.

    A pseudonym that the wallet adopted does not follow from the seed: it is found by a summary, under another
    pseudonym or under one of ``adopted``, whose ids the organisations know. Which generation of its keys is in use the
    summary says; :meth:`~carechain.sdk.wallet.Wallet.generation_of` compares it with the ledger.
    """
    empty = Wallet(seed=seed, chain_id=chain_id, suite=suite)
    found, summaries, unreadable = _search(empty, organisations, exists)
    for pseudonym in adopted:
        _open_into(summaries, unreadable, empty, pseudonym, exists(pseudonym))
    newest_last = sorted(summaries, key=lambda one: one.revision)
    for summary in newest_last:
        for relation in summary.relations:
            place = (relation.organisation, relation.counter)
            if relation.pseudonym == empty.keys_of(relation).id and (
                place in found or exists(relation.pseudonym) is not None
            ):
                found[place] = relation
    require(len(found) <= WALLET_RELATIONS, WalletCode.TOO_MANY_RELATIONS)
    wallet = Wallet(
        seed=seed,
        chain_id=chain_id,
        suite=suite,
        revision=newest_last[-1].revision if newest_last else len(found),
        relations=tuple(sorted(found.values(), key=lambda one: (one.since_day, one.organisation, one.counter))),
    )
    return Recovery(wallet=wallet, unreadable=tuple(unreadable))


def _search(
    wallet: Wallet, organisations: Iterable[bytes], exists: Callable[[bytes], bytes | None]
) -> tuple[dict[tuple[bytes, int], Relation], list[Summary], list[bytes]]:
    found: dict[tuple[bytes, int], Relation] = {}
    summaries: list[Summary] = []
    unreadable: list[bytes] = []
    for organisation in organisations:
        counter = unused = 0
        while unused < WALLET_RECOVERY_GAP and len(found) < WALLET_RELATIONS:
            pseudonym = wallet.pseudonym(organisation, counter).id
            sealed = exists(pseudonym)
            unused = unused + 1 if sealed is None else 0
            if sealed is not None:
                found[organisation, counter] = Relation(
                    organisation=organisation, counter=counter, pseudonym=pseudonym, label="", since_day=0
                )
            _open_into(summaries, unreadable, wallet, pseudonym, sealed)
            counter += 1
    return found, summaries, unreadable


def _open_into(
    summaries: list[Summary], unreadable: list[bytes], wallet: Wallet, pseudonym: bytes, sealed: bytes | None
) -> None:
    if sealed:
        try:
            summaries.append(open_summary(wallet, pseudonym, sealed))
        except Rejected:
            unreadable.append(pseudonym)


def _context(chain_id: str, pseudonym: bytes) -> bytes:
    return tagged("carechain/summary/1", chain_id.encode(), pseudonym)
