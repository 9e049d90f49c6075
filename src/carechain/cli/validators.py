"""``carechain validator``: the organisation's nodes and consensus key, and the votes on who decides about blocks.

The keys are the engine's own files in the home. Each signs for the organisation before the ledger takes it, so nobody
can claim another's node or key.
"""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import CannotRun, Desk, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import moment
from carechain.core.evidence import ADDRESS_SIZE
from carechain.core.limits import MEMBERS

if TYPE_CHECKING:
    from carechain.core.crypto import SigningKey

app = sub_app("The organisation's nodes and consensus key, and the votes on who has a seat among the validators.")

_MOST_BLOCKS: Final = 0xFFFF_FFFF

MemberArgument = Annotated[str, typer.Argument(metavar="MEMBER", help="A name of the address book, or an id.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The engine's key file; the one in this home unless given."),
]


def node_identifier(text: str) -> bytes:
    """A node's 20 bytes from 40 hexadecimal digits."""
    try:
        found = bytes.fromhex(text.strip())
    except ValueError:
        found = b""
    if len(found) != ADDRESS_SIZE:
        raise typer.BadParameter(f"a node id has {2 * ADDRESS_SIZE} hexadecimal digits")
    return found


@command(app, "announce")
def announce(desk: Desk, *, key: KeyOption = None, by: ByOrganisation) -> Report:
    """Name the key that your organisation's validator votes with. It gives no seat: members vote on that.

    A validator that has a seat changes its key like this, and votes with the new one from then on.
    """
    from carechain.cli.acting import Desktop
    from carechain.contracts.validators import AnnounceKey, KeyAnnounced, key_message
    from carechain.engine.cometbft.config import FOLDER, VALIDATOR_KEY

    found = _engine_key(key or desk.home / FOLDER / VALIDATOR_KEY)
    desktop = Desktop(desk, by)
    actor = desktop.member()
    with desktop.seat(actor) as seat:
        wanted = key_message(chain_id=seat.chain_id, organisation=actor.organisation, consensus_key=found.public_key)
        done = seat.submit(AnnounceKey(consensus_key=found.public_key, proof=found.sign(wanted)))
    announced = done.event(KeyAnnounced)
    data = {
        "member": announced.organisation.hex(),
        "consensus_key": announced.consensus_key.hex(),
        **done.data(),
    }
    said = (
        f"announced {announced.consensus_key.hex()} for {announced.organisation.hex()}",
        done.text(),
        "next, unless it has a seat: a member proposes one with `carechain validator propose-seat MEMBER`",
    )
    return Report(data=data, show=lines(*said))


@command(app, "register-node")
def register_node(desk: Desk, *, key: KeyOption = None, by: ByOrganisation) -> Report:
    """Let this home's node connect to the other members' nodes. The ledger keeps its id and never an address."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.validators import NodeRegistered, RegisterNode, node_message
    from carechain.engine.cometbft.config import FOLDER, NODE_KEY

    found = _engine_key(key or desk.home / FOLDER / NODE_KEY)
    desktop = Desktop(desk, by)
    actor = desktop.member()
    with desktop.seat(actor) as seat:
        wanted = node_message(chain_id=seat.chain_id, organisation=actor.organisation, node_key=found.public_key)
        done = seat.submit(RegisterNode(node_key=found.public_key, proof=found.sign(wanted)))
    node = done.event(NodeRegistered).node_id.hex()
    data = {"node": node, "member": actor.organisation.hex(), **done.data()}
    return Report(data=data, show=lines(f"registered node {node}", done.text()))


@command(app, "retire-node")
def retire_node(
    desk: Desk,
    *,
    retired: Annotated[bytes, typer.Argument(parser=node_identifier, metavar="NODE", help="The node's id.")],
    by: ByOrganisation,
) -> Report:
    """Let a node of your organisation connect no longer."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.validators import RetireNode

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        done = seat.submit(RetireNode(node_id=retired))
    return Report(
        data={"node": retired.hex(), **done.data()},
        show=lines(f"retired node {retired.hex()}: the others take no new connection from it", done.text()),
    )


