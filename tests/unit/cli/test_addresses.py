"""Goal: a command finds its nodes, knows whose they are, and believes the right certificates; doctor says what ails.

Method: homes made by the program itself, genesis values made for the case, and the checks called as doctor calls them.
"""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import typer
from msgspec.structs import replace
from typer.testing import CliRunner

from carechain.cli import addresses
from carechain.cli.addresses import address_of, nodes_of, reachable, serving_member, split_addresses, trust_of
from carechain.cli.checkup import _engine, examine
from carechain.cli.keyring import Keyring
from carechain.cli.main import app
from carechain.cli.network import home_genesis
from carechain.cli.output import CannotRun
from carechain.core.ids import party_id
from carechain.core.vocabulary import OrganisationKind
from carechain.node.settings import load_settings
from carechain.sdk.nodes import Node
from world import Organisation, seeded

B = Organisation("b", kind=OrganisationKind.INSURER)
URL = "https://node.example:8710"


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("secret") / "password"
    path.touch(mode=0o600)
    path.write_text("密码\n", encoding="utf-8")
    return str(path)


def run(home: Path, *words: str, expect: int = 0, env: dict[str, str] | None = None) -> Any:
    result = CliRunner().invoke(app, [*words, "--json", "--home", str(home)], env=env)
    assert result.exit_code == expect, (result.stdout, result.stderr)
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path: Path, password: str) -> Path:
    made = tmp_path / "医院"
    words = ("--name", "协和医院", "--kind", "hospital", "--tls-host", "node.example", "--password-file", password)
    run(made, "init", *words)
    return made


def member_of(home: Path) -> bytes:
    (founder,) = home_genesis(home).members
    return party_id(founder.suite, founder.public_key)


# --- addresses ------------------------------------------------------------------------------------------


def test_addresses_may_be_repeated_and_stand_in_one_list() -> None:
    assert split_addresses(None) == split_addresses(["", " , "]) == []
    assert split_addresses(["http://a, http://b", "b=http://c"]) == ["http://a", "http://b", "b=http://c"]
    assert [address_of(one) for one in (URL, f"b={URL}", f"{URL}/?x=1")] == [URL, URL, f"{URL}/?x=1"]


def test_whose_node_an_address_is(tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    keys.note("b", seeded("b"))
    own, other = seeded("own"), seeded("c")
    assert nodes_of([URL, f"b={URL}", f"{other.hex()}={URL}/"], own=own, keys=keys) == [
        Node(URL, own),
        Node(URL, seeded("b")),
        Node(URL, other),
    ]
    for wrong in ("nonsense", "ftp://node", f"nobody={URL}"):
        with pytest.raises(typer.BadParameter):
            nodes_of([wrong], own=own, keys=keys)


def test_the_one_producer_serves_and_elsewhere_ones_own_organisation(home: Path, tmp_path: Path) -> None:
    genesis, keys = home_genesis(home), Keyring(home)
    assert serving_member(genesis, keys) == member_of(home)
    assert serving_member(genesis, Keyring(tmp_path)) == member_of(home), "also for a home of another"
    consortium = replace(genesis, producers=(), validators=(Organisation("v", kind=OrganisationKind.INSURER).seat(),))
    assert serving_member(consortium, keys) == member_of(home)
    assert serving_member(consortium, Keyring(tmp_path)) is None


def test_a_server_that_listens_everywhere_is_reached_by_loopback() -> None:
    assert reachable("https://0.0.0.0:8710") == "https://127.0.0.1:8710"
    assert reachable("https://[::]:8710") == "https://[::1]:8710"
    assert reachable(URL) == URL


# --- what is believed -----------------------------------------------------------------------------------


def authorities_in(context: ssl.SSLContext) -> int:
    return len(context.get_ca_certs())


def test_one_organisations_server_is_believed_on_its_own_word(home: Path, tmp_path: Path) -> None:
    genesis = replace(home_genesis(home), members=(*home_genesis(home).members, B.as_new()))
    trust = trust_of(home, genesis)
    assert trust.has_certificate
    assert [authorities_in(trust.context(one)) for one in (member_of(home), B.id, None)] == [1, 1, 2]
    assert authorities_in(trust.context(seeded("nobody"))) == 0
    ca_file = home / "tls" / addresses.AUTHORITY_FILE
    assert authorities_in(trust_of(tmp_path, genesis, ca_file=ca_file).context(seeded("nobody"))) == 1
    assert not trust_of(tmp_path, genesis).has_certificate


@pytest.mark.parametrize("name", [addresses.AUTHORITY_FILE, addresses.CERTIFICATE_FILE, addresses.TLS_KEY_FILE])
def test_files_that_are_none_are_named(home: Path, name: str) -> None:
    (home / "tls" / name).write_text("nonsense", encoding="utf-8")
    with pytest.raises(CannotRun, match="tls"):
        trust_of(home, home_genesis(home))


def test_a_ca_file_that_is_none_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"missing\.pem"):
        trust_of(home, home_genesis(home), ca_file=tmp_path / "missing.pem")


