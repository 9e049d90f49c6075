"""A FHIR bundle that a patient brings: filed whole, every byte as it is."""

from collections import Counter
from typing import BinaryIO

from carechain.charts.bundle import parse
from carechain.sources.imports.base import ImportReport
from carechain.sources.imports.documents import whole
from carechain.sources.intake import Intake


def import_bundle(file: BinaryIO, *, intake: Intake, pseudonym: bytes, received_s: int) -> ImportReport:
    """File a bundle of one patient. Raises ``Rejected`` with the charts' code when they do not take it."""
    data = whole(file)
    types = Counter(entry.resource_type for entry in parse(data).entries)
    filed = intake.file_bundle(pseudonym=pseudonym, bundle=data, received_s=received_s)
    return ImportReport(
        kind="fhir",
        resources=types.total(),
        changed=filed.changed,
        by_type=dict(sorted(types.items())),
        skipped=(),
    )
