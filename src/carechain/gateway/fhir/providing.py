"""Resource types and operations that are made from elsewhere than the charts: the ledger, other members (API-1).

Owned by the FHIR server, which needs it; what provides it is plugged in from outside.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from carechain.gateway.principal import Principal

Handler = Callable[[Principal, str, Sequence[tuple[str, str]], bytes], Awaitable[bytes]]
"""An operation: caller, resource id (empty on a type or the system), parameters, body; returns a resource in JSON."""


class Provider(Protocol):
    """Resources that stand in no chart. It sees the caller, and gives only what that caller may see."""

    @property
    def types(self) -> frozenset[str]:
        """The resource types it knows."""

    @property
    def writable(self) -> bool:
        """Whether such resources are stored in the charts as well; if not, the types are this provider's alone."""

    @property
    def operations(self) -> Mapping[tuple[str, str], Handler]:
        """Operations by resource type (empty: system) and name with its dollar sign."""

    async def read(self, principal: Principal, resource_type: str, resource_id: str) -> bytes | None:
        """A resource as FHIR JSON; None when there is none that this caller may see."""

    async def search(self, principal: Principal, resource_type: str, params: Sequence[tuple[str, str]]) -> list[bytes]:
        """The matches as FHIR JSON, in a fixed order; raises ``Rejected`` for parameters it does not take."""


class Operations:
    """Operations that belong to no resource of their own."""

    types: Final[frozenset[str]] = frozenset()
    writable: Final = False

    def __init__(self, operations: Mapping[tuple[str, str], Handler]) -> None:
        """``operations`` by type and name."""
        self.operations: Final = operations

    async def read(self, principal: Principal, resource_type: str, resource_id: str) -> bytes | None:  # noqa: ARG002 - none
        """There are no such resources."""
        return None

    async def search(
        self,
        principal: Principal,  # noqa: ARG002 - nothing to find
        resource_type: str,  # noqa: ARG002
        params: Sequence[tuple[str, str]],  # noqa: ARG002
    ) -> list[bytes]:
        """There are no such resources."""
        return []
