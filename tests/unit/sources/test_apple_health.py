"""Goal: an export of any length becomes FHIR in constant memory; a broken or hostile one leaves nothing.

Method: exports written here, those of the test data, and one of 200 MB that is made while it is read, in a process of
its own whose memory the system measures.
"""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from carechain.charts.store import Charts
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sources.imports import apple
from carechain.sources.imports.apple import (
    BAD_NUMBER,
    BAD_TIME,
    BAD_TYPE,
    CORRELATION,
    DEMOGRAPHICS,
    NO_FORM,
    AppleHealth,
)
from carechain.sources.imports.base import Unreadable
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.kinds import kind_of
from imports import PSEUDONYM, codes, file_of, imported, read, sample, stored

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE HealthData [\n<!ELEMENT HealthData (ExportDate)>\n]>\n'
BROKEN_HEAD = (
    '<?xml version="1.0"?>\n<!DOCTYPE HealthData [\n<!ATTLIST Record type CDATA #REQUIRED\n<!ENTITY a "x">\n'
    "<!ELEMENT (((HealthData\n]>\n"
)
LAUGHS = (
    '<?xml version="1.0"?>\n<!DOCTYPE HealthData [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'
    '<HealthData locale="en"><Record type="&b;"/></HealthData>'
)


def record(
    kind: str = "HKQuantityTypeIdentifierBodyMass",
    value: str = "72.50",
    unit: str = "kg",
    start: str = "2024-05-01 08:25:32 +0800",
    end: str = "",
    source: str = "Waage",
) -> str:
    return (
        f'<Record type="{kind}" sourceName="{source}" unit="{unit}" startDate="{start}" endDate="{end or start}" '
        f'value="{value}"><MetadataEntry key="k" value="v"/></Record>\n'
    )


def export(*elements: str, head: str = HEAD) -> str:
    begin = '<HealthData locale="zh_CN">\n<ExportDate value="2024-05-02 10:00:00 +0800"/>\n'
    return f"{head}{begin}{''.join(elements)}</HealthData>\n"


@pytest.fixture
def charts(tmp_path: Path) -> Iterator[Charts]:
    with Charts.open(tmp_path / "charts.sqlite") as opened:
        yield opened


def test_samples_keep_their_digits_and_become_patient_reported(charts: Charts) -> None:
    report = imported(charts, AppleHealth(), export(record(), record("HKQuantityTypeIdentifierHeight", "1.80", "m")))
    assert (report.resources, report.changed, report.skipped) == (2, 3, ())
    weight = next(one for one in stored(charts) if "29463-7" in codes([one]))
    assert weight["valueQuantity"] == {"value": 72.5, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}
    assert weight["effectiveDateTime"] == "2024-05-01T08:25:32+08:00"
    assert weight["device"] == {"display": "Waage"}
    bodies = [
        one.body
        for found in charts.search(PSEUDONYM, ceiling=Sensitivity.V)
        if found.category is Category.PATIENT_REPORTED
        for one in charts.read(found.record_id).resources
    ]
    assert any(b'"value":72.50,' in body for body in bodies)


def test_again_and_a_later_export_add_only_what_is_new(charts: Charts) -> None:
    first = export(record(), record("HKQuantityTypeIdentifierStepCount", "100", "count"))
    later = export(
        record(),
        record("HKQuantityTypeIdentifierStepCount", "100", "count"),
        record("HKQuantityTypeIdentifierStepCount", "50", "count", "2024-05-01 09:00:00 +0800"),
        record(value="73", start="2024-05-02 08:00:00 +0800"),
    )
    assert imported(charts, AppleHealth(), first).changed == 3
    assert imported(charts, AppleHealth(), first).changed == 0
    assert imported(charts, AppleHealth(), later).changed == 2
    steps = [one for one in stored(charts) if "41950-7" in codes([one])]
    assert [one["valueQuantity"]["value"] for one in steps] == [150]


def test_days_are_summed_by_device_and_every_sample_is_kept_where_it_is_wanted() -> None:
    beats = [
        record(
            "HKQuantityTypeIdentifierHeartRate", str(60 + n), "count/min", f"2024-05-01 08:{n:02}:00 +0800", source=who
        )
        for n in range(10)
        for who in ("Uhr", "Gurt")
    ]
    made, skipped = read(AppleHealth(), export(*beats))
    assert (len(made), skipped) == (2, [])
    assert made[0]["valueQuantity"]["value"] == 64.5
    assert made[0]["method"]["coding"][0]["code"] == "average"
    assert [part["valueQuantity"]["value"] for part in made[0]["component"]] == [10, 60, 69]
    assert len(read(AppleHealth(every_sample=True), export(*beats))[0]) == 20


