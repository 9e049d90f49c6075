"""What a node can be told: one validated TOML file, below environment variables, below flags.

Unknown keys are refused, and so are impossible values, with a sentence that names the setting and never its value.
Secrets are given as paths of files; such a file must not be readable by others.
"""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from carechain.core.limits import BLOCK_SIZE_BYTES, BLOCK_TXS, CONFIG_FILE_BYTES, SECRET_FILE_BYTES
from carechain.engine.embedded import BATCH_BYTES, BATCH_TIMEOUT_S, BATCH_TXS, BatchPolicy
from carechain.engine.session import Checkpoints
from carechain.node.clock import ACCEPT_GAP_DAYS
from carechain.sdk.keyfile import is_open_to_others

CONFIG_FILE: Final = "config.toml"

Port = Annotated[int, Field(ge=0, le=65535)]


class BadSettings(Exception):  # noqa: N818 - names what is wrong
    """The configuration cannot be used; says which setting and what to do, and never repeats a value."""


class _Group(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiSettings(_Group):
    """Where clients reach the ledger."""

    host: str = Field(
        default="127.0.0.1", description="Address of the API. Other hosts should only reach it through TLS."
    )
    port: Port = Field(default=8710, description="Port of the API; 0 takes a free one.")
    tls_certificate: Path | None = Field(default=None, description="PEM file with the certificate chain of the API.")
    tls_key: Path | None = Field(default=None, description="PEM file with the certificate's private key, mode 0600.")
    connections: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=1024, description="More connections at once than this are answered 503."
    )
    drain_s: Annotated[int, Field(ge=1, le=600)] = Field(
        default=10, description="How long answers in progress may take after SIGTERM, in seconds."
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "ApiSettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together or not at all")
        return self


class OpsSettings(_Group):
    """Where operators and monitoring reach the node; keep it inside the organisation."""

    host: str = Field(default="127.0.0.1", description="Address of /livez, /readyz and /metrics.")
    port: Port = Field(default=8711, description="Port of the operations server; 0 takes a free one.")


class GatekeeperSettings(_Group):
    """Where holders of a ticket reach this organisation's gatekeeper."""

    enabled: bool = Field(default=True, description="Whether this node serves its organisation's records.")
    host: str = Field(default="127.0.0.1", description="Address of the gatekeeper.")
    port: Port = Field(default=8712, description="Port of the gatekeeper; 0 takes a free one.")


class BatchSettings(_Group):
    """When waiting transactions become a block (LED-7)."""

    timeout_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=BATCH_TIMEOUT_S, description="The longest a transaction waits for others, in seconds."
    )
    txs: Annotated[int, Field(ge=1, le=BLOCK_TXS)] = Field(
        default=BATCH_TXS, description="So many waiting transactions make a block at once."
    )
    size_bytes: Annotated[int, Field(ge=1, le=BLOCK_SIZE_BYTES)] = Field(
        default=BATCH_BYTES, description="So many waiting bytes make a block at once."
    )

    def policy(self) -> BatchPolicy:
        """As the engine takes it."""
        return BatchPolicy(timeout_s=self.timeout_s, txs=self.txs, size_bytes=self.size_bytes)


class CheckpointSettings(_Group):
    """How often the state tree is written; only the length of a restart depends on it."""

    blocks: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1_000, description="At least every so many blocks."
    )
    txs: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=20_000, description="At least every so many transactions."
    )

    def checkpoints(self) -> Checkpoints:
        """As the engine takes it."""
        return Checkpoints(blocks=self.blocks, txs=self.txs)


class ClockSettings(_Group):
    """What the machine's clock must agree with before a block is made by it: block time can never go back."""

    accept_gap_days: Annotated[int, Field(ge=1, le=36_500)] = Field(
        default=ACCEPT_GAP_DAYS,
        description="A start is refused when the clock is more days than this ahead of the last block.",
    )


