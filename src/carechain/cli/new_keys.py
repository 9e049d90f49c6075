"""Changing keys so that a crash costs nothing (ID-7): what is new is on the disk before the ledger hears of it.

The same command, run again, looks which key the ledger has and goes on from there.
"""

import secrets
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec import Struct

from carechain.chain.questions import OfParty
from carechain.chain.tx import AdmissionCode
from carechain.cli.acting import Desktop, Done, KnownParty
from carechain.cli.certifying import issue
from carechain.cli.keyring import AUTHORITY_KEY, MEMBER_KEY, Actor
from carechain.cli.output import CannotRun, Denied
from carechain.cli.public_key import PublicHalf
from carechain.contracts.relationships import PutSummary
from carechain.contracts.rotation import RotateKey, RotateStaff, rotation_message
from carechain.core.binding import Signature
from carechain.core.crypto import SigningKey
from carechain.core.ids import U8, PartyId
from carechain.core.party import HpkeKey, Party, PublicKey
from carechain.core.vocabulary import PartyKind
from carechain.sdk.authentication import AuthCode
from carechain.sdk.identity import Identity
from carechain.sdk.summary import seal_summary
from carechain.sdk.wallet import Pseudonym, Wallet
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.symmetric import GCM_NONCE_SIZE

_FILE_BYTES: Final = 16 * 1024
_DEAD_KEY: Final = (AuthCode.SIGNATURE_INVALID, AdmissionCode.BAD_SIGNATURE)
"""How a node, and the ledger, refuse a key that is not the party's present one."""


class StaffKeyRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The public half of a member of staff's new key, signed by it: what its organisation needs to certify it."""

    chain_id: str
    party: PartyId
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    proof: Signature


class Rotated(Struct, frozen=True, kw_only=True):
    """What became of a key: ``done`` is None where the ledger had the new one already, or has not heard of it yet."""

    party: bytes
    kind: str
    done: Done | None
    file: Path | None = None
    """Where the request to the organisation lies, for staff that it has to certify."""


# --- who has which key ----------------------------------------------------------------------------------


def ledger_row(desktop: Desktop, actor: Actor) -> Party | None:
    """What the ledger has for the actor, asked with its own key; None where the key is not the present one."""
    try:
        with desktop.seat(actor) as seat:
            return seat.row("membership.party", KnownParty, OfParty(actor.party)).row
    except Denied as denied:
        if denied.code in _DEAD_KEY:
            return None
        raise


def has_key(desktop: Desktop, actor: Actor) -> bool:
    """Whether the actor's key is the one that the ledger has."""
    row = ledger_row(desktop, actor)
    return row is not None and row.public_key == actor.signing.public_key


def change_of(actor: Actor, *, chain_id: str, signing: SigningKey, hpke: HpkePrivateKey) -> RotateKey:
    """The message by which an actor takes another key, with the new key's agreement."""
    return RotateKey(
        suite=signing.suite,
        public_key=signing.public_key,
        hpke_key=hpke.public_key,
        proof=_proof(signing, hpke, chain_id=chain_id, party=actor.party),
    )


def _proof(signing: SigningKey, hpke: HpkePrivateKey, *, chain_id: str, party: bytes) -> bytes:
    wanted = rotation_message(
        chain_id=chain_id,
        party=party,
        suite=signing.suite,
        public_key=signing.public_key,
        hpke_key=hpke.public_key,
    )
    return signing.sign(wanted)


# --- members, representatives, staff --------------------------------------------------------------------


def rotate_identity(desktop: Desktop, name: str, *, days: int, public: Path | None) -> Rotated:
    """Change the key of an identity of this home."""
    held = desktop.keys.identity(name, desktop.password)
    waited = held.coming is not None
    identity = held.with_coming(entropy=secrets.token_bytes)
    _keep(desktop, name, identity)
    if waited and has_key(desktop, coming_actor(identity)):
        # A command that broke off had got this far, or the organisation has certified the key meanwhile.
        _keep(desktop, name, identity.with_keys_taken_over())
        return Rotated(party=identity.party, kind=identity.kind.name.lower(), done=None)
    if identity.kind is PartyKind.STAFF:
        return _rotate_staff(desktop, name, identity, days=days, public=public)
    coming = coming_actor(identity)
    message = change_of(coming, chain_id=desktop.genesis.chain_id, signing=coming.signing, hpke=coming.hpke)
    with desktop.seat(Actor.of_identity(identity)) as seat:
        done = seat.submit(message)
    _keep(desktop, name, identity.with_keys_taken_over())
    return Rotated(party=identity.party, kind=identity.kind.name.lower(), done=done)


def coming_actor(identity: Identity) -> Actor:
    """The party with the keys that are on their way."""
    if identity.coming is None:
        raise TypeError("no keys are on their way")
    return Actor(
        party=identity.party,
        organisation=identity.organisation,
        signing=identity.coming.signing_key(),
        hpke=identity.coming.hpke_key(),
    )


