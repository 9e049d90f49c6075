"""What a caller wants back, in which form: Accept, ``_format``, Prefer, Content-Type (FHIR R4, 3.1.0)."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from carechain.core.rejection import require
from carechain.gateway.codes import FhirCode

FHIR_JSON: Final = "application/fhir+json"
FHIR_JSON_UTF8: Final = f"{FHIR_JSON}; charset=utf-8"
FORM: Final = "application/x-www-form-urlencoded"
JSON_PATCH: Final = "application/json-patch+json"
NDJSON: Final = "application/fhir+ndjson"

_ACCEPTED: Final = frozenset(
    {"*/*", "application/*", FHIR_JSON, "application/json", "application/json+fhir", "text/json", NDJSON,
     "application/ndjson", "ndjson", "text/event-stream", "json"}
)  # fmt: skip
_FORMATS: Final = frozenset({"json", FHIR_JSON, "application/json", "text/json", "application/json+fhir"})
_RESOURCE_TYPES: Final = frozenset({FHIR_JSON, "application/json", "application/json+fhir", "text/json"})
_PATCH_TYPES: Final = frozenset({JSON_PATCH})
_UTF8: Final = frozenset({"", "utf-8", "utf8"})
RETURNS: Final = ("minimal", "representation", "OperationOutcome")


class Preferences(Struct, frozen=True, kw_only=True):
    """How the caller wants its answer; ``returns`` is empty where it did not say."""

    returns: str = ""
    strict: bool = False
    respond_async: bool = False
    pretty: bool = False


def preferences(headers: Mapping[str, str], params: Sequence[tuple[str, str]]) -> Preferences:
    """Read the header Prefer (RFC 7240) and ``_pretty``; preferences that are not known are passed over."""
    returns, strict, respond_async = "", False, False
    for part in headers.get("prefer", "").replace(";", ",").split(","):
        name, _, value = part.strip().partition("=")
        value = value.strip().strip('"')
        match name.strip().lower():
            case "return" if value in RETURNS:
                returns = value
            case "handling":
                strict = value == "strict"
            case "respond-async":
                respond_async = True
    pretty = any(name == "_pretty" and value == "true" for name, value in params)
    return Preferences(returns=returns, strict=strict, respond_async=respond_async, pretty=pretty)


def require_json_wanted(headers: Mapping[str, str], params: Sequence[tuple[str, str]]) -> None:
    """Raise ``Rejected`` (406) unless FHIR JSON is among what the caller takes; ``_format`` goes before Accept."""
    formats = [value for name, value in params if name == "_format"]
    if formats:
        require(_bare(formats[-1].replace(" ", "+")) in _FORMATS | _ACCEPTED, FhirCode.NOT_ACCEPTABLE)
        return
    accept = headers.get("accept", "").strip()
    if not accept:
        return
    wanted = [_bare(part) for part in accept.split(",") if not _is_refused(part)]
    require(any(one in _ACCEPTED for one in wanted), FhirCode.NOT_ACCEPTABLE)


def _bare(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _is_refused(part: str) -> bool:
    """Whether the caller gave a media type the weight 0."""
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            return value.strip() in {"0", "0.0", "0.00", "0.000"}
    return False


def require_resource_type(headers: Mapping[str, str]) -> None:
    """Raise ``Rejected`` (415) unless the body is said to be FHIR JSON in UTF-8."""
    _require_type(headers, _RESOURCE_TYPES)


def require_patch_type(headers: Mapping[str, str]) -> None:
    """Raise ``Rejected`` (415) unless the body is said to be a JSON Patch."""
    _require_type(headers, _PATCH_TYPES)


def require_form(headers: Mapping[str, str]) -> None:
    """Raise ``Rejected`` (415) unless the body is said to be a form."""
    _require_type(headers, frozenset({FORM}))


def _require_type(headers: Mapping[str, str], taken: frozenset[str]) -> None:
    media_type, *parameters = headers.get("content-type", "").split(";")
    require(media_type.strip().lower() in taken, FhirCode.MEDIA_TYPE_UNSUPPORTED)
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            require(value.strip().strip('"').lower() in _UTF8, FhirCode.MEDIA_TYPE_UNSUPPORTED)


def pretty(body: bytes) -> bytes:
    """JSON with line breaks, for people. Numbers keep their digits: nothing is parsed, only strings are skipped."""
    return _spread(body) if body else body


def _spread(body: bytes) -> bytes:
    text, out, depth, position = body.decode(), [], 0, 0
    while position < len(text):
        char = text[position]
        if char == '"':
            end = position + 1
            while text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            out.append(text[position : end + 1])
            position = end
        elif char in "{[":
            following = text[position + 1 :].lstrip()[:1] if text[position + 1 : position + 2].isspace() else (
                text[position + 1 : position + 2]
            )  # fmt: skip
            depth += 1
            out.append(char if following in {"}", "]"} else f"{char}\n{'  ' * depth}")
        elif char in "}]":
            depth -= 1
            out.append(char if out[-1] in {"{", "["} else f"\n{'  ' * depth}{char}")
        elif char == ",":
            out.append(f",\n{'  ' * depth}")
        elif char == ":":
            out.append(": ")
        elif not char.isspace():
            out.append(char)
        position += 1
    return "".join(out).encode()
