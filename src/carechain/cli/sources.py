"""``carechain source``: gatekeepers in front of existing databases and FHIR servers, whose data stays where it is."""

# ruff: noqa: PLC0415 - what needs a database or the network is imported by the command that uses it, so help is quick

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import ByOrganisation
from carechain.cli.output import Denied, Desk, Exit, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from carechain.cli.sourcing import PatientSynced
    from carechain.sources.base import Source
    from carechain.sources.registry import Settings

app = sub_app("Existing systems: put a gatekeeper in front, link patients, compare and anchor, check.")
sql_app = sub_app("Databases: a hospital's own schema, read through registered queries.")
fhir_app = sub_app("FHIR servers: another server's resources, read where they are.")
app.add_typer(sql_app, name="sql")
app.add_typer(fhir_app, name="fhir")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The source's name: small letters, digits, hyphens.")]
PseudonymOption = Annotated[
    str | None, typer.Option("--patient", metavar="PSEUDONYM", help="Only this patient; all linked ones unless given.")
]


@command(sql_app, "add")
def add_sql(
    desk: Desk,
    *,
    name: NameArgument,
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="postgresql+psycopg://USER@HOST/DATABASE, mysql+pymysql://…, …")
    ],
    mapping: Annotated[
        Path, typer.Option("--mapping", metavar="FILE", help="The mapping file: queries and templates.")
    ],
    database_password_file: Annotated[
        Path | None,
        typer.Option("--database-password-file", metavar="FILE", help="The database user's password (mode 0600)."),
    ] = None,
) -> Report:
    """Put a gatekeeper in front of a database. Its user must have no right but to read, and every query must work."""
    from carechain.sources.registry import SqlSettings

    file = None if database_password_file is None else str(database_password_file.expanduser().resolve())
    return _add(desk, name, SqlSettings(url=url, password_file=file), mapping.expanduser().read_bytes())


@command(sql_app, "example")
def example(
    desk: Desk,
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to write schema, data and mapping into.")],
) -> Report:
    """Write a worked example: a schema in the manner of OpenMRS, made-up patients, and the mapping for both."""
    from carechain.sources.examples import OPENMRS, read_example

    del desk
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in OPENMRS]
    for path in written:
        path.write_text(read_example(path.name), encoding="utf-8")
    return Report(data={"files": [str(path) for path in written]}, show=lines(*(f"written {path}" for path in written)))


@command(fhir_app, "add")
def add_fhir(
    desk: Desk,
    *,
    name: NameArgument,
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The base address of a FHIR R4 server.")],
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="A bearer token for the server (mode 0600).")
    ] = None,
    server_ca: Annotated[
        Path | None, typer.Option("--server-ca", metavar="FILE", help="The authorities (PEM) to believe there.")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="A resource type to ask for; may be repeated."),
    ] = None,
) -> Report:
    """Put a gatekeeper in front of another FHIR server. Nothing but GET is sent to it."""
    from carechain.sources.fhir.source import DEFAULT_TYPES
    from carechain.sources.registry import FhirSettings

    settings = FhirSettings(
        url=url,
        token_file=None if token_file is None else str(token_file.expanduser().resolve()),
        ca_file=None if server_ca is None else str(server_ca.expanduser().resolve()),
        types=tuple(types or DEFAULT_TYPES),
    )
    return _add(desk, name, settings, None)


@command(app, "list")
def list_sources(desk: Desk) -> Report:
    """List the sources of this home, and how many patients are linked."""
    from carechain.cli.sourcing import open_pointers
    from carechain.sources.registry import SqlSettings

    rows: list[dict[str, object]] = []
    with open_pointers(desk.home) as (sources, pointers):
        for name in sources.names():
            settings = sources.settings(name)
            links = pointers.links(name)
            rows.append(
                {
                    "source": name,
                    "kind": "sql" if isinstance(settings, SqlSettings) else "fhir",
                    "url": settings.url,
                    "patients": len(links),
                    "synced_s": max((one.synced_s for one in links if one.synced_s is not None), default=None),
                    "gone": len(pointers.gone(name)),
                }
            )
    text = [
        (
            str(row["source"]),
            str(row["kind"]),
            str(row["url"]),
            str(row["patients"]),
            moment(row["synced_s"]) if isinstance(row["synced_s"], int) else "never",
            str(row["gone"]),
        )
        for row in rows
    ]
    columns = ("source", "kind", "address", "patients", "compared (UTC)", "records gone")
    return Report(data={"sources": rows}, show=tables(table("Sources", columns, text)))


