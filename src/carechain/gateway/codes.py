"""Why the gateway refuses: each reason with its own number. FHIR 23xx, SMART on FHIR and sessions 24xx.

The FHIR server answers with an OperationOutcome that carries the number's label; which HTTP status and which FHIR issue
type a number has stands in one table, :mod:`carechain.gateway.fhir.outcome`.
"""

from typing import Final

from carechain.core.rejection import RejectionCode


class FhirCode(RejectionCode):
    """Why the FHIR server does not do what was asked (23xx). Append-only; no reason repeats anything of the input."""

    PATH_UNKNOWN = 2301, "There is nothing at this address. See the CapabilityStatement at /metadata."
    TYPE_UNKNOWN = 2302, "This is not a resource type of FHIR R4."
    METHOD_NOT_ALLOWED = 2303, "This address is used with another method. The header Allow names it."
    NOT_DELETED = (
        2304,
        "Nothing is deleted over FHIR. Set the status entered-in-error, or have the patient order an erasure.",
    )
    NOT_ACCEPTABLE = 2305, "This server writes FHIR R4 JSON only. Ask for application/fhir+json."
    MEDIA_TYPE_UNSUPPORTED = 2306, "Send application/fhir+json in UTF-8 (searches: a form; patches: JSON Patch)."
    BODY_TOO_LARGE = 2307, "The body is larger than this server accepts. Send it in parts."
    BODY_MALFORMED = 2308, "The body is not a well-formed JSON object in UTF-8, or it did not arrive whole."
    NOT_FOUND = 2309, "There is no such resource here that you may see."
    MAY_NOT = 2310, "Your role or your application's scopes do not allow this interaction with this resource type."
    TYPE_MISMATCH = 2311, "The resource's type is not the one in the address."
    ID_MISMATCH = 2312, "The resource's id is not the one in the address."
    ID_MALFORMED = 2313, "An id is 1 to 64 letters, digits, hyphens and dots."
    RESOURCE_INVALID = 2314, "The resource is not valid FHIR R4. The issues say where."
    VERSION_CONFLICT = 2315, "The resource has changed since the version you named. Read it again."
    ETAG_MALFORMED = 2316, 'A version is named as W/"3".'
    MULTIPLE_MATCHES = 2317, "The criteria match more than one resource. Make them narrower."
    CRITERIA_MISSING = 2318, "A conditional interaction needs search criteria that this server knows."
    PATCH_MALFORMED = 2319, "The body is not a JSON Patch (RFC 6902)."
    PATCH_FAILED = 2320, "The patch does not fit the resource: a path does not exist or a test failed."
    PARAMETER_INVALID = 2321, "A parameter does not have the form its kind requires."
    PARAMETER_UNKNOWN = 2322, "A parameter is not one of this resource type. See the CapabilityStatement at /metadata."
    TOO_MANY_PARAMETERS = 2323, "The search has more parameters than this server accepts."
    PAGE_UNKNOWN = 2324, "This page link is not from here or no longer valid. Search again."
    BUNDLE_UNSUPPORTED = 2325, "Send a Bundle of type transaction or batch."
    TOO_MANY_ENTRIES = 2326, "The bundle has more entries than this server accepts. Send it in parts."
    ENTRY_MALFORMED = 2327, "An entry lacks its request or its resource, or one of them has the wrong form."
    ENTRY_REPEATED = 2328, "Two entries of the transaction are the same resource."
    REFERENCE_UNRESOLVED = 2329, "A reference names nothing in this transaction and nothing here that you may see."
    NOT_IN_TRANSACTION = 2330, "This interaction cannot be part of a transaction. Send it by itself."
    READ_ONLY_TYPE = 2331, "Resources of this type are made from the ledger and are not written over FHIR."
    OPERATION_UNKNOWN = 2332, "This server has no such operation here. See the CapabilityStatement at /metadata."
    EXPORT_UNKNOWN = 2333, "There is no such export of yours, or it has expired. Start another."
    EXPORT_UNSUPPORTED = 2334, "Exports are asynchronous and ndjson: send Prefer: respond-async."
    TOO_MANY_EXPORTS = 2335, "You have as many exports open as one caller may. Delete one first."
    TOO_MANY_STREAMS = 2336, "Too many event streams are open. Close one, or come back later."
    BUSY = 2337, "The server is serving as many requests as it may. Try again in a moment."
    STORE_UNAVAILABLE = (
        2338,
        "The charts or the audit trail cannot be used now. Nothing was given out. Try again later.",
    )
    INTERNAL = 2339, "The server failed over this request: an error in the program. Tell the operator when it happened."
    SUBSCRIPTION_UNSUPPORTED = 2340, "Subscriptions are event streams here: see the operation $events."
    CREATE_BY_PUT = 2341, "Only the organisation's own systems may choose ids. Create with POST."
    OUT_OF_SIGHT = (
        2342,
        "The resource would be filed where nothing is open to you. Get a ticket for this patient first.",
    )


