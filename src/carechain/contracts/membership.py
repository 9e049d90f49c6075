"""Membership: who belongs to the consortium, in which roles, and since when no longer (ID-1, ID-2, ID-6, ID-9)."""

from collections.abc import Collection, Iterator
from typing import Final

from msgspec.structs import replace

from carechain.contracts.roles import MEMBER_ROLES, roles_fit
from carechain.core.binding import Signature, enrolment_message
from carechain.core.certificate import BadCertificate, StaffCertificate, read_authority, read_staff
from carechain.core.context import Ctx
from carechain.core.crypto import PUBLIC_KEY_SIZE, BadSignature, verify
from carechain.core.ids import U16, U63, PartyId, party_id
from carechain.core.limits import LAPSE_MAX_DAYS, LAPSE_MIN_DAYS, MEMBERS, QUERY_PAGE_ROWS
from carechain.core.message import Event, Message, Row
from carechain.core.organisation import Certificate, MemberName, NewMember
from carechain.core.party import HpkeKey, Party
from carechain.core.rejection import Rejected, RejectionCode, present, require
from carechain.core.units import DAY_S
from carechain.core.vocabulary import OrganisationKind, PartyKind
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class MembershipCode(RejectionCode):
    """Why a membership check refuses. The first block is also the first of the three checks of CON-3."""

    CERTIFICATE_REVOKED = 201, "This key was revoked. Ask your organisation to enrol a new one."
    CERTIFICATE_NOT_YET_VALID = 202, "The certificate is not valid yet. Wait, or ask for a new one."
    CERTIFICATE_EXPIRED = 203, "The certificate has expired. Ask your organisation to renew it."
    ORGANISATION_NOT_A_MEMBER = 204, "The organisation is not, or no longer, a member of the consortium."
    RIGHTS_LAPSED = 205, "Unused rights have lapsed. Ask your organisation to renew your certificate."
    ROLE_MAY_NOT_SEND = 206, "Your role may not send this message. Ask someone whose role allows it."
    SENDER_NOT_OF_ORGANISATION = 207, "Only the organisation itself may change its staff."
    CERTIFICATE_INVALID = 208, "The certificate is not one of this organisation's authority in the required profile."
    ROLE_NOT_FOR_THIS_KIND = 209, "An organisation of this kind cannot give that role."
    PARTY_EXISTS = 210, "This key is enrolled already. Use renewal, or a new key."
    STAFF_UNKNOWN = 211, "No such member of staff in your organisation."
    STAFF_LEFT = 212, "This person has left. Enrol a new key instead."
    LAPSE_OUT_OF_RANGE = 213, "Choose a lapse period between 1 and 3650 days."
    MEMBER_EXISTS = 214, "This key belongs, or once belonged, to a party. An organisation that returns uses a new key."
    TOO_MANY_MEMBERS = 215, "The consortium is full."
    MEMBER_UNKNOWN = 216, "No such member."
    AUTHORITY_INVALID = 217, "The certificate authority's own certificate does not fit the profile."
    MEMBER_KEY_INVALID = 218, "The member's key does not fit its signature suite."
    AUTHORITY_NOT_YET_VALID = 219, "The certificate authority's own certificate is not valid yet. Wait, or replace it."
    AUTHORITY_EXPIRED = 220, "The certificate authority's own certificate has expired. Replace the authority first."
    SENDER_NOT_MEMBER_KEY = 221, "Only the organisation's own key may replace its authority, not its staff."
    ENROLMENT_PROOF_INVALID = 222, "The new key has not signed this enrolment. Let its holder accept the certificate."


# --- messages -------------------------------------------------------------------------------------------


class EnrolStaff(Message, frozen=True, tag="membership.enrol_staff"):
    """Enrol a member of staff by the X.509 certificate that the organisation's own authority issued (ID-1).

    ``proof`` is the new key's own signature over :func:`~carechain.core.binding.enrolment_message`: nobody else can
    enrol a key and so keep its holder off the ledger.
    """

    certificate: Certificate
    hpke_key: HpkeKey
    proof: Signature


class RenewStaff(Message, frozen=True, tag="membership.renew_staff"):
    """Give an enrolled key a new certificate: new roles, a new end, or rights that had lapsed (ID-6)."""

    certificate: Certificate


class DismissStaff(Message, frozen=True, tag="membership.dismiss_staff"):
    """Revoke a member of staff's key at once: a leaver, or a lost key (ID-6, ID-9)."""

    party: PartyId


