"""Recovery: invariants, genesis and queries."""

from carechain.contracts.recovery.attempts import Membership
from carechain.contracts.recovery.schema import (
    NO_POLICY,
    PolicyRow,
    RecoveryCode,
    RecoveryRules,
    RecoveryTables,
    is_enough,
)
from carechain.core.rejection import require
from carechain.core.vocabulary import PartyKind

# --- invariants -----------------------------------------------------------------------------------------


def check_state(tables: RecoveryTables, membership: Membership) -> list[str]:
    """Attempts have numbers that were given out, are backed by those whom their terms name, and concern patients."""
    broken: list[str] = []
    for (pseudonym, number), row in tables.attempts.scan():
        policy = tables.policies.get(pseudonym) or NO_POLICY
        party = membership.party(pseudonym)
        name = f"recovery {number} of {pseudonym.hex()}"
        if party is None or party.kind is not PartyKind.PSEUDONYM:
            broken.append(f"{name} is of nobody")
        if number >= policy.attempts:
            broken.append(f"{name} has a number that was not given out")
        if any(one not in row.terms.guardians for one in row.guardians):
            broken.append(f"{name} is approved by somebody who is no guardian")
        if bool(row.since_s) != is_enough(row):
            broken.append(f"{name} waits for what it has, or has what it waits for")
    for (pseudonym,), policy in tables.policies.scan():
        if (policy.coming is None) != (policy.coming_s == 0):
            broken.append(f"the recovery policy of {pseudonym.hex()} comes at no time")
    return broken


# --- genesis --------------------------------------------------------------------------------------------


def genesis(tables: RecoveryTables, rules: RecoveryRules) -> None:
    """The network's waiting times."""
    require(rules.min_wait_s <= rules.default_wait_s, RecoveryCode.WAIT_OUT_OF_RANGE)
    tables.rules_table.put(0, row=rules)


# --- queries --------------------------------------------------------------------------------------------


def policy_of(tables: RecoveryTables, pseudonym: bytes) -> PolicyRow:
    """What the patient has set, and the number of the next attempt."""
    return tables.policies.get(pseudonym) or NO_POLICY


def names_guardian(tables: RecoveryTables, pseudonym: bytes, party: bytes, time_s: int) -> bool:
    """Whether the party is a guardian now, or of an attempt that runs."""
    if party in tables.terms(pseudonym, time_s).guardians:
        return True
    return any(party in row.terms.guardians for _, row in tables.running(pseudonym, time_s))
