"""Whom a committed event, a receipt or a block concerns: the third check of CON-3 for everything that is not a query.

Deny by default: an event without a rule below is shown to regulators only. A rule never shows what the query of the
same subject would refuse; ids of other patients, of other grantees and of what an asker may not list stay hidden.
The asker's standing is the caller's to check, because it is the same for all events.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from msgspec.structs import replace

from carechain.chain.asking import erasure_reader, recovery_reader
from carechain.chain.queries import Asker, QueryCode, View, ask, log_reader, patient_side
from carechain.chain.questions import OfPseudonym
from carechain.chain.questions import OfRecord as AboutRecord
from carechain.chain.receipts import FullReceipt
from carechain.contracts import (
    access,
    governance,
    membership,
    records,
    recovery,
    relationships,
    upgrades,
    validators,
)
from carechain.contracts.consent import schema as consent
from carechain.contracts.keyring import schema as keys
from carechain.contracts.roles import may_ask
from carechain.core.message import Event
from carechain.core.rejection import Rejected, require
from carechain.core.vocabulary import PartyKind, Role


class Sight(Enum):
    """How much of a receipt an asker sees."""

    NOTHING = 0
    OWN_EVENTS = 1
    """Outcome and the events that concern the asker, without the transaction itself."""
    WHOLE = 2


def require_live(view: View, asker: Asker | None) -> Asker:
    """The first check of CON-3, for paths that are not queries; raises :class:`Rejected`."""
    if asker is None or view.contracts.membership.standing(asker.party, view.time_s) is not None:
        raise Rejected(QueryCode.NOT_A_LIVE_MEMBER)
    return asker


def require_block_reader(asker: Asker) -> None:
    """Raw blocks are for an organisation's own key and for its administrators and regulators (LED-15)."""
    own_key = asker.party.kind is PartyKind.MEMBER
    reader = asker.party.has_role(Role.REGULATOR) or asker.party.has_role(Role.ORGANISATION_ADMIN)
    require(own_key or (asker.party.kind is PartyKind.STAFF and reader), QueryCode.ROLE_MAY_NOT_ASK)


def sees(view: View, asker: Asker, event: Event) -> bool:
    """Whether the event concerns the asker. Judged by the state of ``view``: rights that ended show nothing."""
    if asker.party.has_role(Role.REGULATOR):
        return True
    rule = RULES.get(type(event))
    return rule is not None and rule(view, asker, event)


def sight_of(view: View, asker: Asker, receipt: FullReceipt) -> Sight:
    """How much of a receipt the asker sees: its signer and regulators all, those concerned their events."""
    if asker.id == receipt.signer or asker.party.has_role(Role.REGULATOR):
        return Sight.WHOLE
    return Sight.OWN_EVENTS if any(sees(view, asker, event) for event in receipt.events) else Sight.NOTHING


def shown(view: View, asker: Asker, event: Event) -> Event | None:
    """The event as the asker may see it, or None. A grantee is not told who else was granted the same."""
    if not sees(view, asker, event):
        return None
    if not isinstance(event, consent.Granted) or asker.party.has_role(Role.REGULATOR):
        return event
    if _patients_side(view, asker, event):
        return event
    return replace(event, grantees=tuple(one for one in event.grantees if asker.id == one or _of(asker, one)))


# --- the rules ------------------------------------------------------------------------------------------
# A rule for several kinds of event reads the fields they share, hence Any.


def _everyone(_view: View, _asker: Asker, _event: Event) -> bool:
    return True


