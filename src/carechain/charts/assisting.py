"""What the assistant does: the other side of :mod:`carechain.charts.assistant`, and a program of its own."""

import signal
import sys
from contextlib import suppress
from functools import lru_cache
from typing import BinaryIO, Final
from zoneinfo import ZoneInfo

import msgspec
import orjson

from carechain.charts.assistant import LENGTH_BYTES, READY, ROWS_AT_ONCE, Arriving, Describe, Examine, Valid
from carechain.charts.bundle import entry_of
from carechain.charts.facts import Content, content_of
from carechain.charts.searching.extract import Extractor
from carechain.charts.searching.rows import IndexRows
from carechain.charts.validation import ERRORS, validate
from carechain.core.rejection import Rejected

_jobs: Final = msgspec.msgpack.Decoder(Examine | Describe)
_encoder: Final = msgspec.msgpack.Encoder()


def valid(body: bytes) -> Valid | None:
    """What a resource says it is, if it is valid."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if any(issue.severity in ERRORS for issue in validate(body, tree)):
        return None
    return Valid(tree["resourceType"], tree.get("id"))


def content(one: Arriving) -> Content | None:
    """What places and grades a resource; None for what is refused."""
    try:
        _, tree = entry_of(one.body, one.resource_type, one.resource_id, is_valid=True)
    except Rejected:
        return None
    return content_of(one.resource_type, tree)


def rows(one: Arriving, zone: str) -> IndexRows | None:
    """What a resource says to searches; None where that depends on what else is stored."""
    return None if b'"urn:uuid:' in one.body else _extractor(zone).rows(orjson.loads(one.body), one.resource_type)


@lru_cache(maxsize=4)
def _extractor(zone: str) -> Extractor:
    return Extractor(ZoneInfo(zone))


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """One job after the other, until the pipe ends."""

    def answer(value: object) -> None:
        data = value if isinstance(value, bytes) else _encoder.encode(value)
        answers.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
        answers.flush()

    answer(READY)
    while len(length := jobs.read(LENGTH_BYTES)) == LENGTH_BYTES:
        job = _jobs.decode(jobs.read(int.from_bytes(length, "big")))
        if isinstance(job, Examine):
            answer([valid(body) for body in job.bodies])
            continue
        resources = job.resources
        answer([content(one) for one in resources[job.contents_from :]])
        for start in range(0, len(resources), ROWS_AT_ONCE):
            answer([rows(one, job.zone) for one in resources[start : start + ROWS_AT_ONCE]])


if __name__ == "__main__":
    # The node drains on these signals and may still need answers; the end of the pipe ends the assistant.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