class SetLapse(Message, frozen=True, tag="membership.set_lapse"):
    """Set after how many unused days the rights of the organisation's staff lapse (ID-6)."""

    days: U16


class ReplaceAuthority(Message, frozen=True, tag="membership.replace_authority"):
    """Name the organisation's new certificate authority: before the old one ends, or when its key is lost (ID-1, ID-9).

    Staff stay until the end of their own certificates; from now on only the new authority enrols and renews.
    """

    certificate: Certificate


# --- events ---------------------------------------------------------------------------------------------


class MemberAdmitted(Event, frozen=True, tag="membership.member_admitted"):
    """An organisation joined."""

    member: PartyId


class MemberRemoved(Event, frozen=True, tag="membership.member_removed"):
    """An organisation was removed; its staff lost their rights with it."""

    member: PartyId


class MemberAuthorityReplaced(Event, frozen=True, tag="membership.member_authority_replaced"):
    """An organisation's staff is certified by another authority from now on."""

    member: PartyId


class StaffEnrolled(Event, frozen=True, tag="membership.staff_enrolled"):
    """A key now acts for an organisation."""

    organisation: PartyId
    party: PartyId
    roles: U16


class StaffRenewed(Event, frozen=True, tag="membership.staff_renewed"):
    """A key has a new certificate."""

    organisation: PartyId
    party: PartyId
    roles: U16


class StaffDismissed(Event, frozen=True, tag="membership.staff_dismissed"):
    """A key no longer acts for its organisation."""

    organisation: PartyId
    party: PartyId


# --- tables ---------------------------------------------------------------------------------------------


class MemberRow(Row, frozen=True):
    """An organisation of the consortium. ``removed_s`` is 0 while it is a member.

    ``producer`` is set by the genesis alone: a block producer cannot be removed by vote.
    """

    kind: OrganisationKind
    name: MemberName
    registrar: bool
    lapse_days: U16
    admitted_s: U63
    removed_s: U63 = 0
    producer: bool = False


class AuthorityRow(Row, frozen=True):
    """The certificate of an organisation's own certificate authority, DER."""

    certificate: Certificate


class StaffRow(Row, frozen=True):
    """One line of an organisation's staff list. ``left_s`` is 0 while the person is there."""

    enrolled_s: U63
    left_s: U63 = 0


MEMBERS_TABLE: Final = TableSpec(
    name="membership.members", prefix=0x10, key=(32,), row=MemberRow, note="organisation → its standing"
)
PARTIES_TABLE: Final = TableSpec(
    name="membership.parties", prefix=0x11, key=(32,), row=Party, note="party → keys, organisation, roles, validity"
)
AUTHORITIES_TABLE: Final = TableSpec(
    name="membership.authorities", prefix=0x12, key=(32,), row=AuthorityRow, note="organisation → CA certificate"
)
STAFF_TABLE: Final = TableSpec(
    name="membership.staff", prefix=0x13, key=(32, 32), row=StaffRow, note="organisation, party → staff list"
)


