"""Recovery, the words: codes, messages, events, tables, and what an attempt's row says (ID-7)."""

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from carechain.core.binding import Signature
from carechain.core.hashing import tagged
from carechain.core.ids import U8, U32, U63, Hash, PartyId
from carechain.core.limits import (
    CONTESTED_WAITS,
    GUARDIANS_PER_PSEUDONYM,
    RECOVERY_OPEN_S,
    RECOVERY_WAIT_MAX_S,
)
from carechain.core.message import Event, Message, Row
from carechain.core.party import HpkeKey, PublicKey
from carechain.core.rejection import RejectionCode
from carechain.core.units import DAY_S
from carechain.state.overlay import Overlay
from carechain.state.table import TableSpec

# --- codes ----------------------------------------------------------------------------------------------


class RecoveryCode(RejectionCode):
    """Why a step of a recovery is refused."""

    PSEUDONYM_UNKNOWN = 1901, "No such patient pseudonym."
    SENDER_NOT_PATIENT = 1902, "Only the patient may do this, with this pseudonym's own key."
    WAIT_OUT_OF_RANGE = 1903, "The waiting time is shorter than this network allows, or longer than 90 days."
    GUARDIANS_MALFORMED = 1904, "Name guardians sorted and without repeats, none of them the patient."
    THRESHOLD_MALFORMED = 1905, "The number of guardians who must agree lies between 1 and their number; 0 with none."
    GUARDIAN_UNKNOWN = 1906, "A guardian is not a live party of the consortium."
    GUARDIAN_OF_OWN_ORGANISATION = (
        1907,
        "The patient's own organisation has its say as registrar. Name guardians who are not it nor its staff.",
    )
    CARD_KEY_MALFORMED = 1908, "The key on the cards does not fit its signature suite."
    SENDER_MAY_NOT_RECOVER = (
        1909,
        "Only a guardian, the registrar of the patient's organisation, or whoever has enough cards may do this.",
    )
    REGISTRAR_FORBIDDEN = 1910, "The patient does not let the registrar recover the key. Ask the guardians."
    CARD_PROOF_INVALID = 1911, "The cards are not those of this patient, or were joined for another attempt."
    ATTEMPT_NUMBER_WRONG = 1912, "The new key has signed another number than the next attempt's. Sign again."
    PROOF_INVALID = 1913, "The new key has not signed this attempt. Sign again, for this network and pseudonym."
    KEY_IN_USE = 1914, "The new key belongs, or once belonged, to a party. Make another one."
    ATTEMPT_RUNNING = 1915, "You have an attempt running for this patient. Finish it, or withdraw from it."
    TOO_MANY_ATTEMPTS = 1916, "Too many attempts are running for this patient. Wait until some have ended."
    ATTEMPT_UNKNOWN = 1917, "No such attempt is running for this patient."
    ATTEMPT_LAPSED = 1918, "The attempt was left alone for too long. Start another one."
    KEY_DIFFERS = 1919, "The attempt is for another key than you name. Compare the key with the patient."
    ALREADY_APPROVED = 1920, "You have agreed to this attempt already."
    NOT_APPROVED = 1921, "You have not agreed to this attempt."
    SENDER_MAY_NOT_VETO = 1922, "Only the pseudonym's present key, or a representative who may revoke, can object."
    VETOED_ALREADY = 1923, "There was an objection to this attempt already."
    NOT_ENOUGH_APPROVALS = 1924, "Those who have agreed are not, or no longer, enough for this attempt."
    STILL_WAITING = 1925, "The waiting time has not passed. Ask again when it has."
    STRONGER_ATTEMPT = 1926, "Another attempt, to which more have agreed, goes first. Wait for its end."


# --- messages -------------------------------------------------------------------------------------------

Guardians = Annotated[tuple[PartyId, ...], Meta(max_length=GUARDIANS_PER_PSEUDONYM)]
WaitS = Annotated[int, Meta(ge=1, le=RECOVERY_WAIT_MAX_S)]
CardProof = Annotated[bytes, Meta(max_length=64)]
"""A signature by the key on the recovery cards, or empty."""


class CardKey(Row, frozen=True):
    """The public key that only enough recovery cards together can sign for; another one for each pseudonym."""

    suite: U8
    public_key: PublicKey


