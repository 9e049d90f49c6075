"""``carechain record``: add to the organisation's charts and anchor, read elsewhere through the gatekeeper."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli import erasing, sealing
from carechain.cli.options import ByAnyone, ByOrganisation, GatekeeperOption
from carechain.cli.output import Desk, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import clinical_date, identifier, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from carechain.chain.questions import AnchorLine
    from carechain.cli.acting import Desktop
    from carechain.cli.keyring import Actor

app = sub_app("Records: add FHIR and anchor it; seal, open and search; read what a ticket allows; see versions; erase.")
app.add_typer(sealing.app)
app.add_typer(erasing.app)

OfPatientOption = Annotated[
    str | None,
    typer.Option("--patient", metavar="PSEUDONYM", help="The patient; a ticket's or a wallet's own unless given."),
]
TicketOption = Annotated[
    bytes | None, typer.Option("--ticket", parser=identifier, metavar="ID", help="See it through this ticket.")
]


@command(app, "add")
def add(
    desk: Desk,
    *,
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="A FHIR R4 bundle of one patient, JSON.")],
    patient: Annotated[str, typer.Option("--patient", metavar="PSEUDONYM", help="The patient's pseudonym here.")],
    by: ByOrganisation,
) -> Report:
    """Add a bundle to this organisation's charts and anchor its records on the ledger.

    What is in the charts but not yet on the ledger is anchored too, so a command that was cut short, or refused for
    want of a grant, is simply run again.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.charting import add_bundle

    desktop = Desktop(desk, by)
    pseudonym = desktop.keys.party(patient, hint="--patient")
    with desktop.seat(desktop.anyone()) as seat:
        added = add_bundle(desk, seat, bundle, pseudonym)
    rows = [
        {
            "record": one.record_id.hex(),
            "version": one.version,
            "category": one.category.name.lower(),
            "sensitivity": one.sensitivity.name,
            "day": clinical_date(one.effective_day),
            "resources": one.resource_count,
        }
        for one in added.anchored
    ]
    data = {
        "pseudonym": pseudonym.hex(),
        "resources": added.resources,
        "records": rows,
        "transactions": [one.tx_id.hex() for one in added.done],
        "height": added.done[-1].height if added.done else None,
    }
    text = [
        (
            one.record_id.hex(),
            str(one.version),
            one.category.name.lower(),
            one.sensitivity.name,
            clinical_date(one.effective_day),
            str(one.resource_count),
        )
        for one in added.anchored
    ]
    columns = ("record", "version", "category", "grade", "day", "resources")
    title = f"{counted(added.resources, 'resource')} read; {counted(len(added.anchored), 'record version')} anchored"
    return Report(data=data, show=tables(table(title, columns, text)))


@command(app, "get")
def get(
    desk: Desk,
    *,
    ticket: Annotated[bytes, typer.Option("--ticket", parser=identifier, metavar="ID", help="An allowed ticket.")],
    records: Annotated[
        list[bytes] | None,
        typer.Option("--record", parser=identifier, metavar="ID", help="Only this record; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write each resource to a file in this folder.")
    ] = None,
    by: ByAnyone,
    gatekeeper: GatekeeperOption = None,
) -> Report:
    """Fetch what a ticket allows from the custodian's gatekeeper, open it, and check it against the ledger.

    Every resource is shown as the exact bytes that the custodian received. Anything that differs from what was
    anchored, or is missing, refuses the whole answer.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.reading import fetch_records, resource_rows, write_resources

    desktop = Desktop(desk, by)
    with desktop.seat(desktop.anyone()) as seat:
        opened = fetch_records(seat, ticket, records, url=gatekeeper or desktop.gatekeeper_url())
    files = write_resources(out, opened) if out is not None else []
    data = {
        "ticket": ticket.hex(),
        "verified": True,
        "records": [
            {
                "record": one.record_id.hex(),
                "version": one.version,
                "root": one.root.hex(),
                **({} if out is not None else {"resources": resource_rows(one)}),
            }
            for one in opened
        ],
        "files": [str(path) for path in files],
    }
    count = sum(len(one.resources) for one in opened)
    said = [f"{counted(len(opened), 'record')} with {counted(count, 'resource')}, every byte as anchored on the ledger"]
    if out is not None:
        said.append(f"written to {out}")
    else:
        said += [resource.decode() for one in opened for resource in one.resources]
    return Report(data=data, show=lines(*said))


@command(app, "list")
def list_records(
    desk: Desk,
    *,
    patient: OfPatientOption = None,
    ticket: TicketOption = None,
    by: ByAnyone,
) -> Report:
    """List the records of a patient that you may see, every version."""
    from carechain.chain.questions import AnchorLine, TimelinePage
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    actor, pseudonym = _reader(desktop, patient, ticket)
    with desktop.seat(actor) as seat:
        found = seat.rows("records.timeline", AnchorLine, TimelinePage(pseudonym, ticket))
    return _anchors("Records", pseudonym, found, desktop.keys.name_of)


@command(app, "history")
def history(
    desk: Desk,
    *,
    record: Annotated[bytes, typer.Argument(parser=identifier, metavar="RECORD", help="The record's id.")],
    patient: OfPatientOption = None,
    ticket: TicketOption = None,
    by: ByAnyone,
) -> Report:
    """List every version of one record: when it was anchored, by whom, with which root."""
    from carechain.chain.questions import AnchorLine, HistoryPage
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    actor, pseudonym = _reader(desktop, patient, ticket)
    with desktop.seat(actor) as seat:
        found = seat.rows("records.history", AnchorLine, HistoryPage(pseudonym, record, ticket))
    return _anchors("Versions", pseudonym, found, desktop.keys.name_of)


def _reader(desktop: "Desktop", patient: str | None, ticket: bytes | None) -> "tuple[Actor, bytes]":
    """Who looks, and at which patient: the named one, the one a ticket is about, or the wallet's own."""
    if patient is None and ticket is not None:
        return desktop.ticket_holder(ticket)
    return desktop.patient_or_deputy(patient)


def _anchors(title: str, pseudonym: bytes, found: "list[AnchorLine]", name_of: "Callable[[bytes], str]") -> Report:
    rows = [
        {
            "record": one.record.hex(),
            "version": one.version,
            "category": one.anchor.category.name.lower(),
            "sensitivity": one.anchor.sensitivity.name,
            "day": clinical_date(one.anchor.day),
            "resources": one.anchor.resources,
            "root": one.anchor.root.hex(),
            "author": one.anchor.author.hex(),
            "anchored_s": one.anchor.anchored_s,
            "erased_s": None if one.erased is None else one.erased.ordered_s,
        }
        for one in found
    ]
    some_erased = any(one.erased is not None for one in found)

    def erased(one: "AnchorLine") -> tuple[str, ...]:
        when = "" if one.erased is None else moment(one.erased.ordered_s)
        return (when,) if some_erased else ()

    text = [
        (
            one.record.hex(),
            str(one.version),
            one.anchor.category.name.lower(),
            one.anchor.sensitivity.name,
            clinical_date(one.anchor.day),
            str(one.anchor.resources),
            name_of(one.anchor.author),
            moment(one.anchor.anchored_s),
            *erased(one),
        )
        for one in found
    ]
    ever = ("erased (UTC)",) if some_erased else ()
    columns = ("record", "version", "category", "grade", "day", "resources", "author", "anchored (UTC)", *ever)
    return Report(data={"pseudonym": pseudonym.hex(), "records": rows}, show=tables(table(title, columns, text)))