class MembershipTables:
    """The tables of this contract, and the few reads that other contracts may ask for."""

    __slots__ = ("authorities", "members", "parties", "staff")

    def __init__(self, state: Overlay) -> None:
        self.members = MEMBERS_TABLE.bind(state)
        self.parties = PARTIES_TABLE.bind(state)
        self.authorities = AUTHORITIES_TABLE.bind(state)
        self.staff = STAFF_TABLE.bind(state)

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""
        return self.parties.get(party)

    def put_party(self, party: bytes, row: Party) -> None:
        """Add or replace a party: used by the contracts that bind pseudonyms and representatives."""
        self.parties.put(party, row=row)

    def member(self, organisation: bytes) -> MemberRow | None:
        """The member with this id, also one that was removed."""
        return self.members.get(organisation)

    def is_registrar(self, organisation: bytes) -> bool:
        """Whether the organisation may bind existing ids now (ID-3)."""
        member = self.members.get(organisation)
        return member is not None and member.registrar and not member.removed_s

    def kind_of(self, organisation: bytes) -> OrganisationKind | None:
        """The organisation's kind, while it is a member."""
        member = self.members.get(organisation)
        return None if member is None or member.removed_s else member.kind

    def has_left(self, party: Party) -> bool:
        """Whether the party was revoked, or its organisation is no longer a member."""
        member = self.members.get(party.organisation)
        return bool(party.revoked_s) or member is None or bool(member.removed_s)

    def standing(self, party: Party, time_s: int) -> MembershipCode | None:
        """See :func:`standing`."""
        return standing(self, party, time_s)

    def is_member(self, organisation: bytes) -> bool:
        """Whether the organisation is a member now."""
        return self.kind_of(organisation) is not None

    def is_producer(self, organisation: bytes) -> bool:
        """Whether the genesis names the organisation as a block producer."""
        member = self.members.get(organisation)
        return member is not None and member.producer

    def admit(self, ctx: Ctx, new: NewMember) -> None:
        """Take an organisation in: called by governance once the vote has passed (ID-5)."""
        ctx.emit(MemberAdmitted(member=_add_member(self, new, ctx.time_s)))

    def require_admissible(self, new: NewMember, time_s: int) -> None:
        """Refuse a candidate that could not be admitted now, before anyone votes on it."""
        _require_admissible(self, new, time_s)

    def remove(self, ctx: Ctx, organisation: bytes) -> None:
        """Put an organisation out: called by governance once the vote has passed (ID-5)."""
        self.members.put(organisation, row=replace(_live_member(self, organisation), removed_s=ctx.time_s))
        ctx.emit(MemberRemoved(member=organisation))

    def certify_registrar(self, organisation: bytes, *, registrar: bool) -> None:
        """Allow or forbid an organisation to bind existing ids: called by governance after a vote (ID-3)."""
        self.members.put(organisation, row=replace(_live_member(self, organisation), registrar=registrar))

    def live_members(self) -> Iterator[tuple[bytes, MemberRow]]:
        """Every organisation that is a member now, in key order."""
        for (organisation,), row in self.members.scan():
            if not row.removed_s:
                yield organisation, row


# --- predicates -----------------------------------------------------------------------------------------


def standing(tables: MembershipTables, party: Party, time_s: int) -> MembershipCode | None:
    """The first of CON-3's checks: None while the party is live, else why it is not.

    Patients and representatives stay able to act when the organisation they registered with leaves: their
    rights are their own.
    """
    if party.revoked_s:
        return MembershipCode.CERTIFICATE_REVOKED
    if time_s < party.valid_from_s:
        return MembershipCode.CERTIFICATE_NOT_YET_VALID
    if party.valid_until_s and time_s >= party.valid_until_s:
        return MembershipCode.CERTIFICATE_EXPIRED
    if party.kind in (PartyKind.PSEUDONYM, PartyKind.REPRESENTATIVE):
        return None
    member = tables.members.get(party.organisation)
    if member is None or member.removed_s:
        return MembershipCode.ORGANISATION_NOT_A_MEMBER
    if party.kind is PartyKind.STAFF and time_s // DAY_S - party.last_used_day > member.lapse_days:
        return MembershipCode.RIGHTS_LAPSED
    return None


def enrolment_proof_holds(ctx: Ctx, certificate: StaffCertificate, msg: EnrolStaff) -> bool:
    """Whether the new key signed exactly this enrolment."""
    wanted = enrolment_message(
        chain_id=ctx.chain_id,
        organisation=certificate.organisation,
        certificate=msg.certificate,
        hpke_key=msg.hpke_key,
    )
    try:
        verify(suite=certificate.suite, public_key=certificate.public_key, signature=msg.proof, message=wanted)
    except BadSignature:
        return False
    return True


# --- handlers -------------------------------------------------------------------------------------------


def touch(ctx: Ctx, tables: MembershipTables) -> None:
    """Note that a member of staff used its rights today, once a day: the lapse period starts again (ID-6)."""
    if ctx.party.kind is PartyKind.STAFF and ctx.party.last_used_day != ctx.day:
        tables.parties.put(ctx.sender, row=replace(ctx.party, last_used_day=ctx.day))


def enrol_staff(ctx: Ctx, tables: MembershipTables, msg: EnrolStaff) -> None:
    """Take a key onto the organisation's staff list."""
    organisation, member = _own_member(ctx, tables)
    certificate = _read_certificate(ctx, tables, organisation, msg.certificate)
    require(roles_fit(member.kind, certificate.roles), MembershipCode.ROLE_NOT_FOR_THIS_KIND)
    party = party_id(certificate.suite, certificate.public_key)
    require(not tables.parties.has(party), MembershipCode.PARTY_EXISTS)
    require(enrolment_proof_holds(ctx, certificate, msg), MembershipCode.ENROLMENT_PROOF_INVALID)
    tables.parties.put(
        party,
        row=Party(
            kind=PartyKind.STAFF,
            suite=certificate.suite,
            public_key=certificate.public_key,
            hpke_key=msg.hpke_key,
            organisation=organisation,
            roles=certificate.roles,
            valid_from_s=certificate.not_before_s,
            valid_until_s=certificate.until_s,
            last_used_day=ctx.day,
        ),
    )
    tables.staff.put(organisation, party, row=StaffRow(enrolled_s=ctx.time_s))
    ctx.emit(StaffEnrolled(organisation=organisation, party=party, roles=certificate.roles))


