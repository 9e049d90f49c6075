"""The node's HTTP face as an OpenAPI 3.1 document, made from the same tables that serve it (API-3).

It describes the JSON form: structs are objects, byte strings are hexadecimal. Programs may send and accept msgpack
instead (``application/msgpack``), which the Python SDK does.
"""

from enum import EnumMeta
from functools import cache
from typing import Any, Final, get_args, get_origin

import msgspec
from msgspec import inspect as kinds

from carechain.chain.queries import QUERIES
from carechain.node.rest import PATHS, PROVE
from carechain.sdk.answers import ROWS, Accepted, QueryAnswer, Refusal, ShownBlock, ShownReceipt, Status, Submitted
from carechain.sdk.authentication import Opening, OpenSession

Json = dict[str, Any]

API_VERSION: Final = "1"
"""Of the paths that begin with ``/v1``; the program's own version is in ``/v1/status``."""
MEDIA: Final = "application/json"
_ID: Final = "^[0-9a-f]{64}$"
_INTRODUCTION: Final = """\
What a node of the network answers beside FHIR: submission of signed transactions, queries of the ledger, receipts,
blocks, proofs and events. A caller signs in with its key (`POST /v1/session`) and sends the token as
`Authorization: Bearer`. Keys never leave the client: every change is a transaction that the client has signed. Every
query passes the three checks of the ledger, and a refusal carries a number, a stable label and a sentence."""


def document() -> Json:
    """The whole document."""
    schemas = _Schemas()
    paths = {**_fixed(schemas), **_queries(schemas), **_resources(schemas)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "carechain node", "version": API_VERSION, "description": _INTRODUCTION},
        "security": [{"session": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "securitySchemes": {
                "session": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of POST /v1/session: opened with a signature of the party's key.",
                }
            },
        },
    }


# --- paths ----------------------------------------------------------------------------------------------


def _operation(
    schemas: "_Schemas",
    *,
    summary: str,
    answer: Json | None,
    body: Json | None = None,
    parameters: list[Json] | None = None,
    public: bool = False,
    status: int = 200,
) -> Json:
    refused = {"description": "Refused: the code says why.", "content": {MEDIA: {"schema": schemas.of(Refusal)}}}
    done: Json = {"description": "Done."}
    if answer is not None:
        done["content"] = {MEDIA: {"schema": answer}}
    operation: Json = {"summary": summary, "responses": {str(status): done, "4XX": refused, "503": refused}}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {MEDIA: {"schema": body}}}
    if public:
        operation["security"] = []
    return operation


def _in_path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(name: str, schema: Json, said: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": said}


def _fixed(schemas: "_Schemas") -> Json:
    """The paths that are no queries."""
    identity = {"type": "string", "pattern": _ID}
    number = {"type": "integer", "minimum": 0}
    yes_or_no = {"type": "string", "enum": ["0", "1"]}
    raw = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
    one = {"type": "object", "properties": {"tx": raw}, "required": ["tx"], "additionalProperties": False}
    many = {
        "type": "object",
        "properties": {"txs": {"type": "array", "items": raw, "minItems": 1}},
        "required": ["txs"],
        "additionalProperties": False,
    }
    outcome = {"anyOf": [schemas.of(Submitted), schemas.of(Refusal)]}
    wait = _in_query("wait", yes_or_no, "0: answer as soon as it is queued.")
    submit = _operation(
        schemas, summary="Order a signed transaction.", answer=schemas.of(Submitted), body=one, parameters=[wait]
    )
    submit["responses"]["202"] = {
        "description": "Queued: it waits for its block.",
        "content": {MEDIA: {"schema": schemas.of(Accepted)}},
    }
    stream = _operation(
        schemas,
        summary="Follow what happens, as server-sent events about whatever the caller may see.",
        answer=None,
        parameters=[_in_query("from", number, "The height to begin at.")],
    )
    stream["responses"]["200"]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        "/v1/openapi.json": {
            "get": _operation(schemas, summary="This document.", answer={"type": "object"}, public=True)
        },
        "/v1/status": {
            "get": _operation(schemas, summary="Where the chain stands.", answer=schemas.of(Status), public=True)
        },
        "/v1/session": {
            "post": _operation(
                schemas,
                summary="Sign in with a key.",
                answer=schemas.of(OpenSession),
                body=schemas.of(Opening),
                public=True,
            ),
            "delete": _operation(schemas, summary="Sign out.", answer=None, status=204),
        },
        "/v1/transactions": {"post": submit},
        "/v1/transactions/batch": {
            "post": _operation(
                schemas,
                summary="Order many; one outcome for each.",
                answer={"type": "array", "items": outcome},
                body=many,
            )
        },
        "/v1/transactions/{id}": {
            "get": _operation(
                schemas,
                summary="The receipt of a transaction as far as the caller may see it.",
                answer=schemas.of(ShownReceipt),
                parameters=[_in_path("id", identity)],
            )
        },
        "/v1/blocks/{height}": {
            "get": _operation(
                schemas,
                summary="A block as it is stored; for regulators.",
                answer=schemas.of(ShownBlock),
                parameters=[_in_path("height", number)],
            )
        },
        "/v1/light/{height}": {
            "get": _operation(
                schemas,
                summary="What the validators signed at a height.",
                answer={"type": "object"},
                parameters=[_in_path("height", number)],
                public=True,
            )
        },
        "/v1/light/inclusion/{id}": {
            "get": _operation(
                schemas,
                summary="A transaction's way to what the validators signed.",
                answer={"type": "object"},
                parameters=[_in_path("id", identity)],
            )
        },
        "/v1/events": {"get": stream},
    }


