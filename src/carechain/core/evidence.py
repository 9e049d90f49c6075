"""Proof that a validator broke the rules of agreement, as the engine reports it with a block (LED-6)."""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from carechain.core.ids import U63
from carechain.core.message import Row

ADDRESS_SIZE = 20

Address = Annotated[bytes, Meta(min_length=ADDRESS_SIZE, max_length=ADDRESS_SIZE)]
"""How an engine names a validator: the first 20 bytes of the SHA-256 of its consensus key."""


class Offence(IntEnum):
    """What a validator did."""

    DOUBLE_VOTE = 1
    """Two votes for different blocks in one round."""
    LIGHT_CLIENT_ATTACK = 2
    """Signing a header of a chain that is not this one."""


class Evidence(Row, frozen=True):
    """One offence: the engine has verified the signatures before it hands this over."""

    offence: Offence
    address: Address
    height: U63
    time_s: U63
