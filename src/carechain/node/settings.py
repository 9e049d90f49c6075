"""What a node can be told: one validated TOML file, below environment variables, below flags.

Unknown keys are refused, and so are impossible values, with a sentence that names the setting and never its value.
Secrets are given as paths of files; such a file must not be readable by others.
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from carechain.core.limits import (
    BLOCK_SIZE_BYTES,
    BLOCK_TXS,
    CONFIG_FILE_BYTES,
    DHT_COPIES,
    MEMPOOL_TXS,
    SECRET_FILE_BYTES,
    SNAPSHOTS_KEPT,
    VAULT_STORES,
)
from carechain.engine.cometbft.config import SyncFrom, Tuning
from carechain.engine.embedded import BATCH_BYTES, BATCH_TIMEOUT_S, BATCH_TXS, BatchPolicy
from carechain.engine.session import Checkpoints
from carechain.engine.snapshots import Rhythm
from carechain.node.clock import ACCEPT_GAP_DAYS
from carechain.sdk.keyfile import is_open_to_others

CONFIG_FILE: Final = "config.toml"

Port = Annotated[int, Field(ge=0, le=65535)]
Peer = Annotated[str, Field(pattern=r"^[0-9a-f]{40}@[^@,\s]+:[0-9]{1,5}$")]
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


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
    require_client_certificate: bool = Field(
        default=False, description="Whether the API lets in only servers and staff of members, by their certificate."
    )
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
        if self.require_client_certificate and self.tls_key is None:
            raise ValueError("require_client_certificate needs tls_certificate and tls_key")
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
    require_client_certificate: bool = Field(
        default=False, description="Whether the gatekeeper lets in only who shows a certificate of a member."
    )


class FhirSettings(_Group):
    """Where apps and other systems reach this organisation's FHIR server, and what it keeps (API-1)."""

    enabled: bool = Field(default=True, description="Whether this node serves FHIR and SMART on FHIR.")
    host: str = Field(default="127.0.0.1", description="Address of the FHIR server.")
    port: Port = Field(default=8714, description="Port of the FHIR server; 0 takes a free one.")
    public_url: str = Field(
        default="",
        description="What it is called from outside, for example https://fhir.example.org; none: its own address.",
    )
    time_zone: str = Field(
        default="UTC", description="Where dates without an offset were written, as in Asia/Shanghai: for searches."
    )
    database_url_file: Path | None = Field(
        default=None,
        description="File (mode 0600) with the address of a PostgreSQL database for the charts, "
        "postgresql+psycopg://user:password@host/name; none: a SQLite file in the home.",
    )
    id_system: str = Field(
        default="mrn",
        description="What kind of id a Patient's record number is, as it was named when patients were registered.",
    )
    anchor_as: str = Field(
        default="",
        description="Name of the key (of staff that may anchor) that anchors what is written over FHIR; none: nobody.",
    )
    require_client_certificate: bool = Field(
        default=False, description="Whether the FHIR server lets in only who shows a certificate of a member."
    )
    gatekeepers: dict[str, str] = Field(
        default={}, description="Addresses of other members' gatekeepers, by id: where remote reads are sent."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of authorities believed there, besides each organisation's own."
    )

    @field_validator("gatekeepers")
    @classmethod
    def _whole_addresses(cls, given: dict[str, str]) -> dict[str, str]:
        return require_gatekeepers(given)

    @field_validator("public_url")
    @classmethod
    def _whole_address(cls, given: str) -> str:
        if given and (not _is_address(given) or urlsplit(given).path.strip("/")):
            raise ValueError("an address begins with https:// (http:// only on this machine) and has no path")
        return given.rstrip("/")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, given: str) -> str:
        try:
            ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("a time zone has a name such as Europe/Berlin or Asia/Shanghai") from None
        return given

    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.time_zone)


class Hl7Settings(_Group):
    """Where the hospital's own systems send HL7 v2 messages to, over MLLP (REC-8)."""

    enabled: bool = Field(default=False, description="Whether this node takes HL7 v2 messages.")
    host: str = Field(default="127.0.0.1", description="Address of the MLLP server.")
    port: Port = Field(default=2575, description="Port of the MLLP server; 0 takes a free one.")
    allowed: tuple[str, ...] = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="Networks whose addresses may send: MLLP knows no passwords.",
    )
    tls: bool = Field(
        default=False, description="Whether senders use TLS and show a certificate of a member; needs api.tls_key."
    )
    charset: Literal["ascii", "utf_8", "gb18030", "iso8859_1"] = Field(
        default="utf_8", description="The character set of messages that name none in MSH-18."
    )
    time_zone: str = Field(default="UTC", description="Where times without an offset were written.")
    id_system: str = Field(
        default="mrn", description="What kind of id PID-3 holds, as it was named when patients were registered."
    )
    assigning_authority: str = Field(
        default="", description="Only identifiers of this authority (PID-3.4) tell patients apart; none: any."
    )
    authorities: dict[str, str] = Field(
        default={}, description="The URI of identifiers' systems, by the name of the authority in messages."
    )

    @field_validator("allowed")
    @classmethod
    def _whole_networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for one in given:
                ip_network(one)
        except ValueError:
            raise ValueError("a network is written as 192.0.2.0/24 or 2001:db8::/32") from None
        return given

    @field_validator("time_zone")
    @classmethod
    def _zone_of_messages(cls, given: str) -> str:
        try:
            ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("a time zone has a name such as Europe/Berlin or Asia/Shanghai") from None
        return given


