"""Starting a second Python process that works for this one over two pipes, and ending it.

The worker is a module of this package that reads from its standard input until that ends, so it cannot outlive this
process.
"""

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from typing import Final

PIPE_BYTES: Final = 1024 * 1024
"""Asked of the system for both pipes; Linux grants this much without privilege."""
_END_WAIT_S: Final = 5.0


def start_worker(module: str, *, is_mute: bool = False) -> "subprocess.Popen[bytes]":
    """Run a module with pipes that do not block; ``is_mute``: nothing it writes to standard error is kept.

    Raises ``OSError`` where the system refuses.
    """
    process = subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if is_mute else None,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    for pipe in (process.stdin, process.stdout):
        handle = handle_of(pipe)
        os.set_blocking(handle, False)
        with suppress(OSError):  # A smaller pipe only means more turns.
            fcntl.fcntl(handle, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return process


def handle_of(pipe: object) -> int:
    """The descriptor of a worker's pipe."""
    if pipe is None:
        raise ValueError("the worker was started without its pipes")
    return int(pipe.fileno())  # type: ignore[attr-defined]


def end_worker(process: "subprocess.Popen[bytes]") -> None:
    """Close the pipes, which ends the worker, and see that it has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_END_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
