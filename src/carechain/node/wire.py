"""The bytes of the node's HTTP face: msgpack for programs, JSON with hexadecimal byte strings for people.

A body is answered in the form it was sent in. In msgpack, state rows are the positional arrays the ledger stores, so
that their proofs can be checked against them; in JSON every struct is an object with named fields.
"""

from enum import Enum
from typing import Any, Final, TypeVar, get_type_hints

import msgspec
import orjson
from msgspec import Struct

from carechain.chain.queries import QUERIES, QueryCode
from carechain.chain.tx import AdmissionCode
from carechain.core.message import Event
from carechain.core.rejection import Rejected, RejectionCode
from carechain.node.refusals import NodeCode
from carechain.sdk.answers import Refusal
from carechain.sdk.authentication import AuthCode

T = TypeVar("T")


class Form(Enum):
    """How a body is written; the value is its media type."""

    MSGPACK = b"application/msgpack"
    JSON = b"application/json"
    RAW = b"application/octet-stream"


_FORMS: Final = {form.value: form for form in Form}


# --- answers --------------------------------------------------------------------------------------------


_encode = msgspec.msgpack.Encoder().encode


def write(form: Form, value: object) -> bytes:
    """An answer's bytes. Raw bytes in are answered in msgpack."""
    return orjson.dumps(plain(value)) if form is Form.JSON else _encode(value)


def plain(value: Any) -> Any:  # noqa: ANN401 - any value in, plain JSON out
    """Objects, lists, numbers and text: byte strings in hexadecimal, events with their tag as ``type``."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Struct):
        named = {field: plain(getattr(value, field)) for field in value.__struct_fields__}
        tag = value.__struct_config__.tag
        return {"type": tag, **named} if isinstance(value, Event) or tag is not None else named
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


# --- requests -------------------------------------------------------------------------------------------


def form_of(content_type: bytes) -> Form:
    """The form a ``Content-Type`` header names (parameters ignored, none: JSON); raises :class:`Rejected`."""
    if not content_type:
        return Form.JSON
    form = _FORMS.get(content_type) or _FORMS.get(content_type.partition(b";")[0].strip().lower())
    if form is None:
        raise Rejected(NodeCode.MEDIA_TYPE_UNKNOWN)
    return form


def read_json(body: bytes) -> object:
    """JSON of bounded size; raises :class:`Rejected`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Rejected(NodeCode.BODY_MALFORMED) from None


def read_struct(form: Form, body: bytes, kind: type[T], code: RejectionCode) -> T:
    """A struct without text fields from a map by field name; raises :class:`Rejected` with ``code``."""
    try:
        if form is not Form.JSON:
            return msgspec.msgpack.decode(body, type=kind)
        return msgspec.convert(_typed(read_json(body), kind), kind, builtin_types=(bytes,))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        raise Rejected(code) from None


def read_transaction(form: Form, body: bytes) -> bytes:
    """One transaction: its own bytes, or ``{"tx": "<hex>"}``; raises :class:`Rejected`."""
    return body if form is not Form.JSON else _hex(_field(read_json(body), "tx"))


def read_transactions(form: Form, body: bytes) -> list[bytes]:
    """Many: a msgpack array of byte strings, or ``{"txs": ["<hex>", …]}``; raises :class:`Rejected`."""
    if form is Form.JSON:
        listed = _field(read_json(body), "txs")
        if not isinstance(listed, list):
            raise Rejected(NodeCode.BODY_MALFORMED)
        return [_hex(one) for one in listed]
    try:
        return _batches.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        raise Rejected(NodeCode.BODY_MALFORMED) from None


def read_arguments(form: Form, body: bytes, name: str) -> Struct:
    """A query's arguments from JSON, where every text is a byte string in hexadecimal; raises :class:`Rejected`."""
    query = QUERIES.get(name)
    if query is None:
        raise Rejected(QueryCode.QUERY_UNKNOWN)
    return read_struct(form, body, query.args, QueryCode.ARGUMENTS_MALFORMED)


