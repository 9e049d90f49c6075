"""Versions and times in headers: ETag, If-Match, If-None-Match and their like (RFC 9110, section 13)."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import Final

from carechain.core.rejection import Rejected
from carechain.gateway.codes import FhirCode

US_PER_S: Final = 1_000_000
_ETAG: Final = re.compile(r'(?:W/)?"(?P<version>[A-Za-z0-9.\-]{1,64})"', re.ASCII)
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


def etag(version: int) -> str:
    """The weak entity tag of a version."""
    return f'W/"{version}"'


def last_modified(updated_us: int) -> str:
    """The HTTP date of a moment in microseconds since 1970."""
    return format_datetime(datetime.fromtimestamp(updated_us // US_PER_S, tz=UTC), usegmt=True)


@lru_cache(maxsize=256)
def instant(us: int) -> str:
    """The FHIR instant of a moment in microseconds since 1970, to the millisecond, in UTC.

    Remembered, since everything that one transaction wrote says the same.
    """
    moment = datetime.fromtimestamp(us // US_PER_S, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % US_PER_S // 1000:03d}Z"


def version_of(text: str) -> int | None:
    """The number of a version id; None for what cannot be one of ours."""
    return int(text) if _NUMBER.fullmatch(text) else None


def if_match(value: str | None) -> int | None:
    """The version that If-Match names; 0, which no resource has, for a tag of somebody else's. Raises ``Rejected``."""
    if value is None:
        return None
    named = _ETAG.fullmatch(value.strip())
    if named is None:
        raise Rejected(FhirCode.ETAG_MALFORMED)
    return version_of(named["version"]) or 0


def is_unchanged(headers: Mapping[str, str], version: int, updated_us: int) -> bool:
    """Whether the caller already has this version (304); If-None-Match goes before If-Modified-Since."""
    tags = headers.get("if-none-match")
    if tags is not None:
        return tags.strip() == "*" or any(
            (named := _ETAG.fullmatch(tag.strip())) is not None and version_of(named["version"]) == version
            for tag in tags.split(",")
        )
    since = headers.get("if-modified-since")
    if since is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except ValueError:
        # A date that cannot be read is passed over, as the RFC says.
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return updated_us // US_PER_S <= int(moment.timestamp())
