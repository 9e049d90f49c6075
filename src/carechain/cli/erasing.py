"""``carechain record erase`` and ``record erasure``: order that a record is destroyed, and see who has done it."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.codes import CommandCode
from carechain.cli.options import ByAnyone, PatientOption
from carechain.cli.output import Denied, Desk, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import clinical_date, identifier, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from carechain.chain.questions import AnchorLine, ErasureLine

app = sub_app("")

RecordArgument = Annotated[bytes, typer.Argument(parser=identifier, metavar="RECORD", help="The record's id.")]


@command(app, "erase")
def erase(
    desk: Desk,
    *,
    record: RecordArgument,
    patient: PatientOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this, what would go is shown.")] = False,
    by: ByAnyone,
) -> Report:
    """Order the erasure of a record, all its versions, wherever it is kept. It cannot be taken back.

    From then on no door gives it out, and every organisation that keeps something of it destroys that and signs a
    receipt. For the patient, and for a representative who may erase and whose scope is everything.
    """
    from carechain.chain.questions import AnchorLine, HistoryPage
    from carechain.cli.acting import Desktop
    from carechain.contracts.records import Erase

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        if not yes:
            raise _not_confirmed(desk, seat.rows("records.history", AnchorLine, HistoryPage(pseudonym, record)))
        done = seat.submit(Erase(pseudonym=pseudonym, record=record))
    return Report(
        data={"pseudonym": pseudonym.hex(), "record": record.hex(), **done.data()},
        show=lines(
            f"ordered: record {record.hex()} is unknown to every door from now on",
            done.text(),
            f"see who has destroyed what: carechain record erasure {record.hex()}",
        ),
    )


@command(app, "erasure")
def erasure(desk: Desk, *, record: RecordArgument, patient: PatientOption = None, by: ByAnyone) -> Report:
    """Show the order to erase a record, and the signed receipts of those who destroyed something of it."""
    from carechain.chain.questions import ErasureLine, OfRecord
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        found = seat.row("records.erasure", ErasureLine, OfRecord(pseudonym, record))
    return _status(pseudonym, found, desktop.keys.name_of)


def _not_confirmed(desk: Desk, versions: "list[AnchorLine]") -> Denied:
    for one in versions:
        what = f"{one.anchor.category.name.lower()}, {one.anchor.sensitivity.name}, {clinical_date(one.anchor.day)}"
        desk.say(f"would go: version {one.version} ({what}, {counted(one.anchor.resources, 'resource')})")
    code = CommandCode.ERASURE_NOT_CONFIRMED
    return Denied(code=int(code), label=code.label, reason=code.reason, data={"versions": len(versions)})


def _status(pseudonym: bytes, found: "ErasureLine", name_of: "Callable[[bytes], str]") -> Report:
    from carechain.contracts.records import ErasedPart

    def parts(mask: int) -> list[str]:
        return [one.name.lower() for one in ErasedPart if one.name and mask & one]

    data = {
        "pseudonym": pseudonym.hex(),
        "record": found.record.hex(),
        "ordered_by": found.order.ordered_by.hex(),
        "ordered_s": found.order.ordered_s,
        "ordered_height": found.order.ordered_height,
        "receipts": [
            {
                "organisation": one.organisation.hex(),
                "destroyed": parts(one.receipt.destroyed),
                "signed_by": one.receipt.signed_by.hex(),
                "confirmed_s": one.receipt.confirmed_s,
                "confirmed_height": one.receipt.confirmed_height,
            }
            for one in found.receipts
        ],
    }
    text = [
        (
            name_of(one.organisation),
            ", ".join(parts(one.receipt.destroyed)),
            moment(one.receipt.confirmed_s),
            str(one.receipt.confirmed_height),
        )
        for one in found.receipts
    ]
    ordered = f"erasure ordered {moment(found.order.ordered_s)} UTC at height {found.order.ordered_height}"
    title = f"{ordered}; {counted(len(text), 'receipt')}"
    return Report(
        data=data, show=tables(table(title, ("organisation", "destroyed", "confirmed (UTC)", "height"), text))
    )
