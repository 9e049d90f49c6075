"""Goal: a sealing that was cut short goes on as it began, and leaves nothing behind once it is done (REC-9).

Method: the journal and its folder on a real disk, a bundle and files; addresses of doors as a home keeps them.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from carechain.cli.doors import known_doors, note_door, noted_doors, require_url
from carechain.cli.keyring import Keyring
from carechain.cli.output import CannotRun
from carechain.cli.sealed_jobs import (
    FOLDER,
    JOURNAL_FILE,
    Asked,
    Job,
    is_bundle,
    job_id,
    journal_of,
    plan,
    require_fitting,
    workplace,
)
from carechain.cli.unsealing import ending_of, is_json
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Category, Sensitivity
from carechain.demo import synthetic
from carechain.sdk.searching import IndexSecret
from carechain.sealing.codes import SealingCode
from carechain.sealing.contents import RESOURCE_SIZE_BYTES
from world import anchor_of, seeded, wallet_of

JOB = seeded("job")


def asked(file: Path, **changed: Any) -> Asked:
    values: dict[str, Any] = {
        "file": file,
        "pseudonym": seeded("pseudonym"),
        "category": Category.RESULT,
        "sensitivity": Sensitivity.N,
        "day": 46_000,
        "record": None,
        "whole": False,
        "words": None,
        "index": True,
    }
    return Asked(**values | changed)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "vault").mkdir()
    return tmp_path


# --- the journal ----------------------------------------------------------------------------------------


def test_a_job_goes_on_as_it_began(home: Path) -> None:
    anchor = anchor_of(wallet_of("steve").pseudonym(seeded("a")), "one")
    with journal_of(home) as journal:
        assert journal.job(JOB) is None
        begun = journal.begin(JOB, began_s=7, version=3)
        journal.note(JOB, anchor)
    with journal_of(home) as journal:
        again = journal.job(JOB)
        assert again == begun
        assert (begun.record_id(0), begun.salt(JOB, 0)) == (again.record_id(0), again.salt(JOB, 0))
        assert len({begun.record_id(0), begun.record_id(1), begun.salt(JOB, 0), begun.salt(JOB, 1)}) == 4
        assert journal.anchors(JOB) == {anchor.record: anchor}
        journal.unnote(JOB, anchor.record)
        assert journal.anchors(JOB) == {}
    assert begun.seed.hex() not in repr(begun)


def test_once_done_the_seed_is_nowhere(home: Path) -> None:
    with journal_of(home) as journal:
        seed = journal.begin(JOB, began_s=7, version=1).seed
        journal.forget(JOB)
        assert journal.job(JOB) is not None, "only what is done can be forgotten"
        journal.finish(JOB, [(JOB, 1)])
        done = journal.job(JOB)
        assert done == Job(id=JOB, seed=b"", began_s=7, version=1, sealed=((JOB, 1),))
    assert not [one for one in (home / FOLDER).iterdir() if seed in one.read_bytes()]
    assert (home / FOLDER / JOURNAL_FILE).is_file()
    with journal_of(home) as journal:
        journal.forget(JOB)
        assert journal.job(JOB) is None


def test_one_process_at_a_time_works_on_a_job(home: Path) -> None:
    (home / FOLDER).mkdir()
    with workplace(home, JOB) as folder:
        with pytest.raises(CannotRun, match="another process"), workplace(home, JOB):
            pass
        (folder / "left").touch()
    assert folder.is_dir()
    (folder / "left").unlink()
    with workplace(home, JOB):
        pass
    assert not folder.exists()


def test_without_a_vault_there_is_nothing_to_seal_into(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="vault"), journal_of(tmp_path / "none"):
        pass


# --- plans ----------------------------------------------------------------------------------------------


def test_a_bundle_is_divided_like_a_chart_and_the_same_way_every_time(tmp_path: Path) -> None:
    file = written(tmp_path / "b.json", synthetic.patient(3, seed=1))
    given = asked(file, category=None, sensitivity=None, day=None)
    assert is_bundle(given)
    require_fitting(given, bundle=True)
    job = Job(id=JOB, seed=seeded("seed"), began_s=1_790_000_000, version=1)
    first, second = plan(given, job, bundle=True), plan(given, job, bundle=True)
    assert [one.about for one in first.items] == [one.about for one in second.items]
    assert len({one.about.category for one in first.items}) > 2
    salts = [part.salt for one in first.items for part in one.resources]
    assert len(set(salts)) == len(salts)
    raised = plan(asked(file, sensitivity=Sensitivity.R), job, bundle=True)
    assert min(one.about.sensitivity for one in raised.items) == Sensitivity.R
    assert any(one.texts for one in first.items)
    assert not any(one.texts for one in plan(asked(file, index=False), job, bundle=True).items)


@pytest.mark.parametrize(
    ("content", "whole", "expected"),
    [
        (b'{"resourceType": "Bundle"}', False, True),
        (b' \n{"resourceType": "Bundle"}', True, False),
        (b'{"resourceType": "Observation"}', False, False),
        (b'{"resourceType": "Bundle"', False, False),
        (b"Bundle", False, False),
        (b"\xff\xfe{", False, False),
        (b"", False, False),
    ],
)
def test_what_is_a_bundle(tmp_path: Path, content: bytes, whole: bool, expected: bool) -> None:  # noqa: FBT001
    assert is_bundle(asked(written(tmp_path / "f", content), whole=whole)) is expected


@pytest.mark.parametrize("name", ["category", "sensitivity", "day"])
def test_a_file_needs_its_labels(tmp_path: Path, name: str) -> None:
    with pytest.raises(typer.BadParameter, match="no FHIR bundle"):
        require_fitting(asked(written(tmp_path / "f", b"x"), **{name: None}), bundle=False)


@pytest.mark.parametrize(("name", "value"), [("category", 2), ("day", 1), ("record", JOB), ("words", Path("w"))])
def test_a_bundle_has_its_own(tmp_path: Path, name: str, value: object) -> None:
    given = asked(tmp_path / "f", **{**dict.fromkeys(("category", "day")), name: value})
    with pytest.raises(typer.BadParameter, match="--whole"):
        require_fitting(given, bundle=True)


def test_a_file_has_an_end(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(RESOURCE_SIZE_BYTES + 1)
    with pytest.raises(Rejected) as refused:
        require_fitting(asked(huge), bundle=False)
    assert refused.value.code is SealingCode.SIZE_OUT_OF_BOUNDS
    assert not is_bundle(asked(huge))


def test_the_same_sealing_is_known_again_and_no_other(tmp_path: Path) -> None:
    file, other = written(tmp_path / "f", b"x"), written(tmp_path / "g", b"y")
    secret = IndexSecret(bytes(32))

    def known_as(given: Asked, secret: IndexSecret = secret, *, bundle: bool = False) -> bytes:
        return job_id(given, secret, bundle=bundle, advance=lambda _done, _total: None)

    same = asked(file)
    different = [
        known_as(asked(other)),
        known_as(same, bundle=True),
        known_as(same, IndexSecret(bytes(31) + b"x")),
        *(
            known_as(asked(file, **{name: value}))
            for name, value in (
                ("pseudonym", seeded("q")),
                ("category", Category.IMAGE),
                ("sensitivity", Sensitivity.R),
                ("day", 1),
                ("record", JOB),
                ("words", other),
                ("index", False),
            )
        ),
    ]
    assert known_as(same) == known_as(asked(written(tmp_path / "copy", b"x")))
    assert len({known_as(same), *different}) == 1 + len(different)


# --- doors ----------------------------------------------------------------------------------------------


def test_addresses_are_noted_replaced_and_forgotten(tmp_path: Path) -> None:
    member, other = seeded("m"), seeded("o")
    note_door(tmp_path, member, "https://one.example/")
    note_door(tmp_path, other, "http://127.0.0.1:1")
    assert noted_doors(tmp_path) == {member: "https://one.example", other: "http://127.0.0.1:1"}
    given = [f"{member.hex()}=https://given.example"]
    assert known_doors(tmp_path, Keyring(tmp_path), given)[member] == "https://given.example"
    note_door(tmp_path, member, None)
    assert known_doors(tmp_path, Keyring(tmp_path), None) == {other: "http://127.0.0.1:1"}


@pytest.mark.parametrize("content", ["", "[]", '{"x": "https://x"}', json.dumps({"00" * 32: "file:///x"})])
def test_a_damaged_list_of_doors_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "doors.json").write_text(content, encoding="utf-8")
    with pytest.raises(CannotRun, match="damaged"):
        noted_doors(tmp_path)


@pytest.mark.parametrize("url", ["", "x", "ftp://x", "https://", "file:///etc"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(typer.BadParameter, match="no address"):
        require_url(url)


@pytest.mark.parametrize("given", ["https://x.example", "somebody=https://x.example", "00=https://x"])
def test_an_address_says_whose_it_is(tmp_path: Path, given: str) -> None:
    with pytest.raises(typer.BadParameter):
        known_doors(tmp_path, Keyring(tmp_path), [given])


# --- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "ending"),
    [
        (b"%PDF-1.7", ".pdf"),
        (b"\x89PNG\r\n", ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b' {"a": 1}', ".json"),
        (bytes(128) + b"DICM", ".dcm"),
        (b"", ".bin"),
        ("正文".encode(), ".bin"),
    ],
)
def test_a_file_ends_with_what_it_is(start: bytes, ending: str) -> None:
    assert ending_of(start) == ending


@pytest.mark.parametrize(("content", "expected"), [(b"72.50", True), (b"{", False), (b"\xff", False), (b"", False)])
def test_only_json_is_shown_as_json(content: bytes, expected: bool) -> None:  # noqa: FBT001
    assert is_json(content) is expected
