"""A patient's registration: the registrar's keyed hash, the wallet's proof, and the sealed summary (ID-3, REC-6)."""

import secrets
import time

from msgspec import Struct

from carechain.charts.dates import day_of_unix
from carechain.cli.acting import Desktop, Done
from carechain.cli.keyring import Actor
from carechain.contracts.relationships import Bind, PutSummary
from carechain.sdk.summary import seal_summary
from carechain.sdk.wallet import binding_proof
from carechain.sealing.symmetric import GCM_NONCE_SIZE


class BoundPatient(Struct, frozen=True, kw_only=True):
    """A new relationship."""

    pseudonym: bytes
    organisation: bytes
    done: Done


def bind_patient(desktop: Desktop, *, wallet: str, existing_id: str, system: str, label: str) -> BoundPatient:
    """Bind, then keep the wallet, then store its summary on the ledger under the new pseudonym.

    The wallet is saved only when the ledger has the binding: a refusal leaves it as it was. A summary that cannot be
    stored costs nothing but a recovery without labels, since pseudonyms are found again from the seed.
    """
    registrar = desktop.member()
    id_hash = desktop.keys.registrar_secret().id_hash(system, existing_id)
    held = desktop.wallet_or_new(wallet)
    changed, relation = held.with_relation(registrar.organisation, label=label, since_day=day_of_unix(int(time.time())))
    pseudonym = changed.keys_of(relation)
    with desktop.seat(registrar) as seat:
        done = seat.submit(
            Bind(
                id_hash=id_hash,
                suite=pseudonym.signing.suite,
                public_key=pseudonym.signing.public_key,
                hpke_key=pseudonym.hpke.public_key,
                proof=binding_proof(pseudonym, chain_id=changed.chain_id, id_hash=id_hash),
            )
        )
    desktop.keys.keep_wallet(wallet, changed, password=desktop.wallet_password)
    sealed = seal_summary(changed, pseudonym.id, secrets.token_bytes(GCM_NONCE_SIZE))
    with desktop.seat(Actor.of_pseudonym(pseudonym)) as seat:
        seat.submit(PutSummary(pseudonym=pseudonym.id, sealed=sealed))
    return BoundPatient(pseudonym=pseudonym.id, organisation=registrar.organisation, done=done)
