"""Batches: every entry is a request of its own; one that fails leaves the others (FHIR R4, 3.1.0.11)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.bundling import bundle, response_entry
from carechain.gateway.fhir.call import REFUSED_AND_NOTED, Answer, Call, Given, merged
from carechain.gateway.fhir.entries import Entry
from carechain.gateway.fhir.outcome import Problem, outcome, problem_of
from carechain.gateway.fhir.parameters import parse
from carechain.gateway.fhir.routing import Kind, route

ORDER: Final = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
_NOT_IN_BATCH: Final = frozenset({Kind.BUNDLE, Kind.EXPORT_FILE, Kind.EXPORT_STATUS, Kind.EXPORT_CANCEL})
_STREAMS: Final = frozenset({"$events", "$export"})
Answering = Callable[[Call], Awaitable[Answer]]


async def run(call: Call, entries: Sequence[Entry], answering: Answering) -> Answer:
    """The batch's answer: 200 with the outcome of every entry in its place."""
    by_position: dict[int, bytes] = {}
    given: list[Given] = []
    refused = 0
    for entry in sorted(entries, key=lambda one: ORDER[one.method]):
        try:
            answer = await answering(_call_of(call, entry))
        except (Problem, Rejected) as caught:
            problem = caught if isinstance(caught, Problem) else problem_of(caught)
            by_position[entry.position] = _refused(problem, entry)
            # What would be noted of a request by itself is noted of a batch too, once.
            refused = refused or (problem.number if problem.status in REFUSED_AND_NOTED else 0)
        else:
            by_position[entry.position] = _answered(answer)
            given.append(answer.given)
    body = bundle("batch-response", (by_position[position] for position in sorted(by_position)))
    return Answer(body=body, given=merged(given), refused=refused)


def _call_of(call: Call, entry: Entry) -> Call:
    path, _, query = entry.url.partition("?")
    target = route(entry.method, path)
    require(target.kind not in _NOT_IN_BATCH and target.operation not in _STREAMS, FhirCode.NOT_IN_TRANSACTION)
    return msgspec.structs.replace(
        call,
        method=entry.method,
        target=target,
        params=parse(query.encode()),
        headers=entry.headers(),
        body=entry.body,
    )


def _answered(answer: Answer) -> bytes:
    response = {"status": str(answer.status)}
    if "location" in answer.headers:
        response["location"] = answer.headers["location"]
    if "etag" in answer.headers:
        response["etag"] = answer.headers["etag"]
    return response_entry(response, resource=answer.body)


def _refused(problem: Problem, entry: Entry) -> bytes:
    return response_entry({"status": str(problem.status)}, issues=outcome(problem.at(entry.place).issues))
