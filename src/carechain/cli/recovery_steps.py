"""Recovering a patient's key, in steps that may be days and homes apart (ID-7).

A new wallet adopts the pseudonym and signs for it: a file without secrets, which a guardian or the registrar takes to
the ledger. Whatever breaks off, the same command goes on with the same keys.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec import Struct

from carechain.chain.genesis import Genesis
from carechain.chain.questions import AttemptLine, OfPseudonym
from carechain.cli.acting import Desktop, Done, Seat
from carechain.cli.keyring import Actor
from carechain.cli.new_keys import has_key, keep_and_tell
from carechain.cli.output import CannotRun, Denied, Desk
from carechain.contracts.recovery import (
    Advanced,
    CardKey,
    PolicyRow,
    RecoveryCode,
    Start,
    Terms,
    card_message,
    due_s,
    recovery_message,
    terms_at,
)
from carechain.contracts.recovery.schema import CardProof
from carechain.core.binding import Signature
from carechain.core.crypto import SigningKey
from carechain.core.ids import U8, U32, PartyId, party_id
from carechain.core.limits import CARD_CHARS, RECOVERY_CARDS
from carechain.core.party import HpkeKey, PublicKey
from carechain.core.rejection import Rejected, require
from carechain.sdk.keyfile import write_private_file
from carechain.sdk.recovery_cards import card_key, join_cards
from carechain.sdk.wallet import Pseudonym, Wallet

_FILE_BYTES: Final = 16 * 1024
_KEY_DIGITS: Final = 16
_KEY: Final = re.compile(rf"[0-9a-f]{{{_KEY_DIGITS},64}}")


class RecoveryRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a new wallet asks for: its keys for one pseudonym and one attempt, signed. Holds no secret and no name."""

    chain_id: str
    pseudonym: PartyId
    attempt: U32
    suite: U8
    public_key: PublicKey
    hpke_key: HpkeKey
    proof: Signature
    card_proof: CardProof = b""

    @property
    def key(self) -> bytes:
        """What those who agree name the new key by."""
        return party_id(self.suite, self.public_key)

    def message(self) -> Start:
        """What a guardian or the registrar sends."""
        return Start(
            pseudonym=self.pseudonym,
            attempt=self.attempt,
            suite=self.suite,
            public_key=self.public_key,
            hpke_key=self.hpke_key,
            proof=self.proof,
            card_proof=self.card_proof,
        )


# --- the new wallet -------------------------------------------------------------------------------------


def prepare(
    desktop: Desktop,
    *,
    wallet: str,
    organisation: bytes,
    pseudonym: bytes,
    attempt: int,
    cards: Sequence[str],
    label: str,
) -> RecoveryRequest:
    """Adopt a pseudonym into a wallet, made now if there is none, and sign for it. Needs no network."""
    secret = join_cards(cards) if cards else None
    adopted, relation = desktop.wallet_or_new(wallet).with_adopted(organisation, pseudonym, label=label)
    desktop.keys.keep_wallet(wallet, adopted, password=desktop.wallet_password)
    signer = None if secret is None else card_key(secret, chain_id=adopted.chain_id, pseudonym=pseudonym)
    return request_of(adopted.keys_of(relation), chain_id=adopted.chain_id, attempt=attempt, cards=signer)


def request_of(keys: Pseudonym, *, chain_id: str, attempt: int, cards: SigningKey | None) -> RecoveryRequest:
    """The request for these keys, signed by them and, where there are any, by the cards."""
    signed = {
        "chain_id": chain_id,
        "pseudonym": keys.id,
        "attempt": attempt,
        "suite": int(keys.signing.suite),
        "public_key": keys.signing.public_key,
        "hpke_key": keys.hpke.public_key,
    }
    return msgspec.convert(
        {
            **signed,
            "proof": keys.signing.sign(recovery_message(**signed)),  # type: ignore[arg-type]
            "card_proof": b"" if cards is None else cards.sign(card_message(**signed)),  # type: ignore[arg-type]
        },
        RecoveryRequest,
        builtin_types=(bytes,),
    )


def take_over(desktop: Desktop, *, wallet: str, pseudonym: bytes) -> bool:
    """Whether the ledger has the wallet's key for the pseudonym by now; if so, its summary is stored."""
    _, held = desktop.keys.wallet(wallet, desktop.wallet_password)
    relation = held.of(pseudonym)
    if relation is None:
        raise CannotRun("the wallet has not adopted this pseudonym: begin with --attempt and --out")
    keys = held.keys_of(relation)
    if not has_key(desktop, Actor.of_pseudonym(keys)):
        return False
    keep_and_tell(desktop, wallet, held, keys)
    return True


