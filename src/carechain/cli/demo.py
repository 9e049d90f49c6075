"""``carechain demo``: the whole story on one machine."""

# ruff: noqa: PLC0415 - what needs the network and the databases is imported by the command that uses it, so help is quick

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.output import Desk, Exit, Report, command, console, sub_app

if TYPE_CHECKING:
    from rich.console import Console

    from carechain.demo.run import Addresses, Summary
    from carechain.demo.step import Step

app = sub_app("")


@command(app, "demo")
def demo(
    desk: Desk,
    *,
    patients: Annotated[int, typer.Option("--patients", min=1, max=10_000, help="How many made-up patients.")] = 20,
    bundles: Annotated[
        Path | None,
        typer.Option("--bundles", metavar="DIR", help="A folder with FHIR R4 bundles instead of made-up patients."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other patients for another seed.")] = 1,
    serve: Annotated[bool, typer.Option("--serve", help="Go on answering after the story, until Ctrl-C.")] = False,
    consortium: Annotated[
        bool, typer.Option("--consortium", help="Four organisations' nodes agree on every block; needs CometBFT.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Keep the six organisations' homes in this new or empty folder."),
    ] = None,
) -> Report:
    """Show the whole system at work: six organisations, consent, an exchange, attacks, proofs.

    Everything happens on this machine and is thrown away at the end unless --keep names a folder; --home is not
    touched. Exits with 1 when a step does not hold.
    """
    from carechain.demo.run import run_demo
    from carechain.demo.show import print_step, progress_bar

    told = False
    terminal = desk.out.isatty()

    def on_step(step: "Step") -> None:
        if not desk.as_json:
            # On a terminal the bar has taken over standard output, and keeps itself below what is printed there.
            print_step(console(sys.stdout if terminal else desk.out), step)

    with ExitStack() as shown:
        progress = shown.enter_context(progress_bar(console(sys.stderr)))

        def on_serving(summary: "Summary", addresses: "Addresses") -> None:
            nonlocal told
            shown.close()
            desk.tell(_report(summary, addresses))
            told = True

        summary = run_demo(
            patients=patients,
            bundles=bundles,
            seed=seed,
            progress=progress,
            on_step=on_step,
            on_serving=on_serving if serve else None,
            home=keep,
            consortium=consortium,
        )
    return _report(summary, None, told=told)


def _report(summary: "Summary", addresses: "Addresses | None", *, told: bool = False) -> Report:
    """The summary as one report; the steps were shown while they happened."""
    from carechain.demo.show import print_addresses, print_summary

    def show(screen: "Console") -> None:
        print_summary(screen, summary)
        if addresses is not None:
            print_addresses(screen, addresses)

    served = {} if addresses is None else {"addresses": addresses}
    status = Exit.DONE if summary.ok else Exit.REFUSED
    return Report(data={**summary.to_json(), **served}, show=show, status=status, told=told)
