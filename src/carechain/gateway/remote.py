"""``Patient/$remote-read``: a patient's resources at other members, each decided on the ledger (API-1, REC-2).

The caller names the patient's pseudonym at each member. For each there is a new access request in the name of the party
that the caller's application acts as; the member's gatekeeper serves what its ticket allows; and what comes back is one
Bundle with a proof for every resource (:mod:`carechain.gateway.remote_bundle`). Nothing of it is stored here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import httpx
import orjson

from carechain.chain.queries import Asker, ask
from carechain.chain.questions import AnchorLine, TimelinePage
from carechain.chain.receipts import code_named
from carechain.chain.tx import build
from carechain.charts.bundle import strict_json
from carechain.charts.dates import day_of
from carechain.charts.narrative import problem as hostile
from carechain.charts.resource_types import CATEGORIES, R4_TYPES
from carechain.charts.searching.among import found_among
from carechain.contracts.access import Decided, RequestAccess
from carechain.core.limits import ID_SIZE, NONCE_SIZE, REMOTE_SOURCES, TX_LIFETIME_S
from carechain.core.rejection import Rejected, present, require
from carechain.core.scope import LAST_DAY, Scope
from carechain.core.suite import Institution
from carechain.core.vocabulary import ALL_CATEGORIES, Category, Purpose, Sensitivity, mask
from carechain.gatekeeper.across import Across, Custodian, Given, Missing
from carechain.gatekeeper.fetch import Reader
from carechain.gatekeeper.ledger import LedgerReader
from carechain.gateway.codes import RemoteCode
from carechain.gateway.fhir.routing import ID
from carechain.gateway.principal import Principal
from carechain.gateway.providers.matching import within_scopes
from carechain.gateway.remote_bundle import remote_bundle
from carechain.sdk.failures import Unreachable

OPERATION: Final = ("Patient", "$remote-read")
OUTCOME_S: Final = 10
"""How long the ledger's decision is waited for."""

Parameters = Sequence[tuple[str, str]]
Readers = Callable[[Principal], Awaitable[Reader]]
"""The keys of the party that a caller's application acts as; raises ``Rejected`` where it acts as none."""


class LocalLedger:
    """The ledger of this very node, in the name of one reader: no session, no socket, the same three checks."""

    def __init__(self, ledger: LedgerReader, reader: Reader, entropy: Callable[[int], bytes]) -> None:
        self._ledger = ledger
        self._reader = reader
        self._entropy = entropy

    async def request(self, message: RequestAccess) -> tuple[Decided, int]:
        """As :class:`carechain.gatekeeper.across.Ledger`."""
        raw = build(
            key=self._reader.signing,
            sender=self._reader.party,
            chain_id=self._ledger.chain_id,
            nonce=self._entropy(NONCE_SIZE),
            valid_until_s=self._ledger.view().time_s + TX_LIFETIME_S // 2,
            messages=(message,),
        )
        try:
            async with asyncio.timeout(OUTCOME_S):
                placed = await self._ledger.submit(raw)
        except TimeoutError:
            raise Unreachable("the ledger makes no block") from None
        for event in placed.receipt.events:
            if isinstance(event, Decided):
                return event, placed.height
        code = code_named(placed.receipt.code)
        if code is None:
            raise RuntimeError("an access request without a decision")
        raise Rejected(code)

    async def timeline(self, pseudonym: bytes, ticket: bytes) -> Sequence[AnchorLine]:
        """As :class:`carechain.gatekeeper.across.Ledger`."""
        view = self._ledger.view()
        party = view.contracts.membership.party(self._reader.party)
        asker = Asker(self._reader.party, present(party, RemoteCode.NO_KEY))
        lines: list[AnchorLine] = []
        page = TimelinePage(pseudonym, ticket)
        while True:
            answer = ask(view, asker, "records.timeline", page)
            lines += answer.rows
            if answer.after is None:
                return lines
            page = TimelinePage(pseudonym, ticket, (answer.after[0], answer.after[1]))


