"""kill -9 loses no acknowledged transaction and leaves no half block.

Goal: the promise of the ledger on a real disk and a real process. Method: a child process makes blocks as fast as it
can and says which transactions it has acknowledged; this process kills it without warning, 24 times on the same folder,
at chosen moments: while it opens the ledger, after its first block, after many. Checkpoints come every few blocks, so
some kills fall into one. Afterwards every transaction ever acknowledged must be found, and the chain must verify. Then
the same with a disk that fills up: the system itself refuses to let a file grow, at chosen sizes of the block log.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from carechain.engine.verify import verify_chain
from ledgers import Life, engine_at

KILLS = 24

_CHILD = """
import sys
from pathlib import Path
from itertools import count
from ledgers import SMALL, Life, engine_at
from world import anchor_of

run = sys.argv[2]
life = Life()
print("opening", flush=True)
engine = engine_at(Path(sys.argv[1]), life, checkpoints=SMALL)
for number in count():
    life.time_s = engine.session.head.time_s + 1
    if engine.session.head.height == 0:
        txs = life.founding()
    else:
        steve = life.world.steve
        txs = [life.sign(anchor_of(steve, f"{run}/{number}/{one}"), by=life.world.carl) for one in range(3)]
    block = engine.produce(time_s=life.time_s, txs=txs)
    assert not block.refused
    print(block.height, *(tx_id.hex() for tx_id in block.tx_ids), flush=True)
"""


def start(home: Path, run: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(home), str(run)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_after(home: Path, run: int, lines: int) -> list[str]:
    """Let a child say so many lines, kill it, and return all it had said."""
    with start(home, run) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    # The last line may be cut: then the acknowledgement did not get out.
    return [line for line in said if line.endswith("\n") and line != "opening\n"]


def test_killed_at_any_moment_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    rnd = Random(1)
    acknowledged: dict[bytes, int] = {}
    for run in range(KILLS):
        for line in killed_after(tmp_path, run, rnd.choice((1, 2, 3, 10, 25))):
            height, *tx_ids = line.split()
            acknowledged.update((bytes.fromhex(tx_id), int(height)) for tx_id in tx_ids)
    assert len(acknowledged) > 3 * KILLS
    life = Life()
    session = engine_at(tmp_path, life).session
    for tx_id, height in acknowledged.items():
        receipt = session.receipt(tx_id)
        assert receipt is not None
        assert (receipt.height, receipt.code) == (height, 0)
    height = session.head.height
    assert height >= max(acknowledged.values())
    session.close()
    verdict = verify_chain(tmp_path, life.genesis)
    assert (verdict.ok, verdict.height) == (True, height), verdict.first_bad


_FULL_CHILD = """
import resource, sys
from pathlib import Path
from random import Random
import lmdb
from ledgers import SMALL, Life, engine_at

home, rnd, life = Path(sys.argv[1]), Random(2), Life(3)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
engine, acknowledged, refused = engine_at(home, life, checkpoints=SMALL), {}, 0
for _ in range(60):
    txs = life.next_block()
    size = (home / "ledger" / "blocks.log").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + rnd.randint(0, 6000), hard))
    try:
        block = engine.produce(time_s=max(life.time_s, engine.session.head.time_s), txs=txs)
        acknowledged[block.height] = block.header
    except (OSError, lmdb.Error):
        refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        engine = engine_at(home, life, checkpoints=SMALL)
        head = engine.session.head.height
        assert len(acknowledged) <= head <= len(acknowledged) + 1
        assert engine.session.rebuilt is None
        acknowledged.setdefault(head, engine.session.block(head).header) if head else None
        for height, header in acknowledged.items():
            assert engine.session.block(height).header == header
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
engine.session.close()
print(refused, len(acknowledged))
"""


def test_a_disk_that_fills_up_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The limit applies to a whole process, so it is a child's. Python ignores the signal that comes with it."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL_CHILD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    refused, acknowledged = map(int, done.stdout.split())
    assert refused > 3
    verdict = verify_chain(tmp_path, Life(3).genesis)
    assert (verdict.ok, verdict.height) == (True, acknowledged), verdict.first_bad
