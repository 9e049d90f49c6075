"""``carechain staff``: an organisation's own people, certified by its own authority."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import Desk, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import RolesOption, SomeRolesOption, moment, names
from carechain.core.vocabulary import Role

if TYPE_CHECKING:
    from carechain.cli.acting import Desktop

app = sub_app("The organisation's staff: certificates from its own authority, roles, leavers.")

ValidOption = Annotated[int, typer.Option("--days", min=1, max=3650, help="How many days the certificate is valid.")]
PersonArgument = Annotated[str, typer.Argument(metavar="PERSON", help="A name of the address book, or a party id.")]


@command(app, "enrol")
def enrol(
    desk: Desk,
    *,
    name: Annotated[str, typer.Argument(help="The key's name in this home; made now if there is none.")],
    roles: SomeRolesOption = None,
    days: ValidOption = 365,
    accepted: Annotated[
        Path | None,
        typer.Option("--accepted", metavar="FILE", help="Enrol a key made elsewhere, by the offer it accepted."),
    ] = None,
    by: ByOrganisation,
) -> Report:
    """Issue a certificate and enrol a member of staff on the ledger.

    The certificate carries ids and roles; the person's name stays in this home. A key made elsewhere must agree first:
    see `carechain staff offer`. Its roles and its end are those of the offer.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.certifying import accepted_here
    from carechain.cli.public_key import read_acceptance

    desktop = Desktop(desk, by)
    if accepted is not None and roles is None:
        agreed = read_acceptance(accepted)
    elif roles is not None and accepted is None:
        agreed = accepted_here(desktop, name, roles=roles, days=days)
    else:
        raise typer.BadParameter("give either the roles of a key of this home, or an accepted offer")
    certificate = agreed.read(desktop.authority().certificate)
    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(agreed.message())
    desktop.keys.note(name, certificate.party)
    data = {
        "name": name,
        "party": certificate.party.hex(),
        "roles": names(Role, certificate.roles),
        "valid_until_s": certificate.until_s,
        **done.data(),
    }
    said = f"enrolled {name} as {', '.join(names(Role, certificate.roles))} until {moment(certificate.until_s)} UTC"
    return Report(data=data, show=lines(said, f"party {certificate.party.hex()}", done.text()))


@command(app, "offer")
def offer(
    desk: Desk,
    *,
    name: Annotated[str, typer.Argument(help="The name to note the key under in this home.")],
    public: Annotated[Path, typer.Option("--public", metavar="FILE", help="The public half of the key.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the offer.")],
    roles: RolesOption,
    days: ValidOption = 365,
    by: ByOrganisation,
) -> Report:
    """Issue a certificate for a key made elsewhere, to be accepted by its holder.

    Nothing is on the ledger yet: the holder accepts with `carechain keys accept`, and `carechain staff enrol
    --accepted` enrols the key.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.certifying import issue, offer_of
    from carechain.cli.public_key import read_public, write_public

    desktop = Desktop(desk, by)
    half = read_public(public)
    certificate, until_s = issue(desktop, half, roles=roles, days=days)
    write_public(out, offer_of(desktop, certificate))
    desktop.keys.note(name, half.party)
    data = {
        "name": name,
        "party": half.party.hex(),
        "roles": names(Role, roles),
        "valid_until_s": until_s,
        "file": str(out),
    }
    said = f"an offer for {name} as {', '.join(names(Role, roles))} until {moment(until_s)} UTC: {out}"
    return Report(data=data, show=lines(said, "next: its holder runs `carechain keys accept`"))


@command(app, "renew")
def renew(
    desk: Desk,
    *,
    person: PersonArgument,
    roles: RolesOption,
    days: ValidOption = 365,
    by: ByOrganisation,
) -> Report:
    """Give an enrolled key a new certificate: a new end, other roles, or rights that had lapsed."""
    from carechain.chain.questions import OfParty
    from carechain.cli.acting import Desktop, KnownParty
    from carechain.cli.certifying import issue
    from carechain.cli.public_key import PublicHalf
    from carechain.contracts.membership import RenewStaff

    desktop = Desktop(desk, by)
    party = desktop.keys.party(person, hint="PERSON")
    with desktop.seat(desktop.member()) as seat:
        row = seat.row("membership.party", KnownParty, OfParty(party)).row
        half = PublicHalf(suite=row.suite, public_key=row.public_key, hpke_key=row.hpke_key)
        certificate, until_s = issue(desktop, half, roles=roles, days=days, party=party)
        done = seat.submit(RenewStaff(certificate=certificate))
    data = {"party": party.hex(), "roles": names(Role, roles), "valid_until_s": until_s, **done.data()}
    said = f"renewed as {', '.join(names(Role, roles))} until {moment(until_s)} UTC"
    return Report(data=data, show=lines(said, done.text()))


@command(app, "dismiss")
def dismiss(
    desk: Desk,
    *,
    person: PersonArgument,
    by: ByOrganisation,
) -> Report:
    """Revoke a member of staff's key at once: a leaver, or a lost key."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.membership import DismissStaff

    desktop = Desktop(desk, by)
    party = desktop.keys.party(person, hint="PERSON")
    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(DismissStaff(party=party))
    return Report(
        data={"party": party.hex(), **done.data()},
        show=lines("dismissed: the key ends now, and with it what it passed on", done.text()),
    )


@command(app, "list")
def list_staff(desk: Desk, *, by: ByOrganisation) -> Report:
    """List the organisation's staff as the ledger has it, leavers included."""
    from carechain.chain.questions import StaffLine, StaffPage
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    actor = desktop.member()
    with desktop.seat(actor) as seat:
        found = seat.rows("membership.staff", StaffLine, StaffPage(actor.organisation))
    rows = [
        {
            "name": _local_name(desktop, one.id),
            "party": one.id.hex(),
            "roles": names(Role, one.party.roles),
            "enrolled_s": one.enrolled_s,
            "left_s": one.left_s or None,
            "valid_until_s": one.party.valid_until_s,
        }
        for one in found
    ]
    text = [
        (
            _local_name(desktop, one.id) or "",
            one.id.hex(),
            ", ".join(names(Role, one.party.roles)),
            f"left {moment(one.left_s)}" if one.left_s else f"until {moment(one.party.valid_until_s)}",
        )
        for one in found
    ]
    columns = ("name", "party", "roles", "standing (UTC)")
    return Report(data={"staff": rows}, show=tables(table("Staff", columns, text)))


def _local_name(desktop: "Desktop", party: bytes) -> str | None:
    name = desktop.keys.name_of(party)
    return None if name == party.hex() else name
