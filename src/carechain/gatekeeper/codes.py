"""Why a gatekeeper refuses: each with its own number (9xx), in the order of the checks."""

from carechain.core.rejection import Rejected, RejectionCode


class GatekeeperCode(RejectionCode):
    """Append-only; order is precedence.

    One code covers everything that is wrong with a record's category, grade or day: telling them apart would tell
    a requester how sensitive a record is that it may not see.
    """

    REQUEST_MALFORMED = 901, "The request does not fit. See docs/concepts/the-exchange.md."
    LEDGER_STALE = (
        902,
        "The last block's time is too far from this clock to judge by. Try again when the network moves.",
    )
    TICKET_UNKNOWN = 903, "The ledger has no such ticket at its latest height. Wait for its block, or request again."
    OTHER_CUSTODIAN = 904, "Another organisation keeps these records. Ask its gatekeeper."
    NOT_THE_REQUESTER = 905, "This ticket was given to somebody else. Request your own."
    TICKET_REFUSED = 906, "This ticket was refused. The ticket names the check that failed."
    TICKET_EXPIRED = 907, "This ticket has expired. Request a new one."
    TICKET_REVOKED = 908, "This ticket was revoked."
    NO_LONGER_ALLOWED = 909, "What allowed this ticket has ended since. Ask the patient."
    TOO_MANY_RECORDS = 910, "Too many records for one answer. Ask for fewer at a time."
    RECORD_REPEATED = 911, "A record is named twice. Name it once."
    RECORD_UNKNOWN = 912, "The ledger has no such record of this patient, or not in this version."
    OUTSIDE_SCOPE = 913, "The ticket does not cover this record."
    RECORD_ALTERED = (
        914,
        "The stored record is not what was anchored on the ledger. It is withheld; an incident is noted.",
    )
    RECORD_MISSING = 915, "The custodian no longer has this record. An incident is noted."
    ANSWER_TOO_LARGE = 916, "This record is too large for one answer."
    KEY_UNUSABLE = 917, "Nothing can be sealed to the reading key your ticket names. Enrol with a sound key."
    BUSY = 918, "The gatekeeper is serving as many releases as it may. Try again in a moment."
    BODY_TOO_LARGE = 919, "The request is larger than any request for records has to be."
    PATH_UNKNOWN = 920, "No such path. See docs/concepts/the-exchange.md."
    PSEUDONYMS_ONLY = 921, "For research the custodian shows a study's pseudonymised view, never the records."
    NOT_RESEARCH = 922, "A study's view is for research. Ask for the records themselves with this ticket."


class Withheld(Rejected):
    """A refused release: the code, and which record it is about where that is known. Ids only, never content."""

    def __init__(self, code: GatekeeperCode, *, record_id: bytes | None = None) -> None:
        super().__init__(code)
        self.record_id = record_id
