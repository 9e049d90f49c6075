"""Certificates from an organisation's own authority, valid from now on by the wall clock."""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

from carechain.cli.acting import Desktop
from carechain.cli.public_key import PublicHalf, public_half, read_public
from carechain.core.crypto import Suite
from carechain.core.vocabulary import PartyKind


def public_half_for(desktop: Desktop, name: str, public: Path | None) -> PublicHalf:
    """The public half to certify: from a file, from a key of this home, or from a new key under that name."""
    if public is not None:
        return read_public(public)
    if desktop.keys.path_of(name).exists():
        if desktop.keys.kind_of(name) != "identity":
            raise typer.BadParameter("this name belongs to a wallet or an authority; choose another", param_hint="NAME")
        return public_half(desktop.keys.identity(name, desktop.password))
    organisation = desktop.authority().organisation
    identity = desktop.keys.add_identity(
        name, kind=PartyKind.STAFF, organisation=organisation, password=desktop.password
    )
    return public_half(identity)


def issue(
    desktop: Desktop, half: PublicHalf, *, roles: int, days: int, party: bytes | None = None
) -> tuple[bytes, int]:
    """A certificate (DER) and its end in Unix seconds.

    It begins an hour back, since clocks differ, and never outlives the authority's own certificate.
    """
    authority = desktop.authority()
    now = datetime.now(UTC).replace(microsecond=0)
    end = min(now + timedelta(days=days), datetime.fromtimestamp(authority.authority().not_after_s, UTC))
    certificate = authority.issue(
        party or half.party,
        suite=Suite(half.suite),
        public_key=half.public_key,
        roles=roles,
        not_before=now - timedelta(hours=1),
        not_after=end,
        entropy=secrets.token_bytes,
    )
    return certificate, int(end.timestamp())
