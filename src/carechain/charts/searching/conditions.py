"""One search parameter of a query as a condition: ``code:modifier=value,value`` with chains and ``_has``.

Values go through the same functions as the extraction from resources (:mod:`carechain.charts.searching.values`), so
both sides of a search fold names, days and numbers alike. FHIR R4 search, https://hl7.org/fhir/R4/search.html.
"""

import re
from collections.abc import Callable, Sequence
from datetime import tzinfo
from itertools import product
from typing import Final

from msgspec import Struct

from carechain.charts.definitions import RESOURCE_TYPES, SearchParameter, search_parameters
from carechain.charts.searching.codes import BadParameter, SearchCode
from carechain.charts.searching.keys import (
    ANY_UNIT,
    code_term,
    coding_term,
    param_key,
    reference_term,
    system_term,
    unit_term,
    uri_term,
)
from carechain.charts.searching.tree import (
    AllOf,
    Chain,
    Compare,
    Dates,
    Has,
    Ids,
    IndexTable,
    Match,
    Node,
    Not,
    Numbers,
    Present,
    References,
    Strings,
    Tokens,
    Updated,
    all_of,
    any_of,
)
from carechain.charts.searching.values import (
    composite_term,
    date_interval,
    exact,
    fold,
    fold_identifier,
    number_interval,
    of_type_term,
)
from carechain.core.limits import SEARCH_CHAIN_DEPTH, SEARCH_CHAIN_TYPES, SEARCH_VALUES

ID: Final = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)
_TYPED: Final = re.compile(r"([A-Z][A-Za-z]{1,63})/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?", re.ASCII)
_PREFIX: Final = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.ASCII | re.DOTALL)
_APPROXIMATELY: Final = 0.1
_PARTS_OF_TYPED_IDENTIFIER: Final = 3

TABLES: Final = {
    "token": (IndexTable.TOKENS, IndexTable.STRINGS),
    "reference": (IndexTable.REFERENCES, IndexTable.TOKENS),
    "string": (IndexTable.STRINGS,),
    "uri": (IndexTable.TOKENS,),
    "date": (IndexTable.DATES,),
    "number": (IndexTable.NUMBERS,),
    "quantity": (IndexTable.NUMBERS,),
}
"""Where the rows of each kind of parameter stand; the second table under a suffixed key, see :func:`_present`."""
_SECOND_SUFFIX: Final = {"token": ":text", "reference": ":identifier"}


class Reading(Struct, frozen=True, kw_only=True):
    """What values are read against: the zone of local dates, and this server's own address (for absolute references).

    ``parameter`` is the whole name as the caller wrote it, for refusals.
    """

    zone: tzinfo
    base_url: str
    parameter: str

    def refuse(self, code: SearchCode) -> BadParameter:
        """The refusal to raise."""
        return BadParameter(code, self.parameter)


def split(text: str, separator: str) -> list[str]:
    """The parts between separators that no backslash stands before; the backslashes stay."""
    if "\\" not in text:
        return text.split(separator)
    parts, start, at = [], 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == separator:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def unescape(text: str) -> str:
    r"""``\,`` ``\|`` ``\$`` and ``\\`` as what they stand for."""
    return re.sub(r"\\([,|$\\])", r"\1", text) if "\\" in text else text


def condition(resource_type: str, name: str, value: str, reading: Reading, depth: int = 0) -> Node:
    """The condition that ``name=value`` puts on resources of a type.

    Raises :class:`BadParameter`; ``UNKNOWN_PARAMETER`` where the type has no such parameter.
    """
    if depth > SEARCH_CHAIN_DEPTH:
        raise reading.refuse(SearchCode.CHAIN_TOO_DEEP)
    if name.startswith("_has:"):
        return _has(resource_type, name, value, reading, depth)
    head, dot, rest = name.partition(".")
    code, _, modifier = head.partition(":")
    parameter = search_parameters(resource_type).get(code)
    if parameter is None:
        raise reading.refuse(SearchCode.UNKNOWN_PARAMETER)
    if dot:
        return _chain(parameter, modifier, rest, value, reading, depth)
    if modifier == "missing":
        return _missing(parameter, value, reading)
    if parameter.parts:
        return _united(parameter, modifier, value, reading, depth)
    return _alternatives(parameter, modifier, value, reading)