@command(app, "link")
def link(
    desk: Desk,
    *,
    name: NameArgument,
    patient: Annotated[str, typer.Option("--patient", metavar="PSEUDONYM", help="The patient's pseudonym here.")],
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="The patient's key in the source.")],
) -> Report:
    """Say which patient of a source a pseudonym is. The key stays in this home."""
    from carechain.cli.keyring import Keyring
    from carechain.cli.sourcing import open_pointers, patient_key

    pseudonym = Keyring(desk.home).party(patient, hint="--patient")
    with open_pointers(desk.home) as (sources, pointers), _named():
        pointers.link(name, pseudonym, patient_key(sources, name, key))
    data = {"source": name, "pseudonym": pseudonym.hex()}
    return Report(data=data, show=lines(f"{pseudonym.hex()} is linked to a patient of {name}"))


@command(app, "sync")
def sync(desk: Desk, *, name: NameArgument, patient: PseudonymOption = None, by: ByOrganisation) -> Report:
    """Compare linked patients with their source, and anchor new records and new versions.

    What changed there is a new version; what is gone is reported. What is not yet on the ledger is anchored too, so a
    command that was cut short, or refused for want of a grant, is simply run again.
    """
    from carechain.cli.acting import Desktop
    from carechain.cli.sourcing import sync_source

    desktop = Desktop(desk, by)
    only = None if patient is None else desktop.keys.party(patient, hint="--patient")
    with desktop.seat(desktop.anyone()) as seat, _named():
        done = sync_source(desk, seat, name, only)
    text = [
        (
            one.pseudonym.hex(),
            str(one.results),
            f"{one.added}/{one.changed}/{one.deleted}",
            str(len(one.anchored)),
            str(len(one.gone)),
            "" if one.refused is None else one.refused.label,
        )
        for one in done
    ]
    columns = ("patient", "results", "new/changed/deleted", "versions anchored", "records gone", "refused")
    title = f"{counted(len(done), 'patient')} of {name} compared"
    status = Exit.REFUSED if any(one.refused is not None for one in done) else Exit.DONE
    data = {"source": name, "patients": [_synced(one) for one in done]}
    return Report(data=data, show=tables(table(title, columns, text)), status=status)


@command(app, "check")
def check(
    desk: Desk,
    *,
    name: NameArgument,
    records: Annotated[
        bool, typer.Option("--records", help="Read every record again and compare it with its root.")
    ] = False,
) -> Report:
    """Look whether a source can be used and is only read.

    With --records, every record is read again: is it still what was anchored, was it altered, or is it gone?
    """
    from carechain.cli.sourcing import check_records, open_pointers

    with open_pointers(desk.home) as (sources, pointers), _named():
        checked = sources.source(name).check()
        found = check_records(desk, sources, pointers, name) if records else None
    said = [f"{name} is {checked.product}, read only; queries: {', '.join(checked.queries)}"]
    data: dict[str, object] = {"source": name, "product": checked.product, "queries": list(checked.queries)}
    if found is None:
        return Report(data=data, show=lines(*said))
    data |= {
        "unaltered": found.unaltered,
        "altered": [one.hex() for one in found.altered],
        "gone": [one.hex() for one in found.gone],
    }
    said.append(f"{counted(found.unaltered, 'record')} as anchored")
    said += [f"altered: {one.hex()}" for one in found.altered]
    said += [f"gone: {one.hex()}" for one in found.gone]
    status = Exit.REFUSED if found.altered or found.gone else Exit.DONE
    return Report(data=data, show=lines(*said), status=status)


def _add(desk: Desk, name: str, settings: "Settings", mapping: bytes | None) -> Report:
    from carechain.cli.sourcing import home_of
    from carechain.sources.registry import Sources

    home_of(desk.home)
    with Sources(desk.home) as sources, _named():
        source: Source = sources.add(name, settings, mapping=mapping)
        checked = source.check()
    data = {"source": name, "product": checked.product, "queries": list(checked.queries)}
    return Report(
        data=data, show=lines(f"{name} is {checked.product}; link patients with: carechain source link {name}")
    )


def _synced(one: "PatientSynced") -> dict[str, object]:
    return {
        "pseudonym": one.pseudonym.hex(),
        "results": one.results,
        "added": one.added,
        "changed": one.changed,
        "deleted": one.deleted,
        "gone": [record.hex() for record in one.gone],
        "anchored": [{"record": record.hex(), "version": version} for record, version in one.anchored],
        "height": one.height,
        "refused": None
        if one.refused is None
        else {"code": one.refused.code, "label": one.refused.label, "reason": one.refused.reason},
    }


@contextmanager
def _named() -> "Iterator[None]":
    """A refusal that is about one query of the mapping, told with the query and the place in its template."""
    from carechain.sources.base import Unmapped

    try:
        yield
    except Unmapped as refused:
        at = f", at {refused.place}" if refused.place else ""
        raise Denied(
            code=int(refused.code),
            label=refused.code.label,
            reason=f"{refused.code.reason} (query {refused.query}{at})",
            data={"query": refused.query, "place": refused.place},
        ) from None
