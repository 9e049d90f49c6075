"""``carechain record seal``, ``open`` and ``search``: records that no vault and no single organisation can read."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from carechain.cli import keyholders
from carechain.cli.options import ByAnyone, ByOrganisation, GatekeeperOption
from carechain.cli.output import (
    CannotRun,
    Denied,
    Desk,
    OptionGroup,
    Report,
    command,
    counted,
    lines,
    sub_app,
    table,
    tables,
)
from carechain.cli.terms import ceiling, clinical_date, day, identifier
from carechain.core.vocabulary import Category, Sensitivity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from carechain.chain.questions import AnchorLine
    from carechain.cli.acting import Desktop, Seat
    from carechain.cli.sealed_jobs import Asked, Job, SealingJournal
    from carechain.cli.unsealing import Quorum, Shown, Then, Unsealed
    from carechain.cli.writing_sealed import Written
    from carechain.sdk.searching import IndexSecret

app = sub_app("")

INDEX_SECRET: Final = "index.secret"  # noqa: S105 - a file's name
_KEYHOLDERS_VARIABLE: Final = "CARECHAIN_KEYHOLDERS"


def category(text: str) -> Category:
    """One category."""
    wanted = text.strip().upper().replace("-", "_")
    for one in Category:
        if one.name == wanted:
            return one
    raise typer.BadParameter(f"{text!r} is none of: {', '.join(one.name.lower() for one in Category)}")


KeyholdersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keyholder",
        envvar=_KEYHOLDERS_VARIABLE,
        show_envvar=False,
        metavar="PARTY=URL",
        help="Where a keyholder's gatekeeper answers, besides those this home knows; may be repeated.",
    ),
]
TicketOption = Annotated[bytes, typer.Option("--ticket", parser=identifier, metavar="ID", help="An allowed ticket.")]
AccuseOption = Annotated[
    bool, typer.Option("--accuse", help="Put a keyholder that signed a false share on the ledger, with the proof.")
]


CategoryOption = Annotated[
    Category | None,
    typer.Option("--category", parser=category, metavar="CATEGORY", help="Which kind of record: encounter, result …"),
]
GradeOption = Annotated[
    Sensitivity | None,
    typer.Option(
        "--sensitivity", parser=ceiling, metavar="GRADE", help="U L M N R V; of a bundle's records the least."
    ),
]
DayOption = Annotated[
    int | None, typer.Option("--day", parser=day, metavar="DATE", help="The clinical day, for example 2026-11-21.")
]
NewVersionOption = Annotated[
    bytes | None, typer.Option("--record", parser=identifier, metavar="ID", help="A new version of this record.")
]


class Labels(OptionGroup, frozen=True):
    """What the ledger is to say of a record; a bundle's records say it themselves."""

    category: CategoryOption = None
    sensitivity: GradeOption = None
    day: DayOption = None
    record: NewVersionOption = None


class Indexing(OptionGroup, frozen=True):
    """By which words a record is found."""

    words: Annotated[
        Path | None,
        typer.Option("--words-file", metavar="FILE", help="Text by which it is found, for images and scans (UTF-8)."),
    ] = None
    index: Annotated[bool, typer.Option("--index/--no-index", help="Whether the vault can be asked for its words.")] = (
        True
    )


# --- seal -----------------------------------------------------------------------------------------------


