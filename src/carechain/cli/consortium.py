"""``carechain consortium``: found a network whose blocks several organisations agree on (LED-3 to LED-6).

Each founder makes a home and an application; somebody puts the applications together into a genesis; every founder
compares the genesis' hash with the others by another way than the one it came by, and joins.
"""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import PasswordOption, SuiteName
from carechain.cli.output import CannotRun, Desk, OptionGroup, Report, command, lines, sub_app, table, tables
from carechain.cli.peering import Peering
from carechain.cli.terms import organisation_kind
from carechain.core.limits import CHAIN_ID_CHARS, MEMBER_NAME_CHARS
from carechain.core.vocabulary import OrganisationKind

if TYPE_CHECKING:
    from carechain.contracts.upgrades import ContractVersion

app = sub_app("Found a network whose blocks several organisations agree on, and join it.")


class Applicant(OptionGroup, frozen=True):
    """What an organisation says of itself."""

    name: Annotated[str, typer.Option("--name", help="The organisation's public name, never a person's.")]
    kind: Annotated[
        int, typer.Option("--kind", parser=organisation_kind, metavar="KIND", help="hospital, insurer or government.")
    ]
    registrar: Annotated[bool, typer.Option("--registrar/--no-registrar", help="Whether it registers patients.")] = True
    suite: Annotated[
        SuiteName | None,
        typer.Option(
            "--suite",
            help="Of a network to found, for good: Ed25519, SHA-256 and AES, or SM2, SM3 and SM4; international unless "
            "given. A network that is joined has chosen.",
        ),
    ] = None

    def require_name(self) -> None:
        """Raise ``typer.BadParameter`` for a name that the ledger would not take."""
        if not 1 <= len(self.name) <= MEMBER_NAME_CHARS:
            raise typer.BadParameter(f"a name has 1 to {MEMBER_NAME_CHARS} characters", param_hint="--name")


@command(app, "apply")
def apply(
    desk: Desk,
    *,
    new: Applicant,
    password_file: PasswordOption = None,
) -> Report:
    """Make a home for a founder, and the application to send to whoever writes the genesis."""
    from carechain.cli.homes import make_applicant
    from carechain.core.suite import Institution

    new.require_name()
    made = make_applicant(
        desk.home,
        name=new.name,
        kind=OrganisationKind(new.kind),
        registrar=new.registrar,
        institution=Institution[(new.suite or SuiteName.INTERNATIONAL).name],
        password_file=password_file,
    )
    node = "" if made.node is None else made.node.hex()
    data = {
        "home": str(desk.home),
        "member": made.member.hex(),
        "node": node,
        "application": str(made.application),
    }
    said = (
        f"{desk.home} is the home of {new.name}, member {made.member.hex()}",
        f"node {node}: others name it, with its address, as --peer",
        f"send {made.application} to whoever writes the genesis; it holds public keys only",
    )
    return Report(data=data, show=lines(*said))


