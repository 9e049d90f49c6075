"""Creating and updating resources of any patients in one transaction (API-1, API-2, REC-4)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy import Connection, select

from carechain.charts.assistant import Arriving, Assistant
from carechain.charts.bundle import Entry, Json, entry_of
from carechain.charts.charting import Arrival, write_charts
from carechain.charts.codes import ChartsCode
from carechain.charts.facts import Content, Facts, content_of
from carechain.charts.index_schema import live
from carechain.charts.indexing import Index, Lying, lying
from carechain.charts.ingest import name_patients, store_directory
from carechain.charts.live import Visible
from carechain.charts.outbox import wait_for_anchor
from carechain.charts.placing import Arrived, Chart, charts_of, open_charts
from carechain.charts.reading import batches, unpacked
from carechain.charts.resource_types import DIRECTORY
from carechain.charts.schema import resources
from carechain.charts.sight import Sight
from carechain.charts.versions import Stored, newest_records
from carechain.core.rejection import require
from carechain.core.scope import Scope
from carechain.core.vocabulary import in_mask


class Change(Struct, frozen=True, kw_only=True):
    """One resource to create or to update.

    ``body`` is what is stored and committed to: references inside the transaction are replaced already. Its own ``id``
    is not looked at: ``resource_id`` counts. ``if_match`` is the version that must be the newest one. ``create`` is for
    the reader of a log: what is there already under the id is a version of the same resource either way. ``tree`` is
    what :func:`carechain.charts.bundle.strict_json` made of ``body``, for callers that have it anyway. ``is_valid``:
    :func:`carechain.charts.validation.validate` found nothing wrong with it, so its form is not looked at again.
    """

    resource_type: str
    resource_id: str
    body: bytes
    if_match: int | None = None
    create: bool = False
    tree: Json | None = None
    is_valid: bool = False

    def __repr__(self) -> str:
        return "Change()"

    @property
    def name(self) -> tuple[str, str]:
        """Type and id."""
        return self.resource_type, self.resource_id


class Applied(Struct, frozen=True, kw_only=True):
    """What became of a change: the newest version, whether it is the first, whether anything was written."""

    stored: Stored
    created: bool
    changed: bool


Name = tuple[str, str]


def write(
    connection: Connection,
    changes: Sequence[Change],
    *,
    allow: Sight,
    visible: Visible,
    arrival: Arrival,
    assistant: Assistant,
) -> list[Applied]:
    """Carry out the changes inside the caller's transaction; ``visible`` is ``allow`` as conditions.

    Raises what :meth:`carechain.charts.repository.Writer.apply` says.
    """
    require(len({one.name for one in changes}) == len(changes), ChartsCode.DUPLICATE_RESOURCE)
    index = Index(connection)
    valid = [Arriving(*one.name, one.body) for one in changes if one.is_valid]
    with assistant.describing(index.zone, valid if len(valid) == len(changes) else ()) as described:
        index.described = described
        arrived = [_arrived(one, described.content(position)) for position, one in enumerate(changes)]
        return _store(connection, changes, arrived, index, allow=allow, visible=visible, arrival=arrival)


def _store(
    connection: Connection,
    changes: Sequence[Change],
    arrived: Sequence[Arrived],
    index: Index,
    *,
    allow: Sight,
    visible: Visible,
    arrival: Arrival,
) -> list[Applied]:
    names = [one.name for one in changes]
    before = index.lying(names)
    if not allow.everything:
        require(not _unseen(connection, visible, before.values()), ChartsCode.NOT_VISIBLE)
    for change, name in zip(changes, names, strict=True):
        newest = before[name].version if name in before else None
        require(change.if_match is None or change.if_match == newest, ChartsCode.VERSION_CONFLICT)
    clinical = [one for one in arrived if one.entry.resource_type not in DIRECTORY]
    require(allow.everything or len(clinical) == len(arrived), ChartsCode.NOT_VISIBLE)
    if not allow.everything:
        clinical = _without_hidden(connection, visible, clinical, before)
    inside = _by_chart(connection, clinical, before, allow)
    written = write_charts(connection, inside, arrival, index)
    wait_for_anchor(connection, [seq for one in written for seq in one.record_seqs])
    people = {
        pseudonym: entry
        for pseudonym, entries in inside.items()
        for entry, _ in entries
        if entry.resource_type == "Patient"
    }
    name_patients(connection, people)
    store_directory(connection, [one.entry for one in arrived], arrival, index)
    outcome = _outcome(connection, changes, before, index.lying(names))
    index.flush()
    return outcome


def _arrived(change: Change, content: Content | None) -> Arrived:
    if content is not None:
        entry = Entry(
            full_url=None, resource_type=change.resource_type, resource_id=change.resource_id, body=change.body
        )
        return Arrived(entry=entry, content=content)
    entry, tree = entry_of(change.body, change.resource_type, change.resource_id, change.tree, is_valid=change.is_valid)
    return Arrived(entry=entry, content=content_of(entry.resource_type, tree))


def _without_hidden(
    connection: Connection, visible: Visible, arrived: Sequence[Arrived], before: dict[Name, Lying]
) -> list[Arrived]:
    """The resources without the references that must have no effect: to what the writer does not see.

    What a resource refers to decides whose chart and which record it goes into, and how it is graded; and a report
    draws its results into its own record. So a writer could find out that something hidden exists, or draw it to where
    it is seen. A reference to what is hidden and one to what is not there (yet) therefore count for nothing alike. What
    the version before referred to stays. The bytes are stored as they came.
    """
    coming = frozenset(one.entry.key for one in arrived)
    named = {key for one in arrived for key in one.refers_to() if key not in coming}
    there = lying(connection, [(kind, identity) for kind, _, identity in (one.partition("/") for one in named)])
    hidden = _unseen(connection, visible, there.values())
    counting = coming | {f"{kind}/{identity}" for (kind, identity), one in there.items() if one.rid not in hidden}
    earlier = _earlier(connection, [one for one in before.values() if one.pseudonym])
    return [one.only(counting | earlier.get(one.entry.key, frozenset())) for one in arrived]


def _earlier(connection: Connection, known: Sequence[Lying]) -> dict[str, frozenset[str]]:
    """What the newest stored versions of these resources refer to, by their keys."""
    keys = {one.seq: f"{one.resource_type}/{one.resource_id}" for one in known}
    found: dict[str, frozenset[str]] = {}
    for batch in batches(sorted(keys)):
        query = select(resources.c.seq, resources.c.facts).where(resources.c.seq.in_(batch))
        for seq, packed in connection.execute(query):
            facts = unpacked(packed)
            found[keys[seq]] = frozenset((*facts.references, facts.encounter))
    return found


def hidden_among(connection: Connection, visible: Visible, names: Sequence[Name]) -> set[Name]:
    """Those of the names that are taken by resources which are not seen."""
    if visible.everything:
        return set()
    there = lying(connection, names)
    hidden = _unseen(connection, visible, there.values())
    return {name for name, one in there.items() if one.rid in hidden}


def _unseen(connection: Connection, visible: Visible, wanted: Iterable[Lying]) -> set[int]:
    """The numbers of those resources that are not seen."""
    rids = [one.rid for one in wanted]
    condition = visible.of(live.c.shelf, live.c.day, live.c.record_id)
    if condition is None:
        return set()
    seen: set[int] = set()
    for batch in batches(rids):
        seen.update(connection.execute(select(live.c.rid).where(live.c.rid.in_(batch), condition)).scalars())
    return set(rids) - seen


def _by_chart(
    connection: Connection, clinical: Sequence[Arrived], before: dict[Name, Lying], allow: Sight
) -> dict[bytes, list[tuple[Entry, Facts]]]:
    """What goes into each chart by its pseudonym, and the charts themselves made where there are none yet."""
    charts = charts_of(connection, clinical, before)
    inside: dict[bytes, list[tuple[Entry, Facts]]] = defaultdict(list)
    named: dict[bytes, Chart] = {}
    for one in clinical:
        entry, chart = one.entry, charts[one.entry.key]
        named[chart.pseudonym] = chart
        facts = one.facts(chart.patient_id)
        is_new = (entry.resource_type, entry.resource_id) not in before
        require(not is_new or _may_file(allow, chart, facts), ChartsCode.NOT_VISIBLE)
        inside[chart.pseudonym].append((entry, facts))
    open_charts(connection, list(named.values()))
    return inside


def _may_file(allow: Sight, chart: Chart, facts: Facts) -> bool:
    """Whether something new may be filed: judged by what was sent alone, so that a refusal tells nothing of the chart.

    A window that is open for single records gives no right to add others.
    """
    if allow.everything:
        return True
    if chart.patient_id is None:
        return False
    scopes = [window.scope for window in allow.windows if window.pseudonym == chart.pseudonym]
    return any(_covers(scope, facts) for scope in scopes)


def _covers(scope: Scope, facts: Facts) -> bool:
    dated = facts.day < 0 or scope.first_day <= facts.day <= scope.last_day
    graded = facts.sensitivity <= scope.ceiling
    return not scope.records and in_mask(facts.category, scope.categories) and graded and dated


def _outcome(
    connection: Connection, changes: Sequence[Change], before: dict[Name, Lying], after: dict[Name, Lying]
) -> list[Applied]:
    versions = newest_records(connection, [one.record_id for one in after.values() if one.record_id is not None])
    found: list[Applied] = []
    for change in changes:
        now, old = after[change.name], before.get(change.name)
        stored = Stored(
            resource_type=change.resource_type,
            resource_id=change.resource_id,
            version=now.version,
            updated_us=now.updated_us,
            body=change.body,
            record=None if now.record_id is None else (now.record_id, versions[now.record_id]),
            rid=now.rid,
            seq=now.seq,
        )
        found.append(Applied(stored=stored, created=old is None, changed=old is None or old.seq != now.seq))
    return found
