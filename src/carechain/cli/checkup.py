"""What ``carechain doctor`` looks at: each finding says what is so, and where needed what to do. Nothing is changed."""

import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.chain.genesis import Genesis, genesis_hash
from carechain.cli.addresses import own_authority, own_member, reachable
from carechain.cli.keyring import AUTHORITY_KEY, KEYS_FOLDER, MEMBER_KEY, REGISTRAR_SECRET, Keyring
from carechain.cli.network import APPLICATION_FILE, home_genesis
from carechain.cli.output import CannotRun
from carechain.cli.serving import ask_status, node_settings
from carechain.core.certificate import BadCertificate, read_authority
from carechain.core.ids import party_id
from carechain.core.limits import CLOCK_SKEW_S, STALE_BLOCK_S
from carechain.core.units import DAY_S
from carechain.engine.blocklog import BlockLog, CorruptHistory, LogTooNew, WrongChain
from carechain.engine.cometbft import config as engine_files
from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.engine.session import LEDGER_FOLDER
from carechain.node.home import HOME_VERSION, VERSION_FILE, running
from carechain.node.settings import BadSettings, Settings
from carechain.node.tls import WARN_DAYS, CertificateFiles
from carechain.sdk.keyfile import is_open_to_others

SPACE_BYTES: Final = 1024**3
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_NEWEST_PYTHON: Final = (3, 13)


