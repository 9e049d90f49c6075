"""``carechain source hl7``: what became of messages that this organisation's systems sent."""

# ruff: noqa: PLC0415 - what needs a database is imported by the command that uses it, so help is quick

from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.output import CannotRun, Desk, Report, command, counted, lines, sub_app, table
from carechain.cli.terms import moment

if TYPE_CHECKING:
    from rich.console import Console

    from carechain.sources.hl7v2.journal import Journal

app = sub_app("HL7 v2 messages: those that could not be filed; file them again, or give one up.")


@command(app, "list")
def list_messages(desk: Desk) -> Report:
    """Count the messages, and list those that were acknowledged and that the charts refused."""
    with _journal(desk) as journal:
        counts, kept = journal.counts(), journal.kept()
    rows = [
        {"message": one.seq, "received_s": one.received_s, "code": one.code, "label": _label(one.code)} for one in kept
    ]
    text = [(str(one.seq), moment(one.received_s), str(one.code), _label(one.code)) for one in kept]

    def show(screen: "Console") -> None:
        said = f"{counted(counts.waiting, 'message')} waiting, {counts.filed} filed, {counts.refused} refused"
        lines(said)(screen)
        screen.print(table("Refused", ("message", "received (UTC)", "code", "why"), text))

    data = {"waiting": counts.waiting, "filed": counts.filed, "refused": counts.refused, "messages": rows}
    return Report(data=data, show=show)


@command(app, "retry")
def retry(desk: Desk) -> Report:
    """Have every refused message filed again. A running node does so when the next message arrives or it starts."""
    with _journal(desk) as journal:
        count = journal.retry()
    return Report(data={"retried": count}, show=lines(f"{counted(count, 'message')} will be filed again"))


@command(app, "drop")
def drop(
    desk: Desk, *, message: Annotated[int, typer.Argument(metavar="NUMBER", help="The message's number.")]
) -> Report:
    """Give up a refused message; its text is overwritten."""
    with _journal(desk) as journal:
        if not journal.drop(message):
            raise CannotRun(f"there is no refused message {message}; see `carechain source hl7 list`")
    return Report(data={"dropped": message}, show=lines(f"message {message} is gone"))


def _journal(desk: Desk) -> "Journal":
    from carechain.node.hl7 import JOURNAL_FILE
    from carechain.sources.hl7v2.journal import Journal

    path = desk.home / JOURNAL_FILE
    if not path.is_file():
        raise CannotRun(f"{path} is missing: no node of this home has taken HL7 messages yet (hl7.enabled)")
    return Journal.open(path)


def _label(code: int) -> str:
    from carechain.charts.codes import ChartsCode
    from carechain.sources.imports.codes import ImportCode

    known = {int(one): one.label for kind in (ChartsCode, ImportCode) for one in kind}
    return known.get(code, "")
