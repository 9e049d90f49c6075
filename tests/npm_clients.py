"""Where the clients from npm are on this machine; kept apart so that ``conftest.py`` can ask first."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "clients" / "npm"
"""The clients' versions, pinned, and the programs that use them."""
MODULES: Final = Path(
    os.environ.get("CARECHAIN_NODE_MODULES", Path(__file__).parents[1] / ".venv/clients/node_modules")
)
NODE_VERSION: Final = 20


class ClientsMissing(Exception):  # noqa: N818 - it says what is the matter
    """Node.js or the clients are not installed here; says how to get them."""


@cache
def node() -> Path:
    """Node.js of a version that the clients run on."""
    found = shutil.which("node")
    if found is None:
        raise ClientsMissing(f"Node.js is not installed: install version {NODE_VERSION} or newer, then `make clients`")
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    if not told.startswith("v") or int(told[1:].partition(".")[0]) < NODE_VERSION:
        raise ClientsMissing(f"Node.js is {told.strip()}: the clients need version {NODE_VERSION} or newer")
    return Path(found)


@cache
def missing_clients() -> str:
    """Why there are no clients here, and how to get them; empty where there are."""
    try:
        node()
    except ClientsMissing as missing:
        return str(missing)
    if not (MODULES / "fhir-kit-client" / "package.json").is_file():
        return "fhir-kit-client is not installed: run `make clients`, or name its folder in CARECHAIN_NODE_MODULES"
    return ""
