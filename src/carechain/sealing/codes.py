"""Why something sealed is not believed: each defect with its own number (21xx).

2101–2139 sealed objects · 2140–2149 the contents of a record · 2150–2159 the blind index · 2160–2199 capsules, labels,
release shares.
"""

from carechain.core.rejection import RejectionCode


class SealingCode(RejectionCode):
    """What is wrong with a sealed object, its contents, a capsule or a release share. Append-only.

    Within a group the order is the order of the checks, so the first defect is the one that is named.
    """

    NOT_AN_OBJECT = 2101, "These bytes are not a sealed object. Check the address or the file."
    HEADER_CUT = 2102, "The sealed object ends inside its beginning. Fetch the rest, or another copy."
    FORMAT_UNKNOWN = 2103, "The object has a format that this version does not read. Upgrade carechain."
    SUITE_UNKNOWN = 2104, "The object names a suite that does not exist. Fetch another copy."
    OTHER_SUITE = 2105, "The object was sealed under another suite than this network's. Report who wrote it."
    CHUNK_SIZE_WRONG = 2106, "The object names another chunk size than its format has. Fetch another copy."
    SIZE_OUT_OF_BOUNDS = 2107, "The content is larger than an object may hold. Divide it, or fetch another copy."
    CAPSULE_SIZE_WRONG = 2108, "The capsule is empty or larger than any. Fetch another copy."
    CAPSULE_ALTERED = 2109, "The capsule is not the one the object was sealed with. Fetch another copy."
    OTHER_RECORD = 2110, "This is the object of another record. Fetch the one the ledger names."
    OTHER_VERSION = 2111, "This is the object of another version of the record. Fetch the one the ledger names."
    KEY_WRONG = 2112, "This key does not open this object. Combine the shares of its own capsule."
    HEADER_ALTERED = 2113, "The object's header was altered. Fetch another copy."
    CUT_INSIDE_CHUNK = 2114, "The object ends inside a chunk. Fetch the rest, or another copy."
    CUT_BETWEEN_CHUNKS = 2115, "Chunks are missing at the object's end. Fetch the rest, or another copy."
    EXTENDED = 2116, "More bytes follow than the object has. Fetch another copy."
    CHUNK_REPEATED = 2117, "A chunk is there twice, in its own place and in another's. Fetch another copy."
    CHUNK_MOVED = 2118, "A chunk stands in another's place. Fetch another copy."
    CHUNK_ALTERED = 2119, "A chunk was altered or comes from another object. Fetch another copy."
    OUTSIDE_CONTENT = 2120, "The range reaches beyond the content. Ask for less."
    OTHER_ADDRESS = 2121, "The object is not the one that was asked for. Fetch another copy."
    SOURCE_SIZE_WRONG = 2122, "What is to be sealed is shorter or longer than was said. Say its size, and seal again."
    ALREADY_SEALED = 2123, "A sealed object has this name already. Use it, or remove it and seal again."
    ALREADY_OPENED = 2124, "A file has this name already. Choose another name, or remove the file."

    CONTENTS_CUT = 2140, "The contents end inside their list of resources. Report who wrote the record."
    CONTENTS_FORMAT_UNKNOWN = 2141, "The contents have a format that this version does not read. Upgrade carechain."
    CONTENTS_COUNT_WRONG = 2142, "The contents list no resource, or more than a record may have. Report who wrote them."
    CONTENTS_SIZE_WRONG = 2143, "The listed sizes do not add up to the contents. Report who wrote the record."
    CONTENTS_NOT_ANCHORED = 2144, "The resources are not those that were anchored on the ledger. Do not use them."

    NOTHING_TO_SEARCH = 2150, "Nothing in this text can be searched for. Use a word, a number or a Chinese character."
    TOO_MANY_WORDS = 2151, "More different words than a record's index or a search may have. Index less text at a time."

    CAPSULE_FORM = 2160, "These bytes are not a capsule. Fetch another copy of the object."
    CAPSULE_NEWER = 2161, "The capsule was made in another format. Upgrade carechain to read it."
    CAPSULE_OTHER_LABEL = (
        2162,
        "The capsule was made for another record, version, category or grade. Report who wrote it.",
    )
    CAPSULE_UNPROVED = 2163, "The capsule was altered, or copied from another. Fetch another copy of the object."
    BLINDED_TO_NOTHING = 2164, "The blinding cancels the capsule. Make a fresh blinding and ask again."
    SHARE_OF_ANOTHER_REQUEST = 2165, "The share is for another ticket, record or version. Ask this keyholder again."
    SHARE_OF_ANOTHER_EPOCH = (
        2166,
        "The share is of another epoch than was asked for. Read the ledger's key and ask again.",
    )
    SHARE_OF_ANOTHER_HOLDER = 2167, "The share is in another holder's name than the one that was asked. Leave it out."
    SHARE_OF_ANOTHER_POINT = 2168, "The share is of another point than the one asked for. Leave this keyholder out."
    SHARE_FALSE = 2169, "The share is false. Leave it out, and show the signed statement to the ledger."
    SHARES_OF_DIFFERENT_EPOCHS = 2170, "Shares of different epochs do not combine. Ask all keyholders for one epoch."
    SHARE_REPEATED = 2171, "One holder's share is there twice. Count it once."
    TOO_FEW_SHARES = 2172, "Fewer shares than the threshold open nothing. Ask more keyholders."
