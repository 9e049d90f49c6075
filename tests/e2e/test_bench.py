"""Benchmarks run and print what they promise.

Goal: every benchmark completes at a tiny size, gives the keys that scripts rely on, in types that survive JSON, and
renders for people. Method: the real programs, with their worker processes, real signatures and a real node over
loopback. No figure is judged here: how fast a machine is, is not a property of the code. What a benchmark must never
do is checked instead: count work that was refused, or a load that is not what it says.
"""

import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from carechain.bench import growth, healthchain, read, saturate, seal, seal_shares, write
from carechain.bench.alone import alone
from carechain.bench.figures import percentile
from carechain.bench.filling import BenchFailed, Ledger, Signers, cut, fill, plan_of, presign, silent
from carechain.bench.host import Batch
from carechain.bench.load import fetch, request
from carechain.bench.machine import allow_open_files, cost_of, describe, disk_bytes
from carechain.bench.seal_network import seven
from carechain.bench.workload import (
    KEYS_A_PATIENT,
    TX_BYTES,
    VALIDITY_S,
    network_of,
    patient_of,
    sign_anchors,
    sign_patients,
)
from carechain.chain.replay import REPLAY
from carechain.chain.tx import AdmissionCode, parse
from carechain.contracts.records import Anchor
from carechain.core.limits import SHARES_PER_REQUEST
from carechain.gatekeeper.audit import Audit
from carechain.node.main import COLLECT_AFTER
from carechain.sdk.shares import KeyholderCode, SharesRefused

EVERY = {"bench", "engine", "nodes", "payload", "policy", "machine"}


def check(result: dict[str, Any], keys: set[str], render: Callable[[dict[str, Any]], str]) -> None:
    assert set(result) >= EVERY | keys
    assert orjson.loads(orjson.dumps(result)) == result
    assert set(result["machine"]) >= {"cpu", "cores", "python"}
    text = render(result)
    assert result["machine"]["python"] in text
    assert f"bench {result['bench']}" in text


def test_saturate(tmp_path: Path) -> None:
    seen: set[str] = set()
    result = saturate.run_saturate(
        keys=400, rounds=1, folder=tmp_path, progress=lambda stage, _done, _total: seen.add(stage)
    )
    keys = {"payload_bytes", "writes", "keys", "tx_per_s", "verify_per_s", "ratio", "p50_ms", "p95_ms"}
    check(result, keys | {"cpu_ms_per_tx", "rss_mb", "disk_bytes_per_tx"}, saturate.render)
    assert result["payload_bytes"] == 600
    assert result["keys"] == 400
    assert {"patients", "signing", "measuring"} <= seen
    assert list(tmp_path.iterdir()) == []


def test_a_large_state_is_there_before_the_run() -> None:
    shape = saturate._shape(1_000_000, None)
    assert shape.pseudonyms * KEYS_A_PATIENT + shape.prepared == 1_000_000
    assert shape.writes == saturate.LARGE_WRITES


def test_of_a_small_state_the_run_writes_what_it_is_told_to() -> None:
    shape = saturate._shape(24_000, 5_000)
    assert shape.pseudonyms * KEYS_A_PATIENT + shape.prepared + shape.writes == 24_000
    assert shape.writes == 5_000


def test_write(tmp_path: Path) -> None:
    result = write.run_write(writes=3, patients=2, folder=tmp_path)
    check(result, {"p50_ms", "p95_ms", "http_p50_ms", "sync_p50_ms"}, write.render)


def test_read(tmp_path: Path) -> None:
    result = read.run_read(patients=3, records=9, one_by_one=10, together=20, connections=4, folder=tmp_path)
    check(result, {"queries"}, read.render)
    assert [one["name"] for one in result["queries"]] == ["may_read", "timeline"]
    assert all({"p50_ms", "p95_ms", "per_s"} <= set(one) for one in result["queries"])


def test_growth(tmp_path: Path) -> None:
    result = growth.run_growth(sizes=(20, 40), reads=10, folder=tmp_path)
    check(result, {"rows", "read_ratio"}, growth.render)
    assert [row["records"] for row in result["rows"]] == [20, 40]
    promised = {"records", "read_p50_ms", "tx_per_s", "disk_bytes_per_tx", "disk_bytes_per_record", "rss_mb"}
    assert all(promised <= set(row) for row in result["rows"])
    # Registrations weigh on the records, and are no records.
    assert all(row["disk_bytes_per_record"] > row["disk_bytes_per_tx"] > TX_BYTES for row in result["rows"])


