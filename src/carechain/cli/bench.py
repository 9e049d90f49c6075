"""``carechain bench``: measure this machine; every figure stands beside its yardstick of the same run."""

# ruff: noqa: PLC0415 - what needs the network and the databases is imported by the command that uses it, so help is quick

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from carechain.cli.output import Desk, OptionGroup, Report, command, console, lines, sub_app

app = sub_app("Benchmarks. Every result states machine, payload, policy and nodes.")

Advance = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


class Engine(StrEnum):
    """What orders the transactions."""

    EMBEDDED = "embedded"
    COMETBFT = "cometbft"


class Stores(StrEnum):
    """Where charts lie; both means PostgreSQL where it is installed, too."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    BOTH = "both"


class On(OptionGroup, frozen=True):
    """What every benchmark can be told."""

    engine: Annotated[Engine, typer.Option("--engine", help="What orders the transactions.")] = Engine.EMBEDDED
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="An existing folder for the ledger: its disk is measured."),
    ] = None


ValidatorsOption = Annotated[
    int | None, typer.Option("--validators", min=1, max=16, help="With --engine cometbft: how many organisations.")
]
WritesOption = Annotated[int | None, typer.Option("--writes", min=1, help="How many writes are measured.")]
PatientsOption = Annotated[int | None, typer.Option("--patients", min=1, help="How many patients the ledger has.")]


@command(app, "saturate")
def saturate(
    _: Desk,
    *,
    keys: Annotated[int | None, typer.Option("--keys", min=100, help="Size of the state, in keys.")] = None,
    writes: WritesOption = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds; the median is reported.")] = None,
    validators: ValidatorsOption = None,
    on: On,
) -> Report:
    """Durable writes per second of presigned 600-byte anchors, beside the signatures one core verifies."""
    if on.engine is Engine.COMETBFT:
        from carechain.bench import agreed

        with _agreeing() as progress:
            given = _given(validators=validators, writes=writes)
            return _report(agreed.run_saturate(**given, folder=on.folder, progress=progress), agreed.render_saturate)
    from carechain.bench.saturate import render, run_saturate

    with _progress() as progress:
        result = run_saturate(**_given(keys=keys, writes=writes, rounds=rounds), folder=on.folder, progress=progress)
    return _report(result, render)


@command(app, "write")
def write(
    _: Desk,
    *,
    writes: WritesOption = None,
    patients: PatientsOption = None,
    validators: ValidatorsOption = None,
    on: On,
) -> Report:
    """One write at a time, batch size 1: milliseconds until it is durable."""
    if on.engine is Engine.COMETBFT:
        from carechain.bench import agreed

        with _agreeing() as progress:
            given = _given(validators=validators, writes=writes, patients=patients)
            return _report(agreed.run_write(**given, folder=on.folder, progress=progress), agreed.render_write)
    from carechain.bench.write import render, run_write

    with _progress() as progress:
        result = run_write(**_given(writes=writes, patients=patients), folder=on.folder, progress=progress)
    return _report(result, render)


@command(app, "read")
def read(
    _: Desk,
    *,
    patients: PatientsOption = None,
    records: Annotated[int | None, typer.Option("--records", min=1, help="How many records the ledger has.")] = None,
    one_by_one: Annotated[
        int | None, typer.Option("--one-by-one", min=1, help="Queries of the client that waits for each answer.")
    ] = None,
    together: Annotated[
        int | None, typer.Option("--together", min=1, help="Queries of the clients that ask at once.")
    ] = None,
    connections: Annotated[
        int | None, typer.Option("--connections", min=1, max=1024, help="How many clients ask at once.")
    ] = None,
    on: On,
) -> Report:
    """Queries over HTTP, authenticated and checked: milliseconds alone, rate together."""
    from carechain.bench.read import render, run_read

    given = _given(
        patients=patients, records=records, one_by_one=one_by_one, together=together, connections=connections
    )
    with _progress() as progress:
        result = run_read(**given, folder=on.folder, progress=progress)
    return _report(result, render)


@command(app, "growth")
def growth(
    _: Desk,
    *,
    sizes: Annotated[
        list[int] | None, typer.Option("--size", min=1, help="A number of records; may be repeated.")
    ] = None,
    reads: Annotated[int | None, typer.Option("--reads", min=1, help="Reads at each size.")] = None,
    on: On,
) -> Report:
    """Reads, writes, disk and memory as the ledger grows from a thousand to a million records."""
    from carechain.bench.growth import render, run_growth

    given = _given(sizes=tuple(sorted(set(sizes))) if sizes else None, reads=reads)
    with _progress() as progress:
        result = run_growth(**given, folder=on.folder, progress=progress)
    return _report(result, render)


@command(app, "healthchain")
def healthchain(
    _: Desk,
    *,
    together: Annotated[int | None, typer.Option("--together", min=1, help="Reads and writes at once.")] = None,
    validators: ValidatorsOption = None,
    on: On,
) -> Report:
    """The published tables of HealthChain, measured here and printed beside the paper's figures."""
    from carechain.bench.healthchain import render, run_healthchain

    if on.engine is Engine.COMETBFT:
        from carechain.bench import agreed

        with _agreeing() as progress:
            given = _given(validators=validators, together=together)
            return _report(agreed.run_healthchain(**given, folder=on.folder, progress=progress), render)
    with _progress() as progress:
        result = run_healthchain(**_given(together=together), folder=on.folder, progress=progress)
    return _report(result, render)