def _staff(_view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    return asker.id == event.party or (_of(asker, event.organisation) and _may_ask(asker, "membership.staff"))


def _bound(_view: View, asker: Asker, event: relationships.Bound) -> bool:
    return asker.id == event.pseudonym or (_of(asker, event.organisation) and _may_ask(asker, "relationships.patients"))


def _left(view: View, asker: Asker, event: relationships.Left) -> bool:
    return asker.id == event.pseudonym or (
        _keeps(view, asker, event.pseudonym) and _may_ask(asker, "relationships.patients")
    )


def _the_patient(_view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    return bool(asker.id == event.pseudonym)


def _patients_side(view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    return patient_side(view, asker, OfPseudonym(event.pseudonym))


def _granted(view: View, asker: Asker, event: consent.Granted) -> bool:
    return _patients_side(view, asker, event) or _holds(asker, event.grantees)


def _grant_changed(view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    return _patients_side(view, asker, event) or _party_to_grant(view, asker, event.pseudonym, event.grant_id)


def _asked(view: View, asker: Asker, event: consent.Asked) -> bool:
    return asker.id == event.requester or _patients_side(view, asker, event)


def _answered(view: View, asker: Asker, event: consent.Answered) -> bool:
    if _patients_side(view, asker, event):
        return True
    return event.grant_id is not None and _party_to_grant(view, asker, event.pseudonym, event.grant_id)


def _representative(view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    return asker.id == event.representative or _patients_side(view, asker, event)


def _anchored(view: View, asker: Asker, event: records.Anchored) -> bool:
    if asker.id == event.pseudonym:
        return True
    if asker.party.kind is PartyKind.REPRESENTATIVE:
        try:
            ask(view, asker, "records.anchor", AboutRecord(pseudonym=event.pseudonym, record=event.record))
        except Rejected:
            return False
        return True
    return _keeps(view, asker, event.pseudonym) and _may_ask(asker, "records.timeline")


def _erased(view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    about = AboutRecord(pseudonym=event.pseudonym, record=event.record)
    return _may_ask(asker, "records.erasure") and erasure_reader(view, asker, about)


def _decided(view: View, asker: Asker, event: access.Decided) -> bool:
    return asker.id == event.requester or _reads_log(view, asker, event.pseudonym)


def _about_ticket(view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    if _reads_log(view, asker, event.pseudonym):
        return True
    row = view.contracts.access.tickets.get(event.ticket)
    return row is not None and asker.id == row.requester


def _votes(_view: View, asker: Asker, _event: Event) -> bool:
    return _may_ask(asker, "governance.proposals")


def _agreements(_view: View, asker: Asker, _event: Event) -> bool:
    return _may_ask(asker, "governance.agreements")


def _seats(_view: View, asker: Asker, _event: Any) -> bool:  # noqa: ANN401
    return _may_ask(asker, "validators.list")


def _own_nodes(_view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    """Where nodes come and go concerns their organisation alone: in a hub nobody learns of another's (LED-4)."""
    return _of(asker, event.organisation) and _may_ask(asker, "validators.nodes")


def _keyholders(_view: View, asker: Asker, _event: Any) -> bool:  # noqa: ANN401
    return _may_ask(asker, "keyring.ceremony")


def _rotated(view: View, asker: Asker, event: membership.KeyRotated) -> bool:
    """A member's change is everybody's business; staff's their organisation's, a patient's that of their own side."""
    party = view.contracts.membership.party(event.party)
    if party is None or asker.id == event.party or party.kind is PartyKind.MEMBER:
        return party is not None
    if party.kind is PartyKind.STAFF:
        return _of(asker, party.organisation) and _may_ask(asker, "membership.staff")
    patient = event.party if party.kind is PartyKind.PSEUDONYM else party.organisation
    return patient_side(view, asker, OfPseudonym(patient))


def _recovery(view: View, asker: Asker, event: Any) -> bool:  # noqa: ANN401
    return _may_ask(asker, "recovery.pending") and recovery_reader(view, asker, OfPseudonym(event.pseudonym))


RULES: Final[dict[type[Event], Callable[[View, Asker, Any], bool]]] = {
    membership.MemberAdmitted: _everyone,
    membership.MemberRemoved: _everyone,
    membership.MemberAuthorityReplaced: _everyone,
    membership.StaffEnrolled: _staff,
    membership.StaffRenewed: _staff,
    membership.StaffDismissed: _staff,
    membership.KeyRotated: _rotated,
    relationships.Bound: _bound,
    relationships.SummaryStored: _the_patient,
    relationships.Left: _left,
    consent.Granted: _granted,
    consent.Changed: _grant_changed,
    consent.Revoked: _grant_changed,
    consent.Asked: _asked,
    consent.Answered: _answered,
    consent.Withdrawn: _patients_side,
    consent.RuleChanged: _patients_side,
    consent.Appointed: _representative,
    consent.Dismissed: _representative,
    records.Anchored: _anchored,
    records.Erased: _erased,
    records.ErasureConfirmed: _erased,
    access.Decided: _decided,
    access.Released: _about_ticket,
    access.SharesReleased: _about_ticket,
    access.TicketRevoked: _about_ticket,
    governance.Proposed: _votes,
    governance.Closed: _votes,
    governance.ProposalWithdrawn: _votes,
    upgrades.UpgradeVoted: _votes,
    validators.KeyAnnounced: _seats,
    validators.SeatChanged: _seats,
    validators.RotationChanged: _seats,
    validators.NodeRegistered: _own_nodes,
    validators.NodeRetired: _own_nodes,
    keys.CeremonyOpened: _keyholders,
    keys.RoundOpened: _keyholders,
    keys.Convicted: _keyholders,
    keys.CeremonyDone: _everyone,
    keys.CeremonyFailed: _keyholders,
    keys.HolderCaught: _keyholders,
    keys.HolderLeft: _keyholders,
    governance.AgreementMade: _agreements,
    recovery.PolicySet: _recovery,
    recovery.Started: _recovery,
    recovery.Advanced: _recovery,
    recovery.Vetoed: _recovery,
    recovery.Ended: _recovery,
    recovery.Recovered: _recovery,
    governance.AgreementEnded: _agreements,
}


def _may_ask(asker: Asker, query: str) -> bool:
    return may_ask(asker.party, query)


def _reads_log(view: View, asker: Asker, pseudonym: bytes) -> bool:
    """Whether the asker may read the access log: events about tickets are the log's lines, one by one."""
    return _may_ask(asker, "access.log") and log_reader(view, asker, OfPseudonym(pseudonym))


def _of(asker: Asker, organisation: bytes) -> bool:
    """Whether the asker is the organisation or one of its staff."""
    return asker.party.kind in (PartyKind.MEMBER, PartyKind.STAFF) and asker.party.organisation == organisation


def _keeps(view: View, asker: Asker, pseudonym: bytes) -> bool:
    patient = view.contracts.membership.party(pseudonym)
    return patient is not None and _of(asker, patient.organisation)


def _holds(asker: Asker, grantees: tuple[bytes, ...]) -> bool:
    held = asker.id in grantees or any(_of(asker, one) for one in grantees)
    return held and _may_ask(asker, "consent.granted_to")


def _party_to_grant(view: View, asker: Asker, pseudonym: bytes, grant_id: bytes) -> bool:
    row = view.contracts.consent.tables.grants.get(pseudonym, grant_id)
    return row is not None and (asker.id == row.grantor or _holds(asker, row.grantees))
