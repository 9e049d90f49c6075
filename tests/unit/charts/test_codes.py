"""Goal: every ChartsCode is reached by input that deserves it, and by nothing else.

Method: one row per code; each row does one wrong thing to an otherwise good call, and a refused bundle leaves no row.
"""

from collections.abc import Callable
from typing import Any

import pytest

from carechain.charts import bundle as bundle_module
from carechain.charts import charting as charting_module
from carechain.charts import validation
from carechain.charts.codes import ChartsCode
from carechain.charts.repository import Change
from carechain.charts.sight import CUSTODIAN, NOTHING, Sight
from carechain.core.limits import BUNDLE_NESTING
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Sensitivity
from fhir_store import Ward, about, change

# The desk is a fixture's class (see conftest.py), so it has no name that can be imported here.
Act = Callable[[Any], object]


def altered(old: bytes, new: bytes) -> Act:
    """The patient alone, with one piece of the bundle's text replaced."""
    return lambda desk: desk.post(desk.pack().replace(old, new))


def written(one: Change, allow: Sight = CUSTODIAN) -> Act:
    """One change through the FHIR store."""
    return lambda desk: Ward(desk.charts).apply([one], allow)


def twice(first: Change, second: Change) -> Act:
    return lambda desk: (Ward(desk.charts).apply([first]), Ward(desk.charts).apply([second]))


def entries(*found: Any, kind: str = "collection") -> Act:
    return lambda desk: desk.post(desk.bundle(*found, kind=kind))


def patient(**elements: Any) -> Act:
    return lambda desk: desk.post(desk.pack({**desk.PATIENT, **elements}))


def subject(reference: str) -> Act:
    return lambda desk: desk.send(desk.about("Basic", "b", subject={"reference": reference}))


def request(method: Any, url: Any) -> Act:
    asked = {"method": method, "url": url}
    return lambda desk: desk.post(desk.bundle({"resource": desk.PATIENT, "request": asked}, kind="transaction"))


def nested(depth: int) -> Act:
    return altered(b'"Jo"', b"[" * depth + b"]" * depth)


def same_full_url(desk: Any) -> object:
    found = ({"resource": one, "fullUrl": "urn:uuid:1"} for one in (desk.PATIENT, desk.about("Basic", "b")))
    return desk.post(desk.bundle(*found))


def second_patient(desk: Any) -> None:
    desk.send()
    desk.send({**desk.PATIENT, "id": "pat-2"})


def second_pseudonym(desk: Any) -> None:
    desk.send()
    desk.post(desk.pack(), pseudonym=b"q" * 32)


