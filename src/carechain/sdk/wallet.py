"""A patient's wallet: one seed, and one pseudonym for every organisation (ID-3, ID-8).

All keys come from the 32-byte seed by HKDF-SHA256 (RFC 5869), each under a label and its whole context, so that the
seed alone restores every pseudonym. Two pseudonyms of one wallet share nothing that anybody else can see.

A pseudonym's id is made from its first key and stays when the key is changed. Later keys are counted by generation,
and a wallet can adopt a pseudonym that another wallet made: after the recovery of a lost key (ID-7).
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
from carechain.core.limits import CHAIN_ID_CHARS, ID_SIZE, KEY_LABEL_CHARS, WALLET_GENERATIONS, WALLET_RELATIONS
from carechain.core.rejection import Rejected, present, require
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
_ADOPTED_LABEL: Final = b"carechain/adopted/1"
_SUMMARY_LABEL: Final = b"carechain/summary-key/1"
_CARDS_LABEL: Final = b"carechain/recovery-secret/1"

CARD_SECRET_SIZE: Final = 16
"""Bytes that recovery cards share out: as strong as the keys made from it, and 20 words on each card."""

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
    """What the wallet notes about one pseudonym. ``label`` is for the patient's eyes and never leaves the wallet.

    ``generation`` 0 is the key that the pseudonym's id was made from. Later ones follow from the seed and the id.
    """

    organisation: PartyId
    counter: U32
    pseudonym: PartyId
    label: Label
    since_day: Day
    generation: U32 = 0


class Wallet(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A seed and the relations made with it; immutable, so every change is a new wallet to save.

    ``revision`` counts changes: of two summaries the one with the higher revision is newer. ``cards`` is the number of
    the set of recovery cards that is in use (0: none).
    """

    seed: Seed
    chain_id: ChainId
    suite: Suite = Suite.ED25519
    revision: U32 = 0
    relations: Annotated[tuple[Relation, ...], Meta(max_length=WALLET_RELATIONS)] = ()
    cards: U32 = 0

    def __repr__(self) -> str:
        return f"Wallet(chain_id={self.chain_id!r}, relations={len(self.relations)})"

    def pseudonym(self, organisation: bytes, counter: int = 0) -> Pseudonym:
        """The keys toward ``organisation``; ``counter`` tells several pseudonyms at one organisation apart."""
        return derive_pseudonym(
            self.seed, chain_id=self.chain_id, suite=self.suite, organisation=organisation, counter=counter
        )

    def keys_of(self, relation: Relation) -> Pseudonym:
        """The keys of a noted relation, of its generation."""
        if not relation.generation:
            return self.pseudonym(relation.organisation, relation.counter)
        return derive_adopted(self.seed, chain_id=self.chain_id, suite=self.suite, relation=relation)

    def at(self, organisation: bytes) -> tuple[Relation, ...]:
        """The relations with one organisation, oldest first."""
        return tuple(one for one in self.relations if one.organisation == organisation)

    def of(self, pseudonym: bytes) -> Relation | None:
        """The relation under this pseudonym."""
        return next((one for one in self.relations if one.pseudonym == pseudonym), None)

    def with_relation(self, organisation: bytes, *, label: str, since_day: int) -> tuple["Wallet", Relation]:
        """This wallet with one more pseudonym at ``organisation``, and that relation.

        The counter is the next unused one. Raises :class:`~carechain.core.rejection.Rejected`.
        """
        counter = self._next_counter(organisation)
        pseudonym = self.pseudonym(organisation, counter).id
        return self._with(
            Relation(organisation=organisation, counter=counter, pseudonym=pseudonym, label=label, since_day=since_day)
        )

    def with_adopted(
        self, organisation: bytes, pseudonym: bytes, *, label: str = "", since_day: int = 0
    ) -> tuple["Wallet", Relation]:
        """This wallet with keys for a pseudonym that another wallet made, and that relation.

        They count once the ledger has taken them over. A pseudonym that is adopted already stays as it is, so that a
        recovery that was interrupted goes on with the same keys. Raises ``PSEUDONYM_OWN`` for one of this wallet's own.
        """
        known = self.of(pseudonym)
        if known is not None:
            require(known.generation, WalletCode.PSEUDONYM_OWN)
            return self, known
        return self._with(
            Relation(
                organisation=organisation,
                counter=self._next_counter(organisation),
                pseudonym=pseudonym,
                label=label,
                since_day=since_day,
                generation=1,
            )
        )

    def with_generation(self, pseudonym: bytes, generation: int) -> tuple["Wallet", Relation]:
        """This wallet with another generation of a pseudonym's keys; raises ``RELATION_UNKNOWN``."""
        known = present(self.of(pseudonym), WalletCode.RELATION_UNKNOWN)
        changed = replace(known, generation=generation)
        relations = tuple(changed if one == known else one for one in self.relations)
        return replace(self, revision=self.revision + 1, relations=relations), changed

    def generation_of(self, relation: Relation, public_key: bytes) -> int | None:
        """Which generation of a relation's keys has this public key: what the ledger says is the present one.

        None where the key is not this wallet's, or too many generations on.
        """
        for generation in range(WALLET_GENERATIONS):
            if self.keys_of(replace(relation, generation=generation)).signing.public_key == public_key:
                return generation
        return None

    def with_cards(self) -> "Wallet":
        """This wallet with the next set of recovery cards in use."""
        return replace(self, revision=self.revision + 1, cards=self.cards + 1)

    def recovery_secret(self) -> bytes:
        """The 16 bytes that the present set of recovery cards shares out; apart from every other key."""
        return _expand(
            self.seed, _CARDS_LABEL + self.chain_id.encode() + self.cards.to_bytes(4, "big"), CARD_SECRET_SIZE
        )

    def _next_counter(self, organisation: bytes) -> int:
        return max((one.counter + 1 for one in self.at(organisation)), default=0)

    def _with(self, relation: Relation) -> tuple["Wallet", Relation]:
        check_label(relation.label)
        require(len(self.relations) < WALLET_RELATIONS, WalletCode.TOO_MANY_RELATIONS)
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
            pass  # It may be older; the check of its bytes below is as strict.
        try:
            return decode_strict(_first_decoder, payload).wallet()
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


