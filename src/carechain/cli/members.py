"""``carechain member``: who belongs to the consortium and by which rules, decided by votes."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import Desk, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import identifier, moment
from carechain.core.vocabulary import Contract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from carechain.cli.acting import Desktop, Done
    from carechain.contracts.governance import Change

app = sub_app("The consortium's members, and the votes on them and on the rules.")

_MOST_CONTRACTS: Final = 0xFF
_SAYS: Final = {"open": "is open", "passed": "has passed", "failed": "has failed"}

MemberArgument = Annotated[str, typer.Argument(metavar="MEMBER", help="A name of the address book, or an id.")]

ProposalArgument = Annotated[bytes, typer.Argument(parser=identifier, metavar="PROPOSAL", help="The proposal's id.")]


def contract_number(text: str) -> int:
    """A contract's number, from its name or from the number itself where this program does not know the contract."""
    wanted = text.strip().lower()
    if wanted.isascii() and wanted.isdigit() and 0 < int(wanted) <= _MOST_CONTRACTS:
        return int(wanted)
    for one in Contract:
        if one.name.lower() == wanted:
            return int(one)
    raise typer.BadParameter(f"{text!r} is none of: {', '.join(one.name.lower() for one in Contract)}")


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

    new = read_application(application).new
    desktop = Desktop(desk, by)
    member = party_id(new.suite, new.public_key)
    return propose(desktop, AdmitMember(new=new), f"to admit {new.name}", {"member": member.hex()})


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
    return propose(desktop, RemoveMember(member=found), f"to remove {found.hex()}", {"member": found.hex()})


@command(app, "propose-upgrade")
def propose_upgrade(
    desk: Desk,
    *,
    contract: Annotated[
        int, typer.Argument(parser=contract_number, metavar="CONTRACT", help="A contract's name, such as governance.")
    ],
    height: Annotated[int, typer.Option("--height", min=1, metavar="H", help="The first block of the next version.")],
    by: ByOrganisation,
) -> Report:
    """Propose that a contract's next version comes into force at a height. Every node needs a program that has it."""
    from carechain.chain.questions import NoArgs
    from carechain.chain.versions import KNOWN, VersionLine, name_of
    from carechain.cli.acting import Desktop
    from carechain.contracts.governance import Upgrade

    name = name_of(contract)
    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        found = {line.contract: line for line in seat.rows("governance.versions", VersionLine, NoArgs())}
    version = found[name].version + 1 if name in found else 1
    if version > KNOWN.get(contract, 0):
        desk.say(f"this program has no version {version} of {name}: install one that has before block {height}")
    about = {"contract": name, "version": version, "from_height": height}
    words = f"to run version {version} of {name} from block {height} on"
    return propose(desktop, Upgrade(contract=contract, version=version, height=height), words, about)


@command(app, "withdraw-proposal")
def withdraw_proposal(
    desk: Desk,
    *,
    proposal: ProposalArgument,
    by: ByOrganisation,
) -> Report:
    """Take a proposal of your organisation back while the vote is open."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.governance import WithdrawProposal

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(WithdrawProposal(proposal=proposal))
    data = {"proposal": proposal.hex(), "standing": "withdrawn", **done.data()}
    return Report(data=data, show=lines("withdrawn: nobody votes on it any more", done.text()))


@command(app, "vote")
def vote(
    desk: Desk,
    *,
    proposal: ProposalArgument,
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


@command(app, "versions")
def versions(desk: Desk, *, by: ByOrganisation) -> Report:
    """List every contract's version in force and the one to come."""
    from carechain.chain.questions import NoArgs
    from carechain.chain.versions import VersionLine
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        found = seat.rows("governance.versions", VersionLine, NoArgs())
    rows = [
        {
            "contract": one.contract,
            "version": one.version,
            "next_version": one.next_version or None,
            "from_height": one.from_height or None,
            "known": one.known,
        }
        for one in found
    ]
    text = [
        (
            one.contract,
            str(one.version),
            f"{one.next_version} from block {one.from_height}" if one.next_version else "",
            "yes" if one.known else "no: install a newer release",
        )
        for one in found
    ]
    columns = ("contract", "version", "to come", "the node's program has it")
    return Report(data={"versions": rows}, show=tables(table("Contracts", columns, text)))


@command(app, "sanctions")
def sanctions(desk: Desk, *, by: ByOrganisation) -> Report:
    """List the validators that were proved to have broken the rules of agreement."""
    from carechain.chain.questions import SanctionLine, SanctionPage
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        found = seat.rows("sanctions.list", SanctionLine, SanctionPage())
    rows = [
        {
            "member": one.organisation.hex(),
            "offence": one.row.offence.name.lower(),
            "height": one.height,
            "time_s": one.row.time_s,
            "recorded_height": one.row.recorded_height,
            "unseated": one.row.unseated,
        }
        for one in found
    ]
    text = [
        (
            one.row.offence.name.lower().replace("_", " "),
            str(one.height),
            moment(one.row.time_s),
            "lost" if one.row.unseated else "kept, or had none",
            one.organisation.hex(),
        )
        for one in found
    ]
    columns = ("offence", "at block", "time (UTC)", "seat", "member")
    return Report(data={"sanctions": rows}, show=tables(table("Sanctions", columns, text)))


def propose(desktop: "Desktop", change: "Change", words: str, about: "Mapping[str, object]") -> Report:
    """Submit a proposal and say what became of it; ``about`` names its subject in the JSON object."""
    from carechain.contracts.governance import Propose, Proposed

    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(Propose(change=change))
    proposed = done.event(Proposed)
    standing = _standing(done)
    said = [f"proposed {words}: it {_SAYS[standing]}", f"proposal {proposed.proposal.hex()}", done.text()]
    if standing == "open":
        said.append("next: other members vote with `carechain member vote PROPOSAL --yes`")
    return Report(
        data={"proposal": proposed.proposal.hex(), **about, "standing": standing, **done.data()},
        show=lines(*said),
    )


def _standing(done: "Done") -> str:
    """What became of a proposal in the transaction that made it or voted on it."""
    from carechain.contracts.governance import Closed

    closed = done.maybe(Closed)
    return "open" if closed is None else "passed" if closed.passed else "failed"


def _about(change: "Change") -> str:
    """What a proposal is about, in a few words."""
    from carechain.chain.versions import name_of
    from carechain.contracts.governance import AdmitMember, SeatValidator, SetRotation, Upgrade
    from carechain.core.keyholders import SetKeyholders

    match change:
        case AdmitMember(new=new):
            return new.name
        case SeatValidator(member=member, seated=seated):
            return f"{'give' if seated else 'take'} {member.hex()}"
        case SetRotation(every_blocks=every_blocks, active=active):
            return f"{active} seats for {every_blocks} blocks" if active else "all seats all the time"
        case Upgrade(contract=contract, version=version, height=height):
            return f"{name_of(contract)} to version {version} from block {height}"
        case SetKeyholders(holders=holders, threshold=threshold):
            return f"{len(holders)} keyholders, {threshold} of whom open something"
        case _:
            return change.member.hex()
