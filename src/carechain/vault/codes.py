"""Why a vault or its door refuses: each with its own number (20xx), in the order of the checks."""

from carechain.core.rejection import RejectionCode


class VaultCode(RejectionCode):
    """Why a vault or its door refuses. Append-only; order is precedence."""

    REQUEST_MALFORMED = 2001, "The request does not fit. See docs/operating/vault.md."
    ADDRESS_MALFORMED = 2002, "An address is 64 hexadecimal digits in small letters: the hash of the object's bytes."
    NOT_LIVE = 2003, "Your certificate or your organisation is not live on the ledger. Renew it first."
    MAY_NOT_WRITE = 2004, "Only the organisation that keeps this vault, and those it keeps copies for, may do this."
    OBJECT_ERASED = 2005, "This object was erased. It is neither served nor taken again."
    OBJECT_UNKNOWN = 2006, "No object has this address here. Ask another vault."
    RANGE_UNUSABLE = 2007, "The range does not lie inside the object. Ask for its size first."
    OBJECT_TOO_LARGE = 2008, "The object is larger than this store takes. Use a folder or S3 for large objects."
    QUOTA_EXCEEDED = 2009, "Your organisation's share of this vault is used up. Ask its operator for more."
    CONTENT_DIFFERS = 2010, "The bytes do not have this address as their hash. Nothing was kept; send them again."
    OBJECT_ALTERED = 2011, "No copy of the object is what its address says. It is withheld. Run carechain vault scrub."
    BUSY = 2012, "The vault is serving as many requests as it may. Try again in a moment."
    TOO_MANY_TOKENS = 2013, "Too many tokens at once. Use fewer keywords."
    SEARCH_TOO_WIDE = 2014, "Too many records have these tokens. Add a keyword."
