"""One interface for every kind of file that patients bring: resources out of a stream, and what was left out and why.

An importer holds one piece of the file at a time. It is run twice: the first run finds out whether the whole file can
be read, so that a file that breaks off leaves nothing behind; only the second one files. Ids follow from the content:
importing a file again, or a later export that contains it, adds only what is new.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Protocol
from zoneinfo import ZoneInfo

from msgspec import Struct

from carechain.core.limits import BUNDLE_SIZE_BYTES, IMPORT_CHUNK, IMPORT_FILE_BYTES, IMPORT_PLACES
from carechain.core.rejection import Rejected, RejectionCode
from carechain.sources.bundles import Json, Prepared, prepared, stable_id
from carechain.sources.imports.codes import ImportCode
from carechain.sources.intake import Intake, new_patient

_CHUNK_BYTES: Final = BUNDLE_SIZE_BYTES // 4


class Subject(Struct, frozen=True, kw_only=True):
    """For whom a file is imported: the chart's own Patient, and the zone of times that name none."""

    patient: Prepared
    zone: ZoneInfo

    @property
    def reference(self) -> Json:
        """A Reference to the patient."""
        return {"reference": self.patient.key}

    def id_of(self, kind: str, *parts: str) -> str:
        """The id of a resource that the patient's file calls so."""
        return stable_id(f"import-{kind}", self.patient.resource_id, *parts)


class Skipped(Struct, frozen=True, kw_only=True):
    """Something that was left out: a sentence why, and where it stands (``line 12``, ``record 7``). Never a value."""

    reason: str
    place: str


Item = Prepared | Skipped


class Importer(Protocol):
    """A kind of file."""

    kind: str

    def read(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        """The file's resources about the subject, in the file's order, each one as soon as it is complete.

        Raises :class:`Unreadable` when the file is not whole or not of this kind.
        """


class Unreadable(Rejected):
    """A file cannot be imported; ``place`` says where it stops being readable."""

    def __init__(self, code: RejectionCode, place: str = "") -> None:
        super().__init__(code)
        self.place = place


class SkippedFor(Struct, frozen=True, kw_only=True):
    """How often something was left out for one reason, and the first places."""

    reason: str
    count: int
    places: tuple[str, ...]


class ImportReport(Struct, frozen=True, kw_only=True):
    """What an import did: resources by type, how many of them were new or changed, and what was skipped and why."""

    kind: str
    resources: int
    changed: int
    by_type: dict[str, int]
    skipped: tuple[SkippedFor, ...]


class Tally:
    """Counts items while they pass."""

    def __init__(self) -> None:
        self.by_type: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}

    @property
    def resources(self) -> int:
        """How many resources passed."""
        return self.by_type.total()

    def note(self, item: Item) -> None:
        """Count one."""
        if isinstance(item, Prepared):
            self.by_type[item.resource_type] += 1
            return
        self._skipped[item.reason] += 1
        places = self._places.setdefault(item.reason, [])
        if len(places) < IMPORT_PLACES:
            places.append(item.place)

    def skipped(self) -> tuple[SkippedFor, ...]:
        """The reasons, most frequent first."""
        return tuple(
            SkippedFor(reason=reason, count=count, places=tuple(self._places[reason]))
            for reason, count in self._skipped.most_common()
        )


def run_import(
    importer: Importer,
    file: BinaryIO,
    *,
    intake: Intake,
    pseudonym: bytes,
    zone: ZoneInfo,
    received_s: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> ImportReport:
    """Import a file that can be read twice for the patient with this pseudonym; ``advance(done, total)`` resources.

    Raises ``Rejected``: before anything is filed when the file cannot be read; what the charts refuse otherwise. An
    import that breaks off while it files is simply run again.
    """
    subject = Subject(patient=intake.patient(pseudonym) or new_patient(pseudonym), zone=zone)
    tally = Tally()
    for item in importer.read(file, subject):
        tally.note(item)
    file.seek(0)
    filed = changed = 0
    for chunk in _chunks(importer.read(file, subject)):
        result = intake.file(pseudonym=pseudonym, resources=(subject.patient, *chunk), received_s=received_s)
        filed += len(chunk)
        changed += result.changed
        advance(filed, tally.resources)
    return ImportReport(
        kind=importer.kind,
        resources=tally.resources,
        changed=changed,
        by_type=dict(sorted(tally.by_type.items())),
        skipped=tally.skipped(),
    )


def _chunks(items: Iterator[Item]) -> Iterator[list[Prepared]]:
    chunk: list[Prepared] = []
    size = 0
    for item in items:
        if isinstance(item, Prepared):
            chunk.append(item)
            size += len(item.body)
            if len(chunk) == IMPORT_CHUNK or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


class Bounded:
    """A stream of which at most ``limit`` bytes are read: what unpacks to more is refused, not written anywhere."""

    def __init__(self, stream: BinaryIO, limit: int = IMPORT_FILE_BYTES) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int) -> bytes:
        """The next bytes. Raises :class:`Unreadable` (FILE_TOO_LARGE)."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable(ImportCode.FILE_TOO_LARGE)
        return data


# --- what patients' files become ------------------------------------------------------------------------

CATEGORIES: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
LOINC: Final = "http://loinc.org"
UCUM: Final = "http://unitsofmeasure.org"


def observation(
    subject: Subject,
    *,
    resource_id: str,
    category: str,
    code: Json,
    when: Json,
    device: str = "",
    **content: Any,  # noqa: ANN401 - elements of FHIR
) -> Prepared:
    """An Observation that the patient brings: the patient is its performer, which makes it patient-reported."""
    return prepared(
        {
            "resourceType": "Observation",
            "id": resource_id,
            "status": "final",
            "category": [{"coding": [{"system": CATEGORIES, "code": category}]}],
            "code": code,
            "subject": subject.reference,
            **when,
            "performer": [subject.reference],
            **content,
            "device": {"display": device} if device else None,
        }
    )


def quantity(value: object, unit: str, code: str | None) -> Json:
    """A Quantity; ``code`` is UCUM's, None where the unit is nobody's."""
    coded = {"system": UCUM, "code": code} if code else {}
    return {"value": value, "unit": unit, **coded}
