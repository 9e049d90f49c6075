"""Goal: whatever the OpenAPI document allows or forbids, the node answers it or refuses it with a number, never a 5xx.

Method: schemathesis makes requests from the document, fitting and broken ones, and sends them to a real node as a
patient and as a regulator. A refusal must be one of ours, with its number, label and sentence.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

from carechain.node.openapi import document
from served_node import served

LEFT_OUT: Final = frozenset({("get", "/v1/events"), ("delete", "/v1/session")})
"""The stream does not end, and signing out would leave nothing to be refused but strangers."""
EXAMPLES: Final = 12
DOCUMENT: Final = document()


@contextlib.contextmanager
def listening(home: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A node in a thread of its own: its address, and the headers of a patient's and a regulator's session."""
    ready: Future[tuple[str, list[dict[str, str]]]] = Future()

    async def main() -> None:
        async with served(home) as node:
            callers = [await node.session(who) for who in (node.net.steve, node.net.gita)]
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            stop.append(lambda: loop.call_soon_threadsafe(ended.set))
            ready.set_result((str(node.http.base_url), callers))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as failure:
            if ready.done():
                raise
            ready.set_exception(failure)

    stop: list[Any] = []
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ready.result(timeout=60)
    finally:
        for one in stop:
            one()
        thread.join()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[dict[str, str]]]]:
    with listening(tmp_path_factory.mktemp("node")) as where:
        yield where


OPERATIONS: Final = [
    pytest.param(operation, mode, id=f"{mode.value} {operation.method} {operation.path}")
    for operation in (found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations())
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if (operation.method, operation.path) not in LEFT_OUT
    if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & operation.definition.raw.keys()
]
"""Of an operation that takes nothing there is no broken request."""


@pytest.mark.parametrize(("operation", "mode"), OPERATIONS)
def test_no_request_breaks_the_node(
    node: tuple[str, list[dict[str, str]]], operation: Any, mode: GenerationMode
) -> None:
    url, callers = node
    statuses: list[int] = []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
        database=None,
    )
    def every(case: Any) -> None:
        for headers in callers:
            response = case.call(base_url=url, headers=headers)
            case.validate_response(response, checks=[not_a_server_error])
            statuses.append(response.status_code)
            if response.status_code >= 400:
                assert set(response.json()) == {"code", "label", "reason"}

    every()
    assert any(status != 401 for status in statuses)