class RemoteRead:
    """The operation. One per node: sessions at other members' doors are kept for each reader."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        readers: Readers,
        doors: Mapping[bytes, httpx.AsyncClient],
        base_url: str,
        zone: ZoneInfo,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        institution: Institution = Institution.INTERNATIONAL,
    ) -> None:
        """``doors`` holds, by member, a connection to its gatekeeper; they stay the caller's to close."""
        self._ledger = ledger
        self._readers = readers
        self._doors = doors
        self._base_url = base_url
        self._zone = zone
        self._clock = clock
        self._entropy = entropy
        self._institution = institution
        self._across: dict[bytes, Across] = {}

    async def __call__(self, principal: Principal, _id: str | None, parameters: Parameters, _body: bytes) -> bytes:
        """Answer ``source=<pseudonym>@<member>`` (repeated), narrowed by the other parameters.

        ``purpose``, ``category``, ``grade``, ``first`` and ``last`` (days) are what the ledger is asked for: name no
        more than is needed. ``_type`` and ``query`` (a search, ``Observation?code=…``) choose among what was given.
        Raises ``Rejected`` with a :class:`RemoteCode`.
        """
        wish = _Wish(parameters)
        reader = await self._readers(principal)
        custodians = [self._custodian(*one) for one in wish.sources]
        given, missing = await self._reader(reader).read(custodians, scope=wish.scope, purpose=wish.purpose)
        usable = [(one, [held for held in _contents(one) if _is_usable(held)]) for one in given]
        unusable = [_unusable(one) for one, held in usable if len(held) < len(_contents(one))]
        # Two members may use one id for two resources, so each member's are searched apart.
        found = {
            (one.organisation, one.pseudonym): await asyncio.to_thread(self._found, principal, held, wish)
            for one, held in usable
        }
        return remote_bundle(
            given,
            [*missing, *unusable],
            base_url=self._base_url,
            wanted=lambda member, content: content in found[member.organisation, member.pseudonym],
        )

    def _reader(self, reader: Reader) -> Across:
        known = self._across.get(reader.party)
        if known is None:
            known = self._across[reader.party] = Across(
                ledger=LocalLedger(self._ledger, reader, self._entropy),
                reader=reader,
                chain_id=self._ledger.chain_id,
                clock=self._clock,
                entropy=self._entropy,
                institution=self._institution,
            )
        return known

    def _custodian(self, pseudonym: bytes, member: bytes) -> Custodian:
        door = present(self._doors.get(member), RemoteCode.MEMBER_UNKNOWN)
        return Custodian(organisation=member, pseudonym=pseudonym, door=door)

    def _found(self, principal: Principal, held: list[bytes], wish: "_Wish") -> set[bytes]:
        """What was asked for among what a member gave, as far as the caller's scopes let it read at all."""
        held = _readable(principal, held, self._zone)
        if wish.types:
            held = [one for one in held if orjson.loads(one).get("resourceType") in wish.types]
        if wish.query is None:
            return set(held)
        resource_type, params = wish.query
        return {held[position] for position in found_among(held, resource_type, params, zone=self._zone)}


def _contents(given: Given) -> list[bytes]:
    return [content for record in given.records for content in record.resources]


def _is_usable(content: bytes) -> bool:
    """Whether a member gave a resource that can be passed on: a proof says who wrote it, not that it is harmless."""
    try:
        tree = strict_json(content)
    except Rejected:
        return False
    if not isinstance(tree, dict) or tree.get("resourceType") not in R4_TYPES or not _is_id(tree.get("id", "")):
        return False
    return all(isinstance(div, str) and hostile(div) is None for div in _narratives(tree))


def _is_id(text: object) -> bool:
    return isinstance(text, str) and (not text or ID.fullmatch(text) is not None)


