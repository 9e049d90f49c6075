"""Goal: by which words a sealed record is found, and whose keys it is found with (KEY-4).

Method: FHIR resources with every place a text or a name can stand in; the organisation's secret in a real file; what
the ledger shows as the rows of a timeline.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carechain.chain.questions import AnchorLine
from carechain.contracts.records import AnchorRow
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sdk.searching import (
    IndexSecret,
    SearchCode,
    found_among,
    index_lines,
    index_root,
    is_index,
    key_of,
    plain_text,
    texts_of,
)
from carechain.sealing.blind_index import BlindIndex, index_record_id
from carechain.sealing.contents import write_contents
from world import CHAIN_ID, seeded

PSEUDONYM = seeded("pseudonym")


def words_in(resource: Any) -> str:
    return "\n".join(texts_of(json.dumps(resource, ensure_ascii=False).encode()))


def line(name: str, *, record: bytes | None = None, **fields: Any) -> AnchorLine:
    values: dict[str, Any] = {
        "root": seeded("root", name),
        "resources": 1,
        "category": Category.RESULT,
        "sensitivity": Sensitivity.N,
        "day": 45_000,
        "author": seeded("author"),
        "anchored_s": 1,
    }
    return AnchorLine(record or seeded("record", name), 1, AnchorRow(**values | fields))


# --- words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "found"),
    [
        ({"code": {"text": "2型糖尿病"}}, "2型糖尿病"),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "1558-6", "display": "Glucose"}]}}, "Glucose"),
        ({"code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": "E11.9"}]}}, "E11.9"),
        ({"valueString": "阴性"}, "阴性"),
        ({"note": [{"text": "三个月后复查"}]}, "三个月后复查"),
        ({"conclusion": "no fracture"}, "no fracture"),
        ({"contained": [{"resourceType": "Medication", "code": {"text": "二甲双胍"}}]}, "二甲双胍"),
        ({"medicationReference": {"reference": "Medication/m1", "display": "Metformin"}}, "Metformin"),
        ({"text": {"div": "<div>空腹<b>血糖</b></div>"}}, "空腹血糖"),
    ],
)
def test_what_people_wrote_is_found(resource: Any, found: str) -> None:
    assert found in words_in(resource).split("\n")


@pytest.mark.parametrize(
    "resource",
    [
        {"id": "secret"},
        {"identifier": [{"type": {"text": "secret"}, "value": "secret"}]},
        {"subject": {"reference": "Patient/secret", "display": "secret"}},
        {"subject": {"reference": "urn:uuid:secret", "display": "secret"}},
        {"performer": [{"reference": "https://x.example/fhir/Practitioner/1/_history/2", "display": "secret"}]},
        {"performer": [{"reference": "?", "type": "Organization", "display": "secret"}]},
        {"name": [{"text": "secret"}]},
        {"contact": [{"name": {"text": "secret"}}]},
        {"address": [{"text": "secret"}]},
        {"meta": {"security": [{"system": "s", "code": "secret", "display": "secret"}]}},
        {"extension": [{"url": "secret", "valueString": "secret"}]},
        {"status": "secret", "url": "secret", "valueUri": "secret"},
        {"request": {"code": "secret"}},
        {"text": {"div": "<style>secret</style><p title='secret'>x</p><!-- secret --><img src='secret'/>"}},
        {"content": [{"attachment": {"contentType": "application/pdf", "data": "secret", "url": "secret"}}]},
    ],
    ids=lambda one: next(iter(one)),
)
def test_ids_references_names_and_markup_are_not(resource: Any) -> None:
    assert "secret" not in words_in({"resourceType": "Observation", **resource})


def test_an_attached_text_is_read() -> None:
    def attached(kind: str, text: bytes) -> str:
        return words_in({"attachment": {"contentType": kind, "data": base64.b64encode(text).decode()}})

    assert attached("text/plain;charset=utf-8", "出院小结".encode()) == "出院小结"
    assert attached("text/html", b"<p>dis<i>charge</i></p>").strip() == "discharge"
    assert attached("text/plain", b"\xff") == ""
    assert words_in({"attachment": {"contentType": "text/plain", "data": "?"}}) == ""


def test_text_files_are_read_whole_and_pictures_not_at_all() -> None:
    assert texts_of("主诉：头痛三天".encode()) == ["主诉：头痛三天"]
    assert texts_of(b"42") == ["42"]
    assert texts_of(b"\x89PNG\r\n\xff") == []
    assert texts_of(b"DICM\0words") == []
    assert texts_of(b"") == [""]


@pytest.mark.parametrize("levels", [100, 100_000])
def test_depth_has_an_end(levels: int) -> None:
    """What is nested deeper than any resource is not read; what no decoder reads is taken as text, whole."""
    deep = '{"x":[' * levels + '{"text":"bottom"}' + "]}" * levels
    assert texts_of(deep.encode()) in ([], [deep])


@given(
    st.binary() | st.recursive(st.text() | st.integers(), lambda one: st.lists(one) | st.dictionaries(st.text(), one))
)
def test_nothing_makes_it_fail(content: Any) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    assert all(isinstance(one, str) for one in texts_of(data))


@given(st.text())
def test_no_markup_makes_the_stripper_fail(markup: str) -> None:
    plain_text(f"<div>{markup}</div>")


def test_blocks_are_cut_and_marked_up_words_are_not() -> None:
    assert plain_text("<p>糖<b>尿</b>病</p><p>高&#34880;压<br/>x</p>").split() == ["糖尿病", "高血压", "x"]


# --- the secret -----------------------------------------------------------------------------------------


def test_the_secret_is_made_once_and_read_again(tmp_path: Path, entropy: Callable[[int], bytes]) -> None:
    path = tmp_path / "index.secret"
    made = IndexSecret.load_or_create(path, entropy=entropy)
    again = IndexSecret.load_or_create(path, entropy=entropy)
    assert made.fingerprint(b"x") == again.fingerprint(b"x") != made.fingerprint(b"y")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text(encoding="ascii").strip() not in repr(made)
    with pytest.raises(ValueError, match="32 bytes"):
        IndexSecret(b"short")


@pytest.mark.parametrize(
    ("text", "mode", "code"),
    [
        ("no secret", 0o600, SearchCode.SECRET_DAMAGED),
        ("00" * 31, 0o600, SearchCode.SECRET_DAMAGED),
        ("00" * 32, 0o640, SearchCode.SECRET_OPEN_TO_OTHERS),
    ],
)
def test_a_secret_that_is_none_is_refused(
    tmp_path: Path, entropy: Callable[[int], bytes], text: str, mode: int, code: SearchCode
) -> None:
    path = tmp_path / "index.secret"
    path.write_text(text, encoding="ascii")
    path.chmod(mode)
    with pytest.raises(Rejected) as refused:
        IndexSecret.load_or_create(path, entropy=entropy)
    assert refused.value.code is code


def test_the_root_of_an_index_says_whose_it_is() -> None:
    """The same organisation always gives the same root, another one or another place never."""
    place: dict[str, Any] = {
        "chain_id": CHAIN_ID,
        "pseudonym": PSEUDONYM,
        "category": Category.RESULT,
        "sensitivity": Sensitivity.N,
    }
    roots = set()
    for secret in (bytes(32), bytes(31) + b"x"):
        for changed in ({}, {"sensitivity": Sensitivity.R}, {"category": Category.IMAGE}, {"pseudonym": seeded("q")}):
            salt, key = IndexSecret(secret).index(**place | changed)
            assert index_root(salt, key, Institution.INTERNATIONAL) == write_contents([(salt, key)])[1]
            assert secret not in (salt, key)
            roots.add(index_root(salt, key, Institution.INTERNATIONAL))
    assert len(roots) == 8
    assert IndexSecret(bytes(32)).index(**place) == IndexSecret(bytes(32)).index(**place)


# --- where index keys lie -------------------------------------------------------------------------------


def test_index_keys_are_known_by_their_id_in_their_own_place() -> None:
    own = index_record_id(PSEUDONYM, Category.RESULT, Sensitivity.N)
    index, result = line("index", record=own), line("result")
    elsewhere = line("index", record=own, sensitivity=Sensitivity.R)
    assert index_lines(PSEUDONYM, [index, result, elsewhere]) == [index]
    assert not is_index(seeded("somebody else"), index)


def test_a_vault_can_name_only_what_the_ledger_shows_in_that_place() -> None:
    index = line("index", record=index_record_id(PSEUDONYM, Category.RESULT, Sensitivity.N))
    here, restricted, image = (
        line("here"),
        line("restricted", sensitivity=Sensitivity.R),
        line("image", category=Category.IMAGE),
    )
    named = [one.record for one in (index, here, restricted, image)] + [seeded("invented")]
    assert found_among(PSEUDONYM, index, named, [index, here, restricted, image]) == [here]
    assert found_among(PSEUDONYM, index, [], [here]) == []


@pytest.mark.parametrize("resources", [(), (b"short",), (bytes(32), bytes(32))])
def test_what_is_no_index_key_is_not_used(resources: tuple[bytes, ...]) -> None:
    with pytest.raises(Rejected) as refused:
        key_of(resources)
    assert refused.value.code is SearchCode.INDEX_UNSOUND


def test_a_resource_is_found_by_its_words_under_its_key() -> None:
    _, key = IndexSecret(bytes(32)).index(
        chain_id=CHAIN_ID, pseudonym=PSEUDONYM, category=Category.RESULT, sensitivity=Sensitivity.N
    )
    index = BlindIndex(key_of([key]))
    tokens = set(index.tokens(seeded("r"), texts_of('{"note": [{"text": "疑似糖尿病"}]}'.encode())))
    assert set(index.search_tokens("糖尿病")) <= tokens
    assert not set(index.search_tokens("高血压")) <= tokens