def write_request(path: Path, request: RecoveryRequest) -> None:
    """Write the request: JSON with byte strings in base64."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(request), indent=2) + b"\n")


def read_request(path: Path, *, chain_id: str) -> RecoveryRequest:
    """Read a request; raises :class:`CannotRun` when the file is none, or of another network."""
    with path.expanduser().open("rb") as file:
        data = file.read(_FILE_BYTES)
    try:
        request = msgspec.json.decode(data, type=RecoveryRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CannotRun(f"{path} is not a request for a recovery: make it with `carechain keys recover`") from None
    if request.chain_id != chain_id:
        raise CannotRun(f"{path} is about a pseudonym of another network")
    return request


# --- what the ledger has --------------------------------------------------------------------------------


def policy_at(seat: Seat, genesis: Genesis, pseudonym: bytes) -> tuple[PolicyRow, Terms]:
    """What the patient has set, and the terms that are in force now."""
    row = seat.row("recovery.policy", PolicyRow, OfPseudonym(pseudonym))
    return row, terms_at(row, genesis.recovery, seat.time_s)


def pending(seat: Seat, pseudonym: bytes) -> list[AttemptLine]:
    """The attempts that run."""
    return seat.rows("recovery.pending", AttemptLine, OfPseudonym(pseudonym), prove=True)


def start_once(seat: Seat, request: RecoveryRequest) -> tuple[int, Done | None]:
    """Start an attempt, unless a command that broke off has: when it is due (0: not yet), and where it is."""
    try:
        done = seat.submit(request.message())
    except Denied as denied:
        started = _started(seat, request) if denied.code == RecoveryCode.ATTEMPT_NUMBER_WRONG else None
        if started is None:
            raise
        return due_s(started.attempt), None
    return done.event(Advanced).due_s, done


def _started(seat: Seat, request: RecoveryRequest) -> AttemptLine | None:
    """The attempt that this request began, as far as the sender may see it: whoever only brings the cards may not."""
    try:
        found = pending(seat, request.pseudonym)
    except Denied:
        return None
    same = (one for one in found if one.number == request.attempt and key_of(one) == request.key)
    return next(same, None)


def key_of(line: AttemptLine) -> bytes:
    """What the new key of an attempt is named by."""
    return party_id(line.attempt.suite, line.attempt.public_key)


def key_agreed_on(seat: Seat, pseudonym: bytes, attempt: int, told: str) -> bytes:
    """The attempt's key, which must begin with what the patient told; raises ``KEY_DIFFERS``."""
    digits = told.replace(" ", "").lower()
    if not _KEY.fullmatch(digits):
        raise typer.BadParameter(
            f"ask the patient for the new key, at least its first {_KEY_DIGITS} digits", param_hint="--key"
        )
    for line in pending(seat, pseudonym):
        if line.number == attempt:
            require(key_of(line).hex().startswith(digits), RecoveryCode.KEY_DIFFERS)
            return key_of(line)
    raise Rejected(RecoveryCode.ATTEMPT_UNKNOWN)


def terms_data(terms: Terms) -> dict[str, object]:
    """Terms as JSON."""
    return {
        "guardians": [one.hex() for one in terms.guardians],
        "needed": terms.threshold,
        "cards": terms.card is not None,
        "registrar": terms.by_registrar,
        "wait_s": terms.wait_s,
    }


def attempt_data(line: AttemptLine) -> dict[str, object]:
    """An attempt as JSON. ``due_s`` is null while too few have agreed."""
    row = line.attempt
    return {
        "attempt": line.number,
        "key": key_of(line).hex(),
        "starter": row.starter.hex(),
        "started_s": row.started_s,
        "guardians": [one.hex() for one in row.guardians],
        "needed": row.terms.threshold,
        "registrar": row.registrar,
        "cards": row.cards,
        "vetoed_s": row.vetoed_s or None,
        "due_s": due_s(row) or None,
    }


# --- cards ----------------------------------------------------------------------------------------------


def card_of(wallet: Wallet, pseudonym: bytes) -> CardKey:
    """The public key of the wallet's cards for one pseudonym, as a policy has it."""
    if not wallet.cards:
        raise CannotRun("this wallet has no cards yet: make them with `carechain keys cards make`")
    key = card_key(wallet.recovery_secret(), chain_id=wallet.chain_id, pseudonym=pseudonym)
    return CardKey(suite=key.suite, public_key=key.public_key)


def read_cards(files: Sequence[Path]) -> list[str]:
    """The cards in these files, one on each line that is not empty."""
    cards: list[str] = []
    for path in files:
        with path.expanduser().open("rb") as file:
            data = file.read(RECOVERY_CARDS * CARD_CHARS + 1)
        if len(data) > RECOVERY_CARDS * CARD_CHARS:
            raise CannotRun(f"{path} is too large to hold cards")
        try:
            cards += [line for line in data.decode().splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise CannotRun(f"{path} is not UTF-8 text") from None
    return cards


def write_cards(desk: Desk, folder: Path, cards: Sequence[str]) -> list[Path]:
    """Each card in a file of its own that only the owner reads, to be printed and then removed."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = []
    for number, card in enumerate(cards, 1):
        path = folder / f"card-{number}.txt"
        write_private_file(path, card.encode("ascii") + b"\n", replace=False)
        written.append(path)
    desk.say(f"print the files in {folder}, hand them out, and remove them")
    return written
