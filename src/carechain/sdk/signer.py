"""Who a client acts as: a party and its ledger key, wherever they come from."""

from typing import Protocol

from msgspec import Struct

from carechain.core.crypto import SigningKey
from carechain.sdk.identity import Identity


class HasKeys(Protocol):
    """A wallet's pseudonym, or anything else with an id and a signing key."""

    @property
    def id(self) -> bytes:
        """The party's id."""

    @property
    def signing(self) -> SigningKey:
        """Its ledger key."""


class Signer(Struct, frozen=True):
    """Who a client acts as."""

    party: bytes
    key: SigningKey

    @staticmethod
    def of(keys: "HasKeys | Identity | Signer") -> "Signer":
        """From a pseudonym of a wallet, or an identity of a member, staff or representative."""
        if isinstance(keys, Signer):
            return keys
        return Signer(keys.party, keys.signing_key()) if isinstance(keys, Identity) else Signer(keys.id, keys.signing)
