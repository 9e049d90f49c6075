"""Making a home for an organisation."""

from importlib import metadata
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.chain.genesis import write as genesis_bytes
from carechain.cli.keyring import Keyring
from carechain.cli.network import (
    APPLICATION_FILE,
    GENESIS_FILE,
    Application,
    Organisation,
    engine_keys,
    found_network,
    keep_genesis,
    make_organisation,
    read_application,
    read_genesis,
    write_application,
)
from carechain.cli.output import CannotRun
from carechain.core.ids import party_id
from carechain.core.suite import Institution
from carechain.core.vocabulary import OrganisationKind
from carechain.node import home as layout

CONFIG_FILE: Final = "config.toml"
TLS_LINES: Final = ('tls_certificate = "tls/certificate.pem"', 'tls_key = "tls/key.pem"')
"""As they stand, behind a number sign, in a new configuration file."""
DEFAULT_CONFIG: Final = """\
# Settings of this node; docs/reference/settings.md lists all of them. A variable such as CARECHAIN_API__PORT stands
# before this file, a flag such as --port before both.

# password_file = "/run/secrets/carechain"

[api]
# port = 8710
# tls_certificate = "tls/certificate.pem"
# tls_key = "tls/key.pem"

[ops]
# port = 8711

[gatekeeper_api]
# port = 8712

[fhir]
# port = 8714
# public_url = "https://fhir.example.org"
# time_zone = "Europe/Berlin"
# anchor_as = "records"
"""


class MadeHome(Struct, frozen=True, kw_only=True):
    """A new home. ``application`` is the file for the members to vote on; None for a founder.

    ``node`` is the engine's id of the home's node, which others need to connect to it; None where there is no engine.
    """

    member: bytes
    chain_id: str
    genesis_hash: bytes
    application: Path | None
    node: bytes | None


def make_organisation_home(  # noqa: PLR0913 - what the command was given
    home: Path,
    *,
    name: str,
    kind: OrganisationKind,
    registrar: bool,
    chain_id: str,
    genesis: Path | None,
    suite: Institution | None,
    password_file: Path | None,
    consensus: str = "",
) -> MadeHome:
    """Keys, certificate authority, genesis, configuration. A home that exists is left alone.

    ``suite`` is for a network to found (None: international); where one is joined, it has to be that network's.
    ``consensus`` are the settings of the node's engine, where the network of ``genesis`` needs one.
    The genesis is written last: a home without one is not a home yet, and half of one is noticed at the next try.
    """
    if (home / GENESIS_FILE).exists():
        raise CannotRun(f"{home} is a home already; name another folder with --home")
    network = None if genesis is None else read_genesis(genesis)
    institution = (suite or Institution.INTERNATIONAL) if network is None else network.suite
    if suite not in (None, institution):
        raise CannotRun(f"{genesis} was founded with the suite {institution.name.lower()}: leave --suite away")
    is_consortium = network is not None and network.is_consortium
    keys = Keyring(home)
    password = keys.password(password_file, confirm=True)
    layout.make_home(home)
    made = make_organisation(
        keys, name=name, kind=kind, registrar=registrar, password=password, institution=institution
    )
    if not (home / CONFIG_FILE).exists():
        layout.replace_file(home / CONFIG_FILE, (DEFAULT_CONFIG + (consensus if is_consortium else "")).encode())
    application = None
    if network is None:
        network = found_network(chain_id, made, institution)
    else:
        application = apply(home, made)
    layout.replace_file(home / GENESIS_FILE, genesis_bytes(network))
    return MadeHome(
        member=made.identity.party,
        chain_id=network.chain_id,
        genesis_hash=genesis_hash(network),
        application=application,
        node=_node_in(application) if is_consortium else None,
    )


def make_applicant(
    home: Path,
    *,
    name: str,
    kind: OrganisationKind,
    registrar: bool,
    password_file: Path | None,
    institution: Institution = Institution.INTERNATIONAL,
) -> MadeHome:
    """A home for an organisation that wants to found a consortium with others: everything but the genesis."""
    if (home / GENESIS_FILE).exists() or (home / APPLICATION_FILE).exists():
        raise CannotRun(f"{home} is a home already; name another folder with --home")
    keys = Keyring(home)
    password = keys.password(password_file, confirm=True)
    layout.make_home(home)
    made = make_organisation(
        keys, name=name, kind=kind, registrar=registrar, password=password, institution=institution
    )
    application = apply(home, made)
    return MadeHome(
        member=made.identity.party,
        chain_id="",
        genesis_hash=b"",
        application=application,
        node=_node_in(application),
    )


def apply(home: Path, made: Organisation) -> Path:
    """Write what others must know of this organisation, the keys of its node among it."""
    consensus_key, node_id = engine_keys(home)
    path = home / APPLICATION_FILE
    write_application(path, Application(new=made.new, consensus_key=consensus_key, node_id=node_id))
    return path


def _node_in(application: Path | None) -> bytes | None:
    return None if application is None else read_application(application).node_id


def join(home: Path, genesis: Path, *, config: str) -> Genesis:
    """Make an applicant's home one of the network that was founded with it; raises :class:`CannotRun`."""
    if not (home / APPLICATION_FILE).exists():
        raise CannotRun(f"{home} has no application: make one with `carechain consortium apply`")
    network = read_genesis(genesis)
    own = read_application(home / APPLICATION_FILE)
    if own.member not in {party_id(one.suite, one.public_key) for one in network.members}:
        raise CannotRun("this organisation is not a founder of that network: join with `carechain init --genesis FILE`")
    if (home / CONFIG_FILE).exists():
        raise CannotRun(f"{home / CONFIG_FILE} is there already: this home has joined")
    layout.replace_file(home / CONFIG_FILE, config.encode())
    keep_genesis(home, genesis)
    return network


def program_version() -> str:
    """The installed version; a source tree that was not installed has none."""
    try:
        return metadata.version("carechain")
    except metadata.PackageNotFoundError:
        return "0"
