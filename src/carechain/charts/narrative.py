"""Which XHTML a narrative may hold: formatting, links and images, and nothing that runs or reaches out (FHIR txt-1).

Narratives are shown in browsers by whoever reads the record, so what is not on the list is refused when it comes in.
"""

import re
from html.entities import html5
from typing import Final
from xml.parsers import expat

NAMESPACE: Final = "http://www.w3.org/1999/xhtml"
_FORMATTING: Final = """
    a abbr acronym address area b bdo big blockquote br caption center cite code col colgroup dd del dfn div dl dt em
    font h1 h2 h3 h4 h5 h6 hr i img ins kbd li map ol p pre q s samp small span strike strong sub sup table tbody td
    tfoot th thead tr tt u ul var
    """
ELEMENTS: Final = frozenset(_FORMATTING.split())
ADDRESSES: Final = frozenset({"background", "cite", "href", "longdesc", "src", "usemap", "xlink:href"})
"""Attributes that hold an address."""
_SAFE_ADDRESS: Final = re.compile(
    r"(?:https?:|mailto:|tel:|#|data:image/(?:gif|jpeg|png|webp)[;,]|[^:]*$)", re.IGNORECASE
)
_UNSAFE_STYLE: Final = re.compile(r"expression|url\s*\(|import|behaviou?r|binding|script|\\", re.IGNORECASE)
_SPACES: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2000-\u200f]+")
_ENTITY: Final = re.compile(r"&([A-Za-z][A-Za-z0-9]*);")
_XML_ENTITIES: Final = frozenset({"amp", "apos", "gt", "lt", "quot"})


class _Refused(Exception):  # noqa: N818 - leaves the parser, never this module
    """Carries what is wrong, in words that repeat nothing of the narrative."""


class _Reader:
    """Follows the parser through the elements."""

    def __init__(self) -> None:
        self.has_content = False
        self._seen_root = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins; names come as ``namespace name``."""
        namespace, _, local = name.rpartition(" ")
        if namespace != NAMESPACE:
            raise _Refused("an element outside the XHTML namespace")
        if not self._seen_root and local != "div":
            raise _Refused("a narrative that is not one div")
        self._seen_root = True
        if local not in ELEMENTS:
            raise _Refused("an element that narratives may not hold")
        if local == "img":
            self.has_content = True
        for attribute, value in attributes.items():
            _check_attribute(attribute.rpartition(" ")[2].lower(), value)

    def text(self, data: str) -> None:
        """Characters between the tags."""
        self.has_content = self.has_content or not data.isspace()

    @staticmethod
    def refuse_declaration(*_: object) -> None:
        """A document type could define entities that grow without bound or read files."""
        raise _Refused("a document type declaration")

    @staticmethod
    def refuse_instruction(*_: object) -> None:
        """Nothing here is to be processed."""
        raise _Refused("a processing instruction")


def _check_attribute(name: str, value: str) -> None:
    if name.startswith("on"):
        raise _Refused("an event handler")
    # Browsers pass over control characters and spaces when they look for the scheme.
    if name in ADDRESSES and not _SAFE_ADDRESS.match(_SPACES.sub("", value)):
        raise _Refused("an address that could run or load something")
    if name == "style" and _UNSAFE_STYLE.search(value):
        raise _Refused("a style that could run or load something")


def problem(div: str) -> str | None:
    """What a narrative's ``div`` must not have, or None if it is acceptable."""
    reader = _Reader()
    parser = expat.ParserCreate("utf-8", " ")
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse_declaration
    parser.EntityDeclHandler = reader.refuse_declaration
    parser.ProcessingInstructionHandler = reader.refuse_instruction
    try:
        parser.Parse(_ENTITY.sub(_as_character, div).encode(), True)  # noqa: FBT003 - expat's own signature
    except _Refused as error:
        return str(error)
    except (expat.ExpatError, UnicodeEncodeError):
        return "XML that is not well-formed"
    return None if reader.has_content else "no content"


def _as_character(entity: re.Match[str]) -> str:
    """HTML's named characters, which R4 allows and XML does not know."""
    name = entity[1]
    return entity[0] if name in _XML_ENTITIES else html5.get(name + ";", entity[0])
