"""A home's network: its genesis, who founded it, and the application of an organisation that wants to join."""

import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from carechain.chain import genesis as founding
from carechain.chain.genesis import Genesis, genesis_hash
from carechain.cli.keyring import AUTHORITY_KEY, MEMBER_KEY, REGISTRAR_SECRET, Keyring
from carechain.cli.output import CannotRun
from carechain.core.limits import GENESIS_BYTES
from carechain.core.organisation import NewMember
from carechain.core.vocabulary import OrganisationKind, PartyKind
from carechain.node.home import replace_file
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.identity import Identity
from carechain.sdk.registrar import RegistrarSecret
from carechain.state.log import make_folder

GENESIS_FILE: Final = "genesis.json"
APPLICATION_FILE: Final = "application.json"
AUTHORITY_DAYS: Final = 3650
LAPSE_DAYS: Final = 90
_CLOCK_TOLERANCE: Final = timedelta(hours=1)


class Organisation(Struct, frozen=True, kw_only=True):
    """A new organisation's keys, and what others must know of it."""

    identity: Identity
    new: NewMember


def home_genesis(home: Path) -> Genesis:
    """The genesis of a home; raises :class:`CannotRun` when there is none."""
    path = home / GENESIS_FILE
    if not path.is_file():
        raise CannotRun(
            f"{path} is missing: an organisation makes its home with `carechain init`, a patient with "
            "`carechain keys new --kind wallet --genesis FILE`; or name another folder with --home"
        )
    return read_genesis(path)


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
    keys: Keyring, *, name: str, kind: OrganisationKind, registrar: bool, password: str
) -> Organisation:
    """The keys of a new organisation below its home: its own, its authority's, and a registrar's secret."""
    identity = keys.add_identity(MEMBER_KEY, kind=PartyKind.MEMBER, organisation=None, password=password)
    now = datetime.now(UTC).replace(microsecond=0)
    authority = CertificateAuthority.create(
        identity.party,
        not_before=now - _CLOCK_TOLERANCE,
        not_after=now + timedelta(days=AUTHORITY_DAYS),
        entropy=secrets.token_bytes,
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


def found_network(chain_id: str, founder: Organisation) -> Genesis:
    """A network with one member that also produces the blocks; others join by vote."""
    return Genesis(
        chain_id=chain_id,
        time_s=int(time.time()),
        members=(founder.new,),
        producers=(founder.identity.party,),
    )


def write_application(path: Path, new: NewMember) -> None:
    """What an organisation sends to the members: public keys, its authority's certificate, its public name."""
    fields = {name: getattr(new, name) for name in NewMember.__struct_fields__}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n")


def read_application(path: Path) -> NewMember:
    """An application; raises :class:`CannotRun` when the file is not one."""
    with path.expanduser().open("rb") as file:
        data = file.read(GENESIS_BYTES)
    try:
        fields = msgspec.json.decode(data, type=dict[str, object])
        return msgspec.convert([fields.get(one) for one in NewMember.__struct_fields__], NewMember)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CannotRun(f"{path} is not an application: `carechain init --genesis FILE` writes one") from None
