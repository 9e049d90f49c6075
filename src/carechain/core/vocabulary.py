"""The field's own words as numbers: roles, purposes, categories, grades, actions.

Sets travel as bit masks (bit n stands for member n), so a scope has one encoding and a comparison is an
``and``. Numbers are append-only.
"""

from enum import IntEnum, IntFlag


class OrganisationKind(IntEnum):
    """The three kinds of member (ID-1)."""

    HOSPITAL = 1
    INSURER = 2
    GOVERNMENT = 3


class Role(IntEnum):
    """The roles of ID-2, and the registrar of ID-3. A bit mask of roles uses ``1 << role``."""

    PATIENT = 0
    FAMILY_MEMBER = 1
    DOCTOR = 2
    NURSE = 3
    LAB_TECHNICIAN = 4
    INSURANCE_AUDITOR = 5
    REGULATOR = 6
    RESEARCHER = 7
    EMERGENCY_RESPONDER = 8
    ORGANISATION_ADMIN = 9
    CONSORTIUM_ADMIN = 10
    REGISTRAR = 11


class PartyKind(IntEnum):
    """What a key belongs to."""

    MEMBER = 1
    STAFF = 2
    PSEUDONYM = 3
    REPRESENTATIVE = 4


class Purpose(IntEnum):
    """HL7 v3-ActReason PurposeOfUse codes."""

    TREAT = 0
    ETREAT = 1
    BTG = 2
    HPAYMT = 3
    HOPERAT = 4
    HRESCH = 5
    PUBHLTH = 6
    PATRQT = 7
    FAMRQT = 8
    PWATRNY = 9
    SUPNWK = 10
    CAREMGT = 11
    COVERAGE = 12
    CLMATTCH = 13


class Category(IntEnum):
    """What kind of record (REC-4). One record has one category."""

    DEMOGRAPHICS = 0
    ENCOUNTER = 1
    RESULT = 2
    AUTHORISATION = 3
    DIAGNOSIS = 4
    PRESCRIPTION = 5
    IMAGE = 6
    CLAIM = 7
    PATIENT_REPORTED = 8
    DOCUMENT = 9


class Sensitivity(IntEnum):
    """HL7 confidentiality grades as an ordered ceiling."""

    U = 0
    L = 1
    M = 2
    N = 3
    R = 4
    V = 5


class Action(IntFlag):
    """What a grant permits (CON-1, CON-11)."""

    READ = 1
    WRITE = 2
    DELEGATE = 4
    SUBMIT = 8
    SEND = 16
    NOTIFY = 32


class Power(IntFlag):
    """What a representative may do for a patient, in full or in part (CON-8)."""

    GRANT = 1
    REVOKE = 2
    ANSWER = 4
    READ_LOG = 8
    READ_RECORDS = 16
    RULES = 32
    ERASE = 64


class Contract(IntEnum):
    """The contracts as upgrades name them (LED-11): the word before the dot in a message's name."""

    MEMBERSHIP = 1
    RELATIONSHIPS = 2
    CONSENT = 3
    RECORDS = 4
    ACCESS = 5
    GOVERNANCE = 6
    VALIDATORS = 7
    SANCTIONS = 8
    KEYRING = 9
    RECOVERY = 10


FOUNDING_CONTRACTS = 10
"""Contracts up to this number are in force from the genesis on; a later one begins with a vote, at version 1."""

ALL_PURPOSES = (1 << len(Purpose)) - 1
ALL_CATEGORIES = (1 << len(Category)) - 1
ALL_ROLES = (1 << len(Role)) - 1
ALL_ACTIONS = int(Action.READ | Action.WRITE | Action.DELEGATE | Action.SUBMIT | Action.SEND | Action.NOTIFY)
ALL_POWERS = int(
    Power.GRANT | Power.REVOKE | Power.ANSWER | Power.READ_LOG | Power.READ_RECORDS | Power.RULES | Power.ERASE
)


def mask(*members: IntEnum) -> int:
    """The bit mask of the given members."""
    value = 0
    for member in members:
        value |= 1 << member
    return value


def in_mask(member: int, bits: int) -> bool:
    """Whether ``member`` is in the mask ``bits``."""
    return bool(bits >> member & 1)


def subset(inner: int, outer: int) -> bool:
    """Whether every member of ``inner`` is in ``outer``."""
    return inner & ~outer == 0