class Check(Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    ok: bool
    note: str


def examine(home: Path) -> list[Check]:
    """Everything, in the order in which one depends on the other."""
    return list(_examine(home))


def _examine(home: Path) -> Iterator[Check]:
    yield _python()
    if not home.is_dir():
        yield Check(name="home", ok=False, note=f"{home} is not there: make it with `carechain init`")
        return
    yield _private("home", home)
    yield _layout(home)
    yield _space(home)
    try:
        genesis = home_genesis(home)
    except CannotRun as missing:
        yield Check(name="genesis", ok=False, note=str(missing))
        return
    yield Check(name="genesis", ok=True, note=f"{genesis.chain_id}, hash {genesis_hash(genesis).hex()}")
    yield from _keys(home, genesis)
    yield _ledger(home, genesis)
    try:
        settings = node_settings(home)
    except CannotRun as wrong:
        yield Check(name="settings", ok=False, note=str(wrong))
        return
    yield Check(name="settings", ok=True, note="can be used")
    yield from _certificates(home, genesis, settings)
    if genesis.is_consortium:
        yield _engine(settings)
    if _serves(home, genesis):
        yield from _node(home, settings)


def _python() -> Check:
    running_on = ".".join(map(str, sys.version_info[:3]))
    known = sys.version_info[:2] <= _NEWEST_PYTHON
    return Check(name="python", ok=known, note=running_on if known else f"{running_on} is newer than what was tested")


def _private(name: str, path: Path) -> Check:
    mode = stat.S_IMODE(path.stat().st_mode)
    private = not is_open_to_others(mode)
    note = f"{path} is open to its owner only" if private else f"others can look into {path}: set its mode to 0700"
    return Check(name=name, ok=private, note=note)


def _layout(home: Path) -> Check:
    file = home / VERSION_FILE
    text = file.read_text(encoding="ascii", errors="replace").strip() if file.exists() else ""
    known = text.isdigit() and int(text) <= HOME_VERSION
    note = f"version {text}" if known else "the layout's version is missing or newer than this program"
    return Check(name="layout", ok=known or not file.exists(), note=note)


def _space(home: Path) -> Check:
    free = shutil.disk_usage(home).free
    enough = free >= SPACE_BYTES
    return Check(name="disk", ok=enough, note=f"{free / 1e9:.1f} GB free" + ("" if enough else ": make room"))


def _keys(home: Path, genesis: Genesis) -> Iterator[Check]:
    folder = home / KEYS_FOLDER
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    engine = sorted((home / engine_files.FOLDER / engine_files.NODE_KEY.parent).glob("*key.json"))
    exposed = [one.name for one in (*found, *engine) if is_open_to_others(one.stat().st_mode)]
    note = f"{len(found)} files, private" if not exposed else f"set the mode of these to 0600: {', '.join(exposed)}"
    yield Check(name="keys", ok=bool(found) and not exposed, note=note if found else f"no keys in {folder}")
    if not any((folder / f"{name}.json").exists() for name in (MEMBER_KEY, AUTHORITY_KEY)):
        return
    whole = all((folder / f"{name}.json").exists() for name in (MEMBER_KEY, AUTHORITY_KEY))
    secret = (folder / REGISTRAR_SECRET).exists()
    yield Check(
        name="organisation",
        ok=whole,
        note=("key and certificate authority" if whole else "key or certificate authority is missing")
        + ("; registrar" if secret else ""),
    )
    if genesis.is_consortium:
        yield Check(name="validators", ok=True, note=f"{len(genesis.validators)} from the start")
        return
    producers = {party_id(one.suite, one.public_key) for one in genesis.members} & set(genesis.producers)
    yield Check(name="producers", ok=bool(producers), note=f"{len(producers)} may sign blocks")


def _ledger(home: Path, genesis: Genesis) -> Check:
    folder = home / LEDGER_FOLDER
    if not folder.is_dir() or not any(folder.iterdir()):
        return Check(name="ledger", ok=True, note="none yet")
    try:
        log = BlockLog.open(folder, genesis=genesis_hash(genesis), read_only=True)
    except (CorruptHistory, WrongChain, LogTooNew, OSError) as wrong:
        return Check(name="ledger", ok=False, note=f"{type(wrong).__name__}: {wrong}")
    try:
        return Check(name="ledger", ok=True, note=f"{log.height} blocks; `carechain verify` checks all of them")
    finally:
        log.close()


def _serves(home: Path, genesis: Genesis) -> bool:
    """Every member of a consortium serves a node; of another network, whoever founded it and did not apply to it."""
    organisation = (home / KEYS_FOLDER / f"{MEMBER_KEY}.json").exists()
    return organisation and (genesis.is_consortium or not (home / APPLICATION_FILE).exists())


def _engine(settings: Settings) -> Check:
    """The program that agrees with other organisations' on the order of blocks."""
    consensus = settings.consensus
    try:
        program = find_cometbft(None if consensus.program is None else settings.path(consensus.program))
    except EngineMissing as missing:
        return Check(name="consensus engine", ok=False, note=str(missing))
    return Check(name="consensus engine", ok=True, note=f"CometBFT at {program}")


def _certificates(home: Path, genesis: Genesis, settings: Settings) -> Iterator[Check]:
    """How long the organisation's authority and its servers' certificate are good for."""
    own = own_member(Keyring(home))
    if own is None:
        return
    der = own_authority(home, genesis, own)
    if der is not None:
        try:
            until_s = read_authority(der).until_s
        except BadCertificate as bad:
            yield Check(name="authority", ok=False, note=f"the certificate does not fit the profile: {bad}")
        else:
            yield _until("authority", until_s, "renew it with `carechain keys renew-authority`")
    certificate, key = settings.api.tls_certificate, settings.api.tls_key
    if certificate is None or key is None:
        on_loopback = settings.api.host in LOOPBACK
        note = "none: other machines may reach this node only through a proxy that speaks TLS"
        yield Check(name="tls certificate", ok=on_loopback, note=f"{note}; make one with `carechain keys tls`")
        return
    try:
        files = CertificateFiles(settings.path(certificate), settings.path(key))
    except (OSError, BadSettings) as wrong:
        yield Check(name="tls certificate", ok=False, note=str(wrong))
        return
    yield _until("tls certificate", int(time.time() + files.days_left * DAY_S), "renew it with `carechain keys tls`")


def _until(name: str, until_s: int, remedy: str) -> Check:
    left = int((until_s - time.time()) // DAY_S)
    soon = left < WARN_DAYS
    note = f"{left} days left" if left >= 0 else "it has expired"
    return Check(name=name, ok=not soon, note=f"{note}: {remedy}" if soon else note)


def _node(home: Path, settings: Settings) -> Iterator[Check]:
    found = running(home)
    if found is None:
        doors = (
            ("api", settings.api),
            ("ops", settings.ops),
            ("gatekeeper", settings.gatekeeper_api),
            ("fhir", settings.fhir),
        )
        for name, address in doors:
            yield _port(name, address.host, address.port)
        return
    try:
        answer = ask_status(reachable(found.api), home)
    except CannotRun as lost:
        yield Check(name="node", ok=False, note=str(lost))
        return
    status = answer.status
    yield Check(name="node", ok=True, note=f"{found.api}, height {status.height}")
    yield Check(name="ready", ok=status.ready, note=status.why or "it may be given work")
    age_s = int(time.time()) - status.time_s
    in_time = -CLOCK_SKEW_S <= age_s <= STALE_BLOCK_S
    note = f"the last block is {age_s} s old" if in_time else f"clock and ledger differ by {age_s} s: set the clock"
    yield Check(name="clock", ok=in_time, note=note)


def _port(name: str, host: str, port: int) -> Check:
    """Whether a node could listen there."""
    try:
        with socket.create_server((host, port)):
            return Check(name=f"{name} port", ok=True, note=f"{host}:{port} is free")
    except OSError as taken:
        return Check(name=f"{name} port", ok=False, note=f"{host}:{port}: {taken.strerror}")
