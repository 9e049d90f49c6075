"""``carechain keys recover``, ``keys cards``, and of ``patient``: ``guardians``, ``recovery`` and ``veto``."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from carechain.cli.options import ByAnyone, ByPatient, PasswordOption, PatientOption, WalletOption
from carechain.cli.output import Desk, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import identifier, moment
from carechain.core.units import DAY_S

if TYPE_CHECKING:
    from carechain.chain.questions import AttemptLine
    from carechain.cli.keyring import Keyring
    from carechain.contracts.recovery import Terms

keys_app = sub_app("")
"""Joins ``carechain keys``."""
patients_app = sub_app("")
"""Joins ``carechain patient``."""
cards_app = sub_app("Recovery cards: a patient's way back that needs no key, on paper.")
recovery_app = sub_app("Recoveries of a patient's key: what runs, and what guardians and registrars do about it.")
keys_app.add_typer(cards_app, name="cards")
patients_app.add_typer(recovery_app, name="recovery")

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}
_SPAN: Final = re.compile(r"(\d{1,6})([smhd])")


def span(text: str) -> int:
    """Seconds from ``3d``, ``12h``, ``30m`` or ``90s``."""
    found = _SPAN.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter("write a time span as 3d, 12h, 30m or 90s")
    return int(found[1]) * _UNITS_S[found[2]]


AttemptArgument = Annotated[int, typer.Argument(metavar="ATTEMPT", min=0, help="The attempt's number.")]
CardOption = Annotated[
    list[Path] | None,
    typer.Option("--card", metavar="FILE", help="File with recovery cards, one on a line; may be repeated."),
]


# --- cards ----------------------------------------------------------------------------------------------


@command(cards_app, "make")
def make_cards(
    desk: Desk,
    *,
    needed: Annotated[int, typer.Option("--needed", min=2, max=16, help="How many of the cards give the way back.")],
    cards: Annotated[int, typer.Option("--cards", min=2, max=16, help="How many cards to make.")],
    renew: Annotated[bool, typer.Option("--renew", help="Begin a new set: cards were lost, or are in wrong hands.")] = (
        False
    ),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write each card to a file here, and show none.")
    ] = None,
    who: WalletOption = None,
    password_file: PasswordOption = None,
) -> Report:
    """Make the wallet's recovery cards (SLIP-39), or make them again.

    Enough of them together may ask for a new key for every pseudonym whose policy names the cards; fewer can do
    nothing. They open no record. Put them into force for a pseudonym with `carechain patient guardians --with-cards`,
    and after --renew once more.
    """
    from carechain.cli.keyring import Keyring
    from carechain.cli.recovery_steps import write_cards
    from carechain.sdk import recovery_cards

    keyring = Keyring(desk.home)
    password = keyring.password(password_file)
    name, wallet = keyring.wallet(who, password)
    if renew or not wallet.cards:
        wallet = wallet.with_cards()
        keyring.keep_wallet(name, wallet, password=password)
    made = recovery_cards.make_cards(wallet.recovery_secret(), needed=needed, cards=cards)
    files = [] if out is None else write_cards(desk, out, made)
    data = {
        "set": wallet.cards,
        "needed": needed,
        "cards": [] if out is not None else list(made),
        "files": [str(one) for one in files],
    }
    shown = [str(one) for one in files] or list(made)
    return Report(data=data, show=lines(f"set {wallet.cards}: any {needed} of {cards} cards", *shown))


@command(cards_app, "join")
def join_cards(
    desk: Desk,
    *,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files with cards, one on a line.")],
    who: WalletOption = None,
    password_file: PasswordOption = None,
) -> Report:
    """Check that cards go together and are enough; with --as, also that they are the wallet's present set.

    The secret they share is not shown: `carechain keys recover --card` uses it.
    """
    from carechain.cli.keyring import Keyring
    from carechain.cli.recovery_steps import read_cards
    from carechain.sdk import recovery_cards

    secret = recovery_cards.join_cards(read_cards(files))
    present = None
    if who is not None:
        keyring = Keyring(desk.home)
        _, wallet = keyring.wallet(who, keyring.password(password_file))
        present = bool(wallet.cards) and wallet.recovery_secret() == secret
    said = ["the cards go together, and they are enough"]
    if present is not None:
        said.append("they are this wallet's present set" if present else "they are not this wallet's present set")
    return Report(data={"joined": True, "present": present}, show=lines(*said))


# --- the new wallet -------------------------------------------------------------------------------------


@command(keys_app, "recover")
def recover(
    desk: Desk,
    *,
    pseudonym: Annotated[
        bytes,
        typer.Argument(parser=identifier, metavar="PSEUDONYM", help="The patient's id; the organisation knows it."),
    ],
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", min=0, help="The next attempt's number: `patient recovery list` shows it."),
    ] = None,
    card: CardOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write the request for a new key.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="What the wallet calls this relationship.")] = "",
    by: ByPatient,
) -> Report:
    """Take a pseudonym whose key is lost into a new wallet: first ask for it, and once it is done, take it over.

    The wallet (--as) is made if there is none. With --attempt, --out and the organisation (--at) it writes the request
    that a guardian or the registrar takes to the ledger with `carechain patient recovery start`. Tell them the new key
    that it prints, by voice. Without --attempt and --out it looks whether the recovery is done, and stores the new
    wallet's summary.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.recovery_steps import prepare, take_over, write_request

    desktop = Desktop(desk, by)
    if attempt is None and out is None:
        done = take_over(desktop, wallet=by.who or desktop.keys.only_wallet(), pseudonym=pseudonym)
        said = ["the wallet has the pseudonym now; the old key is dead", "look through what the old key may have done:"]
        said += ["`carechain patient guardians`, and who may see and act for you"]
        return Report(
            data={"pseudonym": pseudonym.hex(), "recovered": done},
            show=lines(*(said if done else ["not yet: the ledger has another key for this pseudonym"])),
        )
    if attempt is None or out is None or by.at is None or by.who is None:
        raise typer.BadParameter("a request takes the wallet (--as), the organisation (--at), --attempt and --out")
    request = prepare(
        desktop,
        wallet=by.who,
        organisation=desktop.keys.party(by.at, hint="--at"),
        pseudonym=pseudonym,
        attempt=attempt,
        cards=_cards(card),
        label=label,
    )
    write_request(out, request)
    data = {
        "pseudonym": pseudonym.hex(),
        "attempt": attempt,
        "key": request.key.hex(),
        "file": str(out),
        "recovered": False,
    }
    said = [f"the request: {out}", f"new key {request.key.hex()}", "next: carechain patient recovery start"]
    return Report(data=data, show=lines(*said))