class SmartCode(RejectionCode):
    """Why a caller of the gateway is not let in, or an app gets no token (24xx). Append-only.

    One code covers a token that is unknown, expired, replaced or revoked: telling them apart would tell a thief.
    """

    TOKEN_MISSING = 2401, "Send an access token or a session's token in the header: Authorization: Bearer <token>."
    TOKEN_INVALID = 2402, "This token is not valid, or no longer. Refresh it, or authorise the app again."
    CONSENT_ENDED = 2403, "What allowed this app to read has ended. Ask the patient to approve it again."
    NOT_LIVE = 2404, "The party behind this token is no live party of the consortium."
    TICKET_MALFORMED = 2405, "X-Consent-Ticket takes tickets of 64 hexadecimal digits, separated by commas."
    TICKET_NOT_LIVE = 2406, "A ticket is not yours, not for this custodian, expired or revoked. Request a new one."
    PURPOSE_UNKNOWN = 2407, "X-Purpose-Of-Use takes one code of v3-ActReason, for example TREAT."
    PURPOSE_DIFFERS = 2408, "The purpose of use is not the one your tickets were given for."
    LEDGER_STALE = 2409, "The last block is too old, or too new, to judge by. Try again when the network moves."
    TOO_MANY_REQUESTS = 2410, "Too many requests in a short time. Wait a moment."
    BODY_MALFORMED = 2411, "The body does not fit. See docs/concepts/apps.md."
    APPROVAL_UNKNOWN = 2412, "No app waits under this code. Codes last ten minutes; start again in the app."
    APPROVAL_NOT_YOURS = 2413, "A patient of this organisation, a representative, or staff with tickets may approve."
    GRANT_NOT_FITTING = 2414, "No live grant of yours lets this app's party read for its purpose."
    SCOPE_NOT_ASKED = 2415, "An approval may leave scopes out; it cannot add any."
    PATIENT_UNKNOWN = 2416, "There is no patient file under this pseudonym here yet."
    CLIENT_UNUSABLE = 2417, "This app acts as nobody who could be given a ticket. Its operator must register it anew."

    CLIENT_UNKNOWN = 2420, "No such app is registered here."
    CLIENT_NOT_AUTHENTICATED = 2421, "The app did not prove that it is the one that is registered."
    REDIRECT_NOT_REGISTERED = 2422, "The redirect address is not exactly one that the app registered."
    REQUEST_MALFORMED = 2423, "A parameter is missing, stands there twice, or is too long."
    RESPONSE_TYPE_UNSUPPORTED = 2424, "Only response_type=code is supported."
    PKCE_REQUIRED = 2425, "Send a code_challenge with code_challenge_method=S256."
    AUDIENCE_DIFFERS = 2426, "The aud parameter is not this FHIR server's address."
    SCOPE_INVALID = 2427, "No scope that was asked for is both known here and registered for the app."
    LAUNCH_INVALID = 2428, "The launch value is unknown, used, expired or another app's."
    GRANT_TYPE_UNSUPPORTED = 2429, "Use authorization_code, refresh_token or client_credentials."
    GRANT_TYPE_NOT_ALLOWED = 2430, "The app is not registered for this way to get a token."
    CODE_INVALID = 2431, "The code is unknown, used or expired, or its verifier or redirect address differs."
    REFRESH_INVALID = 2432, "The refresh token is unknown, used, expired or revoked. Authorise the app again."
    ASSERTION_INVALID = 2433, "The signed assertion does not hold: check key, aud, iss, sub, exp (5 minutes) and jti."
    ASSERTION_USED = 2434, "This assertion was used before. Sign a new one with a fresh jti."
    DENIED = 2435, "The access was denied."
    BUSY = 2436, "Too many apps wait for approval. Try again in a few minutes."

    REGISTRATION_MALFORMED = 2440, "An app has a name, redirect addresses of its own and known scopes."
    REDIRECT_UNSAFE = (
        2441,
        "A redirect address is https, http on this machine, or a scheme like com.example.app, and has no fragment.",
    )
    KEYS_UNUSABLE = 2442, "A key set holds public keys for RS384 or ES384 (RSA from 2048 bits, P-384), each with a kid."
    SYSTEM_NEEDS_PROOF = 2443, "A system of the organisation proves itself with a secret or with keys."
    ACTING_PARTY_MISSING = 2444, "An app that patients approve acts as somebody: name a key of your staff."
    TOO_MANY_APPS = 2445, "No more apps can be registered here. Remove some."


