"""The roles of ID-2 and what each may send and ask: the second check of CON-3, as a table (docs are made from it)."""

from typing import Final

from msgspec import Struct

from carechain.core.party import Party
from carechain.core.vocabulary import OrganisationKind, Role, mask, subset


class Rights(Struct, frozen=True, kw_only=True):
    """What a role may send and ask. Deny by default: what is not listed is refused."""

    messages: tuple[str, ...]
    queries: tuple[str, ...]
    kinds: tuple[OrganisationKind, ...] = ()
    """The organisation kinds whose staff may hold the role; empty for roles that are not staff."""


_GUARDIAN: Final = ("recovery.approve", "recovery.finish", "recovery.start", "recovery.withdraw")
"""Anybody may be named a guardian; the patient's policy says who was."""
_GUARDIAN_QUERIES: Final = ("recovery.pending", "recovery.policy")
_OWN_RECORD: Final = (
    "access.request",
    "access.revoke_ticket",
    "consent.answer",
    "consent.drop_rule",
    "consent.extend",
    "consent.grant",
    "consent.narrow",
    "consent.revoke",
    "consent.set_rule",
    "keyring.accuse",
    "records.erase",
    *_GUARDIAN,
    "membership.rotate_key",
    "recovery.veto",
)
_OWN_QUERIES: Final = (
    "access.log",
    "access.log_head",
    "access.may_read",
    "access.ticket",
    "consent.grants",
    "consent.inbox",
    "consent.representatives",
    "consent.rules",
    "consent.who_can_see",
    "keyring.key",
    "membership.member",
    "membership.members",
    "membership.party",
    "records.anchor",
    "records.erasure",
    "records.history",
    "records.timeline",
    *_GUARDIAN_QUERIES,
)
_REQUESTER: Final = (
    "access.request",
    "access.revoke_ticket",
    "consent.ask",
    "consent.renounce",
    "consent.withdraw",
    "keyring.accuse",
    *_GUARDIAN,
)
_CLINICIAN_MESSAGES: Final = (
    *_REQUESTER,
    "consent.extend",
    "consent.grant",
    "consent.narrow",
    "consent.revoke",
    "records.anchor",
)
_STAFF_QUERIES: Final = (
    "access.may_read",
    "access.ticket",
    "consent.granted_to",
    "keyring.key",
    "membership.member",
    "membership.members",
    "membership.party",
    "records.anchor",
    "records.history",
    "records.timeline",
    *_GUARDIAN_QUERIES,
)
_CONSORTIUM_QUERIES: Final = (
    "governance.agreements",
    "governance.proposals",
    "governance.versions",
    "keyring.ceremony",
    "keyring.misdeeds",
    "sanctions.list",
    "validators.list",
)
_HOSPITAL: Final = OrganisationKind.HOSPITAL
_INSURER: Final = OrganisationKind.INSURER
_GOVERNMENT: Final = OrganisationKind.GOVERNMENT

