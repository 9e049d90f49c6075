"""A message as what is to be filed: whom it is about, what it says of them, and their resources. Pure.

Ids follow from the sender's own numbers, so a message that comes twice, or a correction, meets the same resources.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from carechain.sources.bundles import Json, Prepared
from carechain.sources.hl7v2.message import Message, Refused
from carechain.sources.hl7v2.patients import Identity, demographics, identity_of, merged_away
from carechain.sources.hl7v2.reports import Around, orders, reports
from carechain.sources.hl7v2.values import Place
from carechain.sources.hl7v2.visits import allergies, diagnoses, encounter
from carechain.sources.imports.codes import ImportCode

ADMISSIONS: Final = ("A01", "A02", "A03", "A04", "A05", "A08", "A11")
PERSONS: Final = ("A28", "A31")
MERGES: Final = ("A40",)
EVENTS: Final = {"ADT": (*ADMISSIONS, *PERSONS, *MERGES), "ORU": ("R01",), "ORM": ("O01",)}
"""What is understood: ADT for visits, for persons, and for merging two patients; results; orders."""

_VERSIONS: Final = (
    "2.1",
    "2.2",
    "2.3",
    "2.3.1",
    "2.4",
    "2.5",
    "2.5.1",
    "2.6",
    "2.7",
    "2.7.1",
    "2.8",
    "2.8.1",
    "2.8.2",
    "2.9",
)

PatientIds = Callable[[Identity], str]
"""The id of a patient's Patient in the charts; of one who has no chart, :meth:`Identity.patient_id`."""


class Parcel(Struct, frozen=True, kw_only=True):
    """What a message says about one patient.

    ``renews``: whether its demographics are news; otherwise they count only where nothing is known.
    """

    identity: Identity
    said: Json
    renews: bool
    resources: tuple[Prepared, ...]

    def __repr__(self) -> str:
        return "Parcel()"


def translate(message: Message, place: Place, patient_ids: PatientIds = Identity.patient_id) -> list[Parcel]:
    """Map a message; raises :class:`Refused` when it cannot be, so that a message is taken wholly or not at all."""
    kind, event = _kind(message)
    identity = identity_of(message.required("PID"), 3, place)
    subject: Json = {"reference": f"Patient/{patient_ids(identity)}"}
    said = demographics(message, place)
    if kind == "ADT":
        if event in MERGES:
            return _merge(message, place, identity, said, patient_ids)
        return [
            Parcel(
                identity=identity,
                said=said,
                renews=True,
                resources=_admission(message, event, identity, subject, place),
            )
        ]
    around = Around(
        identity=identity,
        subject=subject,
        place=place,
        facility=message.header.text(4),
        visit=_visit(message),
    )
    made = reports(message, around) if kind == "ORU" else orders(message, around)
    return [Parcel(identity=identity, said=said, renews=False, resources=tuple(made))]


def _kind(message: Message) -> tuple[str, str]:
    """The message's type and event, once its header is found to be in order."""
    header = message.header
    header.required(10)
    kind, event = header.required(9), header.text(9, 2)
    if kind not in EVENTS:
        raise header.refused(ImportCode.MESSAGE_TYPE_UNSUPPORTED, 9)
    if event not in EVENTS[kind]:
        raise header.refused(ImportCode.EVENT_UNSUPPORTED, 9)
    if header.text(11) != "P":
        raise header.refused(ImportCode.PROCESSING_ID_UNSUPPORTED, 11)
    if header.text(12) not in _VERSIONS:
        raise header.refused(ImportCode.VERSION_UNSUPPORTED, 12)
    return kind, event


def _admission(message: Message, event: str, identity: Identity, subject: Json, place: Place) -> tuple[Prepared, ...]:
    visit = encounter(message, event, identity, subject, place) if event in ADMISSIONS else None
    found = [] if visit is None else [visit]
    return (*found, *diagnoses(message, identity, subject, visit, place), *allergies(message, identity, subject))


def _merge(message: Message, place: Place, identity: Identity, said: Json, patient_ids: PatientIds) -> list[Parcel]:
    """Two Patients that point at each other. Their charts stay apart: only a registrar binds two to one pseudonym."""
    gone = merged_away(message, place)
    if gone == identity:
        raise Refused(ImportCode.FIELD_MALFORMED, "MRG", 1, 1)
    replaced = _link("replaced-by", patient_ids(identity))
    replaces = _link("replaces", patient_ids(gone))
    return [
        Parcel(identity=gone, said={"active": False, "link": replaced}, renews=True, resources=()),
        Parcel(identity=identity, said={**said, "link": replaces}, renews=True, resources=()),
    ]


def _link(kind: str, patient_id: str) -> list[Json]:
    return [{"other": {"reference": f"Patient/{patient_id}"}, "type": kind}]


def _visit(message: Message) -> Json | None:
    """The visit a result or an order belongs to, by its number: the Encounter itself comes with ADT messages."""
    visit = message.find("PV1")
    number = "" if visit is None else visit.text(19)
    return {"identifier": {"value": number}} if number else None
