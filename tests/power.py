"""A folder whose power can fail: what reached the disk for certain, and what only the system's memory.

Goal: tests run the real code on real files and then see the folder as it may be after a power failure. Method: the
system calls that change files below one folder are recorded in their order (made, written, cut, synced, removed, and
LMDB's commits). A rule as strict as POSIX says what survives: content since the file's last sync may be lost, and so
may a name made or removed since its folder's last sync. What is not synced for certain survives or not by chance, of
unsynced writes to one file a prefix.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

import lmdb
import pytest

from carechain.state import store as store_module
from carechain.state.lmdb_file import INDEX_FILE

Event = tuple[Any, ...]
"""What happened, the path it happened to, and what was written."""


class Content:
    """A file's bytes: those that are durable, and what was done to them since."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.pending: list[Event] = []

    def after_sync(self) -> bytes:
        return self.survivors(len(self.pending), None)

    def survivors(self, kept: int, torn: Random | None) -> bytes:
        """The bytes once ``kept`` of the pending changes are on the disk, the last of them perhaps in part."""
        data = bytearray(self.durable)
        for number, (kind, *rest) in enumerate(self.pending[:kept], 1):
            if kind == "image":
                data = bytearray(*rest)
                continue
            if kind == "cut":
                (size,) = rest
                data = data[:size] + bytes(max(0, size - len(data)))
                continue
            offset, piece = rest
            if torn is not None and number == kept:
                piece = piece[: torn.randint(0, len(piece))]
            data += bytes(max(0, offset - len(data)))
            data[offset : offset + len(piece)] = piece
        return bytes(data)


class PowerDisk:
    """Records what happens below ``root`` while :meth:`watch` has the system calls replaced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []

    # --- recording ----------------------------------------------------------------------------------------

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Record from now on."""
        self._watch_names(patch)
        self._watch_contents(patch)
        fill_up = store_module.fill_up

        def committed(env: lmdb.Environment, folder: Path) -> None:
            fill_up(env, folder)
            # LMDB writes from C: its commit is taken as one step, durable if it was opened that way.
            flags = env.flags()
            certain = flags["sync"] and flags["metasync"] and not flags["map_async"]
            self.note("commit" if certain else "loose commit", folder / INDEX_FILE, (folder / INDEX_FILE).read_bytes())

        patch.setattr(store_module, "fill_up", committed)

    def _watch_names(self, patch: pytest.MonkeyPatch) -> None:
        real_open, real_mkdir, real_unlink = os.open, os.mkdir, os.unlink

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            fresh = flags & os.O_CREAT and not Path(path).exists()
            handle = real_open(path, flags, *rest, **named)
            if fresh:
                self.note("make", path)
            return handle

        def made(path: Any, *rest: Any, **named: Any) -> None:
            real_mkdir(path, *rest, **named)
            self.note("folder", path)

        def removed(path: Any, **named: Any) -> None:
            real_unlink(path, **named)
            self.note("remove", path)

        for name, call in {"open": opened, "mkdir": made, "unlink": removed}.items():
            patch.setattr(os, name, call)

    def _watch_contents(self, patch: pytest.MonkeyPatch) -> None:
        real_pwrite, real_ftruncate = os.pwrite, os.ftruncate

        def written(handle: int, data: Any, offset: int) -> int:
            count = real_pwrite(handle, data, offset)
            self.note("write", _path(handle), offset, bytes(data[:count]))
            return count

        def cut(handle: int, size: int) -> None:
            real_ftruncate(handle, size)
            self.note("cut", _path(handle), size)

        def synced(real: Callable[[int], None]) -> Callable[[int], None]:
            def sync(handle: int) -> None:
                real(handle)
                path = _path(handle)
                if (path / INDEX_FILE).exists():
                    # Made by LMDB, out of sight.
                    self.note("loose commit", path / INDEX_FILE, (path / INDEX_FILE).read_bytes())
                self.note("sync", path)

            return sync

        replaced = {"fsync": synced(os.fsync), "fdatasync": synced(os.fdatasync)}
        for name, call in {**replaced, "pwrite": written, "ftruncate": cut}.items():
            patch.setattr(os, name, call)

    def note(self, kind: str, path: Any, *rest: Any) -> None:
        path = Path(path)
        if path.is_relative_to(self.root):
            self.events.append((kind, path, *rest))

    # --- the power fails ----------------------------------------------------------------------------------

    def after_power_failure(self, until: int | None = None, rnd: Random | None = None) -> "Survivors":
        """What is on the disk if the power fails after the first ``until`` events.

        Without ``rnd`` nothing survives that need not.
        """
        state = Survivors(self.root)
        for event in self.events[:until]:
            state.take(event)
        state.settle(rnd)
        return state

    def fail(self, rnd: Random) -> None:
        """Let the power fail now: the folder is as the disk has it, and that is durable."""
        survivors = self.after_power_failure(rnd=rnd)
        survivors.write(self.root)
        self.events = survivors.as_events()


class Survivors:
    """The disk's side of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now: dict[Path, Content | None] = {}
        self.durable: dict[Path, Content | None] = {}
        self.files: dict[Path, bytes] = {}
        self.folders: list[Path] = []

    def take(self, event: Event) -> None:
        """Let one event happen. A folder has no content."""
        kind, path, *rest = event
        content = self.now.get(path)
        if kind in ("make", "folder"):
            self.now[path] = Content() if kind == "make" else None
        elif kind == "remove":
            self.now.pop(path, None)
        elif kind == "sync" and content is None:
            self._sync_names(path)
        else:
            content = content or Content()
            self.now[path] = content
            if kind.endswith("commit"):
                content.pending += [] if rest == [content.after_sync()] else [("image", *rest)]
            elif kind != "sync":
                content.pending.append((kind, *rest))
            if kind in ("sync", "commit"):
                content.durable, content.pending = content.after_sync(), []

    def _sync_names(self, folder: Path) -> None:
        for name in {*self.now, *self.durable}:
            if name.parent == folder:
                if name in self.now:
                    self.durable[name] = self.now[name]
                else:
                    del self.durable[name]

    def settle(self, rnd: Random | None) -> None:
        """Decide what survives."""
        names = dict(self.durable)
        for name in sorted({*self.now, *self.durable}):
            if self.now.get(name, self) is not self.durable.get(name, self) and rnd is not None and rnd.random() < 0.5:
                if name in self.now:
                    names[name] = self.now[name]
                else:
                    names.pop(name, None)
        for name in sorted(names):
            above = [one for one in name.parents if one != self.root and one.is_relative_to(self.root)]
            if any(one not in names for one in above):
                continue
            content = names[name]
            if content is None:
                self.folders.append(name)
            else:
                kept = 0 if rnd is None else rnd.randint(0, len(content.pending))
                self.files[name] = content.survivors(kept, rnd)

    def write(self, target: Path) -> None:
        """Make ``target`` the folder as it survived."""
        with suppress(FileNotFoundError):
            rmtree(target)
        target.mkdir(parents=True)
        for folder in self.folders:
            (target / folder.relative_to(self.root)).mkdir()
        for name, data in self.files.items():
            (target / name.relative_to(self.root)).write_bytes(data)

    def as_events(self) -> list[Event]:
        """A history that leads here and in which everything is durable."""
        events: list[Event] = [("folder", folder) for folder in self.folders]
        for name, data in self.files.items():
            events += [("make", name), ("write", name, 0, data), ("sync", name)]
        return [*events, ("sync", self.root), *(("sync", folder) for folder in self.folders)]


def _path(handle: int) -> Path:
    return Path(f"/proc/self/fd/{handle}").readlink()