@pytest.mark.parametrize(
    ("kind", "value", "unit", "code", "expected", "ucum"),
    [
        ("OxygenSaturation", "0.97", "%", "59408-5", 97, "%"),
        ("BloodGlucose", "5.4", "mmol&lt;180.1558800000541&gt;/L", "15074-8", 5.4, "mmol/L"),
        ("BloodGlucose", "97", "mg/dL", "2339-0", 97, "mg/dL"),
        ("BodyTemperature", "98.6", "degF", "8310-5", 98.6, "[degF]"),
        ("BloodPressureSystolic", "120", "mmHg", "8480-6", 120, "mm[Hg]"),
        ("NewThing2030", "1", "parsec", "HKQuantityTypeIdentifierNewThing2030", 1, None),
    ],
)
def test_units_and_codes(kind: str, value: str, unit: str, code: str, expected: float, ucum: str | None) -> None:
    (one,), _ = read(AppleHealth(), export(record(f"HKQuantityTypeIdentifier{kind}", value, unit)))
    assert code in codes([one])
    assert one["valueQuantity"]["value"] == expected
    assert one["valueQuantity"].get("code") == ucum


def test_what_has_no_form_is_reported_with_its_place_and_without_its_value() -> None:
    made, skipped = read(
        AppleHealth(),
        export(
            '<Me HKCharacteristicTypeIdentifierDateOfBirth="1990-02-02"/>\n',
            record(start="yesterday"),
            record(value="many"),
            record(kind="<>".replace("<", "&lt;")),
            f'<Correlation type="HKCorrelationTypeIdentifierBloodPressure">{record()}</Correlation>\n',
            '<Audiogram type="x"/>\n',
        ),
    )
    assert made == []
    assert [one.reason for one in skipped] == [DEMOGRAPHICS, BAD_TIME, BAD_NUMBER, BAD_TYPE, CORRELATION, NO_FORM]
    assert skipped[0].place == "line 7"


def test_choices_workouts_and_rings() -> None:
    made, skipped = read(
        AppleHealth(),
        export(
            record("HKCategoryTypeIdentifierSleepAnalysis", "HKCategoryValueSleepAnalysisAsleepREM", ""),
            record("HKCategoryTypeIdentifierSexualActivity", "HKCategoryValueNotApplicable", ""),
            '<Workout workoutActivityType="HKWorkoutActivityTypeRunning" duration="5.1" durationUnit="min" '
            'sourceName="Uhr" startDate="2024-05-01 07:25:41 +0800" endDate="2024-05-01 07:30:52 +0800"/>',
            '<ActivitySummary dateComponents="2024-05-01" activeEnergyBurned="590.2" activeEnergyBurnedUnit="kcal"/>',
        ),
    )
    assert skipped == []
    assert made[0]["valueCodeableConcept"]["coding"][0]["code"] == "HKCategoryValueSleepAnalysisAsleepREM"
    assert made[1]["meta"]["security"][0]["code"] == "SEX"
    assert made[2]["component"][0]["valueQuantity"]["value"] == 5.1
    assert made[3]["effectiveDateTime"] == "2024-05-01"


@pytest.mark.parametrize("head", [HEAD, BROKEN_HEAD, "", "\ufeff" + HEAD])
def test_the_document_type_is_dropped_whatever_it_says(head: str) -> None:
    made, skipped = read(AppleHealth(), export(record(), head=head))
    assert (len(made), skipped) == (1, [])


def test_control_characters_are_filtered_wherever_the_pieces_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = export(record(source="A\x0b&#x1F;pple&#11; &amp; &#x4E2D;文"))
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr(apple, "_READ_BYTES", size)
        (one,), _ = read(AppleHealth(), text)
        assert one["device"]["display"] == "Apple & 中文"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (LAUGHS, ImportCode.FILE_MALFORMED),
        ("", ImportCode.FILE_MALFORMED),
        ("<html></html>", ImportCode.FILE_MALFORMED),
        (HEAD, ImportCode.FILE_TRUNCATED),
        (export(record())[:-30], ImportCode.FILE_TRUNCATED),
        (export(record(), record())[:420], ImportCode.FILE_TRUNCATED),
        (export(record()).replace("</Record>", ""), ImportCode.FILE_MALFORMED),
        (
            export("<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><Record type='&a;'/>"),
            ImportCode.FILE_MALFORMED,
        ),
        (export(record()).encode() + b"\xff", ImportCode.FILE_MALFORMED),
        (export(record(source="x" * 2_000_000)), ImportCode.FILE_TOO_LARGE),
        (b"PK\x03\x04 and then nothing", ImportCode.FILE_TRUNCATED),
    ],
)
def test_a_broken_or_hostile_export_is_refused_and_leaves_nothing(
    content: str | bytes, code: ImportCode, charts: Charts
) -> None:
    with pytest.raises(Unreadable) as refused:
        imported(charts, AppleHealth(), content)
    assert refused.value.code is code
    assert charts.local_patient(PSEUDONYM) is None


