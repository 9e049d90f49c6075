"""Goal: the published search parameters are all here, resolved to JSON paths and to the right types.

Method: the data file is read for every type; parameters of each form are compared with what R4 prints.
"""

import gzip
from collections.abc import Container
from importlib.resources import files

import pytest

from carechain.charts.definitions import RESOURCE_TYPES, Component, Leaf, compartment_params, search_parameters
from carechain.charts.searching.found import DATES, QUANTITIES, STRINGS, SUFFIXES, TOKENS
from carechain.charts.searching.keys import param_key

KINDS = {"composite", "date", "number", "quantity", "reference", "special", "string", "token", "uri"}
COMMON = {"_id", "_lastUpdated", "_profile", "_security", "_source", "_tag"}
READERS: dict[str, Container[str]] = {
    "token": TOKENS,
    "string": STRINGS,
    "date": DATES,
    "number": QUANTITIES,
    "quantity": QUANTITIES,
}


def test_every_type_has_its_parameters() -> None:
    for resource_type in RESOURCE_TYPES:
        parameters = search_parameters(resource_type)
        assert parameters.keys() >= COMMON, resource_type
        for code, one in parameters.items():
            assert (one.code, one.resource_type) == (code, resource_type)
            assert one.kind in KINDS
            assert one.leaves or one.kind in {"composite", "special"}, (resource_type, code)
            assert set(one.targets) <= RESOURCE_TYPES, (resource_type, code)
            assert all(leaf.type in READERS[one.kind] for leaf in one.leaves if one.kind in READERS)


@pytest.mark.parametrize("name", ["Bundle", "Parameters", "OperationOutcome", "Nothing", ""])
def test_what_is_not_stored_has_none(name: str) -> None:
    assert not search_parameters(name)
    assert compartment_params(name) == ()


def test_a_choice_becomes_one_leaf_for_each_type() -> None:
    leaves = search_parameters("Observation")["date"].leaves
    assert set(leaves) == {
        Leaf(("effectiveDateTime",), "dateTime"),
        Leaf(("effectivePeriod",), "Period"),
        Leaf(("effectiveTiming",), "Timing"),
        Leaf(("effectiveInstant",), "instant"),
    }


def test_a_shared_parameter_keeps_what_concerns_the_type() -> None:
    patient = search_parameters("Condition")["patient"]
    assert patient.leaves == (Leaf(("subject",), "Reference", "Patient"),)
    assert patient.targets == ("Patient",)
    assert search_parameters("Encounter")["subject"].targets == ("Group", "Patient")
    assert search_parameters("MedicationRequest")["code"].leaves == (
        Leaf(("medicationCodeableConcept",), "CodeableConcept"),
    )


def test_filters_become_steps() -> None:
    assert search_parameters("Patient")["email"].leaves == (Leaf(("telecom?system=email",), "ContactPoint"),)
    (race,) = search_parameters("Patient")["race"].leaves
    assert race.path[1:] == ("extension", "valueCoding")
    (derived,) = search_parameters("Library")["derived-from"].leaves
    assert derived.path == ("relatedArtifact?type=derived-from", "resource")


def test_composites_say_where_their_parts_meet() -> None:
    parameters = search_parameters("Observation")
    whole = parameters["code-value-quantity"]
    assert whole.components == (Component("code", "token"), Component("value-quantity", "quantity"))
    assert not whole.is_grouped
    assert [group.path for group in parameters["component-code-value-quantity"].groups] == [("component",)]
    assert [group.path for group in parameters["combo-code-value-quantity"].groups] == [(), ("component",)]
    (relation,) = search_parameters("DocumentReference")["relationship"].groups
    assert [[leaf.path for leaf in side] for side in relation.sides] == [[("target",)], [("code",)]]
    for resource_type in RESOURCE_TYPES:
        for one in search_parameters(resource_type).values():
            if one.kind == "composite":
                for component in one.components:
                    assert search_parameters(resource_type)[component.code].kind == component.kind


def test_some_parameters_are_others_together() -> None:
    united = {
        f"{resource_type}.{one.code}": one.parts
        for resource_type in RESOURCE_TYPES
        for one in search_parameters(resource_type).values()
        if one.parts
    }
    assert united == {
        "Observation.combo-code": ("code", "component-code"),
        "Observation.combo-code-value-concept": ("code-value-concept", "component-code-value-concept"),
        "Observation.combo-code-value-quantity": ("code-value-quantity", "component-code-value-quantity"),
        "Observation.combo-data-absent-reason": ("component-data-absent-reason", "data-absent-reason"),
        "Observation.combo-value-concept": ("component-value-concept", "value-concept"),
        "Observation.combo-value-quantity": ("component-value-quantity", "value-quantity"),
    }


def test_the_patient_compartment_names_parameters() -> None:
    assert compartment_params("Observation") == ("subject", "performer")
    assert compartment_params("Coverage") == ("policy-holder", "subscriber", "beneficiary", "payor")
    assert compartment_params("Organization") == ()
    for resource_type in RESOURCE_TYPES:
        for code in compartment_params(resource_type):
            assert search_parameters(resource_type)[code].kind == "reference", (resource_type, code)


def test_no_two_parameters_share_a_key() -> None:
    keys = [
        param_key(resource_type, code + suffix)
        for resource_type in RESOURCE_TYPES
        for code in search_parameters(resource_type)
        for suffix in SUFFIXES
    ]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", ["search.json.gz", "schema.json.gz"])
def test_the_data_files_are_packed_without_a_time(name: str) -> None:
    packed = files("carechain.charts").joinpath("data", name).read_bytes()
    assert packed[4:8] == bytes(4)
    assert gzip.decompress(packed)[:1] == b"{"
