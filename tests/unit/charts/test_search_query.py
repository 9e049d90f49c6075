"""Goal: a query is read as FHIR R4 writes it; what makes no sense is refused by a code and never by repeating it.

Method: a table of refusals with at least one row per code, the handling of unknown parameters, escapes, and the fields
that the search itself takes. Whether conditions find the right resources is tested on an index.
"""

import pytest

from carechain.charts.definitions import RESOURCE_TYPES, search_parameters
from carechain.charts.searching.codes import BadParameter, SearchCode
from carechain.charts.searching.conditions import split, unescape
from carechain.charts.searching.found import SUFFIXES
from carechain.charts.searching.keys import param_key, reference_term
from carechain.charts.searching.query import compartment, narrowed, restrict
from carechain.charts.searching.tree import AllOf, Among, AnyOf, Chain, Dates, Ids, References, Tokens
from carechain.core.limits import SEARCH_CHAIN_DEPTH, SEARCH_INCLUDES, SEARCH_PAGE, SEARCH_PARAMETERS, SEARCH_VALUES
from index_shelf import read

REFUSALS = [
    ("Observation?nonsense=1", SearchCode.UNKNOWN_PARAMETER),
    ("Observation?patient.nonsense=1", SearchCode.CANNOT_CHAIN),
    ("Observation?encounter.subject:Patient.nonsense=1", SearchCode.CANNOT_CHAIN),
    ("?_type=Patient,Observation&gender=male", SearchCode.UNKNOWN_PARAMETER),
    ("Observation?code:in=http://v/sets", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?code:above=1", SearchCode.UNSUPPORTED_MODIFIER),
    ("Patient?name:not=a", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?date:exact=2024", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?value-quantity:not=2", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?subject:Practitioner=2", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?code-value-quantity:not=a$1", SearchCode.UNSUPPORTED_MODIFIER),
    ("ValueSet?url:contains=a", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?_id:text=a", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?_include:down=Observation:subject", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?date=yesterday", SearchCode.BAD_VALUE),
    ("Observation?date=2024-02-30", SearchCode.BAD_VALUE),
    ("Observation?date=xx2024", SearchCode.BAD_VALUE),
    ("Observation?date=2024,", SearchCode.BAD_VALUE),
    ("Observation?value-quantity=much", SearchCode.BAD_VALUE),
    ("Observation?value-quantity=1|mg", SearchCode.BAD_VALUE),
    ("Observation?value-quantity=1e999", SearchCode.BAD_VALUE),
    ("RiskAssessment?probability=", SearchCode.EMPTY_VALUE),
    ("Observation?code=a|b|c", SearchCode.BAD_VALUE),
    ("Observation?code=|", SearchCode.BAD_VALUE),
    ("Patient?identifier:of-type=a|b", SearchCode.BAD_VALUE),
    ("Observation?subject:missing=perhaps", SearchCode.BAD_VALUE),
    ("Observation?subject=Patient/a,", SearchCode.BAD_VALUE),
    ("Observation?code-value-quantity=a", SearchCode.BAD_VALUE),
    ("Observation?code-value-quantity=a$", SearchCode.BAD_VALUE),
    ("Observation?_count=many", SearchCode.BAD_VALUE),
    ("Observation?_count=-1", SearchCode.BAD_VALUE),
    ("Observation?_count=٣", SearchCode.BAD_VALUE),
    ("Observation?_summary=short", SearchCode.BAD_VALUE),
    ("Observation?_total=all", SearchCode.BAD_VALUE),
    ("Observation?_elements=a b", SearchCode.BAD_VALUE),
    ("Observation?" + "&".join(["status=final"] * (SEARCH_PARAMETERS + 1)), SearchCode.TOO_MANY_PARAMETERS),
    ("Observation?" + "&".join(["_include=*"] * (SEARCH_INCLUDES + 1)), SearchCode.TOO_MANY_PARAMETERS),
    ("Observation?code=" + ",".join(map(str, range(SEARCH_VALUES + 1))), SearchCode.TOO_MANY_VALUES),
    ("Procedure?" + "part-of:Procedure." * (SEARCH_CHAIN_DEPTH + 1) + "status=a", SearchCode.CHAIN_TOO_DEEP),
    ("Observation?code.name=a", SearchCode.CANNOT_CHAIN),
    ("Observation?subject:Practitioner.name=a", SearchCode.CANNOT_CHAIN),
    ("Observation?focus.name=a", SearchCode.CANNOT_CHAIN),
    ("Patient?_has:Observation=a", SearchCode.CANNOT_CHAIN),
    ("Patient?_has:Nothing:patient:code=a", SearchCode.CANNOT_CHAIN),
    ("Patient?_has:Observation:code:code=a", SearchCode.CANNOT_CHAIN),
    ("Practitioner?_has:Observation:patient:code=a", SearchCode.CANNOT_CHAIN),
    ("Observation?_sort=nonsense", SearchCode.CANNOT_SORT),
    ("Observation?_sort=subject", SearchCode.CANNOT_SORT),
    ("Observation?_sort=combo-code", SearchCode.CANNOT_SORT),
    ("Observation?combo-code:missing=maybe", SearchCode.BAD_VALUE),
    ("Observation?combo-code.code=x", SearchCode.CANNOT_CHAIN),
    ("Observation?combo-value-quantity:not=5", SearchCode.UNSUPPORTED_MODIFIER),
    ("Observation?_sort=date,code,status,category,value-date", SearchCode.CANNOT_SORT),
    ("?_type=Patient,Observation&_sort=_id", SearchCode.CANNOT_SORT),
    ("Observation?_include=Observation", SearchCode.BAD_INCLUDE),
    ("Observation?_include=Observation:code", SearchCode.BAD_INCLUDE),
    ("Observation?_include=Nothing:subject", SearchCode.BAD_INCLUDE),
    ("Observation?_include=Observation:subject:Nothing", SearchCode.BAD_INCLUDE),
    ("Observation?_revinclude=*", SearchCode.BAD_INCLUDE),
    ("Observation?_text=a", SearchCode.UNSUPPORTED_PARAMETER),
    ("Observation?_filter=a", SearchCode.UNSUPPORTED_PARAMETER),
    ("Observation?_contained=true", SearchCode.UNSUPPORTED_PARAMETER),
    ("Nothing?", SearchCode.UNKNOWN_TYPE),
    ("?_type=Nothing", SearchCode.UNKNOWN_TYPE),
    ("Observation?code=", SearchCode.EMPTY_VALUE),
]


@pytest.mark.parametrize(("question", "code"), REFUSALS, ids=[question[:60] for question, _ in REFUSALS])
def test_what_makes_no_sense_is_refused(question: str, code: SearchCode) -> None:
    with pytest.raises(BadParameter) as refusal:
        read(question)
    assert refusal.value.code is code


def test_every_code_has_its_row() -> None:
    # A page token is no parameter of a query: BAD_PAGE is shown with the pages.
    assert {code for _, code in REFUSALS} == set(SearchCode) - {SearchCode.BAD_PAGE}


def test_a_refusal_names_the_parameter_and_nothing_else() -> None:
    with pytest.raises(BadParameter) as refusal:
        read("Observation?date=secret")
    assert (refusal.value.parameter, str(refusal.value)) == ("date", "SEARCH.BAD_VALUE")
    with pytest.raises(BadParameter) as refusal:
        read("Observation?<b>secret</b>=1")
    assert refusal.value.parameter == ""


def test_lenient_handling_leaves_out_what_is_unknown_only() -> None:
    query = read("Observation?nonsense=1&code=a&_text=b&status=&_sort=subject&<x>=1", strict=False)
    assert query.ignored == ("nonsense", "_text", "status", "_sort", "")
    assert query.applied == (("code", "a"),)
    for question in ("Observation?code:in=a", "Observation?date=never", "Observation?patient.nonsense=1"):
        with pytest.raises(BadParameter):
            read(question, strict=False)


def test_the_searchs_own_fields() -> None:
    query = read(
        "Observation?_count=7&_summary=text&_elements=id,Observation.status&_total=accurate&_format=json&_pretty=true"
        "&_sort=-date,_id&_include=Observation:subject:Patient&_revinclude:iterate=Provenance:target&_contained=false"
    )
    assert (query.count, query.summary, query.total, query.elements) == (7, "text", "accurate", ("id", "status"))
    assert [key.descending for key in query.sort] == [True, False]
    first, second = query.includes
    assert (first.target_type, first.reverse, first.iterate) == ("Patient", False, False)
    assert (second.source_type, second.reverse, second.iterate) == ("Provenance", True, True)
    assert "_format" not in dict(query.applied)
    assert read("Observation?_count=999999").count == SEARCH_PAGE


def test_at_system_level_types_are_named_or_all_of_them() -> None:
    assert [part.resource_type for part in read("?_type=Patient,Group").parts] == ["Group", "Patient"]
    assert len(read("?_id=a").parts) == len(RESOURCE_TYPES)
    assert read("?_type=Patient&_id=a").applied == (("_type", "Patient"), ("_id", "a"))


ESCAPES = [
    (r"a\,b,c", ",", [r"a\,b", "c"]),
    (r"a\\,b", ",", [r"a\\", "b"]),
    (r"\|a|b", "|", [r"\|a", "b"]),
    ("", ",", [""]),
    ("a\\", ",", ["a\\"]),
]


@pytest.mark.parametrize(("text", "separator", "parts"), ESCAPES)
def test_a_backslash_takes_the_meaning_of_a_separator(text: str, separator: str, parts: list[str]) -> None:
    assert split(text, separator) == parts


def test_escapes_are_undone_once() -> None:
    assert unescape(r"a\,b\|c\$d\\e\n") == r"a,b|c$d\e\n"
    (leaf,) = read(r"Observation?code=a\,b").parts[0].where.nodes
    assert isinstance(leaf, Tokens)
    assert len(leaf.values) == 1
    assert read(r"Observation?code=a\,b").parts != read("Observation?code=a,b").parts


def test_alternatives_become_one_leaf_and_repetitions_two() -> None:
    (leaf,) = read("Observation?code=a,b").parts[0].where.nodes
    assert isinstance(leaf, Tokens)
    assert len(leaf.values) == 2
    assert len(read("Observation?code=a&code=b").parts[0].where.nodes) == 2
    (dates,) = read("Observation?date=2024,2025").parts[0].where.nodes
    assert isinstance(dates, AnyOf)
    assert all(isinstance(one, Dates) for one in dates.nodes)


def test_a_chain_without_a_type_goes_to_every_type_that_knows_the_rest() -> None:
    (node,) = read("Observation?subject.name=a").parts[0].where.nodes
    assert isinstance(node, AnyOf)
    chains = [one for one in node.nodes if isinstance(one, Chain)]
    assert {one.resource_type for one in chains} == {"Location", "Patient"}


def test_a_query_can_be_narrowed() -> None:
    query = read("Observation?code=a")
    assert narrowed(query, [3, 4]).parts[0].where.nodes[-1] == Among((3, 4))
    filters = [read("Observation?category=laboratory"), read("Observation?category=vital-signs&status=final")]
    narrow = restrict(query, filters).parts[0].where.nodes[-1]
    assert isinstance(narrow, AnyOf)
    assert all(isinstance(one, AllOf) for one in narrow.nodes)
    assert restrict(query, []) == query
    # A filter for another type lets nothing of this one through.
    assert restrict(query, [read("Patient?gender=male")]).parts[0].where.nodes[-1] == AnyOf(())


def test_a_compartment_is_what_refers_to_the_patient() -> None:
    target = reference_term("Patient/p")
    node = compartment(read("Observation?code=a"), "p").parts[0].where.nodes[-1]
    assert isinstance(node, AnyOf)
    assert {one.param for one in node.nodes if isinstance(one, References) and one.targets == (target,)} == {
        param_key("Observation", "subject"),
        param_key("Observation", "performer"),
    }
    patient = compartment(read("Patient?"), "p").parts[0].where.nodes[-1]
    assert isinstance(patient, AnyOf)
    assert Ids(("p",)) in patient.nodes
    assert compartment(read("Organization?"), "p").parts[0].where.nodes[-1] == AnyOf(())
    assert compartment(read("Observation?"), "no/id").parts[0].where.nodes[-1] == AnyOf(())


def test_no_two_parameters_share_a_key() -> None:
    names = [
        (resource_type, code + suffix)
        for resource_type in RESOURCE_TYPES
        for code in search_parameters(resource_type)
        for suffix in SUFFIXES
    ]
    assert len({param_key(*name) for name in names}) == len(names)
