"""How each FHIR data type is read into searchable values (https://hl7.org/fhir/R4/search.html).

A reader takes a value of any shape and gives nothing for what it does not understand.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import tzinfo
from functools import lru_cache
from itertools import chain
from math import isfinite
from typing import Any, Final, NamedTuple

from carechain.charts.definitions import SearchParameter
from carechain.charts.searching.keys import (
    ANY_UNIT,
    code_term,
    coding_term,
    param_key,
    system_term,
    unit_term,
)
from carechain.charts.searching.values import (
    OPEN_NUMBER,
    OPEN_US,
    date_interval,
    exact,
    fold,
    fold_identifier,
    of_type_term,
)

Json = dict[str, Any]
Tokens = Sequence[tuple[int, int]]
Texts = Sequence[tuple[int, str, str]]
Quantity = tuple[tuple[int, ...], float, float]

IMPLIED: Final = "code of an implied system"
"""How ``code`` is read for parameters that look at nothing else."""
ROWS_REMEMBERED: Final = 16_384
SAMPLES_CHARS: Final = 65_536
"""A longer series of samples is not searched by its values."""
CURRENCIES: Final = "urn:iso:std:iso:4217"
BOOLEANS: Final = "http://hl7.org/fhir/special-values"
_JOINED_SCRIPT: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
"""Chinese, Japanese and Korean letters: names in them are written without spaces."""
_NAME_PARTS: Final = ("text", "family", "given", "prefix", "suffix")
_ADDRESS_PARTS: Final = ("text", "line", "city", "district", "state", "postalCode", "country")


class Keys(NamedTuple):
    """The numbers of the parameters that share one reading, and those of their suffixed rows."""

    params: tuple[int, ...]
    texts: tuple[int, ...]
    identifiers: tuple[int, ...]
    of_types: tuple[int, ...]

    @classmethod
    def of(cls, parameters: Iterable[SearchParameter]) -> "Keys":
        """The keys of some parameters."""
        names = [(one.resource_type, one.code) for one in parameters]
        suffixed = (tuple(param_key(name, code + end) for name, code in names) for end in SUFFIXES)
        return cls(*suffixed)


SUFFIXES: Final = ("", ":text", ":identifier", ":of-type")
"""What a parameter's code may be followed by in its key, in the order of the fields of :class:`Keys`."""
ONE_KEY: Final = Keys((0,), (), (), ())
"""For the terms alone."""

TokenReader = Callable[[Keys, Any], tuple[Tokens, Texts]]
StringReader = Callable[[Any], Iterable[str]]
DateReader = Callable[[Any, tzinfo], Iterable[tuple[int, int]]]
QuantityReader = Callable[[Any], Quantity | None]


def _text(value: object) -> str:
    return value if type(value) is str else ""


def _objects(value: object) -> Iterable[Json]:
    """The objects of what should be a list of them."""
    return [one for one in value if type(one) is dict] if type(value) is list else ()


def _strings(value: object) -> Iterable[str]:
    """A string or the strings of a list."""
    if type(value) is list:
        return [one for one in value if type(one) is str]
    return (value,) if type(value) is str else ()


# --- tokens ----------------------------------------------------------------------------------------------
@lru_cache(maxsize=ROWS_REMEMBERED)
def _coding_rows(params: tuple[int, ...], system: str, code: str) -> Tokens:
    """Rows by which a coding is found: by its code, its system and code, and its system."""
    return tuple((param, term) for param in params for term in _coding_terms(system, code))


def _coding_terms(system: str, code: str) -> list[int]:
    terms = [system_term(system)] if system else []
    if code:
        code = fold_identifier(code)
        terms += [code_term(code), coding_term(system, code)]
    return terms


@lru_cache(maxsize=ROWS_REMEMBERED)
def _text_rows(params: tuple[int, ...], text: str) -> Texts:
    folded, whole = fold(text), exact(text)
    return tuple((param, folded, whole) for param in params)