@command(app, "found")
def found(
    desk: Desk,  # noqa: ARG001 - every command has a desk
    *,
    applications: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The founders' applications.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the genesis goes.")],
    chain_id: Annotated[str, typer.Option("--chain-id", metavar="NAME", help="The network's name.")] = "carechain",
    seats: Annotated[
        str | None,
        typer.Option(
            "--seats", metavar="N,N", help="Which founders decide, by their place in the list from 1; without it, all."
        ),
    ] = None,
    rotate_every: Annotated[
        int, typer.Option("--rotate-every", min=0, metavar="BLOCKS", help="Seats take turns after so many blocks.")
    ] = 0,
    rotate_active: Annotated[
        int, typer.Option("--rotate-active", min=0, metavar="N", help="So many seats decide at a time.")
    ] = 0,
    versions: Annotated[
        str | None,
        typer.Option(
            "--versions",
            metavar="NAME=N,…",
            help="Which version a contract begins with, where a founder's program is older; the latest without it.",
        ),
    ] = None,
) -> Report:
    """Write the genesis of a network from its founders' applications.

    One seat makes a hub that the others follow; all seats make a consortium; --rotate-every and --rotate-active let
    elected seats take turns.
    """
    from carechain.chain.genesis import genesis_hash
    from carechain.chain.genesis import write as genesis_bytes
    from carechain.chain.versions import name_of
    from carechain.cli.network import found_consortium, read_application
    from carechain.contracts.validators import Rotation

    if not 1 <= len(chain_id) <= CHAIN_ID_CHARS:
        raise typer.BadParameter(f"a network's name has 1 to {CHAIN_ID_CHARS} characters", param_hint="--chain-id")
    if out.exists():
        raise CannotRun(f"{out} is there already; a genesis is never overwritten")
    founders = [read_application(one) for one in applications]
    seated = [founders[place].member for place in _places(seats, len(founders))]
    rotation = Rotation(every_blocks=rotate_every, active=rotate_active)
    begins = _beginning(versions)
    genesis = found_consortium(chain_id, founders, seats=seated, rotation=rotation, versions=begins)
    out.write_bytes(genesis_bytes(genesis))
    digest = genesis_hash(genesis).hex()
    rows = [
        (
            one.new.name,
            OrganisationKind(one.new.kind).name.lower(),
            "yes" if one.member in seated else "no",
            one.member.hex(),
        )
        for one in founders
    ]
    data = {
        "genesis": str(out),
        "genesis_hash": digest,
        "chain_id": chain_id,
        "members": [one.member.hex() for one in founders],
        "seats": [one.hex() for one in seated],
        "versions": {name_of(one.contract): one.version for one in genesis.versions},
    }
    said = table(f"{chain_id}: genesis {digest}", ("name", "kind", "seat", "member"), rows)
    return Report(data=data, show=tables(said))


@command(app, "join")
def join(
    desk: Desk,
    *,
    genesis: Annotated[Path, typer.Argument(metavar="GENESIS", help="The genesis that was written for all founders.")],
    peering: Peering,
) -> Report:
    """Make this founder's home one of the network: compare the hash with the other founders before you start."""
    from carechain.chain.genesis import genesis_hash
    from carechain.cli.homes import DEFAULT_CONFIG
    from carechain.cli.homes import join as make_member

    network = make_member(desk.home, genesis, config=DEFAULT_CONFIG + peering.settings())
    digest = genesis_hash(network).hex()
    data = {"home": str(desk.home), "chain_id": network.chain_id, "genesis_hash": digest}
    said = (
        f"{desk.home} belongs to {network.chain_id}",
        f"genesis {digest}: compare it with the other founders, by telephone",
        f"next: carechain start --home {desk.home}",
    )
    return Report(data=data, show=lines(*said))


def _beginning(text: str | None) -> "list[ContractVersion]":
    """The versions that contracts begin with: the latest, but for those that are named."""
    from carechain.chain.versions import KNOWN, LATEST, name_of
    from carechain.contracts.upgrades import ContractVersion

    begins = {one.contract: one.version for one in LATEST}
    numbers = {name_of(contract): contract for contract in KNOWN}
    for part in [] if text is None else text.split(","):
        name, _, version = part.strip().lower().partition("=")
        contract = numbers.get(name)
        if contract is None or not (version.isascii() and version.isdigit()):
            raise typer.BadParameter(f"give it as NAME=N, a name of: {', '.join(numbers)}", param_hint="--versions")
        if not 1 <= int(version) <= KNOWN[contract]:
            raise typer.BadParameter(
                f"this program has versions 1 to {KNOWN[contract]} of {name}", param_hint="--versions"
            )
        begins[contract] = int(version)
    return [ContractVersion(contract=contract, version=version) for contract, version in begins.items() if version > 1]


def _places(text: str | None, count: int) -> list[int]:
    if text is None:
        return list(range(count))
    try:
        places = sorted({int(one) - 1 for one in text.split(",")})
    except ValueError:
        raise typer.BadParameter("give places as 1,2,…", param_hint="--seats") from None
    if not places or places[0] < 0 or places[-1] >= count:
        raise typer.BadParameter(f"there are {count} founders", param_hint="--seats")
    return places