def _narratives(tree: Any) -> Iterator[object]:  # noqa: ANN401 - JSON of somebody else
    """What stands as XHTML anywhere in a resource."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "div" in node:
                yield node["div"]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _unusable(given: Given) -> Missing:
    """Said of a member part of whose records is left out."""
    code = RemoteCode.CONTENT_UNUSABLE
    return Missing(organisation=given.organisation, pseudonym=given.pseudonym, label=code.label, reason=code.reason)


def _readable(principal: Principal, held: list[bytes], zone: ZoneInfo) -> list[bytes]:
    """What the caller's scopes let it read: its party's ticket may be wider than its token."""
    by_type: dict[str, list[bytes]] = {}
    for content in held:
        tree = orjson.loads(content)
        # A query of a scope is about resources that have an id.
        if tree.get("id") or not principal.may(tree["resourceType"]).filters:
            by_type.setdefault(tree["resourceType"], []).append(content)
    shown: list[bytes] = []
    for resource_type, contents in by_type.items():
        if principal.may(resource_type).read:
            shown += within_scopes(principal, resource_type, contents, zone=zone)
    return shown


class _Wish:
    """The parameters, read once; raises ``Rejected`` for what has not their form."""

    def __init__(self, parameters: Parameters) -> None:
        self.sources = _sources([value for name, value in parameters if name == "source"])
        self.types = frozenset(one for name, value in parameters if name == "_type" for one in value.split(",") if one)
        require(self.types <= CATEGORIES.keys(), RemoteCode.WISH_MALFORMED)
        self.query = _query(_one(parameters, "query", ""))
        purpose = _one(parameters, "purpose", Purpose.TREAT.name)
        require(purpose in Purpose.__members__, RemoteCode.PURPOSE_UNKNOWN)
        self.purpose = Purpose[purpose]
        grade = _one(parameters, "grade", Sensitivity.N.name)
        require(grade in Sensitivity.__members__, RemoteCode.WISH_MALFORMED)
        categories = [one.upper() for name, value in parameters if name == "category" for one in value.split(",")]
        require(all(one in Category.__members__ for one in categories), RemoteCode.WISH_MALFORMED)
        self.scope = Scope(
            categories=mask(*(Category[one] for one in dict.fromkeys(categories))) if categories else ALL_CATEGORIES,
            ceiling=Sensitivity[grade],
            first_day=_day(_one(parameters, "first", ""), 0),
            last_day=_day(_one(parameters, "last", ""), LAST_DAY),
        )
        require(self.scope.is_well_formed(), RemoteCode.WISH_MALFORMED)


def _one(parameters: Parameters, name: str, default: str) -> str:
    found = [value for key, value in parameters if key == name]
    require(len(found) <= 1, RemoteCode.WISH_MALFORMED)
    return found[0] if found else default


def _query(text: str) -> tuple[str, list[tuple[str, str]]] | None:
    resource_type, mark, query = text.partition("?")
    if not text:
        return None
    require(mark and resource_type in CATEGORIES, RemoteCode.WISH_MALFORMED)
    return resource_type, parse_qsl(query, keep_blank_values=True)


def _day(text: str, default: int) -> int:
    if not text:
        return default
    try:
        return day_of(text)
    except Rejected:
        raise Rejected(RemoteCode.WISH_MALFORMED) from None


def _sources(texts: Sequence[str]) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for text in texts:
        pseudonym, _, member = text.partition("@")
        try:
            source = bytes.fromhex(pseudonym), bytes.fromhex(member)
        except ValueError:
            raise Rejected(RemoteCode.SOURCES_MALFORMED) from None
        require(all(len(one) == ID_SIZE for one in source) and source not in found, RemoteCode.SOURCES_MALFORMED)
        found.append(source)
    require(0 < len(found) <= REMOTE_SOURCES, RemoteCode.SOURCES_MALFORMED)
    return found