ROWS: list[tuple[ChartsCode, Act]] = [
    (ChartsCode.NOT_UTF8, altered(b"Doe", b"D\xff")),
    (ChartsCode.NOT_JSON, lambda desk: desk.post(b"")),
    (ChartsCode.NOT_JSON, altered(b'{"resourceType": "Bundle"', b'\xef\xbb\xbf{"resourceType": "Bundle"')),
    (ChartsCode.NOT_JSON, lambda desk: desk.post(desk.pack()[:-1])),
    (ChartsCode.NOT_JSON, altered(b'"Doe"', b"NaN")),
    (ChartsCode.NOT_JSON, altered(b"Doe", b"\\ud800")),
    (ChartsCode.NOT_JSON, altered(b'"Doe"', b"9" * 5000)),
    (ChartsCode.NESTED_TOO_DEEPLY, nested(BUNDLE_NESTING)),
    (ChartsCode.NESTED_TOO_DEEPLY, nested(100_000)),
    (ChartsCode.NESTED_TOO_DEEPLY, lambda desk: desk.post(b'{"entry": ' + b"[" * 100_000)),
    (ChartsCode.DUPLICATE_KEY, altered(b'"id"', b'"id": "x", "id"')),
    (ChartsCode.DUPLICATE_KEY, altered(b'"resource":', b'"resource": {}, "resource":')),
    (ChartsCode.DUPLICATE_KEY, altered(b'"type"', b'"type": "batch", "type"')),
    (ChartsCode.DUPLICATE_KEY, altered(b'"entry"', b'"entry": [], "entry"')),
    (ChartsCode.NOT_A_BUNDLE, lambda desk: desk.post(b"[]")),
    (ChartsCode.NOT_A_BUNDLE, altered(b'"Bundle"', b'"Patient"')),
    (ChartsCode.NOT_A_BUNDLE, lambda desk: desk.post(b'{"resourceType": "Bundle", "type": "collection", "entry": {}}')),
    (ChartsCode.BUNDLE_TYPE_UNSUPPORTED, altered(b"collection", b"searchset")),
    (ChartsCode.BUNDLE_TYPE_UNSUPPORTED, altered(b'"collection"', b"7")),
    (ChartsCode.NO_ENTRIES, entries()),
    (ChartsCode.NO_ENTRIES, lambda desk: desk.post(b'{"resourceType": "Bundle", "type": "collection"}')),
    (ChartsCode.ENTRY_MALFORMED, entries(5)),
    (ChartsCode.ENTRY_MALFORMED, entries({"fullUrl": "urn:uuid:1"})),
    (ChartsCode.ENTRY_MALFORMED, lambda desk: desk.post(desk.bundle({"resource": desk.PATIENT, "fullUrl": 5}))),
    (ChartsCode.ENTRY_MALFORMED, request(5, "Patient")),
    (
        ChartsCode.ENTRY_MALFORMED,
        lambda desk: desk.post(desk.bundle({"resource": desk.PATIENT, "request": []}, kind="batch")),
    ),
    (ChartsCode.METHOD_UNSUPPORTED, request("DELETE", "Patient/pat-1")),
    (ChartsCode.METHOD_MISSING, lambda desk: desk.post(desk.pack(kind="transaction"))),
    (ChartsCode.REQUEST_URL_MISMATCH, request("PUT", "Patient/pat-2")),
    (ChartsCode.REQUEST_URL_MISMATCH, request("POST", "Encounter")),
    (ChartsCode.REQUEST_URL_MISMATCH, request("POST", "Patient/pat-1")),
    (ChartsCode.NO_RESOURCE_TYPE, entries({"resource": {"id": "x"}})),
    (ChartsCode.UNKNOWN_RESOURCE_TYPE, entries({"resource": {"resourceType": "Horoscope"}})),
    (ChartsCode.BAD_RESOURCE_ID, patient(id="a/b")),
    (ChartsCode.BAD_RESOURCE_ID, patient(id="x" * 65)),
    (
        ChartsCode.BAD_FULL_URL,
        lambda desk: desk.post(desk.bundle({"resource": desk.PATIENT, "fullUrl": "file:///etc/passwd"})),
    ),
    (
        ChartsCode.BAD_FULL_URL,
        lambda desk: desk.post(desk.bundle({"resource": desk.PATIENT, "fullUrl": "urn:uuid:" + "x" * 2000})),
    ),
    (ChartsCode.DUPLICATE_FULL_URL, same_full_url),
    (ChartsCode.DUPLICATE_RESOURCE, lambda desk: desk.send(desk.about("Basic", "b"), desk.about("Basic", "b"))),
    (ChartsCode.IMPOSSIBLE_DATE, patient(birthDate="2023-02-29")),
    (ChartsCode.IMPOSSIBLE_DATE, lambda desk: desk.send(desk.about("Encounter", "e", period={"start": "yesterday"}))),
    (ChartsCode.NO_PATIENT, entries({"resource": {"resourceType": "Organization"}})),
    (ChartsCode.SEVERAL_PATIENTS, lambda desk: desk.send(desk.PATIENT, {**desk.PATIENT, "id": "pat-2"})),
    (ChartsCode.SUBJECT_IS_ANOTHER, subject("Patient/pat-2")),
    (ChartsCode.SUBJECT_IS_ANOTHER, subject("Patient?identifier=7")),
    (ChartsCode.SUBJECT_IS_ANOTHER, subject("urn:uuid:nobody")),
    (ChartsCode.PATIENT_HAS_OTHER_PSEUDONYM, second_pseudonym),
    (ChartsCode.PSEUDONYM_HAS_OTHER_PATIENT, second_patient),
    (ChartsCode.BAD_PSEUDONYM, lambda desk: desk.post(desk.pack(), pseudonym=b"short")),
    (ChartsCode.RECORD_NOT_FOUND, lambda desk: desk.charts.read(bytes(32))),
    (ChartsCode.RECORD_NOT_FOUND, lambda desk: desk.charts.record(bytes(32))),
    (ChartsCode.RECORD_NOT_FOUND, lambda desk: desk.charts.history(bytes(32))),
    (ChartsCode.RECORD_NOT_FOUND, lambda desk: desk.charts.shared("Organization", "none")),
    (ChartsCode.BAD_SEARCH, lambda desk: desk.charts.search(desk.PSEUDONYM, ceiling=Sensitivity.V, categories=0)),
    (
        ChartsCode.BAD_SEARCH,
        lambda desk: desk.charts.search(desk.PSEUDONYM, ceiling=Sensitivity.V, first_day=2, last_day=1),
    ),
    (ChartsCode.BAD_SEARCH, lambda desk: desk.charts.search(desk.PSEUDONYM, ceiling=Sensitivity.V, limit=0)),
    (ChartsCode.DIRECTORY_ONLY, lambda desk: desk.charts.ingest_directory(bundle=desk.pack(), received_s=1)),
    (ChartsCode.VERSION_CONFLICT, written(change(about("Basic", "b", "pat-1"), 1))),
    (ChartsCode.NOT_VISIBLE, written(change(about("Basic", "b", "pat-1")), allow=NOTHING)),
    (ChartsCode.CHART_CHANGED, twice(change(about("Basic", "b", "pat-1")), change(about("Basic", "b", "pat-2")))),
    (ChartsCode.INVALID_RESOURCE, lambda _: validation.check(b'{"resourceType": "Observation"}')),
]


