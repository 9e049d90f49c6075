"""Consent, the words: codes, messages, events and tables (CON-1 … CON-9)."""

from enum import IntEnum
from typing import Annotated, Final

from msgspec import Meta

from carechain.core.ids import U8, U16, U32, U63, GrantId, PartyId, RequestId
from carechain.core.limits import GRANT_GRANTEES, GRANTS_PER_PAIR, ID_SIZE, SIGNATURE_SIZE
from carechain.core.message import Event, Message, Row
from carechain.core.party import HpkeKey, PublicKey
from carechain.core.rejection import RejectionCode
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.vocabulary import OrganisationKind, Purpose, Role, Sensitivity, mask
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class ConsentCode(RejectionCode):
    """Why a change of consent is rejected."""

    PSEUDONYM_UNKNOWN = 401, "No such patient pseudonym."
    SCOPE_MALFORMED = 402, "Name at least one category, a possible date window, and records sorted without repeats."
    ACTIONS_MALFORMED = 403, "Name at least one known action."
    PURPOSES_MALFORMED = 404, "Name at least one known purpose."
    GRANTEES_MALFORMED = 405, "Name 1 to 16 grantees, sorted and without repeats, none of them the patient."
    EXPIRY_NOT_IN_FUTURE = 406, "The expiry is not after the ledger's time."
    EXPIRY_TOO_FAR = 407, "The expiry is too far ahead."
    GRANTEE_UNKNOWN = 408, "A grantee is not a live party of the consortium."
    PARENT_NOT_FOUND = 409, "No such parent grant at this pseudonym."
    PARENT_NOT_LIVE = 410, "The parent grant, or one it hangs from, was revoked or has expired."
    SENDER_NOT_GRANTOR = 411, "Only the patient, an empowered representative or an entitled grantee may grant this."
    DELEGATION_NOT_ALLOWED = 412, "The parent grant does not permit passing it on."
    TREE_TOO_DEEP = 413, "The consent tree may be 8 grants deep."
    WIDER_THAN_PARENT = 414, "A grant passes on at most what its parent has."
    WIDER_THAN_POWERS = 415, "A representative acts only within the scope the patient gave."
    TOO_MANY_GRANTS = 416, "This pseudonym has too many live grants. Revoke some."
    TOO_MANY_GRANTS_TO_GRANTEE = 417, "This grantee has too many live grants here. Revoke some."
    GRANT_NOT_FOUND = 418, "No such grant at this pseudonym."
    GRANT_ENDED = 419, "The grant was revoked or has expired."
    NOT_NARROWER = 420, "Narrowing may only take away."
    NOT_WIDER = 421, "Extending may only add."
    SENDER_NOT_GRANTEE = 422, "Only a grantee may give up its own rights."
    REQUEST_NOT_FOUND = 423, "No such pending request."
    REQUEST_EXPIRED = 424, "The request has expired. Ask again."
    REQUEST_EXISTS = 425, "You have too many pending requests to this patient. Wait for an answer, or withdraw."
    INBOX_FULL = 426, "This patient's inbox is full."
    ANSWER_WIDER_THAN_REQUEST = 427, "An approval may narrow the request, not widen it."
    SENDER_NOT_REQUESTER = 428, "Only the requester may withdraw."
    RULE_MALFORMED = (
        429,
        "A permission names whom it is for; a denial has the ceiling V; use known kinds and roles.",
    )
    RULE_NOT_FOUND = 430, "No such standing rule."
    TOO_MANY_RULES = 431, "This pseudonym has too many standing rules."
    REPRESENTATIVE_EXISTS = 432, "This key is in use. A representative uses a key of its own for each patient."
    REPRESENTATIVE_NOT_FOUND = 433, "No such live representative."
    REPRESENTATIVE_PROOF_INVALID = 434, "The representative's acceptance does not fit the patient and the keys."
    POWERS_MALFORMED = 435, "Name at least one known power."
    TOO_MANY_REPRESENTATIVES = 436, "This pseudonym has too many representatives."
    ONLY_STAFF_MAY_ASK = 437, "Only staff of a member organisation may ask."
    SENDER_NOT_PATIENT = 438, "Only the patient may do this, with this pseudonym's own key."
    OUTSIDE_POLICY = 439, "An author grants only reading, to staff, on records and for purposes the policy lets in."
    AUTHOR_GRANT_TOO_LONG = 440, "An author grants for 90 days at most. Ask the patient for more."
    OUTLIVES_POWERS = 441, "What a representative sets ends with the appointment at the latest. Name an earlier end."
    ROOM_KEPT_FOR_PATIENT = 442, "The room that is left is kept for the patient's own grants. Revoke some of yours."
    ORGANISATION_ASKS_TOO_MUCH = (
        443,
        "Your organisation has too many pending requests to this patient. Wait for answers, or withdraw some.",
    )
    TOO_MANY_ROWS = 444, "The answer would look at too many rows. Revoke grants that are no longer needed."


# --- messages -------------------------------------------------------------------------------------------

