"""Worked examples: a hospital's schema with made-up patients, and the mapping that puts a gatekeeper in front of it."""

from importlib.resources import files
from typing import Final

OPENMRS: Final = ("schema.sql", "data.sql", "mapping.toml")
"""The files of the example that is shaped like OpenMRS."""


def read_example(name: str) -> str:
    """One of the files of :data:`OPENMRS`."""
    return files("carechain.sources.examples").joinpath("openmrs", name).read_text(encoding="utf-8")


def statements(script: str) -> list[str]:
    """The statements of such a script, one by one: drivers take no more at a time."""
    bare = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    return [one.strip() for one in bare.split(";\n") if one.strip()]
