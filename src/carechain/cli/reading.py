"""The requester's read: what the ledger shows under a ticket, fetched from the gatekeeper and checked."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Final

import httpx
import msgspec

from carechain.chain.queries import QueryCode
from carechain.chain.questions import AnchorLine, OfTicket, TimelinePage
from carechain.cli.acting import KnownTicket, Seat, refused_ticket
from carechain.cli.output import Denied
from carechain.gatekeeper.fetch import GatekeeperClient, Reader, newest_of
from carechain.node.relay import PREFIX
from carechain.sdk.opening import AnchoredRecord, OpenedRecord
from carechain.sdk.tls import no_trust

_TIMEOUT_S: Final = 60.0


def fetch_records(seat: Seat, ticket: bytes, records: list[bytes] | None, *, url: str) -> tuple[OpenedRecord, ...]:
    """All records under the ticket, or the named ones; every one verified, or a refusal naming the first that fails."""
    row = seat.row("access.ticket", KnownTicket, OfTicket(ticket)).row
    if row.decision:
        raise refused_ticket(row.decision, {"ticket": ticket.hex()})
    lines = seat.rows("records.timeline", AnchorLine, TimelinePage(row.pseudonym, ticket), prove=True)
    expected = newest_of(lines, row.scope)
    if records is not None:
        expected = _chosen(expected, records)
    return asyncio.run(_fetch(seat, ticket, row.custodian, expected, everything=records is None, url=url))


async def _fetch(
    seat: Seat,
    ticket: bytes,
    custodian: bytes,
    expected: tuple[AnchoredRecord, ...],
    *,
    everything: bool,
    url: str,
) -> tuple[OpenedRecord, ...]:
    # Only the custodian's own authority vouches for its gatekeeper; a hub that passes on has its own.
    vouching = None if PREFIX in url else custodian
    believed = seat.trust.context(vouching) if url.startswith("https://") else no_trust()
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False, verify=believed) as http:
        client = GatekeeperClient(
            http,
            chain_id=seat.chain_id,
            custodian=custodian,
            reader=Reader(party=seat.actor.party, signing=seat.actor.signing, hpke=seat.actor.hpke),
            clock=lambda: int(time.time()),
            entropy=secrets.token_bytes,
            institution=seat.institution,
        )
        return await (client.read_all(ticket, expected) if everything else client.read(ticket, expected))


def _chosen(expected: tuple[AnchoredRecord, ...], records: list[bytes]) -> tuple[AnchoredRecord, ...]:
    chosen = tuple(one for one in expected if one.record_id in records)
    missing = [one for one in records if one not in {known.record_id for known in expected}]
    if missing:
        code = QueryCode.NOT_FOUND
        raise Denied(code=int(code), label=code.label, reason=code.reason, data={"record": missing[0].hex()})
    return chosen


def resource_rows(record: OpenedRecord) -> list[msgspec.Raw]:
    """The resources as JSON to embed, byte for byte: a number such as 72.50 keeps its last digit."""
    return [msgspec.Raw(one) for one in record.resources]


def write_resources(folder: Path, records: tuple[OpenedRecord, ...]) -> list[Path]:
    """One file per resource, ``<record>-<version>/<number>.json``; files of an earlier reading are replaced."""
    written: list[Path] = []
    for record in records:
        place = folder / f"{record.record_id.hex()}-{record.version}"
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number, content in enumerate(record.resources):
            path = place / f"{number:05d}.json"
            path.write_bytes(content)
            written.append(path)
    return written
