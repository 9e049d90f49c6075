"""The story's sealed part begins: five organisations make a key that none of them has, and a laboratory seals."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Final

from msgspec import Struct

from carechain.charts.dates import day_of_unix
from carechain.contracts.consent.schema import Answer, SetRule, Who
from carechain.contracts.governance import Propose, Proposed, Standing, Vote
from carechain.contracts.keyring import KeyRow, ceremony_view
from carechain.contracts.records import Anchor
from carechain.core import group
from carechain.core.decision import DecisionCode
from carechain.core.keyholders import SetKeyholders
from carechain.core.quorum import lagrange
from carechain.core.scope import EVERYTHING, Scope
from carechain.core.units import DAY_S
from carechain.core.vocabulary import ALL_PURPOSES, Action, Purpose, Sensitivity, mask
from carechain.demo import laboratory
from carechain.demo.doors import KEYHOLDERS, THRESHOLD
from carechain.demo.laboratory import Finding, findings
from carechain.demo.network import COPIES, HARBOUR, MINISTRY, wall_s
from carechain.demo.organisation import Organisation, Person
from carechain.demo.step import Notes
from carechain.demo.story import Story, grant_from
from carechain.gatekeeper.objects_door import PutTokens
from carechain.sdk.sealed import About, Consortium, seal_record
from carechain.sdk.shares import KeyholderCode
from carechain.sealing.blind_index import BlindIndex, index_key, index_record_id

ROUND_S: Final = 60
RESULTS: Final = Scope(categories=mask(laboratory.CATEGORY), ceiling=Sensitivity.N)
ALL_RESULTS: Final = Scope(categories=mask(laboratory.CATEGORY), ceiling=Sensitivity.R)
INDEX: Final = "index of grade "
_SALT_SIZE: Final = 32


# --- the key --------------------------------------------------------------------------------------------


async def keyholders(story: Story, notes: Notes) -> None:
    """The members vote for five keyholders, who make a key together: t of five open something, and fewer nothing."""
    holders = [story.network[one] for one in KEYHOLDERS]
    await _hold_ceremony(story, holders)
    key = story.doors.key
    scalars = {}
    for one in holders:
        seat, share = key.holder(one.id), one.keeping.shares.share(key.epoch)
        if seat is not None and share is not None:
            scalars[seat.index] = share.scalar
    keys = {one.index: one.key for one in key.holders}
    dealt = _parts_of(story)
    notes.text = (
        f"The members vote {len(holders)} of the {len(story.network.members)} organisations keyholders. In five rounds "
        "on the ledger each deals shares of a secret of its own, and checks what the others dealt. "
        f"{key.threshold} of the {len(key.holders)} shares will open a sealed record."
    )
    notes.claim(
        "The public key is on the ledger, with five holders of whom three suffice.",
        holds={one.party for one in key.holders} == {one.id for one in holders} and key.threshold == THRESHOLD,
    )
    notes.claim(
        "Every holder's share leads to the public key that the ledger has for it.",
        holds=len(scalars) == len(keys) and all(group.base_mul(own) == keys[at] for at, own in scalars.items()),
    )
    notes.claim("Any three shares make the key.", holds=_all_make(scalars, key, THRESHOLD))
    notes.claim(
        "No two do.", holds=not any(_makes(scalars, key, some) for some in combinations(scalars, THRESHOLD - 1))
    )
    notes.claim(
        "Nobody ever held the whole key: it is the sum of five parts, and each knows its own part alone.",
        holds=len(dealt) == len(holders) and _sum(dealt) == key.public_key and key.public_key not in dealt,
    )
    notes.figures = {"epoch": key.epoch, "holders": len(key.holders), "threshold": key.threshold}


async def _hold_ceremony(story: Story, holders: list[Organisation]) -> None:
    """The vote, and each holder's own node's part in what follows from it."""
    network = story.network
    named = tuple(sorted(one.id for one in holders))
    change = SetKeyholders(holders=named, threshold=THRESHOLD, round_s=ROUND_S)
    outcome = await network.send(network[MINISTRY].member, Propose(change=change))
    proposal = next(one.proposal for one in outcome.events if isinstance(one, Proposed))
    stop = asyncio.Event()
    running = [asyncio.create_task(one.keeping.ceremonies.run(stop)) for one in holders]
    try:
        for one in network.members.values():
            row = network.view().contracts.governance.proposals.get(proposal)
            if one.id != network[MINISTRY].id and row is not None and row.standing is Standing.OPEN:
                await network.send(one.member, Vote(proposal=proposal, aye=True))
        while not network.view().contracts.keyring.epoch():
            await network.next_block()
    finally:
        stop.set()
        await asyncio.gather(*running)


def _parts_of(story: Story) -> list[bytes]:
    """What each participant brought to the key, as public points."""
    tables = story.network.view().contracts.keyring
    views = [ceremony_view(tables, ceremony) for (ceremony,), _ in tables.ceremonies.scan()]
    return [one.commitments[0] for view in views if view is not None for one in view.extractions.values()]


def _sum(points: list[bytes]) -> bytes:
    total = group.IDENTITY
    for one in points:
        total = group.add(total, one)
    return total


def _makes(scalars: dict[int, bytes], key: KeyRow, some: tuple[int, ...]) -> bool:
    """Whether these holders' shares, put together as ``some`` would be, are the key's secret."""
    total = group.ZERO
    for index in some:
        total = group.scalar_add(total, group.scalar_mul(lagrange(some, index), scalars[index]))
    return group.base_mul(total) == key.public_key


def _all_make(scalars: dict[int, bytes], key: KeyRow, count: int) -> bool:
    return len(scalars) >= count and all(_makes(scalars, key, some) for some in combinations(scalars, count))


# --- the laboratory -------------------------------------------------------------------------------------


class _Written(Struct, frozen=True):
    """A record as it leaves the laboratory: what goes on the ledger, and what goes into the vault."""

    anchor: Anchor
    object: bytes


async def seal(story: Story, notes: Notes) -> None:
    """A technician seals three results and what they are found by; then nobody at the laboratory can open them."""
    hero, lab, keeper = story.hero, story.a.staff["lab"], story.network[COPIES[HARBOUR]]
    await _let_write_only(story, lab)
    found = story.findings = findings(datetime.fromtimestamp(wall_s(), UTC).date().isoformat())
    written = await _write(story, lab, found)
    addresses = [one.anchor.sealed.object for one in written if one.anchor.sealed is not None]
    copies = [await _stored(story.a, addresses), await _stored(keeper, addresses)]
    rows = [story.line(one.anchor.record).anchor for one in written]
    decided = await story.request(lab, hero.pseudonym, RESULTS)
    refused = await story.turned_down(story.doors.reader(lab), decided.ticket, story.sealed["glucose"])
    notes.text = (
        f"The patient lets {lab.name} add results, and read none. The program seals {len(found)} of them, one "
        f"restricted, to the consortium's key, puts the ciphertext into {story.a.plan.name}'s vault, which has a copy "
        f"kept at the {keeper.plan.name}, and drops the keys."
    )
    notes.claim(
        "The ledger has the hash of every object and of the capsule with its key.",
        holds=bool(rows) and [row.sealed for row in rows] == [one.anchor.sealed for one in written],
    )
    notes.claim(
        "The ciphertext lies in both vaults, byte for byte.", holds=copies == [[one.object for one in written]] * 2
    )
    notes.claim(
        "No result stands in any file of any vault.",
        holds=not await asyncio.to_thread(vault_files_with, story, [one.content for one in found]),
    )
    notes.claim(
        "The technician's request to read is refused.", holds=decided.decision == DecisionCode.DENIED_BY_PATIENT
    )
    notes.claim(
        "No keyholder gives the technician a share: what was written cannot be read back.",
        holds=refused == story.every_keyholder(KeyholderCode.TICKET_REFUSED),
    )
    notes.figures = {"records": len(written), "object_bytes": sum(len(one.object) for one in written), "copies": 2}


async def _let_write_only(story: Story, lab: Person) -> None:
    """To submit is all that is granted; what the whole hospital may read, the technician is denied."""
    hero, until_s = story.hero.pseudonym, wall_s() + DAY_S
    grant = grant_from(
        hero, lab.id, actions=Action.SUBMIT, scope=ALL_RESULTS, purposes=mask(Purpose.TREAT), expires_s=until_s
    )
    await story.grant(hero, grant)
    denial = SetRule(
        pseudonym=hero.id,
        rule=1,
        who=Who(party=lab.id),
        purposes=ALL_PURPOSES,
        scope=EVERYTHING,
        answer=Answer.DENY,
        expires_s=until_s,
    )
    await story.network.send(hero, denial)


async def _write(story: Story, lab: Person, found: tuple[Finding, ...]) -> list[_Written]:
    """Seal and store results and index keys, leave the search tokens, anchor."""
    hero, network = story.hero.pseudonym, story.network
    secret = story.a.entropy(_SALT_SIZE)
    contents: list[tuple[str, bytes, Sensitivity, bytes]] = []
    for grade in sorted({one.sensitivity for one in found}):
        key = index_key(
            secret,
            chain_id=network.chain_id,
            pseudonym=hero.id,
            category=laboratory.CATEGORY,
            sensitivity=grade,
        )
        contents.append((INDEX + grade.name, index_record_id(hero.id, laboratory.CATEGORY, grade), grade, key))
        for one in (one for one in found if one.sensitivity is grade):
            record = story.a.entropy(_SALT_SIZE)
            contents.append((one.name, record, grade, one.content))
            put = PutTokens(pseudonym=hero.id, record=record, tokens=BlindIndex(key).tokens(record, [one.words]))
            await story.doors.put_tokens(lab, HARBOUR, put)
    written = [_sealed(story, record, grade, content) for _, record, grade, content in contents]
    vault = story.doors.vault(lab, HARBOUR, pseudonym=hero.id)
    for each in written:
        if each.anchor.sealed is not None:
            await vault.put(each.anchor.sealed.object, each.object)
    await network.send_all([network.sign(lab, each.anchor) for each in written])
    story.sealed |= {name: record for name, record, _, _ in contents}
    return written


def _sealed(story: Story, record: bytes, grade: Sensitivity, content: bytes) -> _Written:
    """Seal one resource; the key of the object lives in this call alone."""
    about = About(
        pseudonym=story.hero.pseudonym.id,
        record=record,
        version=1,
        category=laboratory.CATEGORY,
        sensitivity=grade,
        day=day_of_unix(wall_s()),
    )
    entropy = story.a.entropy
    consortium = Consortium(chain_id=story.network.chain_id, public_key=story.doors.key.public_key)
    return _Written(*seal_record([(entropy(_SALT_SIZE), content)], about=about, consortium=consortium, entropy=entropy))


async def _stored(at: Organisation, addresses: list[bytes]) -> list[bytes]:
    """What lies on an organisation's own disk under these addresses."""
    own = at.keeping.vault.service.vault.stores[0]
    return [b"".join([chunk async for chunk in own.open(address)]) for address in addresses]


def vault_files_with(story: Story, words: Sequence[bytes]) -> list[Path]:
    """The files of all organisations' vaults in which any of these bytes stand."""
    files = (one for member in story.network.members.values() for one in (member.home / "vault").rglob("*"))
    return [one for one in files if one.is_file() and any(word in one.read_bytes() for word in words)]
