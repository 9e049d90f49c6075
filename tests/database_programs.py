"""Where the database servers' programs are on this machine; kept apart so that ``conftest.py`` can ask first."""

import shutil
from functools import cache
from pathlib import Path
from typing import Final

_INSTALL: Final = "run `make databases` as root, or install the packages postgresql and mariadb-server"


class DatabasesMissing(Exception):  # noqa: N818 — it says what is the matter.
    """A database program is not installed here; says how to get it."""


def _program(name: str, *folders: Path) -> Path:
    """The program's path with links followed, from the given folders first, else from the PATH."""
    for folder in folders:
        if (folder / name).exists():
            return (folder / name).resolve()
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise DatabasesMissing(f"{name} is not installed: {_INSTALL}")
    return Path(found).resolve()


def postgresql_programs() -> tuple[Path, Path]:
    """``initdb`` and ``postgres``; Debian keeps them out of the PATH, in a folder for each version."""
    newest_first = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda folder: int(folder.parent.name), reverse=True
    )
    server = _program("postgres", *newest_first)
    return _program("initdb", server.parent), server


def mariadb_programs() -> tuple[Path, Path]:
    """``mariadb-install-db`` and ``mariadbd``."""
    return _program("mariadb-install-db"), _program("mariadbd")


@cache
def missing_databases() -> str:
    """Why there are no database servers here, and how to get them; empty where there are."""
    try:
        postgresql_programs()
        mariadb_programs()
    except DatabasesMissing as missing:
        return str(missing)
    return ""
