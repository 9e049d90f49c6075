"""Membership: who belongs to the consortium, in which roles, and since when no longer (ID-1, ID-2, ID-6, ID-9)."""

from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from carechain.contracts.roles import MEMBER_ROLES, roles_fit
from carechain.core.binding import Signature, enrolment_message
from carechain.core.certificate import BadCertificate, StaffCertificate, read_authority, read_staff
from carechain.core.context import Ctx
from carechain.core.crypto import PUBLIC_KEY_SIZE, BadSignature, verify
from carechain.core.ids import U8, U16, U32, U63, PartyId, party_id
from carechain.core.limits import FORMER_KEYS, LAPSE_MAX_DAYS, LAPSE_MIN_DAYS, MEMBERS, QUERY_PAGE_ROWS
from carechain.core.message import Event, Message, Row
from carechain.core.organisation import Certificate, MemberName, NewMember
from carechain.core.party import HpkeKey, Party, PublicKey
from carechain.core.rejection import Rejected, RejectionCode, present, require
from carechain.core.suite import Institution
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
    KEY_OF_STAFF = 223, "The organisation changes the keys of its staff, because it certifies them. Ask it."
    TOO_MANY_KEY_CHANGES = 224, "This party has changed its key too often. A member of staff is enrolled anew."
    KEY_IN_USE = 225, "The new key belongs, or once belonged, to a party. Make another one."
    KEY_PROOF_INVALID = 226, "The new key has not signed this change. Sign again, for this network and this party."
    SUITE_NOT_OF_NETWORK = 227, "This network was founded with another signature suite. Make a key of that suite."


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


class KeyRotated(Event, frozen=True, tag="membership.key_rotated"):
    """A party has another key; its old one is dead."""

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


class FormerKey(Row, frozen=True):
    """A key that a party no longer has. ``until_s`` is the first second at which it counted no more."""

    suite: U8
    public_key: PublicKey
    until_s: U63


class KeysRow(Row, frozen=True):
    """A party's earlier keys: how many changes there were, and the last few keys, oldest first."""

    changes: U32 = 0
    former: Annotated[tuple[FormerKey, ...], Meta(max_length=FORMER_KEYS)] = ()


class UsedKeyRow(Row, frozen=True):
    """Whose a key became by a change. What a party was enrolled with is found under its own id."""

    party: PartyId


class SuiteRow(Row, frozen=True):
    """The institutional suite that the genesis chose (KEY-6)."""

    institution: Institution


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

KEYS_TABLE: Final = TableSpec(
    name="membership.keys", prefix=0x14, key=(32,), row=KeysRow, note="party → its earlier keys, where it changed them"
)
USED_KEYS_TABLE: Final = TableSpec(
    name="membership.used_keys", prefix=0x15, key=(32,), row=UsedKeyRow, note="hash of a changed key → whose it became"
)
SUITE_TABLE: Final = TableSpec(
    name="membership.suite", prefix=0x16, key=(1,), row=SuiteRow, note="the signature suite, hash and cipher in use"
)


