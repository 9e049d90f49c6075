"""MLLP framing (HL7 "Transport Specification: MLLP", release 1): bytes in, whole messages out. Pure.

A message stands between a vertical tab and a file separator with a carriage return. None of these bytes occurs inside a
character of UTF-8 or GB 18030, so frames can be cut before anything is known of the text.
"""

from typing import Final

from carechain.core.limits import HL7_MESSAGE_BYTES
from carechain.core.rejection import Rejected
from carechain.sources.imports.codes import ImportCode

START: Final = b"\x0b"
END: Final = b"\x1c\r"
_BETWEEN: Final = b"\r\n"
"""Some senders put line ends between frames; anything else there is not MLLP."""


class Deframer:
    """Cuts a stream into messages. After a refusal the stream has lost its place and must be closed."""

    __slots__ = ("_buffer", "_limit", "_searched")

    def __init__(self, limit: int = HL7_MESSAGE_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._searched = 1

    @property
    def in_message(self) -> bool:
        """Whether the beginning of a message has arrived and its end has not."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole message; None until more bytes have arrived.

        Raises ``Rejected`` (MESSAGE_TOO_LARGE, FRAME_MALFORMED).
        """
        buffer = self._buffer
        del buffer[: len(buffer) - len(buffer.lstrip(_BETWEEN))]
        if not buffer:
            return None
        if not buffer.startswith(START):
            raise Rejected(ImportCode.FRAME_MALFORMED)
        end = buffer.find(END, self._searched)
        if (end if end >= 0 else len(buffer) - len(END)) > self._limit + 1:
            raise Rejected(ImportCode.MESSAGE_TOO_LARGE)
        if buffer.find(START, self._searched, end if end >= 0 else len(buffer)) >= 0:
            # A message that broke off and began again: which one was meant would be a guess.
            raise Rejected(ImportCode.FRAME_MALFORMED)
        if end < 0:
            # The end itself may have come half.
            self._searched = max(1, len(buffer) - 1)
            return None
        message = bytes(buffer[1:end])
        del buffer[: end + len(END)]
        self._searched = 1
        return message


def framed(message: bytes) -> bytes:
    """A message as it travels."""
    return START + message + END
