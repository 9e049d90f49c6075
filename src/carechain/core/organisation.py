"""What a consortium must know of an organisation to admit it, in a proposal or at genesis (ID-1, ID-5)."""

from typing import Annotated

from msgspec import Meta

from carechain.core.ids import U8
from carechain.core.limits import CERTIFICATE_SIZE_BYTES, LAPSE_MAX_DAYS, LAPSE_MIN_DAYS, MEMBER_NAME_CHARS
from carechain.core.message import Row
from carechain.core.party import HpkeKey, PublicKey
from carechain.core.vocabulary import OrganisationKind

Certificate = Annotated[bytes, Meta(min_length=1, max_length=CERTIFICATE_SIZE_BYTES)]
"""An X.509 certificate, DER."""
MemberName = Annotated[str, Meta(min_length=1, max_length=MEMBER_NAME_CHARS)]
"""The organisation's public name, never a person's."""


class NewMember(Row, frozen=True):
    """A founding or proposed member: its own key, its certificate authority, whether it may register patients."""

    kind: OrganisationKind
    name: MemberName
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    authority: Certificate
    registrar: bool
    lapse_days: Annotated[int, Meta(ge=LAPSE_MIN_DAYS, le=LAPSE_MAX_DAYS)]
