"""The node's log: JSON lines in UTF-8 that identify nobody.

Health data, names and existing ids must not reach a log. Rather than trusting every call, fields are let through by
name: numbers and short fixed words only. Whatever else is passed is replaced by ``withheld``, and the texts of
other libraries are cut where something is filled in.
"""

import logging
import re
import sys
from pathlib import PurePath
from typing import IO, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

FIELDS: Final = frozenset(
    {
        "api",
        "chain_id",
        "client",
        "code",
        "count",
        "epoch",
        "event",
        "exception",
        "fhir",
        "gatekeeper",
        "height",
        "kind",
        "label",
        "level",
        "logger",
        "ops",
        "pid",
        "port",
        "reason",
        "seconds",
        "status",
        "store",
        "signal",
        "timestamp",
        "txs",
        "version",
    }
)
"""Fields that may be logged. None of them takes a party's id, a name or anything a person wrote."""
RANDOM_IDS: Final = frozenset({"ceremony", "object", "record", "ticket", "tx_id"})
"""Fields for the ledger's own ids, which an operator needs to follow an incident up: 64 hexadecimal digits."""
WITHHELD: Final = "withheld"
_LONGEST: Final = 300
_RANDOM_ID: Final = re.compile(r"[0-9a-f]{64}")
_FILLED_IN: Final = re.compile(r"[\n%{(<\[\"'`=]")
"""Where a library's text goes on with something that is not its own: a placeholder, a quotation, a representation."""


def configure_logs(level: str = "info", stream: IO[str] | None = None) -> None:
    """Send this program's log, and those of the libraries it uses, to ``stream`` (standard error) as JSON lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _exception_in_short,
        only_known_fields,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_template_only)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore"):
        quiet = logging.getLogger(name)
        quiet.handlers.clear()
        quiet.propagate = True
        quiet.setLevel(max(logging.WARNING, root.level))


def only_known_fields(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Let numbers and short texts of known fields through; replace the rest."""
    return {
        name: value if name.startswith("_") or _may_be_logged(name, value) else WITHHELD
        for name, value in event_dict.items()
    }


def _may_be_logged(name: str, value: object) -> bool:
    if name in RANDOM_IDS:
        return isinstance(value, str) and _RANDOM_ID.fullmatch(value) is not None
    return name in FIELDS and _is_plain(value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONGEST)


def _exception_in_short(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """An exception as its class and where it was raised: its text, and the values around it, may say too much."""
    info = event_dict.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info is True:
        error = sys.exc_info()[1]
    if error is not None:
        event_dict["exception"] = f"{type(error).__name__} at {_place(error)}"
    return event_dict


def _place(error: BaseException) -> str:
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames[-6:])


def _template_only(record: logging.LogRecord) -> bool:
    """Other libraries fill paths and values into their texts, so only the text before the first of them is kept."""
    if not isinstance(record.msg, dict):
        record.args = None
        record.msg = _FILLED_IN.split(str(record.msg), maxsplit=1)[0].rstrip()
    return True
