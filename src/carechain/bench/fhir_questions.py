"""What ``bench fhir`` asks: reads, searches, chains, the same under a ticket's sight, and beside hidden resources."""

from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import Any, Final
from urllib.parse import quote

from msgspec import Struct

from carechain.bench.fhir_patients import LONE_SYSTEM, RARE, Known
from carechain.bench.fhir_server import SYSTEM, Server
from carechain.bench.figures import milliseconds, percentile
from carechain.bench.filling import BenchFailed

PAGE: Final = 20
WARD: Final = 50
"""So many patients a reader of a ward sees."""
WARM: Final = 10
ENTRY: Final = b'"fullUrl"'
"""Counts the entries of an answered page."""

_SYSTOLIC: Final = "http://loinc.org|8480-6"
_PROBLEMS: Final = ("38341003", "44054006", "55822004", "195662009", "444814009", "195967001", "239873007")
_DRUGS: Final = ("314076", "860975", "314231", "313782", "745679", "849574")

Ask = Callable[[Known, Random], str]


class Question(Struct, frozen=True, kw_only=True):
    """A search by name; ``ask`` fills it for a patient. ``full`` ones fill their page on any store of a real size."""

    name: str
    ask: Ask
    full: bool = False


def _found(path: str) -> str:
    return f"{path}&_count={PAGE}"


READS: Final = (
    Question(name="Patient/id", ask=lambda one, _: f"Patient/{one.patient}"),
    Question(name="Observation/id", ask=lambda one, _: f"Observation/{one.observation}"),
    Question(name="Encounter/id", ask=lambda one, _: f"Encounter/{one.encounter}"),
)
OF_PATIENT: Final = (
    Question(
        name="Observation?patient, category",
        ask=lambda one, _: _found(f"Observation?patient=Patient/{one.patient}&category=vital-signs"),
    ),
    Question(
        name="Observation?patient, _sort=-date",
        ask=lambda one, _: _found(f"Observation?patient=Patient/{one.patient}&_sort=-date"),
    ),
    Question(
        name="MedicationRequest?patient", ask=lambda one, _: _found(f"MedicationRequest?patient=Patient/{one.patient}")
    ),
)
"""Answered alike to whoever sees the patient, so the price of a sight can be read from them."""
SEARCHES: Final = (
    *OF_PATIENT,
    Question(
        name="Observation?code, value-quantity",
        ask=lambda _, draw: _found(
            f"Observation?code={quote(_SYSTOLIC)}&value-quantity=gt{draw.randrange(110, 150)}||{quote('mm[Hg]')}"
        ),
        full=True,
    ),
    Question(
        name="Observation?code, date",
        ask=lambda _, draw: _found(
            f"Observation?code=29463-7&date=ge{draw.randrange(2020, 2025)}-0{draw.randrange(1, 9)}"
        ),
        full=True,
    ),
    Question(
        name="Condition?code",
        ask=lambda _, draw: _found(f"Condition?code=http://snomed.info/sct|{draw.choice(_PROBLEMS)}"),
        full=True,
    ),
    Question(
        name="MedicationRequest?code, status",
        ask=lambda _, draw: _found(f"MedicationRequest?code={draw.choice(_DRUGS)}&status=active"),
        full=True,
    ),
    Question(
        name="Encounter?date",
        ask=lambda _, draw: _found(f"Encounter?date={draw.randrange(2020, 2025)}-0{draw.randrange(1, 9)}"),
    ),
    Question(name="Patient?name", ask=lambda one, _: _found(f"Patient?name={quote(one.family)}"), full=True),
    Question(name="Patient?identifier", ask=lambda one, _: _found(f"Patient?identifier={quote(one.number)}")),
    Question(
        name="Observation?category, _sort=-date",
        ask=lambda _, __: _found("Observation?category=laboratory&_sort=-date"),
        full=True,
    ),
)
CHAINED: Final = (
    Question(
        name="Observation?patient.identifier",
        ask=lambda one, _: _found(f"Observation?patient.identifier={quote(one.number)}"),
    ),
    Question(
        name="Observation?code, patient.family",
        ask=lambda one, _: _found(f"Observation?code={quote(_SYSTOLIC)}&patient.family={quote(one.family)}"),
        full=True,
    ),
    Question(
        name="Encounter?patient.birthdate",
        ask=lambda one, _: _found(f"Encounter?patient.birthdate={one.born[:7]}"),
    ),
    Question(
        name="Patient?_has:Condition:patient:code",
        ask=lambda _, draw: _found(f"Patient?_has:Condition:patient:code={draw.choice(_PROBLEMS)}"),
        full=True,
    ),
    Question(
        name="Condition?encounter.date",
        ask=lambda _, draw: _found(f"Condition?encounter.date={draw.randrange(2020, 2025)}-0{draw.randrange(1, 9)}"),
    ),
)


