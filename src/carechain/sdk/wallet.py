"""A patient's wallet: one seed, and one pseudonym for every organisation (ID-3, ID-8).

All keys come from the 32-byte seed by HKDF-SHA256 (RFC 5869), each under a label and its whole context, so that the
seed alone restores every pseudonym. Two pseudonyms of one wallet share nothing that anybody else can see.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta, Struct
from msgspec.structs import replace

from carechain.core.binding import binding_message
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import SEED_SIZE, SigningKey, Suite
from carechain.core.ids import U32, PartyId, party_id
from carechain.core.limits import CHAIN_ID_CHARS, ID_SIZE, KEY_LABEL_CHARS, WALLET_RELATIONS
from carechain.core.rejection import Rejected, require
from carechain.core.scope import Day
from carechain.sdk.keyfile import (
    Entropy,
    WalletCode,
    check_label,
    decode_key_file,
    encode_key_file,
    read_bounded,
    write_private_file,
)
from carechain.sealing.hpke import X25519_KEY_SIZE, HpkePrivateKey
from carechain.sealing.symmetric import KEY_SIZE, ScryptCost

__all__ = ["Entropy", "Pseudonym", "Relation", "Wallet", "WalletCode", "binding_proof", "derive_pseudonym"]

_PSEUDONYM_LABEL: Final = b"carechain/pseudonym/1"
_SUMMARY_LABEL: Final = b"carechain/summary-key/1"

Seed = Annotated[bytes, Meta(min_length=SEED_SIZE, max_length=SEED_SIZE)]
Label = Annotated[str, Meta(max_length=KEY_LABEL_CHARS)]
ChainId = Annotated[str, Meta(min_length=1, max_length=CHAIN_ID_CHARS)]


class Pseudonym(Struct, frozen=True, kw_only=True):
    """The patient toward one organisation: an id and the two private keys behind it. Its repr shows no secret."""

    id: PartyId
    organisation: PartyId
    counter: int
    signing: SigningKey
    hpke: HpkePrivateKey


class Relation(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What the wallet notes about one pseudonym. ``label`` is for the patient's eyes and never leaves the wallet."""

    organisation: PartyId
    counter: U32
    pseudonym: PartyId
    label: Label
    since_day: Day


