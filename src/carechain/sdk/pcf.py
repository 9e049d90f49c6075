"""A Consent as messages of the ledger: what a patient signs to put an IHE PCF consent into force (CON-10).

A permission becomes one grant for each box that is left of it once its exceptions are taken out; a denial becomes
standing rules that say deny. An exception for certain recipients only, or for single records, cannot be taken out of a
grant: it becomes a denial about those, which stops other grants too. A denial with an exception leaves the exception
out of what it denies; nobody gains by that who is not granted it. Everything else is refused by name.

The way out, from the ledger to a Consent, is :mod:`carechain.sdk.pcf_writing`.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, tzinfo
from typing import Final, Protocol

from msgspec import Struct

from carechain.contracts.consent.schema import Answer, DropRule, Grant, Revoke, SetRule, Who
from carechain.core.limits import GRANT_LIFETIME_S, SCOPE_RECORDS, STANDING_RULES_PER_PSEUDONYM, TX_MESSAGES
from carechain.core.message import Message
from carechain.core.rejection import Rejected, present, require
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Sensitivity
from carechain.sdk.pcf_box import Box, all_without
from carechain.sdk.pcf_codes import DocumentCode as Code
from carechain.sdk.pcf_reading import Consent, Named, Provision, names_patient, read_consent
from carechain.sdk.pcf_terms import GRANT, PARTY, PEOPLE, RECORD, RULE, id_in, read_people

__all__ = ["OPEN_END_S", "Code", "Held", "Naming", "Table", "to_messages"]

OPEN_END_S: Final = GRANT_LIFETIME_S - DAY_S
"""How long a Consent without an end lasts: nearly as long as the ledger lets a grant last."""
_RULE_NUMBERS: Final = 1 << 16
Recipient = bytes | Who


class Held(Struct, frozen=True, kw_only=True):
    """The record that a resource lies in, and the references (``Type/id``) of everything in that record."""

    record: bytes
    holds: frozenset[str]


class Naming(Protocol):
    """Who and what the references in a Consent mean here. What names a party or a record by its id is not asked."""

    def parties(self, reference: str) -> Collection[bytes]:
        """The parties behind a reference, several behind a Group; none where it is unknown."""

    def record(self, reference: str) -> Held | None:
        """The record that a resource lies in; None where it is unknown."""


class Table(Struct, frozen=True, kw_only=True):
    """A naming that was written down."""

    known_parties: Mapping[str, Collection[bytes]] = {}
    known_records: Mapping[str, Held] = {}

    def parties(self, reference: str) -> Collection[bytes]:
        """The parties behind a reference."""
        return self.known_parties.get(reference, ())

    def record(self, reference: str) -> Held | None:
        """The record that a resource lies in."""
        return self.known_records.get(reference)


def to_messages(
    consent: bytes,
    *,
    pseudonym: bytes,
    now_s: int,
    naming: Naming | None = None,
    zone: tzinfo = UTC,
    rules: Collection[int] = (),
) -> list[Message]:
    """The messages that put a Consent (R4 or R5, JSON) into force, to be signed by the patient of ``pseudonym``.

    A Consent that is no longer active and was made from a grant or a standing rule of the ledger gives the message that
    ends it. ``now_s`` is block time; ``rules`` are the numbers of the patient's standing rules, which new ones avoid.
    Without labels a provision is about every grade, and without an action about reading; one without an end lasts
    :data:`OPEN_END_S`. Raises ``Rejected`` with a :class:`DocumentCode`.
    """
    read = read_consent(consent, zone=zone)
    require(names_patient(read, pseudonym), Code.CONSENT_OF_ANOTHER)
    if not read.active:
        return [_ending(read, pseudonym)]
    require(not any(one.system == GRANT for one in read.identifiers), Code.CONSENT_STANDS)
    require(read.roots, Code.NO_PROVISION)
    taking = _Taking(read, pseudonym, now_s, naming or Table(), rules)
    for root in read.roots:
        taking.take(root)
    require(taking.messages, Code.EXCEPTION_UNSUPPORTED)
    require(len(taking.messages) <= TX_MESSAGES, Code.TOO_MANY_PROVISIONS)
    return taking.messages


def _ending(consent: Consent, pseudonym: bytes) -> Message:
    for one in consent.identifiers:
        grant, number = id_in(one.value), _rule_number(one)
        if one.system == GRANT and grant is not None:
            return Revoke(pseudonym=pseudonym, grant_id=grant)
        if number is not None:
            return DropRule(pseudonym=pseudonym, rule=number)
    raise Rejected(Code.CONSENT_NOT_ACTIVE)


def _rule_number(named: Named) -> int | None:
    """The number of an own standing rule, written ``<pseudonym>/<number>``."""
    number = named.value.rpartition("/")[2]
    is_number = named.system == RULE and number.isascii() and number.isdecimal() and len(number) <= len("65535")
    return int(number) if is_number and int(number) < _RULE_NUMBERS else None


class _Terms(Struct, frozen=True, kw_only=True):
    """A provision once everything in it means something here, and what it leaves unsaid is the root's."""

    recipients: tuple[Recipient, ...]
    records: tuple[bytes, ...]
    actions: int
    expires_s: int
    box: Box


