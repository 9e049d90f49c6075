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
        real_open, real_mkdir, real_unlink, real_rmdir = os.open, os.mkdir, os.unlink, os.rmdir
        real_rename, real_replace = os.rename, os.replace

        def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            fresh = flags & os.O_CREAT and not Path(path).exists()
            handle = real_open(path, flags, *rest, **named)
            if fresh:
                self.note("make", path)
            return handle

        def made(path: Any, *rest: Any, **named: Any) -> None:
            real_mkdir(path, *rest, **named)
            self.note("folder", path)

        def removed(real: Callable[..., None]) -> Callable[..., None]:
            def remove(path: Any, *, dir_fd: int | None = None) -> None:
                # Whole folders are removed relative to an open one.
                place = Path(path) if dir_fd is None else _path(dir_fd) / path
                real(path, dir_fd=dir_fd)
                self.note("remove", place)

            return remove

        def renamed(real: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
            def rename(old: Any, new: Any) -> None:
                real(old, new)
                self.note("rename", old, Path(new))

            return rename

        removals = {"unlink": removed(real_unlink), "rmdir": removed(real_rmdir)}
        renames = {"rename": renamed(real_rename), "replace": renamed(real_replace)}
        for name, call in {"open": opened, "mkdir": made, **removals, **renames}.items():
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


Names = dict[Path, Content | None]


def carry(names: Names, old: Path, new: Path) -> None:
    """Rename a file, or a folder with all that is in it, where it is there."""
    if old in names:
        for name in [one for one in names if one.is_relative_to(new)]:
            del names[name]
        for name in [one for one in names if one.is_relative_to(old)]:
            names[new / name.relative_to(old)] = names.pop(name)


class Survivors:
    """The disk's side of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now: Names = {}
        self.durable: Names = {}
        self.moved: list[tuple[Path, Path, Names]] = []
        """Renamed since the folder's last sync, always within one folder, and what had the new name before."""
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
        elif kind == "rename":
            (new,) = rest
            before = {one: self.now.pop(one) for one in [*self.now] if one.is_relative_to(new)}
            carry(self.now, path, new)
            self.moved.append((path, new, before))
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
        for one in [one for one in self.moved if one[0].parent == folder]:
            carry(self.durable, *one[:2])
            self.moved.remove(one)
        for name in {*self.now, *self.durable}:
            if name.parent == folder:
                if name in self.now:
                    self.durable[name] = self.now[name]
                else:
                    del self.durable[name]

    def settle(self, rnd: Random | None) -> None:
        """Decide what survives."""
        names, now = self._as_far_as_renamed(rnd)
        durable = dict(names)
        for name in sorted({*now, *durable}):
            if now.get(name, self) is not durable.get(name, self) and rnd is not None and rnd.random() < 0.5:
                if name in now:
                    names[name] = now[name]
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

    def _as_far_as_renamed(self, rnd: Random | None) -> tuple[Names, Names]:
        """The durable names and those in memory, with the first few unsynced renames on the disk and the rest not."""
        done = 0 if rnd is None else rnd.randint(0, len(self.moved))
        durable, now = dict(self.durable), dict(self.now)
        for old, new, _ in self.moved[:done]:
            carry(durable, old, new)
        for old, new, before in reversed(self.moved[done:]):
            carry(now, new, old)
            now.update(before)
        return durable, now

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
