"""The keys of one party that is not a patient: a member, one of its staff, a representative (ID-1, CON-8).

A party's id is made from its first key and stays when the key is changed (ID-7). New keys are written into the file
before the ledger hears of them, so that whatever breaks off in between, the file holds the keys that the ledger has.
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from carechain.contracts.membership import EnrolStaff
from carechain.core.binding import enrolment_message
from carechain.core.codec import Malformed, decode_strict, encode
from carechain.core.crypto import SEED_SIZE, SigningKey, Suite
from carechain.core.ids import PartyId, party_id
from carechain.core.limits import CERTIFICATE_SIZE_BYTES
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import PartyKind
from carechain.sdk.keyfile import (
    Entropy,
    WalletCode,
    check_label,
    decode_key_file,
    encode_key_file,
    read_bounded,
    write_private_file,
)
from carechain.sdk.wallet import Label, Seed
from carechain.sealing.hpke import X25519_KEY_SIZE, HpkePrivateKey
from carechain.sealing.symmetric import ScryptCost


class NextKeys(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Keys that were made and that the ledger may or may not have taken over yet."""

    suite: Suite
    signing_seed: Seed
    hpke_seed: Seed

    def __repr__(self) -> str:
        return f"NextKeys({self.suite.name})"

    def signing_key(self) -> SigningKey:
        """The signing key to come."""
        return SigningKey(suite=self.suite, seed=self.signing_seed)

    def hpke_key(self) -> HpkePrivateKey:
        """The reading key to come."""
        return HpkePrivateKey(self.hpke_seed)


class Identity(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A signing seed, an HPKE seed and what they stand for; saved as an encrypted key file.

    ``organisation`` is the member's own id for a member, the employer of staff, and the patient's pseudonym for a
    representative. ``certificate`` is the DER certificate of staff and empty otherwise. ``label`` may hold a
    person's name: it lives only inside the encrypted part of the file.

    ``coming`` are keys on their way to the ledger. ``founding_seed`` is the suite and the seed of a member's first key,
    once it has another: blocks, and a node's copies of them, stay signed with the key that everybody knows the id by.
    """

    kind: PartyKind
    suite: Suite
    signing_seed: Seed
    hpke_seed: Seed
    party: PartyId
    organisation: PartyId
    certificate: Annotated[bytes, Meta(max_length=CERTIFICATE_SIZE_BYTES)] = b""
    label: Label = ""
    coming: NextKeys | None = None
    founding_seed: Annotated[bytes, Meta(max_length=SEED_SIZE + 1)] = b""

    def __repr__(self) -> str:
        return f"Identity({self.kind.name}, party={self.party.hex()})"

    def signing_key(self) -> SigningKey:
        """The key that signs transactions and requests."""
        return SigningKey(suite=self.suite, seed=self.signing_seed)

    def hpke_key(self) -> HpkePrivateKey:
        """The key that records are sealed to."""
        return HpkePrivateKey(self.hpke_seed)

    def block_key(self) -> SigningKey:
        """The key that the party's id was made from: what blocks and copies of them are signed with."""
        if not self.founding_seed:
            return self.signing_key()
        return SigningKey(suite=Suite(self.founding_seed[0]), seed=self.founding_seed[1:])

    def with_coming(self, *, entropy: Entropy, suite: Suite | None = None) -> "Identity":
        """This identity with keys on their way: the ones that are already, else fresh ones."""
        if self.coming is not None:
            return self
        made = NextKeys(suite=suite or self.suite, signing_seed=entropy(SEED_SIZE), hpke_seed=entropy(X25519_KEY_SIZE))
        return replace(self, coming=made)

    def with_keys_taken_over(self, certificate: bytes | None = None) -> "Identity":
        """This identity once the ledger has the keys that were on their way: the old ones are dropped.

        Of a member the very first stays, for its blocks.
        """
        if self.coming is None:
            return self
        first = self.founding_seed or (bytes([self.suite]) + self.signing_seed)
        return replace(
            self,
            suite=self.coming.suite,
            signing_seed=self.coming.signing_seed,
            hpke_seed=self.coming.hpke_seed,
            certificate=self.certificate if certificate is None else certificate,
            coming=None,
            founding_seed=first if self.kind is PartyKind.MEMBER else b"",
        )

    def with_certificate(self, certificate: bytes) -> "Identity":
        """The same keys with a new certificate."""
        return replace(self, certificate=certificate)

    def to_bytes(self, *, password: str, entropy: Entropy, cost: ScryptCost | None = None) -> bytes:
        """The identity as an encrypted key file."""
        return encode_key_file(encode(self), kind="identity", password=password, entropy=entropy, cost=cost)

    @staticmethod
    def from_bytes(data: bytes, *, password: str) -> "Identity":
        """An identity from a key file's bytes; raises :class:`~carechain.core.rejection.Rejected`."""
        payload = decode_key_file(data, kind="identity", password=password)
        try:
            return decode_strict(_decoder, payload)
        except Malformed:
            pass  # It may be older; the check of its bytes below is as strict.
        try:
            return decode_strict(_first_decoder, payload).identity()
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
    def load(path: Path, *, password: str) -> "Identity":
        """Read an identity; raises ``Rejected`` for what is wrong with it and ``OSError`` when it cannot be read."""
        return Identity.from_bytes(read_bounded(path), password=password)


class _FirstIdentity(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A file of before keys could be changed."""

    kind: PartyKind
    suite: Suite
    signing_seed: Seed
    hpke_seed: Seed
    party: PartyId
    organisation: PartyId
    certificate: Annotated[bytes, Meta(max_length=CERTIFICATE_SIZE_BYTES)]
    label: Label

    def __repr__(self) -> str:
        return "_FirstIdentity()"

    def identity(self) -> Identity:
        """The same as it is written now."""
        return Identity(
            kind=self.kind,
            suite=self.suite,
            signing_seed=self.signing_seed,
            hpke_seed=self.hpke_seed,
            party=self.party,
            organisation=self.organisation,
            certificate=self.certificate,
            label=self.label,
        )


_decoder = msgspec.msgpack.Decoder(Identity)
_first_decoder = msgspec.msgpack.Decoder(_FirstIdentity)


def new_identity(
    *,
    kind: PartyKind,
    entropy: Entropy,
    organisation: bytes | None = None,
    suite: Suite = Suite.ED25519,
    label: str = "",
) -> Identity:
    """Fresh keys. ``organisation`` of None means the party itself, which is what a member is."""
    check_label(label)
    signing_seed, hpke_seed = entropy(SEED_SIZE), entropy(X25519_KEY_SIZE)
    party = party_id(suite, SigningKey(suite=suite, seed=signing_seed).public_key)
    return Identity(
        kind=kind,
        suite=suite,
        signing_seed=signing_seed,
        hpke_seed=hpke_seed,
        party=party,
        organisation=party if organisation is None else organisation,
        label=label,
    )


def enrolment_of(
    signing: SigningKey, *, chain_id: str, organisation: bytes, certificate: bytes, hpke_key: bytes
) -> EnrolStaff:
    """The message by which ``organisation`` enrols a key, with the key's own agreement to this certificate (ID-1).

    ``signing`` is the new key, not the organisation's, and ``hpke_key`` the public key that goes with it.
    """
    wanted = enrolment_message(chain_id=chain_id, organisation=organisation, certificate=certificate, hpke_key=hpke_key)
    return EnrolStaff(certificate=certificate, hpke_key=hpke_key, proof=signing.sign(wanted))
