"""Commands of an operator: make a home, serve it, look after it."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import Annotated

import typer

from carechain.cli.consortium import Applicant
from carechain.cli.options import CaOption, NodeOption, PasswordOption
from carechain.cli.output import CannotRun, Desk, Exit, OptionGroup, Report, command, lines, sub_app, table, tables
from carechain.cli.peering import Peering
from carechain.cli.terms import moment
from carechain.core.limits import CHAIN_ID_CHARS
from carechain.core.vocabulary import OrganisationKind

app = sub_app("")


class Ports(OptionGroup, frozen=True):
    """Ports of a node; what is not given comes from the environment or the configuration file."""

    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port of the API; 0: a free one.")] = None
    ops_port: Annotated[
        int | None, typer.Option("--ops-port", min=0, max=65535, help="Port of the operations server.")
    ] = None
    gatekeeper_port: Annotated[
        int | None, typer.Option("--gatekeeper-port", min=0, max=65535, help="Port of the gatekeeper.")
    ] = None
    fhir_port: Annotated[int | None, typer.Option("--fhir-port", min=0, max=65535, help="Port of the FHIR server.")] = (
        None
    )


@command(app, "init")
def init(
    desk: Desk,
    *,
    new: Applicant,
    chain_id: Annotated[str, typer.Option("--chain-id", metavar="NAME", help="The new network's name.")] = "carechain",
    genesis: Annotated[
        Path | None, typer.Option("--genesis", metavar="FILE", help="Join this network instead of founding one.")
    ] = None,
    peering: Peering,
    tls_host: Annotated[
        list[str] | None,
        typer.Option("--tls-host", metavar="NAME", help="Serve with TLS under this name; may be repeated."),
    ] = None,
    password_file: PasswordOption = None,
) -> Report:
    """Make a home for an organisation: its keys, its certificate authority, its configuration.

    Without --genesis it founds a network with itself as the first member and block producer; `carechain start` serves
    it. With --genesis it writes an application for the members to vote on with `carechain member propose-admit`.
    """
    from carechain.cli.homes import make_organisation_home
    from carechain.cli.keyring import KEYS_FOLDER, Keyring
    from carechain.core.suite import Institution

    new.require_name()
    if not 1 <= len(chain_id) <= CHAIN_ID_CHARS:
        raise typer.BadParameter(f"a network's name has 1 to {CHAIN_ID_CHARS} characters", param_hint="--chain-id")
    if peering.peers and genesis is None:
        raise typer.BadParameter("only a node that joins others has peers", param_hint="--peer")
    made = make_organisation_home(
        desk.home,
        name=new.name,
        kind=OrganisationKind(new.kind),
        registrar=new.registrar,
        chain_id=chain_id,
        genesis=genesis,
        suite=None if new.suite is None else Institution[new.suite.name],
        password_file=password_file,
        consensus=peering.settings(),
    )
    if tls_host:
        from carechain.cli.certifying import SERVER_DAYS, issue_for_servers, serve_with_it

        keys = Keyring(desk.home)
        issue_for_servers(desk.home, keys.authority(keys.password(password_file)), tls_host, days=SERVER_DAYS)
        serve_with_it(desk.home)
    data = {
        "home": str(desk.home),
        "member": made.member.hex(),
        "name": new.name,
        "chain_id": made.chain_id,
        "genesis_hash": made.genesis_hash.hex(),
        "founder": made.application is None,
        "application": None if made.application is None else str(made.application),
        "node": None if made.node is None else made.node.hex(),
    }
    said = [
        f"{desk.home} is the home of {new.name}",
        f"member {made.member.hex()}",
        f"network {made.chain_id}, genesis {made.genesis_hash.hex()}",
        f"back up {desk.home / KEYS_FOLDER}: without these files and their password nobody can act for {new.name}",
    ]
    if made.application is None:
        said.append(f"next: carechain start --home {desk.home}")
    else:
        said.append(f"next: a member proposes you with `carechain member propose-admit {made.application}`")
    if made.node is not None:
        said.append(f"once admitted: register node {made.node.hex()} with `carechain validator register-node`")
    return Report(data=data, show=lines(*said))


@command(app, "start")
def start(
    desk: Desk,
    *,
    ports: Ports,
    accept_gap_days: Annotated[
        int | None,
        typer.Option(
            "--accept-gap-days", min=1, metavar="DAYS", help="Start although the last block is up to DAYS old."
        ),
    ] = None,
    resume_validator: Annotated[
        bool,
        typer.Option(
            "--resume-validator",
            help="Sign blocks again after a restore: only when nobody else signs with this home's key.",
        ),
    ] = False,
    password_file: PasswordOption = None,
) -> Report:
    """Serve this home: the ledger's API, the gatekeeper, FHIR and the operations port, until SIGTERM or Ctrl-C.

    The log goes to standard error as JSON lines; the line `node started` names the addresses. What was acknowledged
    is finished before the program ends.
    """
    from carechain.cli.keyring import Keyring
    from carechain.cli.serving import fhir_gateway, node_settings, unlock
    from carechain.node.main import run

    settings = node_settings(
        desk.home,
        port=ports.port,
        ops_port=ports.ops_port,
        gatekeeper_port=ports.gatekeeper_port,
        fhir_port=ports.fhir_port,
        accept_gap_days=accept_gap_days,
        resume_validator=resume_validator or None,
        password_file=password_file,
    )
    keys = Keyring(desk.home)
    identity = unlock(desk.home, settings, keys)
    status = Exit(run(settings, identity=identity, gateway=fhir_gateway(settings, keys)))
    if status is not Exit.DONE:
        raise CannotRun("the node could not run; the line above says why")
    return Report(data={"home": str(desk.home), "stopped": True}, show=lines("stopped; nothing acknowledged was lost"))


@command(app, "status")
def status(desk: Desk, *, node: NodeOption = None, ca: CaOption = None) -> Report:
    """Ask the node where the chain stands."""
    import time

    from carechain.cli.addresses import address_of, split_addresses
    from carechain.cli.serving import Found, ask_each, node_url

    urls = [address_of(one) for one in split_addresses(node)] or [node_url(desk.home)]
    nodes = ask_each(urls, desk.home, ca_file=ca)
    url, answer = next((url, one) for url, one in nodes if isinstance(one, Found))
    found = answer.status
    age_s = int(time.time()) - found.time_s
    data = {
        "node": url,
        "chain_id": found.chain_id,
        "server": found.server.hex(),
        "height": found.height,
        "time_s": found.time_s,
        "block_age_s": age_s,
        "app_hash": found.app_hash.hex(),
        "version": found.version,
        "engine": found.engine,
        "peers": found.peers,
        "validators": found.validators,
        "ready": found.ready,
        "why": found.why,
        "tls_days_left": answer.days_left(time.time()),
        "nodes": [one.data(where) if isinstance(one, Found) else {"node": where, "why": one} for where, one in nodes],
    }
    said = [
        f"network {found.chain_id} at {url}, version {found.version}",
        f"height {found.height}, {moment(found.time_s)} UTC ({age_s} s ago)",
        f"app hash {found.app_hash.hex()}",
    ]
    if found.validators:
        said.append(f"{found.engine}: {found.validators} validators; connected to {found.peers} other nodes")
    if not found.ready:
        said.append(f"not ready: {found.why}")
    if answer.certificate_until_s is not None:
        said.append(f"its certificate ends on {moment(answer.certificate_until_s)} UTC")
    said += [f"{where}: {one.text() if isinstance(one, Found) else one}" for where, one in nodes[1:]]
    return Report(data=data, show=lines(*said))


@command(app, "doctor")
def doctor(desk: Desk) -> Report:
    """Check this home and this machine: files, keys, settings, ports, clock, disk. Changes nothing.

    Exits with 3 when something needs attention.
    """
    from carechain.cli.checkup import examine

    checks = examine(desk.home)
    well = all(one.ok for one in checks)
    rows = [{"name": one.name, "ok": one.ok, "note": one.note} for one in checks]
    text = [("ok" if one.ok else "CHECK", one.name, one.note) for one in checks]
    return Report(
        data={"ok": well, "checks": rows},
        show=tables(table("", ("", "what", "finding"), text)),
        status=Exit.DONE if well else Exit.ENVIRONMENT,
    )


@command(app, "version")
def version(desk: Desk) -> Report:  # noqa: ARG001 - every command has a desk
    """Show the versions of the program, of Python and of the formats it writes."""
    import platform

    from carechain.chain.header import HEADER_VERSION
    from carechain.chain.tx import VERSION
    from carechain.cli.homes import program_version
    from carechain.node.home import HOME_VERSION
    from carechain.sdk.keyfile import VERSION as KEY_FILE_VERSION

    data = {
        "carechain": program_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "transaction": VERSION,
        "block": HEADER_VERSION,
        "home": HOME_VERSION,
        "key_file": KEY_FILE_VERSION,
    }
    return Report(data=data, show=lines(*(f"{name:12} {value}" for name, value in data.items())))
