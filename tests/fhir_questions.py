"""Searches made from what a server holds: every kind of parameter, modifier and prefix, chains, ``_has`` and orders.

Values come from the resources themselves, so most searches find something and not everything; the seed fixes them.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from carechain.charts.definitions import SearchParameter, search_parameters
from fhir_oracle import Oracle, Unjudged, codings, date_values, reference_of, texts

PREFIXES: Final = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb")
_SPECIAL: Final = frozenset(",|$\\+%&#")
_MISSING_SHARE: Final = 0.2
"""How often a parameter's presence is asked for instead of a value."""
_DATE_CUTS: Final = (4, 7, 10, 16, 19)


class Question(Struct, frozen=True, kw_only=True):
    """A search of one type; ``about`` names what it tries, for counting."""

    resource_type: str
    params: tuple[tuple[str, str], ...]
    about: str

    def __str__(self) -> str:
        return self.resource_type + "?" + "&".join(f"{name}={value}" for name, value in self.params)


class Questions:
    """A generator over one oracle."""

    def __init__(self, oracle: Oracle, seed: str, *, base_url: str) -> None:
        self.oracle = oracle
        self.rng = random.Random(seed)
        self.base_url = base_url

    def all(self, per_parameter: int) -> Iterator[Question]:
        """Questions about every type that there are two resources of, and every parameter that they have values of."""
        for resource_type in sorted(self.oracle.by_type):
            if len(self.oracle.by_type[resource_type]) < 2:
                continue
            for parameter in search_parameters(resource_type).values():
                yield from self._about(resource_type, parameter, per_parameter)

    def _sample(self, resource_type: str, parameter: SearchParameter) -> list[Any]:
        resources = list(self.oracle.by_type[resource_type].values())
        picked = self.rng.sample(resources, min(len(resources), 40))
        found = [one for resource in picked for one in self.oracle.values(resource, parameter)]
        self.rng.shuffle(found)
        return found

    def _about(self, resource_type: str, parameter: SearchParameter, most: int) -> Iterator[Question]:
        if parameter.kind == "composite":
            yield from self._composites(resource_type, parameter, most)
            return
        if parameter.code == "_lastUpdated":
            return
        values = self._sample(resource_type, parameter)
        if not values:
            return
        makers = {
            "token": self._tokens,
            "string": self._strings,
            "date": self._dates,
            "number": self._numbers,
            "quantity": self._numbers,
            "reference": self._references,
            "uri": self._uris,
        }
        maker = makers.get(parameter.kind)
        if maker is None:
            return
        made: list[tuple[str, str, str]] = []
        for value in values[: 4 * most]:
            try:
                made += maker(parameter, value)
            except Unjudged:
                continue
        self.rng.shuffle(made)
        if self.rng.random() < _MISSING_SHARE:
            made.insert(0, (f"{parameter.code}:missing", self.rng.choice(("true", "false")), "missing"))
        for name, text, about in made[:most]:
            if text and not (_SPECIAL - set("|+")) & set(text.replace(",", "", 1)) and text == text.strip():
                yield Question(resource_type=resource_type, params=((name, text),), about=about)

    # --- by kind ----------------------------------------------------------------------------------------
    def _tokens(self, parameter: SearchParameter, value: Any) -> list[tuple[str, str, str]]:
        code = parameter.code
        made = []
        for system, own in codings(value):
            if _SPECIAL & set(own + system):
                continue
            made.append((code, own, "token"))
            if code != "_id":
                made.append((f"{code}:not", own, "token:not"))
            if system:
                made += [(code, f"{system}|{own}", "token system|code"), (code, f"{system}|", "token system|")]
                made.append((code, f"{system}x|{own}", "token of another system"))
                made.append((code, f"|{own}", "token |code"))
                made.append((code, f"{system}|{own},nothing-like-it", "token or"))
        if isinstance(value, dict):
            said = [value.get("text")] + [one.get("display") for one in value.get("coding", [])]
            for words in (one for one in said if one):
                # Parentheses and the like stay: they mean nothing in a search.
                made.append((f"{code}:text", words[:9].strip(), "token:text"))
            for system, own in codings(value.get("type")) if isinstance(value.get("type"), dict) else []:
                made.append((f"{code}:of-type", f"{system}|{own}|{value.get('value')}", "token:of-type"))
        return made

    def _strings(self, parameter: SearchParameter, value: Any) -> list[tuple[str, str, str]]:
        code, made = parameter.code, []
        for text in texts(value):
            made.append((code, text[:6].upper(), "string"))
            made.append((code, text, "string"))
            made.append((f"{code}:exact", text, "string:exact"))
            made.append((f"{code}:exact", text.upper(), "string:exact"))
            made.append((f"{code}:contains", text[2:7], "string:contains"))
        return made

    def _dates(self, parameter: SearchParameter, value: Any) -> list[tuple[str, str, str]]:
        date_values(value)
        said = value if isinstance(value, str) else value.get("start", value.get("end"))
        written = [cut for cut in _DATE_CUTS if cut < len(said)]
        # A time is cut at the minute only with its offset, so cuts below the day keep what follows.
        texts_of = [said, *(said[:cut] for cut in written if cut <= 10)]
        return [
            (parameter.code, self.rng.choice(PREFIXES) + text, f"date {self.rng.choice(PREFIXES)}"[:4])
            for text in texts_of
        ] + [(parameter.code, prefix + texts_of[-1], f"date {prefix}") for prefix in PREFIXES]

    def _numbers(self, parameter: SearchParameter, value: Any) -> list[tuple[str, str, str]]:
        number = value.get("value") if isinstance(value, dict) else value
        if number is None or "e" in str(number).lower():
            raise Unjudged("no plain number")
        code = parameter.code
        made = [(code, f"{prefix}{number}", f"{parameter.kind} {prefix}") for prefix in PREFIXES]
        if isinstance(value, dict) and value.get("code") and "currency" not in value:
            unit = f"{value.get('system', '')}|{value['code']}"
            if not set(",$\\+&#") & set(unit):
                made += [(code, f"{prefix}{number}|{unit}", "quantity with unit") for prefix in ("", "ge", "lt")]
                made.append((code, f"{number}||{value['code']}", "quantity with unit code"))
                made.append((code, f"ge0|{value.get('system', '')}|nothing", "quantity of another unit"))
        return made

    def _references(self, parameter: SearchParameter, value: Any) -> list[tuple[str, str, str]]:
        named, code = reference_of(value), parameter.code
        kind, slash, identity = named.partition("/")
        if not slash or "/" in identity or kind not in parameter.targets:
            return []
        made = [
            (code, named, "reference"),
            (code, f"{self.base_url}/{named}", "absolute reference"),
            (f"{code}:{kind}", identity, "reference:Type"),
            (code, f"{named},{kind}/none", "reference or"),
        ]
        if isinstance(value, dict) and "value" in value.get("identifier", {}):
            made.append((f"{code}:identifier", value["identifier"]["value"], "reference:identifier"))
        made += [(f"{code}:{kind}.{name}", text, f"chain {about}") for name, text, about in self._inner(kind, identity)]
        return [
            (name, text.removeprefix(f"{self.base_url}/") if "absolute" not in about else text, about)
            for name, text, about in made
        ]

    def _inner(self, kind: str, identity: str) -> list[tuple[str, str, str]]:
        """Conditions that a certain resource meets."""
        target = self.oracle.by_type[kind].get(identity)
        if target is None:
            return []
        made: list[tuple[str, str, str]] = []
        for parameter in search_parameters(kind).values():
            makers = {"token": self._tokens, "string": self._strings, "date": self._dates}
            if parameter.kind in makers and not parameter.code.startswith("_l"):
                for value in self.oracle.values(target, parameter)[:1]:
                    try:
                        made += makers[parameter.kind](parameter, value)
                    except Unjudged:
                        continue
        return self.rng.sample(made, min(3, len(made)))

    def _uris(self, parameter: SearchParameter, value: Any) -> list[tuple[str, str, str]]:
        uri = str(value)
        return [(parameter.code, uri, "uri"), (f"{parameter.code}:below", uri.rpartition("/")[0], "uri:below")]

    def _composites(self, resource_type: str, parameter: SearchParameter, most: int) -> Iterator[Question]:
        if resource_type != "Observation":
            return
        resources = list(self.oracle.by_type["Observation"].values())
        made: list[str] = []
        for resource in self.rng.sample(resources, min(len(resources), 60)):
            places = [] if parameter.code.startswith("component-") else [resource]
            if not parameter.code.startswith("code-"):
                places += resource.get("component", [])
            for place in places:
                code = next(iter(codings(place.get("code", {}))), None)
                quantity, concept = place.get("valueQuantity"), place.get("valueCodeableConcept")
                if code is None:
                    continue
                if parameter.components[1].kind == "quantity" and quantity:
                    number = quantity.get("value")
                    made += [f"{code[1]}${number}", f"{code[0]}|{code[1]}$ge{number}", f"{code[1]}$lt{number}"]
                elif parameter.components[1].kind == "token" and concept:
                    made += [f"{code[1]}${one}" for _, one in codings(concept)]
        for text in self.rng.sample(made, min(most, len(made))):
            yield Question(resource_type="Observation", params=((parameter.code, text),), about="composite")

    # --- across resources -------------------------------------------------------------------------------
    def reversed_chains(self, most: int) -> Iterator[Question]:
        """``_has``: by what refers to a resource."""
        links = [
            (source, parameter)
            for source in sorted(self.oracle.by_type)
            for parameter in search_parameters(source).values()
            if parameter.kind == "reference"
        ]
        made: list[Question] = []
        for source, parameter in links:
            for identity in list(self.oracle.by_type[source])[:6]:
                for reference in self.oracle.references(source, identity, parameter.code)[:1]:
                    kind = reference.partition("/")[0]
                    if kind not in self.oracle.by_type or kind not in parameter.targets:
                        continue
                    made += [
                        Question(
                            resource_type=kind,
                            params=((f"_has:{source}:{parameter.code}:{name}", text),),
                            about="_has",
                        )
                        for name, text, _ in self._inner(source, identity)
                    ]
        yield from self.rng.sample(made, min(most, len(made)))

    def together(self, questions: Sequence[Question], most: int) -> Iterator[Question]:
        """Two conditions at once."""
        for _ in range(most):
            first = self.rng.choice(questions)
            others = [one for one in questions if one.resource_type == first.resource_type]
            second = self.rng.choice(others)
            yield Question(resource_type=first.resource_type, params=first.params + second.params, about="together")

    def brought_along(self, most: int) -> Iterator[Question]:
        """``_include`` and ``_revinclude``."""
        made: list[Question] = []
        for source in sorted(self.oracle.by_type):
            for parameter in search_parameters(source).values():
                if parameter.kind != "reference":
                    continue
                for identity in list(self.oracle.by_type[source])[:2]:
                    for reference in self.oracle.references(source, identity, parameter.code)[:1]:
                        kind, _, target = reference.partition("/")
                        if target not in self.oracle.by_type[kind]:
                            continue
                        link = f"{source}:{parameter.code}"
                        made += [
                            Question(
                                resource_type=source,
                                params=(("_id", identity), ("_include", f"{link}:{kind}")),
                                about="_include",
                            ),
                            Question(
                                resource_type=source, params=(("_id", identity), ("_include", link)), about="_include"
                            ),
                            Question(
                                resource_type=kind, params=(("_id", target), ("_revinclude", link)), about="_revinclude"
                            ),
                        ]
        yield from self.rng.sample(made, min(most, len(made)))

    def orders(self, questions: Sequence[Question], most: int) -> Iterator[Question]:
        """``_sort`` by dates, strings and ids, alone, in twos, with a condition and without."""
        for _ in range(most):
            first = self.rng.choice(questions)
            codes = [
                parameter.code
                for parameter in search_parameters(first.resource_type).values()
                if (parameter.kind in {"date", "string"} or parameter.code == "_id")
                and parameter.code != "_lastUpdated"
            ]
            picked = self.rng.sample(codes, min(len(codes), self.rng.choice((1, 1, 2))))
            sort = ",".join(self.rng.choice(("", "-")) + code for code in picked)
            params = first.params if self.rng.random() < 0.6 else ()
            yield Question(resource_type=first.resource_type, params=(*params, ("_sort", sort)), about="_sort")
