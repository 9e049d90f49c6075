"""The quorum part of ``bench seal``: ceremonies, release shares, and records opened, in a process of its own.

``shares_per_s`` is the arithmetic of a share with its proof alone, and the yardstick of the other two: the whole
decision of a keyholder, for capsules that it sees for the first time and for those that it has checked before. A
requester's rate counts the requester's own work: what the keyholders do meanwhile is taken off. These rates are per
second of processor time, which is what a core can do whoever else is on it; the seconds of ceremonies pass on the wall.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Final

import uvloop
from msgspec import Struct

from carechain.bench.filling import BenchFailed
from carechain.bench.seal_network import MEMBERS, Sealed, Seven, seven
from carechain.chain.questions import AnchorLine
from carechain.core.limits import SHARES_PER_REQUEST
from carechain.core.quorum import Capsule, combined_point, decode_capsule, default_threshold
from carechain.gatekeeper.audit import Audit
from carechain.gatekeeper.keyholder import Keyholder, ShareRates
from carechain.gatekeeper.rates import Rate
from carechain.node.logs import configure_logs
from carechain.sdk.gathering import Gatherer
from carechain.sdk.identity import Identity
from carechain.sdk.sealed import SealedReader
from carechain.sdk.shares import ShareItem, SharesAnswer, SharesRequest
from carechain.sdk.wallet import Pseudonym
from carechain.sealing.objects import read_prefix
from carechain.sealing.quorum.release import ENTROPY_SIZE, BlindingSecret, make_share

RECORDS: Final = SHARES_PER_REQUEST
RECORD_BYTES: Final = 1_000
ROUNDS: Final = 5
CEREMONIES: Final = 3
THRESHOLD: Final = 3
_ANY: Final = Rate(per_s=1 << 30, burst=1 << 30)
_RATES: Final = ShareRates(party=_ANY, total=_ANY)
"""Measured is what a keyholder can do, not what it lets a requester have."""


class Case(Struct, frozen=True):
    """A doctor with a ticket for all of a patient's sealed records."""

    network: Seven
    reader: Identity
    patient: Pseudonym
    sealed: Sealed
    ticket: bytes

    def capsules(self) -> list[tuple[AnchorLine, bytes, Capsule]]:
        """What stands in the objects' beginnings."""
        found = []
        for line in self.sealed.lines:
            if line.anchor.sealed is not None:
                _, data = read_prefix(self.sealed.objects[line.anchor.sealed.object])
                found.append((line, data, decode_capsule(data)))
        return found

    def blinding(self, line: AnchorLine) -> BlindingSecret:
        """A fresh one for a record."""
        return BlindingSecret(
            chain_id=self.network.chain_id,
            ticket=self.ticket,
            record=line.record,
            version=line.version,
            sender=self.reader.party,
            entropy=os.urandom(ENTROPY_SIZE),
        )

    def request(self) -> SharesRequest:
        """For all records, each with a fresh blinding."""
        items = (ShareItem(line.record, 1, data, self.blinding(line).blinding) for line, data, _ in self.capsules())
        return SharesRequest(ticket=self.ticket, items=tuple(items))

    def keyholder(self, number: int, audit: Audit) -> Keyholder:
        """The keyholder of a member, newly started."""
        member = self.network.members[number]
        return Keyholder(
            organisation=member.party,
            signing=member.signing_key(),
            ledger=self.network.service,
            secrets=self.network.stores[number],
            audit=audit,
            clock=lambda: int(time.time()),
            entropy=os.urandom,
            rates=_RATES,
        )


def run_shares(
    folder: Path,
    *,
    records: int = RECORDS,
    rounds: int = ROUNDS,
    ceremonies: int = CEREMONIES,
) -> dict[str, Any]:
    """Measure in ``folder``; at most as many ``records`` as one request may name. Raises ``BenchFailed``.

    For a process of its own: it sets up the log, and all processor time counts.
    """
    if not 0 < records <= SHARES_PER_REQUEST:
        raise ValueError(f"choose 1 to {SHARES_PER_REQUEST} records")
    configure_logs("warning")
    return uvloop.run(_run(folder, records, rounds, ceremonies))


async def _run(folder: Path, records: int, rounds: int, ceremonies: int) -> dict[str, Any]:
    threshold = default_threshold(MEMBERS)
    generated: list[float] = []
    reshared: list[float] = []
    for number in range(ceremonies):
        place = folder / f"network-{number}"
        place.mkdir()
        async with seven(place) as (network, reader):
            generated.append(await network.hold(threshold))
            reshared.append(await network.hold(threshold))
            if number == ceremonies - 1:
                # The same key, shared among the same seven so that fewer of them open something.
                await network.hold(THRESHOLD)
                case = await _case(network, reader, records)
                rates = await _rates(case, place, rounds)
    return {
        "members": MEMBERS,
        "ceremony_threshold": threshold,
        "dkg_s": round(median(generated), 3),
        "reshare_s": round(median(reshared), 3),
        "threshold": THRESHOLD,
        "records": records,
        **rates,
    }


