"""Goal: every address and method means one interaction, and what means nothing is refused with the right status.

Method: tables of requests with the interaction or the status and the allowed methods they must lead to.
"""

import pytest

from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.outcome import Problem
from carechain.gateway.fhir.routing import Kind, route

MEANT = [
    ("GET", "/metadata", Kind.CAPABILITIES),
    ("GET", "", Kind.SEARCH_SYSTEM),
    ("POST", "/", Kind.BUNDLE),
    ("POST", "/_search", Kind.SEARCH_SYSTEM),
    ("GET", "/_history", Kind.HISTORY_SYSTEM),
    ("GET", "/Patient", Kind.SEARCH_TYPE),
    ("HEAD", "/Patient/1", Kind.READ),
    ("POST", "/Patient", Kind.CREATE),
    ("PUT", "/Patient", Kind.UPDATE_MATCHING),
    ("PATCH", "/Patient", Kind.PATCH_MATCHING),
    ("POST", "/Patient/_search", Kind.SEARCH_TYPE),
    ("GET", "/Patient/_history", Kind.HISTORY_TYPE),
    ("GET", "/Patient/1", Kind.READ),
    ("PUT", "/Patient/1", Kind.UPDATE),
    ("PATCH", "/Patient/1", Kind.PATCH),
    ("GET", "/Patient/1/_history", Kind.HISTORY_INSTANCE),
    ("GET", "/Patient/1/_history/2", Kind.VREAD),
    ("GET", "/Patient/1/Observation", Kind.COMPARTMENT),
    ("POST", "/Patient/1/Observation/_search", Kind.COMPARTMENT),
    ("GET", "/Patient/1/*", Kind.COMPARTMENT),
    ("GET", "/Patient/1/$everything", Kind.OPERATION),
    ("POST", "/Patient/$validate", Kind.OPERATION),
    ("POST", "/Bundle/$validate", Kind.OPERATION),
    ("POST", "/$export", Kind.OPERATION),
    ("GET", "/$export-status/abc", Kind.EXPORT_STATUS),
    ("DELETE", "/$export-status/abc", Kind.EXPORT_CANCEL),
    ("GET", "/$export-file/abc/Patient.ndjson", Kind.EXPORT_FILE),
]

REFUSED = [
    ("GET", "/nothing", FhirCode.PATH_UNKNOWN),
    ("GET", "/Foo", FhirCode.TYPE_UNKNOWN),
    ("GET", "/Bundle", FhirCode.TYPE_UNKNOWN),
    ("GET", "/patient", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/a/b", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient//1", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/%2e%2e%2fetc", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/%ff", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/" + "a" * 65, FhirCode.PATH_UNKNOWN),
    ("GET", "/Observation/1/Patient", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/1/_history/1/more", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/1/_history/a_b", FhirCode.PATH_UNKNOWN),
    ("GET", "/$Foo", FhirCode.OPERATION_UNKNOWN),
    ("GET", "/$export/x", FhirCode.OPERATION_UNKNOWN),
    ("GET", "/$export-file/abc/Foo.ndjson", FhirCode.PATH_UNKNOWN),
    ("GET", "/Patient/1/$everything/x", FhirCode.PATH_UNKNOWN),
]

NOT_ALLOWED = [
    ("DELETE", "/Patient/1", FhirCode.NOT_DELETED, "GET, PUT, PATCH, HEAD"),
    ("DELETE", "/Patient", FhirCode.NOT_DELETED, "GET, POST, PUT, PATCH, HEAD"),
    ("POST", "/Patient/1", FhirCode.METHOD_NOT_ALLOWED, "GET, PUT, PATCH, HEAD"),
    ("GET", "/Patient/_search", FhirCode.METHOD_NOT_ALLOWED, "POST"),
    ("PUT", "/metadata", FhirCode.METHOD_NOT_ALLOWED, "GET, HEAD"),
    ("TRACE", "/", FhirCode.METHOD_NOT_ALLOWED, "GET, POST, HEAD"),
]


@pytest.mark.parametrize(("method", "path", "kind"), MEANT)
def test_an_address_means_one_interaction(method: str, path: str, kind: Kind) -> None:
    assert route(method, path).kind is kind


@pytest.mark.parametrize(("method", "path", "code"), REFUSED)
def test_what_means_nothing_is_refused(method: str, path: str, code: FhirCode) -> None:
    with pytest.raises(Rejected) as refused:
        route(method, path)
    assert refused.value.code is code


@pytest.mark.parametrize(("method", "path", "code", "allow"), NOT_ALLOWED)
def test_another_method_is_405_and_names_the_right_ones(method: str, path: str, code: FhirCode, allow: str) -> None:
    with pytest.raises(Problem) as refused:
        route(method, path)
    assert refused.value.status == 405
    assert refused.value.number == code
    assert refused.value.headers["allow"] == allow


def test_the_parts_of_an_address_are_found() -> None:
    target = route("GET", "/Patient/1.a-B/_history/3")
    assert (target.resource_type, target.resource_id, target.version) == ("Patient", "1.a-B", "3")
    target = route("GET", "/Patient/1/Observation")
    assert (target.resource_id, target.member_type) == ("1", "Observation")
    target = route("POST", "/Patient/$match")
    assert (target.resource_type, target.resource_id, target.operation) == ("Patient", "", "$match")
