"""The verifier process says what verifying here would say, whatever becomes of it.

Method: real workers over real pipes. Batches of good and bad signatures in all suites, larger than a pipe; workers
killed before, between and after batches, or stopped under a clock that the test moves; every verdict is compared with
``core.crypto.verify``.
"""

import os
import select
import signal
from itertools import count
from pathlib import Path
from random import Random

import pytest

from carechain.chain.receipts import OK
from carechain.chain.tx import AdmissionCode, Tx
from carechain.contracts.membership import DismissStaff
from carechain.core.crypto import SigningKey, Suite
from carechain.core.limits import VERIFIER_PATIENCE_S
from carechain.engine.admission import Admission
from carechain.engine.verifier import FRAME_BYTES, Check, VerifierProcess, holds
from carechain.engine.worker_process import PIPE_BYTES
from ledgers import Life, engine_at, run
from world import Actor, anchor_of, seeded

KEYS = [SigningKey(suite=suite, seed=seeded("verifier", suite)) for suite in Suite]


def check(number: int, *, good: bool = True, size: int = 600) -> Check:
    key = KEYS[number % 7 == 0]
    message = seeded("message", number, size=size)
    signature = key.sign(message)
    if not good:
        message = message[:-1] + bytes([message[-1] ^ 1])
    return Check(key.suite, key.public_key, signature, message)


def batch(start: int, count: int, *, size: int = 600) -> list[Check]:
    return [check(number, good=number % 5 != 0, size=size) for number in range(start, start + count)]


def everything(verifier: VerifierProcess, count: int) -> dict[int, list[bool]]:
    found: dict[int, list[bool]] = {}
    while len(found) < count:
        found.update(verifier.wait())
    return found


def test_verdicts_are_those_of_the_one_verifier() -> None:
    batches = [batch(0, 50), batch(50, 1), [], batch(100, 30)]
    batches.append([Check(9, b"", b"", b"x"), Check(Suite.ED25519, bytes(33), bytes(64), b"x"), check(3)])
    with VerifierProcess.start() as verifier:
        numbers = [verifier.submit(one) for one in batches]
        found = everything(verifier, len(batches))
        assert [found[number] for number in numbers] == [[holds(one) for one in checks] for checks in batches]
        assert verifier.inline_checks == 0
        assert verifier.alive
        assert verifier.wait() == []


def test_batches_larger_than_the_pipe_pass_through() -> None:
    """Submitting never blocks, and no batch waits for an event that cannot come."""
    count = 3 * PIPE_BYTES // 60_000
    batches = [batch(start, count, size=60_000) for start in (0, count)]
    assert sum(len(one.message) for one in batches[0]) > 2 * PIPE_BYTES > FRAME_BYTES
    with VerifierProcess.start() as verifier:
        numbers = [verifier.submit(one) for one in batches]
        found = everything(verifier, 2)
        assert [found[number] for number in numbers] == [[holds(one) for one in checks] for checks in batches]
        assert verifier.inline_checks == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_worker_is_replaced_by_this_process(seed: int) -> None:
    rnd = Random(seed)
    batches = [batch(100 * index, 40) for index in range(6)]
    killed_before = rnd.randrange(len(batches))
    found: dict[int, list[bool]] = {}
    with VerifierProcess.start() as verifier:
        numbers = []
        for index, one in enumerate(batches):
            if index == killed_before:
                os.kill(verifier._process.pid, signal.SIGKILL)
            numbers.append(verifier.submit(one))
            found.update(verifier.collect())
        found.update(everything(verifier, len(batches) - len(found)) if len(found) < len(batches) else {})
        assert [found[number] for number in numbers] == [[holds(one) for one in checks] for checks in batches]
        assert not verifier.alive
        assert verifier.inline_checks > 0


def test_a_stuck_worker_is_given_up_when_its_time_is_over() -> None:
    """Not before, however much else is handed over meanwhile; and then every verdict is there at once."""
    batches = [batch(0, 20), batch(100, 5)]
    now_s = [100.0]
    with VerifierProcess.start(clock=lambda: now_s[0]) as verifier:
        assert verifier.patience_left_s() is None
        os.kill(verifier._process.pid, signal.SIGSTOP)
        numbers = [verifier.submit(batches[0])]
        assert verifier.collect() == []
        assert verifier.patience_left_s() == VERIFIER_PATIENCE_S
        now_s[0] += VERIFIER_PATIENCE_S - 1
        numbers.append(verifier.submit(batches[1]))
        assert verifier.collect() == []
        assert verifier.patience_left_s() == 1.0
        assert verifier.alive
        now_s[0] += 1
        found = dict(verifier.collect())
        assert [found[number] for number in numbers] == [[holds(one) for one in checks] for checks in batches]
        assert not verifier.alive
        assert verifier.inline_checks == 25
        assert verifier.patience_left_s() is None
    assert verifier._process.returncode == -signal.SIGKILL