_batches = msgspec.msgpack.Decoder(list[bytes])


def _field(value: object, name: str) -> object:
    if not isinstance(value, dict) or list(value) != [name]:
        raise Rejected(NodeCode.BODY_MALFORMED)
    return value[name]


def _hex(text: object) -> bytes:
    if not isinstance(text, str):
        raise Rejected(NodeCode.BODY_MALFORMED)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Rejected(NodeCode.BODY_MALFORMED) from None


def _typed(value: object, kind: object) -> object:
    """JSON as msgspec expects it: text to bytes where bytes belong, objects to arrays for positional structs."""
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Struct):
        hints = get_type_hints(kind)
        typed = {name: _typed(one, hints.get(name)) for name, one in value.items()}
        if kind.__struct_config__.array_like:
            # Fields that are left out take their defaults, so it is made by name here and checked afterwards.
            return msgspec.to_builtins(kind(**typed), builtin_types=(bytes,))
        return typed
    if isinstance(value, list):
        return [_typed(one, None) for one in value]
    return bytes.fromhex(value) if isinstance(value, str) and kind is not str else value


# --- refusals -------------------------------------------------------------------------------------------

STATUSES: Final[dict[RejectionCode, int]] = {
    AuthCode.OPENING_MALFORMED: 400,
    AuthCode.WRONG_CHAIN: 400,
    AuthCode.WRONG_SERVER: 400,
    AuthCode.TOO_MANY_SESSIONS: 429,
    QueryCode.NOT_A_LIVE_MEMBER: 403,
    QueryCode.ROLE_MAY_NOT_ASK: 403,
    QueryCode.NOT_AUTHORISED: 403,
    QueryCode.QUERY_UNKNOWN: 404,
    QueryCode.ARGUMENTS_MALFORMED: 400,
    QueryCode.NOT_FOUND: 404,
    AdmissionCode.TOO_LARGE: 413,
    AdmissionCode.REPLAYED: 409,
    AdmissionCode.REPLAY_WINDOW_FULL: 503,
    AdmissionCode.UNKNOWN_SIGNER: 401,
    AdmissionCode.BAD_SIGNATURE: 401,
    NodeCode.BODY_TOO_LARGE: 413,
    NodeCode.BODY_MALFORMED: 400,
    NodeCode.MEDIA_TYPE_UNKNOWN: 415,
    NodeCode.TOO_MANY_TRANSACTIONS: 413,
    NodeCode.OVERLOADED: 429,
    NodeCode.STOPPING: 503,
    NodeCode.TX_UNKNOWN: 404,
    NodeCode.BLOCK_UNKNOWN: 404,
    NodeCode.PATH_UNKNOWN: 404,
    NodeCode.METHOD_NOT_ALLOWED: 405,
    NodeCode.PARAMETER_MALFORMED: 400,
    NodeCode.TOO_MANY_STREAMS: 503,
    NodeCode.TOO_MANY_OWN_STREAMS: 429,
    NodeCode.CLOCK_JUMPED: 503,
    NodeCode.NOT_EXECUTABLE: 500,
    NodeCode.NO_BLOCK_YET: 503,
    NodeCode.NO_COMMITS: 404,
    NodeCode.ENGINE_AWAY: 503,
    NodeCode.PROOF_IS_NOT_YOURS: 403,
}
"""HTTP status by code. Not listed: 401 for authentication, 400 for everything else."""
RETRY_LATER: Final = frozenset({429, 503})


def status_of(code: RejectionCode) -> int:
    """The HTTP status that goes with a refusal."""
    found = STATUSES.get(code)
    return found if found is not None else 401 if isinstance(code, AuthCode) else 400


def refusal_of(code: RejectionCode) -> Refusal:
    """The body that goes with a refusal."""
    return Refusal(code=int(code), label=code.label, reason=code.reason)