class ErasureSettings(_Group):
    """What becomes of this organisation's charts when a patient has a record erased (REC-13)."""

    keep_charts: bool = Field(
        default=False,
        description="Whether the charts keep erased records, where the law makes this organisation do so. They are not "
        "served either way; what is kept gets no receipt.",
    )


class RelaySettings(_Group):
    """Where this node, as the hub of a network, passes requests for records on to (LED-4)."""

    enabled: bool = Field(default=False, description="Whether followers reach each other's gatekeepers through here.")
    gatekeepers: dict[str, str] = Field(
        default={}, description="Address of each organisation's gatekeeper, by its id of 64 hexadecimal digits."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of authorities believed besides each organisation's own."
    )

    @field_validator("gatekeepers")
    @classmethod
    def _whole_addresses(cls, given: dict[str, str]) -> dict[str, str]:
        return require_gatekeepers(given)


def require_gatekeepers(given: dict[str, str]) -> dict[str, str]:
    """Addresses by organisation, if they are; raises ``ValueError``."""
    if not all(re.fullmatch("[0-9a-f]{64}", organisation) for organisation in given):
        raise ValueError("an organisation's id has 64 hexadecimal digits in small letters")
    if not all(_is_address(url) for url in given.values()):
        raise ValueError("an address begins with https:// (http:// only on this machine), without user and query")
    return given


def _is_address(url: str) -> bool:
    """Plain HTTP only within this machine, because tokens travel in headers."""
    try:
        parts = urlsplit(url)
        # Reading the port says whether it is one.
        whole = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        return False
    return whole and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK))


class BatchSettings(_Group):
    """When waiting transactions become a block (LED-7)."""

    timeout_s: Annotated[float, Field(ge=0, le=60)] = Field(
        default=BATCH_TIMEOUT_S, description="The longest a transaction waits for others, in seconds."
    )
    eager: bool = Field(
        default=True, description="After a pause of `timeout_s` the first transaction makes a block at once."
    )
    txs: Annotated[int, Field(ge=1, le=BLOCK_TXS)] = Field(
        default=BATCH_TXS, description="So many waiting transactions make a block at once."
    )
    size_bytes: Annotated[int, Field(ge=1, le=BLOCK_SIZE_BYTES)] = Field(
        default=BATCH_BYTES, description="So many waiting bytes make a block at once."
    )

    def policy(self) -> BatchPolicy:
        """As the engine takes it."""
        return BatchPolicy(timeout_s=self.timeout_s, eager=self.eager, txs=self.txs, size_bytes=self.size_bytes)


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


class ConsensusSettings(_Group):
    """The consensus engine, in a network whose blocks several organisations agree on; not used in any other."""

    program: Path | None = Field(
        default=None, description="CometBFT's program; without it, the one beside Python or on the search path."
    )
    host: str = Field(default="127.0.0.1", description="Address at which other organisations' nodes reach this one.")
    port: Port = Field(default=26656, description="Port of that address.")
    peers: tuple[Peer, ...] = Field(
        default=(), description="Nodes to connect to, `<node id>@<host>:<port>` each; nobody else is looked for."
    )
    same_host: bool = Field(default=False, description="Allow several nodes of one network on one host, to try it out.")
    block_txs: Annotated[int, Field(ge=1, le=BLOCK_TXS)] = Field(
        default=BLOCK_TXS, description="So many transactions at most in a block that this node proposes."
    )
    propose_wait_ms: Annotated[int, Field(ge=100, le=60_000)] = Field(
        default=3_000, description="How long to wait for a proposer before the next one's turn."
    )
    commit_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = Field(
        default=200, description="How long to wait for late votes after a block."
    )
    skip_commit_wait: bool = Field(default=True, description="Go on at once when every validator has voted.")
    pool_txs: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=MEMPOOL_TXS, description="So many transactions wait in the engine at most."
    )
    rpc_port: Port | None = Field(
        default=None,
        description="Port on 127.0.0.1 for the engine's own RPC, for newcomers' state sync; normally a private socket.",
    )
    resume_validator: bool = Field(
        default=False,
        description="Sign again although the signing state was lost: only when nobody else signs with this key.",
    )
    log_level: Literal["debug", "info", "error", "none"] = Field(
        default="error", description="What the engine writes to cometbft/engine.log."
    )

    def tuning(self) -> Tuning:
        """As the engine takes it."""
        return Tuning(
            propose_ms=self.propose_wait_ms,
            commit_ms=self.commit_wait_ms,
            skip_commit_wait=self.skip_commit_wait,
            mempool_txs=self.pool_txs,
            log_level=self.log_level,
        )


