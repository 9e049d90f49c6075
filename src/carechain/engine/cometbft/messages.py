"""The messages of ABCI 2.0 as CometBFT 0.39 speaks it, from a table of field numbers.

Only the fields that are read or written here are named; protobuf passes over the others. The descriptors live in a
pool of their own, so no generated code has to fit the installed runtime, and no other package's messages can clash.
Source: the ABCI 2.0 specification, package ``tendermint.abci``.
"""

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_PACKAGE: Final = "carechain.abci"

Field = tuple[int, str, str]
"""Number, name, type: a scalar's or a message's name, with ``*`` behind it where the field repeats."""

_TABLE: Final[dict[str, tuple[Field, ...]]] = {
    "Empty": (),
    "Time": ((1, "seconds", "int64"), (2, "nanos", "int32")),
    "Text": ((1, "text", "string"),),
    "InfoRequest": ((1, "version", "string"), (2, "block_version", "uint64"), (4, "abci_version", "string")),
    "InfoResponse": (
        (1, "data", "string"),
        (2, "version", "string"),
        (3, "app_version", "uint64"),
        (4, "last_block_height", "int64"),
        (5, "last_block_app_hash", "bytes"),
    ),
    "PublicKey": ((1, "ed25519", "bytes"),),
    "ValidatorUpdate": ((1, "pub_key", "PublicKey"), (2, "power", "int64")),
    "InitChainRequest": (
        (1, "time", "Time"),
        (2, "chain_id", "string"),
        (4, "validators", "ValidatorUpdate*"),
        (5, "app_state_bytes", "bytes"),
        (6, "initial_height", "int64"),
    ),
    "InitChainResponse": ((2, "validators", "ValidatorUpdate*"), (3, "app_hash", "bytes")),
    # A path that is no UTF-8 is somebody's question over the engine's RPC, and no reason to end the connection.
    "QueryRequest": ((1, "data", "bytes"), (2, "path", "bytes"), (3, "height", "int64")),
    "QueryResponse": ((1, "code", "uint32"), (3, "log", "string"), (9, "height", "int64")),
    "CheckTxRequest": ((1, "tx", "bytes"), (2, "type", "uint32")),
    "CheckTxResponse": ((1, "code", "uint32"), (3, "log", "string")),
    "CommitResponse": ((3, "retain_height", "int64"),),
    "Snapshot": (
        (1, "height", "uint64"),
        (2, "format", "uint32"),
        (3, "chunks", "uint32"),
        (4, "hash", "bytes"),
        (5, "metadata", "bytes"),
    ),
    "SnapshotList": ((1, "snapshots", "Snapshot*"),),
    "OfferRequest": ((1, "snapshot", "Snapshot"), (2, "app_hash", "bytes")),
    "OfferResponse": ((1, "result", "uint32"),),
    "LoadChunkRequest": ((1, "height", "uint64"), (2, "format", "uint32"), (3, "chunk", "uint32")),
    "LoadChunkResponse": ((1, "chunk", "bytes"),),
    "ApplyChunkRequest": ((1, "index", "uint32"), (2, "chunk", "bytes"), (3, "sender", "string")),
    "ApplyChunkResponse": (
        (1, "result", "uint32"),
        (2, "refetch_chunks", "uint32*"),
        (3, "reject_senders", "string*"),
    ),
    "Validator": ((1, "address", "bytes"), (3, "power", "int64")),
    "Misbehavior": ((1, "type", "uint32"), (2, "validator", "Validator"), (3, "height", "int64"), (4, "time", "Time")),
    "PrepareRequest": (
        (1, "max_tx_bytes", "int64"),
        (2, "txs", "bytes*"),
        (5, "height", "int64"),
        (6, "time", "Time"),
    ),
    "PrepareResponse": ((1, "txs", "bytes*"),),
    "ProcessRequest": ((1, "txs", "bytes*"), (5, "height", "int64"), (6, "time", "Time")),
    "ProcessResponse": ((1, "status", "uint32"),),
    "ExtendResponse": ((1, "vote_extension", "bytes"),),
    "VerifyResponse": ((1, "status", "uint32"),),
    "FinalizeRequest": (
        (1, "txs", "bytes*"),
        (3, "misbehavior", "Misbehavior*"),
        (5, "height", "int64"),
        (6, "time", "Time"),
        (8, "proposer_address", "bytes"),
    ),
    "TxResult": ((1, "code", "uint32"), (2, "data", "bytes")),
    "FinalizeResponse": (
        (2, "tx_results", "TxResult*"),
        (3, "validator_updates", "ValidatorUpdate*"),
        (5, "app_hash", "bytes"),
    ),
    "Request": (
        (1, "echo", "Text"),
        (2, "flush", "Empty"),
        (3, "info", "InfoRequest"),
        (5, "init_chain", "InitChainRequest"),
        (6, "query", "QueryRequest"),
        (8, "check_tx", "CheckTxRequest"),
        (11, "commit", "Empty"),
        (12, "list_snapshots", "Empty"),
        (13, "offer_snapshot", "OfferRequest"),
        (14, "load_snapshot_chunk", "LoadChunkRequest"),
        (15, "apply_snapshot_chunk", "ApplyChunkRequest"),
        (16, "prepare_proposal", "PrepareRequest"),
        (17, "process_proposal", "ProcessRequest"),
        (18, "extend_vote", "Empty"),
        (19, "verify_vote_extension", "Empty"),
        (20, "finalize_block", "FinalizeRequest"),
    ),
    "Response": (
        (1, "exception", "Text"),
        (2, "echo", "Text"),
        (3, "flush", "Empty"),
        (4, "info", "InfoResponse"),
        (6, "init_chain", "InitChainResponse"),
        (7, "query", "QueryResponse"),
        (9, "check_tx", "CheckTxResponse"),
        (12, "commit", "CommitResponse"),
        (13, "list_snapshots", "SnapshotList"),
        (14, "offer_snapshot", "OfferResponse"),
        (15, "load_snapshot_chunk", "LoadChunkResponse"),
        (16, "apply_snapshot_chunk", "ApplyChunkResponse"),
        (17, "prepare_proposal", "PrepareResponse"),
        (18, "process_proposal", "ProcessResponse"),
        (19, "extend_vote", "ExtendResponse"),
        (20, "verify_vote_extension", "VerifyResponse"),
        (21, "finalize_block", "FinalizeResponse"),
    ),
}
_ONE_OF: Final = frozenset({"Request", "Response", "PublicKey"})
"""Messages of which exactly one field is set."""
_SCALARS: Final = {
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}


def _described() -> FileDescriptorProto:
    file = FileDescriptorProto(name="carechain/abci.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _TABLE.items():
        message = file.message_type.add(name=name)
        if name in _ONE_OF:
            message.oneof_decl.add(name="value")
        for number, field, kind in fields:
            one = message.field.add(name=field, number=number)
            repeats, kind_name = kind.endswith("*"), kind.rstrip("*")
            one.label = FieldDescriptorProto.LABEL_REPEATED if repeats else FieldDescriptorProto.LABEL_OPTIONAL
            if kind_name in _SCALARS:
                one.type = _SCALARS[kind_name]
            else:
                one.type = FieldDescriptorProto.TYPE_MESSAGE
                one.type_name = f".{_PACKAGE}.{kind_name}"
            if name in _ONE_OF:
                one.oneof_index = 0
    return file


_pool: Final = DescriptorPool()
_pool.Add(_described())


def _message(name: str) -> Any:  # noqa: ANN401 - classes made at run time
    return GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


Request: Final = _message("Request")
Response: Final = _message("Response")
TxResult: Final = _message("TxResult")
ValidatorUpdate: Final = _message("ValidatorUpdate")
Snapshot: Final = _message("Snapshot")
