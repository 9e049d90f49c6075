"""Goal: what the hand-written pages about a node say is what the node does.

Method: the worked configuration is loaded as a file; paths, statuses, bounds, figures and the example of a session's
opening are read out of the Markdown and compared with the code, in both directions.
"""

import asyncio
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from starlette.routing import Route

from carechain.chain.queries import QueryCode
from carechain.chain.tx import AdmissionCode
from carechain.core.crypto import SigningKey, Suite
from carechain.core.ids import party_id
from carechain.core.limits import (
    EVENT_STREAM_BACKLOG,
    EVENT_STREAM_SUBSCRIBERS,
    EVENT_STREAMS_PER_PARTY,
    HEARTBEAT_S,
    HTTP_BODY_BYTES,
    HTTP_BODY_S,
    OPENING_BODY_BYTES,
    QUERY_BODY_BYTES,
    SESSION_LIFETIME_S,
    SESSIONS_PER_ORGANISATION,
    SESSIONS_PER_PARTY,
    STALE_BLOCK_S,
    SUBMIT_QUEUE_BYTES,
    SUBMIT_QUEUE_TXS,
    TX_SIZE_BYTES,
)
from carechain.node import http
from carechain.node.http import Api
from carechain.node.refusals import NodeCode
from carechain.node.rest import PATHS
from carechain.node.settings import Settings, load_settings
from carechain.node.wire import status_of
from carechain.sdk.authentication import AuthCode, Service, opening_message, sign_opening
from node_network import running

if TYPE_CHECKING:
    from carechain.core.rejection import RejectionCode

DOCS = Path(__file__).parents[2] / "docs"
HTTP = (DOCS / "reference" / "http.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "operating" / "configuration.md").read_text(encoding="utf-8")
RUNNING = (DOCS / "operating" / "running.md").read_text(encoding="utf-8")
MIB = 1024 * 1024


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def api(tmp_path: Path) -> Api:
    async def main() -> Api:
        async with running(tmp_path, populate=False) as net:
            return Api(net.service)

    return asyncio.run(main())


# --- http.md --------------------------------------------------------------------------------------------


def test_every_path_has_its_section_and_every_section_its_path(api: Api) -> None:
    served = {f"POST {http._SUBMIT}", f"POST {http._QUERY}{{name}}"}
    for route in api._rest.routes:
        assert isinstance(route, Route)
        if route.path not in PATHS:
            served |= {f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"}}
    sections = re.findall(r"^## ((?:GET|POST|DELETE|PUT) \S+)$", HTTP, re.MULTILINE)
    listed = re.findall(r"^\| \[`((?:GET|POST|DELETE|PUT) \S+)`\]", HTTP, re.MULTILINE)
    assert sorted(sections) == sorted(listed) == sorted(served)
    resources = re.findall(r"^\| `(/v1/\S+)` \| `(\S+)` \|$", section(HTTP, "Queries as resources"), re.MULTILINE)
    assert dict(resources) == dict(PATHS)


def test_statuses_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", section(HTTP, "Refusals"), re.MULTILINE)
    documented = {label: int(status) for status, labels in rows for label in re.findall(r"`([A-Z_.]+)`", labels)}
    kinds: tuple[type[RejectionCode], ...] = (AdmissionCode, AuthCode, NodeCode, QueryCode)
    codes = {code.label: code for kind in kinds for code in kind}
    assert {label: status_of(codes[label]) for label in documented} == documented
    assert {label for label in codes if label not in documented and status_of(codes[label]) != 400} == set()


def test_bounds_are_those_of_the_code() -> None:
    forms, sessions, events = (
        " ".join(section(HTTP, title).split()) for title in ("Forms", "Sessions", "GET /v1/events")
    )
    assert (TX_SIZE_BYTES, QUERY_BODY_BYTES) == (64 * 1024, 64 * 1024)
    assert "64 KiB for a transaction and for a query" in forms
    assert f"{HTTP_BODY_BYTES // MIB} MiB for a batch" in forms
    assert f"{OPENING_BODY_BYTES // 1024} KiB for an opening" in forms
    assert f"{HTTP_BODY_S:.0f} seconds after its head" in forms
    assert f"lasts {SESSION_LIFETIME_S} seconds" in sessions
    assert f"at most {SESSIONS_PER_PARTY} sessions" in sessions
    assert f"together at {SESSIONS_PER_ORGANISATION:,}" in sessions
    assert f"{EVENT_STREAM_BACKLOG:,} blocks behind" in events
    assert f"{EVENT_STREAM_SUBSCRIBERS} streams at once, {EVENT_STREAMS_PER_PARTY} of them" in events
    assert f"1 to {SUBMIT_QUEUE_TXS:,}" in HTTP


def test_the_example_of_an_opening_holds() -> None:
    rows = re.findall(r"^\| (seed|party|signed bytes|signature|chain_id|service) \| `([0-9a-f]+)`", HTTP, re.MULTILINE)
    example = {name: bytes.fromhex(value) for name, value in rows}
    key = SigningKey(suite=Suite.ED25519, seed=example["seed"])
    assert party_id(key.suite, key.public_key) == example["party"]
    signed: dict[str, Any] = {
        "chain_id": example["chain_id"].decode(),
        "service": Service(example["service"].decode()),
        "server": b"\x11" * 32,
        "party": example["party"],
        "time_s": int.from_bytes(bytes.fromhex("000000006b49d200"), "big"),
        "nonce": b"\x22" * 16,
    }
    assert signed["time_s"] == 1_800_000_000
    assert opening_message(**signed) == example["signed bytes"]
    assert sign_opening(key, **signed).signature == example["signature"]


# --- configuration.md -----------------------------------------------------------------------------------


def test_the_complete_file_is_complete_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARECHAIN_HOME", str(tmp_path))
    text = section(CONFIGURATION, "A complete file").partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    settings = load_settings()
    assert settings.api.tls_key == Path("keys/tls.key")
    check_complete(tomllib.loads(text), {name: one for name, one in Settings.model_fields.items() if name != "home"})


def check_complete(group: dict[str, Any], fields: dict[str, Any]) -> None:
    """Whether a table of the file names every setting that there is, and so do the tables in it."""
    assert set(group) == set(fields)
    for name, field in fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        if inner is not None:
            check_complete(group[name], inner)


def test_the_figures_in_the_text_are_those_of_the_code() -> None:
    assert f"- {HEARTBEAT_S} seconds have passed since the last block" in CONFIGURATION
    defaults = Settings.model_fields
    assert defaults["batch"].annotation is not None
    batch = Settings().batch
    assert f"(the defaults) | {batch.timeout_s} | {batch.txs} |" in CONFIGURATION
    assert f"{SUBMIT_QUEUE_TXS:,} transactions or {SUBMIT_QUEUE_BYTES // MIB} MiB" in RUNNING
    assert f"the last is at most {STALE_BLOCK_S} s old" in RUNNING


# --- running.md -----------------------------------------------------------------------------------------


def test_every_figure_is_explained(api: Api) -> None:
    exposed = set(re.findall(r"^# TYPE (\w+) (?!unknown)", api._service.metrics.exposition().decode(), re.MULTILINE))
    made = {name for name in exposed if not name.endswith("_created")}
    explained = set(re.findall(r"`(carechain_[a-z_]+?)(?:\{[a-z,]+\})?`", RUNNING))
    assert explained == made