def _alternatives(parameter: SearchParameter, modifier: str, value: str, reading: Reading) -> Node:
    """What one of several values finds."""
    alternatives = split(value, ",")
    if len(alternatives) > SEARCH_VALUES:
        raise reading.refuse(SearchCode.TOO_MANY_VALUES)
    if parameter.code == "_id":
        return _ids(modifier, alternatives, reading)
    reader = _READERS.get(parameter.kind)
    if reader is None:
        raise reading.refuse(SearchCode.UNSUPPORTED_PARAMETER)
    if modifier == "not" and parameter.kind == "token":
        # Of several values none may be there, and a resource without any value counts too.
        return Not(any_of(*(_token(parameter, "", one, reading) for one in alternatives)))
    return any_of(*(reader(parameter, modifier, one, reading) for one in alternatives))


def _united(parameter: SearchParameter, modifier: str, value: str, reading: Reading, depth: int) -> Node:
    """What a parameter finds that is others together; what must not be there may be in none of them."""
    negated = modifier == "not" and parameter.kind == "token"
    end = f":{modifier}" if modifier and not negated else ""
    found = any_of(
        *(condition(parameter.resource_type, f"{part}{end}", value, reading, depth) for part in parameter.parts)
    )
    return Not(found) if negated else found


# --- chains ---------------------------------------------------------------------------------------------
def _chain(parameter: SearchParameter, modifier: str, rest: str, value: str, reading: Reading, depth: int) -> Node:
    if parameter.kind != "reference":
        raise reading.refuse(SearchCode.CANNOT_CHAIN)
    targets: Sequence[str] = parameter.targets
    if modifier:
        if modifier not in targets:
            raise reading.refuse(SearchCode.CANNOT_CHAIN)
        targets = (modifier,)
    if len(targets) > SEARCH_CHAIN_TYPES:
        # A type must be named where anything may be meant.
        raise reading.refuse(SearchCode.CANNOT_CHAIN)
    key = param_key(parameter.resource_type, parameter.code)
    chains = [
        Chain(key, target, condition(target, rest, value, reading, depth + 1))
        for target in targets
        if _knows(target, rest)
    ]
    if not chains:
        raise reading.refuse(SearchCode.CANNOT_CHAIN)
    return any_of(*chains)


def _knows(resource_type: str, name: str) -> bool:
    """Whether the type has the first parameter of a chain's rest."""
    return name.startswith("_has:") or re.split(r"[.:]", name, maxsplit=1)[0] in search_parameters(resource_type)


def _has(resource_type: str, name: str, value: str, reading: Reading, depth: int) -> Node:
    _, source_type, code, rest = (*name.split(":", 3), "", "", "")[:4]
    if source_type not in RESOURCE_TYPES or not rest:
        raise reading.refuse(SearchCode.CANNOT_CHAIN)
    link = search_parameters(source_type).get(code)
    if link is None or link.kind != "reference" or resource_type not in link.targets:
        raise reading.refuse(SearchCode.CANNOT_CHAIN)
    inner = condition(source_type, rest, value, reading, depth + 1)
    return Has(param_key(source_type, code), source_type, resource_type, inner)


# --- presence -------------------------------------------------------------------------------------------
def _missing(parameter: SearchParameter, value: str, reading: Reading) -> Node:
    if value not in {"true", "false"}:
        raise reading.refuse(SearchCode.BAD_VALUE)
    node = AllOf() if parameter.code in {"_id", "_lastUpdated"} else _present(parameter, reading)
    return Not(node) if value == "true" else node


def _present(parameter: SearchParameter, reading: Reading) -> Node:
    resource_type, code = parameter.resource_type, parameter.code
    known = search_parameters(resource_type)
    if parameter.parts:
        return any_of(*(_present(known[part], reading) for part in parameter.parts))
    if parameter.kind == "composite" and not parameter.is_grouped:
        return all_of(*(_present(known[part.code], reading) for part in parameter.components))
    if parameter.kind == "composite":
        rows = (IndexTable.TOKENS, IndexTable.NUMBERS)
        return Present(tuple((table, param_key(resource_type, code)) for table in rows))
    tables = TABLES.get(parameter.kind)
    if tables is None:
        raise reading.refuse(SearchCode.UNSUPPORTED_PARAMETER)
    # A concept may have a text and no code, a reference an identifier and no address.
    suffixes = ("", _SECOND_SUFFIX.get(parameter.kind, ""))
    places = zip(tables, suffixes, strict=False)
    return Present(tuple((table, param_key(resource_type, code + suffix)) for table, suffix in places))


# --- values ---------------------------------------------------------------------------------------------
def _ids(modifier: str, alternatives: Sequence[str], reading: Reading) -> Node:
    if modifier not in {"", "not"}:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    # What cannot be an id is nobody's; it is not an error, since ids are opaque to a caller.
    ids = Ids(tuple(dict.fromkeys(one for one in alternatives if ID.fullmatch(one))))
    return Not(ids) if modifier else ids


