"""``carechain snapshot``: what this node keeps for others that join late."""

# ruff: noqa: PLC0415 - what needs cryptography or the ledger is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.output import CannotRun, Desk, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import moment

if TYPE_CHECKING:
    from carechain.engine.snapshots import Kept, Manifest

app = sub_app("")

_MB = 1_000_000
_SLICE = 20_000


@command(app, "snapshot")
def snapshot(
    desk: Desk,
    *,
    now: Annotated[bool, typer.Option("--now", help="Make one of the last block; the node must be stopped.")] = False,
) -> Report:
    """List the snapshots from which an organisation that joins late takes the state, or make one.

    A running node makes them by itself, at the heights that `snapshots.every_blocks` says. They hold what the ledger
    holds and nothing else, so whoever may read the ledger may have them.
    """
    from carechain.cli.files import require_ledger
    from carechain.engine.snapshots import SNAPSHOTS_FOLDER, decode_manifest, kept_in

    folder = require_ledger(desk.home)
    made = _make(desk, folder) if now else None
    kept = [(one, decode_manifest(one.metadata)) for one in kept_in(folder / SNAPSHOTS_FOLDER)]
    data = {"made": made, "snapshots": [_described(*one) for one in kept]}
    if made is not None and not any(one.height == made for one, _ in kept):
        raise CannotRun(f"the snapshot of height {made} is not whole; look at the disk")
    text = [
        (
            str(one.height),
            f"{moment(manifest.header.time_s)} UTC",
            str(manifest.entries),
            f"{one.size_bytes / _MB:.1f} MB in {counted(one.chunks, 'chunk')}",
            one.hash.hex(),
        )
        for one, manifest in kept
    ]
    if not text:
        return Report(data=data, show=lines("no snapshots yet"))
    return Report(data=data, show=tables(table("Snapshots", ("height", "time", "entries", "size", "hash"), text)))


def _described(kept: "Kept", manifest: "Manifest") -> dict[str, object]:
    return {
        "height": kept.height,
        "format": kept.format,
        "hash": kept.hash.hex(),
        "chunks": kept.chunks,
        "size_bytes": kept.size_bytes,
        "entries": manifest.entries,
        "ids": manifest.ids,
        "time_s": manifest.header.time_s,
        "app_hash": manifest.header.app_hash.hex(),
    }


def _make(desk: Desk, folder: Path) -> int:
    """A snapshot of the last block of a stopped node; returns its height."""
    from carechain.cli.keyring import MEMBER_KEY, Keyring
    from carechain.cli.network import home_genesis
    from carechain.engine.session import Session
    from carechain.engine.snapshots import SNAPSHOTS_FOLDER, Making
    from carechain.node.home import open_home

    genesis = home_genesis(desk.home)
    keeper = None if genesis.producers else Keyring(desk.home).book().get(MEMBER_KEY)
    with open_home(desk.home):
        with desk.progress("opening") as advance:
            session = Session.open(desk.home, genesis, keeper=keeper, progress=advance)
        with session:
            if not session.head.height:
                raise CannotRun("the ledger has no block yet, so there is no state to hand on")
            making = Making(folder / SNAPSHOTS_FOLDER, session.capture())
            while making.advance(_SLICE):
                pass
            return session.head.height
