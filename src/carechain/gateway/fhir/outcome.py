"""Every refusal as an OperationOutcome: one table from reasons to HTTP statuses and FHIR issue types (API-1).

A resource that may not be seen and one that does not exist are the same refusal, byte for byte. Nothing of the input is
ever repeated.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import orjson
from msgspec import Struct

from carechain.charts.codes import ChartsCode
from carechain.charts.searching.codes import BadParameter, SearchCode
from carechain.core.rejection import Rejected, RejectionCode
from carechain.gateway.codes import SMART_STATUS, FhirCode
from carechain.sdk.authentication import AuthCode

CODE_SYSTEM: Final = "urn:carechain:rejection"
"""The system of the labels in ``issue.details.coding``."""

BAD_REQUEST: Final = 400
UNAUTHORISED: Final = 401
UNPROCESSABLE: Final = 422

_STATUS: Final[Mapping[RejectionCode, tuple[int, str]]] = {
    FhirCode.PATH_UNKNOWN: (404, "not-found"),
    FhirCode.TYPE_UNKNOWN: (404, "not-supported"),
    FhirCode.METHOD_NOT_ALLOWED: (405, "not-supported"),
    FhirCode.NOT_DELETED: (405, "not-supported"),
    FhirCode.NOT_ACCEPTABLE: (406, "not-supported"),
    FhirCode.MEDIA_TYPE_UNSUPPORTED: (415, "not-supported"),
    FhirCode.BODY_TOO_LARGE: (413, "too-long"),
    FhirCode.BODY_MALFORMED: (400, "structure"),
    FhirCode.NOT_FOUND: (404, "not-found"),
    FhirCode.MAY_NOT: (403, "forbidden"),
    FhirCode.TYPE_MISMATCH: (400, "invalid"),
    FhirCode.ID_MISMATCH: (400, "invalid"),
    FhirCode.ID_MALFORMED: (400, "value"),
    FhirCode.RESOURCE_INVALID: (400, "invalid"),
    FhirCode.VERSION_CONFLICT: (412, "conflict"),
    FhirCode.ETAG_MALFORMED: (400, "value"),
    FhirCode.MULTIPLE_MATCHES: (412, "multiple-matches"),
    FhirCode.CRITERIA_MISSING: (412, "required"),
    FhirCode.PATCH_MALFORMED: (400, "structure"),
    FhirCode.PATCH_FAILED: (422, "processing"),
    FhirCode.PARAMETER_INVALID: (400, "value"),
    FhirCode.PARAMETER_UNKNOWN: (400, "not-supported"),
    FhirCode.TOO_MANY_PARAMETERS: (400, "too-costly"),
    FhirCode.PAGE_UNKNOWN: (410, "expired"),
    FhirCode.BUNDLE_UNSUPPORTED: (400, "not-supported"),
    FhirCode.TOO_MANY_ENTRIES: (413, "too-costly"),
    FhirCode.ENTRY_MALFORMED: (400, "structure"),
    FhirCode.ENTRY_REPEATED: (400, "duplicate"),
    FhirCode.REFERENCE_UNRESOLVED: (400, "not-found"),
    FhirCode.NOT_IN_TRANSACTION: (400, "not-supported"),
    FhirCode.READ_ONLY_TYPE: (405, "not-supported"),
    FhirCode.OPERATION_UNKNOWN: (404, "not-supported"),
    FhirCode.EXPORT_UNKNOWN: (404, "not-found"),
    FhirCode.EXPORT_UNSUPPORTED: (400, "not-supported"),
    FhirCode.TOO_MANY_EXPORTS: (429, "throttled"),
    FhirCode.TOO_MANY_STREAMS: (429, "throttled"),
    FhirCode.BUSY: (503, "throttled"),
    FhirCode.STORE_UNAVAILABLE: (503, "transient"),
    FhirCode.INTERNAL: (500, "exception"),
    FhirCode.SUBSCRIPTION_UNSUPPORTED: (422, "not-supported"),
    FhirCode.OUT_OF_SIGHT: (403, "forbidden"),
    FhirCode.CREATE_BY_PUT: (404, "not-found"),
    ChartsCode.BUNDLE_TOO_LARGE: (413, "too-long"),
    ChartsCode.NOT_UTF8: (400, "structure"),
    ChartsCode.NOT_JSON: (400, "structure"),
    ChartsCode.NESTED_TOO_DEEPLY: (400, "too-costly"),
    ChartsCode.DUPLICATE_KEY: (400, "structure"),
    ChartsCode.TOO_MANY_ENTRIES: (413, "too-costly"),
    ChartsCode.UNKNOWN_RESOURCE_TYPE: (400, "value"),
    ChartsCode.NO_RESOURCE_TYPE: (400, "required"),
    ChartsCode.BAD_RESOURCE_ID: (400, "value"),
    ChartsCode.IMPOSSIBLE_DATE: (400, "value"),
    ChartsCode.SUBJECT_IS_ANOTHER: (422, "business-rule"),
    ChartsCode.CHART_CHANGED: (422, "business-rule"),
    ChartsCode.SEVERAL_PATIENTS: (422, "business-rule"),
    ChartsCode.TOO_MANY_RESOURCES: (422, "too-costly"),
    ChartsCode.RECORD_NOT_FOUND: (404, "not-found"),
    SearchCode.UNKNOWN_PARAMETER: (400, "not-supported"),
    SearchCode.UNSUPPORTED_MODIFIER: (400, "not-supported"),
    SearchCode.UNSUPPORTED_PARAMETER: (400, "not-supported"),
    SearchCode.BAD_VALUE: (400, "value"),
    SearchCode.TOO_MANY_PARAMETERS: (400, "too-costly"),
    SearchCode.TOO_MANY_VALUES: (400, "too-costly"),
    SearchCode.CHAIN_TOO_DEEP: (400, "too-costly"),
    SearchCode.BAD_PAGE: (410, "expired"),
    AuthCode.TOO_MANY_SESSIONS: (429, "throttled"),
}
"""The HTTP status and the FHIR issue type of each reason; what is not named is a request that does not fit (400)."""

_LIKE_UNKNOWN: Final = frozenset({ChartsCode.NOT_VISIBLE, ChartsCode.RECORD_NOT_FOUND})
"""Charts reasons that must look as if there were nothing."""

_AUTHENTICATION: Final = {401: "login", 403: "forbidden", 429: "throttled", 503: "transient"}
_BUSINESS: Final = frozenset({"invariant", "business-rule"})
"""Issue types of resources that are well formed and break a rule: 422 instead of 400 (FHIR R4, 3.1.0.8)."""


class Issue(Struct, frozen=True, kw_only=True):
    """One issue of an OperationOutcome; ``expression`` is a FHIRPath-like place, empty where there is none."""

    code: str
    diagnostics: str
    severity: str = "error"
    label: str = ""
    expression: str = ""

    def tree(self) -> dict[str, Any]:
        """The issue as FHIR JSON."""
        tree: dict[str, Any] = {"severity": self.severity, "code": self.code}
        if self.label:
            tree["details"] = {"coding": [{"system": CODE_SYSTEM, "code": self.label}], "text": self.diagnostics}
        tree["diagnostics"] = self.diagnostics
        if self.expression:
            tree["expression"] = [self.expression]
        return tree


class Found(Protocol):
    """An issue as validation finds it."""

    @property
    def severity(self) -> str:
        """``fatal``, ``error``, ``warning`` or ``information``."""

    @property
    def code(self) -> str:
        """A FHIR IssueType."""

    @property
    def location(self) -> str:
        """Where, like FHIRPath."""

    @property
    def diagnostics(self) -> str:
        """What is wrong, without the value."""


class Problem(Exception):  # noqa: N818 - the field's word for what an OperationOutcome describes
    """A refusal on its way to becoming an answer: status, issues and headers; holds nothing of the input."""

    def __init__(
        self, status: int, issues: Iterable[Issue], headers: Mapping[str, str] | None = None, *, number: int = 0
    ) -> None:
        self.status = status
        self.issues = tuple(issues)
        self.headers = dict(headers or {})
        self.number = number
        super().__init__(f"{status} {', '.join(issue.label or issue.code for issue in self.issues)}")

    def at(self, place: str) -> "Problem":
        """The same with its places inside ``place``, for an entry of a bundle."""
        moved = [
            Issue(
                code=issue.code,
                diagnostics=issue.diagnostics,
                severity=issue.severity,
                label=issue.label,
                expression=f"{place}.{inner}" if (inner := _inner(issue.expression)) else place,
            )
            for issue in self.issues
        ]
        return Problem(self.status, moved, self.headers, number=self.number)


def _inner(expression: str) -> str:
    """A place without the resource type that it begins with."""
    return expression.partition(".")[2]


def refusal(code: RejectionCode, *, expression: str = "", headers: Mapping[str, str] | None = None) -> Problem:
    """The problem of a numbered reason."""
    if code in _LIKE_UNKNOWN:
        code = FhirCode.NOT_FOUND
    elif code is ChartsCode.VERSION_CONFLICT:
        code = FhirCode.VERSION_CONFLICT
    status, issue_type = _STATUS.get(code, (BAD_REQUEST, "invalid"))
    issue = Issue(code=issue_type, diagnostics=code.reason, label=code.label, expression=expression)
    return Problem(status, (issue,), headers, number=int(code))


def not_authenticated(rejected: Rejected) -> Problem:
    """Nobody knows who asks, or what allowed it has ended: 401, or what the reason's own table says."""
    status, issue_type = _STATUS.get(rejected.code, (UNAUTHORISED, "login"))
    if rejected.code in SMART_STATUS:
        status = SMART_STATUS[rejected.code]
        issue_type = _AUTHENTICATION.get(status, "login")
    issue = Issue(code=issue_type, diagnostics=rejected.code.reason, label=rejected.code.label)
    headers = {"www-authenticate": "Bearer"} if status == UNAUTHORISED else {}
    return Problem(status, (issue,), headers)


