"""Making a home for an organisation."""

from importlib import metadata
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.chain.genesis import genesis_hash
from carechain.chain.genesis import write as genesis_bytes
from carechain.cli.keyring import Keyring
from carechain.cli.network import (
    APPLICATION_FILE,
    GENESIS_FILE,
    found_network,
    make_organisation,
    read_genesis,
    write_application,
)
from carechain.cli.output import CannotRun
from carechain.core.vocabulary import OrganisationKind
from carechain.node import home as layout

CONFIG_FILE: Final = "config.toml"
_CONFIG: Final = """\
# Settings of this node; docs/reference/settings.md lists all of them. A variable such as CARECHAIN_API__PORT stands
# before this file, a flag such as --port before both.

# password_file = "/run/secrets/carechain"

[api]
# port = 8710

[ops]
# port = 8711

[gatekeeper_api]
# port = 8712
"""


class MadeHome(Struct, frozen=True, kw_only=True):
    """A new home. ``application`` is the file for the members to vote on; None for a founder."""

    member: bytes
    chain_id: str
    genesis_hash: bytes
    application: Path | None


def make_organisation_home(
    home: Path,
    *,
    name: str,
    kind: OrganisationKind,
    registrar: bool,
    chain_id: str,
    genesis: Path | None,
    password_file: Path | None,
) -> MadeHome:
    """Keys, certificate authority, genesis, configuration. A home that exists is left alone.

    The genesis is written last: a home without one is not a home yet, and half of one is noticed at the next try.
    """
    if (home / GENESIS_FILE).exists():
        raise CannotRun(f"{home} is a home already; name another folder with --home")
    network = None if genesis is None else read_genesis(genesis)
    keys = Keyring(home)
    password = keys.password(password_file, confirm=True)
    layout.make_home(home)
    made = make_organisation(keys, name=name, kind=kind, registrar=registrar, password=password)
    if not (home / CONFIG_FILE).exists():
        layout.replace_file(home / CONFIG_FILE, _CONFIG.encode())
    application = None
    if network is None:
        network = found_network(chain_id, made)
    else:
        application = home / APPLICATION_FILE
        write_application(application, made.new)
    layout.replace_file(home / GENESIS_FILE, genesis_bytes(network))
    return MadeHome(
        member=made.identity.party,
        chain_id=network.chain_id,
        genesis_hash=genesis_hash(network),
        application=application,
    )


def program_version() -> str:
    """The installed version; a source tree that was not installed has none."""
    try:
        return metadata.version("carechain")
    except metadata.PackageNotFoundError:
        return "0"
