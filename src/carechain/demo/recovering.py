"""The story's lost phone: guardians whom the patient had named give the pseudonym a new key, in the open (ID-7)."""

from typing import Final

from carechain.chain.questions import OfPseudonym
from carechain.chain.tx import AdmissionCode
from carechain.charts.dates import day_of_unix
from carechain.contracts.consent.schema import Revoke
from carechain.contracts.recovery import (
    Approve,
    Finish,
    RecoveryCode,
    SetPolicy,
    Start,
    Terms,
    due_s,
    recovery_message,
)
from carechain.core.ids import party_id
from carechain.core.vocabulary import Purpose
from carechain.demo.drawn import Drawn
from carechain.demo.network import HARBOUR, MEADOW, RECOVERY, wall_s
from carechain.demo.organisation import Person
from carechain.demo.sealing import ALL_RESULTS
from carechain.demo.step import Notes
from carechain.demo.story import Story, refusal_of
from carechain.sdk.authentication import AuthCode
from carechain.sdk.wallet import Pseudonym, Wallet, new_wallet

GUARDIANS: Final = 2


async def guardians(story: Story, notes: Notes) -> None:
    """While all is well, the patient names who may say one day that a new key is the patient's."""
    hero, chosen = story.hero.pseudonym, _guardians(story)
    terms = Terms(
        wait_s=RECOVERY.min_wait_s,
        guardians=tuple(sorted(one.id for one in chosen)),
        threshold=GUARDIANS,
        by_registrar=False,
    )
    set_s = story.network.view().time_s
    await story.network.send(hero, SetPolicy(pseudonym=hero.id, terms=terms))
    row = story.network.ask(hero, "recovery.policy", OfPseudonym(hero.id)).rows[0]
    one, other = chosen
    notes.text = (
        f"The patient names two guardians: {one.name} and {other.name}. Should the phone be lost one day, both of them "
        f"together can give the pseudonym a new key after {terms.wait_s} s of block time (here; days in life)."
    )
    notes.claim("The policy stands on the ledger.", holds=row.coming == terms)
    notes.claim(
        "It counts after a waiting time, so that a thief of the key could not put it in place unnoticed.",
        holds=row.terms != terms and row.coming_s >= set_s + RECOVERY.default_wait_s,
    )
    notes.figures = {"guardians": len(chosen), "needed": terms.threshold, "wait_s": terms.wait_s}


async def recover(story: Story, notes: Notes) -> None:
    """The phone is gone; after guardians, notice and waiting time the old record opens with the new key."""
    hero, network = story.hero, story.network
    lost = hero.pseudonym
    before = (await story.request(lost, lost, ALL_RESULTS, Purpose.PATRQT)).ticket
    grants_before = _grants(story)
    wallet, new = _on_a_new_phone(story)
    await network.passed(network.ask(lost, "recovery.policy", OfPseudonym(lost.id)).rows[0].coming_s)
    first, second = _guardians(story)
    await network.send(first, _start(story, new))
    alone = await refusal_of(network.send(first, Finish(pseudonym=lost.id, attempt=0)))
    agrees = Approve(pseudonym=lost.id, attempt=0, key=party_id(new.signing.suite, new.signing.public_key))
    await network.send(second, agrees)
    notice = network.ask(lost, "recovery.pending", OfPseudonym(lost.id)).rows
    due = due_s(notice[0].attempt) if notice else 0
    early = await refusal_of(network.send(first, Finish(pseudonym=lost.id, attempt=0)))
    if early is not None:
        await network.passed(due)
        await network.send(first, Finish(pseudonym=lost.id, attempt=0))
    finished_s, height = network.view().time_s, network.height
    hero.wallet, hero.at_home = wallet, new
    by_old_key = await refusal_of(network.submit(network.sign(lost, Revoke(pseudonym=lost.id, grant_id=bytes(32)))))
    by_finder = story.doors.reader(lost, objects=story.doors.vault(new, HARBOUR))
    at_the_doors = await story.turned_down(by_finder, before, story.sealed["glucose"])
    own = (await story.request(new, new, ALL_RESULTS, Purpose.PATRQT)).ticket
    names = [one.name for one in story.findings]
    opened = await story.doors.reader(new).read(own, new.id, [story.line(story.sealed[one]) for one in names])
    notes.text = (
        f"The phone is lost, and with it the key. {first.name} starts a recovery, {second.name} agrees, a notice "
        f"stands in the patient's inbox, and when the waiting time is over, at height {height}, the pseudonym has a "
        "new key."
    )
    notes.claim("One guardian alone is not enough.", holds=alone is RecoveryCode.NOT_ENOUGH_APPROVALS)
    notes.claim(
        "The patient is told while it runs, and could object.",
        holds=[one.attempt.public_key for one in notice] == [new.signing.public_key],
    )
    # On a slow machine the second may be over before the first try, which is then in time.
    notes.claim(
        "It cannot be finished before the waiting time is over.",
        holds=early in (RecoveryCode.STILL_WAITING, None) and 0 < due <= finished_s,
    )
    notes.claim(
        "The pseudonym and everything granted stay as they were.",
        holds=new.id == lost.id and _grants(story) == grants_before,
    )
    notes.claim(
        "Every sealed record from before opens with the new key.",
        holds=bool(opened) and [one.resources[0] for one in opened] == [one.content for one in story.findings],
    )
    notes.claim("The ledger takes nothing from the old key.", holds=by_old_key is AdmissionCode.BAD_SIGNATURE)
    notes.claim(
        "Nor do the keyholders, under a ticket from before either.",
        holds=at_the_doors == story.every_keyholder(AuthCode.SIGNATURE_INVALID),
    )
    notes.figures = {"wait_s": RECOVERY.min_wait_s, "recovered_at": height}


def _guardians(story: Story) -> tuple[Person, Person]:
    """Two people of different houses whom the patient trusts."""
    return story.second, story.network[MEADOW].staff["auditor"]


def _on_a_new_phone(story: Story) -> tuple[Wallet, Pseudonym]:
    """Another wallet with a seed of its own, which takes the pseudonym over."""
    lost = story.hero.pseudonym
    empty = new_wallet(chain_id=story.network.chain_id, entropy=Drawn(0, "a new phone"))
    wallet, relation = empty.with_adopted(story.a.id, lost.id, label=story.a.plan.name, since_day=day_of_unix(wall_s()))
    return wallet, wallet.keys_of(relation)


def _start(story: Story, new: Pseudonym) -> Start:
    """The first attempt to give the pseudonym the new keys; the new signing key proves that it is there."""
    suite, public_key, hpke_key = new.signing.suite, new.signing.public_key, new.hpke.public_key
    said = recovery_message(
        chain_id=story.network.chain_id,
        pseudonym=new.id,
        attempt=0,
        suite=suite,
        public_key=public_key,
        hpke_key=hpke_key,
    )
    return Start(
        pseudonym=new.id,
        attempt=0,
        suite=suite,
        public_key=public_key,
        hpke_key=hpke_key,
        proof=new.signing.sign(said),
    )


def _grants(story: Story) -> list[bytes]:
    """The patient's grants on the ledger."""
    grants = story.network.view().contracts.consent.tables.grants
    return [grant for (_, grant), _ in grants.scan(story.hero.pseudonym.id)]
