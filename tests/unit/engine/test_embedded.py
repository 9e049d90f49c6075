"""When waiting transactions become a block, and that the same input gives the same chain everywhere.

Method: rows for the batch policy, among them the settings of the paper that is compared with; one ledger made in
three processes whose hash seeds differ.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from carechain.core.limits import BLOCK_SIZE_BYTES, BLOCK_TXS, HEARTBEAT_S
from carechain.engine.embedded import BatchPolicy

POLICY = BatchPolicy(timeout_s=2.0, eager=False, txs=10, size_bytes=1000, heartbeat_s=5.0)

ROWS = {
    "nothing waits": ((0, 0, 0.0, 100.0, 101.0), 4.0),
    "a heartbeat is due": ((0, 0, 0.0, 100.0, 105.0), 0.0),
    "long overdue": ((0, 0, 0.0, 100.0, 1000.0), 0.0),
    "one has just come": ((1, 100, 101.0, 100.0, 101.0), 2.0),
    "one has waited half": ((1, 100, 101.0, 100.0, 102.0), 1.0),
    "one has waited long enough": ((1, 100, 101.0, 100.0, 103.0), 0.0),
    "the heartbeat comes first": ((1, 100, 104.0, 100.0, 104.5), 0.5),
    "enough of them": ((10, 100, 101.0, 100.0, 101.0), 0.0),
    "enough bytes": ((2, 1000, 101.0, 100.0, 101.0), 0.0),
}


EAGER = {
    "after a pause": ((1, 100, 103.0, 100.0, 103.0), 0.0),
    "after a shorter pause": ((1, 100, 101.5, 100.0, 101.5), 0.5),
    "right after a block": ((1, 100, 100.0, 100.0, 100.0), 2.0),
    "left over by the last block": ((1, 100, 99.0, 100.0, 100.5), 0.5),
    "nothing waits for the heartbeat": ((0, 0, 0.0, 100.0, 104.0), 1.0),
}


@pytest.mark.parametrize("row", [*ROWS, *EAGER])
def test_the_policy_says_how_long_a_block_can_wait(row: str) -> None:
    (count, size_bytes, first_s, last_s, now_s), expected = (ROWS | EAGER)[row]
    wait_s = replace(POLICY, eager=row in EAGER).wait_s(
        count=count, size_bytes=size_bytes, first_arrival_s=first_s, last_block_s=last_s, now_s=now_s
    )
    assert wait_s == expected


def test_batch_size_one_never_waits() -> None:
    policy = BatchPolicy(timeout_s=20.0, txs=1)
    assert policy.wait_s(count=1, size_bytes=600, first_arrival_s=7.0, last_block_s=7.0, now_s=7.0) == 0.0
    assert policy.how_many([600] * 3) == 1


@pytest.mark.parametrize(
    ("sizes", "taken"), [([], 0), ([100] * 3, 3), ([100] * 30, 10), ([400, 400, 400], 2), ([5000, 1], 1)]
)
def test_the_policy_says_how_many_go_in(sizes: list[int], taken: int) -> None:
    assert POLICY.how_many(sizes) == taken


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_s": -1.0},
        {"txs": 0},
        {"txs": BLOCK_TXS + 1},
        {"size_bytes": 0},
        {"size_bytes": BLOCK_SIZE_BYTES + 1},
        {"heartbeat_s": 0.0},
        {"heartbeat_s": HEARTBEAT_S + 1.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="range"):
        BatchPolicy(**settings)


_PROGRAM = """
import sys
from pathlib import Path
from ledgers import SMALL, Life, engine_at, run
life = Life(21)
engine = engine_at(Path(sys.argv[1]), life, checkpoints=SMALL)
run(engine, life, 25)
print(engine.session.head.block_hash.hex(), engine.session.head.app_hash.hex())
engine.session.close()
"""


def test_the_chain_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    heads = []
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        )
        heads.append(done.stdout)
    assert heads[0]
    assert heads == [heads[0]] * 3
