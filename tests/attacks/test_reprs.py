"""Nothing secret is shown by whatever prints an object: a log, a traceback with values, a debugger, a failed assertion.

Goal: no class of the sealing, the SDK, the node, the doors and the vault shows a key, a seed, a share, a salt or a
token. Method: every class with named fields is found by import and filled with canaries wherever a field's name says
that it may be secret; objects that hide what they hold are made and used as in life. What may be shown is listed.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from msgspec import Struct

import carechain
from carechain.core.crypto import SigningKey, Suite
from carechain.gatekeeper.keyholder import Keyholder
from carechain.node.keyholder_store import KEYHOLDER_FILE, KeyholderStore
from carechain.sdk.recovery_cards import card_key
from carechain.sdk.wallet import new_wallet
from carechain.sealing.blind_index import BlindIndex
from carechain.sealing.contents import Resource
from carechain.sealing.hpke import HpkePrivateKey
from carechain.sealing.quorum.dealing import CeremonyKey, Polynomial
from carechain.sealing.quorum.participant import Participant
from ceremonies import Player, keyholders, view_of, vote
from ceremony_network import identity_of
from sealed_world import SealedWorld
from world import CHAIN_ID, fresh, seeded

PACKAGES = ("core", "sealing", "sdk", "node", "gatekeeper", "vault")
SECRET = re.compile(
    r"(?:^|_)(?:secret|seed|scalar|share|blind|key|password|passphrase|token|card|salt|pad|plain|once)s?(?:_|$)"
)
PUBLIC = re.compile(r"public|hpke_key|holder_key|dealer_key|recipient_key|node_key|consensus_key|pub_key|key_file")
CANARY = seeded("a secret that is printed nowhere")
SHOWN = {
    "gatekeeper.erasing.Holdings.tokens",  # the store of them
    "gatekeeper.objects_door.PutTokens.tokens",  # what the vault is to see: worth nothing without the index key
    "gatekeeper.objects_door.SearchRequest.tokens",
    "node.archive.PasswordLock.salt",  # stands at the beginning of the file for everybody
    "node.keyholder_store._Kept.shares",  # each prints itself without its scalar
    "sdk.authentication._Session.key",  # the public key that the session was opened with
    "sdk.keyfile._Kdf.salt",
    "sdk.answers.ProvenEntry.key",  # where in the state an entry stands
    "sealing.quorum.dealing.Recipient.key",  # public one-ceremony keys
    "sealing.quorum.dealing.Received.key",
}
"""Fields whose names look like a secret, and why they may be printed."""


def modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        root = importlib.import_module(f"carechain.{package}")
        yield root
        for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
            yield importlib.import_module(found.name)


def suspects() -> list[tuple[type, str, str]]:
    """Every field of every class whose name says that it may be secret: class, field, full name."""
    found = []
    for module in modules():
        for kind in vars(module).values():
            if not isinstance(kind, type) or kind.__module__ != module.__name__:
                continue
            fields = getattr(kind, "__struct_fields__", None) or getattr(kind, "_fields", ())
            for field in fields:
                name = f"{module.__name__.removeprefix(f'{carechain.__name__}.')}.{kind.__name__}.{field}"
                if SECRET.search(field) and not PUBLIC.search(field) and not is_object(kind, field):
                    found.append((kind, field, name))
    return found


def shows(kind: type, field: str) -> bool:
    """Whether an object of this class, with the canary in the field and plain values elsewhere, prints it."""
    fields = getattr(kind, "__struct_fields__", None) or getattr(kind, "_fields", ())
    made = [
        kind(**{each: canary if each == field else _Plain() for each in fields}) for canary in (CANARY, CANARY.hex())
    ]
    return any(spelling in repr(one) for one in made for spelling in spellings(CANARY))


def is_object(kind: type, field: str) -> bool:
    """Whether the field holds an object of a class, which prints itself as it does anywhere."""
    held = next(
        (vars(one)["__annotations__"].get(field) for one in kind.__mro__ if "__annotations__" in vars(one)), None
    )
    return isinstance(held, type) and held not in (bytes, str, int)


class _Plain:
    """Whatever a repr does with its other fields."""

    def __repr__(self) -> str:
        return "plain"

    def __format__(self, _: str) -> str:
        return "plain"

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __getattr__(self, _: str) -> "_Plain":
        return self

    def __call__(self, *_: object) -> "_Plain":
        return self


def spellings(secret: bytes) -> tuple[str, ...]:
    return secret.hex(), repr(secret)[2:-1], str(int.from_bytes(secret, "little")), str(int.from_bytes(secret, "big"))


def test_the_search_finds_what_is_shown() -> None:
    class Careless(Struct):
        seed: bytes

    class Careful(Struct):
        seed: bytes

        def __repr__(self) -> str:
            return "Careful()"

    assert shows(Careless, "seed")
    assert not shows(Careful, "seed")
    names = {name for *_, name in suspects()}
    assert {"node.keyholder_store.HolderSecret.scalar", "sealing.quorum.participant.Secrets.seed"} <= names


def test_no_class_prints_a_field_that_may_be_secret() -> None:
    shown = {name for kind, field, name in suspects() if shows(kind, field)}
    assert shown - SHOWN == set()
    assert SHOWN.issubset(shown), "what is no longer there, or no longer shown, is no exception"


def test_objects_that_hide_a_secret_do_not_print_it(sealed: SealedWorld, tmp_path: Path) -> None:
    """As they are in life, with everything that hangs on them."""
    seed = seeded("a seed")
    identity = identity_of(sealed.world.a)
    store = KeyholderStore.open(tmp_path / KEYHOLDER_FILE, identity=identity, entropy=lambda size: CANARY[:size])
    store.begin(bytes(32), height=0)
    world, ticket = sealed.world, sealed.ticket()
    sealed.ask(world.bert, sealed.request(ticket, sealed.write("one")))
    keyholder = sealed.keyholders["a"]
    assert isinstance(keyholder, Keyholder)
    players = [Player(one) for one in world.members]
    other = fresh()
    vote(other, keyholders(*players))
    view = view_of(other)
    participant = Participant(view, party=players[0].organisation.id, secrets=players[0].secrets(view))
    wallet = new_wallet(chain_id=CHAIN_ID, entropy=lambda size: seed[:size])
    polynomial = Polynomial(seed, ceremony=bytes(32), threshold=3, use=b"test")
    ceremony_key = CeremonyKey(seed, ceremony=bytes(32))
    blinding = sealed.blinding(ticket, sealed.write("two"))
    objects: list[tuple[object, tuple[bytes, ...]]] = [
        *((SigningKey(suite=suite, seed=seed), (seed,)) for suite in Suite),
        (HpkePrivateKey(seed), (seed,)),
        (identity, (identity.signing_seed, identity.hpke_seed)),
        (wallet, (seed,)),
        (wallet.pseudonym(world.a.id), (seed,)),
        (card_key(seed[:16], chain_id=CHAIN_ID, pseudonym=bytes(32)), (seed[:16],)),
        (world.a.secret, (seeded("a", "registrar"),)),
        (BlindIndex(seed), (seed,)),
        (ceremony_key, (seed, ceremony_key._secret)),
        (polynomial, (seed, *polynomial._coefficients)),
        (participant, (players[0].secrets(view).seed,)),
        (blinding, (blinding._secret,)),
        (Resource.of(seed, b"content"), (seed, b"content")),
        (store, (CANARY,)),
        (keyholder, (sealed.secrets["a"].by_epoch[1].scalar,)),
    ]
    for printed, secrets in objects:
        parts = [printed, *(vars(printed).values() if hasattr(printed, "__dict__") else ())]
        said = " ".join(f"{part!r} {part!s}" for part in parts if not isinstance(part, bytes | str))
        for secret in secrets:
            assert not [one for one in spellings(secret) if one in said], type(printed).__name__


@pytest.mark.parametrize("kind", [SigningKey, HpkePrivateKey, BlindIndex, CeremonyKey, Polynomial])
def test_secrets_are_not_compared_by_their_bytes(kind: type) -> None:
    """Equality of two such objects is identity: nobody writes ``==`` by habit and leaks where they differ."""
    assert kind.__eq__ is object.__eq__
