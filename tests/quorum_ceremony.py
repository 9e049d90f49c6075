"""Ceremonies of the quorum key without a ledger: every member, and what the ledger would compute, in one function call.

Members may lie. What happens then is computed by ``carechain.core.quorum`` alone, as the contract does it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256

from carechain.core.crypto import SigningKey, Suite
from carechain.core.group import ORDER, base_mul, scalar_from_int
from carechain.core.quorum import (
    Capsule,
    Complaint,
    Delivery,
    Label,
    ReleaseShare,
    ShareStatement,
    add_commitments,
    blinding_context,
    check_blinding,
    check_key_proof,
    combined_point,
    deal_complaint_holds,
    evaluate,
    extract_complaint_holds,
    join_context,
    rebuild_commitments,
    require_commitments,
    reshare_complaint_holds,
    weigh_commitments,
)
from carechain.sealing.quorum import dkg, resharing
from carechain.sealing.quorum.capsule import seal_key
from carechain.sealing.quorum.dealing import CeremonyKey, Deal, Pair, Received, Recipient
from carechain.sealing.quorum.release import Asked, BlindingSecret, combine, make_share

CHAIN = "quorum-test"
TICKET = sha256(b"ticket").digest()
RECORD = sha256(b"record").digest()
PSEUDONYM = sha256(b"pseudonym").digest()
SENDER = sha256(b"sender").digest()
LABEL = Label(chain_id=CHAIN, pseudonym=PSEUDONYM, record=RECORD, version=1, category=2, sensitivity=3, day=45_000)
RECORD_KEY = sha256(b"record key").digest()


def seeded(*parts: object) -> bytes:
    """32 bytes that follow from ``parts``."""
    return sha256(repr(parts).encode()).digest()


def signer(index: int) -> SigningKey:
    """The member key of holder ``index``."""
    return SigningKey(suite=Suite.ED25519, seed=seeded("member", index))


class Lie(Enum):
    """What a dealer may do wrong."""

    FALSE_PAIR = "sends the victim two scalars that do not fit"
    NO_SCALARS = "sends the victim bytes that are no scalars"
    FALSE_EXTRACTION = "shows the public part of another polynomial"
    SILENT = "shows no public part"


@dataclass(frozen=True)
class Secret:
    """One holder's share, as ``carechain.sealing.quorum.release.HolderShare`` asks for it."""

    epoch: int
    index: int
    scalar: bytes


@dataclass(frozen=True)
class Epoch:
    """A key and everybody's shares of it."""

    number: int
    public_key: bytes
    threshold: int
    keys: dict[int, bytes]
    secrets: dict[int, Secret]


@dataclass
class Run:
    """What a ceremony came to."""

    transcript: dict[str, object] = field(default_factory=dict)
    disqualified: list[int] = field(default_factory=list)
    exposed: list[int] = field(default_factory=list)
    epoch: Epoch | None = None

    @property
    def done(self) -> Epoch:
        """The epoch that the ceremony made."""
        if self.epoch is None:
            raise AssertionError("the ceremony failed")
        return self.epoch


def altered(data: bytes) -> bytes:
    """``data`` with its first bit changed."""
    return bytes([data[0] ^ 1]) + data[1:]


def lied(deal: Deal, lie: Lie | None, victim: int) -> Deal:
    """The deal as a liar sends it; ``victim`` is the place of who is cheated."""
    if lie not in {Lie.FALSE_PAIR, Lie.NO_SCALARS}:
        return deal
    pair = bytearray(deal.ciphertexts[victim])
    if lie is Lie.FALSE_PAIR:
        pair[0] ^= 1
    else:  # The highest byte of a scalar is at most 0x10.
        pair[31] ^= 0xE0
    return Deal(
        commitments=deal.commitments,
        ciphertexts=(*deal.ciphertexts[:victim], bytes(pair), *deal.ciphertexts[victim + 1 :]),
    )


def keys_of(seeds: Mapping[int, bytes], ceremony: bytes) -> dict[int, CeremonyKey]:
    """Everybody's one-ceremony keys, their proofs checked."""
    keys = {index: CeremonyKey(seed, ceremony=ceremony) for index, seed in seeds.items()}
    for index, key in keys.items():
        party = seeded("party", index)
        context = join_context(ceremony=ceremony, party=party)
        check_key_proof(context=context, key=key.public, proof=key.prove(party))
    return keys


