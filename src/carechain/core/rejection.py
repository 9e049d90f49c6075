"""Typed refusals: the caller's failure, never mixed with a broken disk or a bug.

Codes are numbered, append-only, and within one handler their order is their precedence. Each contract owns
a hundred numbers, so a bare integer in a receipt names the contract and the check:

=====  =============
 1xx   admission (form and signature)
 2xx   membership
 3xx   relationships
 4xx   consent
 5xx   records
 6xx   access
 7xx   governance
 8xx   queries
 9xx   gatekeeper
10xx   charts
11xx   wallet and client
12xx   sealing and sessions
13xx   node
14xx   command line
15xx   upgrades
16xx   validators
17xx   backups and relay
18xx   keyring
19xx   recovery
20xx   vault
21xx   sealed objects and release shares
22xx   keyholder
23xx   gateway: FHIR
24xx   gateway: SMART on FHIR and sessions
25xx   sources
26xx   HL7 feed and imports
27xx   consents and documents in FHIR
=====  =============
"""

from enum import IntEnum
from typing import Self, TypeVar

T = TypeVar("T")


class RejectionCode(IntEnum):
    """A numbered refusal with the sentence that tells the caller what to do next."""

    reason: str

    def __new__(cls, number: int, reason: str) -> Self:
        """Keep the number as the value and the sentence beside it."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.reason = reason
        return member

    @property
    def label(self) -> str:
        """The stable name clients match on, for example ``CONSENT.GRANT_NOT_FOUND``."""
        return f"{type(self).__name__.removesuffix('Code').upper()}.{self.name}"


class Rejected(Exception):  # noqa: N818 - the field's word: a transaction is rejected, not erroneous
    """Raised where a check fails; carries the code and nothing that could hold private data."""

    def __init__(self, code: RejectionCode) -> None:
        super().__init__(code.label)
        self.code = code


def require(condition: object, code: RejectionCode) -> None:
    """Raise :class:`Rejected` with ``code`` unless ``condition`` holds."""
    if not condition:
        raise Rejected(code)


def present(value: T | None, code: RejectionCode) -> T:
    """``value`` if there is one; otherwise raise :class:`Rejected` with ``code``."""
    if value is None:
        raise Rejected(code)
    return value
