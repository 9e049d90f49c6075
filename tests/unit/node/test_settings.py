"""Goal: a node is told what to do by file < environment < flag, refuses what it does not know, and keeps secrets.

Method: settings loaded from files in a temporary folder and a patched environment.
"""

from pathlib import Path

import pytest

from carechain.node.settings import BadSettings, Settings, load_settings, read_secret, require_private


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CARECHAIN_HOME", str(tmp_path))


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_file_below_environment_below_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().api.port == 8710
    write(tmp_path / "config.toml", "[api]\nport = 1\nhost = '::1'\n[batch]\ntxs = 5\n")
    assert (load_settings().api.port, load_settings().batch.txs) == (1, 5)
    monkeypatch.setenv("CARECHAIN_API__PORT", "2")
    assert load_settings().api.port == 2
    settings = load_settings(flags={"api": {"port": 3, "host": None}})
    assert (settings.api.port, settings.api.host, settings.batch.txs) == (3, "::1", 5)


def test_the_home_says_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "其他"
    other.mkdir()
    write(other / "config.toml", "[ops]\nport = 9\n")
    assert load_settings().ops.port == 8711
    assert load_settings(home=other).ops.port == 9
    assert load_settings(home=other).home == other
    monkeypatch.setenv("CARECHAIN_HOME", str(other))
    assert load_settings().ops.port == 9
    named = write(tmp_path / "named.toml", "[ops]\nport = 10\n")
    assert load_settings(named).ops.port == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1\n", "colour"),
        ("[api]\nprot = 1\n", "api.prot"),
        ("[api]\nport = 70000\n", "api.port"),
        ("[api]\nport = 'x'\n", "api.port"),
        ("[api]\ntls_key = 'k'\n", "together"),
        ("[batch]\ntxs = 0\n", "batch.txs"),
        ("[batch]\ntimeout_s = -1\n", "batch.timeout_s"),
        ("[log]\nlevel = 'loud'\n", "log.level"),
        ("api = 3\n", "api"),
        ("[api\n", "TOML"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "config.toml", text)
    with pytest.raises(BadSettings, match=said):
        load_settings()


def test_a_refused_value_is_not_repeated(tmp_path: Path) -> None:
    write(tmp_path / "config.toml", "password = 'hunter2'\n[api]\nport = 'hunter2'\n")
    with pytest.raises(BadSettings) as bad:
        load_settings()
    assert "hunter2" not in str(bad.value)


@pytest.mark.parametrize("name", ["CARECHAIN_API__PROT", "CARECHAIN_API__PORT", "CARECHAIN_API"])
def test_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "nonsense")
    with pytest.raises(BadSettings):
        load_settings()


def test_a_variable_that_is_a_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARECHAIN_FHIR", "http://127.0.0.1:8714")
    with pytest.raises(BadSettings, match="CARECHAIN_FHIR cannot be read") as bad:
        load_settings()
    assert "8714" not in str(bad.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fhir]\nport = 1\n[fhir]\nport = 2\n", "line 3, column 6.* twice"),
        ("password = 'hunter2", "end of document|line 1"),
    ],
)
def test_a_file_that_is_no_toml_says_where(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "config.toml", text)
    with pytest.raises(BadSettings, match=said) as bad:
        load_settings()
    assert "hunter2" not in str(bad.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="cannot be read"):
        load_settings(tmp_path / "no.toml")


def test_every_setting_says_what_it_is() -> None:
    def described(kind: type[Settings]) -> None:
        for name, field in kind.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                assert inner.__doc__
                described(inner)
            else:
                assert field.description, name
                assert field.description.endswith("."), name

    described(Settings)


def test_secrets_come_from_private_files(tmp_path: Path) -> None:
    assert read_secret(write(tmp_path / "s", "口令 one\nsecond line\n")) == "口令 one"
    for text, mode, said in (("x", 0o640, "0600"), ("", 0o600, "one line"), ("\n", 0o600, "one line")):
        with pytest.raises(BadSettings, match=said):
            read_secret(write(tmp_path / "bad", text, mode))
    with pytest.raises(BadSettings, match="not a file"):
        read_secret(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        read_secret(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "bytes").chmod(0o600)
    with pytest.raises(BadSettings, match="UTF-8"):
        read_secret(tmp_path / "bytes")
    with pytest.raises(BadSettings, match="0600"):
        require_private(write(tmp_path / "key", "k", 0o644))


def test_groups_become_what_the_engine_takes() -> None:
    settings = load_settings(flags={"batch": {"timeout_s": 20, "txs": 1}, "checkpoints": {"txs": 7}})
    assert (settings.batch.policy().timeout_s, settings.batch.policy().txs) == (20, 1)
    assert settings.checkpoints.checkpoints().txs == 7
    assert settings.path(Path("keys/x")) == settings.home / "keys" / "x"
    assert settings.path(Path("/abs")) == Path("/abs")