def _answer(schemas: "_Schemas", name: str) -> Json:
    whole = schemas.inline(QueryAnswer)
    rows = {"type": "array", "items": schemas.of(ROWS[name])}
    return {**whole, "properties": {**whole["properties"], "rows": rows}}


def _prove() -> Json:
    return _in_query(PROVE, {"type": "string", "enum": ["0", "1"]}, "1: with the signed header and proofs of the rows.")


def _queries(schemas: "_Schemas") -> Json:
    """One path for each query, arguments in the body."""
    return {
        f"/v1/query/{name}": {
            "post": _operation(
                schemas,
                summary=query.note,
                answer=_answer(schemas, name),
                body=schemas.of(query.args),
                parameters=[_prove()],
            )
        }
        for name, query in QUERIES.items()
    }


def _resources(schemas: "_Schemas") -> Json:
    """The same as resources: arguments in path and query string."""
    found: Json = {}
    for path, name in PATHS.items():
        fields = schemas.inline(QUERIES[name].args).get("properties", {})
        parameters = [
            _in_path(field, _as_text(schema))
            if f"{{{field}}}" in path
            else _in_query(field, _as_text(schema), _said(field))
            for field, schema in fields.items()
        ]
        operation = _operation(
            schemas,
            summary=QUERIES[name].note,
            answer=_answer(schemas, name),
            parameters=[*parameters, _prove()],
        )
        found[path] = {"get": operation}
    return found


def _said(field: str) -> str:
    return {
        "after": "Where the page before ended; parts separated by commas.",
        "ticket": "See it through this ticket.",
    }.get(field, "")


def _as_text(schema: Json) -> Json:
    """How a field is written outside a body: optional ones are left out, a tuple's parts stand behind commas."""
    choices = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    chosen: Json = choices[0]
    return {"type": "string"} if chosen.get("type") == "array" else chosen


# --- schemas --------------------------------------------------------------------------------------------


class _Schemas:
    """Types of the JSON form as schemas; structs are named once and referred to."""

    def __init__(self) -> None:
        self.named: Json = {}
        self._kinds: dict[str, Any] = {}

    def of(self, kind: Any) -> Json:  # noqa: ANN401 - any type
        """The schema of a type."""
        return self._of(kinds.type_info(kind))

    def inline(self, kind: Any) -> Json:  # noqa: ANN401 - a struct type
        """A struct's schema itself instead of a reference to it."""
        found: Json = self.named[self._of(kinds.type_info(kind))["$ref"].rpartition("/")[2]]
        return found

    def _of(self, info: kinds.Type) -> Json:
        if isinstance(info, kinds.StructType):
            return self._struct(info)
        if isinstance(info, kinds.Metadata):
            return self._of(info.type)
        if isinstance(info, kinds.UnionType):
            return {"anyOf": [self._of(one) for one in info.types]}
        if isinstance(info, kinds.TupleType):
            parts = [self._of(one) for one in info.item_types]
            return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
        if isinstance(info, kinds.VarTupleType | kinds.ListType):
            bounds = {"minItems": info.min_length, "maxItems": info.max_length}
            return {"type": "array", "items": self._of(info.item_type), **_given(bounds)}
        return _plain(info)

    def _struct(self, info: kinds.StructType) -> Json:
        name = self._name(info)
        if name not in self.named:
            self.named[name] = {}
            properties = {field.name: self._of(field.type) for field in info.fields}
            required = [field.name for field in info.fields if field.required]
            if info.tag is not None:
                properties = {"type": {"const": info.tag}, **properties}
            self.named[name] = {
                "type": "object",
                "description": " ".join((info.cls.__doc__ or "").split("\n\n")[0].split()),
                "properties": properties,
                **({"required": required} if required else {}),
                **({"additionalProperties": False} if info.forbid_unknown_fields else {}),
            }
        return {"$ref": f"#/components/schemas/{name}"}

    def _name(self, info: kinds.StructType) -> str:
        """The class, with what it is of where it is generic, and with its module where two have one name."""
        kind: Any = info.cls
        origin, parts = get_origin(kind), get_args(kind)
        name = "".join(one.__name__ for one in (*parts, origin)) if origin is not None else kind.__name__
        if self._kinds.setdefault(name, kind) != kind:
            name = f"{kind.__module__.rpartition('.')[2].title()}{name}"
            self._kinds.setdefault(name, kind)
        return name


def _plain(info: kinds.Type) -> Json:
    if isinstance(info, kinds.BytesType):
        least, most = info.min_length or 0, info.max_length
        return {"type": "string", "pattern": f"^([0-9a-f]{{2}}){{{least},{'' if most is None else most}}}$"}
    if isinstance(info, kinds.IntType):
        return {"type": "integer", **_given({"minimum": info.ge, "maximum": info.le})}
    if isinstance(info, kinds.EnumType):
        return _enumeration(info.cls)
    if isinstance(info, kinds.StrType):
        return {"type": "string", **_given({"pattern": info.pattern, "maxLength": info.max_length})}
    if isinstance(info, kinds.FloatType):
        return {"type": "number"}
    return {kinds.BoolType: {"type": "boolean"}, kinds.NoneType: {"type": "null"}}.get(type(info), {})


def _enumeration(kind: EnumMeta) -> Json:
    members: dict[str, Any] = dict(kind.__members__)
    values = [one.value for one in members.values()]
    said = ", ".join(f"{one.value} {name}" for name, one in members.items())
    return {"type": "string" if isinstance(values[0], str) else "integer", "enum": values, "description": said}


def _given(bounds: Json) -> Json:
    return {name: value for name, value in bounds.items() if value is not None}


@cache
def encoded() -> bytes:
    """The document as JSON bytes."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=1)
