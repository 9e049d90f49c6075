"""Commands of an operator who prepares for the worst: backup, restore, rollback."""

# ruff: noqa: PLC0415 - what needs cryptography or the ledger is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import PASSWORD_VARIABLE
from carechain.cli.output import CannotRun, Denied, Desk, OptionGroup, Report, command, counted, lines, sub_app
from carechain.cli.terms import moment

if TYPE_CHECKING:
    from carechain.engine.rollback import Loss
    from carechain.node.archive import Opener, Protection
    from carechain.node.backup import Manifest

app = sub_app("")

_MB = 1_000_000


class Opening(OptionGroup, frozen=True):
    """What opens a backup: a password, or a key file and its password."""

    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="The identity whose key the backup is sealed to (see --to)."),
    ] = None
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            envvar=PASSWORD_VARIABLE,
            show_envvar=False,
            metavar="FILE",
            help="File with the password of the backup, or of the key file (mode 0600); asked for unless given.",
        ),
    ] = None


@command(app, "backup")
def backup(
    desk: Desk,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; one that exists is never overwritten.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="PUBLIC",
            help="Seal it to a key instead of a password: the file of `carechain keys new --public`.",
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            envvar=PASSWORD_VARIABLE,
            show_envvar=False,
            metavar="FILE",
            help="File with the password of the backup (mode 0600); asked for twice unless given.",
        ),
    ] = None,
) -> Report:
    """Write everything this home's node needs to one encrypted file; the node may run meanwhile.

    Left out are what is derived (the state tree, the engine's own data) and the signing state of a validator, which
    must never come back. Keep the password, or the key of --to, elsewhere: without it the file is of no use.
    """
    import secrets
    import time

    from carechain.cli.homes import program_version
    from carechain.node.backup import back_up

    protection = _protection(desk, to, password_file)
    with desk.progress("backup") as advance:
        made = back_up(
            desk.home,
            file.expanduser(),
            protection=protection,
            program=program_version(),
            now_s=int(time.time()),
            entropy=secrets.token_bytes,
            progress=advance,
        )
    outside = _outside(desk.home)
    data = {**_described(made.manifest), "file": str(file), "file_bytes": made.file_bytes, "outside": outside}
    said = [
        f"{file}: {counted(made.manifest.files, 'file')}, {made.file_bytes / _MB:.1f} MB",
        f"the ledger up to height {made.manifest.height}",
        *(f"not inside: {one}" for one in outside),
        f"try it now and then: carechain restore {file} --check",
    ]
    return Report(data=data, show=lines(*said))


@command(app, "restore")
def restore(
    desk: Desk,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `carechain backup` made.")],
    opening: Opening,
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether the backup is whole and opens; write nothing.")
    ] = False,
) -> Report:
    """Make a new home of a backup. The folder of --home must not be there, or be empty.

    The whole backup is checked before anything is written, and the home appears at once or not at all.
    """
    import time

    from carechain.node import restore as restoring

    opener = _opener(desk, opening)
    if check:
        with desk.progress("check") as advance:
            manifest = restoring.check(file.expanduser(), opener=opener, progress=advance)
        return Report(
            data={**_described(manifest), "file": str(file), "restored": False},
            show=lines(f"{file} is whole: {_summary(manifest)}"),
        )
    with desk.progress("restore") as advance:
        manifest = restoring.restore(
            file.expanduser(), desk.home, opener=opener, now_s=int(time.time()), progress=advance
        )
    warnings = _warnings(manifest)
    data = {
        **_described(manifest),
        "file": str(file),
        "restored": True,
        "home": str(desk.home),
        "warnings": warnings,
    }
    for one in warnings:
        desk.say(f"warning: {one}")
    said = (f"{desk.home}: {_summary(manifest)}", f"next: {_next(desk.home, manifest)}")
    return Report(data=data, show=lines(*said))


@command(app, "rollback")
def rollback(
    desk: Desk,
    *,
    to: Annotated[int, typer.Option("--to", min=0, metavar="HEIGHT", help="The last block that stays.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this, what would be lost is shown.")] = False,
) -> Report:
    """Cut the blocks above a height off this home's ledger; its node must be stopped.

    They are kept in a file beside the log. Where this node makes the blocks alone, their transactions are lost to
    everybody, and whoever saw them can prove that there were others. Where several organisations order the
    blocks, the others hand them over again.
    """
    from carechain.chain.genesis import genesis_hash
    from carechain.cli.files import require_ledger
    from carechain.cli.network import home_genesis
    from carechain.engine.rollback import RollbackCode, loss_above, roll_back
    from carechain.node.home import open_home

    genesis = genesis_hash(home_genesis(desk.home))
    folder = require_ledger(desk.home)
    with open_home(desk.home):
        loss = loss_above(folder, to, genesis=genesis)
        data = _lost(loss)
        if not yes:
            for line in _loss_lines(loss):
                desk.say(line)
            code = RollbackCode.NOT_CONFIRMED
            raise Denied(code=int(code), label=code.label, reason=code.reason, data=data)
        kept = roll_back(folder, to, genesis=genesis)
    said = (*_loss_lines(loss), f"cut; kept in {kept}", f"next: carechain start --home {desk.home}")
    return Report(data={**data, "kept": str(kept)}, show=lines(*said))


