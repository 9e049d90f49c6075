"""Who is to hold the shares of the consortium key, as the members vote on it (KEY-3)."""

from typing import Annotated

from msgspec import Meta

from carechain.core.ids import U8, U32, PartyId
from carechain.core.limits import KEYHOLDERS
from carechain.core.message import Row


class SetKeyholders(Row, frozen=True, tag="set_keyholders"):
    """Let these organisations hold the shares of the consortium key, ``threshold`` of which open something.

    ``holders`` are sorted. A ceremony begins; each of its rounds lasts ``round_s`` seconds of block time at most.
    """

    holders: Annotated[tuple[PartyId, ...], Meta(max_length=KEYHOLDERS)]
    threshold: U8
    round_s: U32