def test_waiting_ends_though_the_worker_is_stuck() -> None:
    seconds = count(0.0, 2 * VERIFIER_PATIENCE_S)
    with VerifierProcess.start(clock=lambda: next(seconds)) as verifier:
        os.kill(verifier._process.pid, signal.SIGSTOP)
        number = verifier.submit(batch(0, 20))
        assert verifier.wait() == [(number, [holds(one) for one in batch(0, 20)])]


def test_a_worker_that_has_answered_is_kept_however_late_one_looks() -> None:
    """It is this process that was held up, by a long block for example."""
    now_s = [0.0]
    with VerifierProcess.start(clock=lambda: now_s[0]) as verifier:
        number = verifier.submit(batch(0, 20))
        select.select([verifier.fileno()], [], [])
        now_s[0] += 100 * VERIFIER_PATIENCE_S
        assert verifier.wait() == [(number, [holds(one) for one in batch(0, 20)])]
        assert verifier.alive
        # Silence while nothing is owed does not count either.
        now_s[0] += 100 * VERIFIER_PATIENCE_S
        verifier.submit(batch(20, 3))
        assert verifier.patience_left_s() == VERIFIER_PATIENCE_S


@pytest.mark.parametrize("stuck", [True, False], ids=["stopped", "well"])
def test_giving_up_leaves_nothing_unanswered(*, stuck: bool) -> None:
    """What a node does that has to end now."""
    with VerifierProcess.start() as verifier:
        if stuck:
            os.kill(verifier._process.pid, signal.SIGSTOP)
        numbers = [verifier.submit(batch(0, 20)), verifier.submit(batch(20, 20))]
        verifier.give_up()
        verifier.give_up()
        found = dict(verifier.collect())
        assert sorted(found) == numbers
        assert [*found[numbers[0]], *found[numbers[1]]] == [holds(one) for one in batch(0, 40)]
        late = verifier.submit(batch(40, 3))
        assert verifier.collect() == [(late, [holds(one) for one in batch(40, 3)])]


def test_the_worker_ends_with_its_pipe() -> None:
    verifier = VerifierProcess.start()
    verifier.submit(batch(0, 5))
    verifier.close()
    assert verifier._process.returncode == 0


def test_admission_gives_each_transaction_its_verdict(tmp_path: Path) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    good, other = life.anchor(), life.anchor()
    raws = [
        good,
        b"nonsense",
        other[:-1] + bytes([other[-1] ^ 1]),
        life.sent[0],
        life.sign(anchor_of(life.world.steve, "late"), by=life.world.carl, valid_s=0),
        life.sign(anchor_of(life.world.steve, "stranger"), by=Actor("stranger")),
    ]
    with VerifierProcess.start() as verifier:
        admission = Admission(engine.session, verifier)
        number = admission.submit(raws, time_s=life.time_s)
        assert admission.pending == 1
        ((answered, verdicts),) = admission.wait()
        assert answered == number
        assert admission.pending == 0
        refused = admission.submit([b""], time_s=life.time_s)
        assert admission.collect() == [(refused, [AdmissionCode.MALFORMED])]
    assert isinstance(verdicts[0], Tx)
    assert verdicts[1:] == [
        AdmissionCode.MALFORMED,
        AdmissionCode.BAD_SIGNATURE,
        AdmissionCode.REPLAYED,
        AdmissionCode.EXPIRED,
        AdmissionCode.UNKNOWN_SIGNER,
    ]
    engine.session.close()


def test_nothing_is_verified_again_at_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    raws = [life.anchor() for _ in range(5)]
    with VerifierProcess.start() as verifier:
        admission = Admission(engine.session, verifier)
        admission.submit(raws, time_s=life.time_s)
        admission.wait()
    monkeypatch.setattr("carechain.chain.signatures.verify", None)
    block = engine.produce(time_s=life.time_s, txs=raws)
    assert [receipt.code for receipt in block.receipts] == [OK] * 5
    engine.session.close()


def test_an_admitted_transaction_is_judged_again_by_the_state_it_meets(tmp_path: Path) -> None:
    """Between admission and its block the signer is dismissed: the good signature does not carry it through."""
    life = Life()
    engine = engine_at(tmp_path, life)
    run(engine, life, 1)
    world = life.world
    raw = life.sign(anchor_of(world.steve, "last"), by=world.carl)
    with VerifierProcess.start() as verifier:
        admission = Admission(engine.session, verifier)
        admission.submit([raw], time_s=life.time_s)
        admission.wait()
    engine.produce(time_s=life.time_s, txs=[life.sign(DismissStaff(party=world.carl.id), by=world.a)])
    (receipt,) = engine.produce(time_s=life.time_s, txs=[raw]).receipts
    assert receipt.code != OK
    engine.session.close()
