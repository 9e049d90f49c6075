"""The demonstration for people: steps in plain language on one console, a progress bar on another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from carechain.demo.run import Addresses, Progress
from carechain.demo.step import Step, Summary


def print_step(console: Console, step: Step) -> None:
    """One step: what happened, at which height, and every claim with a tick or a cross."""
    mark = "[green]✓[/]" if step.ok else "[red]✗[/]"
    console.print(f"{mark} [bold]{escape(step.name)}[/]  [dim]height {step.height}, {step.seconds:.2f} s[/]")
    if step.text:
        console.print(f"  {escape(step.text)}", highlight=False)
    for one in step.claims:
        tick = "[green]✓[/]" if one.holds else "[red]✗[/]"
        console.print(f"    {tick} {escape(one.says)}", highlight=False)
    for line in step.lines:
        console.print(f"      [dim]{escape(line)}[/]", highlight=False)
    if step.failure:
        console.print(f"    [red]{escape(step.failure)}[/]", highlight=False)
    console.print()


def print_summary(console: Console, summary: Summary) -> None:
    """The last lines: figures of the whole run, and whether everything held."""
    console.print(
        f"{summary.patients} patients, {summary.resources} resources, {summary.records} records; "
        f"height {summary.height}, {summary.seconds:.1f} s, {summary.memory_mb} MB",
        highlight=False,
    )
    console.print(f"app hash {summary.app_hash}", highlight=False)
    held = sum(one.holds for step in summary.steps for one in step.claims)
    total = sum(len(step.claims) for step in summary.steps)
    if summary.ok:
        console.print(f"[green]All {total} promises of {len(summary.steps)} steps held.[/]")
    else:
        console.print(f"[red]{held} of {total} promises held; the story ended at {escape(summary.steps[-1].name)}.[/]")


def print_story(summary: Summary, console: Console | None = None) -> None:
    """All steps and the figures, on standard output unless a console is given."""
    out = console or Console()
    for step in summary.steps:
        print_step(out, step)
    print_summary(out, summary)


def print_addresses(console: Console, addresses: Addresses) -> None:
    """Where the node and the gatekeepers answer while the demonstration serves."""
    for name, url in addresses.items():
        console.print(f"  {escape(name):24} {url}", highlight=False)
    console.print("Press Ctrl-C to end.")


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error, or nothing where that is no terminal; yields what ``run_demo`` reports to."""
    screen = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.done, description=progress.doing)

        yield report
