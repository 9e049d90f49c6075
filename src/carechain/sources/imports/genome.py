"""Raw genotypes as 23andMe gives them out: tab-separated lines of marker, chromosome, position and genotype (REC-11).

Half a million markers are no half a million resources. They are kept as text, in pieces, behind one DocumentReference
with the label for genetic information; an Observation says how many there are. Markers that are asked for by name
become Observations of their own, as genomics reporting in FHIR has them.
"""

import base64
import re
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import BinaryIO, Final

from carechain.sources.bundles import Json, prepared
from carechain.sources.imports.base import LOINC, Item, Skipped, Subject, Unreadable, observation, quantity
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.documents import text_lines

_ACT: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_CONFIDENTIALITY: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
_DBSNP: Final = "http://www.ncbi.nlm.nih.gov/snp"
_LABELS: Final = {
    "security": [{"system": _CONFIDENTIALITY, "code": "R"}, {"system": _ACT, "code": "GDIS"}],
}
_MARKER: Final = re.compile(r"(?:rs|i)\d{1,12}", re.ASCII)
_CHROMOSOME: Final = re.compile(r"(?:[1-9]|1\d|2[0-2]|X|Y|XY|MT)", re.ASCII)
_POSITION: Final = re.compile(r"\d{1,10}", re.ASCII)
_GENOTYPE: Final = re.compile(r"[ACGTDI-]{1,2}", re.ASCII)
_BUILD: Final = re.compile(r"build (\d{2})", re.IGNORECASE | re.ASCII)
_HEADS: Final = (
    ("rsid", "chromosome", "position", "genotype"),
    ("rsid", "chromosome", "position", "allele1", "allele2"),
)
_PIECE_BYTES: Final = 512 * 1024
NO_CALL: Final = "--"
_HEADER_LINES: Final = 200

NOT_A_MARKER: Final = "the line does not have the form of a genotype"
NOT_PLACED: Final = "the marker has no place in the genome"


class Genome23:
    """The importer of raw genotypes; ``markers`` (for example ``rs4244285``) become Observations too."""

    kind = "23andme"

    def __init__(self, *, markers: Collection[str] = ()) -> None:
        self._markers = frozenset(markers)

    def read(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        """Pieces of the text first, then what refers to them."""
        head: tuple[str, ...] | None = None
        text = _Text(subject)
        build = ""
        for number, line, ended in text_lines(file):
            place = f"line {number}"
            if head is None or line.startswith("#"):
                build = build or next(iter(_BUILD.findall(line)), "")
                head = head or _head(line)
                if head is None and (number > _HEADER_LINES or (line and not line.startswith("#"))):
                    raise Unreadable(ImportCode.FILE_MALFORMED, place)
                continue
            if not line:
                continue
            fields = line.split("\t")
            if len(fields) != len(head):
                if not ended:
                    raise Unreadable(ImportCode.FILE_TRUNCATED, place)
                yield Skipped(reason=NOT_A_MARKER, place=place)
                continue
            yield from self._marker(fields, place, text, subject)
        if head is None:
            raise Unreadable(ImportCode.FILE_MALFORMED)
        yield from text.rest()
        if text.markers:
            yield from _summary(text, build, subject)

    def _marker(self, fields: list[str], place: str, text: "_Text", subject: Subject) -> Iterator[Item]:
        marker, chromosome, position, genotype = *fields[:3], "".join(fields[3:])
        if not _MARKER.fullmatch(marker) or not _GENOTYPE.fullmatch(genotype):
            yield Skipped(reason=NOT_A_MARKER, place=place)
            return
        if not (_CHROMOSOME.fullmatch(chromosome) and _POSITION.fullmatch(position)):
            yield Skipped(reason=NOT_PLACED, place=place)
            return
        yield from text.add(f"{marker}\t{chromosome}\t{position}\t{genotype}\n", called="-" not in genotype)
        if marker in self._markers and "-" not in genotype:
            yield _variant(marker, chromosome, position, genotype, subject)


def _head(line: str) -> tuple[str, ...] | None:
    found = tuple(one.strip().lower() for one in line.lstrip("# ").split("\t"))
    return found if found in _HEADS else None


class _Text:
    """Lines gathered into Binary resources; each one's id is its content's hash."""

    def __init__(self, subject: Subject) -> None:
        self.markers = 0
        self.calls = 0
        self.pieces: list[tuple[str, int, bytes]] = []
        self._subject = subject
        self._lines: list[str] = []
        self._size = 0

    def add(self, line: str, *, called: bool) -> Iterator[Item]:
        """Take a line; gives a piece when one is full."""
        self.markers += 1
        self.calls += called
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _PIECE_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[Item]:
        """What is gathered, as a piece."""
        if not self._lines:
            return
        data = "".join(self._lines).encode()
        self._lines, self._size = [], 0
        digest = sha256(data).digest()
        piece_id = self._subject.id_of("genotypes", digest.hex())
        self.pieces.append((piece_id, len(data), digest))
        yield prepared(
            {
                "resourceType": "Binary",
                "id": piece_id,
                "meta": _LABELS,
                "contentType": "text/tab-separated-values",
                "securityContext": self._subject.reference,
                "data": base64.b64encode(data).decode(),
            }
        )


def _summary(text: _Text, build: str, subject: Subject) -> Iterator[Item]:
    whole = sha256(b"".join(digest for _, _, digest in text.pieces)).hexdigest()
    document = prepared(
        {
            "resourceType": "DocumentReference",
            "id": subject.id_of("genome", whole),
            "meta": _LABELS,
            "status": "current",
            "type": {"coding": [{"system": LOINC, "code": "51969-4", "display": "Genetic analysis report"}]},
            "subject": subject.reference,
            "author": [subject.reference],
            "description": "Raw genotypes: marker, chromosome, position, genotype",
            "content": [
                {
                    "attachment": {
                        "contentType": "text/tab-separated-values",
                        "url": f"Binary/{piece_id}",
                        "size": size,
                        "title": f"Part {number}",
                    }
                }
                for number, (piece_id, size, _) in enumerate(text.pieces, start=1)
            ],
        }
    )
    yield document
    yield observation(
        subject,
        resource_id=subject.id_of("genome-summary", whole),
        category="laboratory",
        code={"text": "Raw genotypes"},
        when={},
        meta=_LABELS,
        derivedFrom=[{"reference": document.key}],
        note=[{"text": f"Genome build {build}"}] if build else [],
        component=[
            {"code": {"text": "Markers"}, "valueQuantity": quantity(text.markers, "markers", "1")},
            {"code": {"text": "Markers with a genotype"}, "valueQuantity": quantity(text.calls, "markers", "1")},
        ],
    )


def _variant(marker: str, chromosome: str, position: str, genotype: str, subject: Subject) -> Item:
    def part(code: str, display: str, value: Json) -> Json:
        return {"code": {"coding": [{"system": LOINC, "code": code, "display": display}]}, **value}

    return observation(
        subject,
        resource_id=subject.id_of("genotype", marker, genotype),
        category="laboratory",
        code={"coding": [{"system": LOINC, "code": "69548-6", "display": "Genetic variant assessment"}]},
        when={},
        meta=_LABELS,
        component=[
            part("81255-2", "dbSNP [ID]", {"valueCodeableConcept": {"coding": [{"system": _DBSNP, "code": marker}]}}),
            part("48000-4", "Chromosome", {"valueCodeableConcept": {"text": chromosome}}),
            part("84413-4", "Genotype display name", {"valueCodeableConcept": {"text": genotype}}),
            {"code": {"text": "Position"}, "valueInteger": int(position)},
        ],
    )
