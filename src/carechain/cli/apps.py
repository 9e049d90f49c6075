"""``carechain app``: which apps may use this organisation's FHIR server, and who lets them in."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import ByAnyone, ByOrganisation
from carechain.cli.output import CannotRun, Desk, OptionGroup, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import CeilingOption, PurposeOption, identifier, moment, scope_data, scope_text, seconds, typed
from carechain.core.vocabulary import Purpose, Sensitivity

if TYPE_CHECKING:
    from carechain.core.scope import Scope
    from carechain.gateway.clients import Client
    from carechain.sdk.apps import AppRequest

app = sub_app("Apps that may use this organisation's FHIR server: registering them, and letting them in.")

FhirOption = Annotated[
    str | None,
    typer.Option(
        "--fhir",
        envvar="CARECHAIN_FHIR_SERVER",
        show_envvar=False,
        metavar="URL",
        help="The organisation's FHIR server; this home's own unless given.",
    ),
]
TicketsOption = Annotated[
    list[bytes] | None,
    typer.Option("--ticket", parser=identifier, metavar="ID", help="A ticket of your own; may be repeated."),
]
ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help="The app's client id.")]
_CAREMGT: Purpose = typed("CAREMGT")
_NORMAL: Sensitivity = typed("N")
_LASTING_DAYS = 90


class Registration(OptionGroup, frozen=True):
    """What an app is registered with, its name apart."""

    scopes: Annotated[
        str, typer.Option("--scopes", metavar="LIST", help="SMART scopes it may ask for, separated by blanks.")
    ]
    redirect: Annotated[
        list[str] | None,
        typer.Option("--redirect", metavar="URL", help="Where a browser may be sent with a code; may be repeated."),
    ] = None
    launch_url: Annotated[
        str, typer.Option("--launch-url", metavar="URL", help="Where it is started out of another system.")
    ] = ""
    acts_as: Annotated[
        str, typer.Option("--acts-as", metavar="KEY", help="The key (of staff) as which it asks for tickets.")
    ] = ""
    purpose: PurposeOption = _CAREMGT
    secret: Annotated[bool, typer.Option("--with-secret", help="It proves itself with a secret, shown once.")] = False
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="It proves itself with keys: its public JWK set.")
    ] = None
    system: Annotated[
        bool, typer.Option("--system", help="It is a system of this organisation, which sees all charts.")
    ] = False


@command(app, "add")
def add(
    desk: Desk, *, name: Annotated[str, typer.Argument(help="What people know the app by.")], it: Registration
) -> Report:
    """Register an app at this home's FHIR server.

    An app that patients approve acts on the ledger as a member of staff: enrol a key for it first, for example with
    `carechain staff enrol chartview --roles nurse`. Prints the client id, and with --with-secret the secret.
    """
    import secrets

    from carechain.cli.keyring import Keyring
    from carechain.gateway.clients import Apps, Client, Proof, hash_of
    from carechain.sdk.keyfile import read_bounded

    if it.secret and it.keys is not None:
        raise typer.BadParameter("an app proves itself with a secret or with keys, not with both", param_hint="--keys")
    keyring = Keyring(desk.home)
    if it.acts_as and not keyring.path_of(it.acts_as).is_file():
        raise CannotRun(f"no key {it.acts_as}: enrol one with `carechain staff enrol {it.acts_as} --roles ROLES`")
    shown = secrets.token_urlsafe(32) if it.secret else ""
    proof = Proof.SECRET if it.secret else Proof.NONE if it.keys is None else Proof.KEYS
    with Apps.at(_home_of(desk)) as apps:
        client = apps.register(
            Client(
                client_id=secrets.token_hex(16),
                name=name,
                proof=proof,
                redirects=tuple(it.redirect or ()),
                launch_url=it.launch_url,
                scopes=tuple(dict.fromkeys(it.scopes.split())),
                secret_hash=hash_of(shown) if it.secret else b"",
                keys=b"" if it.keys is None else read_bounded(it.keys),
                acting=it.acts_as,
                party=keyring.party(it.acts_as, hint="--acts-as") if it.acts_as else None,
                purpose=it.purpose,
                system=it.system,
            )
        )
    said = [f"{name} is registered", f"client id {client.client_id}"]
    if it.secret:
        said.append(f"secret {shown} (shown now and never again)")
    return Report(data={**_data(client), "secret": shown or None}, show=lines(*said))


@command(app, "list")
def listing(desk: Desk) -> Report:
    """List the registered apps."""
    from carechain.gateway.clients import Apps

    with Apps.at(_home_of(desk)) as apps:
        found = apps.clients()
    text = [
        (one.client_id, one.name, one.acting or ("the organisation" if one.system else ""), " ".join(one.scopes))
        for one in found
    ]
    return Report(
        data={"apps": [_data(one) for one in found]},
        show=tables(table("Apps", ("client", "name", "acts as", "scopes"), text)),
    )


@command(app, "remove")
def remove(desk: Desk, client_id: ClientArgument) -> Report:
    """Remove an app: from now on no token of it holds."""
    from carechain.core.rejection import require
    from carechain.gateway.clients import Apps
    from carechain.gateway.codes import SmartCode

    with Apps.at(_home_of(desk)) as apps:
        require(apps.remove(client_id), SmartCode.CLIENT_UNKNOWN)
    return Report(data={"removed": client_id}, show=lines(f"{client_id} is removed, with everything it was given"))


class Word(OptionGroup, frozen=True):
    """What is answered to an app."""

    ceiling: CeilingOption = _NORMAL
    days: Annotated[
        int | None,
        typer.Option("--days", min=1, max=3660, help="How long the grant lasts; 90, or 1 for an app that stays once."),
    ] = None
    tickets: TicketsOption = None
    deny: Annotated[bool, typer.Option("--deny", help="Let it not in.")] = False
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False


@command(app, "approve")
def approve(
    desk: Desk,
    *,
    code: Annotated[str, typer.Argument(help="The code that the browser shows.")],
    word: Word,
    fhir: FhirOption = None,
    by: ByAnyone,
) -> Report:
    """Let an app in, or not: as a patient by a grant on the ledger, as a clinician with --ticket.

    Shows who asks for what, and asks before it signs. Ending the grant (`carechain revoke`) ends what the app may do.
    """
    from carechain.cli.approving import Approval

    approval = Approval(desk, by, fhir=fhir, tickets=tuple(word.tickets or ()))
    with approval.opened() as door:
        asked = door.request(code)
        if word.deny:
            door.deny(code)
            return Report(data={"denied": True, **_wish(asked)}, show=lines(f"{asked.app} was not let in"))
        if word.tickets:
            _confirm(desk, asked, None, yes=word.yes)
            door.approve_with_tickets(code, word.tickets)
            until = {"tickets": [one.hex() for one in word.tickets]}
            return Report(data={"approved": True, **_wish(asked), **until}, show=lines(f"{asked.app} is let in"))
        scope = approval.scope(asked, word.ceiling)
        _confirm(desk, asked, scope, yes=word.yes)
        lasting = bool({"offline_access", "online_access"}.intersection(asked.scopes))
        given = approval.grant(asked, scope, seconds(word.days or (_LASTING_DAYS if lasting else 1)), code)
    data = {
        "approved": True,
        **_wish(asked),
        "grant": given.grant_id.hex(),
        "scope": scope_data(scope),
        "expires_s": given.expires_s,
    }
    return Report(
        data=data,
        show=lines(
            f"{asked.app} may, until {moment(given.expires_s)} UTC: {scope_text(scope)}",
            f"grant {given.grant_id.hex()}: `carechain revoke` ends it, and the app with it",
        ),
    )


@command(app, "launch")
def launch(
    desk: Desk,
    *,
    client_id: ClientArgument,
    tickets: Annotated[
        list[bytes],
        typer.Option("--ticket", parser=identifier, metavar="ID", help="A ticket of your own; may be repeated."),
    ],
    fhir: FhirOption = None,
    by: ByOrganisation,
) -> Report:
    """Start an app as a clinician: prints the address to open in a browser. It serves once, for five minutes."""
    from urllib.parse import urlencode

    from carechain.cli.approving import Approval

    approval = Approval(desk, ByAnyone(who=by.who, password_file=by.password_file, node=by.node, ca=by.ca), fhir=fhir)
    with approval.opened(tickets[0]) as door:
        started = door.launch(client_id, tickets)
    query = urlencode({"iss": f"{approval.url}/fhir", "launch": started.launch})
    joint = "&" if "?" in started.launch_url else "?"
    address = f"{started.launch_url}{joint}{query}" if started.launch_url else ""
    data = {"launch": started.launch, "expires_s": started.expires_s, "url": address or None}
    return Report(data=data, show=lines(address or f"launch {started.launch}"))


def _home_of(desk: Desk) -> Path:
    """The home, which must be one: opening the list would make it anywhere, and say that there are no apps."""
    from carechain.cli.network import home_genesis

    home_genesis(desk.home)
    return desk.home


def _data(client: "Client") -> dict[str, object]:
    return {
        "client_id": client.client_id,
        "name": client.name,
        "proof": client.proof.value,
        "redirects": list(client.redirects),
        "launch_url": client.launch_url or None,
        "scopes": list(client.scopes),
        "acts_as": client.acting or None,
        "party": None if client.party is None else client.party.hex(),
        "purpose": client.purpose.name,
        "system": client.system,
    }


def _wish(asked: "AppRequest") -> dict[str, object]:
    return {"app": asked.app, "client_id": asked.client_id, "scopes": list(asked.scopes), "sends_to": asked.sends_to}


def _confirm(desk: Desk, asked: "AppRequest", scope: "Scope | None", *, yes: bool) -> None:
    """Show what is asked for; where somebody is there, go on only after a word."""
    import sys

    desk.say(f"{asked.app} asks to: {'; '.join(asked.wishes)}")
    desk.say(f"the answer goes to {asked.sends_to}")
    if scope is not None:
        desk.say(f"you would grant it: {scope_text(scope)}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to be asked; look at it, and give --yes", param_hint="--yes")
    typer.confirm("Let it in?", abort=True, err=True)
