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
from carechain.chain.receipts import FullReceipt
from carechain.chain.tx import AdmissionCode
from carechain.core.message import Event
from carechain.core.rejection import Rejected, RejectionCode
from carechain.node.refusals import NodeCode
from carechain.node.service import ProvenEntry
from carechain.sdk.authentication import AuthCode

T = TypeVar("T")


class Form(Enum):
    """How a body is written; the value is its media type."""

    MSGPACK = b"application/msgpack"
    JSON = b"application/json"
    RAW = b"application/octet-stream"


_FORMS: Final = {form.value: form for form in Form}


# --- answers --------------------------------------------------------------------------------------------


class Status(Struct, frozen=True, kw_only=True):
    """Where the chain stands. ``server`` is the party a session is opened with."""

    chain_id: str
    server: bytes
    height: int
    time_s: int
    app_hash: bytes
    version: str


class Refusal(Struct, frozen=True, kw_only=True):
    """Every refusal: number, stable label, and what to do."""

    code: int
    label: str
    reason: str


class QueryAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rows of a query with the height, time and app hash they hold for; ``after`` asks for the next page.

    With ``?prove=1``: ``sealed`` is the signed header at that height, and ``proofs`` show state entries under it.
    """

    height: int
    time_s: int
    app_hash: bytes
    rows: tuple[Any, ...]
    after: tuple[Any, ...] | None = None
    sealed: bytes = b""
    proofs: tuple[ProvenEntry, ...] = ()


class Accepted(Struct, frozen=True, kw_only=True):
    """A transaction that waits for its block (``?wait=0``)."""

    tx_id: bytes


class Inclusion(Struct, frozen=True, kw_only=True):
    """Transaction and receipt as they are stored, with RFC 6962 audit paths to the roots in the sealed header."""

    raw: bytes
    receipt: bytes
    count: int
    tx_path: tuple[bytes, ...]
    receipt_path: tuple[bytes, ...]
    sealed: bytes


class ShownReceipt(Struct, frozen=True, kw_only=True):
    """A receipt as its reader may see it; ``inclusion`` only for those who may see the transaction itself."""

    receipt: FullReceipt
    inclusion: Inclusion | None


class ShownBlock(Struct, frozen=True, kw_only=True):
    """A block as it is stored: sealed header, transactions, receipts."""

    sealed: bytes
    txs: tuple[bytes, ...]
    receipts: tuple[bytes, ...]


_encode = msgspec.msgpack.Encoder().encode


def write(form: Form, value: Any) -> bytes:
    """An answer's bytes. Raw bytes in are answered in msgpack."""
    return orjson.dumps(plain(value)) if form is Form.JSON else _encode(value)


def plain(value: Any) -> Any:
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


def read_json(body: bytes) -> Any:
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
    except (msgspec.MsgspecError, ValueError, RecursionError):
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


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or list(value) != [name]:
        raise Rejected(NodeCode.BODY_MALFORMED)
    return value[name]


def _hex(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        raise Rejected(NodeCode.BODY_MALFORMED) from None


def _typed(value: Any, kind: Any) -> Any:
    """JSON as msgspec expects it: text to bytes where bytes belong, objects to arrays for positional structs."""
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, Struct):
        hints = get_type_hints(kind)
        typed = {name: _typed(one, hints.get(name)) for name, one in value.items()}
        if kind.__struct_config__.array_like:
            # Fields that are left out take their defaults, so the struct is made here and not by position.
            return msgspec.convert(list(kind(**typed).__getstate__()), kind, builtin_types=(bytes,))
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