Grantees = Annotated[tuple[PartyId, ...], Meta(min_length=1, max_length=GRANT_GRANTEES)]
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class Answer(IntEnum):
    """What a standing rule, or a patient, says to a request."""

    ALLOW = 1
    ASK = 2
    DENY = 3


class Who(Row, frozen=True):
    """Whom a standing rule is about: every field that is set must match. Kinds and roles are masks."""

    party: PartyId | None = None
    organisation: PartyId | None = None
    kinds: U16 = 0
    roles: U16 = 0


class Grant(Message, frozen=True, tag="consent.grant"):
    """Let parties read, write or pass on part of a record. With several grantees it is a consultation (REC-10)."""

    pseudonym: PartyId
    grantees: Grantees
    parent: GrantId | None
    scope: Scope
    actions: U8
    purposes: U16
    expires_s: U63


class Narrow(Message, frozen=True, tag="consent.narrow"):
    """Take away from a grant; everything below it is narrowed with it."""

    pseudonym: PartyId
    grant_id: GrantId
    scope: Scope
    actions: U8
    purposes: U16
    expires_s: U63


class Extend(Message, frozen=True, tag="consent.extend"):
    """Add to a grant, within what its grantor may grant."""

    pseudonym: PartyId
    grant_id: GrantId
    scope: Scope
    actions: U8
    purposes: U16
    expires_s: U63


class Revoke(Message, frozen=True, tag="consent.revoke"):
    """End a grant and its whole subtree."""

    pseudonym: PartyId
    grant_id: GrantId


class Renounce(Message, frozen=True, tag="consent.renounce"):
    """Give up one's own rights (CON-4): for oneself, or as administrator for one's organisation."""

    pseudonym: PartyId
    grant_id: GrantId


class Ask(Message, frozen=True, tag="consent.ask"):
    """Ask the patient for a grant to the sender (CON-5). Standing rules may answer at once."""

    pseudonym: PartyId
    scope: Scope
    actions: U8
    purpose: Purpose
    expires_s: U63


class AnswerRequest(Message, frozen=True, tag="consent.answer"):
    """Approve, narrow or deny a pending request. ``scope`` is what is granted when approved."""

    pseudonym: PartyId
    request_id: RequestId
    approve: bool
    scope: Scope
    expires_s: U63


class Withdraw(Message, frozen=True, tag="consent.withdraw"):
    """Take back one's own pending request."""

    pseudonym: PartyId
    request_id: RequestId


class SetRule(Message, frozen=True, tag="consent.set_rule"):
    """Set or replace the standing rule with this number: it answers requests for the patient (CON-5, CON-6)."""

    pseudonym: PartyId
    rule: U16
    who: Who
    purposes: U16
    scope: Scope
    answer: Answer
    expires_s: U63


class DropRule(Message, frozen=True, tag="consent.drop_rule"):
    """Remove a standing rule."""

    pseudonym: PartyId
    rule: U16


class Appoint(Message, frozen=True, tag="consent.appoint"):
    """Let a family member or guardian act for the patient, in full or in part (CON-8).

    ``proof`` is the representative's own signature over all the rest: nobody is made a representative unasked.
    """

    pseudonym: PartyId
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    proof: Signature
    powers: U8
    scope: Scope
    expires_s: U63


class Dismiss(Message, frozen=True, tag="consent.dismiss"):
    """End a representative's powers."""

    pseudonym: PartyId
    representative: PartyId


# --- events ---------------------------------------------------------------------------------------------


class Granted(Event, frozen=True, tag="consent.granted"):
    """A grant exists."""

    pseudonym: PartyId
    grant_id: GrantId
    grantees: Grantees
    expires_s: U63


class Changed(Event, frozen=True, tag="consent.changed"):
    """A grant was narrowed or extended."""

    pseudonym: PartyId
    grant_id: GrantId


class Revoked(Event, frozen=True, tag="consent.revoked"):
    """A grant and its subtree ended."""

    pseudonym: PartyId
    grant_id: GrantId


class Asked(Event, frozen=True, tag="consent.asked"):
    """A request waits in the patient's inbox."""

    pseudonym: PartyId
    request_id: RequestId
    requester: PartyId


class Answered(Event, frozen=True, tag="consent.answered"):
    """A request left the inbox, answered by the patient or by a rule."""

    pseudonym: PartyId
    request_id: RequestId
    answer: Answer
    grant_id: GrantId | None


class Withdrawn(Event, frozen=True, tag="consent.withdrawn"):
    """A request was taken back."""

    pseudonym: PartyId
    request_id: RequestId


class RuleChanged(Event, frozen=True, tag="consent.rule_changed"):
    """A standing rule was set or dropped."""

    pseudonym: PartyId
    rule: U16


class Appointed(Event, frozen=True, tag="consent.appointed"):
    """A representative may act."""

    pseudonym: PartyId
    representative: PartyId


class Dismissed(Event, frozen=True, tag="consent.dismissed"):
    """A representative may no longer act."""

    pseudonym: PartyId
    representative: PartyId


