"""The demonstration's patients: where their bundles come from, and the wallet each of them has."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.charts.bundle import parse, patient_of
from carechain.charts.codes import ChartsCode
from carechain.charts.ingest import mrn_of, name_of
from carechain.charts.record import StoredRecord
from carechain.core.limits import BUNDLE_SIZE_BYTES
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Sensitivity
from carechain.demo import synthetic
from carechain.demo.drawn import Drawn
from carechain.sdk.wallet import Pseudonym, Wallet, new_wallet

ID_SYSTEM: Final = "mrn"
Bundle = Callable[[], bytes]
"""Gives a bundle's bytes when they are needed, so that one bundle at a time is in memory."""


class NoPatients(Exception):  # noqa: N818 - names what is wrong with the folder
    """The folder holds no FHIR R4 bundle of a patient that can be taken in."""


class Patient:
    """A person with a wallet. ``at_home`` is the pseudonym at the hospital that keeps the chart."""

    def __init__(self, *, wallet: Wallet, name: str, existing_id: str, bundles: list[Bundle]) -> None:
        self.wallet = wallet
        self.name = name
        self.existing_id = existing_id
        self.bundles = bundles
        self.at_home: Pseudonym | None = None
        self.records: list[StoredRecord] = []
        self.may_write: bytes = b""

    @property
    def pseudonym(self) -> Pseudonym:
        """The pseudonym at the hospital; there is one once the patient is registered."""
        if self.at_home is None:
            raise LookupError("the patient is not registered yet")
        return self.at_home

    def above(self, ceiling: Sensitivity) -> list[StoredRecord]:
        """The records that a ceiling keeps back."""
        return [one for one in self.records if one.sensitivity > ceiling]


class Intake(Struct, frozen=True, kw_only=True):
    """What was found: patients, bundles of shared resources, and how many files were refused with which code."""

    patients: list[Patient]
    directories: list[Bundle]
    refused: dict[str, int]


def synthetic_intake(count: int, *, seed: int, chain_id: str) -> Intake:
    """Our own patients. The one whose chart holds very restricted records comes first, a restricted one second."""
    tellers = [synthetic.SENSITIVE_EVERY - 1, 2 * synthetic.SENSITIVE_EVERY - 1]
    indexes = [*tellers, *(index for index in range(max(count, tellers[-1] + 1)) if index not in tellers)][:count]
    bundles: list[Bundle] = [partial(synthetic.patient, index, seed) for index in indexes]
    return _intake(bundles, seed=seed, chain_id=chain_id)


def folder_intake(folder: Path, *, seed: int, chain_id: str) -> Intake:
    """Anyone's bundles: every ``*.json`` file of the folder and its subfolders, in order of name.

    Raises :class:`NoPatients`, and ``OSError`` when the folder cannot be read.
    """
    bundles: list[Bundle] = [partial(_read, path) for path in sorted(folder.rglob("*.json"))]
    intake = _intake(bundles, seed=seed, chain_id=chain_id)
    if not intake.patients:
        raise NoPatients(f"no bundle of a patient in {folder}")
    return intake


def _intake(bundles: list[Bundle], *, seed: int, chain_id: str) -> Intake:
    """Sort bundles by the patient they are about; two with the same existing id are of one patient."""
    patients: dict[str, Patient] = {}
    directories: list[Bundle] = []
    refused: dict[str, int] = {}
    for bundle in bundles:
        try:
            tree = patient_of(parse(bundle())).tree()
        except Rejected as refusal:
            if refusal.code is ChartsCode.NO_PATIENT:
                directories.append(bundle)
            else:
                refused[refusal.code.label] = refused.get(refusal.code.label, 0) + 1
            continue
        existing_id = mrn_of(tree) or str(tree.get("id"))
        if existing_id in patients:
            patients[existing_id].bundles.append(bundle)
            continue
        patients[existing_id] = Patient(
            wallet=new_wallet(chain_id=chain_id, entropy=Drawn(seed, "wallet", str(len(patients)))),
            name=name_of(tree) or "",
            existing_id=existing_id,
            bundles=[bundle],
        )
    return Intake(patients=list(patients.values()), directories=directories, refused=refused)


def _read(path: Path) -> bytes:
    """A file's bytes, not more than can be taken: what is longer is refused by the charts."""
    with path.open("rb") as file:
        return file.read(BUNDLE_SIZE_BYTES + 1)


def received_bytes(patient: Patient) -> Iterator[bytes]:
    """The bytes of every resource in the patient's bundles, as they were received."""
    for bundle in patient.bundles:
        for entry in parse(bundle()).entries:
            yield entry.body
