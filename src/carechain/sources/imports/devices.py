r"""Tables of a device (CSV): which column is what is declared beside the file, never guessed (REC-11).

The declaration is a small TOML file::

    device = "FreeStyle Libre"
    delimiter = ","                 # or ";" or "\t"
    skip_lines = 1                  # lines before the one with the names of the columns
    decimal = "."                   # or ","
    time = "Device Timestamp"
    time_format = "%d-%m-%Y %H:%M"  # as strptime has it; without it: ISO 8601

    [[values]]
    column = "Historic Glucose mmol/L"
    loinc = "15074-8"
    display = "Glucose [Moles/volume] in Blood"
    unit = "mmol/L"                 # UCUM
    category = "laboratory"
"""

import csv
import re
import tomllib
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import BinaryIO, Final, Literal

import msgspec
from msgspec import Struct

from carechain.core.limits import CONFIG_FILE_BYTES
from carechain.sources.imports.base import LOINC, Item, Skipped, Subject, Unreadable, observation, quantity
from carechain.sources.imports.codes import ImportCode
from carechain.sources.imports.documents import text_lines

_NUMBER: Final = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?", re.ASCII)

BAD_TIME: Final = "its time is missing or not in the declared form"
BAD_NUMBER: Final = "a value is not a number"
WRONG_WIDTH: Final = "the line has more or fewer columns than the header"


class Column(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column with values: its LOINC code ("" for none), name, UCUM unit and FHIR category."""

    column: str
    display: str
    unit: str
    loinc: str = ""
    category: Literal["vital-signs", "laboratory", "activity", "survey", "exam"] = "vital-signs"


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the columns of a table are."""

    device: str
    time: str
    values: tuple[Column, ...]
    delimiter: Literal[",", ";", "\t"] = ","
    skip_lines: int = 0
    decimal: Literal[".", ","] = "."
    time_format: str = ""


def read_table(data: bytes) -> Table:
    """A declaration from TOML. Raises ``Rejected(COLUMNS_MALFORMED)``."""
    try:
        if len(data) > CONFIG_FILE_BYTES:
            raise Unreadable(ImportCode.COLUMNS_MALFORMED)
        found = msgspec.convert(tomllib.loads(data.decode()), Table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError):
        raise Unreadable(ImportCode.COLUMNS_MALFORMED) from None
    names = [one.column for one in found.values]
    if not names or found.skip_lines < 0 or len({found.time, *names}) != len(names) + 1:
        raise Unreadable(ImportCode.COLUMNS_MALFORMED)
    return found


class DeviceTable:
    """The importer of tables with declared columns."""

    kind = "csv"

    def __init__(self, table: Table) -> None:
        self._table = table

    def read(self, file: BinaryIO, subject: Subject) -> Iterator[Item]:
        """An Observation for each value of each line."""
        table = self._table
        lines = (line for number, line, _ended in text_lines(file) if number > table.skip_lines)
        rows = csv.reader((f"{line}\n" for line in lines), delimiter=table.delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            if any(header.count(name) != 1 for name in (table.time, *(one.column for one in table.values))):
                raise Unreadable(ImportCode.COLUMNS_MALFORMED)
            for row in rows:
                place = f"line {rows.line_num + table.skip_lines}"
                if not any(map(str.strip, row)):
                    continue
                if len(row) != len(header):
                    yield Skipped(reason=WRONG_WIDTH, place=place)
                    continue
                yield from self._row(dict(zip(header, row, strict=True)), place, subject)
        except csv.Error as error:
            # Strict reading: the one thing left open is a quotation that the file ends in.
            ended = "unexpected end" in str(error)
            code = ImportCode.FILE_TRUNCATED if ended else ImportCode.FILE_MALFORMED
            raise Unreadable(code, f"line {rows.line_num + table.skip_lines}") from None

    def _row(self, row: dict[str, str], place: str, subject: Subject) -> Iterator[Item]:
        when = self._moment(row[self._table.time].strip(), subject)
        if when is None:
            yield Skipped(reason=BAD_TIME, place=place)
            return
        for column in self._table.values:
            text = row[column.column].strip()
            if not text:
                continue
            number = text.replace(",", ".") if self._table.decimal == "," else text
            if not _NUMBER.fullmatch(number):
                yield Skipped(reason=BAD_NUMBER, place=place)
                continue
            coding = [{"system": LOINC, "code": column.loinc, "display": column.display}] if column.loinc else []
            yield observation(
                subject,
                resource_id=subject.id_of("device", self._table.device, column.column, when),
                category=column.category,
                code={"coding": coding, "text": column.display},
                when={"effectiveDateTime": when},
                device=self._table.device,
                valueQuantity=quantity(Decimal(number), column.unit, column.unit),
            )

    def _moment(self, text: str, subject: Subject) -> str | None:
        try:
            form = self._table.time_format
            found = datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007
        except ValueError:
            return None
        placed = found if found.tzinfo is not None else found.replace(tzinfo=subject.zone)
        return placed.isoformat(timespec="seconds")
