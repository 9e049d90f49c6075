"""Subscriptions as a stream of events (Server-Sent Events): that something changed, by its id, never its content.

``GET $events?criteria=Observation?category=laboratory`` sends a line for every resource the caller sees whose newest
version is new. A stream is judged again before every part of it: when the caller's session, ticket or grant ends, the
stream ends. ``Last-Event-ID`` goes on where a broken stream stopped, for an hour; 0 begins at the beginning.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Final

import orjson

from carechain.charts.repository import Reader, Stored
from carechain.charts.searching.query import narrowed, parse
from carechain.charts.searching.result import Page, search
from carechain.charts.searching.tree import SearchQuery
from carechain.core.limits import (
    EVENT_STREAM_SUBSCRIBERS,
    EVENT_STREAMS_PER_PARTY,
    FHIR_EVENTS_LOOKED_AT,
    FHIR_EVENTS_POLL_S,
    FHIR_PAGE_LINK_S,
)
from carechain.core.rejection import Rejected, require
from carechain.gateway.codes import FhirCode
from carechain.gateway.fhir.call import Answer, Call, Given, Site, given
from carechain.gateway.fhir.conditions import US_PER_S
from carechain.gateway.fhir.guarding import guarded
from carechain.gateway.fhir.matching import criteria
from carechain.gateway.fhir.outcome import Problem, outcome, problem_of
from carechain.gateway.fhir.paging import Place
from carechain.gateway.fhir.parameters import last
from carechain.gateway.fhir.rights import Right, readable, require_may
from carechain.gateway.fhir.routing import Kind, route
from carechain.gateway.fhir.threads import Threads
from carechain.gateway.principal import Principal

EVENT_STREAM: Final = "text/event-stream"
EVENTS: Final = "$events"
FROM_THE_BEGINNING: Final = "0"
"""``Last-Event-ID`` of a caller that wants everything that is there, too."""
_SEQ_SIZE: Final = 8
Known = Callable[[], Awaitable[Principal]]
Auditing = Callable[[Given], Awaitable[None]]


class Bell:
    """Wakes the streams when this server has stored something."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Something was stored."""
        self._next.set()
        self._next = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """What the next ring sets: taken before looking, so that no ring is missed between looking and waiting."""
        return self._next


async def _until(rung: asyncio.Event, most_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(rung.wait(), most_s)


class Events:
    """The event streams of one server."""

    def __init__(self, site: Site, threads: Threads, bell: Bell) -> None:
        self._site = site
        self._threads = threads
        self._bell = bell
        self._open: dict[bytes, int] = {}

    async def stream(self, call: Call, audit: Auditing, known: Known) -> Answer:
        """Begin a stream; ``known`` authenticates the caller again, ``audit`` notes every part before it is sent.

        Raises ``Rejected`` (400, 403, 429).
        """
        self.query(call.principal, call)
        require(sum(self._open.values()) < EVENT_STREAM_SUBSCRIBERS, FhirCode.TOO_MANY_STREAMS)
        require(self._open.get(call.principal.party, 0) < EVENT_STREAMS_PER_PARTY, FhirCode.TOO_MANY_STREAMS)
        after = call.headers.get("last-event-id")
        if after is None:
            begin = await self._threads.read(lambda reader: reader.last_seq())
        else:
            begin = 0 if after == FROM_THE_BEGINNING else self._place(call.principal, after)
        return Answer(media_type=EVENT_STREAM, stream=self._events(call, audit, known, begin), is_audited=False)

    def query(self, principal: Principal, call: Call) -> SearchQuery:
        """The criteria within the caller's rights; raises ``Rejected``."""
        text = last(call.params, "criteria")
        if text is None:
            raise Rejected(FhirCode.CRITERIA_MISSING)
        target = route("GET", text.partition("?")[0])
        require(target.kind is Kind.SEARCH_TYPE, FhirCode.PARAMETER_INVALID)
        require_may(principal, target.resource_type, Right.SEARCH)
        require_may(principal, target.resource_type, Right.READ)
        asked = criteria(text) if "?" in text else []
        query = parse(target.resource_type, asked, zone=self._site.zone, strict=True, base_url=self._site.base_url)
        return guarded(self._site, principal, query)

    async def _events(self, call: Call, audit: Auditing, known: Known, begin: int) -> AsyncGenerator[bytes, None]:
        party, loop = call.principal.party, asyncio.get_running_loop()
        # Beats keep time by themselves: one for every ring would tell when something hidden is stored.
        beat_s = loop.time()
        self._open[party] = self._open.get(party, 0) + 1
        seq = begin
        try:
            yield b": open\n\n"
            while True:
                try:
                    principal = await known()
                    query = self.query(principal, call)
                except (Problem, Rejected) as refused:
                    problem = refused if isinstance(refused, Problem) else problem_of(refused)
                    yield b"event: end\ndata: %b\n\n" % outcome(problem.issues)
                    return
                rung = self._bell.listen()
                changed, seq, is_all = await self._threads.read(partial(self._new, principal, query, seq))
                if changed:
                    # That a resource meets the criteria is health data.
                    await audit(given(changed))
                    yield b"".join(self._event(principal, one) for one in changed)
                elif loop.time() >= beat_s:
                    beat_s = loop.time() + FHIR_EVENTS_POLL_S
                    yield b": beat\n\n"
                if is_all:
                    await _until(rung, max(beat_s - loop.time(), 0))
        finally:
            self._open[party] -= 1
            if not self._open[party]:
                del self._open[party]

    def _new(
        self, principal: Principal, query: SearchQuery, seq: int, reader: Reader
    ) -> tuple[list[Stored], int, bool]:
        """What changed and matches, up to which number was looked, and whether that was all."""
        changed = reader.changes(principal.sight, seq, FHIR_EVENTS_LOOKED_AT)
        wanted = query.parts[0].resource_type
        rids = [one.rid for one in changed if one.resource_type == wanted]
        if not rids:
            return [], changed[-1].seq if changed else seq, len(changed) < FHIR_EVENTS_LOOKED_AT
        found = search(reader.connection, reader.visible(principal.sight), narrowed(query, rids), Page(count=len(rids)))
        matched = set(found.matches)
        shown = readable(self._site, reader, principal, [one for one in changed if one.rid in matched])
        return shown, changed[-1].seq, len(changed) < FHIR_EVENTS_LOOKED_AT

    def _event(self, principal: Principal, stored: Stored) -> bytes:
        """One line of the stream. Its number counts everybody's changes, so it goes out sealed."""
        expires_s = self._site.clock_us() // US_PER_S + FHIR_PAGE_LINK_S
        place = Place(EVENTS, "", "", "", [], stored.seq.to_bytes(_SEQ_SIZE), expires_s)
        data = orjson.dumps({"focus": f"{stored.resource_type}/{stored.resource_id}", "versionId": str(stored.version)})
        return b"id: %b\nevent: change\ndata: %b\n\n" % (self._site.pages.link(principal, place).encode(), data)

    def _place(self, principal: Principal, text: str) -> int:
        """The number behind an event's id; raises ``Rejected`` for one that is not this caller's or too old."""
        place = self._site.pages.place(principal, text, self._site.clock_us() // US_PER_S)
        require(place.kind == EVENTS, FhirCode.PAGE_UNKNOWN)
        return int.from_bytes(place.after)
