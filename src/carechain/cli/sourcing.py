"""The work behind ``carechain source``: the home's sources and pointers, and anchoring what a comparison found."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.charts.record import RecordContent, StoredRecord, Tampered, check
from carechain.cli.acting import Done, Seat
from carechain.cli.network import home_genesis
from carechain.cli.output import Denied, Desk
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.gatekeeper.anchoring import anchor_of, in_transactions
from carechain.sources.base import Key, Source, Unmapped
from carechain.sources.codes import SourceCode
from carechain.sources.pointers import Link, Pointers
from carechain.sources.reader import SourceReader
from carechain.sources.registry import Sources, SqlSettings
from carechain.sources.sql.mapping import read_mapping
from carechain.sources.syncing import Circumstances, Synced, sync_patient


class PatientSynced(Struct, frozen=True, kw_only=True):
    """What comparing one patient brought; ``refused`` where it or its anchoring was refused."""

    pseudonym: bytes
    results: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    gone: tuple[bytes, ...] = ()
    anchored: tuple[tuple[bytes, int], ...] = ()
    height: int | None = None
    refused: Denied | None = None


class RecordsChecked(Struct, frozen=True, kw_only=True):
    """How the records of a source stand to what it says now."""

    unaltered: int
    altered: tuple[bytes, ...]
    gone: tuple[bytes, ...]


def home_of(home: Path) -> Institution:
    """The suite of the home's network; raises ``CannotRun`` where there is no home."""
    return home_genesis(home).suite


@contextmanager
def open_pointers(home: Path) -> Iterator[tuple[Sources, Pointers]]:
    """The sources of a home and their pointers."""
    home_of(home)
    with Sources(home) as sources:
        sources.make_folder()
        with Pointers.open(sources.pointers) as pointers:
            yield sources, pointers


def patient_key(sources: Sources, name: str, text: str) -> Key:
    """A patient's key as the source has it: a number where the mapping says so."""
    if isinstance(sources.settings(name), SqlSettings):
        mapping = read_mapping(sources.mapping_file(name).read_bytes())
        if mapping.patient_key == "integer":
            if not text.isascii() or not text.isdigit():
                raise Rejected(SourceCode.PATIENT_KEY_MALFORMED)
            return int(text)
    return text


def sync_source(desk: Desk, seat: Seat, name: str, only: bytes | None) -> list[PatientSynced]:
    """Compare and anchor one patient after the other; a refused one does not keep the others from it."""
    institution = home_of(desk.home)
    with open_pointers(desk.home) as (sources, pointers):
        source = sources.source(name)
        links = pointers.links(name) if only is None else [pointers.linked(name, only)]
        done: list[PatientSynced] = []
        with desk.progress("comparing") as advance:
            for number, link in enumerate(links, start=1):
                done.append(_sync_one(seat, pointers, source, link, institution))
                advance(number, len(links))
    return done


def check_records(desk: Desk, sources: Sources, pointers: Pointers, name: str) -> RecordsChecked:
    """Read every record of a source again."""
    institution = home_of(desk.home)
    unaltered, altered, gone = 0, [], []
    reader = SourceReader(charts=_NoCharts(), sources=sources, institution=institution)
    links = pointers.links(name)
    with reader, desk.progress("reading") as advance:
        for number, link in enumerate(links, start=1):
            for record in pointers.records_of(name, link.pseudonym):
                try:
                    check(reader.read(record.record_id), record.root, institution)
                    unaltered += 1
                except Tampered:
                    altered.append(record.record_id)
                except Rejected as refused:
                    if refused.code is not SourceCode.RESULT_GONE:
                        raise
                    gone.append(record.record_id)
            advance(number, len(links))
    return RecordsChecked(unaltered=unaltered, altered=tuple(altered), gone=tuple(gone))


class _NoCharts:
    """A check is about the source's own records."""

    def read(self, record_id: bytes, version: int | None = None) -> RecordContent:
        """There are none."""
        del record_id, version
        raise Rejected(SourceCode.RESULT_GONE)


def _sync_one(seat: Seat, pointers: Pointers, source: Source, link: Link, institution: Institution) -> PatientSynced:
    try:
        lines = seat.rows("records.timeline", AnchorLine, TimelinePage(link.pseudonym))
        for record in {line.record for line in lines if line.erased is not None}:
            pointers.erase(link.pseudonym, record, erased_s=int(time.time()))
        how = Circumstances(now_s=int(time.time()), rng=secrets.token_bytes, institution=institution)
        synced = sync_patient(pointers, source, link, how)
    except Unmapped as refused:
        place = f"{refused.query} {refused.place}".strip()
        return PatientSynced(pseudonym=link.pseudonym, refused=_denied(refused, f" (query {place})"))
    except Rejected as refused:
        return PatientSynced(pseudonym=link.pseudonym, refused=_denied(refused, ""))
    known = {(line.record, line.version) for line in lines}
    waiting = [one for one in _versions(pointers, link) if (one.record_id, one.version) not in known]
    return _anchored(seat, link, synced, waiting)


def _anchored(seat: Seat, link: Link, synced: Synced, waiting: list[StoredRecord]) -> PatientSynced:
    done: list[Done] = []
    anchored = 0
    refused = None
    try:
        for part in in_transactions([anchor_of(one, entropy=secrets.token_bytes) for one in waiting]):
            done += [seat.submit(*part)]
            anchored += len(part)
    except Denied as denied:
        refused = denied
    return PatientSynced(
        pseudonym=link.pseudonym,
        results=synced.results,
        added=synced.added,
        changed=synced.changed,
        deleted=synced.deleted,
        gone=synced.gone,
        anchored=tuple((one.record_id, one.version) for one in waiting[:anchored]),
        height=done[-1].height if done else None,
        refused=refused,
    )


def _versions(pointers: Pointers, link: Link) -> Iterator[StoredRecord]:
    for newest in pointers.records_of(link.source, link.pseudonym):
        yield from pointers.history(newest.record_id)


def _denied(refused: Rejected, where: str) -> Denied:
    code = refused.code
    return Denied(code=int(code), label=code.label, reason=f"{code.reason}{where}")