class _Taking:
    """One Consent on its way to messages."""

    def __init__(self, consent: Consent, pseudonym: bytes, now_s: int, naming: Naming, rules: Collection[int]) -> None:
        self.messages: list[Message] = []
        self._pseudonym = pseudonym
        self._now_s = now_s
        self._naming = naming
        self._taken = set(rules)
        self._own_rule = next((found for one in consent.identifiers if (found := _rule_number(one)) is not None), None)
        self._organisations = consent.organisations

    def take(self, root: Provision) -> None:
        """The messages of one root provision."""
        if root.permit:
            self._take_permission(root)
        else:
            self._take_denial(root)

    # --- permissions --------------------------------------------------------------------------------------

    def _take_permission(self, root: Provision) -> None:
        permissions = [self._permission(root, None)]
        permissions += [self._permission(one, root) for one in root.nested if one.permit]
        everyone = {one for terms in permissions for one in terms.recipients}
        holes: list[Box] = []
        for exception in (one for one in root.nested if not one.permit):
            recipients = self._recipients(exception.recipients)
            whole = not exception.data and "period" not in exception.said
            if whole and (not recipients or everyone <= set(recipients)):
                holes.append(exception.box)
            else:
                self._deny_exception(exception, root, recipients or tuple(permissions[0].recipients))
        for terms in permissions:
            boxes = [terms.box]
            for hole in holes:
                boxes = all_without(boxes, hole)
            self._permit(terms, boxes)

    def _permission(self, provision: Provision, root: Provision | None) -> _Terms:
        named = provision.recipients or (root.recipients if root else ()) or self._organisations
        recipients = self._recipients(named)
        require(recipients, Code.NO_RECIPIENT)
        return _Terms(
            recipients=recipients,
            records=self._records(provision, whole=True),
            actions=provision.actions,
            expires_s=self._expires_s(provision, root),
            box=_inherited(provision, root),
        )

    def _permit(self, terms: _Terms, boxes: Iterable[Box]) -> None:
        parties = tuple(sorted({one for one in terms.recipients if isinstance(one, bytes)}))
        described = [one for one in terms.recipients if isinstance(one, Who)]
        # A standing rule lets read and nothing else.
        require(not described or terms.actions == 1, Code.ACTION_UNKNOWN)
        for box in boxes:
            require(box.lowest is Sensitivity.U, Code.EXCEPTION_UNSUPPORTED)
            scope = box.scope(terms.records)
            if parties:
                self.messages.append(
                    Grant(
                        pseudonym=self._pseudonym,
                        grantees=parties,
                        parent=None,
                        scope=scope,
                        actions=terms.actions,
                        purposes=box.purposes,
                        expires_s=terms.expires_s,
                    )
                )
            for who in described:
                self._rule(who, box, terms.records, Answer.ALLOW, terms.expires_s)

    # --- denials ------------------------------------------------------------------------------------------

    def _take_denial(self, root: Provision) -> None:
        recipients = self._recipients(root.recipients) or (Who(),)
        boxes = [root.box]
        for exception in (one for one in root.nested if one.permit):
            terms = self._permission(exception, root)
            # What is denied cannot leave out single records, nor a part of the time.
            require(not terms.records and "period" not in exception.said, Code.EXCEPTION_UNSUPPORTED)
            boxes = all_without(boxes, terms.box)
            self._permit(terms, [terms.box])
        records, expires_s = self._records(root, whole=False), self._expires_s(root, None)
        for box in boxes:
            for who in recipients:
                self._rule(_about(who), box, records, Answer.DENY, expires_s)
        for further in (one for one in root.nested if not one.permit):
            self._deny_exception(further, root, recipients)

    def _deny_exception(self, provision: Provision, root: Provision, recipients: Iterable[Recipient]) -> None:
        records, expires_s = self._records(provision, whole=False), self._expires_s(provision, root)
        box = _inherited(provision, root)
        for who in recipients:
            self._rule(_about(who), box, records, Answer.DENY, expires_s)

    def _rule(self, who: Who, box: Box, records: tuple[bytes, ...], answer: Answer, expires_s: int) -> None:
        # The ledger denies all grades or none: a record's grade alone must not tell what a patient hides.
        whole = box.lowest is Sensitivity.U and box.highest is Sensitivity.V
        require(answer is Answer.ALLOW or whole, Code.EXCEPTION_UNSUPPORTED)
        self.messages.append(
            SetRule(
                pseudonym=self._pseudonym,
                rule=self._free_rule(),
                who=who,
                purposes=box.purposes,
                scope=box.scope(records),
                answer=answer,
                expires_s=expires_s,
            )
        )

    def _free_rule(self) -> int:
        """The Consent's own number first, then the lowest that nobody has."""
        number, self._own_rule = self._own_rule, None
        if number is None:
            require(len(self._taken) < STANDING_RULES_PER_PSEUDONYM, Code.NO_FREE_RULE)
            number = next(one for one in range(1, _RULE_NUMBERS) if one not in self._taken)
        self._taken.add(number)
        return number

    # --- what things mean here ----------------------------------------------------------------------------

    def _recipients(self, named: Iterable[Named]) -> tuple[Recipient, ...]:
        return tuple(dict.fromkeys(recipient for one in named for recipient in self._recipient(one)))

    def _recipient(self, named: Named) -> Collection[Recipient]:
        if named.system == PARTY:
            return (present(id_in(named.value), Code.ACTOR_UNKNOWN),)
        if named.system == PEOPLE:
            return (present(read_people(named.value), Code.ACTOR_UNKNOWN),)
        own = id_in(named.reference.rpartition("/")[2])
        found = (own,) if own is not None else self._naming.parties(named.reference or _logical(named))
        require(found, Code.ACTOR_UNKNOWN)
        return found

    def _records(self, provision: Provision, *, whole: bool) -> tuple[bytes, ...]:
        """The records that a provision names one by one; ``whole``: only where everything in them is named."""
        named = {one.reference for one in provision.data if one.system != RECORD}
        records = {present(id_in(one.value), Code.DATA_NOT_A_RECORD) for one in provision.data if one.system == RECORD}
        for reference in sorted(named):
            held = present(self._naming.record(reference), Code.DATA_NOT_A_RECORD)
            require(not whole or held.holds <= named, Code.DATA_PART_OF_RECORD)
            records.add(held.record)
        require(len(records) <= SCOPE_RECORDS, Code.TOO_MANY_PROVISIONS)
        return tuple(sorted(records))

    def _expires_s(self, provision: Provision, root: Provision | None) -> int:
        timed = provision if "period" in provision.said or root is None else root
        require(timed.begins_s is None or timed.begins_s <= self._now_s, Code.PERIOD_NOT_BEGUN)
        expires_s = self._now_s + OPEN_END_S if timed.ends_s is None else timed.ends_s
        require(expires_s > self._now_s, Code.PERIOD_OVER)
        return expires_s


def _inherited(provision: Provision, root: Provision | None) -> Box:
    """The provision's box, where what it does not say itself is as in the root."""
    if root is None:
        return provision.box
    box, outer = provision.box, root.box
    says_days, says_grades = "dataPeriod" in provision.said, "grades" in provision.said
    # Opposite kinds look at grades from opposite ends, so a root's grades bind only provisions of its own kind.
    keeps_grades = says_grades or provision.permit != root.permit
    return Box(
        categories=box.categories if "categories" in provision.said else outer.categories,
        purposes=box.purposes if "purpose" in provision.said else outer.purposes,
        first_day=box.first_day if says_days else outer.first_day,
        last_day=box.last_day if says_days else outer.last_day,
        lowest=box.lowest if keeps_grades else outer.lowest,
        highest=box.highest if keeps_grades else outer.highest,
    )


def _about(recipient: Recipient) -> Who:
    """Whom a denial is about; one about an organisation is about its staff."""
    return recipient if isinstance(recipient, Who) else Who(party=recipient)


def _logical(named: Named) -> str:
    """An identifier of another system, as FHIR writes tokens."""
    return f"{named.system}|{named.value}"