@command(app, "seal")
def seal(  # noqa: PLR0913 - what can be said of a sealing, each of it by name
    desk: Desk,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A FHIR R4 bundle of one patient, or any one file: DICOM, PDF, text.")
    ],
    patient: Annotated[str, typer.Option("--patient", metavar="PSEUDONYM", help="The patient's pseudonym here.")],
    labels: Labels,
    indexing: Indexing,
    whole: Annotated[bool, typer.Option("--whole", help="Seal a bundle as one file.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Seal it as a record once more.")] = False,
    by: ByOrganisation,
    gatekeeper: GatekeeperOption = None,
) -> Report:
    """Seal a file to the consortium's key, put it into this organisation's vault, and anchor it on the ledger.

    Nobody can open it afterwards but the holder of a ticket, together with the keyholders: the key is gone when this
    returns. A command that was cut short, or refused for want of a grant, is simply run again; one that was done
    changes nothing the second time.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.sealed_jobs import Asked, is_bundle, job_id, journal_of, require_fitting
    from carechain.sdk.searching import IndexSecret

    if not file.is_file():
        raise CannotRun(f"{file} is not a file")
    desktop = Desktop(desk, by)
    asked = Asked(
        file=file,
        pseudonym=desktop.keys.party(patient, hint="--patient"),
        category=labels.category,
        sensitivity=labels.sensitivity,
        day=labels.day,
        record=labels.record,
        whole=whole,
        words=indexing.words,
        index=indexing.index,
    )
    bundle = is_bundle(asked)
    require_fitting(asked, bundle=bundle)
    with journal_of(desk.home) as journal:
        secret = IndexSecret.load_or_create(desktop.keys.folder / INDEX_SECRET, entropy=_entropy)
        with desk.progress("reading") as advance:
            job = job_id(asked, secret, bundle=bundle, advance=advance)
        if again:
            journal.forget(job)
        known = journal.job(job)
        if known is not None and known.sealed is not None:
            return _sealed_before(asked, known)
        written = _write(desktop, asked, (job, known), journal, secret, bundle=bundle, url=gatekeeper)
    return _written(asked, written)


def _write(
    desktop: "Desktop",
    asked: "Asked",
    job: "tuple[bytes, Job | None]",
    journal: "SealingJournal",
    secret: "IndexSecret",
    *,
    bundle: bool,
    url: str | None,
) -> "Written":
    from carechain.cli.doors import own_door
    from carechain.cli.unsealing import key_in_force
    from carechain.cli.writing_sealed import SealingWriter, began_s, next_version
    from carechain.sdk.sealed import Consortium

    door = own_door(desktop, url)
    with desktop.seat(desktop.anyone()) as seat:
        key = key_in_force(seat)
        known = job[1] or journal.begin(
            job[0], began_s=began_s(), version=next_version(seat, asked.pseudonym, asked.record)
        )
        consortium = Consortium(chain_id=seat.chain_id, public_key=key.public_key, suite=seat.institution)
        writer = SealingWriter(desktop.desk, seat, journal=journal, secret=secret, consortium=consortium, door=door)
        return writer.run(asked, known, bundle=bundle)


def _entropy(size: int) -> bytes:
    import secrets

    return secrets.token_bytes(size)


def _sealed_before(asked: "Asked", job: "Job") -> Report:
    records = [{"record": record.hex(), "version": version} for record, version in job.sealed or ()]
    data = {"pseudonym": asked.pseudonym.hex(), "already": True, "records": records, "transactions": []}
    said = [f"sealed before; nothing was done ({counted(len(records), 'record')}). Once more: --again"]
    return Report(data=data, show=lines(*said, *(str(one["record"]) for one in records)))


def _written(asked: "Asked", written: "Written") -> Report:
    rows = []
    text = []
    for item in written.items:
        about, searchable = item.about, item.about.record in written.searchable
        stored = written.objects.get(about.record)
        rows.append(
            {
                "record": about.record.hex(),
                "version": about.version,
                "category": about.category.name.lower(),
                "sensitivity": about.sensitivity.name,
                "day": clinical_date(about.day),
                "resources": len(item.resources),
                "size_bytes": item.size_bytes,
                "object": None if stored is None else stored.object.hex(),
                "searchable": searchable,
            }
        )
        text.append(
            (
                about.record.hex(),
                str(about.version),
                about.category.name.lower(),
                about.sensitivity.name,
                clinical_date(about.day),
                str(len(item.resources)),
                str(item.size_bytes),
                "yes" if searchable else "no",
            )
        )
    data = {
        "pseudonym": asked.pseudonym.hex(),
        "already": False,
        "records": rows,
        "left_out": written.left_out,
        "indices": written.indices,
        "transactions": [one.tx_id.hex() for one in written.done],
        "height": written.done[-1].height if written.done else None,
    }
    columns = ("record", "version", "category", "grade", "day", "resources", "bytes", "searchable")
    title = f"{counted(len(rows), 'record')} sealed, stored and anchored; the keys are gone"
    return Report(data=data, show=tables(table(title, columns, text)))


# --- open -----------------------------------------------------------------------------------------------


@command(app, "open")
def open_sealed(
    desk: Desk,
    *,
    ticket: TicketOption,
    records: Annotated[
        list[bytes] | None,
        typer.Option("--record", parser=identifier, metavar="ID", help="Only this record; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write each resource to a file in this folder.")
    ] = None,
    keyholder: KeyholdersOption = None,
    accuse: AccuseOption = False,
    by: ByAnyone,
    gatekeeper: GatekeeperOption = None,
) -> Report:
    """Open the sealed records that a ticket covers, with the keyholders' help, and check them against the ledger.

    The ciphertext comes from the custodian's vault. Neither it nor any keyholder is believed: what does not lead to the
    ledger is refused, and a keyholder that signs a false share is named. Large records need --out, and no more memory
    than small ones; a fetch that was cut short goes on where it was.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.unsealing import chosen, shown_through

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.anyone()) as seat:
        shown = shown_through(seat, ticket)
        wanted = chosen(shown, records)
        helped = _Help(desktop, seat, shown, keyholder, accuse=accuse)
        opened = helped.run(wanted, url=gatekeeper, out=out) if wanted else []
    return _opened(ticket, opened, helped.data(), out)