class SnapshotSettings(_Group):
    """Snapshots of the state that this node of a consortium keeps for organisations that join late."""

    every_blocks: Annotated[int, Field(ge=0)] = Field(
        default=10_000, description="Made at every multiple of so many blocks, on all nodes alike; 0: never."
    )
    keep: Annotated[int, Field(ge=1, le=SNAPSHOTS_KEPT)] = Field(default=2, description="So many are kept.")

    def rhythm(self) -> Rhythm:
        """As the engine takes it."""
        return Rhythm(every_blocks=self.every_blocks, keep=self.keep)


class StateSyncSettings(_Group):
    """Where a new node takes a snapshot of the state from, instead of all blocks, and what it trusts."""

    servers: tuple[str, ...] = Field(default=(), description="Engine RPCs of two nodes, `host:port`; none: all blocks.")
    trust_height: Annotated[int, Field(ge=0)] = Field(default=0, description="A height whose header is known for sure.")
    trust_hash: Annotated[str, Field(pattern=r"^([0-9A-Fa-f]{64})?$")] = Field(
        default="", description="The hash of that header, 64 hexadecimal digits."
    )

    @model_validator(mode="after")
    def _trust_is_whole(self) -> "StateSyncSettings":
        if self.servers and not (self.trust_height and self.trust_hash):
            raise ValueError("servers need trust_height and trust_hash")
        return self

    def sync(self) -> SyncFrom | None:
        """As the engine takes it."""
        if not self.servers:
            return None
        return SyncFrom(servers=self.servers, trust_height=self.trust_height, trust_hash=self.trust_hash.upper())


class S3Settings(_Group):
    """The bucket that sealed objects are kept in, where `vault.backend` is `s3`."""

    endpoint: str = Field(default="", description="Address of the S3 server; none: Amazon's own of the region.")
    region: str = Field(default="us-east-1", description="Region of the bucket.")
    bucket: str = Field(default="", description="Name of the bucket; it must exist.")
    prefix: str = Field(default="", description="What stands before the names of the objects, to share a bucket.")
    access_key_id: str = Field(default="", description="Id of the access key.")
    secret_key_file: Path | None = Field(default=None, description="File with the secret of the access key, mode 0600.")


Contact = Annotated[str, Field(pattern=r"^[^\s/@]+:[0-9]{1,5}$")]
_GIB: Final = 1024 * 1024 * 1024


class KademliaSettings(_Group):
    """This node's part in the members' distributed store, where `vault.backend` is `kademlia`."""

    host: str = Field(default="127.0.0.1", description="Address at which the other members' nodes reach this one, UDP.")
    port: Port = Field(default=8713, description="UDP port of that address.")
    number: Annotated[int, Field(ge=0, le=255)] = Field(
        default=0, description="Which of the organisation's own nodes this is: no two may have one number."
    )
    peers: tuple[Contact, ...] = Field(
        default=(), description="Nodes to find the others by, `host:port` each; those found are remembered."
    )
    copies: Annotated[int, Field(ge=1, le=DHT_COPIES)] = Field(
        default=4, description="So many nodes keep each piece; the same figure at all members."
    )
    minimum: Annotated[int, Field(ge=1, le=DHT_COPIES)] = Field(
        default=2, description="So many must have taken a piece before an object counts as stored."
    )
    capacity_bytes: Annotated[int, Field(ge=1)] = Field(
        default=20 * _GIB, description="So much is kept here for all members together."
    )
    member_bytes: Annotated[int, Field(ge=1)] = Field(default=4 * _GIB, description="So much of it for one member.")

    @model_validator(mode="after")
    def _minimum_can_be_met(self) -> "KademliaSettings":
        if self.minimum > self.copies:
            raise ValueError("minimum is at most copies")
        return self