@command(app, "seal")
def seal(
    _: Desk,
    *,
    content_mb: Annotated[
        int | None, typer.Option("--content-mb", min=1, max=2_000, help="How much content is sealed and opened.")
    ] = None,
    large_mb: Annotated[
        int | None, typer.Option("--large-mb", min=1, help="Size of the object whose memory is measured.")
    ] = None,
    records: Annotated[
        int | None, typer.Option("--records", min=1, max=500, help="How many records a request is about.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds; the median is reported.")] = None,
    on: On,
) -> Report:
    """Sealed objects, release shares of one keyholder, records opened, and ceremonies of the consortium key."""
    from carechain.bench.seal import render, run_seal

    sizes = _given(content_bytes=_bytes(content_mb), large_bytes=_bytes(large_mb), records=records, rounds=rounds)
    with _progress() as progress:
        result = run_seal(**sizes, folder=on.folder, progress=progress)
    return _report(result, render)


@command(app, "fhir")
def fhir(
    _: Desk,
    *,
    resources: Annotated[
        list[int] | None,
        typer.Option("--resources", min=100, help="How many resources the charts hold; may be repeated."),
    ] = None,
    store: Annotated[Stores, typer.Option("--store", help="Which databases are measured.")] = Stores.BOTH,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="An empty PostgreSQL database; else a private server is started."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option("--runs", min=1, help="How often each question is asked.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="An existing folder for the charts: its disk is measured."),
    ] = None,
) -> Report:
    """The FHIR server: loading, reads, searches, chains, what sights cost, exports, reads at another member."""
    from carechain.bench.fhir import Runs, render, run_fhir
    from carechain.bench.fhir_databases import ServerFailed
    from carechain.bench.filling import BenchFailed
    from carechain.cli.output import CannotRun

    given = _given(resources=resources, database=database, runs=None if rounds is None else Runs.of(rounds))
    try:
        with _progress() as progress:
            result = run_fhir(**given, store=store.value, folder=folder, progress=progress)
    except (BenchFailed, ServerFailed) as failed:
        raise CannotRun(str(failed)) from None
    return _report(result, render)


@command(app, "catch-up")
def catch_up(_: Desk, *, writes: WritesOption = None, validators: ValidatorsOption = None, on: On) -> Report:
    """How long a node of a consortium that comes late takes until it has everything."""
    from carechain.bench import agreed

    with _agreeing() as progress:
        given = _given(validators=validators, writes=writes)
        return _report(agreed.run_catch_up(**given, folder=on.folder, progress=progress), agreed.render_catch_up)


@contextmanager
def _agreeing() -> Iterator[Advance]:
    """As :func:`_progress`, on a machine that has the consensus engine."""
    from carechain.cli.output import CannotRun
    from carechain.engine.cometbft.binary import EngineMissing, find_cometbft

    try:
        find_cometbft()
    except EngineMissing as missing:
        raise CannotRun(str(missing)) from None
    with _progress() as progress:
        yield progress


def _report(result: dict[str, Any], render: Callable[[dict[str, Any]], str]) -> Report:
    return Report(data=result, show=lines(render(result).rstrip("\n")))


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * 1_000_000


def _given(**options: object) -> dict[str, Any]:
    """The options that were given: the others keep the benchmark's own defaults."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _progress() -> Iterator[Advance]:
    """A bar on standard error that says what is being done; nothing where nobody watches."""
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        yield lambda doing, done, total: bar.update(task, description=doing, completed=done, total=total)
