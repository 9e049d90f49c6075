"""The numbers that stand for search parameters and searched values in the index tables.

A value is a 63-bit hash: one integer column serves every code system, and an index row stays short. Two values that
collide would be found for each other; that takes 2^31 values of one parameter by chance, and it never crosses a shelf,
so it cannot show what is hidden.
"""

from functools import cache, lru_cache
from hashlib import blake2b
from typing import Final
from zlib import crc32

TERMS_REMEMBERED: Final = 65_536


@lru_cache(maxsize=TERMS_REMEMBERED)
def term(text: str) -> int:
    """The number of a value; ``text`` begins with the kind of the value, see the functions below."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()) >> 1


@cache
def param_key(resource_type: str, code: str) -> int:
    """The number of a search parameter of a resource type; ``code`` may carry a suffix such as ``:text``."""
    return crc32(f"{resource_type}.{code}".encode()) >> 1


def code_term(code: str) -> int:
    """A code in whatever system."""
    return term(f"c|{code}")


def coding_term(system: str, code: str) -> int:
    """A code of a system; an empty system stands for codings without one."""
    return term(f"sc|{system}|{code}")


def system_term(system: str) -> int:
    """Any code of a system."""
    return term(f"s|{system}")


def reference_term(target: str) -> int:
    """What a reference names: ``Type/id``, or an absolute address elsewhere."""
    return term(f"r|{target}")


def resource_term(resource_type: str, resource_id: str) -> int:
    """A resource itself: what a reference to it by type and id has."""
    return reference_term(f"{resource_type}/{resource_id}")


def uri_term(uri: str) -> int:
    """A whole URI."""
    return term(f"u|{uri}")


ANY_UNIT: Final = 0


def unit_term(system: str, code: str) -> int:
    """A quantity's unit by system and code; the system is empty where only the code or the printed unit is known."""
    return term(f"q|{system}|{code}")