class FirstRelation(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A relation as wallets and summaries had it before keys could be changed."""

    organisation: PartyId
    counter: U32
    pseudonym: PartyId
    label: Label
    since_day: Day

    def relation(self) -> Relation:
        """The same with its first keys."""
        return Relation(
            organisation=self.organisation,
            counter=self.counter,
            pseudonym=self.pseudonym,
            label=self.label,
            since_day=self.since_day,
        )


class _FirstWallet(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A wallet file of before."""

    seed: Seed
    chain_id: ChainId
    suite: Suite
    revision: U32
    relations: Annotated[tuple[FirstRelation, ...], Meta(max_length=WALLET_RELATIONS)]

    def __repr__(self) -> str:
        return "_FirstWallet()"

    def wallet(self) -> Wallet:
        """The same wallet as it is written now."""
        return Wallet(
            seed=self.seed,
            chain_id=self.chain_id,
            suite=self.suite,
            revision=self.revision,
            relations=tuple(one.relation() for one in self.relations),
        )


_decoder = msgspec.msgpack.Decoder(Wallet)
_first_decoder = msgspec.msgpack.Decoder(_FirstWallet)


def derive_pseudonym(seed: bytes, *, chain_id: str, suite: Suite, organisation: bytes, counter: int) -> Pseudonym:
    """Derive the signing and the HPKE key of one patient–organisation pair; raises ``ValueError`` on wrong sizes.

    ``HKDF(seed, info = label ‖ suite ‖ chain id ‖ organisation ‖ counter)`` gives 64 bytes: signing seed, HPKE seed.
    All parts but the chain id have a fixed width, so two contexts never share one info.
    """
    if len(seed) != SEED_SIZE or len(organisation) != ID_SIZE:
        raise ValueError("a seed and an organisation id are 32 bytes")
    info = _PSEUDONYM_LABEL + bytes([suite]) + chain_id.encode() + organisation + counter.to_bytes(4, "big")
    signing, hpke = _keys(seed, info, suite)
    return Pseudonym(
        id=party_id(suite, signing.public_key),
        organisation=organisation,
        counter=counter,
        signing=signing,
        hpke=hpke,
    )


def derive_adopted(seed: bytes, *, chain_id: str, suite: Suite, relation: Relation) -> Pseudonym:
    """Derive the keys that a pseudonym got later, whoever made the first ones.

    ``HKDF(seed, info = label ‖ suite ‖ chain id ‖ pseudonym ‖ generation)`` gives 64 bytes, as for the first. The id
    is in it, so that a wallet that adopts several pseudonyms has different keys for them.
    """
    info = (
        _ADOPTED_LABEL
        + bytes([suite])
        + chain_id.encode()
        + relation.pseudonym
        + relation.generation.to_bytes(4, "big")
    )
    signing, hpke = _keys(seed, info, suite)
    return Pseudonym(
        id=relation.pseudonym,
        organisation=relation.organisation,
        counter=relation.counter,
        signing=signing,
        hpke=hpke,
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


def _keys(seed: bytes, info: bytes, suite: Suite) -> tuple[SigningKey, HpkePrivateKey]:
    secrets = _expand(seed, info, SEED_SIZE + X25519_KEY_SIZE)
    return SigningKey(suite=suite, seed=secrets[:SEED_SIZE]), HpkePrivateKey(secrets[SEED_SIZE:])


def _expand(seed: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(seed)
