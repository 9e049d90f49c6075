"""Writes ``src/carechain/gateway/fhir/summary_elements.json``: which top-level elements belong to a summary.

``python -m tools.definitions.summaries FOLDER``: FOLDER keeps the downloaded packages, as for ``build``.
"""

import sys
from pathlib import Path
from typing import Any, Final

import orjson

from tools.definitions.build import DEFINITIONS, Archive

TARGET: Final = Path(__file__).parents[2] / "src" / "carechain" / "gateway" / "fhir" / "summary_elements.json"
TOP_LEVEL: Final = 2


def names(definition: dict[str, Any], flag: str) -> list[str]:
    """The top-level elements that are part of the summary, or mandatory."""
    found = []
    for element in definition["snapshot"]["element"]:
        path = element["path"].split(".")
        if len(path) == TOP_LEVEL and (element.get("isSummary") if flag == "summary" else element["min"] > 0):
            found.append(path[1])
    return sorted(found)


def main(folder: Path) -> None:
    """Derive and write the file; the same input gives the same bytes."""
    resources = {
        one["name"]: one
        for one in Archive(DEFINITIONS, folder).resources("profiles-resources")
        if one["resourceType"] == "StructureDefinition"
        and one["kind"] == "resource"
        and not one["abstract"]
        and one.get("derivation") == "specialization"
    }
    table = {flag: {name: names(one, flag) for name, one in resources.items()} for flag in ("mandatory", "summary")}
    TARGET.write_bytes(orjson.dumps(table, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