class Wallet(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A seed and the relations made with it; immutable, so every change is a new wallet to save.

    ``revision`` counts changes: of two summaries the one with the higher revision is newer.
    """

    seed: Seed
    chain_id: ChainId
    suite: Suite = Suite.ED25519
    revision: U32 = 0
    relations: Annotated[tuple[Relation, ...], Meta(max_length=WALLET_RELATIONS)] = ()

    def __repr__(self) -> str:
        return f"Wallet(chain_id={self.chain_id!r}, relations={len(self.relations)})"

    def pseudonym(self, organisation: bytes, counter: int = 0) -> Pseudonym:
        """The keys toward ``organisation``; ``counter`` tells several pseudonyms at one organisation apart."""
        return derive_pseudonym(
            self.seed, chain_id=self.chain_id, suite=self.suite, organisation=organisation, counter=counter
        )

    def keys_of(self, relation: Relation) -> Pseudonym:
        """The keys of a noted relation."""
        return self.pseudonym(relation.organisation, relation.counter)

    def at(self, organisation: bytes) -> tuple[Relation, ...]:
        """The relations with one organisation, oldest first."""
        return tuple(one for one in self.relations if one.organisation == organisation)

    def with_relation(self, organisation: bytes, *, label: str, since_day: int) -> tuple["Wallet", Relation]:
        """This wallet with one more pseudonym at ``organisation``, and that relation.

        The counter is the next unused one. Raises :class:`~carechain.core.rejection.Rejected`.
        """
        check_label(label)
        require(len(self.relations) < WALLET_RELATIONS, WalletCode.TOO_MANY_RELATIONS)
        counter = max((one.counter + 1 for one in self.at(organisation)), default=0)
        relation = Relation(
            organisation=organisation,
            counter=counter,
            pseudonym=self.pseudonym(organisation, counter).id,
            label=label,
            since_day=since_day,
        )
        return replace(self, revision=self.revision + 1, relations=(*self.relations, relation)), relation

    def summary_key(self) -> bytes:
        """The 32-byte key of the sealed summary (REC-6): apart from all signing and reading keys."""
        return _expand(self.seed, _SUMMARY_LABEL + self.chain_id.encode(), KEY_SIZE)

    def to_bytes(self, *, password: str, entropy: Entropy, cost: ScryptCost | None = None) -> bytes:
        """The wallet as an encrypted key file."""
        return encode_key_file(encode(self), kind="wallet", password=password, entropy=entropy, cost=cost)

    @staticmethod
    def from_bytes(data: bytes, *, password: str) -> "Wallet":
        """A wallet from a key file's bytes; raises :class:`~carechain.core.rejection.Rejected`."""
        payload = decode_key_file(data, kind="wallet", password=password)
        try:
            return decode_strict(_decoder, payload)
        except Malformed:
            raise Rejected(WalletCode.FILE_DAMAGED) from None

    def save(
        self,
        path: Path,
        *,
        password: str,
        entropy: Entropy,
        replace_existing: bool = False,
        cost: ScryptCost | None = None,
    ) -> None:
        """Write the key file with mode 0600, atomically; a first save refuses to overwrite."""
        data = self.to_bytes(password=password, entropy=entropy, cost=cost)
        write_private_file(path, data, replace=replace_existing)

    @staticmethod
    def load(path: Path, *, password: str) -> "Wallet":
        """Read a wallet; raises ``Rejected`` for what is wrong with it and ``OSError`` when it cannot be read."""
        return Wallet.from_bytes(read_bounded(path), password=password)


_decoder = msgspec.msgpack.Decoder(Wallet)


def derive_pseudonym(seed: bytes, *, chain_id: str, suite: Suite, organisation: bytes, counter: int) -> Pseudonym:
    """Derive the signing and the HPKE key of one patient–organisation pair; raises ``ValueError`` on wrong sizes.

    ``HKDF(seed, info = label ‖ suite ‖ chain id ‖ organisation ‖ counter)`` gives 64 bytes: signing seed, HPKE seed.
    All parts but the chain id have a fixed width, so two contexts never share one info.
    """
    if len(seed) != SEED_SIZE or len(organisation) != ID_SIZE:
        raise ValueError("a seed and an organisation id are 32 bytes")
    info = _PSEUDONYM_LABEL + bytes([suite]) + chain_id.encode() + organisation + counter.to_bytes(4, "big")
    secrets = _expand(seed, info, SEED_SIZE + X25519_KEY_SIZE)
    signing = SigningKey(suite=suite, seed=secrets[:SEED_SIZE])
    return Pseudonym(
        id=party_id(suite, signing.public_key),
        organisation=organisation,
        counter=counter,
        signing=signing,
        hpke=HpkePrivateKey(secrets[SEED_SIZE:]),
    )


def binding_proof(pseudonym: Pseudonym, *, chain_id: str, id_hash: bytes, number: int = 0) -> bytes:
    """The pseudonym's signature that lets the registrar of its organisation bind it to ``id_hash`` (ID-3).

    ``number`` is 0 for a new pseudonym. To come back after leaving, sign the relation's ``proofs_used`` (the query
    ``relationships.relation``); the registrar's message carries the same number.
    """
    return pseudonym.signing.sign(
        binding_message(
            chain_id=chain_id,
            organisation=pseudonym.organisation,
            id_hash=id_hash,
            suite=pseudonym.signing.suite,
            public_key=pseudonym.signing.public_key,
            hpke_key=pseudonym.hpke.public_key,
            number=number,
        )
    )


def new_wallet(*, chain_id: str, entropy: Entropy, suite: Suite = Suite.ED25519) -> Wallet:
    """An empty wallet with a fresh seed."""
    return Wallet(seed=entropy(SEED_SIZE), chain_id=chain_id, suite=suite)


def _expand(seed: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(seed)
