"""What the chart needs to know of a resource besides its bytes: grade, date, and what it refers to.

Facts are small and are kept beside the bytes, so that a patient's whole chart can be split again when a new
bundle arrives without reading a single stored resource.
"""

import re
from functools import lru_cache
from typing import Any, Final, Self

from msgspec import Struct

from carechain.charts.bundle import Bundle, Entry, Json
from carechain.charts.codes import ChartsCode
from carechain.charts.dates import day_of
from carechain.charts.resource_types import CATEGORIES, DEMOGRAPHICS, DIRECTORY, PATIENT_AUTHORED
from carechain.charts.sensitivity import TEXT_KEYS, Grade, grade
from carechain.core.rejection import require
from carechain.core.vocabulary import Category, Sensitivity

NO_DAY: Final = -1
READ_KEYS: Final = TEXT_KEYS | {"code", "reference", "url"}
KEYS_REMEMBERED: Final = 16_384
SUBJECT_KEYS: Final = ("subject", "patient", "beneficiary", "for")
AUTHOR_KEYS: Final = ("author", "informationSource", "performer", "recorder", "source", "asserter")
PATIENT_ASSERTED: Final = frozenset({"PATAST", "PATRPT"})
"""v3-ObservationValue provenance labels: the patient asserted or reported this."""

DAY_PATHS: Final = tuple(
    tuple(path.split("."))
    for path in (
        "effectiveDateTime",
        "effectivePeriod.start",
        "effectiveInstant",
        "performedDateTime",
        "performedPeriod.start",
        "occurrenceDateTime",
        "occurrencePeriod.start",
        "period.start",
        "started",
        "authoredOn",
        "authored",
        "billablePeriod.start",
        "recordedDate",
        "onsetDateTime",
        "onsetPeriod.start",
        "issued",
        "dateTime",
        "created",
        "date",
        "startDate",
        "recorded",
        "sent",
    )
)
"""Where the clinical day stands, best first. A Patient has none: a birth date must not reach an anchor."""

_RELATIVE: Final = re.compile(r"(?:https?://[!-~]*/)?(?P<key>[A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64})(?:/_history/[!-~]+)?")


Walked = tuple[list[tuple[str | None, str]], list[str], list[str]]
"""Every coding (system and code), short text and reference of a resource."""


class Content(Struct, frozen=True, kw_only=True):
    """What a look through a resource found, before it is known whose chart it goes into; references as they stand."""

    grade: Grade
    day: int
    subjects: tuple[str, ...]
    authors: tuple[str, ...]
    encounters: tuple[str, ...]
    references: tuple[str, ...]
    is_asserted: bool

    def __repr__(self) -> str:
        return "Content()"


class Facts(Struct, frozen=True, array_like=True):
    """One resource without its content.

    ``encounter`` and ``references`` are ``Type/id`` keys (``?/id`` where only the id is known); references to
    the patient and to shared directory resources are left out. ``day`` is in days since 1900-01-01, or -1.
    """

    resource_type: str
    resource_id: str
    category: Category
    sensitivity: Sensitivity
    labels: tuple[str, ...]
    day: int
    encounter: str
    references: tuple[str, ...]
    patient_reported: bool

    @property
    def key(self) -> str:
        """``Type/id``."""
        return f"{self.resource_type}/{self.resource_id}"


@lru_cache(KEYS_REMEMBERED)
def _key_in(reference: str) -> str | None:
    """``Type/id`` at the end of a relative or absolute reference."""
    found = _RELATIVE.fullmatch(reference)
    return found["key"] if found else None


class Resolver:
    """Turns the references of one bundle, or of resources that were resolved before, into keys.

    Without a patient (the organisation's own chart) a resource may be about anybody.
    """

    __slots__ = ("_by_full_url", "_patient_id")

    def __init__(self, bundle: Bundle | None, patient: Entry | None) -> None:
        entries = bundle.entries if bundle is not None else ()
        self._by_full_url = {entry.full_url: entry.key for entry in entries if entry.full_url is not None}
        self._patient_id = None if patient is None else patient.resource_id

    @classmethod
    def of_patient(cls, patient_id: str | None) -> Self:
        """For resources whose references are ``Type/id`` already."""
        resolver = cls(None, None)
        resolver._patient_id = patient_id
        return resolver

    def key_of(self, reference: str) -> str | None:
        """The key a reference means; None for contained, conditional and unreadable ones."""
        if reference in self._by_full_url:
            return self._by_full_url[reference]
        if reference.startswith("urn:uuid:"):
            tail = reference.removeprefix("urn:uuid:")
            return f"Patient/{tail}" if tail == self._patient_id else f"?/{tail}"
        return _key_in(reference)

    def check_subject(self, reference: str) -> None:
        """Refuse a resource that is about another patient, or about one that cannot be told."""
        if self._patient_id is None:
            return
        key = self.key_of(reference)
        contained = reference.startswith("#")
        other_kind = key is not None and not key.startswith(("Patient/", "?/"))
        require(contained or other_kind or self.is_patient(reference), ChartsCode.SUBJECT_IS_ANOTHER)

    def is_patient(self, reference: str) -> bool:
        """Whether the reference means the chart's patient."""
        return self._patient_id is not None and self.key_of(reference) == f"Patient/{self._patient_id}"


