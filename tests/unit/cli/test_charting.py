"""Goal: what the command line adds to charts is valid FHIR R4, and goes where the node keeps its charts.

Method: bundles with one thing wrong each; a home whose settings name a database instead of the file.
"""

import json
from pathlib import Path

import pytest

from carechain.charts.codes import ChartsCode
from carechain.charts.schema import ChartsUnavailable
from carechain.cli.charting import open_charts, require_valid
from carechain.cli.output import CannotRun, Denied
from carechain.core.rejection import Rejected
from carechain.demo import synthetic


def changed(**fields: object) -> bytes:
    """A made-up patient's bundle with some fields of its Patient changed."""
    bundle = json.loads(synthetic.patient(3, seed=1))
    (patient,) = [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "Patient"]
    patient.update(fields)
    return json.dumps(bundle).encode()


def test_a_valid_bundle_passes() -> None:
    require_valid(changed())


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"gender": 7}, "gender"),
        ({"birthdate": "1970-01-01"}, "Bundle.entry["),
        ({"name": "王小明"}, "name"),
        ({"text": {"status": "generated", "div": "<div><script>x</script></div>"}}, "text"),
    ],
)
def test_an_invalid_one_is_refused_with_its_place_and_without_its_values(fields: dict[str, object], place: str) -> None:
    with pytest.raises(Denied) as refused:
        require_valid(changed(**fields))
    assert refused.value.code == ChartsCode.INVALID_RESOURCE
    issues = refused.value.data["issues"]
    assert isinstance(issues, list)
    assert any(place in str(one["location"]) for one in issues)
    assert "王小明" not in refused.value.reason + json.dumps(issues, ensure_ascii=False)


def test_what_is_no_bundle_keeps_its_own_code() -> None:
    with pytest.raises(Rejected) as refused:
        require_valid(b"{}")
    assert refused.value.code is ChartsCode.NOT_A_BUNDLE


def test_charts_are_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotRun, match="carechain init"):
        open_charts(tmp_path)
    (tmp_path / "charts").mkdir()
    monkeypatch.setattr("carechain.cli.charting.home_genesis", lambda _home: synthetic_genesis())
    open_charts(tmp_path).close()
    assert (tmp_path / "charts" / "charts.sqlite").is_file()
    address = tmp_path / "database"
    address.write_text("mysql://elsewhere/charts")
    (tmp_path / "config.toml").write_text('fhir.database_url_file = "database"')
    address.chmod(0o644)
    with pytest.raises(CannotRun, match="database"):
        open_charts(tmp_path)
    address.chmod(0o600)
    with pytest.raises(ChartsUnavailable, match="postgresql"):
        open_charts(tmp_path)


def synthetic_genesis() -> object:
    """All that opening charts asks of a genesis."""

    class Suite:
        suite = None

    return Suite()
