"""Parameters of a request, from the query string or a form: bounded, decoded strictly, in the received order."""

from collections.abc import Sequence
from urllib.parse import quote, unquote_to_bytes

from carechain.core.limits import FHIR_PARAMETERS, FHIR_PARAMETERS_BYTES
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode

Params = list[tuple[str, str]]


def parse(text: bytes) -> Params:
    """Name and value pairs of ``application/x-www-form-urlencoded`` text; empty values are kept.

    Raises ``Rejected``: too many, too long, not UTF-8, or with a NUL, which no database takes.
    """
    require(len(text) <= FHIR_PARAMETERS_BYTES, FhirCode.TOO_MANY_PARAMETERS)
    parts = [part for part in text.split(b"&") if part]
    require(len(parts) <= FHIR_PARAMETERS, FhirCode.TOO_MANY_PARAMETERS)
    pairs: Params = []
    for part in parts:
        name, _, value = part.partition(b"=")
        pairs.append((_decoded(name), _decoded(value)))
    return pairs


def _decoded(part: bytes) -> str:
    try:
        text = unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise Rejected(FhirCode.PARAMETER_INVALID) from None
    require("\x00" not in text, FhirCode.PARAMETER_INVALID)
    return text


def text_of(params: Sequence[tuple[str, str]]) -> str:
    """The query string that says the same."""
    return "&".join(f"{quote(name, safe=':._-')}={quote(value, safe=':/.,|_-')}" for name, value in params)


def last(params: Sequence[tuple[str, str]], name: str) -> str | None:
    """The value of a parameter that counts once; the last one where it is repeated."""
    return next((value for one, value in reversed(params) if one == name), None)