def test_healthchain(tmp_path: Path) -> None:
    quick = healthchain.Setting(
        batch=Batch(timeout_s=0.1, txs=5), paper=healthchain.SETTINGS[0].paper, fabric=healthchain.SETTINGS[0].fabric
    )
    result = healthchain.run_healthchain(settings=(quick,), together=12, folder=tmp_path)
    check(result, {"rows", "together", "compared"}, healthchain.render)
    assert "not of this run" in healthchain.render(result)
    (row,) = result["rows"]
    assert {"timeout_s", "size", "read_ms", "reads_per_s", "write_ms", "writes_per_s", "paper"} <= set(row)
    assert row["paper"] == {"read_ms": 142.0, "reads_per_s": 10.259, "write_ms": 20379.0, "writes_per_s": 7.043}


def test_seal(tmp_path: Path) -> None:
    seen: set[str] = set()
    result = seal.run_seal(
        content_bytes=1_000_000,
        large_bytes=20_000_000,
        records=3,
        rounds=1,
        ceremonies=1,
        folder=tmp_path,
        progress=lambda stage, _done, _total: seen.add(stage),
    )
    rates = {"raw_mb_s", "sha256_mb_s", "seal_mb_s", "open_mb_s", "shares_per_s", "opens_per_s", "dkg_s"}
    beside = {"encrypt_mb_s", "encrypt_ratio", "seal_ratio", "first_shares_per_s", "known_shares_per_s", "reshare_s"}
    check(result, rates | beside | {"large", "peak_mb", "resumed"}, seal.render)
    assert all(result[name] > 0 for name in rates | beside)
    assert (result["members"], result["ceremony_threshold"], result["threshold"]) == (7, 5, 3)
    assert {"mb", "peak_mb", "killed", "resumed", "same"} <= set(result["large"])
    assert result["large"]["killed"]
    assert result["large"]["resumed"]
    assert result["large"]["same"]
    assert seen == {"objects", "keyholders"}
    assert list(tmp_path.iterdir()) == []


def test_a_request_names_no_more_records_than_it_may(tmp_path: Path) -> None:
    for records in (0, SHARES_PER_REQUEST + 1):
        with pytest.raises(ValueError, match="choose 1 to 500 records"):
            seal_shares.run_shares(tmp_path, records=records)


def test_shares_that_are_not_given_end_the_run(tmp_path: Path) -> None:
    """A refusal is no share: whoever has no ticket makes no figure."""
    assert uvloop.run(_refused(tmp_path)) is KeyholderCode.TICKET_UNKNOWN


async def _refused(folder: Path) -> object:
    async with seven(folder) as (network, reader):
        await network.hold(seal_shares.THRESHOLD)
        patient = await network.register(reader)
        case = seal_shares.Case(network, reader, patient, await network.write(patient, 1, 10), bytes(32))
        with Audit.open(folder / "shares.sqlite") as audit, pytest.raises(SharesRefused) as refused:
            await case.keyholder(0, audit).release(reader.party, case.request())
        return refused.value.code


def test_the_settings_are_the_papers() -> None:
    assert [(one.batch.timeout_s, one.batch.txs) for one in healthchain.SETTINGS] == [(20, 1000), (20, 1), (2, 10)]


# --- the load is what it says ---------------------------------------------------------------------------


def test_every_transaction_of_the_load_has_600_bytes_and_its_own_id(tmp_path: Path) -> None:
    plan = plan_of(5)
    pseudonyms = tmp_path / "pseudonyms"
    pseudonyms.write_bytes(sign_patients(plan, 0, 5, plan.genesis_s + 60).pseudonyms)
    txs = [raw for raws in cut(sign_anchors(plan, pseudonyms, 7, 307, plan.genesis_s + 60)) for raw in raws]
    parsed = [parse(raw) for raw in txs]
    assert {len(raw) for raw in txs} == {TX_BYTES}
    assert len({tx.id for tx in parsed}) == 300
    assert {tx.body.sender for tx in parsed} == {one.party for one in network_of(plan).staff}
    assert all(isinstance(tx.body.messages[0], Anchor) for tx in parsed)


