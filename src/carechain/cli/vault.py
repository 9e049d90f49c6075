"""``carechain vault``: put and get sealed objects, look after the copies, and see what is stored for whom."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from carechain.cli.options import ByAnyone, ByOrganisation, GatekeeperOption
from carechain.cli.output import CannotRun, Desk, Exit, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import day, identifier, moment
from carechain.core.units import DAY_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from carechain.cli.acting import Desktop
    from carechain.node.settings import Settings
    from carechain.vault.metering import Metering
    from carechain.vault.remote import RemoteStore
    from carechain.vault.scrub import ScrubReport

app = sub_app("The vault: sealed objects by the hash of their bytes, their copies, and what they take up.")

_MB: Final = 1_000_000
_TIMEOUT_S: Final = 60.0
_UNIX_EPOCH_DAY: Final = 25_567
"""1970-01-01 in clinical days."""

AddressArgument = Annotated[
    bytes, typer.Argument(parser=identifier, metavar="ADDRESS", help="The object's address: the hash of its bytes.")
]
KeeperOption = Annotated[
    str | None,
    typer.Option("--of", metavar="ORGANISATION", help="Whose vault it is, where it is not this organisation's own."),
]


@command(app, "put")
def put(
    desk: Desk,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A sealed object. What is not sealed does not belong here.")
    ],
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="PSEUDONYM", help="For whom it is stored, for the metering.")
    ] = None,
    of: KeeperOption = None,
    by: ByOrganisation,
    gatekeeper: GatekeeperOption = None,
) -> Report:
    """Store a sealed object in a vault, through its door; the answer is its address.

    An object that is there already is left alone, so a command that was cut short is simply run again.
    """
    from carechain.cli.acting import Desktop
    from carechain.vault.base import address_of, size_of

    if not file.is_file():
        raise CannotRun(f"{file} is not a file")
    desktop = Desktop(desk, by)
    pseudonym = None if patient is None else desktop.keys.party(patient, hint="--patient")
    address, size = address_of(file, desktop.genesis.suite.new_hash), size_of(file)

    async def send() -> None:
        async with _remote(desktop, of=of, url=gatekeeper, pseudonym=pseudonym) as remote:
            await remote.put(address, file)

    asyncio.run(send())
    data = {"address": address.hex(), "size_bytes": size}
    return Report(data=data, show=lines(f"stored {size} bytes at {address.hex()}"))


@command(app, "get")
def get(
    desk: Desk,
    *,
    address: AddressArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file; one that exists is not touched.")],
    of: KeeperOption = None,
    by: ByAnyone,
    gatekeeper: GatekeeperOption = None,
) -> Report:
    """Fetch a sealed object from a vault and check it against its address.

    It stays sealed: opening it takes a ticket and the keyholders.
    """
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    if out.exists():
        raise CannotRun(f"{out} exists; name a new file with --out")
    size = asyncio.run(_fetched(desktop, address, out, of=of, url=gatekeeper))
    data = {"address": address.hex(), "size_bytes": size, "file": str(out)}
    return Report(data=data, show=lines(f"{size} bytes, exactly what the address says, written to {out}"))


@command(app, "status")
def status(desk: Desk) -> Report:
    """Show what this organisation's vault holds, where, and when all copies were last looked at."""
    settings = _settings(desk)
    with _books(desk) as metering:
        objects, size, erased = metering.totals()
        scrubbed_s = int.from_bytes(metering.progress("scrubbed") or b"", "big")
        unfinished = metering.progress("scrub") is not None
    wanted = settings.vault
    data = {
        "backend": wanted.backend,
        "copies": wanted.copies,
        "partners": sorted(wanted.partners),
        "objects": objects,
        "size_bytes": size,
        "erased": erased,
        "scrubbed_s": scrubbed_s or None,
        "scrub_unfinished": unfinished,
    }
    last = f"{moment(scrubbed_s)} UTC" if scrubbed_s else "never"
    said = [
        f"{counted(objects, 'object')}, {size / _MB:.1f} MB, in {wanted.backend}; {counted(erased, 'object')} erased",
        f"copies of each: {wanted.copies}; last scrub: {last}",
    ]
    return Report(data=data, show=lines(*said))


@command(app, "scrub")
def scrub(desk: Desk, *, by: ByOrganisation) -> Report:
    """Read every copy of every object, and make those that are missing or altered again from a sound one.

    One that was cut short goes on where it was. Exit status 1 when an object could not be brought back to all its
    copies. A running node does the same by itself, at the pace that `vault.scrub_bytes_per_s` says; with the
    distributed store only the node can.
    """
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    with _books(desk) as metering:
        total = metering.totals()[0]
    report = asyncio.run(_scrubbed(desktop, _settings(desk), total))
    data = {
        "ok": report.is_good,
        "objects": report.objects,
        "copies": report.copies,
        "bytes_read": report.bytes_read,
        "missing": report.missing,
        "altered": report.altered,
        "unreached": report.unreached,
        "repaired": report.repaired,
        "short": report.short_objects,
        "lost": report.lost_objects,
        "erased": report.erased_objects,
        "addresses": [one.hex() for one in report.named],
    }
    said = [f"{counted(report.objects, 'object')} with {report.copies} readable copies"]
    said.append(
        f"missing {report.missing}, altered {report.altered}, unreached {report.unreached}, repaired {report.repaired}"
    )
    if not report.is_good:
        said.append(f"{report.short_objects} with too few copies, {report.lost_objects} without a sound one:")
        said += [one.hex() for one in report.named]
    return Report(data=data, show=lines(*said), status=Exit.DONE if report.is_good else Exit.REFUSED)


