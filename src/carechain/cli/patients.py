"""``carechain patient``: relationships between patients and the organisation that registers them."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from carechain.cli.options import ByOrganisation, WalletPasswordOption
from carechain.cli.output import CannotRun, Desk, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import moment

app = sub_app("Patients: a wallet's pseudonym is bound to an existing id by a registrar.")

_ID_BYTES: Final = 4096


@command(app, "register")
def register(
    desk: Desk,
    *,
    wallet: Annotated[str, typer.Option("--wallet", help="The patient's wallet: a name here (made now), or a path.")],
    id_file: Annotated[
        Path | None,
        typer.Option("--id-file", metavar="FILE", help="File with the existing id, `-` for standard input."),
    ] = None,
    system: Annotated[str, typer.Option("--system", help="What kind of id it is, for example `mrn`.")] = "mrn",
    label: Annotated[str, typer.Option("--label", help="What the wallet calls this relationship.")] = "",
    wallet_password_file: WalletPasswordOption = None,
    by: ByOrganisation,
) -> Report:
    """Bind an existing id to a new pseudonym of the patient's wallet, and store the sealed summary.

    The id is read from a file or asked for, never an argument, since others can see arguments. The ledger gets a
    keyed hash of it that only this registrar can compute.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.enrolment import bind_patient

    desktop = Desktop(desk, by, wallet_password_file=wallet_password_file)
    existing_id = _existing_id(id_file)
    bound = bind_patient(desktop, wallet=wallet, existing_id=existing_id, system=system, label=label)
    return Report(
        data={
            "pseudonym": bound.pseudonym.hex(),
            "organisation": bound.organisation.hex(),
            "wallet": wallet,
            **bound.done.data(),
        },
        show=lines(
            "registered: keep this pseudonym with the chart", f"pseudonym {bound.pseudonym.hex()}", bound.done.text()
        ),
    )


@command(app, "list")
def list_patients(
    desk: Desk,
    *,
    with_names: Annotated[
        bool, typer.Option("--names", help="Also show who they are, from this organisation's own charts.")
    ] = False,
    by: ByOrganisation,
) -> Report:
    """List the pseudonyms bound at this organisation."""
    from carechain.chain.questions import PatientLine, PatientPage
    from carechain.cli.acting import Desktop
    from carechain.cli.charting import local_names

    desktop = Desktop(desk, by)
    actor = desktop.anyone()
    with desktop.seat(actor) as seat:
        found = seat.rows("relationships.patients", PatientLine, PatientPage(actor.organisation))
    people = local_names(desk.home, [one.pseudonym for one in found]) if with_names else {}
    rows = [
        {
            "pseudonym": one.pseudonym.hex(),
            "bound_s": one.bound_s,
            "left_s": one.left_s or None,
            **({"name": people.get(one.pseudonym)} if with_names else {}),
        }
        for one in found
    ]
    text = [
        (
            one.pseudonym.hex(),
            moment(one.bound_s),
            f"left {moment(one.left_s)}" if one.left_s else "open",
            *((people.get(one.pseudonym) or "",) if with_names else ()),
        )
        for one in found
    ]
    columns = ("pseudonym", "since (UTC)", "relationship", *(("name",) if with_names else ()))
    return Report(data={"patients": rows}, show=tables(table("Patients", columns, text)))


def _existing_id(file: Path | None) -> str:
    """The id without its line end; from a file, from standard input, or typed at a terminal."""
    if file is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is there to ask for the id; give a file", param_hint="--id-file")
        return str(typer.prompt("Existing id", err=True))
    if str(file) == "-":
        data = sys.stdin.buffer.read(_ID_BYTES + 1)
    else:
        with file.expanduser().open("rb") as stream:
            data = stream.read(_ID_BYTES + 1)
    if len(data) > _ID_BYTES:
        raise CannotRun("the file is too large to be an id")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise CannotRun("the id is not UTF-8 text") from None
