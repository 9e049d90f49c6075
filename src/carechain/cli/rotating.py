"""``carechain keys rotate`` and ``carechain staff rotate``: another key for the same party."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import ByAnyone, ByOrganisation
from carechain.cli.output import Desk, Report, command, lines, sub_app
from carechain.cli.terms import SomeRolesOption, names
from carechain.core.vocabulary import Role

if TYPE_CHECKING:
    from carechain.cli.new_keys import Rotated

keys_app = sub_app("")
"""Joins ``carechain keys``."""
staff_app = sub_app("")
"""Joins ``carechain staff``."""

ValidOption = Annotated[
    int, typer.Option("--days", min=1, max=3650, help="How many days the certificate is valid, for staff.")
]


@command(keys_app, "rotate")
def rotate(
    desk: Desk,
    *,
    days: ValidOption = 365,
    public: Annotated[
        Path | None,
        typer.Option("--public", metavar="FILE", help="Staff: write the new key here, to have it certified elsewhere."),
    ] = None,
    by: ByAnyone,
) -> Report:
    """Give a party of this home a new key: the organisation, one of its staff, a representative, or a patient.

    The party keeps its id and everything it was given; the old key is dead at once, with its sessions and tickets. If
    anything breaks off, run the same command again. Staff whose organisation certifies them from another home write the
    new key to a file with --public, and run the command once more when it has been certified.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.keyring import MEMBER_KEY, WALLET
    from carechain.cli.new_keys import rotate_identity, rotate_pseudonym

    desktop = Desktop(desk, by)
    of_member = desktop.keys.path_of(MEMBER_KEY).is_file()
    name = by.who or (MEMBER_KEY if of_member else desktop.keys.only_wallet())
    if desktop.keys.kind_of(name) == WALLET:
        organisation = None if by.at is None else desktop.keys.party(by.at, hint="--at")
        rotated = rotate_pseudonym(desktop, name, organisation)
    else:
        rotated = rotate_identity(desktop, name, days=days, public=public)
    waits = rotated.file is not None
    data = {
        "party": rotated.party.hex(),
        "kind": rotated.kind,
        "changed": not waits,
        "file": None if rotated.file is None else str(rotated.file),
        **(rotated.done.data() if rotated.done else {}),
    }
    return Report(data=data, show=lines(*_said(rotated)))


def _said(rotated: "Rotated") -> list[str]:
    if rotated.file is not None:
        return [
            f"the new key waits to be certified: {rotated.file}",
            "next: the organisation runs `carechain staff rotate`, and you this command once more",
        ]
    told = [f"party {rotated.party.hex()} has its new key; the old one is dead"]
    told.append(rotated.done.text() if rotated.done else "the ledger had it already")
    if rotated.kind == "member":
        told.append("next: restart this organisation's node, which signs its reports with the key it started with")
        told.append("backups that were locked to the old key open only with a copy of the key file from before")
    return told


@command(staff_app, "rotate")
def rotate_staff(
    desk: Desk,
    *,
    request: Annotated[Path, typer.Argument(metavar="FILE", help="What the member of staff wrote with --public.")],
    roles: SomeRolesOption = None,
    days: ValidOption = 365,
    by: ByOrganisation,
) -> Report:
    """Certify a member of staff's new key, under the id that the person has; the roles stay unless named.

    Make sure that the file is from that person: whoever has its key acts as the person from now on.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.new_keys import certify_new_key, read_request

    desktop = Desktop(desk, by)
    found = read_request(request, chain_id=desktop.genesis.chain_id)
    done = certify_new_key(desktop, found, roles=roles, days=days)
    data = {
        "party": found.party.hex(),
        "roles": None if roles is None else names(Role, roles),
        **done.data(),
    }
    person = desktop.keys.name_of(found.party)
    return Report(data=data, show=lines(f"{person} has a new key; the old one is dead", done.text()))
