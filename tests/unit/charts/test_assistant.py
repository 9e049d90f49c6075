"""Goal: with an assistant the charts hold what they would hold without one, whatever becomes of it.

Method: real assistants over real pipes. The same transactions are written with and without one, and everything that is
stored is compared; assistants are killed, stopped and left in the middle of a job; what they say of valid and invalid
resources is compared with what the server itself finds.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from sqlalchemy import select as query

from carechain.charts.assistant import FEWEST, RESTART_S, ROWS_AT_ONCE, Arriving, Assistant, Valid
from carechain.charts.facts import content_of
from carechain.charts.indexing import Index, extraction
from carechain.charts.repository import Change
from carechain.charts.schema import METADATA
from carechain.charts.searching.rows import IndexRows
from carechain.charts.store import Charts
from carechain.charts.validation import ERRORS, validate
from fhir_store import FLU, HIV, Ward, about, coded, person, ready

MANY = 3 * ROWS_AT_ONCE + 7


def running(assistant: Assistant) -> int:
    process = assistant._process
    assert process is not None
    return process.pid


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this runs on."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


@pytest.fixture
def assistant() -> Iterator[Assistant]:
    made = Assistant()
    yield ready(made)
    made.close()


def observation(number: int) -> dict[str, Any]:
    return about(
        "Observation",
        f"o{number}",
        patient=f"p{number % 9}",
        status="final",
        code=coded(HIV if number % 50 == 0 else FLU),
        encounter={"reference": f"Encounter/e{number % 9}"},
        effectiveDateTime=f"2024-0{number % 9 + 1}-11",
        valueQuantity={"value": number / 4, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
        note=[{"text": f"Said <b>{number}</b> — 好"}],
    )


def patients(version: int = 1) -> list[dict[str, Any]]:
    return [person(f"p{number}", name=[{"family": f"Ash{version}", "given": ["Mø"]}]) for number in range(9)]


def valid(*trees: dict[str, Any]) -> list[Change]:
    return [
        Change(resource_type=tree["resourceType"], resource_id=tree["id"], body=orjson.dumps(tree), is_valid=True)
        for tree in trees
    ]


def said_here(body: bytes) -> Valid | None:
    if any(issue.severity in ERRORS for issue in validate(body)):
        return None
    tree = orjson.loads(body)
    return Valid(tree["resourceType"], tree.get("id"))


def bodies() -> list[bytes]:
    good = [json.dumps(observation(number)).encode() for number in range(MANY)]
    bad = [
        b"",
        b"{",
        b"[]",
        b'{"resourceType":"Observation"}',
        b'{"resourceType":"Nothing"}',
        b'{"a":1,"a":2}',
        b"\xff",
    ]
    # The second half is the assistant's.
    return [*good[: MANY // 2], *bad, *good[MANY // 2 :], *bad, b'{"resourceType":"Patient"}']


def test_it_says_of_the_second_half_what_would_be_said_here(assistant: Assistant) -> None:
    sent = bodies()
    said = list(assistant.examined(sent))
    half = len(sent) // 2
    assert said[:half] == [None] * half
    assert said[half:] == [said_here(body) for body in sent[half:]]
    assert sum(one is None for one in said[half:]) >= 7
    assert said[-1] == Valid("Patient", None)
    assert assistant.lost == 0


def test_it_describes_as_the_charts_do(assistant: Assistant) -> None:
    trees = [observation(number) for number in range(MANY)]
    coming = [Arriving("Observation", tree["id"], orjson.dumps(tree)) for tree in trees]
    by_urn = {**observation(1), "subject": {"reference": "urn:uuid:x"}}
    coming[7] = Arriving("Observation", "by-urn", orjson.dumps(by_urn))
    # What it may not have is not taken for nothing: a type that is another, an id that is none.
    coming[-1], coming[-2] = coming[-1]._replace(resource_type="Encounter"), coming[-2]._replace(resource_id="/")
    extract = extraction("Europe/Paris")
    with assistant.describing("Europe/Paris", coming) as described:
        contents = [described.content(position) for position in range(MANY)]
        rows = [described.rows((one.resource_type, one.resource_id)) for one in coming]
    half = MANY // 2
    assert contents[:half] == [None] * half
    assert contents[half:-2] == [content_of("Observation", tree) for tree in trees[half:-2]]
    assert contents[-2:] == [None, None]
    assert rows[7] is None
    assert rows[:7] + rows[8:-2] == [extract(tree, "Observation") for tree in trees[:7] + trees[8:-2]]


def test_rows_may_be_asked_for_before_contents_and_not_at_all(assistant: Assistant) -> None:
    trees = [observation(number) for number in range(MANY)]
    coming = [Arriving("Observation", tree["id"], orjson.dumps(tree)) for tree in trees]
    with assistant.describing("UTC", coming) as described:
        assert described.rows(("Observation", "o5")) == extraction("UTC")(trees[5], "Observation")
        assert described.content(MANY - 1) == content_of("Observation", trees[-1])
        assert described.rows(("Observation", "other")) is None
    # What was left untaken is not the next job's answer.
    sent = bodies()
    assert list(assistant.examined(sent))[-1] == Valid("Patient", None)
    assert assistant.lost == 0


def story(ward: Ward) -> None:
    """Large transactions: new, the same again, changed, moved to another grade, shared, and by urn:uuid."""
    first = [observation(number) for number in range(MANY)]
    doctors = [{"resourceType": "Practitioner", "id": f"d{number}", "active": True} for number in range(9)]
    visits = [
        about("Encounter", f"e{n}", patient=f"p{n}", status="finished", **{"class": {"code": "AMB"}}) for n in range(9)
    ]
    ward.apply(valid(*patients(), *visits, *doctors, *first))
    ward.apply(valid(*patients(), *visits, *doctors, *first))
    second = [{**one, "status": "amended", "code": coded(HIV)} for one in first]
    by_urn = about("Observation", "by-urn", patient="p1", status="final", code=coded(FLU))
    by_urn["encounter"] = {"reference": "urn:uuid:e1"}
    ward.apply(valid(*patients(2), *second, by_urn))


def everything(charts: Charts) -> dict[str, list[Any]]:
    with charts.snapshot() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(query(table))), key=repr)
            for table in METADATA.sorted_tables
        }


def written(url: str | Path, prepare: Callable[[Charts], object]) -> dict[str, list[Any]]:
    with Charts.open(url) as charts:
        prepare(charts)
        ward = Ward(charts)
        story(ward)
        assert ward.index() == ward.rebuilt()
        return everything(charts)


def alone(charts: Charts) -> None:
    charts.assistant.close()


def test_what_is_stored_is_the_same_with_and_without(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [0]
    rows_in = Index._rows_in

    def counted(index: Index, resource_type: str, body: bytes) -> IndexRows:
        here[0] += 1
        return rows_in(index, resource_type, body)

    monkeypatch.setattr(Index, "_rows_in", counted)
    with Charts.open(database_url) as charts:
        assistant = ready(charts.assistant)
        ward = Ward(charts)
        story(ward)
        # All but one were described by the assistant.
        assert (here[0], assistant.lost) == (1, 0)
        assert ward.index() == ward.rebuilt()
        with_one = everything(charts)
    without = written(tmp_path / "alone.db", alone)
    assert with_one == without
    assert len(without["live"]) == MANY + 9 + 9 + 9 + 1


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_what_is_stored_is_the_same_when_it_is_lost(tmp_path: Path, ending: signal.Signals) -> None:
    helped: list[Assistant] = []

    def prepare(charts: Charts) -> None:
        charts.assistant = Assistant(patience_s=0.2)
        helped.append(ready(charts.assistant))
        os.kill(running(charts.assistant), ending)

    assert written(tmp_path / "lost.db", prepare) == written(tmp_path / "alone.db", alone)
    assert helped[0].lost == 1


def test_it_may_be_lost_between_its_answers(tmp_path: Path) -> None:
    trees = [observation(number) for number in range(MANY)]
    coming = [Arriving("Observation", tree["id"], orjson.dumps(tree)) for tree in trees]
    assistant = ready(Assistant(patience_s=0.2))
    with assistant.describing("UTC", coming) as described:
        assert described.content(MANY - 1) is not None
        assert described.rows(("Observation", "o0")) is not None
        os.kill(running(assistant), signal.SIGKILL)
        # What it had sent already may still be taken.
        found = [described.rows(("Observation", f"o{number}")) for number in range(1, MANY)]
        extract = extraction("UTC")
        assert all(
            one is None or one == extract(tree, "Observation") for one, tree in zip(found, trees[1:], strict=True)
        )
    assert list(assistant.examined([b"{}"] * FEWEST)) == [None] * FEWEST
    assistant.close()


def test_a_lost_one_is_replaced_after_a_while() -> None:
    now = [0.0]
    assistant = ready(Assistant(clock=lambda: now[0]))
    first = running(assistant)
    os.kill(first, signal.SIGKILL)
    sent = bodies()
    assert list(assistant.examined(sent)) == [None] * len(sent)
    assert assistant.lost == 1
    now[0] = RESTART_S - 1
    assert list(assistant.examined(sent)) == [None] * len(sent)
    assert assistant._process is None
    now[0] = RESTART_S
    assert running(ready(assistant)) != first
    assert list(assistant.examined(sent))[-1] == Valid("Patient", None)
    assistant.close()
    assert list(assistant.examined(sent)) == [None] * len(sent)


def test_an_answer_that_is_none_is_not_taken(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = bodies()
    monkeypatch.setattr("carechain.charts.assistant._valid", msgspec.msgpack.Decoder(list[int]))
    assert list(assistant.examined(sent)) == [None] * len(sent)
    assert assistant.lost == 1


def test_it_has_one_job_at_a_time(assistant: Assistant) -> None:
    sent = bodies()
    with closing(assistant.examined(sent)) as first:
        assert next(first) is None
        assert list(assistant.examined(sent)) == [None] * len(sent)
        assert list(first)[-1] == Valid("Patient", None)
    assert list(assistant.examined(sent))[-1] == Valid("Patient", None)


def test_a_job_that_is_left_is_not_the_answer_to_the_next(assistant: Assistant) -> None:
    sent = bodies()
    with closing(assistant.examined(sent)) as first:
        next(first)
    assert (
        list(assistant.examined(sent[::-1]))[len(sent) // 2 :]
        == [said_here(one) for one in sent[::-1]][len(sent) // 2 :]
    )
    assert assistant.lost == 0


def test_few_resources_are_looked_at_here() -> None:
    assistant = Assistant()
    assert list(assistant.examined([b"{}"] * (FEWEST - 1))) == [None] * (FEWEST - 1)
    assert assistant._process is None


def test_it_ends_with_the_charts(tmp_path: Path) -> None:
    with Charts.open(tmp_path / "charts.db") as charts:
        process = ready(charts.assistant)._process
        assert process is not None
        assert list(charts.assistant.examined(bodies()))[-1] == Valid("Patient", None)
    assert process.poll() == 0


def test_nobody_waits_for_one_that_is_still_starting(tmp_path: Path) -> None:
    with Charts.open(tmp_path / "charts.db") as charts:
        assert list(charts.assistant.examined([b"{}"] * FEWEST)) == [None] * FEWEST
        process = charts.assistant._process
        assert process is not None
    assert process.poll() == -signal.SIGKILL


def test_where_no_process_can_be_started_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.engine.worker_process.sys.executable", "/nowhere/python")
    assistant = Assistant()
    examined = partial(assistant.examined, [b"{}"] * FEWEST)
    assert list(examined()) == [None] * FEWEST
    assert assistant._process is None


def test_a_single_core_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assistant = Assistant()
    assert list(assistant.examined([b"{}"] * FEWEST)) == [None] * FEWEST
    assert assistant._process is None
