"""The ledger as one caller may read it: every question goes through the ledger's own three checks (CON-3).

A provider never reads a table. It asks the queries that this caller could ask over the node's own door, as this
caller, so what FHIR shows of the ledger can never be more than what the ledger itself would tell.
"""

from collections.abc import Iterator
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from carechain.chain.queries import Asker, QueryCode, View, ask
from carechain.charts.repository import Reader
from carechain.core.limits import ID_SIZE
from carechain.core.party import Party
from carechain.core.rejection import Rejected, require
from carechain.core.vocabulary import PartyKind
from carechain.gateway.principal import Principal
from carechain.sdk.pcf_codes import DocumentCode
from carechain.sdk.pcf_terms import PSEUDONYM, id_in

ROWS: Final = 2_000
"""Rows of the ledger that one search looks at; whoever needs more names a patient."""
_REFUSED: Final = frozenset({QueryCode.NOT_A_LIVE_MEMBER, QueryCode.ROLE_MAY_NOT_ASK, QueryCode.NOT_AUTHORISED})


class LedgerView(Protocol):
    """The organisation's own replica of the ledger."""

    @property
    def chain_id(self) -> str:
        """The network's name."""

    def view(self) -> View:
        """The committed state at the latest height."""


class Caller:
    """A principal before the ledger at one height. What it may not ask is as if there were nothing."""

    def __init__(self, view: View, principal: Principal) -> None:
        self.view = view
        self.principal = principal
        party = view.contracts.membership.party(principal.party)
        self.asker: Final = None if party is None else Asker(principal.party, party)

    @property
    def party(self) -> Party | None:
        """The caller's row."""
        return None if self.asker is None else self.asker.party

    def page(self, name: str, args: Struct) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
        """One page of a query's answer; nothing where the caller may not ask."""
        if self.asker is None:
            return (), None
        try:
            answer = ask(self.view, self.asker, name, args)
        except Rejected as refused:
            if refused.code in _REFUSED or refused.code is QueryCode.NOT_FOUND:
                return (), None
            raise
        return answer.rows, answer.after

    def may(self, name: str, args: Struct) -> bool:
        """Whether the caller may ask this."""
        if self.asker is None:
            return False
        try:
            ask(self.view, self.asker, name, args)
        except Rejected as refused:
            if refused.code in _REFUSED:
                return False
            if refused.code is not QueryCode.NOT_FOUND:
                raise
        return True

    def rows(self, name: str, args: Any, *, most: int = ROWS) -> Iterator[Any]:  # noqa: ANN401 - any query's arguments
        """All rows of a query, page after page; raises ``TOO_MANY_MATCHES`` beyond ``most``."""
        given = 0
        while True:
            rows, after = self.page(name, args)
            given += len(rows)
            require(given <= most, DocumentCode.TOO_MANY_MATCHES)
            yield from rows
            if after is None:
                return
            args = replace(args, after=after if len(after) > 1 else after[0])

    def own_pseudonym(self) -> bytes | None:
        """The pseudonym that the caller is, or acts for; None for institutions and their staff."""
        if self.asker is None:
            return None
        if self.asker.party.kind is PartyKind.PSEUDONYM:
            return self.asker.id
        return self.asker.party.organisation if self.asker.party.kind is PartyKind.REPRESENTATIVE else None

    def kind(self, party: bytes) -> PartyKind | None:
        """What kind of party an id names; None where it names none."""
        row = self.view.contracts.membership.party(party)
        return None if row is None else row.kind

    def custodian(self, pseudonym: bytes) -> bytes | None:
        """The organisation where a pseudonym is bound; None where it is not bound."""
        row = self.view.contracts.membership.party(pseudonym)
        return row.organisation if row is not None and row.kind is PartyKind.PSEUDONYM else None


def patients_of(caller: Caller, named: bytes | None) -> tuple[bytes, ...]:
    """Whose things a search is about: the patient it names, else the caller's own, else those its tickets name."""
    if named is not None:
        return (named,)
    own = caller.own_pseudonym()
    if own is not None:
        return (own,)
    return tuple(dict.fromkeys(window.pseudonym for window in caller.principal.sight.windows))


def shown_patient(reader: Reader, principal: Principal, pseudonym: bytes) -> str | None:
    """The local Patient's id, where the caller sees that Patient; a pseudonym's id is no secret to who sees its log."""
    patient_id = reader.patient(pseudonym)
    if patient_id is None or reader.read(principal.sight, "Patient", patient_id) is None:
        return None
    return patient_id


def named_patient(reader: Reader, principal: Principal, text: str) -> bytes | None:
    """The pseudonym that a search's ``patient`` means: a local Patient that the caller sees, or a pseudonym's digits.

    ``text`` may also be ``urn:carechain:pseudonym|digits``, or an address that ends in ``Patient/id``.
    """
    system, bar, value = text.rpartition("|")
    if bar:
        return id_in(value) if system == PSEUDONYM else None
    resource_id = text.rpartition("/")[2]
    pseudonym = id_in(resource_id)
    if pseudonym is not None:
        return pseudonym
    if reader.read(principal.sight, "Patient", resource_id) is None:
        return None
    return reader.pseudonym(resource_id)


def just_before(key: bytes) -> bytes | None:
    """The greatest id below this one: a page that begins after it begins with ``key``. None for the least id."""
    number = int.from_bytes(key)
    return (number - 1).to_bytes(ID_SIZE) if number else None
