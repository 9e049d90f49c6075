"""``carechain member``: who belongs to the consortium, decided by votes."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import Desk, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import identifier, moment

if TYPE_CHECKING:
    from carechain.cli.acting import Desktop, Done
    from carechain.contracts.governance import Change

app = sub_app("The consortium's members, and the votes that admit and remove them.")

_SAYS: Final = {"open": "is open", "passed": "has passed", "failed": "has failed"}

MemberArgument = Annotated[str, typer.Argument(metavar="MEMBER", help="A name of the address book, or an id.")]


@command(app, "list")
def list_members(desk: Desk, *, by: ByOrganisation) -> Report:
    """List the organisations that are members now."""
    from carechain.chain.questions import NoArgs
    from carechain.cli.acting import Desktop, KnownMember
    from carechain.core.vocabulary import OrganisationKind

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.anyone()) as seat:
        found = seat.rows("membership.members", KnownMember, NoArgs())
    rows = [
        {
            "member": one.id.hex(),
            "name": one.row.name,
            "kind": OrganisationKind(one.row.kind).name.lower(),
            "registrar": one.row.registrar,
            "admitted_s": one.row.admitted_s,
        }
        for one in found
    ]
    text = [
        (
            one.row.name,
            OrganisationKind(one.row.kind).name.lower(),
            "yes" if one.row.registrar else "no",
            moment(one.row.admitted_s),
            one.id.hex(),
        )
        for one in found
    ]
    columns = ("name", "kind", "registrar", "since (UTC)", "member")
    return Report(data={"members": rows}, show=tables(table("Members", columns, text)))


@command(app, "propose-admit")
def propose_admit(
    desk: Desk,
    *,
    application: Annotated[Path, typer.Argument(metavar="FILE", help="The application that `carechain init` wrote.")],
    by: ByOrganisation,
) -> Report:
    """Propose to take an organisation in. Your organisation votes yes with it."""
    from carechain.cli.acting import Desktop
    from carechain.cli.network import read_application
    from carechain.contracts.governance import AdmitMember
    from carechain.core.ids import party_id

    new = read_application(application)
    desktop = Desktop(desk, by)
    member = party_id(new.suite, new.public_key)
    return _propose(desktop, AdmitMember(new=new), f"to admit {new.name}", member)


@command(app, "propose-remove")
def propose_remove(
    desk: Desk,
    *,
    member: MemberArgument,
    by: ByOrganisation,
) -> Report:
    """Propose to put an organisation out. Your organisation votes yes with it."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.governance import RemoveMember

    desktop = Desktop(desk, by)
    found = desktop.keys.party(member, hint="MEMBER")
    return _propose(desktop, RemoveMember(member=found), f"to remove {found.hex()}", found)


@command(app, "vote")
def vote(
    desk: Desk,
    *,
    proposal: Annotated[bytes, typer.Argument(parser=identifier, metavar="PROPOSAL", help="The proposal's id.")],
    aye: Annotated[bool, typer.Option("--yes/--no", help="In favour, or against.")],
    by: ByOrganisation,
) -> Report:
    """Vote on a proposal for your organisation. What reaches the quorum happens in the same block."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.governance import Vote

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(Vote(proposal=proposal, aye=aye))
    standing = _standing(done)
    return Report(
        data={"proposal": proposal.hex(), "standing": standing, **done.data()},
        show=lines(f"voted {'yes' if aye else 'no'}: the proposal {_SAYS[standing]}", done.text()),
    )


@command(app, "proposals")
def proposals(desk: Desk, *, by: ByOrganisation) -> Report:
    """List every proposal and its votes."""
    from carechain.chain.questions import NoArgs
    from carechain.cli.acting import Desktop, KnownProposal
    from carechain.core.message import tag_of

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        found = seat.rows("governance.proposals", KnownProposal, NoArgs())
    rows = [
        {
            "proposal": one.id.hex(),
            "change": tag_of(type(one.row.change)),
            "about": _about(one.row.change),
            "standing": one.row.standing.name.lower(),
            "ayes": [voter.hex() for voter in one.row.ayes],
            "noes": [voter.hex() for voter in one.row.noes],
            "closes_s": one.row.closes_s,
        }
        for one in found
    ]
    text = [
        (
            one.id.hex(),
            f"{tag_of(type(one.row.change))} {_about(one.row.change)}",
            one.row.standing.name.lower(),
            f"{len(one.row.ayes)} : {len(one.row.noes)}",
            moment(one.row.closes_s),
        )
        for one in found
    ]
    columns = ("proposal", "change", "standing", "yes : no", "closes (UTC)")
    return Report(data={"proposals": rows}, show=tables(table("Proposals", columns, text)))


def _propose(desktop: "Desktop", change: "Change", words: str, about: bytes) -> Report:
    from carechain.contracts.governance import Propose, Proposed

    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(Propose(change=change))
    proposed = done.event(Proposed)
    standing = _standing(done)
    said = [f"proposed {words}: it {_SAYS[standing]}", f"proposal {proposed.proposal.hex()}", done.text()]
    if standing == "open":
        said.append("next: other members vote with `carechain member vote PROPOSAL --yes`")
    return Report(
        data={"proposal": proposed.proposal.hex(), "member": about.hex(), "standing": standing, **done.data()},
        show=lines(*said),
    )


def _standing(done: "Done") -> str:
    """What became of a proposal in the transaction that made it or voted on it."""
    from carechain.contracts.governance import Closed

    closed = done.maybe(Closed)
    return "open" if closed is None else "passed" if closed.passed else "failed"


def _about(change: "Change") -> str:
    from carechain.contracts.governance import AdmitMember

    return change.new.name if isinstance(change, AdmitMember) else change.member.hex()
