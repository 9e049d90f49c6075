"""Pages about the ledger: messages, events, tables, roles, queries and refusals."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum, IntFlag
from itertools import groupby
from typing import Any

import carechain
from carechain.chain.genesis import TABLES
from carechain.chain.queries import QUERIES
from carechain.chain.routing import EVENTS, MESSAGES
from carechain.contracts.access import ROLE_PURPOSES
from carechain.contracts.roles import ROLE_MESSAGES, ROLE_QUERIES, ROLES
from carechain.core import vocabulary
from carechain.core.message import tag_of
from carechain.core.rejection import RejectionCode
from carechain.core.scope import Scope
from carechain.docs_build.fields import Field, fields_of
from carechain.docs_build.markdown import code, heading, page, prose, summary, table


def messages() -> str:
    """Every message with its fields and the roles that may send it."""
    senders = _roles_by_name(ROLE_MESSAGES)

    def sent_by(kind: type[Any]) -> str:
        return f"Sent by: {', '.join(senders.get(tag_of(kind), ())) or 'no role'}."

    return page(
        "Messages",
        """A transaction carries 1 to 64 messages; all of them apply or none. Fields stand in wire order, and an id is
32 bytes. The refusals of each contract are listed in [codes](codes.md), the roles in [roles](roles.md).""",
        (*_by_contract(MESSAGES, sent_by), *_wire_types()),
    )


def events() -> str:
    """Every event with its fields."""
    return page(
        "Events",
        """What a message says happened, kept in the receipt of its transaction. Events hold ids, numbers and hashes
only. A rejected transaction has none.""",
        _by_contract(EVENTS, lambda _kind: ""),
    )


def tables() -> str:
    """Every state table with its key and its row."""
    sections = []
    for spec in sorted(TABLES, key=lambda one: one.prefix):
        key = " + ".join(str(width) for width in spec.key)
        sections.append(heading(2, code(spec.name)))
        sections.append(
            f"{spec.note}. Prefix `0x{spec.prefix:02x}`, key parts of {key} bytes, row `{spec.row.__name__}`:"
        )
        sections.append(prose(spec.row))
        sections.append(_field_table(fields_of(spec.row)))
    return page(
        "State tables",
        """The state is an ordered map from keys to rows. A key is the table's prefix byte and parts of fixed width; a
row is positional msgpack. A state proof shows one row, or that there is none.""",
        sections,
    )


def roles() -> str:
    """Every role with what it may send and ask."""
    sections = []
    for role, rights in ROLES.items():
        kinds = ", ".join(kind.name.lower() for kind in rights.kinds)
        sections.append(heading(2, role.name))
        sections.append(f"Staff of: {kinds}." if kinds else "Held by patients and those who act for them.")
        purposes = [purpose.name for purpose in vocabulary.Purpose if ROLE_PURPOSES.get(role, 0) >> purpose & 1]
        sections.append(
            table(
                ("sends", "asks", "may request records for"),
                [(_codes(rights.messages), _codes(rights.queries), _codes(purposes) or "nothing")],
            )
        )
    return page(
        "Roles",
        """The second of the three checks (CON-3): member of the consortium, role may call this, authorised by the data
owner. What is not listed is refused. An organisation's own key holds the roles ORGANISATION_ADMIN and
CONSORTIUM_ADMIN. Messages are described in [messages](messages.md), queries in [queries](queries.md).""",
        sections,
    )


def queries() -> str:
    """Every query with its arguments and the roles that may ask it."""
    askers = _roles_by_name(ROLE_QUERIES)
    sections = []
    for name in sorted(QUERIES):
        query = QUERIES[name]
        sections.append(heading(2, code(name)))
        sections.append(f"{query.note} Third check: {_lowered(prose(query.allowed))}")
        sections.append(f"Asked by: {', '.join(askers.get(name, ())) or 'no role'}.")
        sections.append(_field_table(fields_of(query.args)))
    return page(
        "Queries",
        """Reading needs no block: any node answers from its own replica. Every query is signed or comes with a session,
and passes the same three checks as a message, so a log answers only to the patient, those who act for the
patient, the custodian and the regulator.""",
        sections,
    )


def codes() -> str:
    """Every refusal of the whole program, by number."""
    _import_everything()
    sections = []
    for kind in sorted(RejectionCode.__subclasses__(), key=min):
        if not kind.__module__.startswith("carechain."):
            continue
        sections.append(heading(2, kind.__name__.removesuffix("Code")))
        sections.append(prose(kind))
        sections.append(_code_table(kind))
    return page(
        "Rejection codes",
        """A refusal is the caller's: it has a number that never changes, a name that clients match on, and a sentence
that tells what to do. Within one message the order of the numbers is the order of the checks. An access refusal is
no rejection: the ticket says refused, and the patient's log shows it.""",
        sections,
    )


def _by_contract(kinds: Iterable[type[Any]], line: Callable[[type[Any]], str]) -> Iterator[str]:
    ordered = sorted(kinds, key=tag_of)
    for contract, members in groupby(ordered, key=lambda one: tag_of(one).split(".", 1)[0]):
        group = list(members)
        yield heading(2, contract.capitalize())
        yield summary(sys.modules[f"carechain.contracts.{contract}"])
        for kind in group:
            yield heading(3, code(tag_of(kind)))
            yield "\n\n".join(part for part in (prose(kind), line(kind)) if part)
            yield _field_table(fields_of(kind))


def _wire_types() -> Iterator[str]:
    yield heading(2, "Types")
    yield """An id (`PartyId`, `GrantId`, `RecordId`, …) and a `Hash` are 32 bytes. `U8`, `U16`, `U32` and `U63` are
integers from 0 that fit that many bits. A struct inside a message is a list of its fields in order."""
    yield heading(3, code(Scope.__name__))
    yield prose(Scope)
    yield _field_table(fields_of(Scope))
    yield heading(2, "Numbers")
    yield """What the numbers stand for. A field that holds a set is a bit mask: bit n stands for number n, except that
the flags among them (actions, powers) are themselves the bits."""
    for kind in vars(vocabulary).values():
        if isinstance(kind, type) and issubclass(kind, IntEnum | IntFlag) and kind.__module__ == vocabulary.__name__:
            yield heading(3, code(kind.__name__))
            yield prose(kind)
            yield ", ".join(f"{int(member)} {member.name}" for member in kind) + "."


def _field_table(fields: list[Field]) -> str:
    if not fields:
        return "No fields."
    return table(
        ("field", "type", "default", "note"),
        [(code(one.name), code(one.type), code(one.default), one.note) for one in fields],
    )


def _code_table(kind: type[RejectionCode]) -> str:
    return table(
        ("number", "code", "what to do"), [(str(int(one)), code(one.label), one.reason) for one in sorted(kind)]
    )


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _roles_by_name(table_of_roles: dict[Any, tuple[str, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for role, names in table_of_roles.items():
        for name in names:
            found.setdefault(name, []).append(role.name)
    return found


def _codes(names: Iterable[str]) -> str:
    return ", ".join(code(one) for one in names)


def _import_everything() -> None:
    """Load every module, so that each class of refusals is known; importing one must have no effect."""
    for module in pkgutil.walk_packages(carechain.__path__, "carechain."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
