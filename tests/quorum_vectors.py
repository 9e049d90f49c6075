"""Write ``vectors/quorum.json``: the test vectors of the quorum key. Run it when the protocol is meant to change.

    PYTHONPATH=src:tests python tests/quorum_vectors.py

All bytes are hexadecimal, all secrets are made up and stand beside what follows from them, so that another
implementation can check each step by itself: the hashes, a key generation with a liar of each kind, the resharing of
its key, a capsule, a blinding, the release shares of everybody, and what opens with them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carechain.core.codec import encode
from carechain.core.group import (
    GENERATOR,
    SECOND,
    hash_to_point,
    hash_to_scalar,
    scalar_from_wide,
    wide_hash,
)
from carechain.core.quorum import (
    DleqProof,
    blinding_context,
    capsule_context,
    combined_point,
    complaint_context,
    join_context,
    label_bytes,
    lagrange,
    pad_of,
    share_context,
    statement_bytes,
)
from carechain.sealing.quorum.dealing import CeremonyKey, Deal
from quorum_ceremony import (
    CHAIN,
    LABEL,
    RECORD,
    RECORD_KEY,
    SENDER,
    TICKET,
    Epoch,
    Lie,
    Run,
    blinded,
    generate,
    opened,
    reshare,
    sealed,
    seeded,
    shares_of,
    statement,
)

VECTORS = Path(__file__).parent / "vectors" / "quorum.json"
OPENERS = (1, 3, 4)


def plain(value: Any) -> Any:
    """``value`` with hexadecimal for bytes and string keys, as JSON takes it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, Deal):
        return {"commitments": plain(value.commitments), "ciphertexts": plain(value.ciphertexts)}
    if isinstance(value, DleqProof):
        return {"challenge": plain(value.challenge), "response": plain(value.response)}
    return value


def hashes() -> dict[str, Any]:
    """The functions that everything else is built from."""
    return {
        "generator": GENERATOR,
        "second": SECOND,
        "wide_hash": {"tag": "test", "parts": [b"a", b""], "result": wide_hash("test", b"a", b"")},
        "hash_to_scalar": {"tag": "test", "parts": [b"a", b""], "result": hash_to_scalar("test", b"a", b"")},
        "hash_to_point": {"tag": "test", "parts": [b"a", b""], "result": hash_to_point("test", b"a", b"")},
        "scalar_from_wide": {"wide": b"\xff" * 64, "result": scalar_from_wide(b"\xff" * 64)},
        "lagrange": [
            {"indices": indices, "index": index, "at": at, "weight": lagrange(indices, index, at)}
            for indices, index, at in (([1, 2, 3], 2, 0), ([5, 1, 32], 5, 0), ([2, 4], 4, 7))
        ],
    }


def contexts() -> dict[str, Any]:
    """What proofs are bound to."""
    words: dict[str, Any] = {"chain_id": CHAIN, "ticket": TICKET, "record": RECORD, "version": 1}
    ceremony, party, shared = seeded("ceremony"), seeded("party", 1), hash_to_point("test")
    key = CeremonyKey(seeded("seed"), ceremony=ceremony)
    proof = key.prove(party)
    return {
        "words": words | {"sender": SENDER, "ceremony": ceremony, "party": party, "shared": shared},
        "join": join_context(ceremony=ceremony, party=party),
        "join_key": {"key": key.public, "challenge": proof.challenge, "response": proof.response},
        "complaint": complaint_context(ceremony=ceremony, dealer=1, recipient=2),
        "pad": pad_of(ceremony=ceremony, dealer=1, recipient=2, shared=shared),
        "blinding": blinding_context(**words, sender=SENDER),
        "release_share": share_context(**words, epoch=1, index=2),
        "capsule": capsule_context(version=1, label=label_bytes(LABEL), masked=RECORD_KEY),
    }


def ceremony(run: Run, lies: Mapping[int, Lie]) -> dict[str, Any]:
    """One ceremony, with everything that its members kept secret."""
    epoch = run.done
    return {
        "lies": {index: lie.name.lower() for index, lie in lies.items()},
        **run.transcript,
        "disqualified": run.disqualified,
        "exposed": run.exposed,
        "epoch": epoch.number,
        "threshold": epoch.threshold,
        "public_key": epoch.public_key,
        "holder_keys": epoch.keys,
        "shares": {index: secret.scalar for index, secret in epoch.secrets.items()},
    }


def release(epoch: Epoch) -> dict[str, Any]:
    """A capsule opened by three holders of an epoch."""
    capsule, secret = sealed(epoch), blinded()
    answers = [statement(epoch, index, capsule, secret) for index in epoch.secrets]
    chosen = list(OPENERS)
    return {
        "label": {name: getattr(LABEL, name) for name in LABEL.__struct_fields__},
        "label_bytes": label_bytes(LABEL),
        "record_key": RECORD_KEY,
        "seal_entropy": seeded("seal"),
        "capsule": capsule.encode(),
        "blind_entropy": seeded("blind"),
        "blinding": encode(secret.blinding),
        "combined": combined_point(capsule, secret.blinding),
        "statements": [{"statement": encode(one), "signed_bytes": statement_bytes(CHAIN, one)} for one in answers],
        "openers": chosen,
        "opened": opened(epoch, shares_of(epoch, chosen, capsule, secret), capsule, secret, epoch.threshold),
    }


def build() -> dict[str, Any]:
    """All vectors, as JSON takes them."""
    lies = {2: Lie.FALSE_PAIR, 3: Lie.FALSE_EXTRACTION, 4: Lie.SILENT}
    first = generate(7, 3, lies=lies, run="vectors")
    second = reshare(first.done, 4, 3, lies={1: Lie.NO_SCALARS}, run="vectors again")
    found: dict[str, Any] = plain(
        {
            "hashes": hashes(),
            "contexts": contexts(),
            "generation": ceremony(first, lies),
            "resharing": ceremony(second, {1: Lie.NO_SCALARS}),
            "release": {"1": release(first.done), "2": release(second.done)},
        }
    )
    return found


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
