"""``carechain verify`` and ``carechain inspect``: the ledger of this home, read from its files."""

# ruff: noqa: PLC0415 - what needs cryptography or the disk is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import Annotated

import typer

from carechain.cli.options import ByAnyone
from carechain.cli.output import Desk, Exit, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import identifier, moment

app = sub_app("")
inspect_app = sub_app("Look into the ledger's files: a block, a transaction, state entries. The node may run.")


@command(app, "verify")
def verify(
    desk: Desk,
    *,
    light: Annotated[
        bool, typer.Option("--light", help="Verify a consortium's newest block over the network instead.")
    ] = False,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="With --light: the last believed header; HOME/light.json."),
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", min=1, metavar="N", help="With --light: start from this block ...")
    ] = None,
    expected_hash: Annotated[
        bytes | None,
        typer.Option("--hash", parser=identifier, metavar="HEX", help="... whose hash you heard from somebody."),
    ] = None,
    tx: Annotated[
        bytes | None,
        typer.Option("--tx", parser=identifier, metavar="ID", help="With --light: also prove this own transaction."),
    ] = None,
    by: ByAnyone,
) -> Report:
    """Verify the whole ledger of this home offline: re-hash it, execute it again, compare the state.

    Names the first wrong block, transaction or state entry and exits with 1. Stop the node first, or verify a copy.

    With --light no ledger is needed and no node is trusted: the validators' signatures are followed from the genesis,
    from the trust file, or from a block whose hash you know, to the newest block that the nodes show.
    """
    if light:
        from carechain.cli.light import Start, verify_light

        return verify_light(desk, by, Start(trust=trust, height=height, hash=expected_hash), tx)
    if (trust, height, expected_hash, tx) != (None, None, None, None):
        raise typer.BadParameter("--trust, --height, --hash and --tx belong to --light")
    return _verify_offline(desk)


def _verify_offline(desk: Desk) -> Report:
    from carechain.cli.addresses import own_member
    from carechain.cli.files import require_ledger
    from carechain.cli.keyring import Keyring
    from carechain.cli.network import home_genesis
    from carechain.engine.session import LEDGER_FOLDER
    from carechain.engine.verify import verify_chain

    genesis = home_genesis(desk.home)
    require_ledger(desk.home)
    with desk.progress("verifying") as advance:
        verdict = verify_chain(desk.home, genesis, progress=advance, keeper=own_member(Keyring(desk.home)))
    bad = verdict.first_bad
    data = {
        "ok": verdict.ok,
        "height": verdict.height,
        "app_hash": verdict.app_hash.hex(),
        "first_bad": None
        if bad is None
        else {"kind": bad.kind.value, "height": bad.height, "key": bad.key, "reason": bad.reason},
        "torn_bytes": verdict.torn_bytes,
        "base": verdict.base,
        "executed_from": verdict.executed_from,
    }
    if bad is None:
        said = [f"good up to height {verdict.height}", f"app hash {verdict.app_hash.hex()}"]
        if verdict.base:
            again = f"executed again from {verdict.executed_from} on" if verdict.executed_from else "not executed again"
            said.append(f"it begins with a snapshot of height {verdict.base}; later blocks were checked, and {again}")
        if verdict.torn_bytes:
            said.append(f"{verdict.torn_bytes} bytes at the end were never acknowledged; the next start drops them")
        return Report(data=data, show=lines(*said))
    where = f" {bad.key}" if bad.key else ""
    said = [
        f"WRONG at height {bad.height}: {bad.kind.value}{where}: {bad.reason}",
        f"good up to height {verdict.height}; keep this home as evidence, and put back a good copy of {LEDGER_FOLDER}/",
    ]
    return Report(data=data, show=lines(*said), status=Exit.REFUSED)


@command(inspect_app, "block")
def block(desk: Desk, height: Annotated[int, typer.Argument(min=1, help="The block's height.")]) -> Report:
    """Show a block: its header and what became of each transaction."""
    from carechain.cli.files import LedgerFiles

    with LedgerFiles(desk.home) as files:
        shown = files.block(height)
    header = shown.header
    rows = [
        {
            "tx": one.tx_id.hex(),
            "signer": one.signer.hex(),
            "messages": list(one.messages),
            "code": one.code,
            "label": one.label,
        }
        for one in shown.receipts
    ]
    data = {
        "height": header.height,
        "time_s": header.time_s,
        "producer": header.producer.hex(),
        "previous": header.previous.hex(),
        "tx_count": header.tx_count,
        "tx_root": header.tx_root.hex(),
        "receipt_root": header.receipt_root.hex(),
        "app_hash": header.app_hash.hex(),
        "signature": shown.signature.hex(),
        "transactions": rows,
    }
    title = f"Block {header.height}, {moment(header.time_s)} UTC, app hash {header.app_hash.hex()}"
    text = [(one.tx_id.hex(), ", ".join(one.messages), one.label) for one in shown.receipts]
    return Report(data=data, show=tables(table(title, ("transaction", "messages", "outcome"), text)))


@command(inspect_app, "tx")
def transaction(
    desk: Desk, tx_id: Annotated[bytes, typer.Argument(parser=identifier, metavar="ID", help="The transaction's id.")]
) -> Report:
    """Show the full receipt of a transaction, with its events."""
    from carechain.cli.files import LedgerFiles, as_json, plain

    with LedgerFiles(desk.home) as files:
        receipt = files.receipt(tx_id)
    data = {"receipt": plain(receipt)}
    said = [
        f"transaction {receipt.tx_id.hex()} in block {receipt.height}, place {receipt.index}",
        f"signed by {receipt.signer.hex()}: {', '.join(receipt.messages)}",
        f"{receipt.label}: {receipt.reason}",
        *(f"event {as_json(one)}" for one in receipt.events),
    ]
    return Report(data=data, show=lines(*said))


@command(inspect_app, "state")
def state(
    desk: Desk,
    name: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="A table, for example membership.members; all unless given.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="A leading part of the key, in order; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many rows.")] = 100,
) -> Report:
    """Show state entries as of the last checkpoint, or the list of tables.

    A node writes a checkpoint now and then and when it stops; what came later is in the blocks.
    """
    from carechain.chain.genesis import TABLES
    from carechain.cli.files import LedgerFiles, as_json, plain

    if name is None:
        listed = [{"table": one.name, "prefix": one.prefix, "note": one.note} for one in TABLES]
        text = [(one.name, one.note) for one in TABLES]
        return Report(data={"tables": listed}, show=tables(table("State tables", ("table", "a row"), text)))
    spec = next((one for one in TABLES if one.name == name), None)
    if spec is None:
        raise typer.BadParameter("no such table; run `carechain inspect state` for the list", param_hint="TABLE")
    with LedgerFiles(desk.home) as files:
        height, found = files.rows(spec, key or [], limit)
        newest = files.log.height
    rows = [{"key": [plain(part) for part in parts], "row": plain(row)} for parts, row in found]
    text = [(", ".join(str(plain(part)) for part in parts), as_json(row)) for parts, row in found]
    title = f"{spec.name} at the checkpoint of height {height}; the ledger is at {newest}"
    return Report(
        data={"table": spec.name, "height": height, "ledger_height": newest, "rows": rows},
        show=tables(table(title, ("key", "row"), text)),
    )


app.add_typer(inspect_app, name="inspect")