# --- keys -----------------------------------------------------------------------------------------------


def _protection(desk: Desk, to: Path | None, password_file: Path | None) -> "Protection":
    from carechain.cli.keyring import Keyring
    from carechain.cli.public_key import read_public
    from carechain.node.archive import Password

    if to is not None:
        return read_public(to.expanduser()).hpke_key
    return Password(Keyring(desk.home).password(password_file, confirm=True))


def _opener(desk: Desk, opening: Opening) -> "Opener":
    from carechain.cli.keyring import Keyring
    from carechain.node.archive import Password
    from carechain.sdk.identity import Identity

    password = Keyring(desk.home).password(opening.password_file)
    if opening.key is None:
        return Password(password)
    return Identity.load(opening.key.expanduser(), password=password).hpke_key()


def _outside(home: Path) -> list[str]:
    """Settings whose files a backup of the home cannot hold."""
    from carechain.cli.serving import node_settings

    try:
        settings = node_settings(home)
    except CannotRun as wrong:
        return [f"nobody looked for files outside of the home: {wrong}"]
    named = {
        "member_key": settings.member_key,
        "password_file": settings.password_file,
        "api.tls_certificate": settings.api.tls_certificate,
        "api.tls_key": settings.api.tls_key,
        "relay.ca_file": settings.relay.ca_file,
    }
    found = []
    for name, path in named.items():
        place = None if path is None else settings.path(path)
        if place is not None and place.exists() and not place.absolute().is_relative_to(home.absolute()):
            found.append(f"{place} ({name}), which lies outside of the home")
    return found


# --- words ----------------------------------------------------------------------------------------------


def _described(manifest: "Manifest") -> dict[str, object]:
    return {
        "program": manifest.program,
        "chain_id": manifest.chain_id,
        "genesis_hash": manifest.genesis.hex(),
        "created_s": manifest.created_s,
        "height": manifest.height,
        "block_time_s": manifest.block_time_s,
        "engine": "cometbft" if manifest.engine else "embedded",
        "validator": manifest.validator,
        "files": manifest.files,
        "size_bytes": manifest.size_bytes,
    }


def _summary(manifest: "Manifest") -> str:
    return (
        f"network {manifest.chain_id}, backed up {moment(manifest.created_s)} UTC at height {manifest.height}, "
        f"{counted(manifest.files, 'file')}"
    )


def _warnings(manifest: "Manifest") -> list[str]:
    if not manifest.engine:
        return ["make sure that the old node never runs again: two that make blocks would part the ledger in two"]
    found = ["the ledger is taken from the other nodes; the one of the backup lies beside it in ledger/"]
    if manifest.validator:
        found.append(
            "what this validator has signed since is not in a backup, and voting twice is an offence: it does not vote "
            "until somebody who knows that the old node is gone for good starts it once with --resume-validator"
        )
    return found


def _next(home: Path, manifest: "Manifest") -> str:
    if manifest.validator:
        return f"carechain start --home {home}; once it is ready and the old node gone: with --resume-validator"
    return f"carechain start --home {home}; to check everything first: carechain verify --home {home}"


def _lost(loss: "Loss") -> dict[str, object]:
    return {
        "to": loss.height,
        "tip": loss.tip,
        "blocks": loss.blocks,
        "transactions": loss.txs,
        "first_s": loss.first_s,
        "last_s": loss.last_s,
        "size_bytes": loss.size_bytes,
        "damaged_at": loss.damaged_at or None,
    }


def _loss_lines(loss: "Loss") -> list[str]:
    gone = f"{counted(loss.blocks, 'block')} with {counted(loss.txs, 'transaction')}"
    said = [f"from height {loss.tip} back to {loss.height}: {gone} go"]
    if loss.blocks:
        said.append(f"made from {moment(loss.first_s)} to {moment(loss.last_s)} UTC")
    if loss.damaged_at:
        said.append(f"and everything from block {loss.damaged_at} on, which is damaged and cannot be counted")
    return said
