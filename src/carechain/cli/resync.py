"""``carechain resync``: give up this node's copy of the ledger and take it from the other nodes again."""

# ruff: noqa: PLC0415 - what needs cryptography or the ledger is imported by the command that uses it, so help is quick

from pathlib import Path
from shutil import rmtree
from typing import Annotated

import typer

from carechain.cli.output import CannotRun, Desk, Report, command, lines, sub_app

app = sub_app("")


@command(app, "resync")
def resync(
    desk: Desk,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would happen.")] = False,
) -> Report:
    """Set a damaged copy of a consortium's ledger aside, so that the next start takes it from the other nodes.

    Keys, charts and audit stay, and so does what the validator has signed: without it a validator could sign twice. The
    old files are kept beside as evidence; remove them when they have been looked at.
    """
    from carechain.cli.network import home_genesis
    from carechain.engine.cometbft.config import FOLDER, VALIDATOR_STATE
    from carechain.engine.session import LEDGER_FOLDER
    from carechain.node.home import HomeUnusable, open_home

    if not home_genesis(desk.home).is_consortium:
        raise CannotRun("this network's blocks come from producers: put back a copy of the ledger from a backup")
    ledger, engine = desk.home / LEDGER_FOLDER, desk.home / FOLDER / VALIDATOR_STATE.parent
    aside = _free_name(desk.home)
    data = {"home": str(desk.home), "set_aside": str(aside), "done": yes}
    if not yes:
        said = (f"would move {ledger} to {aside}", f"would empty {engine}, except {VALIDATOR_STATE.name}")
        return Report(data=data, show=lines(*said, "nothing was changed; say --yes to do it"))
    try:
        with open_home(desk.home):
            # The engine's store first: an engine whose blocks reach further than the ledger hands them over again.
            for one in sorted(engine.iterdir()) if engine.is_dir() else ():
                if one.name != VALIDATOR_STATE.name:
                    rmtree(one) if one.is_dir() else one.unlink()
            if ledger.is_dir():
                ledger.rename(aside)
    except HomeUnusable as unusable:
        raise CannotRun(str(unusable)) from None
    said = (f"{aside} keeps the old files", f"next: carechain start --home {desk.home}")
    return Report(data=data, show=lines(*said))


def _free_name(home: Path) -> Path:
    """Where the old ledger goes: the first name that is not taken."""
    from carechain.node.backup import LEDGER_ASIDE

    number = 1
    while (found := home / f"{LEDGER_ASIDE}{number}").exists():
        number += 1
    return found
