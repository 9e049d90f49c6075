"""Where sources hand in what they made: one patient's transaction, filed wholly or not at all.

A source knows this Protocol and nothing of databases. A patient whom no relationship on the ledger names yet is filed
under a provisional pseudonym that follows from the patient's id; the chart moves when a registrar has bound them.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from carechain.charts.binding import provisional
from carechain.charts.repository import Change, Repository
from carechain.charts.sight import CUSTODIAN
from carechain.charts.store import Charts
from carechain.core.vocabulary import Category, Sensitivity, mask
from carechain.sources.bundles import Prepared, prepared, stable_id, transaction


class Filed(Struct, frozen=True, kw_only=True):
    """What a transaction brought: the patient's resources in it, and how many of them were new or changed."""

    resources: int
    changed: int


class Intake(Protocol):
    """What sources need of the charts."""

    def patient(self, pseudonym: bytes) -> Prepared | None:
        """The chart's Patient as it was received; None where there is no chart under this pseudonym."""

    def bind(self, patient_id: str, pseudonym: bytes) -> None:
        """A patient who was filed provisionally has been registered: the chart goes over to the pseudonym.

        Raises ``Rejected`` when either belongs to somebody else.
        """

    def file(self, *, pseudonym: bytes, resources: Sequence[Prepared], received_s: int) -> Filed:
        """File one patient's resources, that patient's Patient among them, in one transaction.

        ``received_s`` is Unix time. Raises ``Rejected`` when the charts refuse them, and then nothing is stored.
        """

    def file_bundle(self, *, pseudonym: bytes, bundle: bytes, received_s: int) -> Filed:
        """File a bundle as it was received. Raises as :meth:`file`."""


def new_patient(pseudonym: bytes) -> Prepared:
    """A Patient of whom nothing is known but the pseudonym: somebody's first import comes before their first visit."""
    return prepared({"resourceType": "Patient", "id": stable_id("patient-of", pseudonym)})


class ChartsIntake:
    """The organisation's own charts as an :class:`Intake`. ``rng(n)`` gives random bytes for ids and salts.

    With ``waits`` the node anchors what was filed; without, whoever hands it in does.
    """

    def __init__(self, charts: Charts, *, rng: Callable[[int], bytes], waits: bool = False) -> None:
        self._charts = charts
        self._rng = rng
        self._waits = waits

    def patient(self, pseudonym: bytes) -> Prepared | None:
        """The Patient of the chart, out of its record of demographics."""
        known = self._charts.local_patient(pseudonym)
        if known is None:
            return None
        for record in self._charts.search(
            pseudonym, ceiling=Sensitivity.V, categories=mask(Category.DEMOGRAPHICS), limit=_RECORDS
        ):
            for one in self._charts.read(record.record_id).resources:
                if one.resource_type == "Patient" and one.resource_id == known.patient_id:
                    return Prepared(resource_type="Patient", resource_id=one.resource_id, body=one.body)
        # Its demographics were erased: the chart goes on under the same id.
        return prepared({"resourceType": "Patient", "id": known.patient_id})

    def bind(self, patient_id: str, pseudonym: bytes) -> None:
        """Move a provisional chart."""
        self._charts.bind(patient_id, pseudonym)

    def file(self, *, pseudonym: bytes, resources: Sequence[Prepared], received_s: int) -> Filed:
        """File resources in one transaction, of an unregistered patient so that they are never anchored."""
        patient = next((one for one in resources if one.resource_type == "Patient"), None)
        if patient is not None and pseudonym == provisional(patient.resource_id):
            return self._file_provisionally(resources, received_s)
        return self.file_bundle(pseudonym=pseudonym, bundle=transaction(resources), received_s=received_s)

    def _file_provisionally(self, resources: Sequence[Prepared], received_s: int) -> Filed:
        changes = [
            Change(resource_type=one.resource_type, resource_id=one.resource_id, body=one.body) for one in resources
        ]
        with Repository(self._charts).writing(received_s * _MICROSECONDS, self._rng) as writer:
            applied = writer.apply(changes, CUSTODIAN)
        return Filed(resources=len(applied), changed=sum(one.changed for one in applied))

    def file_bundle(self, *, pseudonym: bytes, bundle: bytes, received_s: int) -> Filed:
        """File a bundle as it is."""
        result = self._charts.ingest(
            pseudonym=pseudonym, bundle=bundle, received_s=received_s, rng=self._rng, waits=self._waits
        )
        return Filed(resources=result.resources, changed=result.new_resources)


_MICROSECONDS: Final = 1_000_000
_RECORDS: Final = 50
"""More records of demographics than a chart has: those of relatives stand beside the patient's own."""