def content_of(resource_type: str, tree: Json) -> Content:
    """Look through a resource."""
    codings, texts, references = walk(tree)
    security = _security(tree)
    authored = resource_type in PATIENT_AUTHORED
    return Content(
        grade=grade(codings=codings, texts=texts, security=security),
        day=NO_DAY if resource_type in DEMOGRAPHICS else _day(tree),
        subjects=_references_of(tree, SUBJECT_KEYS),
        authors=_references_of(tree, AUTHOR_KEYS) if authored else (),
        encounters=_encounters(tree),
        references=tuple(dict.fromkeys(references)),
        is_asserted=authored and any(code in PATIENT_ASSERTED for _, code in security),
    )


def facts_of(entry: Entry, resolver: Resolver, content: Content | None = None) -> Facts:
    """Read the facts of one of the patient's resources; ``content`` where it was looked through already.

    Raises ``Rejected(SUBJECT_IS_ANOTHER)`` when it is about someone else.
    """
    if content is None:
        content = content_of(entry.resource_type, entry.tree())
    for reference in content.subjects:
        resolver.check_subject(reference)
    # The patient is the author: by label, or by being the only one named as author or performer.
    reported = content.is_asserted or (
        bool(content.authors) and all(resolver.is_patient(author) for author in content.authors)
    )
    own_key = entry.key
    keys = (resolver.key_of(reference) for reference in content.references)
    return Facts(
        resource_type=entry.resource_type,
        resource_id=entry.resource_id,
        category=Category.PATIENT_REPORTED if reported else CATEGORIES[entry.resource_type],
        sensitivity=content.grade.sensitivity,
        labels=content.grade.labels,
        day=content.day,
        encounter=_encounter(content.encounters, resolver),
        references=tuple(dict.fromkeys(key for key in keys if key is not None and is_clinical(key, own_key))),
        patient_reported=reported,
    )


def walk(tree: Json) -> Walked:
    """Every coding, short text and reference of a resource, in document order of no importance."""
    codings: list[tuple[str | None, str]] = []
    texts: list[str] = []
    references: list[str] = []
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += [one for one in node if type(one) is dict or type(one) is list]
            continue
        for key, value in node.items():
            kind = type(value)
            if kind is dict or kind is list:
                stack.append(value)
            elif kind is not str or key not in READ_KEYS:
                continue
            elif key == "code":
                system = node.get("system")
                codings.append((system if type(system) is str else None, value))
            elif key in TEXT_KEYS:
                texts.append(value)
            elif key == "reference" or (key == "url" and _is_local_url(value)):
                references.append(value)
    return codings, texts, references


def _is_local_url(url: str) -> bool:
    """An attachment's url may point at a Binary of the same chart; an extension's url never does."""
    return url.startswith(("urn:uuid:", "Binary/"))


def is_clinical(key: str, own_key: str) -> bool:
    """Whether a key names another resource of a chart than the Patient: neither a shared one nor its own."""
    kind = key.partition("/")[0]
    return key != own_key and kind not in DIRECTORY and kind != "Patient"


def references_in(value: object) -> list[str]:
    """The reference strings of a Reference or a list of them."""
    items = value if isinstance(value, list) else [value]
    found = [item.get("reference") for item in items if isinstance(item, dict)]
    return [one for one in found if type(one) is str]


def _references_of(tree: Json, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(reference for key in keys if key in tree for reference in references_in(tree[key]))


def _encounters(tree: Json) -> tuple[str, ...]:
    """Where the encounter may stand: ``encounter``, ``context`` or ``context.encounter`` in R4."""
    found = _references_of(tree, ("encounter", "context"))
    context = tree.get("context")
    return found + _references_of(context, ("encounter",)) if isinstance(context, dict) else found


def _encounter(references: tuple[str, ...], resolver: Resolver) -> str:
    """The encounter a resource belongs to."""
    for reference in references:
        key = resolver.key_of(reference) or ""
        if key.startswith("?/"):
            return "Encounter/" + key.removeprefix("?/")
        if key.startswith("Encounter/"):
            return key
    return ""


def _security(tree: Json) -> list[tuple[str | None, str]]:
    meta = tree.get("meta")
    labels = meta.get("security") if isinstance(meta, dict) else None
    return [
        (label.get("system") if type(label.get("system")) is str else None, label["code"])
        for label in (labels if isinstance(labels, list) else [])
        if isinstance(label, dict) and type(label.get("code")) is str
    ]


def _day(tree: Json) -> int:
    for path in DAY_PATHS:
        if path[0] not in tree:
            continue
        value: object = tree
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if type(value) is str:
            return day_of(value)
    return NO_DAY