ROLES: Final[dict[Role, Rights]] = {
    Role.PATIENT: Rights(
        messages=(
            *_OWN_RECORD,
            "consent.appoint",
            "consent.dismiss",
            "records.anchor",
            "recovery.set_policy",
            "relationships.leave",
            "relationships.put_summary",
        ),
        queries=(*_OWN_QUERIES, "relationships.relation", "relationships.summary"),
    ),
    Role.FAMILY_MEMBER: Rights(messages=_OWN_RECORD, queries=_OWN_QUERIES),
    Role.DOCTOR: Rights(messages=_CLINICIAN_MESSAGES, queries=_STAFF_QUERIES, kinds=(_HOSPITAL, _GOVERNMENT)),
    Role.NURSE: Rights(messages=_CLINICIAN_MESSAGES, queries=_STAFF_QUERIES, kinds=(_HOSPITAL,)),
    Role.LAB_TECHNICIAN: Rights(
        messages=(*_REQUESTER, "records.anchor"),
        queries=_STAFF_QUERIES,
        kinds=(_HOSPITAL,),
    ),
    Role.INSURANCE_AUDITOR: Rights(
        messages=_REQUESTER,
        queries=_STAFF_QUERIES,
        kinds=(_INSURER,),
    ),
    Role.REGULATOR: Rights(
        messages=("access.request", "access.revoke_ticket", "keyring.accuse", *_GUARDIAN),
        queries=(*_STAFF_QUERIES, *_CONSORTIUM_QUERIES, "access.log", "access.log_head", "records.erasure"),
        kinds=(_GOVERNMENT,),
    ),
    Role.RESEARCHER: Rights(
        messages=_REQUESTER,
        queries=_STAFF_QUERIES,
        kinds=(_GOVERNMENT, _HOSPITAL),
    ),
    Role.EMERGENCY_RESPONDER: Rights(
        messages=_REQUESTER,
        queries=_STAFF_QUERIES,
        kinds=(_GOVERNMENT, _HOSPITAL),
    ),
    Role.ORGANISATION_ADMIN: Rights(
        messages=(
            *_GUARDIAN,
            "access.report",
            "access.report_shares",
            "consent.renounce",
            "governance.accept_agreement",
            "governance.end_agreement",
            "governance.offer_agreement",
            "keyring.check",
            "keyring.close_round",
            "keyring.deal",
            "keyring.expose",
            "keyring.extract",
            "keyring.join",
            "keyring.judge",
            "keyring.lose_share",
            "membership.dismiss_staff",
            "membership.enrol_staff",
            "membership.renew_staff",
            "membership.replace_authority",
            "membership.rotate_key",
            "membership.rotate_staff",
            "membership.set_lapse",
            "records.confirm_erasure",
            "relationships.bind",
            "validators.announce_key",
            "validators.register_node",
            "validators.retire_node",
        ),
        queries=(
            *_STAFF_QUERIES,
            *_CONSORTIUM_QUERIES,
            "access.log",
            "access.log_head",
            "membership.staff",
            "records.erasure",
            "relationships.patients",
            "relationships.relation",
            "validators.nodes",
        ),
        kinds=(_HOSPITAL, _INSURER, _GOVERNMENT),
    ),
    Role.CONSORTIUM_ADMIN: Rights(
        messages=("governance.propose", "governance.vote", "governance.withdraw_proposal", *_GUARDIAN),
        queries=(*_CONSORTIUM_QUERIES, *_GUARDIAN_QUERIES, "keyring.key", "membership.member", "membership.members"),
        kinds=(_HOSPITAL, _INSURER, _GOVERNMENT),
    ),
    Role.REGISTRAR: Rights(
        messages=("relationships.bind", *_GUARDIAN),
        queries=(
            *_GUARDIAN_QUERIES,
            "membership.member",
            "membership.members",
            "membership.party",
            "relationships.patients",
            "relationships.relation",
        ),
        kinds=(_HOSPITAL, _INSURER, _GOVERNMENT),
    ),
}

ROLE_MESSAGES: Final = {role: rights.messages for role, rights in ROLES.items()}
ROLE_QUERIES: Final = {role: rights.queries for role, rights in ROLES.items()}
MEMBER_ROLES: Final = mask(Role.ORGANISATION_ADMIN, Role.CONSORTIUM_ADMIN)
"""An organisation's own key administers it and speaks for it in the consortium."""

_SENDERS: Final[dict[str, int]] = {
    tag: mask(*(role for role in ROLES if tag in ROLES[role].messages))
    for tag in sorted({tag for rights in ROLES.values() for tag in rights.messages})
}
_ASKERS: Final[dict[str, int]] = {
    name: mask(*(role for role in ROLES if name in ROLES[role].queries))
    for name in sorted({name for rights in ROLES.values() for name in rights.queries})
}


def may_send(party: Party, tag: str) -> bool:
    """The second check: whether one of the party's roles lists this message."""
    return bool(party.roles & _SENDERS.get(tag, 0))


def may_ask(party: Party, query: str) -> bool:
    """The second check for queries."""
    return bool(party.roles & _ASKERS.get(query, 0))


def roles_fit(kind: OrganisationKind, roles: int) -> bool:
    """Whether staff of an organisation of this kind may hold all of ``roles``."""
    return roles > 0 and subset(roles, mask(*(role for role, rights in ROLES.items() if kind in rights.kinds)))
