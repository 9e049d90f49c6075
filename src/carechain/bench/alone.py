"""A fresh process for what is measured, set up as a node's is.

What the preparation left in memory is neither counted there nor in the way of the garbage collector.
"""

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from carechain.node.main import COLLECT_AFTER

P = ParamSpec("P")
T = TypeVar("T")


def alone(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work`` returns or raises, run in a process that ends with it; ``work`` is a function of a module."""
    # A forked child would keep this process's memory; a spawned one shares nothing.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_as_a_node) as process:
        return process.submit(work, *args, **kwargs).result()


def _as_a_node() -> None:
    gc.set_threshold(*COLLECT_AFTER)
