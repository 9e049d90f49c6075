"""The program ``carechain``: assembles the commands. Scripts rely on names, ``--json`` and exit statuses."""

import typer

from carechain.cli import bench, consent, demo, keys, ledger, members, operating, patients, records, staff

app = typer.Typer(
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
app.add_typer(keys.app, name="keys")
app.add_typer(members.app, name="member")
app.add_typer(staff.app, name="staff")
app.add_typer(patients.app, name="patient")
app.add_typer(consent.app)
app.add_typer(records.app, name="record")
app.add_typer(bench.app, name="bench")