@pytest.mark.parametrize(("code", "act"), ROWS, ids=[f"{number}-{code.name}" for number, (code, _) in enumerate(ROWS)])
def test_each_refusal_has_its_code(desk: Any, code: ChartsCode, act: Act) -> None:
    with pytest.raises(Rejected) as caught:
        act(desk)
    assert caught.value.code is code
    assert str(caught.value) == code.label


@pytest.mark.parametrize(
    ("limit", "code"),
    [("BUNDLE_SIZE_BYTES", ChartsCode.BUNDLE_TOO_LARGE), ("BUNDLE_ENTRIES", ChartsCode.TOO_MANY_ENTRIES)],
)
def test_a_bundle_over_a_bound_is_refused(
    desk: Any, monkeypatch: pytest.MonkeyPatch, limit: str, code: ChartsCode
) -> None:
    monkeypatch.setattr(bundle_module, limit, 1)
    with pytest.raises(Rejected) as caught:
        desk.send(desk.about("Basic", "b"))
    assert caught.value.code is code


def test_a_record_over_its_bound_is_refused(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charting_module, "RESOURCES_PER_RECORD", 0)
    with pytest.raises(Rejected) as caught:
        desk.send()
    assert caught.value.code is ChartsCode.TOO_MANY_RESOURCES
    assert desk.charts.records_of(desk.PSEUDONYM) == ()
    assert desk.charts.local_patient(desk.PSEUDONYM) is None


def test_every_code_has_a_row() -> None:
    bounds = {ChartsCode.BUNDLE_TOO_LARGE, ChartsCode.TOO_MANY_ENTRIES, ChartsCode.TOO_MANY_RESOURCES}
    assert {code for code, _ in ROWS} | bounds == set(ChartsCode)


def test_nothing_of_the_input_is_repeated(desk: Any) -> None:
    """A canary in every place a bundle can carry text never shows in a refusal."""
    canary = "Canary4711"
    for data in (
        desk.pack({**desk.PATIENT, "birthDate": canary}),
        desk.pack({**desk.PATIENT, "id": f"{canary}/"}),
        desk.pack({**desk.PATIENT, "resourceType": canary, "id": "x"}),
        desk.pack(desk.about("Basic", "b", subject={"reference": f"Patient/{canary}"})),
        desk.pack({**desk.PATIENT, "name": [{"text": canary}]})[:-2],
        desk.pack(kind=canary),
    ):
        with pytest.raises(Rejected) as caught:
            desk.post(data)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert canary not in repr(caught.value) + caught.value.code.reason
