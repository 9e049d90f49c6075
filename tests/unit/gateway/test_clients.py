"""Goal: the file of apps keeps what it was told, through restarts and beside another process, and is private.

Method: the file is opened twice, as the node and a command have it open, and looked at as bytes.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from carechain.core.rejection import Rejected
from carechain.gateway.clients import (
    APPS_FILE,
    Approver,
    Apps,
    AppsTooNew,
    AppsUnavailable,
    Authorisation,
    Client,
    known,
)
from carechain.gateway.codes import SmartCode
from carechain.gateway.smart.tokens import approval_code, new_approval_code, new_token
from world import entropy_of

NOW_S = 1_800_000_000


def app(client_id: str = "client-0001", **changed: object) -> Client:
    told = {
        "client_id": client_id,
        "name": "Viewer",
        "redirects": ("https://app.example/cb",),
        "scopes": ("patient/*.rs",),
        "acting": "nora",
        "party": bytes(32),
        **changed,
    }
    return Client(**told)  # type: ignore[arg-type]


def let(number: int = 1, *, until_s: int = NOW_S + 1000) -> Authorisation:
    return Authorisation(
        id=bytes([number]) * 32,
        client_id="client-0001",
        by=Approver.PATIENT,
        party=bytes(32),
        scopes=("patient/*.rs",),
        started_s=NOW_S,
        until_s=until_s,
    )


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Apps]:
    with Apps.at(tmp_path) as apps:
        apps.register(app())
        yield apps


def test_another_process_sees_it_at_once(apps: Apps, tmp_path: Path) -> None:
    with Apps.at(tmp_path) as command:
        command.register(app("client-0002", name="另一个"))
        assert known(apps, "client-0002").name == "另一个"
        assert command.remove("client-0002")
    with pytest.raises(Rejected) as refused:
        known(apps, "client-0002")
    assert refused.value.code is SmartCode.CLIENT_UNKNOWN


def test_there_is_room_for_so_many(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carechain.gateway.clients.APPS", 1)
    with pytest.raises(Rejected) as refused:
        apps.register(app("client-0002"))
    assert refused.value.code is SmartCode.TOO_MANY_APPS
    assert apps.register(app(name="Another name")).name == "Another name"


def test_scopes_are_kept_as_they_were_written(apps: Apps) -> None:
    kept = apps.register(app("client-0003", scopes=("patient/Observation.read", "patient/*.rs", "openid")))
    assert kept.scopes == ("patient/Observation.read", "patient/*.rs", "openid")


def test_a_token_ends_with_its_time_its_approval_and_its_app(apps: Apps) -> None:
    apps.start(let())
    apps.add_token("t", let().id, refreshes=False, scopes=("patient/*.rs",), until_s=NOW_S + 10)
    assert apps.token("t", NOW_S) is not None
    assert apps.token("t", NOW_S + 10) is None
    assert apps.token("T", NOW_S) is None
    apps.end(let().id)
    assert apps.token("t", NOW_S) is None


def test_a_refresh_token_is_used_once(apps: Apps) -> None:
    apps.start(let())
    apps.add_token("r", let().id, refreshes=True, scopes=(), until_s=NOW_S + 10)
    assert apps.use_refresh("r")
    assert not apps.use_refresh("r")
    held = apps.token("r", NOW_S)
    assert held is not None
    assert held.used


def test_what_ended_long_ago_is_forgotten(apps: Apps, tmp_path: Path) -> None:
    apps.start(let(1, until_s=NOW_S + 1))
    apps.add_token("t", let(1).id, refreshes=True, scopes=(), until_s=NOW_S + 1)
    later = Authorisation(
        id=bytes([2]) * 32,
        client_id="client-0001",
        by=Approver.PATIENT,
        party=bytes(32),
        scopes=(),
        started_s=NOW_S + 2,
        until_s=NOW_S + 9,
    )
    apps.start(later)
    with sqlite3.connect(tmp_path / APPS_FILE) as connection:
        assert connection.execute("SELECT count(*) FROM authorisations").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM tokens").fetchone() == (0,)


def test_an_assertion_is_remembered_until_it_ends(apps: Apps) -> None:
    assert apps.use_assertion("client-0001", "j", until_s=NOW_S + 10, now_s=NOW_S)
    assert not apps.use_assertion("client-0001", "j", until_s=NOW_S + 10, now_s=NOW_S)
    assert apps.use_assertion("client-0002", "j", until_s=NOW_S + 10, now_s=NOW_S)
    assert apps.use_assertion("client-0001", "j", until_s=NOW_S + 30, now_s=NOW_S + 10)


def test_a_newer_file_is_left_alone_and_a_broken_one_named(tmp_path: Path) -> None:
    Apps.at(tmp_path).close()
    with sqlite3.connect(tmp_path / APPS_FILE) as connection:
        connection.execute("INSERT INTO clients VALUES ('client-0001', x'00')")
    with Apps.at(tmp_path) as apps, pytest.raises(AppsUnavailable):
        apps.clients()
    with sqlite3.connect(tmp_path / APPS_FILE) as connection:
        connection.execute("UPDATE store_info SET version = 99")
    with pytest.raises(AppsTooNew):
        Apps.at(tmp_path)
    (tmp_path / APPS_FILE).write_bytes(b"not a database, and long enough to be looked at" * 100)
    with pytest.raises(AppsUnavailable):
        Apps.at(tmp_path)


def test_codes_can_be_read_out_and_typed() -> None:
    entropy = entropy_of("codes")
    codes = {new_approval_code(entropy) for _ in range(500)}
    assert len(codes) == 500
    assert all(len(code) == 9 and code[4] == "-" and not set(code) & set("01OILU") for code in codes)
    assert approval_code(" k7xm 2pq9\n") == "K7XM-2PQ9"
    assert approval_code("k7xm-2pq9") == "K7XM-2PQ9"
    assert len(new_token("cca_", entropy)) == 4 + 43
