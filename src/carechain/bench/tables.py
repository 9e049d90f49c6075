"""Results for people: what was measured on what, as a table that fits a terminal and a pull request."""

from collections.abc import Sequence
from io import StringIO
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_WIDTH: Final = 118


def render_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], result: dict[str, Any]) -> str:
    """A table with the lines every result must state below it: machine, payload, policy, nodes."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    console = Console(file=StringIO(), width=_WIDTH, color_system=None)
    console.print(table)
    machine = result["machine"]
    console.print(f"machine  {machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}")
    for name in ("payload", "policy", "compared"):
        if name in result:
            console.print(f"{name:8} {result[name]}", highlight=False)
    console.print(f"nodes    {result['nodes']}, engine {result['engine']}", highlight=False)
    output = console.file
    return output.getvalue() if isinstance(output, StringIO) else ""


def shown(value: object) -> str:
    """A figure with as many digits as it deserves; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.3g}"  # noqa: PLR2004 - four digits say enough
    return f"{value:,}" if isinstance(value, int) else str(value)
