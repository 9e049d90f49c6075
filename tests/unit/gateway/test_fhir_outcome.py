"""Goal: every reason has a status and an issue type of FHIR, and what is hidden looks like what does not exist.

Method: the whole list of reasons against FHIR's own lists.
"""

import orjson
import pytest

from carechain.charts.codes import ChartsCode
from carechain.charts.searching.codes import BadParameter, SearchCode
from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode, SmartCode
from carechain.gateway.fhir.outcome import not_authenticated, nothing_here, outcome, problem_of, refusal

ISSUE_TYPES = set(
    """
    invalid structure required value invariant security login unknown expired forbidden suppressed processing
    not-supported duplicate multiple-matches not-found deleted too-long code-invalid extension too-costly
    business-rule conflict transient lock-error no-store exception timeout incomplete throttled informational
    """.split()  # noqa: SIM905 - FHIR's list as it is printed
)
STATUSES = {400, 401, 403, 404, 405, 406, 410, 412, 413, 415, 422, 429, 500, 503}


@pytest.mark.parametrize("code", [*FhirCode, *ChartsCode, *SearchCode])
def test_every_reason_has_a_status_and_an_issue_type(code: FhirCode | ChartsCode | SearchCode) -> None:
    problem = refusal(code)
    assert problem.status in STATUSES
    assert problem.issues[0].code in ISSUE_TYPES
    assert orjson.loads(outcome(problem.issues))["issue"][0]["severity"] == "error"


def test_hidden_and_unknown_are_one_problem() -> None:
    unknown, hidden = nothing_here(), refusal(ChartsCode.NOT_VISIBLE)
    assert (unknown.status, outcome(unknown.issues), unknown.headers) == (
        hidden.status,
        outcome(hidden.issues),
        hidden.headers,
    )


@pytest.mark.parametrize("code", list(SmartCode))
def test_who_is_not_let_in_is_told_how(code: SmartCode) -> None:
    problem = not_authenticated(Rejected(code))
    assert ("www-authenticate" in problem.headers) == (problem.status == 401)
    assert problem.issues[0].code in ISSUE_TYPES


def test_a_bad_parameter_is_named_but_never_its_value() -> None:
    problem = problem_of(BadParameter(SearchCode.BAD_VALUE, "birthdate"))
    assert problem.issues[0].expression == "http.birthdate"
    assert problem_of(BadParameter(SearchCode.BAD_VALUE, "<script>")).issues[0].expression == ""


def test_a_problem_of_an_entry_names_the_entry() -> None:
    moved = refusal(FhirCode.RESOURCE_INVALID, expression="Observation.status").at("Bundle.entry[2].resource")
    assert moved.issues[0].expression == "Bundle.entry[2].resource.status"
    assert refusal(FhirCode.MAY_NOT).at("Bundle.entry[0]").issues[0].expression == "Bundle.entry[0]"
