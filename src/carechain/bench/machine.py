"""What a benchmark ran on, and what it cost: processor, memory, time of the processes, bytes on disk."""

import errno
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

_PROC: Final = Path("/proc")
_MIB: Final = 1024 * 1024
_STAT_UTIME: Final = 11
_STAT_STIME: Final = 12
_DISK_BLOCK: Final = 512
"""``st_blocks`` counts in this unit whatever the file system uses (POSIX stat)."""


class Cost(Struct, frozen=True):
    """CPU seconds used so far and memory held now (MiB), of this process and all its children."""

    cpu_s: float
    rss_mb: float


def describe() -> dict[str, object]:
    """The machine as every result states it."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu_model() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cost_of(pid: int | None = None) -> Cost:
    """What process ``pid`` (this one when None) and its living children have used.

    Read from /proc, where a child counts while it runs. On systems without it only this process can be seen, and
    memory is the highest it ever was.
    """
    if not _PROC.joinpath("self", "stat").exists():
        own = resource.getrusage(resource.RUSAGE_SELF)
        unit = 1 if sys.platform == "darwin" else 1024
        return Cost(own.ru_utime + own.ru_stime, own.ru_maxrss * unit / _MIB)
    costs = [_cost_of_one(one) for one in _with_children(pid or os.getpid())]
    return Cost(sum(one.cpu_s for one in costs), sum(one.rss_mb for one in costs))


def _cost_of_one(pid: int) -> Cost:
    """One process alone; nothing for one that ended between the listing and the look."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        resident = int((_PROC / str(pid) / "statm").read_text(encoding="utf-8").split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return Cost(0.0, 0.0)
    cpu_s = (int(fields[_STAT_UTIME]) + int(fields[_STAT_STIME])) / os.sysconf("SC_CLK_TCK")
    return Cost(cpu_s, resident * os.sysconf("SC_PAGE_SIZE") / _MIB)


def own_cpu_s() -> float:
    """CPU seconds of this process so far, all its threads, children apart."""
    used = os.times()
    return used.user + used.system


def own_rss_mb() -> float:
    """Memory this process holds now (MiB), children apart; the highest it ever was where there is no /proc."""
    if not _PROC.joinpath("self", "statm").exists():
        return cost_of().rss_mb
    resident = int((_PROC / "self" / "statm").read_text(encoding="utf-8").split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") / _MIB


def processes_of(pid: int) -> dict[str, Cost]:
    """What process ``pid`` and each of its living children have used, by program: "node" is the process itself."""
    found: dict[str, Cost] = {}
    for one in _with_children(pid):
        name = "node" if one == pid else _name_of(one)
        alone, before = _cost_of_one(one), found.get(name, Cost(0.0, 0.0))
        found[name] = Cost(before.cpu_s + alone.cpu_s, before.rss_mb + alone.rss_mb)
    return found


def _name_of(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for one in found:  # The list grows while it is walked: children of children are found too.
        for task in (_PROC / str(one) / "task").glob("*/children"):
            try:
                found += map(int, task.read_text(encoding="utf-8").split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def allow_open_files(count: int) -> None:
    """Let this process and its children have ``count`` files and sockets open; ``OSError`` where that is forbidden."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise OSError(errno.EMFILE, f"{count} files and sockets must be open at once; the system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def disk_bytes(folder: Path) -> int:
    """Bytes that a folder occupies on disk. Holes of sparse files do not count."""
    return sum(path.stat().st_blocks * _DISK_BLOCK for path in folder.rglob("*") if path.is_file())
