"""``carechain keys``: wallets and staff keys of this home."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from carechain.cli.options import ByOrganisation, KeySuite, PasswordOption
from carechain.cli.output import CannotRun, Desk, Report, command, lines, sub_app, table, tables

app = sub_app("Wallets and staff keys of this home.")


class KeyKind(StrEnum):
    """What a new key is for."""

    WALLET = "wallet"
    STAFF = "staff"


@command(app, "new")
def new(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A name for the key in this home.")],
    kind: Annotated[KeyKind, typer.Option("--kind", help="A patient's wallet, or a key of staff.")] = KeyKind.STAFF,
    genesis: Annotated[
        Path | None,
        typer.Option("--genesis", metavar="FILE", help="The network, for the first key of a home of one's own."),
    ] = None,
    label: Annotated[str, typer.Option("--label", help="For your own eyes; stays inside the encrypted file.")] = "",
    suite: Annotated[
        KeySuite | None,
        typer.Option("--suite", help="What the key signs with; unless given, what the network's organisations use."),
    ] = None,
    public: Annotated[
        Path | None, typer.Option("--public", metavar="FILE", help="Also write the public half, to have it enrolled.")
    ] = None,
    password_file: PasswordOption = None,
) -> Report:
    """Make a new key file under keys/.

    A wallet is enough for all of a patient's relationships. A staff key is enrolled by the organisation with
    `carechain staff enrol` from this home; for a key of another home, send it the file written with --public and
    accept what it offers. A person's own home needs the network's genesis file, which every organisation of the
    network hands out.
    """
    from carechain.cli.keyring import Keyring
    from carechain.cli.network import home_genesis, keep_genesis, signing_suite
    from carechain.cli.public_key import public_half, write_public
    from carechain.core.crypto import Suite
    from carechain.core.vocabulary import PartyKind

    keys = Keyring(desk.home)
    password = keys.password(password_file, confirm=True)
    path = keys.path_of(name)
    if genesis is not None:
        keep_genesis(desk.home, genesis)
    wanted = None if suite is None else Suite[suite.name]
    signing = signing_suite(desk.home, wanted, of_patient=kind is KeyKind.WALLET)
    if kind is KeyKind.WALLET:
        keys.add_wallet(name, chain_id=home_genesis(desk.home).chain_id, password=password, suite=signing)
        return Report(
            data={"name": name, "kind": "wallet", "file": str(path)},
            show=lines(
                f"a new wallet: {path}",
                "back it up: the file and its password are the only way back in",
                "next: the organisation registers it with `carechain patient register --wallet FILE`",
            ),
        )
    identity = keys.add_identity(
        name, kind=PartyKind.STAFF, organisation=None, password=password, label=label, suite=signing
    )
    if public is not None:
        write_public(public, public_half(identity))
    return Report(
        data={"name": name, "kind": "identity", "party": identity.party.hex(), "file": str(path)},
        show=lines(f"a new key: {path}", f"party {identity.party.hex()}", "next: carechain staff enrol"),
    )


@command(app, "accept")
def accept_offer(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="The staff key that was offered a certificate.")],
    offer: Annotated[Path, typer.Argument(metavar="FILE", help="The organisation's offer.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the accepted offer.")],
    password_file: PasswordOption = None,
) -> Report:
    """Agree to be enrolled with the certificate that an organisation offers.

    The key signs the network, the organisation and the certificate with its roles and its end. Send the file back: the
    organisation enrols the key with `carechain staff enrol --accepted`.
    """
    from carechain.cli.keyring import Keyring
    from carechain.cli.public_key import accept, read_offer, write_public

    keys = Keyring(desk.home)
    identity = keys.identity(name, keys.password(password_file))
    found = read_offer(offer)
    write_public(out, accept(identity, found))
    return Report(
        data={"name": name, "party": identity.party.hex(), "organisation": found.organisation.hex(), "file": str(out)},
        show=lines(f"accepted: {out}", f"organisation {found.organisation.hex()}", "next: carechain staff enrol"),
    )


@command(app, "list")
def list_keys(desk: Desk) -> Report:
    """List the key files of this home. Needs no password and shows nothing that is inside them."""
    from carechain.cli.keyring import Keyring

    found = Keyring(desk.home).listing()
    rows = [{"name": one.name, "kind": one.kind, "party": one.party.hex() if one.party else None} for one in found]
    text = [(one.name, one.kind, one.party.hex() if one.party else "") for one in found]
    return Report(data={"keys": rows}, show=tables(table("", ("name", "kind", "party"), text)))


@command(app, "show")
def show(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A key of this home by name, or a key file's path.")],
    password_file: PasswordOption = None,
) -> Report:
    """Open a key file and show its public side: the party id, or a wallet's pseudonyms."""
    from carechain.cli.keyring import Keyring

    keys = Keyring(desk.home)
    kind = keys.kind_of(name)
    password = keys.password(password_file)
    if kind == "wallet":
        _, wallet = keys.wallet(name, password)
        rows = [
            {"organisation": one.organisation.hex(), "pseudonym": one.pseudonym.hex(), "label": one.label}
            for one in wallet.relations
        ]
        text = [(keys.name_of(one.organisation), one.pseudonym.hex(), one.label) for one in wallet.relations]
        return Report(
            data={"name": name, "kind": kind, "chain_id": wallet.chain_id, "relations": rows},
            show=tables(table("Relationships", ("with", "pseudonym", "label"), text)),
        )
    if kind == "identity":
        identity = keys.identity(name, password)
        data = {
            "name": name,
            "kind": kind,
            "party": identity.party.hex(),
            "organisation": identity.organisation.hex(),
            "label": identity.label,
        }
        return Report(
            data=data, show=lines(f"party {identity.party.hex()}", f"organisation {identity.organisation.hex()}")
        )
    if kind == "authority":
        authority = keys.authority(password)
        return Report(
            data={"name": name, "kind": kind, "organisation": authority.organisation.hex()},
            show=lines(f"the certificate authority of {authority.organisation.hex()}"),
        )
    raise CannotRun(f"this version does not know keys of the kind {kind}")


