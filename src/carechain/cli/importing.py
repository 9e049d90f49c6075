"""``carechain record import``: what a patient brings along becomes FHIR in the charts, and is anchored."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import Denied, Desk, OptionGroup, Report, command, counted, lines, sub_app, table, tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from carechain.charts.store import Charts
    from carechain.sources.imports.base import ImportReport
    from carechain.sources.imports.kinds import Wishes

app = sub_app("Imports.")


class HowToRead(OptionGroup, frozen=True, kw_only=True):
    """What an import can be told about the file."""

    kind: Annotated[
        str | None,
        typer.Option("--kind", help="apple-health, fitbit, 23andme, csv, prom or fhir; told by the file unless given."),
    ] = None
    columns: Annotated[
        Path | None, typer.Option("--columns", metavar="FILE", help="Which column of a CSV file is what (TOML).")
    ] = None
    scoring: Annotated[
        list[Path] | None,
        typer.Option("--scoring", metavar="FILE", help="A scoring table (TOML) for questionnaires; may be repeated."),
    ] = None
    marker: Annotated[
        list[str] | None,
        typer.Option("--marker", metavar="RSID", help="A genetic marker to show by itself; may be repeated."),
    ] = None
    every_sample: Annotated[
        bool, typer.Option("--every-sample", help="Keep each heart beat and step instead of sums of days.")
    ] = False
    time_zone: Annotated[str, typer.Option("--time-zone", help="Where times without an offset were written.")] = "UTC"


@command(app, "import")
def import_file(
    desk: Desk,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The export, as the patient brought it.")],
    patient: Annotated[str, typer.Option("--patient", metavar="PSEUDONYM", help="The patient's pseudonym here.")],
    how: HowToRead,
    by: ByOrganisation,
) -> Report:
    """Import a patient's own data: a phone's or a watch's, genotypes, a device's table, questionnaires, a FHIR bundle.

    A file that breaks off is refused and nothing of it is taken. Importing it again, or a later export, adds only what
    is new. What is skipped is said, with the reason and the first places.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.charting import anchor, not_anchored, open_charts
    from carechain.sources.imports.base import Unreadable

    desktop = Desktop(desk, by)
    pseudonym = desktop.keys.party(patient, hint="--patient")
    wishes = _wishes(how)
    with desktop.seat(desktop.anyone()) as seat, open_charts(desk.home) as charts:
        try:
            found = _imported(desk, charts, file.expanduser(), pseudonym, how, wishes)
        except Unreadable as refused:
            where = f" Look at {refused.place}." if refused.place else ""
            code = refused.code
            raise Denied(
                code=int(code), label=code.label, reason=code.reason + where, data={"place": refused.place}
            ) from None
        waiting = not_anchored(charts, seat, pseudonym)
        done = anchor(desk, seat, waiting)
    data = {
        "pseudonym": pseudonym.hex(),
        "kind": found.kind,
        "resources": found.resources,
        "changed": found.changed,
        "by_type": found.by_type,
        "skipped": [{"reason": one.reason, "count": one.count, "places": list(one.places)} for one in found.skipped],
        "anchored": len(waiting),
        "transactions": [one.tx_id.hex() for one in done],
    }
    return Report(data=data, show=_shown(found, len(waiting)))


def _imported(
    desk: Desk,
    charts: "Charts",
    file: Path,
    pseudonym: bytes,
    how: HowToRead,
    wishes: "Wishes",
) -> "ImportReport":
    import secrets
    import time

    from carechain.sources.imports.base import run_import
    from carechain.sources.imports.bundle_file import import_bundle
    from carechain.sources.imports.kinds import BUNDLE, importer_of, kind_of
    from carechain.sources.intake import ChartsIntake

    intake = ChartsIntake(charts, rng=secrets.token_bytes)
    received_s = int(time.time())
    with file.open("rb") as stream:
        kind = how.kind or ("csv" if wishes.table is not None else kind_of(stream))
        if kind == BUNDLE:
            return import_bundle(stream, intake=intake, pseudonym=pseudonym, received_s=received_s)
        with desk.progress("importing") as advance:
            return run_import(
                importer_of(kind, wishes),
                stream,
                intake=intake,
                pseudonym=pseudonym,
                zone=_zone(how.time_zone),
                received_s=received_s,
                advance=advance,
            )


def _wishes(how: HowToRead) -> "Wishes":
    from carechain.sources.imports.devices import read_table
    from carechain.sources.imports.kinds import Wishes
    from carechain.sources.imports.scoring import read_scoring

    return Wishes(
        every_sample=how.every_sample,
        table=None if how.columns is None else read_table(how.columns.expanduser().read_bytes()),
        scoring=tuple(read_scoring(one.expanduser().read_bytes()) for one in how.scoring or ()),
        markers=tuple(how.marker or ()),
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise typer.BadParameter("a zone has a name such as Asia/Shanghai", param_hint="--time-zone") from None


def _shown(found: "ImportReport", anchored: int) -> "Callable[[Console], None]":
    said = lines(
        f"{found.kind}: {counted(found.resources, 'resource')}, {found.changed} new or changed; "
        f"{counted(anchored, 'record version')} anchored"
    )
    kinds = table("", ("type", "resources"), [(name, str(count)) for name, count in found.by_type.items()])
    skipped = table(
        "Skipped",
        ("count", "why", "for example at"),
        [(str(one.count), one.reason, "; ".join(one.places)) for one in found.skipped],
    )

    def show(screen: "Console") -> None:
        said(screen)
        tables(kinds, *((skipped,) if found.skipped else ()))(screen)

    return show