def test_transactions_live_as_long_as_a_clients() -> None:
    assert 60 <= VALIDITY_S <= 120


def test_the_keys_that_are_stated_are_in_the_state(tmp_path: Path) -> None:
    stated, counted = [], []
    for patients, records in ((1, 0), (3, 0), (3, 5)):
        scratch = tmp_path / f"{patients}-{records}"
        scratch.mkdir()
        with Signers() as signers:
            filled = fill(
                home=scratch / "home",
                scratch=scratch,
                plan=plan_of(patients),
                records=records,
                signers=signers,
                progress=silent,
            )
        with Ledger(filled.home, filled.plan) as ledger:
            keys = [key for key, _ in ledger.session.snapshot().scan(b"")]
            # One digest for every minute that still has live ids: how many depends on the clock.
            counted.append(sum(not key.startswith(REPLAY.prefix_of(())) for key in keys))
        stated.append(filled.keys)
    # Organisations and staff are in every state and are not stated.
    assert [one - stated[0] for one in stated] == [one - counted[0] for one in counted]


def test_slices_signed_apart_are_the_load_signed_at_once(tmp_path: Path) -> None:
    plan = plan_of(3)
    pseudonyms = tmp_path / "pseudonyms"
    pseudonyms.write_bytes(sign_patients(plan, 0, 3, plan.genesis_s + 60).pseudonyms)
    whole = sign_anchors(plan, pseudonyms, 0, 20, plan.genesis_s + 60)
    parts = [sign_anchors(plan, pseudonyms, start, start + 10, plan.genesis_s + 60) for start in (0, 10)]
    assert whole == b"".join(parts)


def test_every_patient_gets_a_record_before_any_gets_a_second() -> None:
    assert sorted(patient_of(number, 1_000) for number in range(1_000)) == list(range(1_000))


def test_a_refused_transaction_ends_the_run(tmp_path: Path) -> None:
    with Signers() as signers:
        filled = fill(
            home=tmp_path / "home",
            scratch=tmp_path,
            plan=plan_of(2),
            records=0,
            signers=signers,
            progress=silent,
        )
        load = presign(filled, 4, scratch=tmp_path, signers=signers, progress=silent)
    (raws,) = cut(load.read_bytes())
    time_s = filled.plan.genesis_s + 3_600
    with Ledger(filled.home, filled.plan) as ledger:
        assert ledger.drive(iter([(time_s, raws[:2])])).txs == 2
        with pytest.raises(BenchFailed, match=AdmissionCode.REPLAYED.label):
            ledger.drive(iter([(time_s, raws[1:3])]))
    with (
        Ledger(filled.home, filled.plan) as ledger,
        pytest.raises(BenchFailed, match=AdmissionCode.BAD_SIGNATURE.label),
    ):
        ledger.drive(iter([(time_s, [raws[3][:-1] + bytes([raws[3][-1] ^ 1])])]))


# --- instruments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.95, 4.0), (1.0, 4.0)], ids=str)
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_disk_counts_what_is_occupied(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "full").write_bytes(b"x" * 100_000)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10_000_000)
    assert 100_000 <= disk_bytes(tmp_path) < 1_000_000


def test_what_is_measured_runs_alone_and_as_a_node() -> None:
    assert alone(os.getpid) != os.getpid()
    assert alone(gc.get_threshold) == COLLECT_AFTER


def test_what_is_measured_may_fail() -> None:
    with pytest.raises(ValueError, match="no values"):
        alone(percentile, [], 0.5)


def test_more_sockets_than_the_system_allows_are_refused() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this system allows any number of open files")
    with pytest.raises(OSError, match=str(hard)):
        allow_open_files(hard + 1)


def test_cost_and_machine_are_stated() -> None:
    assert cost_of().rss_mb > 1
    assert describe()["cores"]


def test_the_client_says_when_nobody_listens() -> None:
    with pytest.raises(OSError, match="onnect"):
        fetch("127.0.0.1", 1, request("GET", "/"))


def test_a_request_carries_length_token_and_media_type() -> None:
    raw = request("POST", "/v1/x", body=b"abc", token="t")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"content-length: 3" in head
    assert b"authorization: Bearer t" in head