def _coding(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    if type(value) is not dict:
        return (), ()
    tokens = _coding_rows(keys.params, _text(value.get("system")), _text(value.get("code")))
    display = value.get("display")
    return tokens, _text_rows(keys.texts, display) if type(display) is str and display else ()


def _concept(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    if type(value) is not dict:
        return (), ()
    tokens: list[tuple[int, int]] = []
    texts: list[tuple[int, str, str]] = []
    for coding in _objects(value.get("coding")):
        coding_tokens, coding_texts = _coding(keys, coding)
        tokens += coding_tokens
        texts += coding_texts
    text = value.get("text")
    if type(text) is str and text:
        texts += _text_rows(keys.texts, text)
    return tokens, texts


def identifier_tokens(params: Sequence[int], identifier: Json) -> Tokens:
    """Rows of an identifier; not remembered, since hardly any comes twice."""
    terms = _coding_terms(_text(identifier.get("system")), _text(identifier.get("value")))
    return [(param, term) for param in params for term in terms]


def _identifier(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    if type(value) is not dict:
        return (), ()
    tokens = [*identifier_tokens(keys.params, value)]
    texts: list[tuple[int, str, str]] = []
    kind = value.get("type")
    if type(kind) is dict:
        number = fold_identifier(_text(value.get("value")))
        for coding in _objects(kind.get("coding")) if number else ():
            term = of_type_term(_text(coding.get("system")), _text(coding.get("code")), number)
            tokens += [(param, term) for param in keys.of_types]
        text = kind.get("text")
        if type(text) is str and text:
            texts += _text_rows(keys.texts, text)
    return tokens, texts


def _contact_point(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    if type(value) is not dict or not _text(value.get("value")):
        return (), ()
    number = fold_identifier(value["value"])
    terms = [code_term(number), coding_term("", number)]
    system = _text(value.get("system"))
    if system:
        terms += [coding_term(system, number), system_term(system)]
    return [(param, term) for param in keys.params for term in terms], ()


def _code(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    return (_coding_rows(keys.params, "", value) if type(value) is str else ()), ()


def _implied(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    """A code whose system the element implies: with and without a system it is asked for alike."""
    return (_code_rows(keys.params, value) if type(value) is str and value else ()), ()


@lru_cache(maxsize=ROWS_REMEMBERED)
def _code_rows(params: tuple[int, ...], code: str) -> Tokens:
    term = code_term(fold_identifier(code))
    return tuple((param, term) for param in params)


def _boolean(keys: Keys, value: object) -> tuple[Tokens, Texts]:
    if type(value) is not bool:
        return (), ()
    code = "true" if value else "false"
    return (*_coding_rows(keys.params, "", code), *_coding_rows(keys.params, BOOLEANS, code)), ()


def _deceased(keys: Keys, patient: object) -> tuple[Tokens, Texts]:
    """True with a date of death or ``deceasedBoolean`` true; false otherwise, the element's absence included."""
    if type(patient) is not dict:
        return (), ()
    return _boolean(keys, patient.get("deceasedBoolean") is True or "deceasedDateTime" in patient)


TOKENS: Final[dict[str, TokenReader]] = {
    "CodeableConcept": _concept,
    "Coding": _coding,
    "ContactPoint": _contact_point,
    "Identifier": _identifier,
    "boolean": _boolean,
    "code": _code,
    "deceased": _deceased,
    IMPLIED: _implied,
    "id": _code,
    "string": _code,
    "uri": _code,
}


def pairable_terms(fhir_type: str, value: object) -> Iterable[int]:
    """The terms of one side of a composite: a code with and without its system, but no system alone."""
    if type(value) is dict and fhir_type in {"CodeableConcept", "Coding"}:
        codings = _objects(value.get("coding")) if fhir_type == "CodeableConcept" else (value,)
        named = ((_text(one.get("system")), fold_identifier(_text(one.get("code")))) for one in codings)
        return [term for system, code in named if code for term in (code_term(code), coding_term(system, code))]
    return [term for _, term in TOKENS[fhir_type](ONE_KEY, value)[0]]


# --- strings ---------------------------------------------------------------------------------------------
def _parts(names: Sequence[str], value: Json) -> Iterator[str]:
    return chain.from_iterable(_strings(value.get(name)) for name in names)


def _human_name(value: object) -> Iterable[str]:
    """Every part, and the whole name in both orders; where names are written without spaces, without them."""
    if type(value) is not dict:
        return
    yield from _parts(_NAME_PARTS, value)
    family, given = _text(value.get("family")), list(_strings(value.get("given")))
    if family and given:
        for ordered in ((family, *given), (*given, family)):
            yield ("" if _JOINED_SCRIPT.search(family) else " ").join(ordered)
    text = _text(value.get("text"))
    if _JOINED_SCRIPT.search(text):
        yield "".join(text.split())


def _address(value: object) -> Iterable[str]:
    return _parts(_ADDRESS_PARTS, value) if type(value) is dict else ()


def _concept_words(value: object) -> Iterable[str]:
    if type(value) is not dict:
        return ()
    return (_text(value.get("text")), *(_text(one.get("display")) for one in _objects(value.get("coding"))))


def _coding_words(value: object) -> Iterable[str]:
    return (_text(value.get("display")),) if type(value) is dict else ()


STRINGS: Final[dict[str, StringReader]] = {
    "Address": _address,
    "CodeableConcept": _concept_words,
    "Coding": _coding_words,
    "HumanName": _human_name,
    "markdown": _strings,
    "string": _strings,
}


# --- dates -----------------------------------------------------------------------------------------------
def _moment(value: object, zone: tzinfo) -> Iterable[tuple[int, int]]:
    if type(value) is not str:
        return ()
    try:
        return (date_interval(value, zone),)
    except ValueError:
        return ()  # Nothing can be searched by it; validation is where it is refused.


def _period(value: object, zone: tzinfo) -> Iterable[tuple[int, int]]:
    if type(value) is not dict:
        return ()
    starts, ends = [*_moment(value.get("start"), zone)], [*_moment(value.get("end"), zone)]
    if not starts and not ends:
        return ()
    return ((starts[0][0] if starts else -OPEN_US, ends[0][1] if ends else OPEN_US),)


def _timing(value: object, zone: tzinfo) -> Iterable[tuple[int, int]]:
    if type(value) is not dict:
        return ()
    moments = [moment for event in _strings(value.get("event")) for moment in _moment(event, zone)]
    repeat = value.get("repeat")
    return (*moments, *(_period(repeat.get("boundsPeriod"), zone) if type(repeat) is dict else ()))


DATES: Final[dict[str, DateReader]] = {
    "Period": _period,
    "Timing": _timing,
    "date": _moment,
    "dateTime": _moment,
    "instant": _moment,
}


# --- numbers and quantities ------------------------------------------------------------------------------
def _number(value: object) -> float | None:
    """A JSON number that a double holds; ``true`` is none."""
    if type(value) is float and isfinite(value):
        return value
    return float(value) if type(value) is int and abs(value) < OPEN_NUMBER else None


def _plain(value: object) -> Quantity | None:
    number = _number(value)
    return None if number is None else ((ANY_UNIT,), number, number)


@lru_cache(maxsize=ROWS_REMEMBERED)
def _units(system: str, code: str, unit: str) -> tuple[int, ...]:
    """Terms a unit is found by: any unit, system and code, the code alone, the printed unit alone."""
    terms = {ANY_UNIT: None}
    if code:
        terms |= {unit_term(system, code): None, unit_term("", code): None}
    if unit:
        terms[unit_term("", unit)] = None
    return tuple(terms)


def _units_of(value: Json) -> tuple[int, ...]:
    return _units(_text(value.get("system")), _text(value.get("code")), _text(value.get("unit")))


def _quantity(value: object) -> Quantity | None:
    if type(value) is not dict:
        return None
    number = _number(value.get("value"))
    if number is None:
        return None
    comparator = _text(value.get("comparator"))[:1]
    low = -OPEN_NUMBER if comparator == "<" else number
    return _units_of(value), low, OPEN_NUMBER if comparator == ">" else number


def _money(value: object) -> Quantity | None:
    if type(value) is not dict:
        return None
    number = _number(value.get("value"))
    currency = _text(value.get("currency"))
    return None if number is None else (_units(CURRENCIES, currency, ""), number, number)


def _range(value: object) -> Quantity | None:
    if type(value) is not dict:
        return None
    ends = [value.get(name) for name in ("low", "high")]
    low, high = (_number(end.get("value")) if type(end) is dict else None for end in ends)
    if low is None and high is None:
        return None
    units = _units_of(next(end for end in ends if type(end) is dict))
    return units, -OPEN_NUMBER if low is None else low, OPEN_NUMBER if high is None else high


def _sampled(value: object) -> Quantity | None:
    """From the smallest to the largest sample; those beyond the sensor's limits and errors are letters."""
    origin = value.get("origin") if type(value) is dict else None
    if type(value) is not dict or type(origin) is not dict:
        return None
    data, base = _text(value.get("data")), _number(origin.get("value"))
    factor = _number(value.get("factor", 1))
    if base is None or factor is None or len(data) > SAMPLES_CHARS:
        return None
    try:
        samples = [base + factor * float(one) for one in data.split() if one not in {"E", "L", "U"}]
    except ValueError:
        return None
    if not samples or not all(map(isfinite, samples)):
        return None
    return _units_of(origin), min(samples), max(samples)


QUANTITIES: Final[dict[str, QuantityReader]] = {
    "Age": _quantity,
    "Count": _quantity,
    "Distance": _quantity,
    "Duration": _quantity,
    "Money": _money,
    "Quantity": _quantity,
    "Range": _range,
    "SampledData": _sampled,
    "decimal": _plain,
    "integer": _plain,
    "positiveInt": _plain,
    "unsignedInt": _plain,
}


# --- references ------------------------------------------------------------------------------------------
def unversioned(reference: str) -> str:
    """A literal reference without the version it may name."""
    return reference.partition("/_history/")[0] if "/_history/" in reference else reference


def names_type(reference: str, stated: object, wanted: str) -> bool:
    """Whether a reference leads to a type: by its address, or by what it states where the address is opaque."""
    parts = reference.rsplit("/", 2)
    if len(parts) > 1 and not reference.startswith("urn:"):
        return parts[-2] == wanted
    return stated == wanted
