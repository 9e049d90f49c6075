"""The story's trouble: strangers, replays, and a hospital's own database altered behind the ledger's back."""

import asyncio
import sqlite3
from pathlib import Path

from carechain.chain.tx import AdmissionCode
from carechain.contracts.access import RequestAccess
from carechain.core.crypto import SigningKey, Suite
from carechain.core.ids import party_id
from carechain.core.rejection import Rejected
from carechain.core.units import DAY_S
from carechain.core.vocabulary import Action, Purpose, mask
from carechain.demo.drawn import Drawn
from carechain.demo.network import wall_s
from carechain.demo.organisation import Person
from carechain.demo.step import Notes
from carechain.demo.story import SHARED, Story, grant_from, refusal_of
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.sdk.authentication import AuthCode
from carechain.sdk.opening import AnchoredRecord
from carechain.sealing.hpke import HpkePrivateKey

_SIGNATURE_AT = -20


async def strangers(story: Story, notes: Notes) -> None:
    """An unknown key, a forged signature and a transaction sent twice are refused at once."""
    network = story.network
    stranger = _stranger(story)
    ask = RequestAccess(pseudonym=story.hero.pseudonym.id, scope=SHARED, purpose=Purpose.TREAT)
    height = network.height
    unknown = await refusal_of(network.submit(network.sign(stranger, ask)))
    genuine = network.sign(story.first, ask)
    forged = await refusal_of(network.submit(_altered(genuine)))
    await network.submit(genuine)
    replayed = await refusal_of(network.submit(genuine))
    at_the_door = await refusal_of(story.read(stranger, bytes(32), ()))
    notes.text = (
        "A key nobody enrolled signs a request, somebody forges a signature, and somebody sends a doctor's old request "
        f"again. All are refused before they are ordered; only the genuine one is on the ledger, after height {height}."
    )
    notes.claim("An unknown signer is refused.", holds=unknown is AdmissionCode.UNKNOWN_SIGNER)
    notes.claim("A forged signature is refused.", holds=forged is AdmissionCode.BAD_SIGNATURE)
    notes.claim("A replay is refused.", holds=replayed is AdmissionCode.REPLAYED)
    notes.claim("The gatekeeper does not even open a session.", holds=at_the_door is AuthCode.SIGNATURE_INVALID)
    notes.figures = {"codes": [int(code) for code in (unknown, forged, replayed, at_the_door) if code is not None]}


async def tamper(story: Story, notes: Notes) -> None:
    """One byte changes in hospital A's database file; the next read finds it and names the record."""
    hero, doctor = story.hero, story.first
    grant = grant_from(
        hero.pseudonym,
        doctor.id,
        story.second.id,
        actions=Action.READ,
        scope=SHARED,
        purposes=mask(Purpose.TREAT),
        expires_s=wall_s() + DAY_S,
    )
    await story.grant(hero.pseudonym, grant)
    ticket = (await story.request(doctor, hero.pseudonym)).ticket
    expected = story.expected(doctor, hero.pseudonym, ticket)
    victim, others = expected[0], expected[1:]
    before = await story.read(doctor, ticket, [victim], everything=False)
    database = story.a.home / "charts.sqlite"
    original = await asyncio.to_thread(alter_one_byte, database, victim.record_id)
    caught = await _withheld(story, doctor, ticket, [victim])
    all_caught = await _withheld(story, doctor, ticket, None)
    untouched = await story.read(doctor, ticket, others, everything=False)
    incidents = [one for one in story.audited() if one.read.code == GatekeeperCode.RECORD_ALTERED]
    await asyncio.to_thread(restore, database, original)
    mended = await story.read(doctor, ticket, [victim], everything=False)
    notes.text = (
        f"The patient opens the case to both doctors for a day. Then somebody changes one byte in "
        f"{story.a.plan.name}'s database. At the next read record {victim.record_id.hex()[:8]}… misses its root: "
        "it is withheld and an incident noted. With the byte restored from a backup it is served again."
    )
    notes.claim("The record was readable before.", holds=len(before) == 1)
    notes.claim(
        "The alteration is found at the next read, and the record named.",
        holds=caught == (GatekeeperCode.RECORD_ALTERED, victim.record_id) == all_caught,
    )
    notes.claim("The patient's other records are still served.", holds=len(untouched) == len(others))
    notes.claim("The incident stands in hospital A's audit.", holds=bool(incidents))
    notes.claim("The restored record is byte for byte the old one.", holds=mended == before)
    notes.figures = {"record": victim.record_id.hex(), "incidents": len(incidents)}


def alter_one_byte(database: Path, record_id: bytes) -> tuple[int, bytes]:
    """Flip one bit in the first resource of a record, with plain SQL; returns the row and its former bytes."""
    connection = sqlite3.connect(database)
    try:
        with connection:
            number, body = connection.execute(
                "SELECT resources.seq, resources.body FROM resources"
                " JOIN record_resources ON record_resources.resource_seq = resources.seq"
                " JOIN records ON records.seq = record_resources.record_seq"
                " WHERE records.record_id = ? ORDER BY record_resources.position LIMIT 1",
                (record_id,),
            ).fetchone()
            middle = len(body) // 2
            altered = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            connection.execute("UPDATE resources SET body = ? WHERE seq = ?", (altered, number))
    finally:
        connection.close()
    return number, body


def restore(database: Path, original: tuple[int, bytes]) -> None:
    """Put a row's bytes back."""
    connection = sqlite3.connect(database)
    try:
        with connection:
            connection.execute("UPDATE resources SET body = ? WHERE seq = ?", (original[1], original[0]))
    finally:
        connection.close()


async def _withheld(
    story: Story, who: Person, ticket: bytes, expected: list[AnchoredRecord] | None
) -> tuple[GatekeeperCode | None, bytes | None]:
    """What a read is refused with, and which record the refusal names."""
    try:
        await story.read(who, ticket, expected or (), everything=expected is None)
    except Withheld as refused:
        return (refused.code if isinstance(refused.code, GatekeeperCode) else None), refused.record_id
    except Rejected:
        return None, None
    return None, None


def _stranger(story: Story) -> Person:
    entropy = Drawn(0, "stranger")
    signing = SigningKey(suite=Suite.ED25519, seed=entropy(32))
    return Person(
        id=party_id(Suite.ED25519, signing.public_key),
        organisation=story.b.id,
        name="",
        signing=signing,
        hpke=HpkePrivateKey(entropy(32)),
    )


def _altered(raw: bytes) -> bytes:
    """The transaction with one bit of its signature flipped."""
    changed = bytearray(raw)
    changed[_SIGNATURE_AT] ^= 1
    return bytes(changed)