def token_value(text: str, reading: Reading) -> int:
    """The index value that ``code``, ``system|code``, ``|code`` or ``system|`` stands for."""
    parts = [unescape(part) for part in split(text, "|")]
    if len(parts) == 1:
        return code_term(fold_identifier(parts[0]))
    if len(parts) != 2 or parts == ["", ""]:  # noqa: PLR2004 - a system and a code
        raise reading.refuse(SearchCode.BAD_VALUE)
    system, code = parts
    if not code:
        return system_term(system)
    return coding_term(system, fold_identifier(code))


def _without_system(text: str) -> str:
    _, *rest = split(text, "|")
    return rest[0] if len(rest) == 1 and rest[0] else text


def _words(text: str, reading: Reading) -> str:
    """The text to look for; refused if nothing is left of it, since every text begins with nothing."""
    if not text:
        raise reading.refuse(SearchCode.BAD_VALUE)
    return text


def _token(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    resource_type, code = parameter.resource_type, parameter.code
    if modifier == "":
        found = token_value(_without_system(text) if parameter.is_code else text, reading)
        return Tokens(param_key(resource_type, code), (found,))
    if modifier == "text":
        words = _words(fold(unescape(text)), reading)
        return Strings(param_key(resource_type, f"{code}:text"), Match.STARTS, words)
    if modifier == "of-type":
        parts = [unescape(part) for part in split(text, "|")]
        if len(parts) != _PARTS_OF_TYPED_IDENTIFIER or not all(parts):
            raise reading.refuse(SearchCode.BAD_VALUE)
        system, kind, value = parts
        found = of_type_term(system, kind, fold_identifier(value))
        return Tokens(param_key(resource_type, f"{code}:of-type"), (found,))
    raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)


