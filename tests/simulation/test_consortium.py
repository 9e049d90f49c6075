"""Deterministic simulation: four nodes that agree on blocks over a bad network, with crashes between any two calls.

Goal: whatever happens, all nodes give equal answers for equal heights (roots, receipts, headers, validator changes), no
acknowledged transaction is lost or counted twice, a refused access is in the patient's log on every node, what the pool
is told follows from admission alone, and the calls were legal ABCI. Method: ``network.py`` and ``agreement.py`` run
real sessions behind the real application and its framing; a seed decides everything else. Syncs are left out, since no
power fails here: ``test_power.py`` and ``test_embedded.py`` are about that.

By hand: ``CARECHAIN_SEEDS=5000`` runs as many seeds, ``CARECHAIN_SEEDS=4711-4720`` these.
"""

import os
from collections import Counter
from pathlib import Path
from shutil import rmtree

import pytest

from simulation.network import Network

FEW_SEEDS = 200
GROUP = 25
"""Seeds of one test, so that several workers share them."""


def _groups(wanted: str) -> list[range]:
    """What ``CARECHAIN_SEEDS`` asks for: a number of seeds, or the first and the last."""
    first, dash, last = wanted.partition("-")
    seeds = range(int(first), int(last) + 1) if dash else range(int(first))
    return [seeds[at : at + GROUP] for at in range(0, len(seeds), GROUP)]


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on what survives a power failure."""

    def done(_handle: int) -> None:
        """As if it were on the disk."""

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, done)


@pytest.mark.parametrize("seeds", _groups(os.environ.get("CARECHAIN_SEEDS", str(FEW_SEEDS))), ids=str)
def test_nodes_agree_whatever_happens(tmp_path: Path, seeds: range) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds:
        folder = tmp_path / str(seed)
        network = Network(seed, folder)
        try:
            network.run()
            network.check_end()
        except BaseException as failed:
            failed.add_note(f"seed {seed}: repeat with CARECHAIN_SEEDS={seed}-{seed}")
            raise
        finally:
            for node in network.nodes:
                node.stop(both=True)
        seen.update(network.seen())
        rmtree(folder)
    if len(seeds) == GROUP:
        # A simulation in which nothing happens proves nothing.
        assert [what for what, times in seen.items() if times < 3] == []


def test_a_seed_says_everything(tmp_path: Path) -> None:
    """The same seed gives the same life to the last byte, or a failure could not be looked at."""
    lives = []
    for number in range(2):
        network = Network(7, tmp_path / str(number))
        network.run()
        calls = [notes for node in network.nodes for _, notes in node.runs]
        lives.append((calls, network.values, network.outcomes, network.crashes))
        for node in network.nodes:
            node.stop(both=True)
    assert lives[0] == lives[1]
