"""Whose chart a resource belongs to, when it comes without a bundle about one patient (REC-4, API-1).

In this order: where it lies already; the patient it is about (its subject); the only patient it names at all; the one
chart of the resources it refers to; the one chart of the resources sent with it that refer to it; else the
organisation's own chart, which only the custodian's own systems see.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, select

from carechain.charts.binding import provisional
from carechain.charts.bundle import Entry
from carechain.charts.codes import ChartsCode
from carechain.charts.dialect import run_many
from carechain.charts.facts import Content, Facts, Resolver, facts_of, is_clinical
from carechain.charts.indexing import Lying, lying
from carechain.charts.live import ORGANISATION
from carechain.charts.reading import batches
from carechain.charts.schema import patients
from carechain.core.rejection import require

_PLAIN: Final = Resolver(None, None)
NOT_COUNTING: Final = "?"
"""Behind the name of an encounter that the writer does not see; no id has such a letter."""
_PATIENT: Final = "Patient/"


class Chart(Struct, frozen=True, kw_only=True):
    """Where a resource goes: the pseudonym, the patient's id (None: the organisation's own), and whether it is new."""

    pseudonym: bytes
    patient_id: str | None
    new: bool = False


class Arrived(Struct, frozen=True, kw_only=True):
    """A resource as it arrived, and what a look through it found.

    ``counting`` are the keys that a reference may have to place and grade the resource; None: any.
    """

    entry: Entry
    content: Content
    counting: frozenset[str] | None = None

    def refers_to(self) -> frozenset[str]:
        """What it refers to beside patients and shared resources, as ``Type/id``."""
        found = (_PLAIN.key_of(one) for one in self.content.references)
        return frozenset(one for one in found if one is not None and is_clinical(one, self.entry.key))

    def only(self, counting: frozenset[str]) -> "Arrived":
        """The same, with references to nothing but these keys, to patients and to shared resources."""
        ignored = self.refers_to() - counting
        if not ignored:
            return self
        kept = tuple(one for one in self.content.references if _PLAIN.key_of(one) not in ignored)
        return replace(self, content=replace(self.content, references=kept), counting=counting)

    def facts(self, patient_id: str | None) -> Facts:
        """Its facts in the chart of this patient; raises ``Rejected(SUBJECT_IS_ANOTHER)``."""
        found = facts_of(self.entry, Resolver.of_patient(patient_id), self.content)
        if self.counting is None or not found.encounter or found.encounter in self.counting:
            return found
        # An encounter that does not count leads to a record apart, whether it is there or not.
        return replace(found, encounter=found.encounter + NOT_COUNTING)


OWN: Final = Chart(pseudonym=ORGANISATION, patient_id=None)


def charts_of(
    connection: Connection, arrived: Sequence[Arrived], known: dict[tuple[str, str], Lying]
) -> dict[str, Chart]:
    """The chart of every clinical entry, by key; ``known`` are the entries' live rows as far as they have any.

    Raises ``Rejected(CHART_CHANGED)`` when a resource would leave the chart it lies in.
    """
    named = {one.entry.key: one for one in arrived}
    about = {key: _patient_named(one) for key, one in named.items()}
    charts = _of_patients(connection, {one for one in about.values() if one is not None})
    by_pseudonym = {chart.pseudonym: chart for chart in charts.values()} | {ORGANISATION: OWN}
    lies_in = {f"{kind}/{identity}": one.pseudonym for (kind, identity), one in known.items()}
    by_pseudonym |= _existing(connection, {one for one in lies_in.values() if one} - by_pseudonym.keys())
    found: dict[str, Chart] = {}
    for key, one in named.items():
        own, patient = lies_in.get(key), about[key]
        if own:
            found[key] = by_pseudonym[own]
            subjects = _subjects(one)
            stays = not subjects or any(charts[each].pseudonym == own for each in subjects & charts.keys())
            require(stays or len(subjects) > 1, ChartsCode.CHART_CHANGED)
        elif patient is not None:
            found[key] = charts[patient]
    _follow(connection, named, found, by_pseudonym)
    return {key: found.get(key, OWN) for key in named}


def _subjects(arrived: Arrived) -> set[str]:
    """The patients a resource is about, as keys."""
    if arrived.entry.resource_type == "Patient":
        return {arrived.entry.key}
    return {key for key in _keys(arrived.content.subjects) if key.startswith(_PATIENT)}


def _others(arrived: Arrived) -> set[str]:
    """What a resource refers to beside patients, as keys."""
    return {key for key in _keys(arrived.content.references) if not key.startswith(_PATIENT)}


def _patient_named(arrived: Arrived) -> str | None:
    """The key of the one patient a resource is about, or else of the only one it names."""
    about = _subjects(arrived)
    if not about:
        about = {key for key in _keys(arrived.content.references) if key.startswith(_PATIENT)}
    return about.pop() if len(about) == 1 else None


def _keys(references: Iterable[str]) -> set[str]:
    return {key for one in references if (key := _PLAIN.key_of(one)) is not None}


def _of_patients(connection: Connection, keys: set[str]) -> dict[str, Chart]:
    """The charts of patients by their keys; those nobody has heard of get a provisional pseudonym."""
    ids = {key.removeprefix(_PATIENT): key for key in keys}
    found: dict[str, Chart] = {}
    for batch in batches(sorted(ids)):
        query = select(patients.c.pseudonym, patients.c.patient_id).where(patients.c.patient_id.in_(batch))
        for pseudonym, patient_id in connection.execute(query):
            found[ids[patient_id]] = Chart(pseudonym=pseudonym, patient_id=patient_id)
    for patient_id, key in ids.items():
        if key not in found:
            found[key] = Chart(pseudonym=provisional(patient_id), patient_id=patient_id, new=True)
    return found


def _existing(connection: Connection, pseudonyms: set[bytes]) -> dict[bytes, Chart]:
    found: dict[bytes, Chart] = {}
    for batch in batches(sorted(pseudonyms)):
        query = select(patients.c.pseudonym, patients.c.patient_id).where(patients.c.pseudonym.in_(batch))
        for pseudonym, patient_id in connection.execute(query):
            found[pseudonym] = Chart(pseudonym=pseudonym, patient_id=patient_id)
    return found


def _follow(
    connection: Connection, named: dict[str, Arrived], found: dict[str, Chart], by_pseudonym: dict[bytes, Chart]
) -> None:
    """Place what names no patient by what it refers to and by what refers to it, until nothing more is learned."""
    open_keys = [key for key in named if key not in found]
    if not open_keys:
        return
    others = {key: _others(one) for key, one in named.items()}
    outside = {one for key in open_keys for one in others[key]} - named.keys()
    there = lying(connection, [(kind, identity) for kind, _, identity in (one.partition("/") for one in outside)])
    charts = {key: chart.pseudonym for key, chart in found.items()}
    charts |= {f"{kind}/{identity}": one.pseudonym for (kind, identity), one in there.items() if one.pseudonym}
    missing = set(charts.values()) - by_pseudonym.keys()
    by_pseudonym |= _existing(connection, missing)
    referrers: dict[str, set[str]] = defaultdict(set)
    for key, targets in others.items():
        for target in targets:
            referrers[target].add(key)
    learned = True
    while learned:
        learned = False
        for key in open_keys:
            if key not in found and (own := _agreed(others[key], charts) or _agreed(referrers[key], charts)):
                found[key], charts[key] = by_pseudonym[own], own
                learned = True


def _agreed(keys: set[str], charts: dict[str, bytes]) -> bytes | None:
    """The one patient's chart all these lie in, as far as it is known where they lie."""
    about = {charts[key] for key in keys if key in charts} - {ORGANISATION}
    return about.pop() if len(about) == 1 else None


def open_charts(connection: Connection, wanted: Sequence[Chart]) -> None:
    """Make the rows of charts that have none yet."""
    rows = [(chart.pseudonym, chart.patient_id, 0) for chart in wanted if chart.new]
    if OWN in wanted:
        there = select(patients.c.pseudonym).where(patients.c.pseudonym == ORGANISATION)
        if connection.execute(there).one_or_none() is None:
            rows.append((ORGANISATION, "", 0))
    run_many(connection, "INSERT INTO patients (pseudonym, patient_id, bound) VALUES (?, ?, ?)", rows)