@command(app, "nodes")
def nodes(desk: Desk, *, by: ByOrganisation) -> Report:
    """List your organisation's nodes. Nobody can list another's."""
    from carechain.chain.questions import OfOrganisation
    from carechain.cli.acting import Desktop
    from carechain.contracts.validators import NodeRow
    from carechain.sdk.answers import NamedRow

    desktop = Desktop(desk, by)
    actor = desktop.member()
    with desktop.seat(actor) as seat:
        found = seat.rows("validators.nodes", NamedRow[NodeRow], OfOrganisation(actor.organisation))
    rows = [{"node": one.id.hex(), "registered_s": one.row.registered_s} for one in found]
    text = [(one.id.hex(), moment(one.row.registered_s)) for one in found]
    return Report(data={"nodes": rows}, show=tables(table("Nodes", ("node", "since (UTC)"), text)))


@command(app, "list")
def list_validators(desk: Desk, *, by: ByOrganisation) -> Report:
    """List whose consensus keys were announced, and who has a seat."""
    from carechain.chain.questions import NoArgs
    from carechain.cli.acting import Desktop
    from carechain.contracts.validators import ValidatorRow
    from carechain.sdk.answers import NamedRow

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        found = seat.rows("validators.list", NamedRow[ValidatorRow], NoArgs())
    rows = [
        {"member": one.id.hex(), "consensus_key": one.row.consensus_key.hex(), "seated": one.row.seated}
        for one in found
    ]
    text = [("yes" if one.row.seated else "no", one.row.consensus_key.hex(), one.id.hex()) for one in found]
    return Report(
        data={"validators": rows}, show=tables(table("Validators", ("seat", "consensus key", "member"), text))
    )


@command(app, "propose-seat")
def propose_seat(desk: Desk, *, member: MemberArgument, by: ByOrganisation) -> Report:
    """Propose to give an organisation a seat. It must have announced its key. Your organisation votes yes with it."""
    return _propose_seat(desk, member, by, seated=True)


@command(app, "propose-unseat")
def propose_unseat(desk: Desk, *, member: MemberArgument, by: ByOrganisation) -> Report:
    """Propose to take an organisation's seat; it stays a member. Your organisation votes yes with it."""
    return _propose_seat(desk, member, by, seated=False)


@command(app, "propose-rotation")
def propose_rotation(
    desk: Desk,
    *,
    every_blocks: Annotated[
        int, typer.Option("--every", min=0, max=_MOST_BLOCKS, metavar="BLOCKS", help="How long a turn is; 0: no turns.")
    ],
    active: Annotated[
        int, typer.Option("--active", min=0, max=MEMBERS, metavar="SEATS", help="How many seats act at a time; 0: all.")
    ],
    by: ByOrganisation,
) -> Report:
    """Propose that seats take turns: so many at a time, and the next ones after so many blocks."""
    from carechain.cli.acting import Desktop
    from carechain.cli.members import propose
    from carechain.contracts.governance import SetRotation

    turns = f"that {active} seats act for {every_blocks} blocks at a time" if active else "that all seats act"
    change = SetRotation(every_blocks=every_blocks, active=active)
    return propose(Desktop(desk, by), change, turns, {"every_blocks": every_blocks, "active": active})


def _propose_seat(desk: Desk, member: str, by: ByOrganisation, *, seated: bool) -> Report:
    from carechain.cli.acting import Desktop
    from carechain.cli.members import propose
    from carechain.contracts.governance import SeatValidator

    desktop = Desktop(desk, by)
    found = desktop.keys.party(member, hint="MEMBER")
    words = f"to {'give' if seated else 'take'} {found.hex()} {'a' if seated else 'its'} seat"
    return propose(
        desktop, SeatValidator(member=found, seated=seated), words, {"member": found.hex(), "seated": seated}
    )


def _engine_key(path: Path) -> "SigningKey":
    """A private key of the engine's; raises :class:`CannotRun` when there is none."""
    from carechain.engine.cometbft.config import BadEngineKey, read_key

    try:
        return read_key(path.expanduser())
    except FileNotFoundError:
        raise CannotRun(f"{path} is missing: the node's engine makes it, or name its file with --key") from None
    except BadEngineKey as wrong:
        raise CannotRun(str(wrong)) from None