class LogSettings(_Group):
    """The log: JSON lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged from this level on."
    )


class Settings(BaseSettings):
    """Everything one node can be told. Groups are tables of the file, and joined by two underscores in variables."""

    model_config = SettingsConfigDict(
        env_prefix="CARECHAIN_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    home: Path = Field(default=Path("~/.carechain"), description="The node's folder: keys, ledger, charts, audit.")
    member_key: Path = Field(
        default=Path("keys/member.json"), description="The organisation's key file; relative paths start at home."
    )
    password_file: Path | None = Field(default=None, description="File with the password of the key file, mode 0600.")
    verify_in_worker: bool = Field(default=True, description="Verify signatures in a second process.")
    api: ApiSettings = Field(default_factory=ApiSettings)
    ops: OpsSettings = Field(default_factory=OpsSettings)
    gatekeeper_api: GatekeeperSettings = Field(default_factory=GatekeeperSettings)
    batch: BatchSettings = Field(default_factory=BatchSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    clock: ClockSettings = Field(default_factory=ClockSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    def path(self, path: Path) -> Path:
        """A configured path: absolute as it is, otherwise below the home."""
        return self.home.expanduser() / path.expanduser()


def load_settings(
    file: Path | None = None, flags: Mapping[str, Any] | None = None, *, home: Path | None = None
) -> Settings:
    """Settings from a file (None: ``config.toml`` in the home, where there is one), the environment and ``flags``.

    ``flags`` has the shape of the file: ``{"api": {"port": 9000}}``; None values are passed over. ``home`` stands
    for ``flags["home"]`` and also says where to look for the file. Raises :class:`BadSettings`.
    """
    given = _without_none({**(flags or {}), **({} if home is None else {"home": home})})
    found_home = given.get("home") or os.environ.get("CARECHAIN_HOME") or Settings.model_fields["home"].default
    path = file or Path(str(found_home)).expanduser() / CONFIG_FILE
    from_file = _read(path) if file is not None or path.is_file() else {}

    class Loaded(Settings):
        """The settings with the file below the environment."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=from_file)

    try:
        return Loaded(**given)
    except ValidationError as invalid:
        raise BadSettings(_sentence(invalid)) from None
    except SettingsError:
        raise BadSettings(
            "An environment variable CARECHAIN_… cannot be read. Set single settings, for example CARECHAIN_API__PORT."
        ) from None


def read_secret(path: Path) -> str:
    """The first line of a secret's file; raises :class:`BadSettings` when others can read it, or ``OSError``."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise BadSettings(f"{path} is not a file.")
    if is_open_to_others(mode):
        raise BadSettings(f"Others can read {path}. Set its mode to 0600.")
    with path.open("rb") as file:
        data = file.read(SECRET_FILE_BYTES + 1)
    try:
        secret = data.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError:
        raise BadSettings(f"{path} is not UTF-8 text.") from None
    if not secret or len(data) > SECRET_FILE_BYTES:
        raise BadSettings(f"{path} must hold one line of 1 to {SECRET_FILE_BYTES} bytes.")
    return secret


def require_private(path: Path) -> Path:
    """``path``, unless others can read it; raises :class:`BadSettings` or ``OSError``."""
    if is_open_to_others(path.stat().st_mode):
        raise BadSettings(f"Others can read {path}. Set its mode to 0600.")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_FILE_BYTES + 1)
        if len(data) > CONFIG_FILE_BYTES:
            raise BadSettings(f"{path} is too large to be a configuration file.")
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not a TOML file: {type(error).__name__}. Check quotes and brackets.") from None
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}.") from None


def _without_none(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in given.items()
        if value is not None
    }


def _sentence(invalid: ValidationError) -> str:
    """Each wrong setting by name, and what is wrong; values stay out, because one could be a secret."""
    wrong = [f"{'.'.join(map(str, one['loc'])) or 'settings'}: {one['msg']}" for one in invalid.errors()]
    return "These settings cannot be used: " + "; ".join(wrong) + "."
