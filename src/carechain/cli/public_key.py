"""The files that enrol a staff key made elsewhere: its public half, the organisation's offer, its holder's acceptance.

The owner of a key sends its public half; the organisation answers with a certificate; the key signs it. Only then can
the organisation enrol it, because the ledger takes no key without its holder's agreement.
"""

from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from carechain.cli.output import CannotRun
from carechain.contracts.membership import EnrolStaff
from carechain.core.binding import Signature
from carechain.core.certificate import BadCertificate, StaffCertificate, read_staff
from carechain.core.crypto import PUBLIC_KEY_SIZE
from carechain.core.ids import U8, PartyId, party_id
from carechain.core.organisation import Certificate
from carechain.core.party import HpkeKey, PublicKey
from carechain.sdk.identity import Identity, enrolment_of

_FILE_BYTES: Final = 16 * 1024
FileT = TypeVar("FileT", bound=Struct)


class PublicHalf(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signature suite, public key and HPKE key; JSON with byte strings in base64. Holds no secret and no name."""

    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey

    @property
    def party(self) -> bytes:
        """The party id that follows from the key."""
        return party_id(self.suite, self.public_key)


class Offer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A certificate that waits for its key's agreement, with what the agreement is about."""

    chain_id: str
    organisation: PartyId
    certificate: Certificate


class Acceptance(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A certificate and the agreement of the key it names."""

    certificate: Certificate
    hpke_key: HpkeKey
    proof: Signature

    def message(self) -> EnrolStaff:
        """What the organisation sends."""
        return EnrolStaff(certificate=self.certificate, hpke_key=self.hpke_key, proof=self.proof)

    def read(self, authority: bytes) -> StaffCertificate:
        """What the certificate says, if ``authority`` (DER) issued it."""
        try:
            return read_staff(self.certificate, authority)
        except BadCertificate:
            raise CannotRun("the accepted certificate is not one of this organisation's authority") from None


def accept(identity: Identity, offer: Offer) -> Acceptance:
    """Agree to an offer with the key it names."""
    message = enrolment_of(
        identity.signing_key(),
        chain_id=offer.chain_id,
        organisation=offer.organisation,
        certificate=offer.certificate,
        hpke_key=identity.hpke_key().public_key,
    )
    return Acceptance(certificate=message.certificate, hpke_key=message.hpke_key, proof=message.proof)


def public_half(identity: Identity) -> PublicHalf:
    """The public half of an identity."""
    return PublicHalf(
        suite=identity.suite,
        public_key=identity.signing_key().public_key,
        hpke_key=identity.hpke_key().public_key,
    )


def write_public(path: Path, held: PublicHalf | Offer | Acceptance) -> None:
    """Write one of these files: JSON with byte strings in base64."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(held), indent=2) + b"\n")


def read_public(path: Path) -> PublicHalf:
    """Read a public half; raises :class:`CannotRun` when the file is not one."""
    half = _read(path, PublicHalf, "the public half of a key: make it with `carechain keys new --public`")
    if PUBLIC_KEY_SIZE.get(half.suite) != len(half.public_key):
        raise CannotRun(f"{path} holds a key that does not fit its signature suite")
    return half


def read_offer(path: Path) -> Offer:
    """Read an offer; raises :class:`CannotRun` when the file is not one."""
    return _read(path, Offer, "an offer: the organisation makes it with `carechain staff offer`")


def read_acceptance(path: Path) -> Acceptance:
    """Read an acceptance; raises :class:`CannotRun` when the file is not one."""
    return _read(path, Acceptance, "an accepted offer: its holder makes it with `carechain keys accept`")


def _read(path: Path, kind: type[FileT], what: str) -> FileT:
    with path.open("rb") as file:
        data = file.read(_FILE_BYTES)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CannotRun(f"{path} is not {what}") from None
