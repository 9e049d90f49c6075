"""``bench seal``: sealed objects, the consortium key, shares of it, and records opened with them.

Three parts, each in a process of its own: content sealed and opened against the library's cipher and hash
(:mod:`carechain.bench.seal_objects`); ceremonies of seven organisations through signed transactions and durable blocks,
and what one keyholder and one requester do in a second (:mod:`carechain.bench.seal_shares`).
"""

from pathlib import Path
from typing import Any, Final

from carechain.bench import machine
from carechain.bench.alone import alone
from carechain.bench.filling import BenchFailed, Progress, scratch_folder, silent
from carechain.bench.seal_objects import CONTENT_BYTES, LARGE_BYTES, run_objects
from carechain.bench.seal_shares import CEREMONIES, RECORD_BYTES, RECORDS, ROUNDS, run_shares
from carechain.bench.tables import render_table

_MB: Final = 1_000_000
_PARTS: Final = 2


def run_seal(
    *,
    content_bytes: int = CONTENT_BYTES,
    large_bytes: int = LARGE_BYTES,
    records: int = RECORDS,
    rounds: int = ROUNDS,
    ceremonies: int = CEREMONIES,
    folder: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure; ``folder`` is where ledgers, shares and the large object lie. Raises :class:`BenchFailed`."""
    with scratch_folder(folder) as scratch:
        progress("objects", 0, _PARTS)
        objects = alone(
            run_objects, content_bytes=content_bytes, large_bytes=large_bytes, rounds=rounds, folder=scratch
        )
        large = objects.pop("large")
        if not (large["resumed"] and large["same"]):
            raise BenchFailed("a large object was not sealed to its end after the kill, or not opened as it was")
        progress("keyholders", 1, _PARTS)
        shares = alone(run_shares, scratch, records=records, rounds=rounds, ceremonies=ceremonies)
    return {
        "bench": "seal",
        "engine": "embedded",
        "nodes": 1,
        "payload": f"{objects['content_mb']:g} MB of content; {large['mb']:g} MB for memory; {records} records of"
        f" {RECORD_BYTES:,} bytes in one request",
        "policy": f"AES-256-GCM, SHA-256, ristretto255; {shares['members']} keyholders, t ="
        f" {shares['ceremony_threshold']} in ceremonies and {shares['threshold']} in shares; yardsticks of objects"
        f" the best and all else the median of {rounds} rounds, of {ceremonies} for ceremonies; shares and records per"
        " second of one core's time",
        **objects,
        "large": large,
        "peak_mb": large["peak_mb"],
        "resumed": large["resumed"],
        **shares,
        "machine": machine.describe(),
    }


def render(result: dict[str, Any]) -> str:
    """The result as a table."""
    large = result["large"]
    rows = [
        ("AES-256-GCM alone, MB/s", result["raw_mb_s"], None, ""),
        ("SHA-256 alone, MB/s", result["sha256_mb_s"], None, ""),
        ("encrypt in chunks, MB/s", result["encrypt_mb_s"], result["encrypt_ratio"], "of AES-256-GCM"),
        ("seal, with its address, MB/s", result["seal_mb_s"], result["seal_ratio"], "of the slower of both"),
        ("open, MB/s", result["open_mb_s"], None, ""),
        ("seal with SM4-GCM and SM3, MB/s", result["sm_seal_mb_s"], None, ""),
        (f"memory for {large['mb']:g} MB, MiB", large["peak_mb"], None, "sealed and opened, killed in between"),
        (
            "seal a file / open one, MB/s",
            f"{large['seal_file_mb_s']:g} / {large['open_file_mb_s']:g}",
            None,
            "with disk",
        ),
        ("a share with its proof, per s", result["shares_per_s"], None, ""),
        ("the whole decision, new capsule, per s", result["first_shares_per_s"], result["first_ratio"], "of the share"),
        (
            "the whole decision, known capsule, per s",
            result["known_shares_per_s"],
            result["known_ratio"],
            "of the share",
        ),
        (f"records opened with t = {result['threshold']}, per s", result["opens_per_s"], None, "the requester's work"),
        (
            f"key generation, {result['members']} members, s",
            result["dkg_s"],
            None,
            f"t = {result['ceremony_threshold']}",
        ),
        (
            f"resharing, {result['members']} members, s",
            result["reshare_s"],
            None,
            f"t = {result['ceremony_threshold']}",
        ),
    ]
    return render_table("bench seal", ("", "measured", "ratio", "to what"), rows, result)
