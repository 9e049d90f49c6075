"""``carechain keyholders``: who holds the shares of the consortium key, and how a ceremony goes on.

The ceremony itself needs no command: the nodes of the organisations that were voted for take part by themselves.
"""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import CannotRun, Desk, Report, command, lines, sub_app, table, tables
from carechain.cli.terms import moment
from carechain.core.limits import CEREMONY_ROUND_MAX_S, CEREMONY_ROUND_MIN_S, KEYHOLDERS

if TYPE_CHECKING:
    from carechain.chain.questions import CeremonyLine, MisdeedLine
    from carechain.cli.acting import Desktop
    from carechain.contracts.keyring import KeyRow

app = sub_app("The organisations that hold the shares of the consortium key, and the votes on them.")

_ROUND_S: Final = 600

MembersArgument = Annotated[
    list[str], typer.Argument(metavar="MEMBER...", help="Names of the address book, or ids: everyone who is to hold.")
]


@command(app, "propose")
def propose_keyholders(
    desk: Desk,
    *,
    members: MembersArgument,
    threshold: Annotated[
        int | None,
        typer.Option(
            "--threshold", min=2, max=KEYHOLDERS, metavar="T", help="How many open something; two thirds unless given."
        ),
    ] = None,
    round_s: Annotated[
        int,
        typer.Option(
            "--round",
            min=CEREMONY_ROUND_MIN_S,
            max=CEREMONY_ROUND_MAX_S,
            metavar="SECONDS",
            help="How long a round waits for organisations that say nothing.",
        ),
    ] = _ROUND_S,
    by: ByOrganisation,
) -> Report:
    """Propose who holds the shares of the consortium key. Your organisation votes yes with it.

    The first time the key is made. After that the same key is shared anew, also among the same organisations: the old
    shares are then worth nothing.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.members import propose
    from carechain.contracts.keyring.schema import MIN_THRESHOLD
    from carechain.core.keyholders import SetKeyholders
    from carechain.core.quorum import default_threshold

    desktop = Desktop(desk, by)
    holders = tuple(sorted({desktop.keys.party(one, hint="MEMBER") for one in members}))
    if len(holders) > KEYHOLDERS:
        raise typer.BadParameter(f"there are at most {KEYHOLDERS} keyholders")
    enough = max(MIN_THRESHOLD, default_threshold(len(holders))) if threshold is None else threshold
    change = SetKeyholders(holders=holders, threshold=enough, round_s=round_s)
    words = f"that {len(holders)} organisations hold the key, of whom {enough} together open something"
    about = {"holders": [one.hex() for one in holders], "threshold": enough, "round_s": round_s}
    return propose(desktop, change, words, about)


@command(app, "status")
def status(desk: Desk, *, by: ByOrganisation) -> Report:
    """Show the key in force and its holders, the ceremony under way and whom it waits for, and who was caught."""
    from carechain.chain.questions import CeremonyLine, MisdeedLine, MisdeedPage, NoArgs, OfEpoch
    from carechain.cli.acting import Desktop
    from carechain.contracts.keyring import KeyRow, Phase

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        ceremonies = seat.rows("keyring.ceremony", CeremonyLine, NoArgs())
        # The ceremony that made the present epoch stays on the ledger, so without one there is no key to ask for.
        has_key = any(one.row.phase is Phase.DONE for one in ceremonies)
        found = seat.rows("keyring.key", KeyRow, OfEpoch()) if has_key else []
        misdeeds = seat.rows("keyring.misdeeds", MisdeedLine, MisdeedPage())
    key = found[0] if found else None
    own_share = None if key is None or by.who is not None else _own_share(desktop, key)
    if own_share is False:
        desk.say(
            "this home has no share of the key, although its organisation is a holder: say so with `carechain "
            "keyholders lost`, and propose keyholders anew"
        )
    data = {
        "key": None if key is None else _key_data(key),
        "own_share": own_share,
        "ceremonies": [_ceremony_data(one) for one in ceremonies],
        "misdeeds": [_misdeed_data(one) for one in misdeeds],
    }
    grids = (
        table("Holders", ("number", "holder", ""), () if key is None else _holder_cells(key)),
        table(
            "Ceremonies", ("ceremony", "to make epoch", "round", "since (UTC)", "waits for"), map(_cells, ceremonies)
        ),
        table(
            "Caught",
            ("holder", "epoch", "at", "time (UTC)"),
            [(one.holder.hex(), str(one.epoch), _words(one.kind.name), moment(one.row.at_s)) for one in misdeeds],
        ),
    )
    return Report(data=data, show=tables(*grids))


@command(app, "lost")
def lost(desk: Desk, *, by: ByOrganisation) -> Report:
    """Say on the ledger that your organisation's share is lost, so that nobody counts on it until the next ceremony."""
    from carechain.chain.questions import OfEpoch
    from carechain.cli.acting import Desktop
    from carechain.contracts.keyring import KeyRow, LoseShare

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.member()) as seat:
        (key,) = seat.rows("keyring.key", KeyRow, OfEpoch())
        if _own_share(desktop, key):
            raise CannotRun("this home has its share of the key: there is nothing to say")
        done = seat.submit(LoseShare(epoch=key.epoch))
    said = f"said: no share of epoch {key.epoch} here any more"
    hint = "next: propose keyholders anew with `carechain keyholders propose`"
    return Report(data={"epoch": key.epoch, **done.data()}, show=lines(said, done.text(), hint))