class _Help:
    """The keyholders as one command uses them, and what is said about them at its end, however it ends."""

    def __init__(
        self, desktop: "Desktop", seat: "Seat", shown: "Shown", given: list[str] | None, *, accuse: bool
    ) -> None:
        from carechain.cli.doors import known_doors
        from carechain.cli.unsealing import Trouble

        self._desktop = desktop
        self._seat = seat
        self._shown = shown
        self._doors = known_doors(desktop.desk.home, desktop.keys, given)
        self._accuse = accuse
        self._trouble: Trouble = Trouble()
        self._quorum: Quorum | None = None
        self._accused: dict[bytes, str] = {}

    def run(
        self,
        wanted: "Sequence[AnchorLine]",
        *,
        url: str | None,
        out: Path | None = None,
        then: "Then | None" = None,
    ) -> "list[Unsealed]":
        """Open these records, and do something with them while the doors are open."""
        from carechain.cli.unsealing import Unsealer, not_enough, quorum_of
        from carechain.cli.unsealing import accuse as put_on_ledger
        from carechain.sdk.failures import Refused
        from carechain.sdk.gathering import NotEnoughShares

        desktop, seat = self._desktop, self._seat
        self._quorum = quorum_of(seat, self._doors)
        unsealer = Unsealer(seat, self._shown, self._quorum, self._trouble, desktop.desk)
        failure: NotEnoughShares | None = None
        opened: list[Unsealed] = []
        try:
            opened = unsealer.run(wanted, vault_url=self.vault_url(url), out=out, then=then)
        except NotEnoughShares as error:
            failure = error
        except Refused as refused:
            raise Denied(code=refused.code, label=refused.label, reason=refused.reason) from None
        self._trouble.tell(desktop.desk, desktop.keys.name_of, accusing=self._accuse)
        if self._accuse:
            self._accused = put_on_ledger(seat, self._trouble.lied)
        if failure is not None:
            raise not_enough(failure, {"keyholders": self.data()})
        return opened

    def vault_url(self, given: str | None) -> str:
        """Where the custodian's vault answers."""
        return given or self._doors.get(self._shown.row.custodian) or self._desktop.gatekeeper_url()

    def data(self) -> dict[str, object] | None:
        """Who lied and who gave nothing, as JSON; None where nobody was asked."""
        return None if self._quorum is None else self._trouble.data(self._quorum, self._accused)


def _opened(ticket: bytes, opened: "list[Unsealed]", asked: "dict[str, object] | None", out: Path | None) -> Report:
    from carechain.cli.unsealing import file_data

    data = {
        "ticket": ticket.hex(),
        "verified": True,
        "records": [
            {
                "record": one.line.record.hex(),
                "version": one.line.version,
                "root": one.line.anchor.root.hex(),
                "resources": [file_data(file) for file in one.files],
            }
            for one in opened
        ],
        "files": [str(file.path) for one in opened for file in one.files if file.path is not None],
        "keyholders": asked,
    }
    count = sum(len(one.files) for one in opened)
    said = [f"{counted(len(opened), 'record')} with {counted(count, 'resource')}, every byte as anchored on the ledger"]
    if out is not None:
        said.append(f"written to {out}")
    else:
        said += [_text_of(file.content) for one in opened for file in one.files]
    return Report(data=data, show=lines(*said))


