"""Goal: a device's table becomes Observations by what is declared and by nothing else.

Method: tables and declarations written here; each way of being wrong once.
"""

import pytest

from carechain.sources.imports.base import Unreadable
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.devices import BAD_NUMBER, BAD_TIME, WRONG_WIDTH, DeviceTable, read_table
from imports import read

COLUMNS = """
device = "FreeStyle Libre"
skip_lines = 1
time = "Zeit"
time_format = "%d.%m.%Y %H:%M"
delimiter = ";"
decimal = ","
[[values]]
column = "Glukose"
loinc = "15074-8"
display = "Glucose [Moles/volume] in Blood"
unit = "mmol/L"
category = "laboratory"
[[values]]
column = "Puls"
display = "Pulse"
unit = "/min"
"""
CSV = (
    "Bericht von 小明\nZeit;Glukose;Puls;Notiz\n"
    '01.05.2024 08:15;5,40;71;"nach; dem\nFrühstück"\n01.05.2024 09:15;;72;\n'
)


def test_values_come_as_declared() -> None:
    made, skipped = read(DeviceTable(read_table(COLUMNS.encode())), CSV)
    assert skipped == []
    glucose, pulse, later = made
    assert glucose["valueQuantity"]["value"] == 5.4
    assert glucose["effectiveDateTime"] == "2024-05-01T08:15:00+08:00"
    assert glucose["category"][0]["coding"][0]["code"] == "laboratory"
    assert "coding" not in pulse["code"]
    assert later["effectiveDateTime"] == "2024-05-01T09:15:00+08:00"
    assert made == read(DeviceTable(read_table(COLUMNS.encode())), CSV)[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("2024-05-01;1;2;", BAD_TIME), ("01.05.2024 08:15;x;;", BAD_NUMBER), ("01.05.2024 08:15;1", WRONG_WIDTH)],
)
def test_what_is_skipped_is_named(line: str, reason: str) -> None:
    made, skipped = read(DeviceTable(read_table(COLUMNS.encode())), f"x\nZeit;Glukose;Puls;Notiz\n{line}\n")
    assert made == []
    assert [(one.reason, one.place) for one in skipped] == [(reason, "line 3")]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (CSV.replace("Glukose", "Zucker"), ImportCode.COLUMNS_MALFORMED),
        (CSV.replace("Puls", "Zeit"), ImportCode.COLUMNS_MALFORMED),
        ("", ImportCode.COLUMNS_MALFORMED),
        (CSV + '01.05.2024 10:15;1;2;"open', ImportCode.FILE_TRUNCATED),
        (CSV + '01.05.2024 10:15;"1"x;2;\n', ImportCode.FILE_MALFORMED),
        (CSV.encode("gb18030"), ImportCode.NOT_TEXT),
        (CSV + "x" * 3_000_000, ImportCode.FILE_TOO_LARGE),
    ],
)
def test_a_broken_table_is_refused(content: str | bytes, code: ImportCode) -> None:
    with pytest.raises(Unreadable) as refused:
        read(DeviceTable(read_table(COLUMNS.encode())), content)
    assert refused.value.code is code


@pytest.mark.parametrize(
    "declared",
    [
        b"\xff",
        b"time = ",
        COLUMNS.replace('device = "FreeStyle Libre"', "").encode(),
        COLUMNS.replace('"Puls"', '"Zeit"').encode(),
        COLUMNS.replace('"laboratory"', '"astrology"').encode(),
        (COLUMNS + "sql = 1\n").encode(),
        COLUMNS.replace("skip_lines = 1", "skip_lines = -1").encode(),
        b"#" * 2_000_000,
    ],
)
def test_a_broken_declaration_is_refused(declared: bytes) -> None:
    with pytest.raises(Unreadable) as refused:
        read_table(declared)
    assert refused.value.code is ImportCode.COLUMNS_MALFORMED
