"""What every command has in common: where output goes, what a failure says, and the exit status.

Standard output carries the answer and nothing else: text for people, or with ``--json`` exactly one object. Progress
and complaints go to standard error. A command returns a :class:`Report`; :func:`command` prints it and turns every
way of failing into a sentence and a status, so that no traceback reaches a user who did not ask for one.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints

import msgspec
import typer
from msgspec import Struct

from carechain.core.rejection import Rejected

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


HOME_VARIABLE: Final = "CARECHAIN_HOME"
_TITLES_OF_FAILURE: Final = {1: "refused", 3: "failed"}
_UNFOLDED_WIDTH: Final = 2000


class Exit(IntEnum):
    """Exit statuses; scripts rely on them (DESIGN section 11)."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    ENVIRONMENT = 3


class CannotRun(Exception):  # noqa: N818 - names the state of affairs
    """The environment is not what the command needs: a missing file, an unreachable node. Says what to do."""


class Denied(Exception):  # noqa: N818 - the ledger's or a server's answer, not a fault of the program
    """A refusal that came from elsewhere than :class:`Rejected`: a decision, a receipt, a server's answer.

    ``data`` stands beside the error in the JSON object, for example the ticket that says refused.
    """

    def __init__(self, *, code: int, label: str, reason: str, data: Mapping[str, object] | None = None) -> None:
        super().__init__(label)
        self.code = code
        self.label = label
        self.reason = reason
        self.data = dict(data or {})


class OptionGroup(Struct, frozen=True, kw_only=True):
    """Options that belong together; a command takes a subclass as one parameter."""


class Report(Struct, frozen=True, kw_only=True):
    """A command's answer: ``data`` is the JSON object, ``show`` prints the same for people.

    A command that serves after it has answered prints by itself with :meth:`Desk.tell`, and then ``told`` is set.
    """

    data: Mapping[str, object]
    show: Callable[["Console"], None]
    status: Exit = Exit.DONE
    told: bool = False


class Desk(Struct, frozen=True, kw_only=True):
    """Where a command works: the home folder it was given, and how it speaks to the outside."""

    home: Path
    as_json: bool
    debug: bool
    out: IO[str]
    """Standard output as it was when the command began: a progress bar takes the name over while it is shown."""

    def say(self, text: str) -> None:
        """A line of progress on standard error."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def tell(self, report: Report) -> None:
        """Print a report on standard output, in the form that was asked for."""
        if self.as_json:
            self.out.write(_json(report.data))
        else:
            report.show(console(self.out))
        self.out.flush()

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A progress bar on standard error: ``advance(done, total)``. Silent where nobody watches."""
        from rich.progress import Progress  # noqa: PLC0415 - only when something is shown

        with Progress(console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


WorkT = TypeVar("WorkT", bound=Callable[..., Report])
"""A command's own function: takes a :class:`Desk` and the command's options, which nobody passes by position."""


def default_home() -> Path:
    """The folder named by the environment, else ``~/.carechain``."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".carechain")


HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar=HOME_VARIABLE, help="The home folder; ~/.carechain unless given.", show_envvar=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the trace of an unexpected failure.")]
_COMMON: Final = (
    inspect.Parameter("home", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=HomeOption),
    inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption),
)


def command(app: typer.Typer, name: str) -> Callable[[WorkT], WorkT]:
    """Register a command: it is called with its :class:`Desk` and its own options, and returns a report.

    Adds the options that all commands share and the lines about exit status to its help.
    """

    def register(work: WorkT) -> WorkT:
        @wraps(work)
        def run(*, home: Path | None, as_json: bool, debug: bool, **own: Any) -> None:  # noqa: ANN401 - the options of any command
            desk = Desk(home=(home or default_home()).expanduser(), as_json=as_json, debug=debug, out=sys.stdout)
            status = _run(desk, lambda: work(desk, **_regrouped(declared, own)))
            if status is not Exit.DONE:
                raise typer.Exit(status)

        declared = list(inspect.signature(work).parameters.values())[1:]
        merged = [option for one in declared for option in _spread(one)] + list(_COMMON)
        run.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in merged}
        explained = inspect.getdoc(work) or ""
        app.command(name, help=explained, short_help=_first_sentence(explained))(run)
        return work

    return register


def _first_sentence(text: str) -> str:
    """What a list of commands says about one, whole: typer itself would cut it in the middle."""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."


def _spread(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """A parameter as typer's, or the options of a group in its place."""
    if not _is_group(parameter.annotation):
        return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    hints = get_type_hints(parameter.annotation, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.required else field.default,
            annotation=hints[field.name],
        )
        for field in msgspec.structs.fields(parameter.annotation)
    ]


def _regrouped(declared: list[inspect.Parameter], values: dict[str, Any]) -> dict[str, Any]:
    """The values of all options, with each group made again from its own."""
    return {
        one.name: one.annotation(**{name: values[name] for name in one.annotation.__struct_fields__})
        if _is_group(one.annotation)
        else values[one.name]
        for one in declared
    }


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, OptionGroup)