class Terms(Row, frozen=True):
    """Who may recover a pseudonym, and how long that takes. ``threshold`` of the guardians are enough."""

    wait_s: U63
    guardians: Guardians = ()
    threshold: U8 = 0
    card: CardKey | None = None
    by_registrar: bool = True


class SetPolicy(Message, frozen=True, tag="recovery.set_policy"):
    """Say who may recover this pseudonym's key (ID-7). It counts after the waiting time that holds now."""

    pseudonym: PartyId
    terms: Terms


class Start(Message, frozen=True, tag="recovery.start"):
    """Ask that a pseudonym be given a new key: sent by a guardian or the registrar, or with the cards' signature.

    ``attempt`` is the number of this attempt, as the query ``recovery.policy`` shows it. ``proof`` is the new key's
    signature over :func:`recovery_message`, ``card_proof`` the cards' over :func:`card_message`, or empty.
    """

    pseudonym: PartyId
    attempt: U32
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    proof: Signature
    card_proof: CardProof = b""


class Approve(Message, frozen=True, tag="recovery.approve"):
    """Agree to an attempt, as a guardian, as the registrar, or with the cards' signature.

    ``key`` is the id that the new key would have as a party's first one: nobody agrees to another key than it has seen.
    """

    pseudonym: PartyId
    attempt: U32
    key: Hash
    card_proof: CardProof = b""


class Withdraw(Message, frozen=True, tag="recovery.withdraw"):
    """Take one's agreement to an attempt back."""

    pseudonym: PartyId
    attempt: U32


class Veto(Message, frozen=True, tag="recovery.veto"):
    """Object to an attempt, with the key that it would replace or as a representative."""

    pseudonym: PartyId
    attempt: U32


class Finish(Message, frozen=True, tag="recovery.finish"):
    """Put the new key in force once the waiting time has passed: by anyone who may start or agree to recoveries."""

    pseudonym: PartyId
    attempt: U32


# --- events ---------------------------------------------------------------------------------------------


class PolicySet(Event, frozen=True, tag="recovery.policy_set"):
    """The patient said who may recover the key, from ``from_s`` on."""

    pseudonym: PartyId
    from_s: U63


class Started(Event, frozen=True, tag="recovery.started"):
    """Somebody asks for a new key for a pseudonym: the notice to its owner."""

    pseudonym: PartyId
    attempt: U32
    starter: PartyId


class Advanced(Event, frozen=True, tag="recovery.advanced"):
    """Somebody agreed to an attempt, or no longer does. ``due_s`` is when it can be finished (0: not as it stands)."""

    pseudonym: PartyId
    attempt: U32
    due_s: U63


class Vetoed(Event, frozen=True, tag="recovery.vetoed"):
    """The key's holder or a representative objected. ``ended``: nobody can override that."""

    pseudonym: PartyId
    attempt: U32
    ended: bool


class Ended(Event, frozen=True, tag="recovery.ended"):
    """Nobody agrees to an attempt any more: it is over."""

    pseudonym: PartyId
    attempt: U32


class Recovered(Event, frozen=True, tag="recovery.recovered"):
    """A pseudonym has a new key; its old one is dead, and all other attempts are over."""

    pseudonym: PartyId
    attempt: U32


# --- tables ---------------------------------------------------------------------------------------------


class RecoveryRules(Row, frozen=True):
    """How quickly a key may be recovered in this network: the least waiting time, and that of patients who set none."""

    min_wait_s: WaitS = DAY_S
    default_wait_s: WaitS = 3 * DAY_S


class PolicyRow(Row, frozen=True):
    """What a patient has set (None: nothing yet), what is to come and when, and how many attempts there were."""

    attempts: U32 = 0
    terms: Terms | None = None
    coming: Terms | None = None
    coming_s: U63 = 0


class AttemptRow(Row, frozen=True):
    """A running attempt. ``terms`` are those in force when it was started; ``starter`` is who may not start another.

    ``since_s`` is when those who agreed became enough, as things stand now, and 0 while they are not. ``vetoed_s`` is
    0 until somebody objects.
    """

    starter: PartyId
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    terms: Terms
    started_s: U63
    guardians: Guardians = ()
    registrar: bool = False
    cards: bool = False
    since_s: U63 = 0
    vetoed_s: U63 = 0


