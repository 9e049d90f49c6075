"""A home's ledger as files on a disk, read-only: for an operator who looks, beside a running node or without one."""

from pathlib import Path
from typing import Any, Final, Self

import msgspec
import typer
from msgspec import Struct

from carechain.chain.genesis import genesis_hash
from carechain.chain.header import Header
from carechain.chain.receipts import FullReceipt, describe
from carechain.cli.network import home_genesis
from carechain.cli.output import CannotRun
from carechain.core.message import Event
from carechain.core.rejection import Rejected
from carechain.engine.blocklog import LOG_NAME, BlockLog, CorruptHistory, StoredBlock
from carechain.engine.sealed import read_header, read_receipts
from carechain.engine.session import LEDGER_FOLDER, TREE_FOLDER
from carechain.engine.txindex import TxIndex, id_of
from carechain.node.refusals import NodeCode
from carechain.state.store import NodeStore
from carechain.state.table import Part, TableSpec

_NUMBER_WIDTH: Final = 8


class ShownBlock(Struct, frozen=True, kw_only=True):
    """A block with its receipts completed from its transactions."""

    header: Header
    signature: bytes
    receipts: list[FullReceipt]


class LedgerFiles:
    """The block log and the last checkpoint of a home; opens each only when asked. A context manager."""

    def __init__(self, home: Path) -> None:
        """Raises :class:`CannotRun` when the home has no ledger yet."""
        self._genesis = genesis_hash(home_genesis(home))
        self._folder = require_ledger(home)
        self._log: BlockLog | None = None
        self._store: NodeStore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        if self._store is not None:
            self._store.close()

    @property
    def log(self) -> BlockLog:
        """The block log."""
        if self._log is None:
            self._log = BlockLog.open(self._folder, genesis=self._genesis, read_only=True)
        return self._log

    @property
    def store(self) -> NodeStore:
        """The tree as of the last checkpoint."""
        if self._store is None:
            self._store = NodeStore.open(self._folder / TREE_FOLDER, read_only=True)
        return self._store

    def block(self, height: int) -> ShownBlock:
        """A block; refuses a height that is not there and names a damaged record."""
        if height > self.log.height:
            raise Rejected(NodeCode.BLOCK_UNKNOWN)
        stored = self._read(height)
        sealed = read_header(height, stored)
        return ShownBlock(header=sealed.header, signature=sealed.signature, receipts=_receipts(height, stored))

    def receipt(self, tx_id: bytes) -> FullReceipt:
        """The receipt of a transaction: from the index, and behind the last checkpoint by looking."""
        for height, index in TxIndex(self.store).candidates(tx_id):
            stored = self._read(height)
            if index < len(stored.txs) and id_of(stored.txs[index]) == tx_id:
                return _receipts(height, stored)[index]
        for height in range(self.log.height, self.store.height, -1):
            stored = self._read(height)
            for index, raw in enumerate(stored.txs):
                if id_of(raw) == tx_id:
                    return _receipts(height, stored)[index]
        raise Rejected(NodeCode.TX_UNKNOWN)

    def rows(
        self, spec: TableSpec[Any], leading: list[str], limit: int
    ) -> tuple[int, list[tuple[tuple[Part, ...], Any]]]:
        """Rows of a table and the height they hold for; ``leading`` are key parts as people write them."""
        parts = _key_parts(spec, leading)
        table = spec.bind(self.store.snapshot())
        return self.store.height, list(table.scan(*parts, limit=limit))

    def _read(self, height: int) -> StoredBlock:
        try:
            return self.log.read(height)
        except CorruptHistory as corrupt:
            raise CannotRun(f"block {corrupt.height} is damaged: {corrupt.reason}") from None


def require_ledger(home: Path) -> Path:
    """The ledger's folder of a home; raises :class:`CannotRun` when no node has run there yet."""
    folder = home / LEDGER_FOLDER
    if not (folder / LOG_NAME).is_file():
        raise CannotRun(f"{home} has no ledger yet: `carechain start` makes it")
    return folder


def plain(value: object) -> object:
    """Objects, lists, numbers and text: byte strings in hexadecimal, structs with named fields."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Struct):
        named = {field: plain(getattr(value, field)) for field in value.__struct_fields__}
        return {"type": value.__struct_config__.tag, **named} if isinstance(value, Event) else named
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


def as_json(value: object) -> str:
    """The same on one line, as people read it."""
    return msgspec.json.encode(plain(value)).decode()


def _receipts(height: int, stored: StoredBlock) -> list[FullReceipt]:
    return [
        describe(raw, receipt, height=height, index=index)
        for index, (raw, receipt) in enumerate(zip(stored.txs, read_receipts(height, stored), strict=True))
    ]


def _key_parts(spec: TableSpec[Any], leading: list[str]) -> tuple[Part, ...]:
    """Hexadecimal digits for ids, numbers for narrow parts."""
    if len(leading) > len(spec.key):
        raise typer.BadParameter(f"a key of {spec.name} has {len(spec.key)} parts", param_hint="--key")
    parts: list[Part] = []
    for width, text in zip(spec.key, leading, strict=False):
        try:
            part: Part = int(text) if width <= _NUMBER_WIDTH else bytes.fromhex(text)
        except ValueError:
            raise typer.BadParameter(
                "write ids in hexadecimal, numbers in decimal digits", param_hint="--key"
            ) from None
        fits = len(part) == width if isinstance(part, bytes) else 0 <= part < 1 << 8 * width
        if not fits:
            raise typer.BadParameter(f"this part of the key has {width} bytes", param_hint="--key")
        parts.append(part)
    return tuple(parts)
