"""Messages and events: tagged positional structs.

A message is one request inside a transaction; an event is what a handler says happened. Both carry ids,
numbers and hashes only: health data, names and existing ids never reach the ledger.
"""

from msgspec import Struct


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every message; each subclass sets ``tag="contract.verb"``."""


class Event(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every event; each subclass sets ``tag="contract.happened"``."""


class Row(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every state row. New fields go last and have a default, so old rows still decode."""


def tag_of(kind: type[Struct]) -> str:
    """The wire tag of a message or event class."""
    tag = kind.__struct_config__.tag
    if not isinstance(tag, str):
        raise TypeError(f"{kind.__name__} has no tag")
    return tag