POLICIES: Final = TableSpec(
    name="recovery.policies", prefix=0xB0, key=(32,), row=PolicyRow, note="pseudonym → who may recover its key"
)
ATTEMPTS: Final = TableSpec(
    name="recovery.attempts", prefix=0xB1, key=(32, 4), row=AttemptRow, note="pseudonym, number → running attempt"
)
RULES: Final = TableSpec(
    name="recovery.rules", prefix=0xB2, key=(1,), row=RecoveryRules, note="the waiting times of the genesis"
)
NO_POLICY: Final = PolicyRow()


class RecoveryTables:
    """The tables of this contract."""

    __slots__ = ("attempts", "policies", "rules_table")

    def __init__(self, state: Overlay) -> None:
        self.policies = POLICIES.bind(state)
        self.attempts = ATTEMPTS.bind(state)
        self.rules_table = RULES.bind(state)

    def rules(self) -> RecoveryRules:
        """The network's waiting times."""
        return self.rules_table.get(0) or RecoveryRules()

    def terms(self, pseudonym: bytes, time_s: int) -> Terms:
        """Who may recover the pseudonym now: without any word of the patient, the registrar."""
        return terms_at(self.policies.get(pseudonym) or NO_POLICY, self.rules(), time_s)

    def running(self, pseudonym: bytes, time_s: int) -> Iterator[tuple[int, AttemptRow]]:
        """The attempts that have not lapsed, oldest first."""
        for (_, number), row in self.attempts.scan(pseudonym):
            if time_s < lapses_s(row):
                yield number, row


# --- predicates -----------------------------------------------------------------------------------------


def terms_at(row: PolicyRow, rules: RecoveryRules, time_s: int) -> Terms:
    """Who may recover a pseudonym with this policy at a time: without any word of the patient, the registrar."""
    chosen = row.coming if row.coming is not None and time_s >= row.coming_s else row.terms
    return chosen or Terms(wait_s=rules.default_wait_s)


def can_be_overridden(terms: Terms) -> bool:
    """Whether an objection can be: only where both the registrar and somebody else may recover."""
    return terms.by_registrar and (bool(terms.guardians) or terms.card is not None)


def strength(row: AttemptRow) -> int:
    """How much stands behind an attempt: 3 the registrar and another, 2 guardians or cards, 1 the registrar, 0."""
    registrar = row.registrar and row.terms.by_registrar
    others = row.cards or (0 < row.terms.threshold <= len(row.guardians))
    return 2 * others + registrar


def is_enough(row: AttemptRow) -> bool:
    """Whether those who agreed are enough: anyone, or after an objection the registrar and another."""
    return strength(row) >= (3 if row.vetoed_s else 1)


def due_s(row: AttemptRow) -> int:
    """From when on an attempt can be finished as it stands (Unix seconds); 0: it cannot."""
    if not row.since_s:
        return 0
    return row.since_s + row.terms.wait_s * (CONTESTED_WAITS if row.vetoed_s else 1)


def lapses_s(row: AttemptRow) -> int:
    """When an attempt ends by itself, unless something happens to it first."""
    return (due_s(row) or max(row.started_s, row.vetoed_s)) + RECOVERY_OPEN_S


# --- what is signed -------------------------------------------------------------------------------------


def recovery_message(
    *, chain_id: str, pseudonym: bytes, attempt: int, suite: int, public_key: bytes, hpke_key: bytes
) -> bytes:
    """The 32 bytes that the new key signs: it is there, and meant for this attempt at this pseudonym."""
    return _signed("carechain/recover/1", chain_id, pseudonym, attempt, suite, public_key, hpke_key)


def card_message(
    *, chain_id: str, pseudonym: bytes, attempt: int, suite: int, public_key: bytes, hpke_key: bytes
) -> bytes:
    """The 32 bytes that the key on the recovery cards signs for the new key in this attempt."""
    return _signed("carechain/recovery-card/1", chain_id, pseudonym, attempt, suite, public_key, hpke_key)


def _signed(
    tag: str, chain_id: str, pseudonym: bytes, attempt: int, suite: int, public_key: bytes, hpke_key: bytes
) -> bytes:
    number = attempt.to_bytes(4, "big")
    return tagged(tag, chain_id.encode(), pseudonym, number, bytes([suite]), public_key, hpke_key)