def problem_of(rejected: Rejected) -> Problem:
    """The problem of a refusal from below; one that is about a parameter names it, never its value."""
    parameter = rejected.parameter if isinstance(rejected, BadParameter) else ""
    return refusal(rejected.code, expression=f"http.{parameter}" if parameter else "")


def nothing_here() -> Problem:
    """The one answer for what does not exist and for what may not be seen."""
    return refusal(FhirCode.NOT_FOUND)


def invalid(found: Iterable[Found]) -> Problem | None:
    """The problem of a resource that validation found wrong; None when nothing is worse than a warning."""
    issues = tuple(issue_of(one) for one in found)
    errors = [issue for issue in issues if issue.severity in {"fatal", "error"}]
    if not errors:
        return None
    status = UNPROCESSABLE if all(issue.code in _BUSINESS for issue in errors) else BAD_REQUEST
    return Problem(status, issues)


def issue_of(found: Found) -> Issue:
    """An issue of validation in the answer's form."""
    return Issue(
        code=found.code,
        diagnostics=found.diagnostics,
        severity=found.severity,
        label=FhirCode.RESOURCE_INVALID.label if found.severity in {"fatal", "error"} else "",
        expression=found.location,
    )


def outcome(issues: Iterable[Issue]) -> bytes:
    """An OperationOutcome in FHIR JSON."""
    return orjson.dumps({"resourceType": "OperationOutcome", "issue": [issue.tree() for issue in issues]})


def all_well(text: str) -> bytes:
    """An OperationOutcome that says that nothing was wrong."""
    return outcome([Issue(code="informational", diagnostics=text, severity="information")])
