"""JSON files read as a whole, with exact numbers and one meaning; and lines of text, each of bounded length."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, BinaryIO, Final, NoReturn

from carechain.core.limits import BUNDLE_NESTING, IMPORT_FILE_BYTES, IMPORT_JSON_BYTES, IMPORT_PIECE_BYTES
from carechain.sources.imports.base import Unreadable
from carechain.sources.imports.codes import ImportCode

_BOM: Final = b"\xef\xbb\xbf"


def read_json(file: BinaryIO) -> Any:  # noqa: ANN401 - JSON can be anything
    """The file's one value; numbers with a point are ``Decimal``.

    Raises :class:`Unreadable`: FILE_TOO_LARGE, NOT_TEXT, FILE_TRUNCATED, FILE_MALFORMED.
    """
    return parse_json(whole(file))


def whole(file: BinaryIO) -> bytes:
    """A file of at most ``IMPORT_JSON_BYTES``. Raises :class:`Unreadable`."""
    data = file.read(IMPORT_JSON_BYTES + 1)
    if len(data) > IMPORT_JSON_BYTES:
        raise Unreadable(ImportCode.FILE_TOO_LARGE)
    return data


def parse_json(data: bytes) -> Any:  # noqa: ANN401 - JSON can be anything
    """As :func:`read_json`, for bytes."""
    text = _text(data.removeprefix(_BOM), "")
    try:
        tree = _decoder.decode(text)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        code = ImportCode.FILE_TRUNCATED if at_end else ImportCode.FILE_MALFORMED
        raise Unreadable(code, f"line {error.lineno}") from None
    except RecursionError:
        raise Unreadable(ImportCode.FILE_MALFORMED) from None
    if _depth_exceeds(tree, BUNDLE_NESTING):
        raise Unreadable(ImportCode.FILE_MALFORMED)
    return tree


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable(ImportCode.FILE_MALFORMED)
    return found


def _no_number(_text: str) -> NoReturn:
    raise Unreadable(ImportCode.FILE_MALFORMED)


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise Unreadable(ImportCode.FILE_MALFORMED)
    return int(text)


_DIGITS: Final = 40
_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Decimal, parse_int=_integer, parse_constant=_no_number
)


def _depth_exceeds(tree: object, levels: int) -> bool:
    level = [tree]
    for _ in range(levels):
        level = [
            inner
            for node in level
            for inner in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def text_lines(file: BinaryIO) -> Iterator[tuple[int, str, bool]]:
    """Number, text and whether its end was there, of each line, whatever its line ends (LF, CRLF, CR).

    Raises :class:`Unreadable`: FILE_TOO_LARGE for a line or the file, NOT_TEXT.
    """
    number, left, carried = 0, IMPORT_FILE_BYTES, b""
    first = True
    while data := file.read(IMPORT_PIECE_BYTES):
        left -= len(data)
        if left < 0:
            raise Unreadable(ImportCode.FILE_TOO_LARGE)
        if first:
            data, first = data.removeprefix(_BOM), False
        buffer = carried + data
        # A CR at the end of a piece may be half of a line end.
        held = b"\r" if buffer.endswith(b"\r") else b""
        lines = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        carried = lines.pop() + held
        if len(carried) > IMPORT_PIECE_BYTES:
            raise Unreadable(ImportCode.FILE_TOO_LARGE, f"line {number + 1}")
        for line in lines:
            number += 1
            yield number, _text(line, f"line {number}"), True
    last = carried.removesuffix(b"\r")
    if last or carried:
        yield number + 1, _text(last, f"line {number + 1}"), carried.endswith(b"\r")


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unreadable(ImportCode.NOT_TEXT, place) from None
