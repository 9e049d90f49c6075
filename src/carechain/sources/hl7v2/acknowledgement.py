"""What a sender is answered: MSA and, when a message is refused, ERR (HL7 2.5.1 section 2.9 and table 0357).

AA: taken, and durable. AE: something in the message is wrong; sending it again does not help. AR: this feed takes no
such message, or none now. Senders that ask for accept acknowledgements (MSH-15) get CA, CE and CR instead.
"""

import re
from datetime import UTC, datetime
from typing import Final

from carechain.core.rejection import Rejected, RejectionCode
from carechain.sources.hl7v2.message import Message, Refused
from carechain.sources.imports.codes import ImportCode

ACCEPT: Final = "A"
ERROR: Final = "E"
REJECT: Final = "R"

_ANSWERS: Final[dict[RejectionCode, tuple[str, int, str]]] = {
    ImportCode.MESSAGE_TOO_LARGE: (REJECT, 207, "Application internal error"),
    ImportCode.FRAME_MALFORMED: (REJECT, 100, "Segment sequence error"),
    ImportCode.NOT_HL7: (REJECT, 100, "Segment sequence error"),
    ImportCode.TOO_MANY_SEGMENTS: (REJECT, 207, "Application internal error"),
    ImportCode.CHARSET_UNSUPPORTED: (ERROR, 103, "Table value not found"),
    ImportCode.NOT_IN_CHARSET: (ERROR, 102, "Data type error"),
    ImportCode.MESSAGE_TYPE_UNSUPPORTED: (REJECT, 200, "Unsupported message type"),
    ImportCode.EVENT_UNSUPPORTED: (REJECT, 201, "Unsupported event code"),
    ImportCode.PROCESSING_ID_UNSUPPORTED: (REJECT, 202, "Unsupported processing id"),
    ImportCode.VERSION_UNSUPPORTED: (REJECT, 203, "Unsupported version id"),
    ImportCode.SEGMENT_MISSING: (ERROR, 100, "Segment sequence error"),
    ImportCode.FIELD_MISSING: (ERROR, 101, "Required field missing"),
    ImportCode.FIELD_MALFORMED: (ERROR, 102, "Data type error"),
    ImportCode.VALUE_UNKNOWN: (ERROR, 103, "Table value not found"),
    ImportCode.PATIENT_UNIDENTIFIED: (ERROR, 204, "Unknown key identifier"),
    ImportCode.FEED_FULL: (REJECT, 207, "Application internal error"),
}
_OTHER: Final = (ERROR, 207, "Application internal error")
"""What the charts would refuse."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9 ._:\-]{1,199}", re.ASCII)
_ENHANCED: Final = {"AL": "EAR", "ER": "ER", "SU": "A", "NE": ""}
"""Table 0155: for which of the three outcomes MSH-15 wants an accept acknowledgement."""


def answer(message: Message | None, refusal: Rejected | None, *, now_s: int, number: str) -> bytes | None:
    """The acknowledgement of a message, or of bytes that are none (None); ``number`` is the answer's own control id.

    None when the sender wants no answer. Only ASCII, and nothing of the content: the control id alone is repeated, and
    where it goes back to is taken from MSH-3 and MSH-4 if they are plain.
    """
    verdict, code, what = (ACCEPT, 0, "") if refusal is None else _ANSWERS.get(refusal.code, _OTHER)
    mode = "A"
    if message is not None and message.header.text(15) in _ENHANCED:
        mode = "C"
        if verdict not in _ENHANCED[message.header.text(15)]:
            return None
    moment = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%d%H%M%S+0000")
    kind = "ACK"
    sender = facility = control = version = ""
    if message is not None:
        header = message.header
        sender, facility, control = (_plain(header.text(field)) for field in (3, 4, 10))
        version = _plain(header.text(12))
        event = _plain(header.text(9, 2))
        kind = f"ACK^{event}^ACK" if event else kind
    segments = [
        f"MSH|^~\\&|CARECHAIN||{sender}|{facility}|{moment}||{kind}|{number}|P|{version or '2.5.1'}",
        f"MSA|{mode}{verdict}|{control}",
    ]
    if refusal is not None:
        segments.append(_err(refusal, code, what))
    return "".join(f"{one}\r" for one in segments).encode("ascii")


def _err(refusal: Rejected, code: int, what: str) -> str:
    where = ""
    if isinstance(refusal, Refused) and refusal.segment:
        where = f"{refusal.segment}^{refusal.number}" + (f"^{refusal.field}" if refusal.field else "")
    reason = refusal.code.reason.replace("\\", "").replace("|", "").replace("^", "").replace("~", "").replace("&", "")
    # ERR-5 is the application's own code, ERR-8 what the user is told.
    return f"ERR||{where}|{code}^{what}^HL70357|E|{int(refusal.code)}^{refusal.code.label}^L|||{reason}"


def _plain(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else ""