def renew_staff(ctx: Ctx, tables: MembershipTables, msg: RenewStaff) -> None:
    """Replace the certificate of an enrolled key."""
    organisation, member = _own_member(ctx, tables)
    certificate = _read_certificate(ctx, tables, organisation, msg.certificate)
    require(roles_fit(member.kind, certificate.roles), MembershipCode.ROLE_NOT_FOR_THIS_KIND)
    party = party_id(certificate.suite, certificate.public_key)
    row = _staff_party(tables, organisation, party)
    tables.parties.put(
        party,
        row=replace(
            row,
            roles=certificate.roles,
            valid_from_s=certificate.not_before_s,
            valid_until_s=certificate.until_s,
            last_used_day=ctx.day,
        ),
    )
    ctx.emit(StaffRenewed(organisation=organisation, party=party, roles=certificate.roles))


def dismiss_staff(ctx: Ctx, tables: MembershipTables, msg: DismissStaff) -> None:
    """Revoke a key of the organisation's staff, from this transaction on."""
    organisation, _ = _own_member(ctx, tables)
    row = _staff_party(tables, organisation, msg.party)
    tables.parties.put(msg.party, row=replace(row, revoked_s=ctx.time_s))
    line = present(tables.staff.get(organisation, msg.party), MembershipCode.STAFF_UNKNOWN)
    tables.staff.put(organisation, msg.party, row=replace(line, left_s=ctx.time_s))
    ctx.emit(StaffDismissed(organisation=organisation, party=msg.party))


def set_lapse(ctx: Ctx, tables: MembershipTables, msg: SetLapse) -> None:
    """Change the organisation's lapse period."""
    organisation, member = _own_member(ctx, tables)
    require(LAPSE_MIN_DAYS <= msg.days <= LAPSE_MAX_DAYS, MembershipCode.LAPSE_OUT_OF_RANGE)
    tables.members.put(organisation, row=replace(member, lapse_days=msg.days))


def replace_authority(ctx: Ctx, tables: MembershipTables, msg: ReplaceAuthority) -> None:
    """Put another authority in the old one's place. Its own key must say so: staff are what the authority makes."""
    organisation, _ = _own_member(ctx, tables)
    _require_authority(msg.certificate, organisation, ctx.time_s)
    require(ctx.sender == organisation, MembershipCode.SENDER_NOT_MEMBER_KEY)
    tables.authorities.put(organisation, row=AuthorityRow(certificate=msg.certificate))
    ctx.emit(MemberAuthorityReplaced(member=organisation))


def _live_member(tables: MembershipTables, organisation: bytes) -> MemberRow:
    member = present(tables.members.get(organisation), MembershipCode.MEMBER_UNKNOWN)
    require(not member.removed_s, MembershipCode.MEMBER_UNKNOWN)
    return member


def _own_member(ctx: Ctx, tables: MembershipTables) -> tuple[bytes, MemberRow]:
    organisation = ctx.party.organisation
    member = present(tables.members.get(organisation), MembershipCode.SENDER_NOT_OF_ORGANISATION)
    require(not member.removed_s, MembershipCode.SENDER_NOT_OF_ORGANISATION)
    return organisation, member


def _read_certificate(ctx: Ctx, tables: MembershipTables, organisation: bytes, der: bytes) -> StaffCertificate:
    authority = present(tables.authorities.get(organisation), MembershipCode.CERTIFICATE_INVALID)
    try:
        certificate = read_staff(der, authority.certificate)
    except BadCertificate:
        raise Rejected(MembershipCode.CERTIFICATE_INVALID) from None
    named = certificate.party == party_id(certificate.suite, certificate.public_key)
    require(named and certificate.organisation == organisation, MembershipCode.CERTIFICATE_INVALID)
    require(ctx.time_s >= certificate.not_before_s, MembershipCode.CERTIFICATE_NOT_YET_VALID)
    require(ctx.time_s < certificate.until_s, MembershipCode.CERTIFICATE_EXPIRED)
    _require_authority(authority.certificate, organisation, ctx.time_s)
    return certificate


