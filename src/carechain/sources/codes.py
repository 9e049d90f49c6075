"""Why a source is refused: each with its own number (25xx). No reason repeats anything that a system said."""

from carechain.core.rejection import RejectionCode


class SourceCode(RejectionCode):
    """Append-only; order is precedence."""

    BAD_NAME = 2501, "Name a source with 1 to 32 small letters, digits and hyphens, a letter first."
    NAME_TAKEN = 2502, "There is a source with this name. Choose another name."
    SOURCE_UNKNOWN = 2503, "There is no source with this name. See them with: carechain source list."
    SETTINGS_MALFORMED = 2504, "The source's file of settings does not fit. See docs/operating/sources.md."
    MAPPING_MALFORMED = 2505, "The mapping file does not fit. See docs/operating/sources.md."
    QUERY_REPEATED = 2506, "Two queries of the mapping have the same id."
    QUERY_NOT_READING = 2507, "A query must be one SELECT statement (or WITH … SELECT), without a semicolon."
    QUERY_PARAMETERS = 2508, "A query binds :patient and nothing else; the list of patients binds nothing."
    TEMPLATE_MALFORMED = 2509, "A template is not JSON, or a placeholder in it cannot be understood."
    DIALECT_UNKNOWN = 2510, "This database is not known here. Use PostgreSQL, MySQL, MariaDB, SQLite or SQL Server."
    DRIVER_MISSING = 2511, "The driver of this database is not installed. See docs/operating/sources.md."
    USER_MAY_WRITE = 2512, "This database user may do more than read. Give a user with nothing but SELECT."
    COLUMN_MISSING = 2513, "A template names a column that its query does not select."
    KEY_MISSING = 2514, "A query's key column is not selected, or is empty in a row."
    AMBIGUOUS_ROWS = 2515, "Rows with the same key say different things in one place of the template."
    VALUE_UNREADABLE = 2516, "A value is not what the template says it is: a date, a number, yes or no."
    VALUE_UNKNOWN = 2517, "A value stands in no table of codes of the mapping, and the table has no default."
    TOO_MANY_ROWS = 2518, "A query gives more rows for one patient than a chart may have."
    CANNOT_LIST = 2519, "This source has no query for its patients. Link them one by one."
    PATIENT_KEY_MALFORMED = 2520, "The patient's key is not of the kind the mapping says: a whole number, or text."
    PATIENT_UNKNOWN = 2521, "The source has no such patient."
    PATIENT_LINKED = 2522, "This patient of the source, or this pseudonym, is linked otherwise already."
    NOT_LINKED = 2523, "This pseudonym is not linked to a patient of the source. Use: carechain source link."
    VERSION_NOT_KEPT = 2524, "The other system keeps only what it says now, and this version says something else."
    RESULT_GONE = 2525, "The other system no longer has this record."
    BAD_ADDRESS = (
        2526,
        "Give the address of a FHIR server: https:// (http:// only on this machine), without user or query.",
    )
    ANSWER_UNREADABLE = 2527, "The other server's answer is not a FHIR Bundle or is larger than is read."
    LINK_ELSEWHERE = 2528, "The other server's answer leads to another address, which is not followed."
    PASSWORD_IN_ADDRESS = 2529, "Leave the password out of the address and name a file that has it (mode 0600)."
