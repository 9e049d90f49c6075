"""A home's network: its genesis, who founded it, and the application of an organisation that wants to join."""

import base64
import secrets
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from msgspec import Struct

from carechain.chain import genesis as founding
from carechain.chain.genesis import Genesis, genesis_hash
from carechain.chain.versions import LATEST
from carechain.cli.keyring import AUTHORITY_KEY, MEMBER_KEY, REGISTRAR_SECRET, Keyring
from carechain.cli.output import CannotRun
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import FounderNode, FounderSeat, Rotation
from carechain.core.crypto import Suite
from carechain.core.ids import party_id
from carechain.core.limits import GENESIS_BYTES
from carechain.core.organisation import NewMember
from carechain.core.suite import Institution
from carechain.core.vocabulary import OrganisationKind, PartyKind
from carechain.engine.cometbft import config as engine
from carechain.node.consortium import ENTROPY_BYTES, prepare
from carechain.node.home import replace_file
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.identity import Identity
from carechain.sdk.registrar import RegistrarSecret
from carechain.state.log import make_folder
from carechain.state.overlay import Overlay
from carechain.state.store import NodeStore

GENESIS_FILE: Final = "genesis.json"
APPLICATION_FILE: Final = "application.json"
AUTHORITY_DAYS: Final = 3650
LAPSE_DAYS: Final = 90
_CLOCK_TOLERANCE: Final = timedelta(hours=1)


class Organisation(Struct, frozen=True, kw_only=True):
    """A new organisation's keys, and what others must know of it."""

    identity: Identity
    new: NewMember


class Application(Struct, frozen=True, kw_only=True):
    """What an organisation sends to others: who it is, and which keys its node and its validator have."""

    new: NewMember
    consensus_key: bytes
    node_id: bytes

    @property
    def member(self) -> bytes:
        """The organisation's id."""
        return party_id(self.new.suite, self.new.public_key)


def home_genesis(home: Path) -> Genesis:
    """The genesis of a home; raises :class:`CannotRun` when there is none."""
    path = home / GENESIS_FILE
    if not path.is_file():
        raise CannotRun(
            f"{path} is missing: an organisation makes its home with `carechain init`, a patient with "
            "`carechain keys new --kind wallet --genesis FILE`; or name another folder with --home"
        )
    return read_genesis(path)


def signing_suite(home: Path, wanted: Suite | None, *, of_patient: bool) -> Suite:
    """What a new key signs with: ``wanted``, or what the network's organisations use; Ed25519 where none is known yet.

    Raises :class:`CannotRun` for a key that the network would not take.
    """
    if not (home / GENESIS_FILE).exists():
        return Suite.ED25519 if wanted is None else wanted
    institution = home_genesis(home).suite
    chosen = institution.signature if wanted is None else wanted
    if not (institution.admits_patient(chosen) if of_patient else institution.admits(chosen)):
        raise CannotRun(f"this network was founded with the suite {institution.name.lower()}: choose another --suite")
    return chosen


def read_genesis(path: Path) -> Genesis:
    """A genesis file."""
    with path.expanduser().open("rb") as file:
        data = file.read(GENESIS_BYTES + 1)
    if len(data) > GENESIS_BYTES:
        raise CannotRun(f"{path} is too large to be a genesis file")
    try:
        return founding.read(data)
    except founding.BadGenesis as error:
        raise CannotRun(f"{path}: {error}") from None


def keep_genesis(home: Path, file: Path) -> None:
    """Copy a network's genesis into a home; a home that belongs to another network stays as it is."""
    network = read_genesis(file)
    if (home / GENESIS_FILE).exists():
        if genesis_hash(home_genesis(home)) != genesis_hash(network):
            raise CannotRun(f"{home} belongs to another network; name another folder with --home")
        return
    make_folder(home)
    replace_file(home / GENESIS_FILE, founding.write(network))