def _reference(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    resource_type, code = parameter.resource_type, parameter.code
    if modifier == "identifier":
        return Tokens(param_key(resource_type, f"{code}:identifier"), (token_value(text, reading),))
    if modifier and modifier not in parameter.targets:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    targets = (modifier,) if modifier else parameter.targets
    named = reference_targets(unescape(text), targets, reading)
    return References(param_key(resource_type, code), tuple(reference_term(one) for one in named))


def reference_targets(text: str, targets: Sequence[str], reading: Reading) -> tuple[str, ...]:
    """What a searched reference may be written as in a resource: ``Type/id``, or an address elsewhere."""
    own = reading.base_url.rstrip("/") + "/"
    if reading.base_url and text.startswith(own):
        text = text[len(own) :]
    if typed := _TYPED.fullmatch(text):
        name = f"{typed[1]}/{typed[2]}"
        return (name,) if typed[1] in targets or not targets else ()
    if ID.fullmatch(text) and targets:
        return tuple(f"{target}/{text}" for target in targets)
    if not text:
        raise reading.refuse(SearchCode.BAD_VALUE)
    return (text,)


def _string(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    param = param_key(parameter.resource_type, parameter.code)
    plain = unescape(text)
    if modifier == "exact":
        return Strings(param, Match.EXACT, exact(plain))
    if modifier not in {"", "contains"}:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    folded = _words(fold(plain), reading)
    # Names in Han letters are written with and without a space between family and given name.
    forms = {folded: None} if folded.isascii() else {folded: None, folded.replace(" ", ""): None}
    return any_of(*(Strings(param, Match.CONTAINS if modifier else Match.STARTS, form) for form in forms))


def _uri(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    param = param_key(parameter.resource_type, parameter.code)
    uri = unescape(text)
    if modifier == "":
        return Tokens(param, (uri_term(uri),))
    if modifier == "below":
        # The text row of a URI holds it as it is, not folded.
        return Strings(param, Match.STARTS, uri)
    if modifier == "above":
        scheme, separator, path = uri.partition("://")
        steps = path.rstrip("/").split("/")
        above = [scheme + separator + "/".join(steps[:count]) for count in range(1, len(steps) + 1)]
        return Tokens(param, tuple(uri_term(one) for one in dict.fromkeys([uri, *reversed(above)])))
    raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)


def _prefixed(text: str) -> tuple[Compare, str]:
    match = _PREFIX.fullmatch(text)
    prefix, rest = (match[1], match[2]) if match else (None, text)
    return Compare(prefix or "eq"), rest


def _date(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    if modifier:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    compare, low_us, high_us = date_value(text, reading)
    if parameter.code == "_lastUpdated":
        return Updated(compare, low_us, high_us)
    return Dates(param_key(parameter.resource_type, parameter.code), compare, low_us, high_us)


def date_value(text: str, reading: Reading) -> tuple[Compare, int, int]:
    """How to compare, and with which interval. ``ap`` widens it by its own length to both sides."""
    compare, rest = _prefixed(text)
    try:
        # A plus sign that a client did not encode arrives as a space; no date has one.
        low_us, high_us = date_interval(rest.replace(" ", "+"), reading.zone)
    except (ValueError, OverflowError):
        raise reading.refuse(SearchCode.BAD_VALUE) from None
    if compare is Compare.AP:
        length_us = high_us - low_us
        return compare, low_us - length_us, high_us + length_us
    return compare, low_us, high_us


def number_value(text: str, reading: Reading) -> tuple[Compare, float, float, float]:
    """How to compare, the number, and the interval that its digits cover. ``ap`` is a tenth to both sides."""
    compare, rest = _prefixed(text)
    try:
        low, high = number_interval(rest)
    except ValueError:
        raise reading.refuse(SearchCode.BAD_VALUE) from None
    value = float(rest)
    if compare is Compare.AP:
        margin = abs(value) * _APPROXIMATELY
        return compare, value, min(low, value - margin), max(high, value + margin)
    return compare, value, low, high


def _number(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    if modifier:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    compare, value, low, high = number_value(text, reading)
    return Numbers(param_key(parameter.resource_type, parameter.code), ANY_UNIT, compare, value, low, high)


def quantity_value(text: str, reading: Reading) -> tuple[tuple[Compare, float, float, float], int]:
    """The number of ``5.4|system|code``, ``5.4||code`` or ``5.4`` and the unit's value in the index."""
    parts = [unescape(part) for part in split(text, "|")]
    if len(parts) == 1:
        return number_value(parts[0], reading), ANY_UNIT
    if len(parts) != 3 or not parts[2]:  # noqa: PLR2004 - number, system, code
        raise reading.refuse(SearchCode.BAD_VALUE)
    return number_value(parts[0], reading), unit_term(parts[1], parts[2])


def _quantity(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    if modifier:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    (compare, value, low, high), unit = quantity_value(text, reading)
    return Numbers(param_key(parameter.resource_type, parameter.code), unit, compare, value, low, high)


def _composite(parameter: SearchParameter, modifier: str, text: str, reading: Reading) -> Node:
    if modifier:
        raise reading.refuse(SearchCode.UNSUPPORTED_MODIFIER)
    sides = split(text, "$")
    if len(sides) != len(parameter.components) or not all(sides):
        raise reading.refuse(SearchCode.BAD_VALUE)
    if parameter.is_grouped:
        return _grouped(parameter, sides, reading)
    known = search_parameters(parameter.resource_type)
    nodes = []
    for component, side in zip(parameter.components, sides, strict=True):
        reader = _READERS.get(component.kind)
        part = known.get(component.code)
        if reader is None or part is None:
            raise reading.refuse(SearchCode.UNSUPPORTED_PARAMETER)
        nodes.append(reader(part, "", side, reading))
    return all_of(*nodes)


def _grouped(parameter: SearchParameter, sides: Sequence[str], reading: Reading) -> Node:
    """Both values in one and the same element, such as a component of an observation: rows of the composite's own."""
    known = search_parameters(parameter.resource_type)
    param = param_key(parameter.resource_type, parameter.code)
    first, second = (known[component.code] for component in parameter.components)
    firsts = _side_values(first, sides[0], reading)
    if second.kind == "quantity":
        (compare, value, low, high), unit = quantity_value(sides[1], reading)
        return any_of(*(Numbers(param, composite_term(one, unit), compare, value, low, high) for one in firsts))
    seconds = _side_values(second, sides[1], reading)
    return Tokens(param, tuple(composite_term(one, other) for one, other in product(firsts, seconds)))


def _side_values(parameter: SearchParameter, text: str, reading: Reading) -> tuple[int, ...]:
    if parameter.kind == "reference":
        named = reference_targets(unescape(text), parameter.targets, reading)
        return tuple(reference_term(one) for one in named)
    if parameter.kind != "token":
        raise reading.refuse(SearchCode.UNSUPPORTED_PARAMETER)
    return (token_value(text, reading),)


_Reader = Callable[[SearchParameter, str, str, Reading], Node]
_READERS: Final[dict[str, _Reader]] = {
    "token": _token,
    "reference": _reference,
    "string": _string,
    "uri": _uri,
    "date": _date,
    "number": _number,
    "quantity": _quantity,
    "composite": _composite,
}
