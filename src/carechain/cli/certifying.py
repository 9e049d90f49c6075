"""Certificates from an organisation's own authority, valid from now on by the wall clock."""

import secrets
from datetime import UTC, datetime, timedelta

import typer

from carechain.cli.acting import Desktop
from carechain.cli.public_key import Acceptance, Offer, PublicHalf, accept, public_half
from carechain.core.crypto import Suite
from carechain.core.vocabulary import PartyKind
from carechain.sdk.identity import Identity


def identity_for(desktop: Desktop, name: str) -> Identity:
    """The key to certify: one of this home, or a new one under that name."""
    if desktop.keys.path_of(name).exists():
        if desktop.keys.kind_of(name) != "identity":
            raise typer.BadParameter("this name belongs to a wallet or an authority; choose another", param_hint="NAME")
        return desktop.keys.identity(name, desktop.password)
    organisation = desktop.authority().organisation
    return desktop.keys.add_identity(name, kind=PartyKind.STAFF, organisation=organisation, password=desktop.password)


def accepted_here(desktop: Desktop, name: str, *, roles: int, days: int) -> Acceptance:
    """A certificate for a key of this home, accepted at once."""
    identity = identity_for(desktop, name)
    certificate, _ = issue(desktop, public_half(identity), roles=roles, days=days)
    return accept(identity, offer_of(desktop, certificate))


def offer_of(desktop: Desktop, certificate: bytes) -> Offer:
    """The certificate with what its key has to sign."""
    return Offer(
        chain_id=desktop.genesis.chain_id,
        organisation=desktop.authority().organisation,
        certificate=certificate,
    )


def issue(
    desktop: Desktop, half: PublicHalf, *, roles: int, days: int, party: bytes | None = None
) -> tuple[bytes, int]:
    """A certificate (DER) and the first second after its end (Unix), as the ledger will have it.

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
    return certificate, int(end.timestamp()) + 1