def make_organisation(
    keys: Keyring, *, name: str, kind: OrganisationKind, registrar: bool, password: str, institution: Institution
) -> Organisation:
    """The keys of a new organisation below its home: its own, its authority's, and a registrar's secret."""
    suite = institution.signature
    identity = keys.add_identity(MEMBER_KEY, kind=PartyKind.MEMBER, organisation=None, password=password, suite=suite)
    now = datetime.now(UTC).replace(microsecond=0)
    authority = CertificateAuthority.create(
        identity.party,
        not_before=now - _CLOCK_TOLERANCE,
        not_after=now + timedelta(days=AUTHORITY_DAYS),
        entropy=secrets.token_bytes,
        suite=suite,
    )
    authority.save(keys.path_of(AUTHORITY_KEY), password=password, entropy=secrets.token_bytes)
    if registrar:
        RegistrarSecret.create(keys.folder / REGISTRAR_SECRET, entropy=secrets.token_bytes)
    new = NewMember(
        kind=kind,
        name=name,
        suite=identity.suite,
        public_key=identity.signing_key().public_key,
        hpke_key=identity.hpke_key().public_key,
        authority=authority.certificate,
        registrar=registrar,
        lapse_days=LAPSE_DAYS,
    )
    return Organisation(identity=identity, new=new)


def found_network(chain_id: str, founder: Organisation, institution: Institution) -> Genesis:
    """A network with one member that also produces the blocks; others join by vote."""
    return Genesis(
        chain_id=chain_id,
        time_s=int(time.time()),
        members=(founder.new,),
        producers=(founder.identity.party,),
        versions=LATEST,
        suite=institution,
    )


def engine_keys(home: Path) -> tuple[bytes, bytes]:
    """The public consensus key and the node id of this home's engine; its keys are made where there are none."""
    folder = home / engine.FOLDER
    prepare(folder, secrets.token_bytes(ENTROPY_BYTES))
    return engine.read_key(folder / engine.VALIDATOR_KEY).public_key, bytes.fromhex(engine.node_id(folder))


def write_application(path: Path, application: Application) -> None:
    """What an organisation sends to the members: public keys, its authority's certificate, its public name."""
    fields = {name: getattr(application.new, name) for name in NewMember.__struct_fields__}
    fields |= {"consensus_key": application.consensus_key, "node_id": application.node_id.hex()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n")


def read_application(path: Path) -> Application:
    """An application; raises :class:`CannotRun` when the file is not one."""
    with path.expanduser().open("rb") as file:
        data = file.read(GENESIS_BYTES)
    try:
        fields = msgspec.json.decode(data, type=dict[str, object])
        return Application(
            new=msgspec.convert([fields.get(one) for one in NewMember.__struct_fields__], NewMember),
            consensus_key=base64.b64decode(str(fields["consensus_key"]), validate=True),
            node_id=bytes.fromhex(str(fields["node_id"])),
        )
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
        raise CannotRun(f"{path} is not an application: `carechain init` writes one") from None


def found_consortium(
    chain_id: str,
    applications: Sequence[Application],
    *,
    seats: Collection[bytes],
    rotation: Rotation,
    versions: Sequence[ContractVersion] = LATEST,
) -> Genesis:
    """A network whose members agree on the blocks: ``seats`` are the members that decide. Raises :class:`CannotRun`.

    ``versions`` are those that the contracts begin with, which every founder's program must have. The institutional
    suite is the one that the applications were made with, which must be the same for all.
    """
    seated = [one for one in applications if one.member in seats]
    genesis = Genesis(
        chain_id=chain_id,
        time_s=int(time.time()),
        members=tuple(one.new for one in applications),
        validators=tuple(FounderSeat(member=one.member, consensus_key=one.consensus_key) for one in seated),
        nodes=tuple(FounderNode(member=one.member, node_id=one.node_id) for one in applications),
        rotation=rotation,
        versions=tuple(versions),
        suite=Institution.SM if applications[0].new.suite == Suite.SM2 else Institution.INTERNATIONAL,
    )
    with TemporaryDirectory(prefix="carechain-") as folder, NodeStore.open(Path(folder)) as store:
        try:
            founding.apply_genesis(Overlay(store.snapshot()), genesis)
        except founding.BadGenesis as error:
            raise CannotRun(f"no network can be founded of these applications: {error}") from None
    return genesis