def zipped(text: str, name: str = "apple_health_export/导出.xml") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export_cda.xml", "<ClinicalDocument>" + "x" * 10_000)
        archive.writestr(name, text)
        archive.writestr("apple_health_export/workout-routes/route.gpx", "<gpx/>")
    return packed.getvalue()


def test_the_zip_file_of_the_phone_is_read_in_any_language_and_a_bomb_is_not(
    charts: Charts, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = zipped(export(record()))
    assert kind_of(file_of(packed)) == "apple-health"
    assert imported(charts, AppleHealth(), packed).resources == 1
    with pytest.raises(Unreadable) as cut:
        imported(charts, AppleHealth(), packed[: len(packed) // 2])
    assert cut.value.code is ImportCode.FILE_TRUNCATED
    monkeypatch.setattr("carechain.sources.imports.base.Bounded.__init__.__defaults__", (10_000,))
    with pytest.raises(Unreadable) as bomb:
        imported(charts, AppleHealth(), zipped(export("<Audiogram/>\n" * 100_000)))
    assert bomb.value.code is ImportCode.FILE_TOO_LARGE


def test_the_samples_of_the_test_data() -> None:
    for parts in (("export.xml",), ("zip_contents", "apple_health_export", "export.xml")):
        made, _ = read(AppleHealth(), sample("apple-health", "tests", *parts).read_bytes())
        assert made


_BIG = """
import resource, sys
from zoneinfo import ZoneInfo
from carechain.sources.imports.apple import AppleHealth
from carechain.sources.imports.base import run_import
from carechain.sources.intake import Filed

LONG = ", software:10.1.1" * 80

class Made:
    '''200 MB of an export that never lies anywhere as a whole.'''
    def __init__(self): self.seek(0)
    def seek(self, _): self.made, self.parts, self.rest, self.over = 0, self.pieces(), b"", False
    def pieces(self):
        yield b'<?xml version="1.0"?><!DOCTYPE HealthData [<!ELEMENT HealthData ANY>]><HealthData locale="en">'
        for number in range(int(sys.argv[1])):
            day, minute = divmod(number, 1440)
            date = f"20{10 + day // 336:02}-{1 + day % 336 // 28:02}-{1 + day % 28:02}"
            when = f"{date} {minute // 60:02}:{minute % 60:02}:00 +0800"
            kind, unit = ("HeartRate", "count/min") if number % 9 else ("BodyMass", "kg")
            yield (f'<Record type="HKQuantityTypeIdentifier{kind}" sourceName="Watch" sourceVersion="10.1.1" '
                   f'device="&lt;&lt;HKDevice: 0x2&gt;, name:Apple Watch{LONG}&gt;" unit="{unit}" '
                   f'creationDate="{when}" startDate="{when}" endDate="{when}" value="{60 + number % 40}">'
                   f'<MetadataEntry key="HKMetadataKeyHeartRateMotionContext" value="0"/></Record>').encode()
        yield b"</HealthData>"
    def read(self, size):
        while len(self.rest) < size and not self.over:
            batch = []
            for piece in self.parts:
                batch.append(piece)
                if len(batch) == 200: break
            self.over = not batch
            self.rest += b"".join(batch)
        found, self.rest = self.rest[:size], self.rest[size:]
        self.made += len(found)
        return found

class Counting:
    '''Stands where the charts would, whose memory is not in question.'''
    def __init__(self): self.filed = 0
    def patient(self, pseudonym): return None
    def file(self, *, pseudonym, resources, received_s):
        self.filed += len(resources) - 1
        return Filed(resources=len(resources), changed=0)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file, intake = Made(), Counting()
report = run_import(AppleHealth(), file, intake=intake, pseudonym=bytes(32), zone=ZoneInfo("UTC"), received_s=0)
assert report.resources == intake.filed
print(file.made, intake.filed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_200_megabytes_take_no_more_memory_than_a_chunk() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BIG, "120000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    size_bytes, resources, grown_kib = map(int, done.stdout.split())
    assert size_bytes > 200_000_000
    assert resources > 10_000
    assert grown_kib < 48 * 1024