class Asking:
    """The questions put to one server about some of its patients, in an order that follows from the seed."""

    def __init__(self, server: Server, known: Sequence[Known], lone: str) -> None:
        self._server = server
        self._known = known
        self._lone = lone
        self._draw = Random(len(known))  # noqa: S311 - which patient is asked about is no secret

    async def figures(self, questions: Sequence[Question], runs: int) -> list[dict[str, Any]]:
        """Median and 95th percentile of each question, every time about another patient; the questions take turns."""
        taken: dict[str, list[float]] = {one.name: [] for one in questions}
        entries: dict[str, list[int]] = {one.name: [] for one in questions}
        for turn in range(runs + WARM):
            for one in questions:
                reply = await self._server.get(one.ask(self._draw.choice(self._known), self._draw))
                found = reply.body.count(ENTRY)
                if turn >= WARM:
                    taken[one.name].append(reply.seconds)
                    entries[one.name].append(found)
        empty = [one.name for one in questions if one.full and not any(entries[one.name])]
        if empty:
            raise BenchFailed(f"found nothing: {', '.join(empty)}")
        return [
            {
                "name": name,
                "p50_ms": milliseconds(percentile(seconds, 0.5)),
                "p95_ms": milliseconds(percentile(seconds, 0.95)),
                "entries": round(median(entries[name])),
            }
            for name, seconds in taken.items()
        ]

    async def sight_ratio(self, patients: int, runs: int) -> float:
        """Searches about one patient by a reader who sees ``patients`` of them, to the same by who sees everything."""
        wholes: list[float] = []
        narrowed: list[float] = []
        for turn in range(runs):
            seen = self._draw.sample(self._known, min(patients, len(self._known)))
            reader = self._server.add_reader("reader", [one.patient for one in seen])
            path = OF_PATIENT[turn % len(OF_PATIENT)].ask(seen[0], self._draw)
            # The first one warms the pages for both.
            await self._server.get(path)
            pair = [(SYSTEM, wholes), (reader, narrowed)]
            if turn % 2:
                pair.reverse()
            bodies = []
            for caller, taken in pair:
                reply = await self._server.get(path, caller)
                taken.append(reply.seconds)
                bodies.append(reply.body.count(ENTRY))
            if bodies[0] != bodies[1]:
                raise BenchFailed("a reader who sees a patient found something else than who sees everything")
        return median(narrowed) / median(wholes)

    async def hidden_ratio(self, runs: int) -> float:
        """A search that matches hidden resources alone, to one that matches nothing at all."""
        reader = self._server.add_reader("lone", [self._lone])
        hidden = [_found(f"Observation?code={one}") for one in ("8867-4", "29463-7", "2093-3")]
        nothing = [_found(f"Observation?code={one}") for one in ("8867-0", "29463-0", "2093-0")]
        return await self._ratio(hidden, nothing, reader, runs, wanted=0)

    async def among_ratio(self, runs: int) -> float:
        """One visible match among thousands of hidden ones, to one visible match that is the only one there is."""
        reader = self._server.add_reader("lone", [self._lone])
        among = [_found(f"Observation?code={quote(_SYSTOLIC)}")]
        alone = [_found(f"Observation?code={LONE_SYSTEM}|{RARE}")]
        return await self._ratio(among, alone, reader, runs, wanted=1)

    async def _ratio(self, some: list[str], others: list[str], reader: str, runs: int, *, wanted: int) -> float:
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(2 * runs):
            # Neither is always asked first after the other, whatever else the machine does.
            which = (turn + turn // 2) % 2
            paths = (some, others)[which]
            reply = await self._server.get(paths[turn // 2 % len(paths)], reader)
            if reply.body.count(ENTRY) != wanted:
                raise BenchFailed("a reader found something else than it may see")
            taken[which].append(reply.seconds)
        return median(taken[0]) / median(taken[1])
