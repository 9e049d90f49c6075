"""``carechain testnet``: a consortium on this machine, to try things out."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.output import Desk, Exit, Report, command, lines, sub_app, table, tables

if TYPE_CHECKING:
    from carechain.cli.local_network import LocalNetwork, Shown

app = sub_app("A consortium on this machine: one node per organisation.")

MOST_NODES = 16
FolderOption = Annotated[
    Path | None, typer.Option("--folder", metavar="DIR", help="Where the network lies; HOME/testnet without it.")
]


@command(app, "up")
def up(
    desk: Desk,
    *,
    validators: Annotated[
        int, typer.Option("--validators", min=1, max=MOST_NODES, help="Organisations that decide the order of blocks.")
    ] = 4,
    followers: Annotated[
        int, typer.Option("--followers", min=0, max=MOST_NODES, help="Organisations that follow.")
    ] = 0,
    hub: Annotated[
        bool, typer.Option("--hub", help="One validator that the others follow, knowing nobody else.")
    ] = False,
    rotate_every: Annotated[int, typer.Option("--rotate-every", min=0, metavar="BLOCKS", help="Seats take turns.")] = 0,
    rotate_active: Annotated[int, typer.Option("--rotate-active", min=0, metavar="N", help="So many at a time.")] = 0,
    tls: Annotated[
        bool, typer.Option("--tls", help="Nodes and gatekeepers serve TLS, certified by their organisations.")
    ] = False,
    folder: FolderOption = None,
) -> Report:
    """Make a consortium where there is none, start its nodes, and wait until all are ready.

    One that is there goes on as it was made: how many nodes and of which kind is for a new folder.
    """
    from carechain.cli import local_network as local
    from carechain.cli.output import CannotRun
    from carechain.contracts.validators import Rotation
    from carechain.engine.cometbft.binary import EngineMissing, find_cometbft

    try:
        find_cometbft()
    except EngineMissing as missing:
        raise CannotRun(str(missing)) from None
    place = _place(desk, folder)
    if (place / local.NETWORK_FILE).exists():
        network = local.read(place)
        desk.say(f"{place} holds a network of {len(network.nodes)} nodes: it goes on as it was made")
    else:
        network = local.make(
            place,
            chain_id="testnet",
            validators=1 if hub else validators,
            followers=followers or (validators - 1 if hub else 0),
            hub=hub,
            rotation=Rotation(every_blocks=rotate_every, active=rotate_active),
            tls=tls,
        )
    network = local.start(place, network, lambda said: typer.echo(said, err=True))
    return _shown(place, network)


@command(app, "status")
def status(desk: Desk, *, folder: FolderOption = None) -> Report:
    """Show every node: height, state, peers, ports and log. Exits with 3 when one is not ready."""
    from carechain.cli import local_network as local

    place = _place(desk, folder)
    return _shown(place, local.read(place))


@command(app, "down")
def down(desk: Desk, *, folder: FolderOption = None) -> Report:
    """End every node and its engine. The homes stay; `up` goes on from there."""
    from carechain.cli import local_network as local

    place = _place(desk, folder)
    killed = local.stop(place, local.read(place))
    said = "all nodes have ended" if not killed else f"these had to be killed: {', '.join(killed)}"
    return Report(data={"folder": str(place), "stopped": True, "killed": killed}, show=lines(said))


def _place(desk: Desk, folder: Path | None) -> Path:
    return (folder or desk.home / "testnet").expanduser().absolute()


def _shown(place: Path, network: "LocalNetwork") -> Report:
    from carechain.cli import local_network as local

    found: list[Shown] = [local.show(place, one) for one in network.nodes]
    rows = [
        (
            one.name,
            "validator" if one.seat else "follower",
            str(one.height),
            one.app_hash[:8],
            str(one.peers),
            "ready" if one.ready else one.why,
            one.api.removeprefix("http://"),
            one.ops.removeprefix("http://"),
            one.p2p,
            one.log,
        )
        for one in found
    ]
    columns = ("name", "role", "height", "state", "peers", "health", "api", "operations", "peer port", "log")
    nodes = [
        {
            "name": one.name,
            "height": one.height,
            "app_hash": one.app_hash,
            "peers": one.peers,
            "ready": one.ready,
            "why": one.why,
            "validator": one.seat,
            "pid": one.pid,
            "api": one.api,
            "ops": one.ops,
            "gatekeeper": one.gatekeeper,
            "p2p": one.p2p,
            "log": one.log,
            "home": str(place / one.name),
        }
        for one in found
    ]
    well = all(one.ready for one in found)
    return Report(
        data={"folder": str(place), "chain_id": network.chain_id, "nodes": nodes},
        show=tables(table(f"{network.chain_id} in {place}", columns, rows)),
        status=Exit.DONE if well else Exit.ENVIRONMENT,
    )