@command(app, "tls")
def tls(
    desk: Desk,
    *,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A name or IP address that clients use; may be repeated."),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="For how long it is good.")] = 365,
    password_file: PasswordOption = None,
) -> Report:
    """Make or renew the certificate of this organisation's servers, signed by its own authority.

    Clients that have the network's genesis believe it without further ado. Without --host it names the hosts of the
    certificate that is there, else this machine. A running node shows the new one to every connection that is opened
    from then on, within seconds, or at once after SIGHUP. Run it regularly, from cron for example.
    """
    from carechain.cli.certifying import issue_for_servers
    from carechain.cli.keyring import Keyring
    from carechain.cli.terms import moment

    keys = Keyring(desk.home)
    made = issue_for_servers(desk.home, keys.authority(keys.password(password_file)), host or (), days=days)
    data = {
        "certificate": str(made.certificate),
        "key": str(made.key),
        "hosts": list(made.hosts),
        "valid_until_s": made.until_s,
    }
    said = (
        f"a certificate for {', '.join(made.hosts)}",
        f"good until {moment(made.until_s)} UTC",
        f"next, in {desk.home / 'config.toml'} below [api], unless it stands there:",
        f'  tls_certificate = "{made.certificate.relative_to(desk.home)}"',
        f'  tls_key = "{made.key.relative_to(desk.home)}"',
    )
    return Report(data=data, show=lines(*said))


@command(app, "renew-authority")
def renew_authority(
    desk: Desk,
    *,
    days: Annotated[int, typer.Option("--days", min=1, max=36500, help="For how long it is good from now on.")] = 3650,
    by: ByOrganisation,
) -> Report:
    """Give this organisation's certificate authority a new end, before the old one: on the ledger and in this home.

    The key stays, so all certificates that it issued stay good, and so does the genesis file of other homes until the
    end that it states.
    """
    from carechain.cli import certifying
    from carechain.cli.acting import Desktop
    from carechain.cli.terms import moment

    done, until_s = certifying.renew_authority(Desktop(desk, by), days=days)
    return Report(
        data={**done.data(), "valid_until_s": until_s}, show=lines(f"good until {moment(until_s)} UTC", done.text())
    )


@command(app, "name")
def name_party(
    desk: Desk,
    name: Annotated[str, typer.Argument(help="A name for your own use: an organisation or a member of staff.")],
    party: Annotated[str, typer.Argument(metavar="ID", help="The party's id.")],
) -> Report:
    """Note a party under a name in this home's address book, so that --to and the like can use the name."""
    from carechain.cli.keyring import Keyring

    keys = Keyring(desk.home)
    keys.prepare()
    found = keys.party(party, hint="ID")
    keys.note(name, found)
    return Report(data={"name": name, "party": found.hex()}, show=lines(f"{name} is {found.hex()}"))