def _rotate_staff(desktop: Desktop, name: str, identity: Identity, *, days: int, public: Path | None) -> Rotated:
    request = _request_of(desktop, identity)
    if public is not None:
        public.write_bytes(msgspec.json.format(msgspec.json.encode(request), indent=2) + b"\n")
        return Rotated(party=identity.party, kind="staff", done=None, file=public)
    if not all(desktop.keys.path_of(one).is_file() for one in (MEMBER_KEY, AUTHORITY_KEY)):
        raise typer.BadParameter(
            "the organisation certifies its staff's keys: write the new one to a file for it, and run this again "
            "without the option once it has run `carechain staff rotate`",
            param_hint="--public",
        )
    done = certify_new_key(desktop, request, roles=None, days=days)
    _keep(desktop, name, identity.with_keys_taken_over())
    return Rotated(party=identity.party, kind="staff", done=done)


def certify_new_key(desktop: Desktop, request: StaffKeyRequest, *, roles: int | None, days: int) -> Done:
    """Certify a member of staff's new key under the old id, and put it on the ledger; the roles stay unless given."""
    half = PublicHalf(suite=request.suite, public_key=request.public_key, hpke_key=request.hpke_key)
    member = Actor.of_identity(desktop.keys.identity(MEMBER_KEY, desktop.password))
    with desktop.seat(member) as seat:
        row = seat.row("membership.party", KnownParty, OfParty(request.party)).row
        certificate, _ = issue(
            desktop, half, roles=row.roles if roles is None else roles, days=days, party=request.party
        )
        return seat.submit(RotateStaff(certificate=certificate, hpke_key=request.hpke_key, proof=request.proof))


def read_request(path: Path, *, chain_id: str) -> StaffKeyRequest:
    """Read what a member of staff wrote with ``--public``; raises :class:`CannotRun`."""
    with path.expanduser().open("rb") as file:
        data = file.read(_FILE_BYTES)
    try:
        request = msgspec.json.decode(data, type=StaffKeyRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CannotRun(f"{path} is not a request for a new key: make it with `carechain keys rotate`") from None
    if request.chain_id != chain_id:
        raise CannotRun(f"{path} is about a key of another network")
    return request


def _request_of(desktop: Desktop, identity: Identity) -> StaffKeyRequest:
    actor, chain_id = coming_actor(identity), desktop.genesis.chain_id
    return StaffKeyRequest(
        chain_id=chain_id,
        party=identity.party,
        suite=actor.signing.suite,
        public_key=actor.signing.public_key,
        hpke_key=actor.hpke.public_key,
        proof=_proof(actor.signing, actor.hpke, chain_id=chain_id, party=identity.party),
    )


def _keep(desktop: Desktop, name: str, identity: Identity) -> None:
    identity.save(
        desktop.keys.path_of(name), password=desktop.password, entropy=secrets.token_bytes, replace_existing=True
    )


# --- patients -------------------------------------------------------------------------------------------


def rotate_pseudonym(desktop: Desktop, name: str, organisation: bytes | None) -> Rotated:
    """Change the key of one of a wallet's pseudonyms. The next one follows from the seed, so nothing can be lost."""
    _, wallet = desktop.keys.wallet(name, desktop.wallet_password)
    relation = desktop.keys.relation(wallet, organisation)
    changed, later = wallet.with_generation(relation.pseudonym, relation.generation + 1)
    old, new = wallet.keys_of(relation), changed.keys_of(later)
    message = change_of(Actor.of_pseudonym(old), chain_id=wallet.chain_id, signing=new.signing, hpke=new.hpke)
    try:
        with desktop.seat(Actor.of_pseudonym(old)) as seat:
            done = seat.submit(message)
    except Denied as denied:
        # A command that broke off may have got this far: then the ledger has the next key.
        if denied.code not in _DEAD_KEY or not has_key(desktop, Actor.of_pseudonym(new)):
            raise
        done = None
    keep_and_tell(desktop, name, changed, new)
    return Rotated(party=relation.pseudonym, kind="pseudonym", done=done)


def keep_and_tell(desktop: Desktop, name: str, wallet: Wallet, pseudonym: Pseudonym) -> None:
    """Save a wallet, then store its summary under one pseudonym: the seed alone finds the present key again."""
    desktop.keys.keep_wallet(name, wallet, password=desktop.wallet_password)
    sealed = seal_summary(wallet, pseudonym.id, secrets.token_bytes(GCM_NONCE_SIZE))
    with desktop.seat(Actor.of_pseudonym(pseudonym)) as seat:
        seat.submit(PutSummary(pseudonym=pseudonym.id, sealed=sealed))
