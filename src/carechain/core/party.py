"""A party: anyone with a key. The row every signature check, role check and ticket starts from."""

from typing import Annotated

from msgspec import Meta

from carechain.core.ids import U8, U16, U63, PartyId
from carechain.core.message import Row
from carechain.core.vocabulary import PartyKind, Role, in_mask

PublicKey = Annotated[bytes, Meta(min_length=32, max_length=33)]
HpkeKey = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Party(Row, frozen=True):
    """Who holds a key, for which organisation, in which roles, until when.

    ``organisation`` is the member's own id for a member, the employer of staff, the organisation a
    pseudonym was derived for, and the patient's pseudonym for a representative. ``valid_until_s`` is
    the first second after the certificate's or the appointment's end (0: no end). ``revoked_s`` is 0
    while the party is live.
    """

    kind: PartyKind
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    organisation: PartyId
    roles: U16
    valid_from_s: U63
    valid_until_s: U63 = 0
    revoked_s: U63 = 0
    last_used_day: U63 = 0

    def has_role(self, role: Role) -> bool:
        """Whether the party holds ``role``; says nothing about being live."""
        return in_mask(role, self.roles)
