"""Goal: no name, no existing id, no ledger id and no health data reaches the log, whoever logs it.

Method: canaries are logged on purpose in every way the program and its libraries log, and looked for in the output.
"""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from carechain.node.logs import FIELDS, WITHHELD, configure_logs

CANARY = "Steve Apple 苹果 MRN-4711"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_known_fields_are_logged_as_json(output: io.StringIO) -> None:
    structlog.get_logger("carechain.node").info("block made", height=7, txs=3, seconds=0.5, chain_id="康宁")
    (line,) = lines(output)
    assert (line["event"], line["height"], line["chain_id"], line["level"]) == ("block made", 7, "康宁", "info")
    assert line["timestamp"]
    assert "康宁" in output.getvalue()


def test_everything_else_is_withheld(output: io.StringIO) -> None:
    log = structlog.get_logger("carechain.node")
    log.info("seen", patient=CANARY, height=CANARY * 40, code=[CANARY], count={"x": CANARY}, kind=CANARY.encode())
    (line,) = lines(output)
    assert [line[name] for name in ("patient", "height", "code", "count", "kind")] == [WITHHELD] * 5
    assert CANARY not in output.getvalue()


def test_an_incident_names_the_ledgers_own_random_id_and_nothing_else(output: io.StringIO) -> None:
    log = structlog.get_logger("carechain.gatekeeper")
    log.error("integrity_incident", code=914, record="ab" * 32)
    log.error("integrity_incident", code=914, record=CANARY)
    assert [line["record"] for line in lines(output)] == ["ab" * 32, WITHHELD]


def test_other_libraries_are_logged_without_what_they_fill_in(output: io.StringIO) -> None:
    logger = logging.getLogger("some.library")
    logger.warning("cannot open %s for %r", CANARY, CANARY)
    logger.warning("100%% of %s", CANARY, extra={"patient": CANARY})
    logger.warning("first line\n%s", CANARY)
    logger.warning(f"Exception in callback keep({CANARY!r})")  # noqa: G004 - what asyncio does
    assert [line["event"] for line in lines(output)] == [
        "cannot open",
        "100",
        "first line",
        "Exception in callback keep",
    ]
    assert CANARY not in output.getvalue()


def test_an_exception_is_its_class_and_its_place(output: io.StringIO) -> None:
    def fail() -> None:
        patient = CANARY
        raise ValueError(patient)

    for log in (logging.getLogger("uvicorn.error"), structlog.get_logger("carechain.node")):
        try:
            fail()
        except ValueError:
            log.exception("Exception in ASGI application\n")
    assert all("ValueError at test_logs.py" in str(line["exception"]) for line in lines(output))
    assert len(lines(output)) == 2
    assert CANARY not in output.getvalue()


def test_no_field_is_made_for_people_or_ids() -> None:
    assert not FIELDS & {"name", "party", "pseudonym", "patient", "record", "tx_id", "path", "url", "body", "args"}