def sub_app(help_text: str) -> typer.Typer:
    """A group of commands under one name."""
    return typer.Typer(
        help=help_text, short_help=help_text, no_args_is_help=True, rich_markup_mode=None, add_completion=False
    )


def console(stream: IO[str]) -> "Console":
    """A console on a stream: as wide as the terminal, or so wide that nothing is folded where there is none."""
    from rich.console import Console  # noqa: PLC0415 - only when something is shown

    width = None if stream.isatty() else _UNFOLDED_WIDTH
    return Console(file=stream, highlight=False, soft_wrap=not stream.isatty(), width=width)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> "Table":
    """A plain table; ids are never cut. An empty one says so below its headings."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only when something is shown
    from rich.table import Table  # noqa: PLC0415 - only when something is shown
    from rich.text import Text  # noqa: PLC0415 - only when something is shown

    grid = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: a name with square brackets stays a name.
        grid.add_row(*(Text(cell) for cell in row))
    if not grid.rows:
        grid.add_row("(none)")
    return grid


def lines(*text: str) -> Callable[["Console"], None]:
    """Show these lines as they are."""

    def show(screen: "Console") -> None:
        for line in text:
            screen.print(line, markup=False)

    return show


def tables(*grids: "Table") -> Callable[["Console"], None]:
    """Show these tables. Where no terminal needs them, the blanks that fill up their lines are left out."""

    def show(screen: "Console") -> None:
        for grid in grids:
            if screen.is_terminal:
                screen.print(grid)
                continue
            with screen.capture() as drawn:
                screen.print(grid)
            screen.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))

    return show


def counted(number: int, thing: str) -> str:
    """``1 record``, ``2 records``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def refuse_usage(stream: IO[str], reason: str) -> None:
    """The one object of a command line that could not be understood."""
    _speak_utf8(stream)
    stream.write(_failure(reason))
    stream.flush()


def _run(desk: Desk, work: Callable[[], Report]) -> Exit:
    """Do the work and print its report, or the reason why there is none."""
    for stream in (desk.out, sys.stderr):
        _speak_utf8(stream)
    try:
        report = work()
        if not report.told:
            desk.tell(report)
    except Rejected as refused:
        code = refused.code
        return _fail(desk, Exit.REFUSED, code.reason, code=int(code), label=code.label, data=_details(refused))
    except Denied as denied:
        return _fail(desk, Exit.REFUSED, denied.reason, code=denied.code, label=denied.label, data=denied.data)
    except CannotRun as missing:
        return _fail(desk, Exit.ENVIRONMENT, str(missing))
    except BrokenPipeError:
        # The reader went away, as `| head` does; nothing is left to say and nobody to hear it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), desk.out.fileno())
        return Exit.ENVIRONMENT
    except OSError as error:
        _trace(desk)
        return _fail(desk, Exit.ENVIRONMENT, _sentence_of(error))
    except (typer.Exit, typer.Abort, typer.BadParameter, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence for the user, the trace with --debug
        _trace(desk)
        known = _known_environment(error)
        return _fail(desk, Exit.ENVIRONMENT, known or _unexpected(error))
    return report.status


def _fail(
    desk: Desk,
    status: Exit,
    reason: str,
    *,
    code: int | None = None,
    label: str | None = None,
    data: Mapping[str, object] | None = None,
) -> Exit:
    named = f" {code} {label}" if code is not None else ""
    sys.stderr.write(f"{_TITLES_OF_FAILURE[status]}{named}: {reason}\n")
    if desk.as_json:
        desk.out.write(_failure(reason, code=code, label=label, data=data))
        desk.out.flush()
    return status


def _failure(
    reason: str, *, code: int | None = None, label: str | None = None, data: Mapping[str, object] | None = None
) -> str:
    """The object of every command that did not do what it was asked."""
    return _json({"ok": False, "error": {"code": code, "label": label, "reason": reason}, **(data or {})})


def _json(data: Mapping[str, object]) -> str:
    return msgspec.json.encode(data, enc_hook=_plain).decode() + "\n"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _details(refused: Rejected) -> dict[str, object]:
    """What some refusals know besides their code: which record they are about."""
    record = getattr(refused, "record_id", None)
    return {"record": record.hex()} if isinstance(record, bytes) else {}


def _sentence_of(error: OSError) -> str:
    """What the operating system says, with the file's name, without Python's numbers."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {error.filename}" if error.filename is not None else what


def _known_environment(error: Exception) -> str | None:
    """A failure of the environment that its own class describes with a sentence."""
    documented = (type(error).__doc__ or "").strip().splitlines()
    if type(error).__module__.startswith("carechain.") and str(error):
        return str(error)
    if type(error).__module__.startswith("carechain.") and documented:
        return documented[0]
    return None


def _unexpected(error: Exception) -> str:
    return f"an unexpected failure ({type(error).__name__}). Run again with --debug and report what it shows."


def _trace(desk: Desk) -> None:
    if desk.debug:
        traceback.print_exc(file=sys.stderr)


def _speak_utf8(stream: IO[str]) -> None:
    """A terminal set to another encoding would turn a Chinese name into a traceback."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")
