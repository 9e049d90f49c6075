"""Queries as resources: ``GET /v1/patients/{pseudonym}/grants`` is ``POST /v1/query/consent.grants`` (API-3).

A table of paths, each naming a query of :mod:`carechain.chain.queries`. Fields of the query's arguments stand in the
path where it names them and in the query string otherwise; ids are hexadecimal. Nothing is decided here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from carechain.chain.queries import QUERIES, QueryCode
from carechain.core.rejection import Rejected

PROVE: Final = "prove"
"""The one parameter that is about the answer and not part of the question."""

PATHS: Final[Mapping[str, str]] = {
    "/v1/patients/{pseudonym}/grants": "consent.grants",
    "/v1/patients/{pseudonym}/requests": "consent.inbox",
    "/v1/patients/{pseudonym}/rules": "consent.rules",
    "/v1/patients/{pseudonym}/representatives": "consent.representatives",
    "/v1/patients/{pseudonym}/log": "access.log",
    "/v1/patients/{pseudonym}/log/head": "access.log_head",
    "/v1/patients/{pseudonym}/relation": "relationships.relation",
    "/v1/patients/{pseudonym}/summary": "relationships.summary",
    "/v1/patients/{pseudonym}/recoveries": "recovery.pending",
    "/v1/patients/{pseudonym}/recovery-policy": "recovery.policy",
    "/v1/patients/{pseudonym}/records": "records.timeline",
    "/v1/patients/{pseudonym}/records/{record}": "records.anchor",
    "/v1/patients/{pseudonym}/records/{record}/versions": "records.history",
    "/v1/patients/{pseudonym}/records/{record}/erasure": "records.erasure",
    "/v1/patients/{pseudonym}/records/{record}/who-can-see": "consent.who_can_see",
    "/v1/parties/{party}": "membership.party",
    "/v1/parties/{grantee}/grants": "consent.granted_to",
    "/v1/tickets/{ticket}": "access.ticket",
    "/v1/members": "membership.members",
    "/v1/members/{organisation}": "membership.member",
    "/v1/members/{organisation}/staff": "membership.staff",
    "/v1/members/{organisation}/patients": "relationships.patients",
    "/v1/members/{organisation}/nodes": "validators.nodes",
    "/v1/governance/proposals": "governance.proposals",
    "/v1/governance/agreements": "governance.agreements",
    "/v1/governance/versions": "governance.versions",
    "/v1/validators": "validators.list",
    "/v1/sanctions": "sanctions.list",
    "/v1/keyring/key": "keyring.key",
    "/v1/keyring/ceremonies": "keyring.ceremony",
    "/v1/keyring/misdeeds": "keyring.misdeeds",
}
"""Path → query. ``access.may_read`` alone has none: its scope is a structure, so it is asked with a body."""


def arguments(name: str, path: Mapping[str, str], query: Sequence[tuple[str, str]]) -> Struct:
    """A query's arguments from a path and a query string.

    Bytes are hexadecimal, a tuple's parts are separated by commas. Raises ``Rejected(ARGUMENTS_MALFORMED)`` for what
    the query does not take, what is named twice, and what does not fit.
    """
    kind = QUERIES[name].args
    given = [*path.items(), *((key, value) for key, value in query if key != PROVE)]
    fields = {field.name: field.type for field in msgspec.inspect.type_info(kind).fields}  # type: ignore[attr-defined]
    if len({key for key, _ in given}) != len(given) or any(key not in fields for key, _ in given):
        raise Rejected(QueryCode.ARGUMENTS_MALFORMED)
    try:
        return msgspec.convert({key: _value(fields[key], text) for key, text in given}, kind, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError):
        raise Rejected(QueryCode.ARGUMENTS_MALFORMED) from None


def _value(kind: msgspec.inspect.Type, text: str) -> Any:  # noqa: ANN401 - what the field is made of
    """The text as what the field holds; raises ``ValueError``."""
    if isinstance(kind, msgspec.inspect.UnionType):
        (kind,) = (one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    if isinstance(kind, msgspec.inspect.BytesType):
        return bytes.fromhex(text)
    if isinstance(kind, msgspec.inspect.TupleType):
        parts = text.split(",")
        return tuple(_value(one, part) for one, part in zip(kind.item_types, parts, strict=True))
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)
