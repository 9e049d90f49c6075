"""Why a Consent cannot be put into the ledger's words, or a document not be made: each with its own number (27xx).

A Consent is taken over whole or not at all. Whatever it says that the ledger has no words for is refused by name, so
that nobody signs less, or more, than was written.
"""

from carechain.core.rejection import RejectionCode


class DocumentCode(RejectionCode):
    """Append-only; order is precedence. No reason repeats anything of the input."""

    CONSENT_MALFORMED = 2701, "Send one FHIR Consent resource (R4, or R5), as JSON."
    MODIFIER_UNKNOWN = (
        2702,
        "The Consent has a modifier that could turn its meaning round. Leave it out, or ask its author.",
    )
    CONSENT_SCOPE_UNSUPPORTED = 2703, "Only a privacy consent (scope patient-privacy) says who may see records."
    CONSENT_OF_ANOTHER = 2704, "The Consent is about another patient than the one who would sign it."
    CONSENT_NOT_ACTIVE = 2705, "Only an active Consent grants anything; one that has ended must name what it ends."
    CONSENT_STANDS = 2706, "This Consent is a grant that stands. To grant anew, leave out its identifier."
    NO_PROVISION = 2707, "The Consent leaves to its policy's text what is permitted. Say it in a provision."
    PROVISION_TOO_DEEP = 2708, "One root provision and one level below it are read, as in IHE PCF."
    TOO_MANY_PROVISIONS = 2709, "The Consent has more provisions than one signature should cover. Split it."
    EXCEPTIONS_UNCLEAR = 2710, "R5 leaves open whether nested provisions permit or deny. Send the Consent as R4."
    ELEMENT_UNSUPPORTED = (
        2711,
        "A provision picks by code, class, document type or expression. The ledger knows categories, grades and days.",
    )
    ACTOR_ROLE_UNSUPPORTED = 2712, "The actors of a provision are its recipients: give them the role IRCP."
    ACTOR_UNKNOWN = 2713, "A recipient is no party of the consortium that is known here. Say which party it is."
    NO_RECIPIENT = 2714, "A permission names whom it is for: a recipient, or the organisation of the Consent."
    PURPOSE_UNKNOWN = 2715, "A purpose is none of the purposes of use that the ledger knows (v3-ActReason)."
    ACTION_UNKNOWN = 2716, "An action is none that the ledger knows."
    LABEL_UNSUPPORTED = (
        2717,
        "Permissions go by confidentiality grade. A sensitivity label alone (such as PSY) cannot be granted.",
    )
    PERIOD_MALFORMED = 2718, "A period is not two FHIR dates in order."
    PERIOD_NOT_BEGUN = 2719, "The Consent begins later. A grant begins when it is signed: sign it then."
    PERIOD_OVER = 2720, "The Consent has ended."
    DATA_PERIOD_NOT_DAYS = 2721, "The data's period goes by whole days: leave out the time of day."
    DATA_MEANING_UNSUPPORTED = (
        2722,
        "Data can be named one by one (instance). What is related, or by whom, is not known.",
    )
    DATA_NOT_A_RECORD = 2723, "The Consent names data that is not in a record known here."
    DATA_PART_OF_RECORD = 2724, "A record is granted whole, and the Consent names only a part of one."
    EXCEPTION_UNSUPPORTED = 2725, "An exception picks in a way that the ledger cannot take out of the rest."
    NO_FREE_RULE = 2726, "The patient has as many standing rules as there may be. Drop some."
    TOO_MANY_MATCHES = 2743, "The search is about more of the ledger than one answer holds. Narrow it down."
    NO_SUCH_PATIENT = 2744, "There is no such patient, or none that you may see."
    PARTS_MISSING = 2745, "Not every part of the document could be read. Try again."
