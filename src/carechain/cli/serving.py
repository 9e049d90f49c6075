"""A home's node: its settings, its unlocked key, and where it answers."""

import ssl
from pathlib import Path
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from carechain.cli.addresses import reachable, trust_of
from carechain.cli.keyring import Keyring
from carechain.cli.network import home_genesis
from carechain.cli.output import CannotRun
from carechain.core.units import DAY_S
from carechain.node.home import running
from carechain.node.mounting import Gateway
from carechain.node.settings import BadSettings, Settings, load_settings
from carechain.sdk.answers import MSGPACK, Status
from carechain.sdk.identity import Identity
from carechain.sdk.tls import no_trust, peer_certificate, tls_failure

_STATUS_S: Final = 10.0


def node_settings(
    home: Path,
    *,
    port: int | None = None,
    ops_port: int | None = None,
    gatekeeper_port: int | None = None,
    fhir_port: int | None = None,
    password_file: Path | None = None,
    accept_gap_days: int | None = None,
    resume_validator: bool | None = None,
) -> Settings:
    """The settings of a home, flags first; raises :class:`CannotRun` naming the setting that is wrong."""
    flags = {
        "api": {"port": port},
        "ops": {"port": ops_port},
        "gatekeeper_api": {"port": gatekeeper_port},
        "fhir": {"port": fhir_port},
        "clock": {"accept_gap_days": accept_gap_days},
        "consensus": {"resume_validator": resume_validator},
        "password_file": None if password_file is None else password_file.absolute(),
    }
    try:
        return load_settings(flags=flags, home=home)
    except BadSettings as wrong:
        raise CannotRun(str(wrong)) from None


def unlock(home: Path, settings: Settings, keys: Keyring | None = None) -> Identity:
    """The organisation's key, with the password from the settings' file or typed at a terminal.

    ``keys`` remembers what was typed. Raises ``Rejected`` when the password does not open it.
    """
    file = _password_file(settings)
    path = settings.path(settings.member_key)
    if not path.is_file():
        raise CannotRun(f"{path} is missing: make a home with `carechain init`, or name another with --home")
    return Identity.load(path, password=(keys or Keyring(home)).password(file))


def fhir_gateway(settings: Settings, keys: Keyring) -> Gateway | None:
    """The FHIR server to start with the node; None where the settings leave it out.

    It opens the keys of this home that apps act as, with the password that opened the organisation's own.
    """
    if not settings.fhir.enabled:
        return None
    from carechain.gateway.main import gateway_of  # noqa: PLC0415 - loading FHIR's definitions takes a moment

    def opened(name: str) -> Identity:
        return Identity.load(keys.folder / f"{name}.json", password=keys.password(_password_file(settings)))

    return gateway_of(opened)


def _password_file(settings: Settings) -> Path | None:
    return None if settings.password_file is None else settings.path(settings.password_file)


def node_url(home: Path) -> str:
    """Where this home's node answers: where it says that it runs, else where it is set to."""
    found = running(home)
    if found is not None:
        return reachable(found.api)
    api = node_settings(home).api
    return _address("https" if api.tls_certificate else "http", api.host, api.port)


def gatekeeper_url(home: Path) -> str:
    """Where this home's gatekeeper answers."""
    found = running(home)
    if found is not None and found.gatekeeper:
        return reachable(found.gatekeeper)
    settings = node_settings(home)
    scheme = "https" if settings.api.tls_certificate else "http"
    return _address(scheme, settings.gatekeeper_api.host, settings.gatekeeper_api.port)


def fhir_url(home: Path) -> str:
    """Where this home's FHIR server answers, without ``/fhir``."""
    found = running(home)
    settings = node_settings(home)
    if settings.fhir.public_url:
        return settings.fhir.public_url
    if found is not None and found.fhir:
        return reachable(found.fhir)
    scheme = "https" if settings.api.tls_certificate else "http"
    return _address(scheme, settings.fhir.host, settings.fhir.port)


def _address(scheme: str, host: str, port: int) -> str:
    return reachable(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")


class Found(Struct, frozen=True, kw_only=True):
    """What a node said, and when the certificate it showed ends (Unix seconds; None without TLS)."""

    status: Status
    certificate_until_s: int | None

    def days_left(self, now_s: float) -> int | None:
        """Whole days until the certificate ends."""
        return None if self.certificate_until_s is None else int((self.certificate_until_s - now_s) // DAY_S)

    def data(self, url: str) -> dict[str, object]:
        """One line of a table of nodes."""
        return {"node": url, "height": self.status.height, "ready": self.status.ready, "why": self.status.why}

    def text(self) -> str:
        """The same in words."""
        return f"height {self.status.height}, " + ("ready" if self.status.ready else f"not ready: {self.status.why}")


def ask_each(urls: list[str], home: Path, *, ca_file: Path | None = None) -> list[tuple[str, Found | str]]:
    """What each of these nodes says, or why it says nothing; raises :class:`CannotRun` where none says anything."""
    said: list[tuple[str, Found | str]] = []
    for url in urls:
        try:
            said.append((url, ask_status(url, home, ca_file=ca_file)))
        except CannotRun as silent:
            if len(urls) == 1:
                raise
            said.append((url, str(silent)))
    if all(isinstance(one, str) for _, one in said):
        raise CannotRun("; ".join(str(one) for _, one in said))
    return said


def ask_status(url: str, home: Path, *, ca_file: Path | None = None) -> Found:
    """Where the chain stands at a node; needs no key. ``home`` says which certificates are believed."""
    believed, shown = no_trust(), True
    if url.startswith("https://"):
        trust = trust_of(home, home_genesis(home), ca_file=ca_file)
        believed, shown = trust.context(None), trust.has_certificate
    try:
        with (
            httpx.Client(timeout=_STATUS_S, trust_env=False, verify=believed) as http,
            http.stream(
                "GET", f"{url.rstrip('/')}/v1/status", headers={"content-type": MSGPACK, "accept": MSGPACK}
            ) as answer,
        ):
            ends = peer_certificate(answer).get("notAfter")
            status = msgspec.msgpack.decode(answer.read(), type=Status)
    except httpx.HTTPError as error:
        why = tls_failure(error, url, shown=shown)
        if why is not None:
            raise CannotRun(why) from None
        raise CannotRun(
            f"no node answers at {url} ({type(error).__name__}): start one with `carechain start`"
        ) from None
    except (httpx.InvalidURL, msgspec.MsgspecError, ValueError):
        raise CannotRun(f"what answers at {url} is not a node; check the address") from None
    return Found(status=status, certificate_until_s=None if ends is None else int(ssl.cert_time_to_seconds(ends)))