def _cards(files: list[Path] | None) -> list[str]:
    from carechain.cli.recovery_steps import read_cards

    return read_cards(files or [])


# --- the patient ----------------------------------------------------------------------------------------


@command(patients_app, "guardians")
def guardians(
    desk: Desk,
    *,
    guardian: Annotated[
        list[str] | None,
        typer.Option("--guardian", metavar="PARTY", help="Somebody you trust, by name or id; may be repeated."),
    ] = None,
    needed: Annotated[
        int | None, typer.Option("--needed", min=1, max=16, help="How many of them must agree; all unless given.")
    ] = None,
    with_cards: Annotated[
        bool, typer.Option("--with-cards", help="Enough of the wallet's cards will do, too.")
    ] = False,
    no_registrar: Annotated[
        bool, typer.Option("--no-registrar", help="Do not let the organisation recover the key by itself.")
    ] = False,
    registrar_only: Annotated[
        bool, typer.Option("--registrar-only", help="Name nobody: the organisation alone, as before.")
    ] = False,
    wait: Annotated[
        int | None, typer.Option("--wait", parser=span, metavar="SPAN", help="The waiting time, for example 3d.")
    ] = None,
    by: ByPatient,
) -> Report:
    """Say who may recover your key when it is lost, and how long that takes; without options, show it.

    A change counts after the waiting time that holds now. Choose guardians of different organisations, and not the one
    that registered you. Without the registrar nobody gets past an objection, a thief's among them.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.recovery_steps import card_of, policy_at, terms_data
    from carechain.contracts.recovery import PolicySet, SetPolicy, Terms

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient()
    named = tuple(sorted({desktop.keys.party(one, hint="--guardian") for one in guardian or ()}))
    with desktop.seat(actor) as seat:
        row, now = policy_at(seat, desktop.genesis, pseudonym)
        if not (named or with_cards or no_registrar or registrar_only or wait is not None):
            coming = None if row.coming is None or seat.time_s >= row.coming_s else row.coming
            shown = {
                "pseudonym": pseudonym.hex(),
                "in_force": terms_data(now),
                "coming": None if coming is None else terms_data(coming),
                "coming_s": None if coming is None else row.coming_s,
            }
            told = _terms(desktop.keys, now)
            if coming is not None:
                told += [f"from {moment(row.coming_s)} UTC on:", *_terms(desktop.keys, coming)]
            return Report(data=shown, show=lines(*told))
        if registrar_only and (named or with_cards or no_registrar):
            raise typer.BadParameter("the registrar alone, or others: not both", param_hint="--registrar-only")
        terms = Terms(
            wait_s=now.wait_s if wait is None else wait,
            guardians=named,
            threshold=min(needed or len(named), 0xFF) if named else 0,
            card=card_of(desktop.keys.wallet(by.who, desktop.wallet_password)[1], pseudonym) if with_cards else None,
            by_registrar=not no_registrar,
        )
        done = seat.submit(SetPolicy(pseudonym=pseudonym, terms=terms))
    from_s = done.event(PolicySet).from_s
    data = {
        "pseudonym": pseudonym.hex(),
        "coming": terms_data(terms),
        "coming_s": from_s,
        **done.data(),
    }
    return Report(data=data, show=lines(f"from {moment(from_s)} UTC on:", *_terms(desktop.keys, terms), done.text()))


def _terms(keyring: "Keyring", terms: "Terms") -> list[str]:
    told = []
    if terms.guardians:
        told.append(f"{terms.threshold} of {', '.join(keyring.name_of(one) for one in terms.guardians)}")
    if terms.card is not None:
        told.append("enough recovery cards")
    if terms.by_registrar:
        told.append("the organisation that registered you")
    return [*(told or ["nobody"]), f"after {terms.wait_s} seconds"]


@command(patients_app, "veto")
def veto(desk: Desk, *, attempt: AttemptArgument, patient: PatientOption = None, by: ByAnyone) -> Report:
    """Object to a recovery of your key that you did not ask for, or as a representative for the patient.

    The recovery ends, unless both the registrar and your guardians (or cards) stand by it and you let both take part.
    """
    from carechain.cli.acting import Desktop
    from carechain.contracts.recovery import Veto, Vetoed

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        done = seat.submit(Veto(pseudonym=pseudonym, attempt=attempt))
    ended = done.event(Vetoed).ended
    said = "it is over" if ended else "it goes on only with the registrar and the guardians or cards, and takes longer"
    return Report(data={"attempt": attempt, "ended": ended, **done.data()}, show=lines(said, done.text()))


# --- guardians and registrars ---------------------------------------------------------------------------


@command(recovery_app, "list")
def list_attempts(desk: Desk, *, patient: PatientOption = None, by: ByAnyone) -> Report:
    """List the recoveries of a patient's key that run: for the patient's side, guardians and the registrar."""
    from carechain.cli.acting import Desktop
    from carechain.cli.recovery_steps import attempt_data, key_of, pending, policy_at, terms_data

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        row, terms = policy_at(seat, desktop.genesis, pseudonym)
        found = pending(seat, pseudonym)
    data = {
        "pseudonym": pseudonym.hex(),
        "next_attempt": row.attempts,
        "in_force": terms_data(terms),
        "attempts": [attempt_data(one) for one in found],
    }
    text = [(str(one.number), key_of(one).hex(), _agreed(one), _due(one)) for one in found]
    grid = table(f"Recoveries; the next has number {row.attempts}", ("attempt", "new key", "agreed", "due"), text)
    return Report(data=data, show=tables(grid))


def _agreed(line: "AttemptLine") -> str:
    row = line.attempt
    told = [f"{len(row.guardians)} of {counted(row.terms.threshold, 'guardian')}"] if row.terms.guardians else []
    told += ["the registrar"] if row.registrar else []
    told += ["cards"] if row.cards else []
    return ", ".join(told) + (", against an objection" if row.vetoed_s else "")


def _due(line: "AttemptLine") -> str:
    from carechain.contracts.recovery import due_s

    due = due_s(line.attempt)
    return f"{moment(due)} UTC" if due else "more must agree"


@command(recovery_app, "start")
def start(
    desk: Desk,
    *,
    request: Annotated[Path, typer.Argument(metavar="FILE", help="What the patient wrote with `keys recover`.")],
    by: ByAnyone,
) -> Report:
    """Take a patient's request for a new key to the ledger: as a guardian, as the registrar, or with the cards in it.

    Make sure who asks: look at the person, and compare the key that is printed with the one in the patient's wallet.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.recovery_steps import read_request, start_once

    desktop = Desktop(desk, by)
    found = read_request(request, chain_id=desktop.genesis.chain_id)
    with desktop.seat(desktop.anyone()) as seat:
        due, done = start_once(seat, found)
    data = {
        "pseudonym": found.pseudonym.hex(),
        "attempt": found.attempt,
        "key": found.key.hex(),
        "due_s": due or None,
        **(done.data() if done else {}),
    }
    where = done.text() if done else "the ledger had it already"
    return Report(data=data, show=lines(f"new key {found.key.hex()}", _told_due(due), where))


