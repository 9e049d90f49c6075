"""One walk over a resource that comes by everything its search parameters name.

The paths of all parameters of a resource type are laid together into one tree, so that a resource is gone through once
however many parameters it has. What is not of the expected shape is passed over: finding that out is validation's.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

Json = dict[str, Any]
Emit = Callable[[Any], None]

FILTER: Final = "?"


class Node:
    """One property that parameters go through: what to do with its value, and which properties below it matter."""

    __slots__ = ("below", "emits", "filtered")

    def __init__(self) -> None:
        self.emits: tuple[Emit, ...] = ()
        self.below: dict[str, Node] = {}
        self.filtered: tuple[tuple[str, str, Node], ...] = ()

    def reach(self, path: Iterable[str]) -> "Node":
        """The node at the end of a path of steps, made if need be; ``name?key=value`` is a filtered step."""
        node = self
        for step in path:
            name, _, condition = step.partition(FILTER)
            node = node.below.setdefault(name, Node())
            if condition:
                key, _, value = condition.partition("=")
                node = node.where(key, value)
        return node

    def where(self, key: str, value: str) -> "Node":
        """The node for those of these values whose ``key`` is ``value``."""
        for known_key, known_value, node in self.filtered:
            if (known_key, known_value) == (key, value):
                return node
        node = Node()
        self.filtered = (*self.filtered, (key, value, node))
        return node

    def walk(self, tree: Json) -> None:
        """Go through the properties of an object."""
        below = self.below
        for name, value in tree.items():
            node = below.get(name)
            if node is not None:
                if type(value) is list:
                    for one in value:
                        node.visit(one)
                else:
                    node.visit(value)

    def visit(self, value: Any) -> None:  # noqa: ANN401 - any JSON
        """Hand a value to those who want it, and go on below."""
        for emit in self.emits:
            emit(value)
        if type(value) is dict:
            if self.below:
                self.walk(value)
            for key, wanted, node in self.filtered:
                if value.get(key) == wanted:
                    node.visit(value)


def values_at(value: Any, path: tuple[str, ...]) -> Iterator[Any]:  # noqa: ANN401 - any JSON
    """Every value at the end of a path without filters, lists opened on the way."""
    if type(value) is list:
        for one in value:
            yield from values_at(one, path)
    elif not path:
        yield value
    elif type(value) is dict and path[0] in value:
        yield from values_at(value[path[0]], path[1:])
