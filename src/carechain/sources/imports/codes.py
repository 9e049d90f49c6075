"""Why a message of another system or a file of a patient is not taken (26xx)."""

from carechain.core.rejection import RejectionCode


class ImportCode(RejectionCode):
    """Append-only; order is precedence. No reason repeats anything of the input."""

    MESSAGE_TOO_LARGE = 2601, "The message is larger than this feed accepts."
    FRAME_MALFORMED = 2602, "Send each message between a vertical tab and a file separator with a carriage return."
    NOT_HL7 = 2603, "The message does not begin with an MSH segment that names its separators."
    TOO_MANY_SEGMENTS = 2604, "The message has more segments than this feed accepts; send it in parts."
    CHARSET_UNSUPPORTED = (
        2605,
        "MSH-18 names a character set that is not supported; send UNICODE UTF-8 or GB 18030-2000.",
    )
    NOT_IN_CHARSET = 2606, "The message is not text of the character set that MSH-18 names, or has control characters."
    MESSAGE_TYPE_UNSUPPORTED = 2607, "Send ADT, ORU or ORM messages."
    EVENT_UNSUPPORTED = 2608, "This trigger event is not supported for this type of message."
    PROCESSING_ID_UNSUPPORTED = 2609, "Only production messages are taken: MSH-11 must be P."
    VERSION_UNSUPPORTED = 2610, "Send version 2.1 to 2.9 of HL7."
    SEGMENT_MISSING = 2611, "A required segment is missing."
    FIELD_MISSING = 2612, "A required field is empty."
    FIELD_MALFORMED = 2613, "A field does not have the form of its data type."
    VALUE_UNKNOWN = 2614, "A field's value is not in its table."
    PATIENT_UNIDENTIFIED = 2615, "PID-3 has no identifier that this feed recognises patients by."
    FEED_FULL = 2616, "Too many messages wait to be filed. Send it again later."
    SENDER_NOT_ALLOWED = 2617, "This address may not send messages here."
    KIND_UNKNOWN = 2620, "This kind of file is not recognised. Name its kind."
    FILE_MALFORMED = 2621, "The file does not have the form of its kind; nothing of it was taken."
    FILE_TRUNCATED = 2622, "The file ends before its end; export it again. Nothing of it was taken."
    FILE_TOO_LARGE = 2623, "The file, or one piece of it, is larger than can be imported."
    NOT_TEXT = 2624, "The file is not UTF-8 text."
    COLUMNS_MALFORMED = 2625, "The declaration of the columns is missing, incomplete or contradicts the file."
    PATIENT_CHANGED = 2626, "The file is about another patient than the one it is imported for."
