"""A home's node: its settings, its unlocked key, and where it answers."""

from pathlib import Path
from typing import Final

import httpx
import msgspec

from carechain.cli.keyring import Keyring
from carechain.cli.output import CannotRun
from carechain.node.home import running
from carechain.node.settings import BadSettings, Settings, load_settings
from carechain.sdk.answers import MSGPACK, Status
from carechain.sdk.identity import Identity

_STATUS_S: Final = 10.0


def node_settings(
    home: Path,
    *,
    port: int | None = None,
    ops_port: int | None = None,
    gatekeeper_port: int | None = None,
    password_file: Path | None = None,
    accept_gap_days: int | None = None,
) -> Settings:
    """The settings of a home, flags first; raises :class:`CannotRun` naming the setting that is wrong."""
    flags = {
        "api": {"port": port},
        "ops": {"port": ops_port},
        "gatekeeper_api": {"port": gatekeeper_port},
        "clock": {"accept_gap_days": accept_gap_days},
        "password_file": None if password_file is None else password_file.absolute(),
    }
    try:
        return load_settings(flags=flags, home=home)
    except BadSettings as wrong:
        raise CannotRun(str(wrong)) from None


def unlock(home: Path, settings: Settings) -> Identity:
    """The organisation's key, with the password from the settings' file or typed at a terminal.

    Raises ``Rejected`` when the password does not open it.
    """
    file = None if settings.password_file is None else settings.path(settings.password_file)
    path = settings.path(settings.member_key)
    if not path.is_file():
        raise CannotRun(f"{path} is missing: make a home with `carechain init`, or name another with --home")
    return Identity.load(path, password=Keyring(home).password(file))


def node_url(home: Path) -> str:
    """Where this home's node answers: where it says that it runs, else where it is set to."""
    found = running(home)
    if found is not None:
        return found.api
    api = node_settings(home).api
    return f"{'https' if api.tls_certificate else 'http'}://{api.host}:{api.port}"


def gatekeeper_url(home: Path) -> str:
    """Where this home's gatekeeper answers."""
    found = running(home)
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
