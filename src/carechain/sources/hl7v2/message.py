"""An HL7 v2 message from bytes: bounded, in the character set it names, with fields by their numbers (HL7 2.5.1 ch. 2).

A field is a list of repetitions, a repetition a list of components, a component a list of subcomponents. What is not
there reads as empty. A field that holds two quotation marks says "delete the value" and is :data:`NULL`.
"""

import re
from typing import Final, Self

from carechain.core.limits import HL7_MESSAGE_BYTES, HL7_SEGMENTS
from carechain.core.rejection import Rejected, RejectionCode
from carechain.sources.imports.codes import ImportCode

NULL: Final = '""'

_CHARSETS: Final = {
    "": "",
    "ASCII": "ascii",
    "8859/1": "iso8859_1",
    "8859/2": "iso8859_2",
    "8859/3": "iso8859_3",
    "8859/4": "iso8859_4",
    "8859/5": "iso8859_5",
    "8859/6": "iso8859_6",
    "8859/7": "iso8859_7",
    "8859/8": "iso8859_8",
    "8859/9": "iso8859_9",
    "8859/15": "iso8859_15",
    "UNICODE UTF-8": "utf_8",
    "UTF-8": "utf_8",
    "UTF8": "utf_8",
    "GB 18030-2000": "gb18030",
    "GB18030": "gb18030",
    "GB18030-2000": "gb18030",
    "GBK": "gb18030",
    "GB2312": "gb18030",
    "BIG-5": "big5hkscs",
}
"""Table 0211 and what senders write in its place; empty stands for the feed's own default."""

CHARSETS: Final = ("ascii", "utf_8", "gb18030", "iso8859_1")
"""What a feed may take for a message that names no character set."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ESCAPE: Final = re.compile(r"\\([^\\]{0,64})\\")
_SEGMENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_SEPARATORS: Final = 5
_CHARSET_FIELD: Final = 18


class Refused(Rejected):
    """A message is refused; ``where`` says at which segment, its number among its kind, and field. Never a value."""

    def __init__(self, code: RejectionCode, segment: str = "", number: int = 1, field: int = 0) -> None:
        super().__init__(code)
        self.segment = segment
        self.number = number
        self.field = field


class Segment:
    """One segment; ``number`` counts from 1 among the segments of its name."""

    __slots__ = ("_fields", "_marks", "name", "number")

    def __init__(self, name: str, number: int, fields: list[str], marks: "Marks") -> None:
        self.name = name
        self.number = number
        self._fields = fields
        self._marks = marks

    def raw(self, field: int) -> str:
        """The field as it was sent."""
        return self._fields[field] if field < len(self._fields) else ""

    def repetitions(self, field: int) -> list["Composite"]:
        """The repetitions of a field that hold something."""
        raw = self.raw(field)
        if raw in ("", NULL):
            return []
        return [Composite(one, self._marks) for one in raw.split(self._marks.repetition) if one]

    def first(self, field: int) -> "Composite":
        """The field's first repetition; an empty one if there is none."""
        return next(iter(self.repetitions(field)), Composite("", self._marks))

    def text(self, field: int, component: int = 1) -> str:
        """The text of a component of the field's first repetition."""
        return self.first(field).text(component)

    def whole(self, field: int) -> str:
        """A field of text, whatever separators stand in it, with repetitions as lines."""
        return "\n".join(self._marks.unescaped(one.raw) for one in self.repetitions(field))

    def is_null(self, field: int) -> bool:
        """Whether the sender wants the value deleted."""
        return self.raw(field) == NULL

    def refused(self, code: RejectionCode, field: int) -> Refused:
        """The refusal of a field of this segment."""
        return Refused(code, self.name, self.number, field)

    def required(self, field: int, component: int = 1) -> str:
        """The text of a component that must be there; raises ``Rejected(FIELD_MISSING)``."""
        value = self.text(field, component)
        if not value:
            raise self.refused(ImportCode.FIELD_MISSING, field)
        return value


class Composite:
    """One repetition of a field."""

    __slots__ = ("_components", "_marks", "raw")

    def __init__(self, raw: str, marks: "Marks") -> None:
        self.raw = raw
        self._components = raw.split(marks.component)
        self._marks = marks

    def text(self, component: int = 1, subcomponent: int = 1) -> str:
        """A component's text, unescaped and trimmed; empty where there is none or it is to be deleted."""
        if component > len(self._components):
            return ""
        parts = self._components[component - 1].split(self._marks.subcomponent)
        value = self._marks.unescaped(parts[subcomponent - 1]).strip() if subcomponent <= len(parts) else ""
        return "" if value == NULL else value


