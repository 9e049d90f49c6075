"""Tokens and codes: random, opaque, told apart by how they begin. What they mean stands on the server alone."""

import base64
from collections.abc import Callable
from typing import Final

ACCESS_PREFIX: Final = "cca_"
REFRESH_PREFIX: Final = "ccr_"
CODE_PREFIX: Final = "ccc_"
LAUNCH_PREFIX: Final = "ccl_"
HANDLE_PREFIX: Final = "cch_"
SIZE: Final = 32
"""Random bytes in each: 256 bits."""

CODE_S: Final = 60
"""How long an authorisation code lasts."""
ACCESS_S: Final = 900
"""How long an access token lasts: as long as a ticket."""
BACKEND_S: Final = 300
"""The same for a system's own token (SMART Backend Services: at most five minutes)."""
ONLINE_S: Final = 12 * 3600
"""How long an app with ``online_access`` may refresh."""
OFFLINE_S: Final = 90 * 86_400
"""How long an app with ``offline_access`` may refresh, and never beyond its grant."""

_SYMBOLS: Final = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
"""For people to read out and type: nothing that looks like something else, no U."""
_CODE_SYMBOLS: Final = 8
_REJECT_FROM: Final = 256 - 256 % len(_SYMBOLS)


def new_token(prefix: str, entropy: Callable[[int], bytes]) -> str:
    """A fresh token; ``entropy(n)`` gives random bytes."""
    return prefix + base64.urlsafe_b64encode(entropy(SIZE)).rstrip(b"=").decode()


def new_approval_code(entropy: Callable[[int], bytes]) -> str:
    """A code of eight symbols (39 bits) such as ``K7XM-2PQ9``, each as likely as any other."""
    symbols = ""
    while len(symbols) < _CODE_SYMBOLS:
        symbols += "".join(_SYMBOLS[one % len(_SYMBOLS)] for one in entropy(_CODE_SYMBOLS) if one < _REJECT_FROM)
    return f"{symbols[:4]}-{symbols[4:_CODE_SYMBOLS]}"


def approval_code(text: str) -> str:
    """A code as it was typed, in the form it was shown in."""
    symbols = "".join(one for one in text.upper() if one.isalnum())[:_CODE_SYMBOLS]
    return f"{symbols[:4]}-{symbols[4:]}"
