"""Goal: a FHIR client from npm, written for other servers, works with this one unchanged.

Method: a Node.js program (`npm/walk.mjs`) uses `fhir-kit-client` to walk SMART's standalone launch, read, page, and be
refused; then it writes as one of the organisation's systems. The test is the browser and the patient's wallet.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from npm_clients import FOLDER, MODULES, node
from served_house import ServedHouse, result
from smart_house import REDIRECT, SCOPES

pytestmark = pytest.mark.clients


class Walk:
    """The program: what it says line by line, and what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def says(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@pytest.fixture
def walk(house: ServedHouse, tmp_path: Path) -> Iterator[Walk]:
    shutil.copy(FOLDER / "walk.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    words = [str(node()), "walk.mjs", house.base, house.client.client_id, REDIRECT, SCOPES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=tmp_path, text=True, **pipes) as process:
        yield Walk(process)
        process.kill()


def test_fhir_kit_client_is_let_in_reads_writes_and_is_shut_out(house: ServedHouse, walk: Walk) -> None:
    house.store(*(result(f"kit-{number}", house.patient) for number in range(5)))
    house.store(result("kit-hidden", house.patient, confidentiality="R"))

    begun = walk.says()
    assert begun["version"] == "4.0.1"
    back, grant = house.approve(begun["authorize"])
    walk.tell(back)

    read = walk.says()
    assert read["state"] == "from-node"
    assert read["patient"] == read["subject"] == house.patient
    assert {f"kit-{number}" for number in range(5)} <= set(read["found"])
    assert len(read["found"]) == len(set(read["found"]))
    assert read["compartment"] == ["kit-1"]
    assert (read["nobody"], read["hidden"], read["write"]) == (404, 404, 403)

    house.revoke(grant)
    walk.tell("the patient has revoked")
    assert walk.says() == {"after": 401}

    walk.tell(house.system_token())
    assert walk.says() == {
        "statuses": ["final", "amended", "corrected"],
        "versions": ["3", "2", "1"],
        "batch": ["200", "404"],
        "everything": True,
        "removed": 405,
    }