class MembershipTables:
    """The tables of this contract, and the few reads that other contracts may ask for."""

    __slots__ = ("authorities", "keys", "members", "parties", "staff", "suite", "used_keys")

    def __init__(self, state: Overlay) -> None:
        self.members = MEMBERS_TABLE.bind(state)
        self.parties = PARTIES_TABLE.bind(state)
        self.authorities = AUTHORITIES_TABLE.bind(state)
        self.staff = STAFF_TABLE.bind(state)
        self.keys = KEYS_TABLE.bind(state)
        self.used_keys = USED_KEYS_TABLE.bind(state)
        self.suite = SUITE_TABLE.bind(state)

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""
        return self.parties.get(party)

    def institution(self) -> Institution:
        """The network's suite; a state that never heard of suites is an international one."""
        row = self.suite.get(0)
        return Institution.INTERNATIONAL if row is None else row.institution

    def require_suite(self, kind: PartyKind, suite: int) -> None:
        """Refuse a key that a party of this kind may not have in this network (KEY-6)."""
        institution = self.institution()
        of_patient = kind in (PartyKind.PSEUDONYM, PartyKind.REPRESENTATIVE)
        known = institution.admits_patient(suite) if of_patient else institution.admits(suite)
        require(known, MembershipCode.SUITE_NOT_OF_NETWORK)

    def put_party(self, party: bytes, row: Party) -> None:
        """Add or replace a party: used by the contracts that bind pseudonyms and representatives."""
        self.require_suite(row.kind, row.suite)
        self.parties.put(party, row=row)

    def key_taken(self, key_id: bytes) -> bool:
        """Whether a key is, or once was, some party's. ``key_id`` is what :func:`party_id` makes of it.

        Keys are never shared and never come back: what is signed names one party, and a dead key stays dead.
        """
        return self.parties.has(key_id) or self.used_keys.has(key_id)

    def former_keys(self, party: bytes) -> tuple[FormerKey, ...]:
        """The last keys that the party had before its present one, oldest first."""
        return (self.keys.get(party) or KeysRow()).former

    def keys_since(self, party: bytes, time_s: int) -> tuple[tuple[int, bytes], ...]:
        """Suite and public key of every key that the party has had since then, the present one first."""
        row = self.parties.get(party)
        if row is None:
            return ()
        former = ((one.suite, one.public_key) for one in self.former_keys(party) if one.until_s > time_s)
        return ((row.suite, row.public_key), *former)

    def replace_key(
        self, ctx: Ctx, party: bytes, row: Party, *, suite: int, public_key: bytes, hpke_key: bytes
    ) -> None:
        """Give the party with this ``row`` another key: whoever calls has seen to it that it may have it."""
        self.require_suite(row.kind, suite)
        history = self.keys.get(party) or KeysRow()
        former = (*history.former, FormerKey(suite=row.suite, public_key=row.public_key, until_s=ctx.time_s))
        self.keys.put(party, row=KeysRow(changes=history.changes + 1, former=former[-FORMER_KEYS:]))
        self.used_keys.put(party_id(suite, public_key), row=UsedKeyRow(party=party))
        self.parties.put(party, row=replace(row, suite=suite, public_key=public_key, hpke_key=hpke_key))
        ctx.emit(KeyRotated(party=party))

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
    organisation, member = own_member(ctx, tables)
    certificate = read_certificate(ctx, tables, organisation, msg.certificate, names=_named_by_its_key)
    require(roles_fit(member.kind, certificate.roles), MembershipCode.ROLE_NOT_FOR_THIS_KIND)
    party = certificate.party
    require(not tables.key_taken(party), MembershipCode.PARTY_EXISTS)
    require(enrolment_proof_holds(ctx, certificate, msg), MembershipCode.ENROLMENT_PROOF_INVALID)
    tables.put_party(
        party,
        Party(
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
    organisation, member = own_member(ctx, tables)

    def names_present_key(certificate: StaffCertificate) -> bool:
        row = tables.parties.get(certificate.party)
        if row is None:
            return _named_by_its_key(certificate)
        return (row.suite, row.public_key) == (certificate.suite, certificate.public_key)

    certificate = read_certificate(ctx, tables, organisation, msg.certificate, names=names_present_key)
    require(roles_fit(member.kind, certificate.roles), MembershipCode.ROLE_NOT_FOR_THIS_KIND)
    certify(ctx, tables, organisation, certificate)
    ctx.emit(StaffRenewed(organisation=organisation, party=certificate.party, roles=certificate.roles))


def dismiss_staff(ctx: Ctx, tables: MembershipTables, msg: DismissStaff) -> None:
    """Revoke a key of the organisation's staff, from this transaction on."""
    organisation, _ = own_member(ctx, tables)
    row = staff_party(tables, organisation, msg.party)
    tables.parties.put(msg.party, row=replace(row, revoked_s=ctx.time_s))
    line = present(tables.staff.get(organisation, msg.party), MembershipCode.STAFF_UNKNOWN)
    tables.staff.put(organisation, msg.party, row=replace(line, left_s=ctx.time_s))
    ctx.emit(StaffDismissed(organisation=organisation, party=msg.party))


def set_lapse(ctx: Ctx, tables: MembershipTables, msg: SetLapse) -> None:
    """Change the organisation's lapse period."""
    organisation, member = own_member(ctx, tables)
    require(LAPSE_MIN_DAYS <= msg.days <= LAPSE_MAX_DAYS, MembershipCode.LAPSE_OUT_OF_RANGE)
    tables.members.put(organisation, row=replace(member, lapse_days=msg.days))


def replace_authority(ctx: Ctx, tables: MembershipTables, msg: ReplaceAuthority) -> None:
    """Put another authority in the old one's place. Its own key must say so: staff are what the authority makes."""
    organisation, _ = own_member(ctx, tables)
    _require_authority(tables, msg.certificate, organisation, ctx.time_s)
    require(ctx.sender == organisation, MembershipCode.SENDER_NOT_MEMBER_KEY)
    tables.authorities.put(organisation, row=AuthorityRow(certificate=msg.certificate))
    ctx.emit(MemberAuthorityReplaced(member=organisation))


def certify(ctx: Ctx, tables: MembershipTables, organisation: bytes, certificate: StaffCertificate) -> None:
    """Take over from a certificate what an enrolled member of staff may do, and until when."""
    row = staff_party(tables, organisation, certificate.party)
    tables.parties.put(
        certificate.party,
        row=replace(
            row,
            roles=certificate.roles,
            valid_from_s=certificate.not_before_s,
            valid_until_s=certificate.until_s,
            last_used_day=ctx.day,
        ),
    )


def _live_member(tables: MembershipTables, organisation: bytes) -> MemberRow:
    member = present(tables.members.get(organisation), MembershipCode.MEMBER_UNKNOWN)
    require(not member.removed_s, MembershipCode.MEMBER_UNKNOWN)
    return member


def own_member(ctx: Ctx, tables: MembershipTables) -> tuple[bytes, MemberRow]:
    """The sender's organisation, which must be a member now."""
    organisation = ctx.party.organisation
    member = present(tables.members.get(organisation), MembershipCode.SENDER_NOT_OF_ORGANISATION)
    require(not member.removed_s, MembershipCode.SENDER_NOT_OF_ORGANISATION)
    return organisation, member


def read_certificate(
    ctx: Ctx,
    tables: MembershipTables,
    organisation: bytes,
    der: bytes,
    *,
    names: Callable[[StaffCertificate], bool],
) -> StaffCertificate:
    """A certificate of the organisation's present authority that is valid now.

    ``names`` says whether the party it names goes with the key in it: by the key's hash for a first certificate.
    """
    authority = present(tables.authorities.get(organisation), MembershipCode.CERTIFICATE_INVALID)
    try:
        certificate = read_staff(der, authority.certificate)
    except BadCertificate:
        raise Rejected(MembershipCode.CERTIFICATE_INVALID) from None
    require(names(certificate) and certificate.organisation == organisation, MembershipCode.CERTIFICATE_INVALID)
    require(ctx.time_s >= certificate.not_before_s, MembershipCode.CERTIFICATE_NOT_YET_VALID)
    require(ctx.time_s < certificate.until_s, MembershipCode.CERTIFICATE_EXPIRED)
    _require_authority(tables, authority.certificate, organisation, ctx.time_s)
    return certificate


def _named_by_its_key(certificate: StaffCertificate) -> bool:
    return certificate.party == party_id(certificate.suite, certificate.public_key)


def _require_authority(tables: MembershipTables, der: bytes, organisation: bytes, time_s: int) -> None:
    """Refuse an authority that is not the organisation's own, of another suite, or not valid now."""
    try:
        authority = read_authority(der)
    except BadCertificate:
        raise Rejected(MembershipCode.AUTHORITY_INVALID) from None
    require(authority.organisation == organisation, MembershipCode.AUTHORITY_INVALID)
    tables.require_suite(PartyKind.MEMBER, authority.suite)
    require(time_s >= authority.not_before_s, MembershipCode.AUTHORITY_NOT_YET_VALID)
    require(time_s < authority.until_s, MembershipCode.AUTHORITY_EXPIRED)


def staff_party(tables: MembershipTables, organisation: bytes, party: bytes) -> Party:
    """One of the organisation's staff who has not left."""
    row = present(tables.parties.get(party), MembershipCode.STAFF_UNKNOWN)
    require(row.kind is PartyKind.STAFF and row.organisation == organisation, MembershipCode.STAFF_UNKNOWN)
    require(not row.revoked_s, MembershipCode.STAFF_LEFT)
    return row


def _require_admissible(tables: MembershipTables, new: NewMember, time_s: int) -> bytes:
    require(PUBLIC_KEY_SIZE.get(new.suite) == len(new.public_key), MembershipCode.MEMBER_KEY_INVALID)
    tables.require_suite(PartyKind.MEMBER, new.suite)
    organisation = party_id(new.suite, new.public_key)
    require(not tables.key_taken(organisation), MembershipCode.MEMBER_EXISTS)
    require(sum(1 for _ in tables.live_members()) < MEMBERS, MembershipCode.TOO_MANY_MEMBERS)
    _require_authority(tables, new.authority, organisation, time_s)
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
    return [*broken, *_broken_keys(tables)]


def _broken_keys(tables: MembershipTables) -> list[str]:
    """A party's key is the one its id was made from, or one that it is noted to have changed to."""
    broken: list[str] = []
    for (party,), row in tables.parties.scan():
        key_id = party_id(row.suite, row.public_key)
        used, changed = tables.used_keys.get(key_id), tables.keys.get(party)
        if key_id == party and changed is not None:
            broken.append(f"party {party.hex()} has its first key again")
        if key_id != party and (used is None or used.party != party or changed is None):
            broken.append(f"party {party.hex()} has a key that it never changed to")
    return broken


# --- genesis --------------------------------------------------------------------------------------------


def genesis(
    tables: MembershipTables,
    members: tuple[NewMember, ...],
    producers: tuple[bytes, ...],
    time_s: int,
    institution: Institution,
) -> None:
    """The institutional suite, the founding members, and which of them produce the blocks."""
    tables.suite.put(0, row=SuiteRow(institution))
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