def test_an_applicant_believes_its_own_authority(home: Path, tmp_path: Path, password: str) -> None:
    joined = tmp_path / "b"
    words = ("--name", "B", "--kind", "insurer", "--genesis", str(home / "genesis.json"), "--password-file", password)
    made = run(joined, "init", *words)
    trust = trust_of(joined, home_genesis(joined))
    assert authorities_in(trust.context(bytes.fromhex(made["member"]))) == 1


# --- making certificates, and doctor --------------------------------------------------------------------


def test_a_certificate_is_made_renewed_and_private(home: Path, password: str) -> None:
    config = (home / "config.toml").read_text(encoding="utf-8")
    assert '\ntls_certificate = "tls/certificate.pem"\ntls_key = "tls/key.pem"\n' in config
    again = run(home, "keys", "tls", "--password-file", password)
    assert again["hosts"] == ["node.example", "localhost", "127.0.0.1", "::1"]
    other = run(home, "keys", "tls", "--host", "10.0.0.1", "--host", "医院.example", "--password-file", password)
    assert other["hosts"][:2] == ["10.0.0.1", "医院.example"]
    assert {one.name: one.stat().st_mode & 0o077 for one in (home / "tls").iterdir()} == {
        "authority.pem": 0,
        "certificate.pem": 0,
        "key.pem": 0,
    }
    refused = run(home, "keys", "tls", "--host", "not a host", "--password-file", password, expect=2)
    assert "host" in refused["error"]["reason"]
    (home / "tls" / "certificate.pem").write_text("nonsense")
    assert "--host" in run(home, "keys", "tls", "--password-file", password, expect=3)["error"]["reason"]


def test_doctor_counts_the_days_of_both_certificates(home: Path, password: str) -> None:
    found = {one.name: one for one in examine(home)}
    assert (found["authority"].ok, found["tls certificate"].ok) == (True, True)
    run(home, "keys", "tls", "--days", "10", "--password-file", password)
    soon = {one.name: one for one in examine(home)}["tls certificate"]
    assert not soon.ok
    assert "9 days left" in soon.note
    assert "carechain keys tls" in soon.note
    (home / "tls" / "key.pem").chmod(0o644)
    assert "0600" in {one.name: one for one in examine(home)}["tls certificate"].note
    config = home / "config.toml"
    config.write_text('[api]\nhost = "0.0.0.0"\n', encoding="utf-8")
    bare = {one.name: one for one in examine(home)}["tls certificate"]
    assert (bare.ok, "TLS" in bare.note) == (False, True)
    config.write_text("", encoding="utf-8")
    assert {one.name: one for one in examine(home)}["tls certificate"].ok, "within one machine"


def test_doctor_names_a_missing_engine_and_how_to_get_it(tmp_path: Path) -> None:
    missing = _engine(load_settings(flags={"consensus": {"program": tmp_path / "none"}}, home=tmp_path))
    assert not missing.ok
    assert "make engine" in missing.note
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho 0.40.0\n")
    other.chmod(0o700)
    assert "0.40.0" in _engine(load_settings(flags={"consensus": {"program": other}}, home=tmp_path)).note
    other.write_text("#!/bin/sh\necho v0.39.4+cafe\n")
    assert _engine(load_settings(flags={"consensus": {"program": other}}, home=tmp_path)).ok
