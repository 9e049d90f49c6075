"""Finding CometBFT, and saying how to get it where it is missing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

VERSION: Final = "0.39.4"
"""The release that is installed and tested; any 0.39 speaks the same protocol and keeps the same state."""
PROGRAM: Final = "cometbft"
VARIABLE: Final = "CARECHAIN_COMETBFT"
_SERIES: Final = VERSION.rpartition(".")[0]
_ANSWER_S: Final = 20.0
_SOURCE: Final = f"github.com/cometbft/cometbft/cmd/cometbft@v{VERSION}"
HOW_TO_GET_IT: Final = (
    f"Get it with `make engine`, or with Go 1.25 or later: go install {_SOURCE}; "
    f"or name the program in consensus.program of config.toml or in {VARIABLE}."
)


class EngineMissing(Exception):  # noqa: N818 - names what is missing
    """CometBFT is not on this machine, or not in a version that fits; the sentence says how to get it."""


def find_cometbft(configured: Path | None = None) -> Path:
    """The program: as configured, as the environment says, beside this Python, or on the search path.

    Raises :class:`EngineMissing`, also for a version that does not fit.
    """
    program = _place(configured)
    found = version_of(program)
    if found.rpartition(".")[0] != _SERIES:
        raise EngineMissing(f"{program} is CometBFT {found}; version {VERSION} is needed. {HOW_TO_GET_IT}")
    return program


def _place(configured: Path | None) -> Path:
    named = configured or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        if not (named.is_file() and os.access(named, os.X_OK)):
            raise EngineMissing(f"{named} is not a program. {HOW_TO_GET_IT}")
        return named
    beside = Path(sys.prefix) / "bin" / PROGRAM
    if beside.is_file():
        return beside
    on_path = shutil.which(PROGRAM)
    if on_path is None:
        raise EngineMissing(f"CometBFT is not on this machine. {HOW_TO_GET_IT}")
    return Path(on_path)


def version_of(program: Path) -> str:
    """The version a program states, such as ``0.39.4``. Raises :class:`EngineMissing` when it states none."""
    try:
        said = subprocess.run([program, "version"], capture_output=True, timeout=_ANSWER_S, check=True)  # noqa: S603 - the operator's own program
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineMissing(f"{program} cannot be run ({type(error).__name__}). {HOW_TO_GET_IT}") from None
    match = re.search(r"\d+\.\d+\.\d+", said.stdout.decode("utf-8", "replace"))
    if match is None:
        raise EngineMissing(f"{program} does not say which CometBFT it is. {HOW_TO_GET_IT}")
    return match.group()
