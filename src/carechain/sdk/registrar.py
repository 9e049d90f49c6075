"""A registrar's keyed hash of existing ids: the only form in which an MRN or a national id reaches the ledger (ID-3).

HMAC-SHA256 under a secret of that registrar alone (RFC 2104): one id gives unrelated values at two registrars, and
nobody without the secret can test guesses. Losing the secret means ids can no longer be matched, so back it up.
"""

import hmac
import os
import re
import unicodedata
from pathlib import Path
from typing import Final

from carechain.core.limits import EXISTING_ID_CHARS
from carechain.core.rejection import Rejected, require
from carechain.sdk.keyfile import Entropy, WalletCode, is_open_to_others, is_text, write_private_file

SECRET_SIZE: Final = 32
_LABEL: Final = b"carechain/id-hash/1"
_FILE_BYTES: Final = 2 * SECRET_SIZE + 2


class RegistrarSecret:
    """The 32-byte secret of one registrar; never printed, never on the ledger, never in genesis."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_SIZE:
            raise ValueError("a registrar's secret is 32 bytes")
        self._secret = secret

    def id_hash(self, system: str, value: str) -> bytes:
        """The 32-byte keyed hash of ``value`` as issued by ``system`` (for example ``"mrn"`` or a FHIR system URI).

        Both are normalised first (see :func:`normalised`), and length-prefixed so that no two pairs share an encoding.
        Raises :class:`~carechain.core.rejection.Rejected`; the refusal never repeats the id.
        """
        mac = hmac.new(self._secret, _LABEL, "sha256")
        for part in (normalised(system).encode(), normalised(value).encode()):
            mac.update(len(part).to_bytes(4, "big"))
            mac.update(part)
        return mac.digest()

    @staticmethod
    def create(path: Path, *, entropy: Entropy) -> "RegistrarSecret":
        """Make a secret and its file (64 hexadecimal digits, mode 0600); an existing file is never overwritten."""
        secret = entropy(SECRET_SIZE)
        write_private_file(path, secret.hex().encode("ascii") + b"\n", replace=False)
        return RegistrarSecret(secret)

    @staticmethod
    def load(path: Path) -> "RegistrarSecret":
        """Read the secret; refuses a file that others can read. Raises ``OSError`` when it cannot be read at all."""
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_FILE_BYTES + 1)
        require(not is_open_to_others(mode), WalletCode.SECRET_OPEN_TO_OTHERS)
        if not re.fullmatch(rb"[0-9a-f]{64}(\r?\n)?", text):
            raise Rejected(WalletCode.SECRET_DAMAGED)
        return RegistrarSecret(bytes.fromhex(text.decode("ascii")))

    def __repr__(self) -> str:
        return "RegistrarSecret(…)"


def normalised(text: str) -> str:
    """One spelling of an id: compatibility forms, case, spaces and invisible characters do not count.

    Full-width digits become plain ones (NFKC), letters are case-folded, and every space or format character is
    dropped, since ids are printed in groups. Hyphens and leading zeros stay: they can tell two ids apart.
    """
    require(text, WalletCode.ID_EMPTY)
    require(len(text) <= EXISTING_ID_CHARS, WalletCode.ID_TOO_LONG)
    require(is_text(text), WalletCode.ID_NOT_TEXT)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(one for one in folded if not one.isspace() and unicodedata.category(one) != "Cf")
    require(kept, WalletCode.ID_EMPTY)
    return kept