def _require_authority(der: bytes, organisation: bytes, time_s: int) -> None:
    """Refuse an authority that is not the organisation's own, or not valid now."""
    try:
        authority = read_authority(der)
    except BadCertificate:
        raise Rejected(MembershipCode.AUTHORITY_INVALID) from None
    require(authority.organisation == organisation, MembershipCode.AUTHORITY_INVALID)
    require(time_s >= authority.not_before_s, MembershipCode.AUTHORITY_NOT_YET_VALID)
    require(time_s < authority.until_s, MembershipCode.AUTHORITY_EXPIRED)


def _staff_party(tables: MembershipTables, organisation: bytes, party: bytes) -> Party:
    row = present(tables.parties.get(party), MembershipCode.STAFF_UNKNOWN)
    require(row.kind is PartyKind.STAFF and row.organisation == organisation, MembershipCode.STAFF_UNKNOWN)
    require(not row.revoked_s, MembershipCode.STAFF_LEFT)
    return row


def _require_admissible(tables: MembershipTables, new: NewMember, time_s: int) -> bytes:
    require(PUBLIC_KEY_SIZE.get(new.suite) == len(new.public_key), MembershipCode.MEMBER_KEY_INVALID)
    organisation = party_id(new.suite, new.public_key)
    require(not tables.parties.has(organisation), MembershipCode.MEMBER_EXISTS)
    require(sum(1 for _ in tables.live_members()) < MEMBERS, MembershipCode.TOO_MANY_MEMBERS)
    _require_authority(new.authority, organisation, time_s)
    return organisation


def _add_member(tables: MembershipTables, new: NewMember, time_s: int, producers: Collection[bytes] = ()) -> bytes:
    organisation = _require_admissible(tables, new, time_s)
    tables.members.put(
        organisation,
        row=MemberRow(
            kind=new.kind,
            name=new.name,
            registrar=new.registrar,
            lapse_days=new.lapse_days,
            admitted_s=time_s,
            producer=organisation in producers,
        ),
    )
    tables.authorities.put(organisation, row=AuthorityRow(certificate=new.authority))
    tables.parties.put(
        organisation,
        row=Party(
            kind=PartyKind.MEMBER,
            suite=new.suite,
            public_key=new.public_key,
            hpke_key=new.hpke_key,
            organisation=organisation,
            roles=MEMBER_ROLES,
            valid_from_s=0,
        ),
    )
    return organisation


# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: MembershipTables) -> list[str]:
    """What must always hold; each broken invariant in a sentence, without names."""
    broken: list[str] = []
    for (organisation,), member in tables.members.scan():
        if tables.authorities.get(organisation) is None or tables.parties.get(organisation) is None:
            broken.append(f"member {organisation.hex()} lacks its authority or its key")
        if member.removed_s and member.removed_s < member.admitted_s:
            broken.append(f"member {organisation.hex()} was removed before it was admitted")
        if member.producer and member.removed_s:
            broken.append(f"member {organisation.hex()} produces blocks and was removed")
    for (organisation, party), line in tables.staff.scan():
        row = tables.parties.get(party)
        if row is None or row.organisation != organisation or row.kind is not PartyKind.STAFF:
            broken.append(f"staff {party.hex()} is not a party of its organisation")
        elif bool(row.revoked_s) != bool(line.left_s):
            broken.append(f"staff {party.hex()} left, but its key does not say so")
    return broken


# --- genesis --------------------------------------------------------------------------------------------


def genesis(
    tables: MembershipTables, members: tuple[NewMember, ...], producers: tuple[bytes, ...], time_s: int
) -> None:
    """The founding members, and which of them produce the blocks."""
    for new in members:
        _add_member(tables, new, time_s, producers)


# --- queries --------------------------------------------------------------------------------------------


def staff_of(
    tables: MembershipTables, organisation: bytes, after: bytes | None = None
) -> Iterator[tuple[bytes, StaffRow, Party]]:
    """A page of the organisation's staff list with each person's key, roles and validity (ID-6)."""
    start = None if after is None else (organisation, after)
    for (_, party), line in tables.staff.scan(organisation, after=start, limit=QUERY_PAGE_ROWS):
        row = tables.parties.get(party)
        if row is not None:
            yield party, line, row