def _own_share(desktop: "Desktop", key: "KeyRow") -> bool | None:
    """Whether this home has its organisation's share of the key in force; None where it is due none."""
    import secrets

    from carechain.cli.keyring import MEMBER_KEY
    from carechain.node.keyholder_store import KEYHOLDER_FILE, KeyholderFileUnusable, KeyholderStore

    path = desktop.keys.path_of(MEMBER_KEY)
    if not path.is_file():
        return None
    identity = desktop.keys.identity(MEMBER_KEY, desktop.password)
    if key.holder(identity.party) is None:
        return None
    try:
        store = KeyholderStore.open(path.with_name(KEYHOLDER_FILE), identity=identity, entropy=secrets.token_bytes)
    except KeyholderFileUnusable as unusable:
        raise CannotRun(str(unusable)) from None
    return store.share(key.epoch) is not None


def _key_data(key: "KeyRow") -> dict[str, Any]:
    return {
        "epoch": key.epoch,
        "public_key": key.public_key.hex(),
        "threshold": key.threshold,
        "since_s": key.since_s,
        "holders": [
            {"number": one.index, "holder": one.party.hex(), "left_s": one.left_s or None} for one in key.holders
        ],
    }


def _ceremony_data(line: "CeremonyLine") -> dict[str, Any]:
    row = line.row
    return {
        "ceremony": line.id.hex(),
        "kind": row.kind.name.lower(),
        "epoch": row.epoch,
        "threshold": row.threshold,
        "round": row.phase.name.lower(),
        "round_opened_s": row.round_opened_s,
        "round_s": row.round_s,
        "holders": [one.hex() for one in row.holders],
        "waits_for": [one.hex() for one in line.waits_for],
    }


def _misdeed_data(line: "MisdeedLine") -> dict[str, Any]:
    return {
        "holder": line.holder.hex(),
        "epoch": line.epoch,
        "kind": line.kind.name.lower(),
        "about": line.row.about.hex(),
        "at_s": line.row.at_s,
    }


def _holder_cells(key: "KeyRow") -> list[tuple[str, str, str]]:
    return [(str(one.index), one.party.hex(), "left" if one.left_s else "") for one in key.holders]


def _cells(line: "CeremonyLine") -> tuple[str, str, str, str, str]:
    row = line.row
    waits = " ".join(one.hex() for one in line.waits_for)
    return line.id.hex(), str(row.epoch), row.phase.name.lower(), moment(row.round_opened_s), waits


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
