"""Why a search is refused: each with its own number (1060-1079, charts)."""

import re
from typing import Final

from carechain.core.rejection import Rejected, RejectionCode

_NAME: Final = re.compile(r"[A-Za-z0-9_:.*-]{1,64}", re.ASCII)


class SearchCode(RejectionCode):
    """Append-only. No reason repeats anything of the input."""

    UNKNOWN_PARAMETER = 1060, "This resource type has no such search parameter."
    UNSUPPORTED_MODIFIER = 1061, "The modifier does not exist or is not supported for this kind of parameter."
    BAD_VALUE = 1062, "The value is not one that this kind of parameter takes."
    TOO_MANY_PARAMETERS = 1063, "The search has more parameters than this server takes."
    TOO_MANY_VALUES = 1064, "A parameter has more alternatives than this server takes; ask in parts."
    CHAIN_TOO_DEEP = 1065, "The search follows more references, one behind the other, than this server does."
    CANNOT_CHAIN = 1066, "Only references can be followed, and only to types that have the parameter behind the dot."
    CANNOT_SORT = 1067, "The result cannot be sorted by this parameter, or not across several types."
    BAD_INCLUDE = 1068, "An include names a type, a colon and a reference parameter of that type."
    BAD_PAGE = 1069, "The page belongs to another search; begin again with the first page."
    UNSUPPORTED_PARAMETER = 1070, "The parameter is known, but this server does not search by it."
    UNKNOWN_TYPE = 1071, "A named resource type is not one of FHIR R4."
    EMPTY_VALUE = 1072, "The parameter has no value."


class BadParameter(Rejected):
    """A refusal that belongs to one parameter of the query.

    ``parameter`` is its name if that is made of the characters of parameter names, otherwise empty: values and
    whatever else a caller may send are never repeated.
    """

    def __init__(self, code: SearchCode, parameter: str) -> None:
        super().__init__(code)
        self.parameter = clean_name(parameter)


def clean_name(parameter: str) -> str:
    """The name if it may be repeated in an answer or a log, otherwise an empty text."""
    return parameter if _NAME.fullmatch(parameter) else ""
