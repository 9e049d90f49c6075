"""Keyring: who holds the shares of the consortium key, how it came about, and who was caught cheating (KEY-1, KEY-3).

The members vote for keyholders, and a ceremony on the ledger gives each a share of a key that nobody ever has as a
whole. The first one makes the key (Gennaro, Jarecki, Krawczyk and Rabin 2007); every later one shares the same key
anew, so that old shares are worth nothing.

Read in this order: ``schema`` (codes, messages, events, tables) · ``rounds`` (a ceremony's life) · ``dealing`` and
``accusing`` (handlers) · ``views`` (invariants, queries).
"""

from carechain.contracts.keyring.accusing import accuse
from carechain.contracts.keyring.dealing import check, close_round, deal, expose, extract, join, judge
from carechain.contracts.keyring.rounds import Keyholders, lose_share
from carechain.contracts.keyring.schema import (
    Accuse,
    CeremonyRow,
    Check,
    CloseRound,
    Deal,
    Expose,
    Extract,
    Holder,
    HolderCaught,
    Join,
    Judge,
    KeyringCode,
    KeyringTables,
    KeyRow,
    LoseShare,
    Misdeed,
    MisdeedRow,
    Phase,
)
from carechain.contracts.keyring.views import CeremonyView, ceremonies, ceremony_view, check_state, misdeeds

__all__ = [
    "Accuse",
    "CeremonyRow",
    "CeremonyView",
    "Check",
    "CloseRound",
    "Deal",
    "Expose",
    "Extract",
    "Holder",
    "HolderCaught",
    "Join",
    "Judge",
    "KeyRow",
    "Keyholders",
    "KeyringCode",
    "KeyringTables",
    "LoseShare",
    "Misdeed",
    "MisdeedRow",
    "Phase",
    "accuse",
    "ceremonies",
    "ceremony_view",
    "check",
    "check_state",
    "close_round",
    "deal",
    "expose",
    "extract",
    "join",
    "judge",
    "lose_share",
    "misdeeds",
]
