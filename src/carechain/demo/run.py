"""Run the demonstration: tell the story step by step, stop at the first step that fails, sum up."""

import asyncio
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog
from msgspec import Struct

from carechain.core.rejection import Rejected
from carechain.demo import (
    attacks,
    erasing,
    proving,
    reading,
    recovering,
    releasing,
    sealing,
    worked_case,
    writing,
)
from carechain.demo.network import CHAIN_ID, Network
from carechain.demo.patients import Intake, NoPatients, folder_intake, synthetic_intake
from carechain.demo.step import Notes, Step, Summary
from carechain.demo.story import Story
from carechain.gatekeeper.fetch import GatekeeperUnreachable
from carechain.sdk.failures import Refused, Unreachable
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.proofs import NotProven
from carechain.vault.base import VaultUnavailable

__all__ = ["NoPatients", "Progress", "Summary", "run_demo"]

Telling = Callable[[Story, Notes], Awaitable[None]]
STEPS: Final[tuple[tuple[str, Telling], ...]] = (
    ("network", writing.found),
    ("register", writing.register),
    ("consent", writing.consent),
    ("write", writing.write),
    ("share", writing.share),
    ("read", reading.read),
    ("ceiling", reading.ceiling),
    ("refuse", reading.refuse),
    ("delegate", reading.delegate),
    ("strangers", attacks.strangers),
    ("tamper", attacks.tamper),
    ("steve-apple", worked_case.steve),
    ("guardians", recovering.guardians),
    ("keyholders", sealing.keyholders),
    ("seal", sealing.seal),
    ("release", releasing.release),
    ("grades", releasing.grades),
    ("search", releasing.search),
    ("revoke", releasing.revoke),
    ("recover", recovering.recover),
    ("erase", erasing.erase),
    ("log", proving.log),
    ("verify", proving.verify),
)
"""The story in its order."""
_PATIENT_STEPS: Final = 3
PATIENTS: Final = 20
MAX_PATIENTS: Final = 10_000
LOG_FILE: Final = "demo.log"


class Progress(Struct, frozen=True):
    """How far the run is: ``done`` of ``total`` units, and what is being done."""

    done: int
    total: int
    doing: str


Report = Callable[[Progress], None]
Addresses = dict[str, str]
"""Who answers where: ``node`` and each organisation's handle, with its URL."""


class Watcher(Struct, frozen=True, kw_only=True):
    """Who is told what while the story runs; each call is quick and raises nothing."""

    progress: Report
    step: Callable[[Step], None]
    serving: Callable[[Summary, Addresses], None]


def run_demo(
    *,
    patients: int = PATIENTS,
    bundles: Path | None = None,
    seed: int = 1,
    progress: Report | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_serving: Callable[[Summary, Addresses], None] | None = None,
    home: Path | None = None,
    consortium: bool = False,
) -> Summary:
    """Tell the whole story and return what held; blocks until it is over.

    ``bundles`` is a folder with anyone's FHIR R4 bundles instead of synthetic patients. ``home`` keeps the six
    organisations' folders (it must be empty or new); without it they are thrown away at the end. With ``on_serving``
    node and gatekeepers go on answering after the story until SIGINT or SIGTERM, and it is told where. With
    ``consortium`` four nodes agree on every block; raises ``EngineMissing`` where there is no engine for that.

    A failing step ends the story: the summary is then not ``ok`` and the step's ``failure`` or claims say why. Raises
    :class:`NoPatients`, ``ValueError`` for an impossible number of patients, and ``OSError`` (``FileExistsError`` for a
    home that is in use).
    """
    if not 1 <= patients <= MAX_PATIENTS:
        raise ValueError(f"choose 1 to {MAX_PATIENTS} patients")
    with ExitStack() as stack:
        place = home or Path(stack.enter_context(TemporaryDirectory(prefix="carechain-demo-")))
        if bundles is None:
            intake = synthetic_intake(patients, seed=seed, chain_id=CHAIN_ID)
        else:
            intake = folder_intake(bundles, seed=seed, chain_id=CHAIN_ID)
        stack.enter_context(_log_to(place / LOG_FILE))
        watcher = Watcher(progress=progress or _ignore, step=on_step or _ignore, serving=on_serving or _ignore)
        return asyncio.run(_run(place, seed, intake, watcher, serve=on_serving is not None, consortium=consortium))


async def _run(home: Path, seed: int, intake: Intake, watcher: Watcher, *, serve: bool, consortium: bool) -> Summary:
    total = 1 + len(STEPS) + _PATIENT_STEPS * len(intake.patients)
    done = 0

    def advance(doing: str) -> None:
        nonlocal done
        done += 1
        watcher.progress(Progress(min(done, total), total, doing))

    began_s = time.perf_counter()
    advance("founding")
    network = await Network.found(home, seed=seed, consortium=consortium)
    story = Story(network=network, intake=intake, advance=advance)
    try:
        steps: list[Step] = []
        for name, tell in STEPS:
            step = await _told(story, name, tell)
            steps.append(step)
            watcher.step(step)
            advance(name)
            if not step.ok:
                break
        summary = _summary(story, steps, time.perf_counter() - began_s)
        if serve and summary.ok:
            await _serve(network, lambda addresses: watcher.serving(summary, addresses))
    finally:
        await story.close()
        await network.close()
    return summary


async def _told(story: Story, name: str, tell: Telling) -> Step:
    """One step. A refusal nobody expected, or an answer that is not proven, is the step's failure and not a crash."""
    notes = Notes()
    failure = ""
    began_s = time.perf_counter()
    try:
        await tell(story, notes)
    except Rejected as refused:
        failure = f"{refused.code.label} ({int(refused.code)}): {refused.code.reason}"
    except (Refused, NotProven, GatekeeperUnreachable, NotEnoughShares, Unreachable, VaultUnavailable) as error:
        failure = f"{type(error).__name__}: {error}"
    return Step(
        name=name,
        text=notes.text,
        height=story.network.height,
        seconds=time.perf_counter() - began_s,
        claims=tuple(notes.claims),
        figures=notes.figures,
        lines=tuple(notes.lines),
        failure=failure,
    )


def _summary(story: Story, steps: list[Step], seconds: float) -> Summary:
    network = story.network
    shape: dict[str, Any] = {
        "chain_id": network.chain_id,
        "engine": network.engine,
        "nodes": len(network.keepers),
        "organisations": [
            {"name": one.plan.name, "kind": one.plan.kind.name.lower(), "party": one.id.hex()}
            for one in network.members.values()
        ],
    }
    return Summary(
        network=shape,
        patients=len(story.intake.patients),
        resources=story.resources,
        records=sum(len(one.records) for one in story.intake.patients),
        height=network.height,
        app_hash=network.app_hash.hex(),
        steps=tuple(steps),
        seconds=seconds,
        memory_mb=_memory_mb(),
    )


def _memory_mb() -> int:
    """The most memory this process and its helper ever held, in megabytes; Linux counts in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in both) * unit // 1_000_000


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Keep the program's log in the demonstration's home, and off the terminal where the story is told."""
    before = structlog.get_config()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
            logger_factory=structlog.WriteLoggerFactory(file=file),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)


async def _serve(network: Network, tell: Callable[[Addresses], None]) -> None:
    """Answer clients and requesters, report, erase and hold ceremonies, until somebody ends it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await network.start()
        parts = [part for one in network.members.values() for part in one.parts()]
        running = [asyncio.create_task(part(stop)) for part in parts]
        tell(network.addresses())
        await stop.wait()
        await asyncio.gather(*running)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _ignore(*_: object) -> None:
    """Nobody watches."""
