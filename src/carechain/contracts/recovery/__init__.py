"""Recovery: a patient who lost the key gets another one for the same pseudonym, in the open and not at once (ID-7).

The pseudonym's id stays, so every grant, record and log goes on; the old key is dead. Three may say that a new key is
the patient's: enough of the guardians whom the patient named; whoever brings together enough recovery cards
(:mod:`carechain.sdk.recovery_cards`); and, unless the patient forbade it, the registrar of the organisation where the
pseudonym is bound. Then the patient's waiting time passes. Meanwhile the key to be replaced, or a representative, may
object. After an objection it takes both the registrar and the guardians (or cards), and several times as long: a
thief who has the key cannot block for ever, and no one of them gets past an owner who still has it. What the key's
holder changes meanwhile, the policy or the key itself, does not touch what runs.

Read in this order: ``schema`` (codes, messages, events, tables, what a row says) · ``attempts`` (handlers) · ``views``
(invariants, genesis, queries).
"""

from carechain.contracts.recovery.attempts import (
    approve,
    finish,
    owner_acted,
    set_policy,
    speaks_as_registrar,
    start,
    veto,
    withdraw,
)
from carechain.contracts.recovery.schema import (
    ATTEMPTS,
    NO_POLICY,
    POLICIES,
    RULES,
    Advanced,
    Approve,
    AttemptRow,
    CardKey,
    Ended,
    Finish,
    PolicyRow,
    PolicySet,
    Recovered,
    RecoveryCode,
    RecoveryRules,
    RecoveryTables,
    SetPolicy,
    Start,
    Started,
    Terms,
    Veto,
    Vetoed,
    Withdraw,
    can_be_overridden,
    card_message,
    due_s,
    is_enough,
    lapses_s,
    recovery_message,
    strength,
    terms_at,
)
from carechain.contracts.recovery.views import check_state, genesis, names_guardian, policy_of

__all__ = [
    "ATTEMPTS",
    "NO_POLICY",
    "POLICIES",
    "RULES",
    "Advanced",
    "Approve",
    "AttemptRow",
    "CardKey",
    "Ended",
    "Finish",
    "PolicyRow",
    "PolicySet",
    "Recovered",
    "RecoveryCode",
    "RecoveryRules",
    "RecoveryTables",
    "SetPolicy",
    "Start",
    "Started",
    "Terms",
    "Veto",
    "Vetoed",
    "Withdraw",
    "approve",
    "can_be_overridden",
    "card_message",
    "check_state",
    "due_s",
    "finish",
    "genesis",
    "is_enough",
    "lapses_s",
    "names_guardian",
    "owner_acted",
    "policy_of",
    "recovery_message",
    "set_policy",
    "speaks_as_registrar",
    "start",
    "strength",
    "terms_at",
    "veto",
    "withdraw",
]
