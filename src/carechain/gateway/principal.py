"""Who calls the FHIR server, and what it may do: made by authentication, used by every interaction (CON-3, CON-7).

The three checks stand behind every field: who is a live party, what the party's role may do, what the data owner lets
it see. The gateway decides none of them: sight comes from committed tickets, rights from the role table.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from carechain.charts.sight import Sight
from carechain.core.vocabulary import Purpose


class Rights(Struct, frozen=True, kw_only=True):
    """What the caller may do with one resource type, in SMART's letters; ``filters`` narrow reading (scopes v2).

    ``filters`` holds search queries (``category=laboratory``), any of which a resource must match; empty: no narrowing.
    """

    create: bool = False
    read: bool = False
    update: bool = False
    search: bool = False
    filters: tuple[str, ...] = ()


class Principal(Struct, frozen=True, kw_only=True):
    """An authenticated caller at one moment; made again for every request.

    ``party`` is the ledger's id of whoever acts, ``client_id`` the application it acts through (empty: none).
    ``tickets`` are the decisions behind ``sight``, for the audit. ``system`` is true for the custodian's own systems.
    ``rights`` maps resource types to rights; ``"*"`` is for every type that is not named.
    """

    party: bytes
    sight: Sight
    rights: Mapping[str, Rights]
    client_id: str = ""
    system: bool = False
    patient: str = ""
    purpose: Purpose | None = None
    tickets: tuple[bytes, ...] = ()
    roles: int = 0

    def may(self, resource_type: str) -> Rights:
        """The rights on a type; none where neither the type nor ``*`` is named."""
        return self.rights.get(resource_type) or self.rights.get("*") or Rights()


class Authenticator(Protocol):
    """What the FHIR server needs: the caller behind a request's headers (names in lower case)."""

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """The caller; raises ``Rejected`` with a :class:`~carechain.gateway.codes.SmartCode`: 401."""


class Reading(Struct, frozen=True, kw_only=True):
    """One answered request, for the audit: what was given out, by ledger record where there is one.

    ``counted`` is how many matches of patients' resources it told of without giving them out.
    """

    principal: Principal
    interaction: str
    resource_types: tuple[str, ...]
    records: tuple[tuple[bytes, int], ...]
    count: int
    refused: int = 0
    counted: int = 0


class ReadingAudit(Protocol):
    """Written durably before the answer is sent (AUD-1): once per request, however many resources it gives out."""

    async def note(self, reading: Reading) -> None:
        """On disk when it returns."""
