"""The program ``carechain``: assembles the commands. Scripts rely on names, ``--json`` and exit statuses."""

import sys
from collections.abc import Sequence
from typing import Any

import typer

# Typer carries its own copy of click and does not export the class that all complaints about usage share.
from typer._click.exceptions import ClickException
from typer.core import TyperGroup

from carechain.cli import (
    apps,
    backing,
    bench,
    consent,
    consent_files,
    consortium,
    demo,
    hl7,
    importing,
    keyholders,
    keys,
    ledger,
    members,
    operating,
    patients,
    records,
    recovering,
    resync,
    rotating,
    snapshots,
    sources,
    staff,
    testnet,
    validators,
    vault,
)
from carechain.cli.output import Exit, refuse_usage


class Program(TyperGroup):
    """The whole command line. With ``--json`` a complaint about usage is one object too, and it never exits with 1."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **named: Any) -> Any:  # noqa: ANN401 - as typer declares it
        """Run one command line, then exit with its status."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(words, *others, **{**named, "standalone_mode": False})
        except ClickException as complaint:
            complaint.show()
            if "--json" in words:
                refuse_usage(sys.stdout, complaint.format_message())
            status = complaint.exit_code
        except typer.Abort:
            # A prompt that nobody answered. Typer would exit with 1, which means a refusal here.
            sys.stderr.write("failed: nothing was entered\n")
            if "--json" in words:
                refuse_usage(sys.stdout, "nothing was entered")
            status = Exit.ENVIRONMENT
        sys.exit(status or Exit.DONE)


app = typer.Typer(
    cls=Program,
    help="A consortium ledger for health records: patients decide, organisations keep the data, both is proved.",
    epilog="Exit status: 0 done, 1 refused (the rejection code is printed), 2 usage, 3 environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(demo.app)
app.add_typer(operating.app)
app.add_typer(ledger.app)
app.add_typer(backing.app)
app.add_typer(snapshots.app)
app.add_typer(resync.app)
for added in (rotating.keys_app, recovering.keys_app):
    keys.app.add_typer(added)
staff.app.add_typer(rotating.staff_app)
patients.app.add_typer(recovering.patients_app)
records.app.add_typer(importing.app)
sources.app.add_typer(hl7.app, name="hl7")
app.add_typer(keys.app, name="keys")
app.add_typer(consortium.app, name="consortium")
app.add_typer(testnet.app, name="testnet")
app.add_typer(members.app, name="member")
app.add_typer(validators.app, name="validator")
app.add_typer(keyholders.app, name="keyholders")
app.add_typer(staff.app, name="staff")
app.add_typer(patients.app, name="patient")
app.add_typer(consent.app)
app.add_typer(consent_files.app, name="consent")
app.add_typer(records.app, name="record")
app.add_typer(sources.app, name="source")
app.add_typer(vault.app, name="vault")
app.add_typer(apps.app, name="app")
app.add_typer(bench.app, name="bench")
