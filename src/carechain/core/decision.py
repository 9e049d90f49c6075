"""The outcome of the one access decision (DESIGN section 6): what allowed it, or the first check that failed."""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from carechain.core.ids import U16, Id
from carechain.core.limits import GRANT_DEPTH
from carechain.core.message import Row
from carechain.core.rejection import RejectionCode


class DecisionCode(RejectionCode):
    """Why a ticket says refused. The order is the order of the checks: member, role, authorised by the patient."""

    REQUESTER_NOT_LIVE = 650, "Check 1, member: the requester's certificate or organisation is not live."
    ROLE_MAY_NOT_REQUEST = 651, "Check 2, role: this role, or this purpose for this role, may not request records."
    DENIED_BY_PATIENT = 652, "Check 3, authorised: a standing rule of the patient denies it. Request less, or ask."
    NO_GRANT = 653, "Check 3, authorised: nothing live covers this requester. Ask the patient for a grant."
    GRANT_NOT_LIVE = 654, "Check 3, authorised: the grant, or one it hangs from, was revoked or has expired."
    ACTION_NOT_GRANTED = 655, "Check 3, authorised: the grant does not permit this action."
    PURPOSE_NOT_COVERED = 656, "Check 3, authorised: the grant is for another purpose."
    SCOPE_NOT_COVERED = 657, "Check 3, authorised: the request reaches beyond the grant. Request less, or ask."


class PathKind(IntEnum):
    """What allowed an access."""

    OWNER = 1
    REPRESENTATIVE = 2
    GRANT = 3
    RULE = 4
    POLICY = 5


class Path(Row, frozen=True):
    """The path that allowed an access: for a grant, the grant ids from the root to the leaf; for a rule its number."""

    kind: PathKind
    grants: Annotated[tuple[Id, ...], Meta(max_length=GRANT_DEPTH)] = ()
    rule: U16 = 0
