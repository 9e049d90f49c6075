"""Which importer a file needs: named, or told by how the file begins."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from msgspec import Struct

from carechain.sources.imports.apple import AppleHealth
from carechain.sources.imports.base import Importer, Unreadable
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.devices import DeviceTable, Table
from carechain.sources.imports.documents import read_json
from carechain.sources.imports.fitbit import KNOWN, Fitbit
from carechain.sources.imports.genome import Genome23
from carechain.sources.imports.prom import Questionnaires
from carechain.sources.imports.scoring import Scoring

BUNDLE: Final = "fhir"
"""A FHIR bundle of one patient: filed as it is, byte for byte."""
KINDS: Final = ("apple-health", "fitbit", "23andme", "csv", "prom", BUNDLE)
_HEAD_BYTES: Final = 64 * 1024


class Wishes(Struct, frozen=True, kw_only=True):
    """What an import can be told beside the file."""

    every_sample: bool = False
    table: Table | None = None
    scoring: tuple[Scoring, ...] = ()
    markers: tuple[str, ...] = ()


def kind_of(file: BinaryIO) -> str:
    """The kind of a file, which is left at its beginning. Raises ``Rejected(KIND_UNKNOWN)``."""
    head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    file.seek(0)
    text = head.lstrip()
    if head.startswith(b"PK\x03\x04") or text.startswith((b"<?xml", b"<!DOCTYPE HealthData", b"<HealthData")):
        return "apple-health"
    if text.startswith(b"#") and (b"23andMe" in head or b"\trsid" in head or b"# rsid\t" in head):
        return "23andme"
    if text.startswith((b"{", b"[")):
        found = _kind_of_json(file)
        file.seek(0)
        return found
    raise Unreadable(ImportCode.KIND_UNKNOWN)


def _kind_of_json(file: BinaryIO) -> str:
    tree = read_json(file)
    kinds = set(_resource_types(tree))
    if kinds and kinds <= {"Questionnaire", "QuestionnaireResponse", "Patient"} and "QuestionnaireResponse" in kinds:
        return "prom"
    if isinstance(tree, dict) and tree.get("resourceType") == "Bundle":
        return BUNDLE
    if isinstance(tree, dict) and KNOWN & tree.keys():
        return "fitbit"
    raise Unreadable(ImportCode.KIND_UNKNOWN)


def _resource_types(tree: object) -> Iterator[object]:
    entries: Sequence[object] = tree if isinstance(tree, list) else [tree]
    if isinstance(tree, dict) and tree.get("resourceType") == "Bundle":
        inside = tree.get("entry")
        entries = [one.get("resource") for one in inside if isinstance(one, dict)] if isinstance(inside, list) else []
    for one in entries:
        kind = one.get("resourceType") if isinstance(one, dict) else None
        yield kind if isinstance(kind, str) else ""


def importer_of(kind: str, wishes: Wishes) -> Importer:
    """The importer of a kind other than :data:`BUNDLE`. Raises ``Rejected``."""
    if kind == "csv":
        if wishes.table is None:
            raise Unreadable(ImportCode.COLUMNS_MALFORMED)
        return DeviceTable(wishes.table)
    made: dict[str, Importer] = {
        "apple-health": AppleHealth(every_sample=wishes.every_sample),
        "fitbit": Fitbit(),
        "23andme": Genome23(markers=wishes.markers),
        "prom": Questionnaires(tables=wishes.scoring),
    }
    if kind not in made:
        raise Unreadable(ImportCode.KIND_UNKNOWN)
    return made[kind]