REQUEST_TRANSITIONS: Final = (
    ("pending", "consent.answer", "granted"),
    ("pending", "consent.answer", "denied"),
    ("pending", "consent.withdraw", "withdrawn"),
    ("pending", "the ledger's time", "expired"),
)
"""The life of a request. Ended requests leave the state; their end stays in receipts and events."""


# --- tables ---------------------------------------------------------------------------------------------


class GrantRow(Row, frozen=True):
    """A node of the tree. ``revoked_s`` is 0 while it is live; ``depth`` is 0 for a root."""

    grantor: PartyId
    grantees: tuple[PartyId, ...]
    parent: GrantId | None
    scope: Scope
    actions: U8
    purposes: U16
    expires_s: U63
    depth: U8
    granted_s: U63
    revoked_s: U63 = 0


class HeldRow(Row, frozen=True):
    """What one grantee holds of one pseudonym: the grants that were not revoked, oldest first."""

    grants: Annotated[tuple[GrantId, ...], Meta(max_length=GRANTS_PER_PAIR)]


class RequestRow(Row, frozen=True):
    """A request that waits for the patient. ``organisation`` is the requester's, whose staff share a bound."""

    requester: PartyId
    scope: Scope
    actions: U8
    purpose: Purpose
    expires_s: U63
    asked_s: U63
    until_s: U63
    organisation: PartyId = bytes(ID_SIZE)


class RuleRow(Row, frozen=True):
    """A standing rule."""

    who: Who
    purposes: U16
    scope: Scope
    answer: Answer
    expires_s: U63


class RepresentativeRow(Row, frozen=True):
    """What a representative may do for the patient, and on which part of the record."""

    powers: U8
    scope: Scope
    expires_s: U63
    appointed_s: U63
    dismissed_s: U63 = 0


class TreatmentPolicy(Row, frozen=True):
    """Use by covered entities without separate authorisation (CON-6): set at genesis, off by default.

    ``kinds`` and ``roles`` are masks of who may use it, ``agreement_required`` asks for a business associate
    agreement between the custodian and the requester's organisation, ``authors_may_grant`` lets authors grant
    on single records they wrote.
    """

    enabled: bool = False
    purposes: U16 = mask(Purpose.TREAT, Purpose.HPAYMT, Purpose.HOPERAT)
    kinds: U16 = mask(OrganisationKind.HOSPITAL)
    roles: U16 = mask(Role.DOCTOR, Role.NURSE)
    scope: Scope = Scope(categories=EVERYTHING.categories, ceiling=Sensitivity.N)
    agreement_required: bool = True
    authors_may_grant: bool = False


class StandingRow(Row, frozen=True):
    """A grant that was not revoked. Its key says all there is to say; the grant itself is in its own table."""


class HeadRow(Row, frozen=True):
    """How many grants of a pseudonym were not revoked."""

    grants: U32


GRANTS: Final = TableSpec(
    name="consent.grants", prefix=0x30, key=(32, 32), row=GrantRow, note="pseudonym, grant → node of the consent tree"
)
HELD: Final = TableSpec(
    name="consent.held", prefix=0x31, key=(32, 32), row=HeldRow, note="grantee, pseudonym → grants held"
)
REQUESTS: Final = TableSpec(
    name="consent.requests", prefix=0x32, key=(32, 32), row=RequestRow, note="pseudonym, request → pending request"
)
RULES: Final = TableSpec(
    name="consent.rules", prefix=0x33, key=(32, 2), row=RuleRow, note="pseudonym, number → standing rule"
)
REPRESENTATIVES: Final = TableSpec(
    name="consent.representatives",
    prefix=0x34,
    key=(32, 32),
    row=RepresentativeRow,
    note="pseudonym, representative → powers",
)
POLICY: Final = TableSpec(
    name="consent.policy", prefix=0x35, key=(1,), row=TreatmentPolicy, note="the treatment policy of the genesis"
)
HEADS: Final = TableSpec(name="consent.heads", prefix=0x36, key=(32,), row=HeadRow, note="pseudonym → counters")
STANDING: Final = TableSpec(
    name="consent.standing", prefix=0x37, key=(32, 32), row=StandingRow, note="pseudonym, grant → not revoked"
)


class ConsentTables:
    """The tables of this contract."""

    __slots__ = ("grants", "heads", "held", "policy_table", "representatives", "requests", "rules", "standing")

    def __init__(self, state: Overlay) -> None:
        self.grants = GRANTS.bind(state)
        self.held = HELD.bind(state)
        self.requests = REQUESTS.bind(state)
        self.rules = RULES.bind(state)
        self.representatives = REPRESENTATIVES.bind(state)
        self.policy_table = POLICY.bind(state)
        self.heads = HEADS.bind(state)
        self.standing = STANDING.bind(state)

    def policy(self) -> TreatmentPolicy:
        """The treatment policy in force."""
        return self.policy_table.get(0) or TreatmentPolicy()