def _told_due(due_s: int) -> str:
    return f"can be finished from {moment(due_s)} UTC on" if due_s else "more must agree before the waiting time begins"


@command(recovery_app, "approve")
def approve(
    desk: Desk,
    *,
    attempt: AttemptArgument,
    key: Annotated[str, typer.Option("--key", metavar="DIGITS", help="The new key as the patient told it to you.")],
    patient: PatientOption = None,
    by: ByAnyone,
) -> Report:
    """Agree, as a guardian or the registrar, that the new key is the patient's."""
    from carechain.cli.acting import Desktop
    from carechain.cli.recovery_steps import key_agreed_on
    from carechain.contracts.recovery import Advanced, Approve

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        agreed = key_agreed_on(seat, pseudonym, attempt, key)
        done = seat.submit(Approve(pseudonym=pseudonym, attempt=attempt, key=agreed))
    due = done.event(Advanced).due_s
    data = {"attempt": attempt, "key": agreed.hex(), "due_s": due or None, **done.data()}
    return Report(data=data, show=lines(_told_due(due), done.text()))


@command(recovery_app, "withdraw")
def withdraw(desk: Desk, *, attempt: AttemptArgument, patient: PatientOption = None, by: ByAnyone) -> Report:
    """Take your agreement back; a recovery that nobody stands by is over."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.recovery import Ended, Withdraw

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        done = seat.submit(Withdraw(pseudonym=pseudonym, attempt=attempt))
    ended = done.maybe(Ended) is not None
    said = "nobody stands by it: it is over" if ended else "taken back"
    return Report(data={"attempt": attempt, "ended": ended, **done.data()}, show=lines(said, done.text()))


@command(recovery_app, "finish")
def finish(desk: Desk, *, attempt: AttemptArgument, patient: PatientOption = None, by: ByAnyone) -> Report:
    """Put the new key in force once the waiting time has passed. Then the patient runs `carechain keys recover`."""
    from carechain.cli.acting import Desktop
    from carechain.contracts.recovery import Finish

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        done = seat.submit(Finish(pseudonym=pseudonym, attempt=attempt))
    return Report(
        data={"pseudonym": pseudonym.hex(), "attempt": attempt, **done.data()},
        show=lines("the new key is in force; the old one is dead", done.text()),
    )