SMART_STATUS: Final[dict[RejectionCode, int]] = {
    **dict.fromkeys(SmartCode, 400),
    SmartCode.TOKEN_MISSING: 401,
    SmartCode.TOKEN_INVALID: 401,
    SmartCode.CONSENT_ENDED: 401,
    SmartCode.NOT_LIVE: 401,
    SmartCode.TICKET_NOT_LIVE: 403,
    SmartCode.PURPOSE_DIFFERS: 403,
    SmartCode.LEDGER_STALE: 503,
    SmartCode.TOO_MANY_REQUESTS: 429,
    SmartCode.APPROVAL_UNKNOWN: 404,
    SmartCode.APPROVAL_NOT_YOURS: 403,
    SmartCode.GRANT_NOT_FITTING: 403,
    SmartCode.PATIENT_UNKNOWN: 409,
    SmartCode.CLIENT_UNUSABLE: 403,
    SmartCode.CLIENT_UNKNOWN: 401,
    SmartCode.CLIENT_NOT_AUTHENTICATED: 401,
    SmartCode.ASSERTION_INVALID: 401,
    SmartCode.ASSERTION_USED: 401,
    SmartCode.BUSY: 503,
}
"""The HTTP status of each refusal of a :class:`SmartCode`. 401 goes with ``WWW-Authenticate: Bearer``."""


class RemoteCode(RejectionCode):
    """Why records of other members cannot be asked for (28xx). What one member refuses stands in the answer itself."""

    SOURCES_MALFORMED = 2801, "Name each source as <pseudonym>@<member>, 64 hexadecimal digits each, and none twice."
    MEMBER_UNKNOWN = 2802, "A member's gatekeeper is not known to this node. Add it to fhir.gatekeepers."
    PURPOSE_UNKNOWN = 2803, "The purpose is one code of v3-ActReason, for example TREAT."
    WISH_MALFORMED = 2804, "A type, category, grade, day or query does not have the form its parameter requires."
    NO_KEY = 2805, "Only an application that acts as a party of this organisation may ask other members."
    CONTENT_UNUSABLE = 2806, "Part of what this member holds is no safe FHIR resource, and is left out."
