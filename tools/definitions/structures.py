"""FHIR's StructureDefinitions as a tree of elements that a path can be walked through."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

SYSTEM_TYPE: Final = "http://hl7.org/fhirpath/System."
TYPE_EXTENSION: Final = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
PROFILE: Final = "http://hl7.org/fhir/StructureDefinition/"


class TypeUse(NamedTuple):
    """One type an element may have, and what it may refer to if that is a Reference or canonical."""

    code: str
    targets: tuple[str, ...]


class Element(NamedTuple):
    """One element of a structure; ``path`` is the definition's own, such as ``Observation.component``."""

    path: str
    name: str
    types: tuple[TypeUse, ...]
    least: int
    many: bool
    content: str | None

    @property
    def is_choice(self) -> bool:
        """Whether the element's JSON name ends in its type."""
        return self.name.endswith("[x]")

    def properties(self) -> Iterator[tuple[str, TypeUse]]:
        """The JSON names the element may have, each with its type."""
        for use in self.types:
            stem = self.name.removesuffix("[x]")
            yield (stem + use.code[0].upper() + use.code[1:] if self.is_choice else stem), use


class Structures:
    """All published types and resources; elements by the path of what they stand in."""

    def __init__(self, definitions: Iterable[Json]) -> None:
        self.resources: list[str] = []
        self._children: dict[str, dict[str, Element]] = {}
        self._by_path: dict[str, Element] = {}
        for definition in definitions:
            if definition["kind"] == "resource" and not definition["abstract"]:
                self.resources.append(definition["type"])
            for raw in definition["snapshot"]["element"]:
                self._add(raw)
        self.resources.sort()

    def _add(self, raw: Json) -> None:
        path: str = raw["path"]
        parent, _, name = path.rpartition(".")
        if not parent:
            self._children.setdefault(path, {})
            return
        element = Element(
            path=path,
            name=name,
            types=tuple(_type_use(one) for one in raw.get("type", ())),
            least=raw["min"],
            many=raw["max"] != "1",
            content=raw["contentReference"].lstrip("#") if "contentReference" in raw else None,
        )
        self._children.setdefault(parent, {})[name] = element
        self._by_path[path] = element

    def elements(self, path: str) -> dict[str, Element]:
        """The elements right below a type or a backbone element, by name; empty below a primitive."""
        return self._children.get(path, {})

    def below(self, element: Element, use: TypeUse) -> str:
        """Where the elements of ``element`` are found: its own path, the one it repeats, or its type."""
        if element.content is not None:
            return element.content
        return element.path if element.path in self._children else use.code

    def paths(self) -> list[str]:
        """Every type and backbone element that has elements."""
        return list(self._children)

    def find(self, path: str, name: str) -> Element | None:
        """The element called ``name``, a choice being called by its stem."""
        elements = self.elements(path)
        return elements.get(name) or elements.get(f"{name}[x]")


def _type_use(raw: Json) -> TypeUse:
    code: str = raw["code"]
    if code.startswith(SYSTEM_TYPE):
        named = [one["valueUrl"] for one in raw.get("extension", ()) if one["url"] == TYPE_EXTENSION]
        code = named[0] if named else code.removeprefix(SYSTEM_TYPE).lower()
    return TypeUse(code, tuple(one.removeprefix(PROFILE) for one in raw.get("targetProfile", ())))
