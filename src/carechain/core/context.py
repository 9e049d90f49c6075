"""What a handler may know besides its tables: one message's place on the ledger and who signed it."""

from msgspec import Struct

from carechain.core.ids import derived_id
from carechain.core.message import Event
from carechain.core.party import Party
from carechain.core.units import DAY_S


class Ctx(Struct, kw_only=True):
    """One message being executed. ``time_s`` is block time, the only clock a contract has."""

    chain_id: str
    height: int
    time_s: int
    tx_id: bytes
    sender: bytes
    party: Party
    message_index: int = 0
    events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Say what happened; kept in the receipt, dropped if the transaction is rejected."""
        self.events.append(event)

    def new_id(self, kind: str) -> bytes:
        """The id of what this message creates."""
        return derived_id(kind, self.tx_id, self.message_index)

    @property
    def day(self) -> int:
        """Block time in whole days."""
        return self.time_s // DAY_S