@command(app, "usage")
def usage(
    desk: Desk,
    *,
    first: Annotated[int | None, typer.Option("--from", parser=day, metavar="DATE", help="First day, UTC.")] = None,
    last: Annotated[int | None, typer.Option("--to", parser=day, metavar="DATE", help="Last day, UTC.")] = None,
    patient: Annotated[
        bytes | None, typer.Option("--patient", parser=identifier, metavar="PSEUDONYM", help="Only this pseudonym.")
    ] = None,
) -> Report:
    """Show how much was stored for each pseudonym and how long, in megabyte-days: what rent is paid by."""
    import time

    from_s = 0 if first is None else _day_s(first)
    # The second that runs counts too, so that what was stored just now is seen.
    to_s = int(time.time()) + 1 if last is None else _day_s(last + 1)
    with _books(desk) as metering:
        rows = [one for one in metering.usages(from_s, to_s) if patient is None or one.pseudonym == patient]
    data = {
        "from_s": from_s,
        "to_s": to_s,
        "pseudonyms": [
            {
                "pseudonym": one.pseudonym.hex(),
                "objects": one.objects,
                "size_bytes": one.bytes_now,
                "byte_seconds": one.byte_seconds,
            }
            for one in rows
        ],
    }
    text = [
        (
            one.pseudonym.hex() if any(one.pseudonym) else "copies for others",
            str(one.objects),
            f"{one.bytes_now / _MB:.1f}",
            f"{one.byte_seconds / _MB / DAY_S:.1f}",
        )
        for one in rows
    ]
    return Report(data=data, show=tables(table("Usage", ("pseudonym", "objects", "MB now", "MB-days"), text)))


def _day_s(clinical_day: int) -> int:
    return max(0, clinical_day - _UNIX_EPOCH_DAY) * DAY_S


def _settings(desk: Desk) -> "Settings":
    from carechain.cli.serving import node_settings

    settings = node_settings(desk.home)
    if not settings.vault.enabled:
        raise CannotRun("this home keeps no vault: vault.enabled is false")
    return settings


def _books(desk: Desk) -> "Metering":
    from carechain.node.vault import METERING_FILE
    from carechain.vault.metering import Metering

    path = desk.home / METERING_FILE
    if not path.is_file():
        raise CannotRun(f"{path} is not there: the vault begins when the node first runs")
    return Metering(path)


def _remote(
    desktop: "Desktop", *, of: str | None, url: str | None, pseudonym: bytes | None = None
) -> "AbstractAsyncContextManager[RemoteStore]":
    import secrets
    import time
    from contextlib import asynccontextmanager

    import httpx

    from carechain.cli.addresses import own_member
    from carechain.sdk.door import DoorSession
    from carechain.sdk.signer import Signer
    from carechain.sdk.tls import no_trust
    from carechain.vault.remote import RemoteStore

    keeper = own_member(desktop.keys) if of is None else desktop.keys.party(of, hint="--of")
    if keeper is None:
        raise CannotRun("this home is no organisation's: say whose vault it is with --of, and where with --gatekeeper")
    actor, address = desktop.anyone(), url or desktop.gatekeeper_url()
    genesis = desktop.genesis
    believed = desktop.trust.context(keeper) if address.startswith("https://") else no_trust()

    @asynccontextmanager
    async def opened() -> "AsyncIterator[RemoteStore]":
        async with httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S, trust_env=False, verify=believed) as http:
            session = DoorSession(
                http,
                Signer(actor.party, actor.signing),
                chain_id=genesis.chain_id,
                server=keeper,
                clock=lambda: int(time.time()),
                entropy=secrets.token_bytes,
            )
            yield RemoteStore(
                http, session, name=f"the vault at {address}", hashing=genesis.suite.new_hash, pseudonym=pseudonym
            )

    return opened()


async def _fetched(desktop: "Desktop", address: bytes, out: Path, *, of: str | None, url: str | None) -> int:
    """Write the object beside its name, and give it the name once it is whole and checked."""
    from carechain.vault.base import verified

    size = 0
    temporary = out.with_name(f".{out.name}.part")
    try:
        async with _remote(desktop, of=of, url=url) as remote:
            with temporary.open("wb") as file:
                async for chunk in verified(remote.open(address), address, desktop.genesis.suite.new_hash):
                    await asyncio.to_thread(file.write, chunk)
                    size += len(chunk)
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)
    return size


async def _scrubbed(desktop: "Desktop", settings: "Settings", total: int) -> "ScrubReport":
    import time

    from carechain.cli.keyring import MEMBER_KEY
    from carechain.node.logs import configure_logs
    from carechain.node.settings import BadSettings
    from carechain.node.vault import Owner, open_vault

    # Standard output is for the answer.
    configure_logs("warning")
    owner = Owner(
        identity=desktop.keys.identity(MEMBER_KEY, desktop.password),
        chain_id=desktop.genesis.chain_id,
        suite=desktop.genesis.suite,
        clock=time.time,
        context_of=desktop.trust.context,
    )
    try:
        async with open_vault(settings, owner) as vault:
            if vault is None:
                raise CannotRun("this home keeps no vault")
            with desktop.desk.progress("scrubbing") as advance:
                return await vault.scrub(on_object=lambda report: advance(report.objects, max(total, report.objects)))
    except BadSettings as wrong:
        raise CannotRun(str(wrong)) from None