def delivery(
    ceremony: bytes,
    *,
    deal: Deal,
    dealer: tuple[int, bytes],
    recipient: Recipient,
    place: int,
) -> Delivery:
    """One dealt pair as the ledger has it."""
    return Delivery(
        ceremony=ceremony,
        dealer=dealer[0],
        dealer_key=dealer[1],
        recipient=recipient.index,
        recipient_key=recipient.key,
        ciphertext=deal.ciphertexts[place],
    )


def generate(
    holders: int, threshold: int, *, lies: Mapping[int, Lie] | None = None, run: str = "dkg", victim: int = 1
) -> Run:
    """A distributed key generation; ``victim`` is the index that liars cheat."""
    lies = lies or {}
    ceremony, result = seeded("ceremony", run), Run()
    seeds = {index: seeded("seed", run, index) for index in range(1, holders + 1)}
    keys = keys_of(seeds, ceremony)
    recipients = [Recipient(index=index, key=key.public) for index, key in keys.items()]
    deals = {
        index: lied(
            dkg.make_deal(seed, ceremony=ceremony, threshold=threshold, dealer=index, recipients=recipients),
            lies.get(index),
            victim - 1,
        )
        for index, seed in seeds.items()
    }
    for deal in deals.values():
        require_commitments(deal.commitments, threshold)
    received = {
        index: [
            Received(
                dealer=dealer,
                key=keys[dealer].public,
                commitments=deal.commitments,
                ciphertext=deal.ciphertexts[index - 1],
            )
            for dealer, deal in deals.items()
        ]
        for index in keys
    }
    pairs: dict[int, tuple[Pair, ...]] = {}

    def sent(complaint: Complaint, index: int) -> Delivery:
        return delivery(
            ceremony,
            deal=deals[complaint.dealer],
            dealer=(complaint.dealer, keys[complaint.dealer].public),
            recipient=recipients[index - 1],
            place=index - 1,
        )

    for index, key in keys.items():
        pairs[index], complaints = dkg.judge_deals(key, recipient=index, received=received[index])
        for complaint in complaints:
            assert deal_complaint_holds(complaint, sent(complaint, index), deals[complaint.dealer].commitments)
            result.disqualified.append(complaint.dealer)
    qualified = [index for index in keys if index not in result.disqualified]

    shown: dict[int, tuple[bytes, ...]] = {}
    for dealer in qualified:
        lie = lies.get(dealer)
        seed = seeded("other") if lie is Lie.FALSE_EXTRACTION else seeds[dealer]
        if lie is not Lie.SILENT:
            shown[dealer] = dkg.extract(seed, ceremony=ceremony, threshold=threshold)
    exposed = {dealer: None for dealer in qualified if dealer not in shown}
    for index, key in keys.items():
        for complaint in dkg.check_extractions(key, recipient=index, received=received[index], extracted=shown):
            dealer = complaint.dealer
            assert extract_complaint_holds(complaint, sent(complaint, index), deals[dealer].commitments, shown[dealer])
            exposed[dealer] = None
    for dealer in exposed:
        known = [
            (index, pair.value)
            for index in keys
            if lies.get(index) is None
            for pair in pairs[index]
            if pair.dealer == dealer
        ]
        shown[dealer] = rebuild_commitments(known[:threshold])
    result.exposed = list(exposed)

    total = add_commitments([shown[dealer] for dealer in qualified])
    result.epoch = Epoch(
        number=1,
        public_key=total[0],
        threshold=threshold,
        keys={index: evaluate(total, index) for index in keys},
        secrets={
            index: Secret(1, index, dkg.final_share([pair for pair in pairs[index] if pair.dealer in qualified]))
            for index in keys
        },
    )
    result.transcript = {
        "ceremony": ceremony,
        "seeds": seeds,
        "keys": {index: key.public for index, key in keys.items()},
        "deals": deals,
        "extracted": shown,
    }
    return result