def _text_of(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"({len(content)} bytes that are no text: write them to files with --out DIR)"


# --- search ---------------------------------------------------------------------------------------------


@command(app, "search")
def search(
    desk: Desk,
    *,
    words: Annotated[
        list[str],
        typer.Argument(metavar="WORDS...", help="What records must all have; - reads it from standard input."),
    ],
    ticket: TicketOption,
    keyholder: KeyholdersOption = None,
    accuse: AccuseOption = False,
    by: ByAnyone,
    gatekeeper: GatekeeperOption = None,
) -> Report:
    """Find the sealed records under a ticket that have all of these words, without showing the vault any of them.

    Opens the index keys that the ticket covers, with the keyholders' help, and asks the custodian's vault by tokens.
    What is typed stands in this machine's list of processes; read it from standard input where others use the machine.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.finding import Finder
    from carechain.cli.unsealing import shown_through
    from carechain.core.rejection import require
    from carechain.sdk.searching import SearchCode, index_lines

    phrase = sys.stdin.read() if words == ["-"] else " ".join(words)
    desktop = Desktop(desk, by)
    with desktop.seat(desktop.anyone()) as seat:
        shown = shown_through(seat, ticket)
        indices = index_lines(shown.row.pseudonym, shown.lines)
        require(indices, SearchCode.NO_INDEX)
        helped = _Help(desktop, seat, shown, keyholder, accuse=accuse)
        finder = Finder(shown, indices, phrase, url=helped.vault_url(gatekeeper))
        helped.run(indices, url=gatekeeper, then=finder.ask)
    return _found(ticket, finder.found, helped.data())


def _found(ticket: bytes, found: "list[AnchorLine]", asked: "dict[str, object] | None") -> Report:
    rows = [
        {
            "record": one.record.hex(),
            "version": one.version,
            "category": one.anchor.category.name.lower(),
            "sensitivity": one.anchor.sensitivity.name,
            "day": clinical_date(one.anchor.day),
            "resources": one.anchor.resources,
        }
        for one in found
    ]
    text = [[str(value) for value in row.values()] for row in rows]
    columns = ("record", "version", "category", "grade", "day", "resources")
    how = f"carechain record open --ticket {ticket.hex()} --record ID"
    title = f"{counted(len(rows), 'record')} found" + (f"; open one with: {how}" if rows else "")
    data: dict[str, Any] = {"ticket": ticket.hex(), "records": rows, "keyholders": asked}
    return Report(data=data, show=tables(table(title, columns, text)))


# --- addresses ------------------------------------------------------------------------------------------


@command(keyholders.app, "address")
def address(
    desk: Desk,
    *,
    party: Annotated[
        str | None, typer.Argument(metavar="PARTY", help="A name of the address book, or an id; none shows all.")
    ] = None,
    url: Annotated[str | None, typer.Argument(metavar="URL", help="Where its gatekeeper answers.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Note no address for it any more.")] = False,
) -> Report:
    """Note where an organisation's gatekeeper answers, so that sealed records can be opened from here.

    Without a name, what is noted is shown.
    """
    from carechain.cli.doors import note_door, noted_doors
    from carechain.cli.keyring import Keyring

    keys = Keyring(desk.home)
    if party is None:
        doors = noted_doors(desk.home)
    elif forget or url is not None:
        doors = note_door(desk.home, keys.party(party, hint="PARTY"), None if forget else url)
    else:
        raise typer.BadParameter("give the address too, or --forget", param_hint="URL")
    rows = [{"party": one.hex(), "url": found} for one, found in sorted(doors.items())]
    text = [(keys.name_of(one), found) for one, found in sorted(doors.items())]
    return Report(data={"doors": rows}, show=tables(table("Gatekeepers", ("organisation", "address"), text)))
