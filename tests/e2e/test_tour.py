"""Goal: docs/start/tour.md can be followed word for word, and shows what the program says.

Method: every command of the page is typed into one shell, in a folder that has nothing but the page's own files. What
it prints is compared with the page line by line, after what differs from run to run was made equal: ids, times,
heights, ports, figures of the machine, and the order of rows, which is that of their ids. The node of the page's
second terminal is a child process on free ports.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carechain.node.ports import free_ports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "start" / "tour.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NODE = "carechain start"
VARIES = (
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{8}…"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b(?!2026-03-02)20\d\d-\d\d-\d\d\b"), "DAY"),  # The visit's own day is in its file.
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\bheight \d+"), "height N"),
    (re.compile(r"\bversion \S+"), "version V"),
    (re.compile(r"\b\d+ (s ago|s old|blocks|lines|days left)"), r"N \1"),
    (re.compile(r"\b\d+\.\d+(\.\d+)?\b"), "FIGURE"),
    (re.compile(r"^\d+ +TIME +\d+ "), "LINE "),
    (re.compile(r"─+"), "─"),
    (re.compile(r"\s+"), " "),
)
END = "--- that was all, status "


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of the page with the lines that it shows below it."""
    command, shown = "", [""]
    for block in CONSOLE.findall(PAGE.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            elif line.startswith("> "):
                command += "\n" + line[2:]
            else:
                shown.append(line)
    yield command, shown


def alike(line: str) -> str:
    for pattern, word in VARIES:
        line = pattern.sub(word, line)
    return line.strip()


def agrees(said: list[str], shown: list[str]) -> bool:
    return sorted(map(alike, settled(said))) == sorted(map(alike, settled(shown)))


def settled(lines: list[str]) -> list[str]:
    """Without the line of the log that comes when the gatekeeper's next report does, a little earlier or later."""
    return [line for line in lines if " release " not in line]


class Shell:
    """One shell session in which the program's name is ``carechain``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docs").symlink_to(ROOT / "docs")
        (folder / "bin").mkdir()
        program = folder / "bin" / "carechain"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m carechain "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARECHAIN_")}
        listeners = ("API", "OPS", "GATEKEEPER_API", "FHIR")
        ports = {f"CARECHAIN_{name}__PORT": str(port) for name, port in zip(listeners, free_ports(4), strict=True)}
        self.environment = {**kept, **ports, "PATH": f"{program.parent}:{kept['PATH']}", "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            ["/bin/sh"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def run(self, command: str) -> list[str]:
        """What a command prints on both outputs, and its status where that is not 0."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\necho '{END}'$?\n")
        self._process.stdin.flush()
        said: list[str] = []
        for line in self._process.stdout:
            if line.startswith(END):
                return said
            said.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended: {said}")

    @contextmanager
    def node(self, command: str) -> Iterator[None]:
        """The second terminal, until Ctrl-C; it has the page's password file, and nothing else of the first."""
        environment = {**self.environment, "CARECHAIN_PASSWORD_FILE": str(self.folder / "tour" / "password")}
        log = self.folder / "node.log"
        with log.open("wb") as err:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.folder / "tour",
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stderr
            for line in process.stderr:
                err.write(line)
                if b'"node started"' in line:
                    break
            else:
                raise AssertionError("the node ended before it served")
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                out, rest = process.communicate(timeout=60)
                err.write(rest)
        assert process.returncode == 0, log.read_text(encoding="utf-8")
        assert b"nothing acknowledged was lost" in out

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    opened = Shell(tmp_path)
    yield opened
    opened.close()


def follow(shell: Shell) -> Iterator[tuple[str, list[str], list[str]]]:
    """Every command, what the page shows, and what came."""
    told = list(commands())
    start = next(number for number, (command, _) in enumerate(told) if command.startswith(NODE))
    for command, shown in told[:start]:
        yield command, shown, shell.run(command)
    with shell.node(told[start][0]):
        for command, shown in told[start + 1 :]:
            yield command, shown, shell.run(command)


def test_the_tour_can_be_followed(shell: Shell) -> None:
    differ = [(command, shown, said) for command, shown, said in follow(shell) if not agrees(said, shown)]
    assert differ == []
