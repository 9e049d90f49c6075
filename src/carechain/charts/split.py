"""One patient's resources split into records: pure, and always of the whole chart (REC-4).

A record is built around one encounter, report, claim, image study, document, coverage or consent;
demographics stand apart, and what belongs to no encounter is gathered by category and clinical day. So that
a ceiling has something to stop, a resource graded above the resource its record is built around becomes a
record of its own, in the same category. What refers to a sensitive resource is as sensitive as that
resource: a claim that names a diagnosis would otherwise give it away.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from carechain.charts.facts import NO_DAY, Facts
from carechain.charts.resource_types import (
    ANSWERS_TO_CLAIM,
    DEMOGRAPHICS,
    FOLLOWS_TARGET,
    REPORT_PARTS,
    ROOTS,
    SUPPORTING,
)
from carechain.charts.sensitivity import Grade
from carechain.core.vocabulary import Category, Sensitivity

DEMOGRAPHICS_GROUP: Final = "demographics"
NORMAL: Final = Grade(Sensitivity.N, ())


class Group(Struct, frozen=True, kw_only=True):
    """One record to be: what it is built around, its grade, and its resources' keys in order.

    ``day`` is in days since 1900-01-01, or -1 when nothing inside has a clinical date.
    """

    name: str
    category: Category
    sensitivity: Sensitivity
    labels: tuple[str, ...]
    day: int
    members: tuple[str, ...]


def split(facts: Sequence[Facts]) -> list[Group]:
    """Split the whole chart of one patient, given in the order in which its resources first arrived.

    The result depends on nothing else, so a chart built by many bundles is split like one built by one.
    """
    chart = _Chart(facts)
    members: dict[str, list[str]] = defaultdict(list)
    for key in chart.by_key:
        members[chart.group_of(key)].append(key)
    return [chart.describe(name, inside) for name, inside in members.items()]


class _Chart:
    """Look-ups over one patient's facts; each question is answered once, since a chart may have thousands of them."""

    def __init__(self, facts: Sequence[Facts]) -> None:
        self.by_key = {one.key: one for one in facts}
        self._only_id = {one.resource_id: key for key, one in self.by_key.items()}
        self._targets = {
            key: self._found_here(key, one) if one.references or one.encounter else ()
            for key, one in self.by_key.items()
        }
        self.referrers: dict[str, list[str]] = defaultdict(list)
        for key, targets in self._targets.items():
            for target in targets:
                self.referrers[target].append(key)
        self.grades = self._lifted()
        self._patient = next((key for key in self.by_key if key.startswith("Patient/")), "")
        self._leaders: dict[str, str | None] = {}
        self._groups: dict[str, str] = {}
        self._categories: dict[str, Category] = {}

    def _found_here(self, key: str, one: Facts) -> tuple[str, ...]:
        """The resources of this chart that one refers to; what is not here is left out."""
        found: dict[str, None] = {}
        for name in (*one.references, one.encounter):
            known = self._only_id.get(name[2:], name) if name.startswith("?/") else name
            if known in self.by_key and known != key:
                found[known] = None
        return tuple(found)

    def _lifted(self) -> dict[str, Grade]:
        """Each resource's grade once what it refers to is counted in: the least fixed point."""
        grades = {
            key: Grade(one.sensitivity, one.labels) if one.labels or one.sensitivity is not Sensitivity.N else NORMAL
            for key, one in self.by_key.items()
        }
        waiting = deque(key for key, grade in grades.items() if grade.sensitivity > Sensitivity.N)
        while waiting:
            key = waiting.popleft()
            for referrer in self.referrers.get(key, ()):
                joined = _join(grades[referrer], grades[key])
                if joined != grades[referrer]:
                    grades[referrer] = joined
                    waiting.append(referrer)
        return grades

    def group_of(self, key: str) -> str:
        """The name of the record a resource goes into."""
        chain: list[str] = []
        step: str | None = key
        while step is not None and step not in self._groups:
            # The placeholder ends the walk where resources lead each other in a circle.
            self._groups[step], self._categories[step] = step, self.by_key[step].category
            chain.append(step)
            leader = self._leaders[step] = self._leader(step)
            step = leader
        for one in reversed(chain):
            self._groups[one], self._categories[one] = self._place(one)
        return self._groups[key]

    def _place(self, key: str) -> tuple[str, Category]:
        leader = self._leaders[key]
        if leader:
            name, category = self._groups[leader], self._categories[leader]
        else:
            name, category = self._base(key, self.by_key[key])
        sensitivity = self.grades[key].sensitivity
        # Nothing up to the normal grade is ever lifted out, so most need no look at what the record may hold.
        lifted = sensitivity > Sensitivity.N and sensitivity > self._base_grade(name)
        return (key if lifted else name), category

    def _leader(self, key: str) -> str | None:
        """The resource whose record this one goes with, wherever that is."""
        one = self.by_key[key]
        kind = one.resource_type
        if kind in ROOTS or kind in DEMOGRAPHICS:
            return None
        referrers = self.referrers.get(key, ())
        if kind in ANSWERS_TO_CLAIM:
            return next((target for target in self._targets[key] if target.startswith("Claim/")), None)
        if kind in REPORT_PARTS:
            report = next((referrer for referrer in referrers if referrer.startswith("DiagnosticReport/")), None)
            if report is not None:
                return report
        if one.encounter:
            return None
        if kind in FOLLOWS_TARGET:
            return next(iter(self._targets[key]), None)
        return next(iter(referrers), None) if kind in SUPPORTING else None

    def _base(self, key: str, one: Facts) -> tuple[str, Category]:
        if one.resource_type in DEMOGRAPHICS:
            return DEMOGRAPHICS_GROUP, Category.DEMOGRAPHICS
        if one.resource_type in ROOTS or one.resource_type in ANSWERS_TO_CLAIM:
            return key, one.category
        if one.encounter:
            return one.encounter, Category.ENCOUNTER
        day = "undated" if one.day == NO_DAY else str(one.day)
        return f"category/{one.category.name}/{day}", one.category

    def _base_grade(self, name: str) -> Sensitivity:
        """What a record may hold without being split: the grade of what it is built around, at least N."""
        around = self.grades.get(self._patient if name == DEMOGRAPHICS_GROUP else name, NORMAL)
        return max(around.sensitivity, Sensitivity.N)

    def describe(self, name: str, inside: list[str]) -> Group:
        """The record's own line: its anchor resource first, its highest grade, its clinical day."""
        around = self.by_key.get(name)
        ordered = inside if around is None or inside[0] == name else sorted(inside, key=lambda key: key != name)
        grades = [self.grades[key] for key in ordered]
        days = [day for key in ordered if (day := self.by_key[key].day) != NO_DAY]
        return Group(
            name=name,
            category=self._categories[ordered[0]],
            sensitivity=max(grade.sensitivity for grade in grades),
            labels=tuple(sorted({label for grade in grades for label in grade.labels})),
            day=around.day if around is not None and around.day != NO_DAY else min(days, default=NO_DAY),
            members=tuple(ordered),
        )


def _join(left: Grade, right: Grade) -> Grade:
    return Grade(max(left.sensitivity, right.sensitivity), tuple(sorted({*left.labels, *right.labels})))
