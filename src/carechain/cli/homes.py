"""Homes: made for an organisation, unlocked for a node, found by commands that need an address."""

from importlib import metadata
from pathlib import Path
from typing import Final

import httpx
import msgspec
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
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import OrganisationKind
from carechain.node import home as layout
from carechain.node.settings import CONFIG_FILE, BadSettings, Settings, load_settings
from carechain.sdk.answers import MSGPACK, Status
from carechain.sdk.identity import Identity

_STATUS_S: Final = 10.0
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
        (home / CONFIG_FILE).write_text(_CONFIG, encoding="utf-8")
    application = None
    if network is None:
        network = found_network(chain_id, made)
    else:
        application = home / APPLICATION_FILE
        write_application(application, made.new)
    (home / GENESIS_FILE).write_bytes(genesis_bytes(network))
    return MadeHome(
        member=made.identity.party,
        chain_id=network.chain_id,
        genesis_hash=genesis_hash(network),
        application=application,
    )


def node_settings(
    home: Path,
    *,
    port: int | None = None,
    ops_port: int | None = None,
    gatekeeper_port: int | None = None,
    password_file: Path | None = None,
) -> Settings:
    """The settings of a home, flags first; raises :class:`CannotRun` naming the setting that is wrong."""
    flags = {
        "api": {"port": port},
        "ops": {"port": ops_port},
        "gatekeeper_api": {"port": gatekeeper_port},
        "password_file": None if password_file is None else password_file.absolute(),
    }
    try:
        return load_settings(flags=flags, home=home)
    except BadSettings as wrong:
        raise CannotRun(str(wrong)) from None


def unlock(home: Path, settings: Settings) -> Identity:
    """The organisation's key, with the password from the settings' file or typed at a terminal."""
    file = None if settings.password_file is None else settings.path(settings.password_file)
    path = settings.path(settings.member_key)
    if not path.is_file():
        raise CannotRun(f"{path} is missing: make a home with `carechain init`, or name another with --home")
    try:
        return Identity.load(path, password=Keyring(home).password(file))
    except Rejected as refused:
        raise CannotRun(f"{path}: {refused.code.reason}") from None


def node_url(home: Path) -> str:
    """Where this home's node answers: where it says that it runs, else where it is set to."""
    found = layout.running(home)
    if found is not None:
        return found.api
    api = node_settings(home).api
    return f"{'https' if api.tls_certificate else 'http'}://{api.host}:{api.port}"


def gatekeeper_url(home: Path) -> str:
    """Where this home's gatekeeper answers."""
    found = layout.running(home)
    if found is not None and found.gatekeeper:
        return found.gatekeeper
    settings = node_settings(home)
    scheme = "https" if settings.api.tls_certificate else "http"
    return f"{scheme}://{settings.gatekeeper_api.host}:{settings.gatekeeper_api.port}"


def ask_status(url: str) -> Status:
    """Where the chain stands at a node; needs no key."""
    try:
        with httpx.Client(timeout=_STATUS_S, headers={"content-type": MSGPACK, "accept": MSGPACK}) as http:
            answer = http.get(f"{url.rstrip('/')}/v1/status")
        return msgspec.msgpack.decode(answer.content, type=Status)
    except httpx.HTTPError as error:
        raise CannotRun(
            f"no node answers at {url} ({type(error).__name__}): start one with `carechain start`"
        ) from None
    except (httpx.InvalidURL, msgspec.MsgspecError, ValueError):
        raise CannotRun(f"what answers at {url} is not a node; check the address") from None


def program_version() -> str:
    """The installed version; a source tree that was not installed has none."""
    try:
        return metadata.version("carechain")
    except metadata.PackageNotFoundError:
        return "0"