class VaultSettings(_Group):
    """Where the organisation's sealed objects are kept, in how many copies, and for whom copies are kept here."""

    enabled: bool = Field(default=True, description="Whether this node keeps a vault and serves it to others.")
    backend: Literal["folder", "s3", "kademlia"] = Field(default="folder", description="The organisation's own store.")
    folder: Path = Field(default=Path("vault/objects"), description="Folder of the objects; relative to home.")
    copies: Annotated[int, Field(ge=1, le=VAULT_STORES)] = Field(
        default=1, description="So many copies of each object: the own one, and the rest at partners."
    )
    minimum: Annotated[int, Field(ge=0, le=VAULT_STORES)] = Field(
        default=0, description="So many copies must be written before an object counts as stored; 0: all."
    )
    partners: dict[str, str] = Field(
        default={}, description="Addresses of gatekeepers that keep copies for us, by the organisation's id."
    )
    keeps_for: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        default=(), description="Ids of the organisations that copies are kept for here."
    )
    quota_bytes: Annotated[int, Field(ge=0)] = Field(
        default=100 * _GIB, description="So many bytes are kept for each of them."
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of authorities believed at partners, besides each one's own."
    )
    scrub_hours: Annotated[int, Field(ge=0, le=8760)] = Field(
        default=168, description="All copies are read and repaired every so many hours; 0: never by itself."
    )
    scrub_bytes_per_s: Annotated[int, Field(ge=1)] = Field(
        default=10_000_000, description="A scrub by itself reads no faster than this."
    )
    s3: S3Settings = Field(default_factory=S3Settings)
    kademlia: KademliaSettings = Field(default_factory=KademliaSettings)

    @field_validator("partners")
    @classmethod
    def _whole_addresses(cls, given: dict[str, str]) -> dict[str, str]:
        return require_gatekeepers(given)

    @model_validator(mode="after")
    def _copies_have_places(self) -> "VaultSettings":
        if self.copies > 1 + len(self.partners):
            raise ValueError("copies is at most one more than there are partners")
        if self.minimum > self.copies:
            raise ValueError("minimum is at most copies")
        whole = self.s3.bucket and self.s3.access_key_id and self.s3.secret_key_file is not None
        if self.enabled and self.backend == "s3" and not whole:
            raise ValueError("the backend s3 needs s3.bucket, s3.access_key_id and s3.secret_key_file")
        return self


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
    fhir: FhirSettings = Field(default_factory=FhirSettings)
    hl7: Hl7Settings = Field(default_factory=Hl7Settings)
    erasure: ErasureSettings = Field(default_factory=ErasureSettings)
    relay: RelaySettings = Field(default_factory=RelaySettings)
    batch: BatchSettings = Field(default_factory=BatchSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    clock: ClockSettings = Field(default_factory=ClockSettings)
    consensus: ConsensusSettings = Field(default_factory=ConsensusSettings)
    snapshots: SnapshotSettings = Field(default_factory=SnapshotSettings)
    state_sync: StateSyncSettings = Field(default_factory=StateSyncSettings)
    vault: VaultSettings = Field(default_factory=VaultSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _gatekeeper_can_ask(self) -> "Settings":
        if self.gatekeeper_api.require_client_certificate and self.api.tls_key is None:
            raise ValueError("gatekeeper_api.require_client_certificate needs api.tls_certificate and api.tls_key")
        if self.fhir.require_client_certificate and self.api.tls_key is None:
            raise ValueError("fhir.require_client_certificate needs api.tls_certificate and api.tls_key")
        if self.hl7.enabled and self.hl7.tls and self.api.tls_key is None:
            raise ValueError("hl7.tls needs api.tls_certificate and api.tls_key")
        return self

    def path(self, path: Path) -> Path:
        """A configured path: absolute as it is, otherwise below the home."""
        return self.home.expanduser() / path.expanduser()

    def charts(self, file: Path) -> Path | str:
        """Where the charts are: ``file``, or the address of a database. Raises :class:`BadSettings`, ``OSError``."""
        named = self.fhir.database_url_file
        return file if named is None else read_secret(self.path(named))


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
    except SettingsError as unreadable:
        # The library's own sentence names the table; the value is another exception's and is not looked at.
        table = re.search(r'for field "([a-z0-9_]+)"', str(unreadable))
        name = f"CARECHAIN_{table[1].upper()}" if table else "CARECHAIN_…"
        raise BadSettings(
            f"The environment variable {name} cannot be read. Set single settings, for example CARECHAIN_API__PORT."
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
    except tomllib.TOMLDecodeError as error:
        # Only the place is repeated: the rest of the library's sentence can quote the file.
        place = re.search(r"\(at (line [0-9]+, column [0-9]+|end of document)\)$", str(error))
        raise BadSettings(
            f"{path} is not a TOML file{f': look at {place[1]}' if place else ''}. Check quotes and brackets, "
            "and that no table or name stands there twice."
        ) from None
    except UnicodeDecodeError:
        raise BadSettings(f"{path} is not UTF-8 text.") from None
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