async def _case(network: Seven, reader: Identity, records: int) -> Case:
    patient = await network.register(reader)
    sealed = await network.write(patient, records, RECORD_BYTES)
    return Case(network, reader, patient, sealed, await network.ticket(reader, patient))


async def _rates(case: Case, folder: Path, rounds: int) -> dict[str, float]:
    """Every rate in every round, in turns, so that whatever else the machine does hits all alike."""
    seconds: dict[str, list[float]] = {"shares": [], "first": [], "known": [], "opens": []}
    audits = [Audit.open(folder / f"shares-{number}.sqlite") for number in range(THRESHOLD)]
    try:
        for _ in range(rounds):
            keyholder = case.keyholder(0, audits[0])
            seconds["shares"].append(_arithmetic(case))
            for name in ("first", "known"):
                request = case.request()
                began_s = process_time()
                await keyholder.release(case.reader.party, request)
                seconds[name].append(process_time() - began_s)
            seconds["opens"].append(await _opening(case, audits))
    finally:
        for one in audits:
            one.close()
    count = len(case.sealed.lines)
    rates = {name: round(count / median(took), 1) for name, took in seconds.items()}
    return {
        "shares_per_s": rates["shares"],
        "first_shares_per_s": rates["first"],
        "known_shares_per_s": rates["known"],
        "opens_per_s": rates["opens"],
        "first_ratio": round(rates["first"] / rates["shares"], 3),
        "known_ratio": round(rates["known"] / rates["shares"], 3),
    }


def _arithmetic(case: Case) -> float:
    """Processor seconds for a share of every record, with its proof, where everything had been checked already."""
    network = case.network
    key, member = network.key, network.members[0]
    seat, secret = key.holder(member.party), network.stores[0].share(key.epoch)
    if seat is None or secret is None:
        raise BenchFailed("the first organisation has no share")
    points = [
        (line.record, combined_point(capsule, case.blinding(line).blinding)) for line, _, capsule in case.capsules()
    ]
    began_s = process_time()
    for record, combined in points:
        make_share(
            secret,
            holder_key=seat.key,
            chain_id=network.chain_id,
            ticket=case.ticket,
            record=record,
            version=1,
            combined=combined,
            entropy=os.urandom(ENTROPY_SIZE),
        )
    return process_time() - began_s


# --- the requester --------------------------------------------------------------------------------------


class _Together:
    """As many keyholders as it takes; all answers come at one moment, and what that cost is noted."""

    def __init__(self, count: int) -> None:
        self.seconds = 0.0
        self._count = count
        self._asked: list[Callable[[], Any]] = []
        self._done = asyncio.Event()

    async def answered(self, release: Callable[[], Any]) -> SharesAnswer:
        """What ``release()`` gives, once all keyholders have been asked and all have answered."""
        number = len(self._asked)
        self._asked.append(release)
        if len(self._asked) == self._count:
            began_s = process_time()
            self._answers = [await one() for one in self._asked]
            self.seconds += process_time() - began_s
            self._done.set()
        await self._done.wait()
        answer: SharesAnswer = self._answers[number]
        return answer


class _Direct:
    """A keyholder without a socket between."""

    def __init__(self, keyholder: Keyholder, requester: bytes, together: _Together) -> None:
        self.party = keyholder.organisation
        self._keyholder = keyholder
        self._requester = requester
        self._together = together

    async def shares(self, request: SharesRequest) -> SharesAnswer:
        return await self._together.answered(lambda: self._keyholder.release(self._requester, request))


class _Objects:
    """The sealed objects in memory."""

    def __init__(self, objects: dict[bytes, bytes]) -> None:
        self._objects = objects

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        yield self._objects[address][start:end]


async def _opening(case: Case, audits: Sequence[Audit]) -> float:
    """Processor seconds of the requester's own work for all records, from the blindings to the verified content."""
    network = case.network
    together = _Together(THRESHOLD)
    holders = [
        _Direct(case.keyholder(number, audit), case.reader.party, together) for number, audit in enumerate(audits)
    ]
    gatherer = Gatherer(
        chain_id=network.chain_id,
        party=case.reader.party,
        hpke=case.reader.hpke_key(),
        key=network.key,
        members=network.parties(),
        holders=holders,
        entropy=os.urandom,
    )
    reader = SealedReader(chain_id=network.chain_id, gatherer=gatherer, objects=_Objects(case.sealed.objects))
    began_s = process_time()
    opened = await reader.read(case.ticket, case.patient.id, case.sealed.lines)
    took_s = process_time() - began_s
    if len(opened) != len(case.sealed.lines) or gatherer.failed:
        raise BenchFailed("a record was not opened")
    return took_s - together.seconds