class Marks:
    """The separators that MSH-1 and MSH-2 name."""

    __slots__ = ("component", "escape", "field", "repetition", "subcomponent")

    def __init__(self, marks: str) -> None:
        self.field, self.component, self.repetition, self.escape, self.subcomponent = tuple(marks)

    def unescaped(self, text: str) -> str:
        """Text with its escape sequences resolved (2.5.1 section 2.7); unknown ones stay as they are."""
        if self.escape not in text:
            return text
        if self.escape != "\\":
            text = text.replace(self.escape, "\\")
        return _ESCAPE.sub(self._resolved, text)

    def _resolved(self, found: re.Match[str]) -> str:
        named = found[1]
        marks = {
            "F": self.field,
            "S": self.component,
            "R": self.repetition,
            "T": self.subcomponent,
            "E": self.escape,
            ".br": "\n",
            "H": "",
            "N": "",
        }
        if named in marks:
            return marks[named]
        if re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", named):
            text = bytes.fromhex(named[1:]).decode("utf-8", errors="replace")
            return _CONTROL.sub("\ufffd", text)
        return found[0]


class Message:
    """A message's segments in order."""

    __slots__ = ("charset", "segments")

    def __init__(self, segments: list[Segment], charset: str) -> None:
        self.segments = segments
        self.charset = charset

    @property
    def header(self) -> Segment:
        """MSH."""
        return self.segments[0]

    def find(self, name: str) -> Segment | None:
        """The first segment of this name."""
        return next((one for one in self.segments if one.name == name), None)

    def all(self, name: str) -> list[Segment]:
        """All segments of this name."""
        return [one for one in self.segments if one.name == name]

    def required(self, name: str) -> Segment:
        """The first segment of this name; raises ``Rejected(SEGMENT_MISSING)``."""
        found = self.find(name)
        if found is None:
            raise Refused(ImportCode.SEGMENT_MISSING, name)
        return found

    @classmethod
    def parse(cls, data: bytes, *, default_charset: str = "utf_8") -> Self:
        """Read a message of at most ``HL7_MESSAGE_BYTES``; raises :class:`Refused` and nothing else."""
        if len(data) > HL7_MESSAGE_BYTES:
            raise Refused(ImportCode.MESSAGE_TOO_LARGE)
        if not is_header(data):
            raise Refused(ImportCode.NOT_HL7)
        charset = _charset(data, default_charset)
        text = _decoded(data, charset)
        marks = Marks(text[3 : 3 + _SEPARATORS])
        lines = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
        if len(lines) > HL7_SEGMENTS:
            raise Refused(ImportCode.TOO_MANY_SEGMENTS)
        counts: dict[str, int] = {}
        segments: list[Segment] = []
        for line in lines:
            fields = line.split(marks.field)
            name = fields[0]
            if not _SEGMENT_NAME.fullmatch(name) or (name == "MSH" and segments):
                raise Refused(ImportCode.NOT_HL7)
            counts[name] = counts.get(name, 0) + 1
            if name == "MSH":
                # MSH-1 is the separator itself, so the fields count from there.
                fields.insert(1, marks.field)
            segments.append(Segment(name, counts[name], fields, marks))
        return cls(segments, charset)


def is_header(data: bytes) -> bool:
    """Whether data begin like a message: MSH and five different separators."""
    marks = data[3 : 3 + _SEPARATORS]
    sound = len(set(marks)) == len(marks) == _SEPARATORS and all(0x21 <= one <= 0x7E for one in marks)  # noqa: PLR2004
    plain = not any(chr(one).isalnum() for one in marks)
    return data[:3] == b"MSH" and sound and plain and data[8:9] == marks[:1]


def _charset(data: bytes, default: str) -> str:
    """The codec of the set that MSH-18 names.

    Bytes of GB 18030 may look like separators, so that fields before MSH-18 can hide it from a cut on bytes. Then the
    header is read in each set that can do that; only one whose own name stands in MSH-18 counts.
    """
    header = re.split(rb"[\r\n]", data, maxsplit=1)[0]
    for codec in ("ascii", "utf_8", "gb18030", "big5hkscs"):
        try:
            named = _named(header.decode(codec))
        except (UnicodeDecodeError, Refused):
            continue
        if codec in {"ascii", named or default}:
            return named or default
    return _named(header.decode("iso8859_1")) or default


def _named(header: str) -> str:
    fields = header.split(header[3])
    # The separator is MSH-1 itself and takes no place among the parts.
    value = fields[_CHARSET_FIELD - 1].strip().upper() if len(fields) >= _CHARSET_FIELD else ""
    if value not in _CHARSETS:
        raise Refused(ImportCode.CHARSET_UNSUPPORTED, "MSH", 1, _CHARSET_FIELD)
    return _CHARSETS[value]


def _decoded(data: bytes, charset: str) -> str:
    try:
        text = data.decode(charset)
    except UnicodeDecodeError:
        raise Refused(ImportCode.NOT_IN_CHARSET) from None
    if _CONTROL.search(text):
        raise Refused(ImportCode.NOT_IN_CHARSET)
    return text