def reshare(
    old: Epoch, holders: int, threshold: int, *, lies: Mapping[int, Lie] | None = None, run: str = "reshare"
) -> Run:
    """The same key for ``holders`` new holders; the liars are old holders, and cheat the first new one."""
    lies = lies or {}
    ceremony, result = seeded("ceremony", run), Run()
    old_seeds = {index: seeded("old seed", run, index) for index in old.secrets}
    new_seeds = {index: seeded("new seed", run, index) for index in range(1, holders + 1)}
    old_keys, new_keys = keys_of(old_seeds, ceremony), keys_of(new_seeds, ceremony)
    recipients = [Recipient(index=index, key=key.public) for index, key in new_keys.items()]
    deals = {
        index: lied(
            resharing.make_deal(
                seed,
                ceremony=ceremony,
                threshold=threshold,
                share=old.secrets[index].scalar,
                dealer=index,
                recipients=recipients,
            ),
            lies.get(index),
            0,
        )
        for index, seed in old_seeds.items()
    }
    pairs: dict[int, tuple[Pair, ...]] = {}
    for index, key in new_keys.items():
        received = [
            Received(
                dealer=dealer,
                key=old_keys[dealer].public,
                commitments=deal.commitments,
                ciphertext=deal.ciphertexts[index - 1],
            )
            for dealer, deal in deals.items()
        ]
        pairs[index], complaints = resharing.judge_deals(key, recipient=index, received=received)
        for complaint in complaints:
            dealer = complaint.dealer
            sent = delivery(
                ceremony,
                deal=deals[dealer],
                dealer=(dealer, old_keys[dealer].public),
                recipient=recipients[index - 1],
                place=index - 1,
            )
            assert reshare_complaint_holds(complaint, sent, deals[dealer].commitments)
            result.disqualified.append(dealer)
    sound = [index for index in deals if index not in result.disqualified]
    assert all(deals[index].commitments[0] == old.keys[index] for index in sound)
    if len(sound) < old.threshold:
        return result
    chosen = sound[: old.threshold]
    total = weigh_commitments([(index, deals[index].commitments) for index in chosen])
    result.epoch = Epoch(
        number=old.number + 1,
        public_key=total[0],
        threshold=threshold,
        keys={index: evaluate(total, index) for index in new_keys},
        secrets={
            index: Secret(
                old.number + 1, index, resharing.final_share([pair for pair in pairs[index] if pair.dealer in chosen])
            )
            for index in new_keys
        },
    )
    result.transcript = {"ceremony": ceremony, "old_seeds": old_seeds, "new_seeds": new_seeds, "deals": deals}
    return result


# --- a release --------------------------------------------------------------------------------------------


def sealed(epoch: Epoch, *, label: Label = LABEL, key: bytes = RECORD_KEY, entropy: bytes = seeded("seal")) -> Capsule:
    """A capsule for the epoch's key."""
    return seal_key(epoch.public_key, label=label, key=key, entropy=entropy)


def blinded(entropy: bytes = seeded("blind"), *, record: bytes = RECORD) -> BlindingSecret:
    """A requester's blinding, checked as a keyholder does."""
    secret = BlindingSecret(chain_id=CHAIN, ticket=TICKET, record=record, version=1, sender=SENDER, entropy=entropy)
    context = blinding_context(chain_id=CHAIN, ticket=TICKET, record=record, version=1, sender=SENDER)
    check_blinding(secret.blinding, context=context)
    return secret


def asked(epoch: Epoch, capsule: Capsule, secret: BlindingSecret) -> Asked:
    """What the requester asks all holders of ``epoch`` for."""
    return Asked(
        chain_id=CHAIN,
        ticket=TICKET,
        record=RECORD,
        version=1,
        epoch=epoch.number,
        capsule=capsule,
        blinding=secret.blinding,
        holder_keys=epoch.keys,
    )


def statement(epoch: Epoch, index: int, capsule: Capsule, secret: BlindingSecret) -> ShareStatement:
    """What holder ``index`` answers."""
    combined = combined_point(capsule, secret.blinding)
    share = make_share(
        epoch.secrets[index],
        holder_key=epoch.keys[index],
        chain_id=CHAIN,
        ticket=TICKET,
        record=RECORD,
        version=1,
        combined=combined,
        entropy=seeded("share", index),
    )
    return ShareStatement(ticket=TICKET, record=RECORD, version=1, combined=combined, share=share)


def shares_of(epoch: Epoch, indices: list[int], capsule: Capsule, secret: BlindingSecret) -> list[ReleaseShare]:
    """What the holders at ``indices`` answer."""
    return [statement(epoch, index, capsule, secret).share for index in indices]


def opened(epoch: Epoch, shares: list[ReleaseShare], capsule: Capsule, secret: BlindingSecret, threshold: int) -> bytes:
    """The key that these shares give, with ``threshold`` of them used."""
    return combine(shares, threshold=threshold, secret=secret, public_key=epoch.public_key, capsule=capsule)


def logarithm_of(epoch: Epoch) -> bytes:
    """The consortium's secret key, which in life nobody computes."""
    chosen = list(epoch.secrets)[: epoch.threshold]
    total = 0
    for index in chosen:
        weight = 1
        for other in chosen:
            if other != index:
                weight = weight * other * pow(other - index, -1, ORDER) % ORDER
        total += weight * int.from_bytes(epoch.secrets[index].scalar, "little")
    scalar = scalar_from_int(total)
    assert base_mul(scalar) == epoch.public_key
    return scalar
