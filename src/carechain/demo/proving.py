"""The story's end: the patient's access log is proven complete, and the whole chain is verified."""

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from carechain.chain.questions import LogLine, OfPseudonym
from carechain.chain.receipts import code_named
from carechain.contracts.access import EntryKind
from carechain.demo.network import MINISTRY
from carechain.demo.step import Notes
from carechain.demo.story import Story
from carechain.engine.verify import Verdict, verify_chain
from carechain.sdk.answers import QueryAnswer
from carechain.sdk.client import Client
from carechain.sdk.proofs import Network, NotProven
from carechain.sdk.verify_log import verify_log

LEDGER: Final = "ledger"
BLOCKS: Final = "blocks.log"


async def log(story: Story, notes: Notes) -> None:
    """What was served is reported; the patient reads the log from a node and checks it against a signed header."""
    hero = story.hero.pseudonym
    reporter = story.a.reporter
    reported = 0 if reporter is None else await reporter.report()
    async with Client(story.network.url, hero, genesis=story.network.genesis) as client:
        shown = await client.access_log(hero.id)
        head = await client.query("access.log_head", OfPseudonym(hero.id), prove=True)
    lines = list(shown.lines)
    released = [one.line for one in lines if one.line.kind is EntryKind.RELEASE]
    tickets = {one.line.ticket for one in lines}
    audited = sum(len(one.read.records) for one in story.audited() if one.read.ticket in tickets and not one.read.code)
    network = Network.of(story.network.genesis)
    notes.text = (
        f"The patient's log has {len(lines)} lines. Their running hash stands in the state under block {shown.height}, "
        "signed by the block producer: not a line is missing, altered or added."
    )
    notes.claim("The log is proven complete.", holds=shown.pseudonym == hero.id and bool(lines))
    notes.claim("A log without its last line is not.", holds=_disproven(hero.id, lines[:-1], head, network))
    notes.claim(
        "Nor one with a line in the middle left out.", holds=_disproven(hero.id, lines[:1] + lines[2:], head, network)
    )
    notes.claim(
        "Every record that was released is counted in it.",
        holds=bool(released) and sum(line.records for line in released) == audited,
    )
    notes.claim(
        "Refused requests stand in it too.",
        holds=any(one.line.kind is EntryKind.REQUEST and one.line.decision for one in lines),
    )
    notes.figures = {"lines": len(lines), "reports": reported, "proven_at": shown.height}
    notes.lines = [_told(story, one) for one in lines]


async def verify(story: Story, notes: Notes) -> None:
    """Re-hash and re-execute the whole chain from its genesis, then show that one flipped bit would be found."""
    network = story.network
    height, app_hash = network.height, network.app_hash
    await network.stop_ledger()
    home = network[MINISTRY].home
    verdict = await asyncio.to_thread(verify_chain, home, network.genesis)
    spoilt = await asyncio.to_thread(_verdict_on_a_spoilt_copy, story, home)
    bad = spoilt.first_bad
    notes.text = (
        f"All {verdict.height} blocks are hashed, checked and executed again from the genesis, signatures included. "
        "They give the state the node has."
    )
    notes.claim("The chain is good.", holds=verdict.ok and verdict.height == height)
    notes.claim("It leads to the same state.", holds=verdict.app_hash == app_hash)
    notes.claim(
        "With one bit flipped in a copy, the first wrong block is named.",
        holds=not spoilt.ok and bad is not None and 0 < bad.height <= height,
    )
    notes.figures = {
        "blocks": verdict.height,
        "app_hash": verdict.app_hash.hex(),
        "spoilt_copy": None if bad is None else {"kind": str(bad.kind), "height": bad.height},
    }


def _disproven(pseudonym: bytes, lines: list[LogLine], head: QueryAnswer, network: Network) -> bool:
    try:
        verify_log(pseudonym, lines, head, network)
    except NotProven:
        return True
    return False


def _verdict_on_a_spoilt_copy(story: Story, home: Path) -> Verdict:
    with TemporaryDirectory(prefix="carechain-spoilt-") as scratch:
        copy = Path(scratch)
        shutil.copytree(home / LEDGER, copy / LEDGER)
        blocks = copy / LEDGER / BLOCKS
        data = bytearray(blocks.read_bytes())
        data[len(data) // 2] ^= 1
        blocks.write_bytes(data)
        return verify_chain(copy, story.network.genesis)


def _told(story: Story, one: LogLine) -> str:
    """A line of the log in plain language. Names come from the patient's own address book, not from the ledger."""
    line = one.line
    when = datetime.fromtimestamp(line.at_s, UTC).strftime("%H:%M:%S")
    person, house = story.name_of(line.actor), story.name_of(line.organisation)
    who = house if line.actor == line.organisation else f"{person} ({house})"
    code = code_named(line.decision)
    if line.kind is EntryKind.RELEASE:
        what = f"gave out {line.records} records"
    elif line.kind is EntryKind.REVOCATION:
        what = "ended a ticket"
    elif line.decision:
        what = f"asked for {line.purpose.name}: refused. {code.reason if code else line.decision}"
    else:
        what = f"asked for {line.purpose.name}: allowed"
    return f"{one.number + 1:3}  {when}  {who} {what}"
