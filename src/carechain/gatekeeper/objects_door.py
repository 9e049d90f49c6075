"""The vault's HTTP face, behind the gatekeeper's sessions: sealed objects by address, and search by tokens.

``GET`` and ``HEAD /v1/objects/{address}`` are for every live party, with ``Range``: what is served is ciphertext, and
who has no ticket gets no key for it. ``PUT`` is for the own organisation and for those it keeps copies for; ``DELETE``
is for the member that put an object, and destroys it once nobody has it here. ``POST /v1/search`` takes a ticket and
tokens and answers the ids of the records inside the ticket's scope that have all of them. ``POST /v1/tokens`` is how
the own staff brings them. Refusals are JSON, as at the gatekeeper's other paths.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Send

from carechain.chain.queries import View
from carechain.core.ids import Hash, PartyId, RecordId, TicketId
from carechain.core.limits import (
    HTTP_BODY_S,
    OBJECT_SIZE_BYTES,
    SEARCH_BODY_BYTES,
    SEARCH_RECORDS,
    TOKENS_PER_RECORD,
    TOKENS_PER_SEARCH,
    VAULT_READS_AT_ONCE,
    VAULT_WRITES_AT_ONCE,
)
from carechain.core.party import Party
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.core.vocabulary import PartyKind
from carechain.gatekeeper.audit import Audit, Read
from carechain.gatekeeper.bodies import bounded_body
from carechain.gatekeeper.codes import Withheld
from carechain.gatekeeper.decide import Allow, Deny, Door, Moment, decide_ticket, record_gap
from carechain.gatekeeper.ledger import LATEST, Decision, LedgerReader, read_decision, read_wanted
from carechain.vault.base import parse_address, span
from carechain.vault.codes import VaultCode
from carechain.vault.metering import NOBODY
from carechain.vault.remote import PSEUDONYM_HEADER, REPLACE_HEADER
from carechain.vault.service import VaultService

STATUS: Final[dict[RejectionCode, int]] = {
    VaultCode.REQUEST_MALFORMED: 400,
    VaultCode.ADDRESS_MALFORMED: 400,
    VaultCode.NOT_LIVE: 403,
    VaultCode.MAY_NOT_WRITE: 403,
    VaultCode.OBJECT_ERASED: 410,
    VaultCode.OBJECT_UNKNOWN: 404,
    VaultCode.RANGE_UNUSABLE: 416,
    VaultCode.OBJECT_TOO_LARGE: 413,
    VaultCode.QUOTA_EXCEEDED: 413,
    VaultCode.CONTENT_DIFFERS: 422,
    VaultCode.OBJECT_ALTERED: 409,
    VaultCode.BUSY: 503,
    VaultCode.TOO_MANY_TOKENS: 413,
    VaultCode.SEARCH_TOO_WIDE: 413,
}
"""The HTTP status of each refusal."""
READS_PER_PARTY: Final = 16
_BYTES: Final = "bytes="
_MSGPACK: Final = "application/msgpack"
_OCTETS: Final = "application/octet-stream"
_TOKENS_BODY_BYTES: Final = 64 * TOKENS_PER_RECORD
_LOOKED_AT_ONCE: Final = 100
_INSTITUTIONAL: Final = (PartyKind.MEMBER, PartyKind.STAFF)


class Policy(Struct, frozen=True, kw_only=True):
    """For which other organisations copies are kept, and how many bytes of each."""

    partners: frozenset[bytes] = frozenset()
    quota_bytes: int = 0


class SearchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records have all of these tokens; ``after`` continues behind the last record of the page before."""

    ticket: TicketId
    tokens: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=TOKENS_PER_SEARCH)]
    after: RecordId | None = None


class SearchAnswer(Struct, frozen=True, kw_only=True):
    """Records in ascending order; ``after`` is None at the end, and ``height`` the block whose state allowed it."""

    records: tuple[RecordId, ...]
    after: RecordId | None
    height: int


class PutTokens(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tokens of one record, in place of those it had; none at all to forget them."""

    pseudonym: PartyId
    record: RecordId
    tokens: Annotated[tuple[Hash, ...], Meta(max_length=TOKENS_PER_RECORD)]


_searches: Final = msgspec.msgpack.Decoder(SearchRequest)
_puts: Final = msgspec.msgpack.Decoder(PutTokens)
_encoder: Final = msgspec.msgpack.Encoder()


class _Content(StreamingResponse):
    """Bytes for somebody who takes them: who takes none for as long as a body may pause has lost its place.

    Otherwise a few who never read would keep everybody else from reading.
    """

    async def stream_response(self, send: Send) -> None:
        """Send the content; what is not taken in time is cut, and the server closes the connection."""
        is_late = False

        async def in_time(message: Message) -> None:
            nonlocal is_late
            try:
                async with asyncio.timeout(HTTP_BODY_S):
                    await send(message)
            except TimeoutError:
                is_late = True
                raise

        try:
            await super().stream_response(in_time)
        except TimeoutError:
            if not is_late:
                raise
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


class ObjectsDoor:
    """The door of one organisation's vault."""

    def __init__(
        self,
        vault: VaultService,
        *,
        ledger: LedgerReader,
        organisation: bytes,
        audit: Audit,
        clock: Callable[[], int],
        incoming: Path,
        policy: Policy | None = None,
    ) -> None:
        """``incoming`` is a folder for what is arriving; ``clock()`` is Unix seconds."""
        self._vault = vault
        self._ledger = ledger
        self._organisation = organisation
        self._audit = audit
        self._clock = clock
        self._incoming = incoming
        self._policy = policy or Policy()
        self._reading: Counter[bytes] = Counter()
        self._writing = 0
        self._arriving: Counter[bytes] = Counter()

    def routes(self, who_asks: Callable[[Request], bytes]) -> Sequence[Route]:
        """The routes, as an extension of :func:`carechain.gatekeeper.serve.app`."""

        async def objects(request: Request) -> Response:
            view = self._ledger.view()
            party_id = who_asks(request)
            party = _live(view, party_id)
            address = parse_address(request.path_params["address"])
            match request.method:
                case "PUT":
                    return await self._put(request, party, address)
                case "DELETE":
                    return await self._delete(party, address)
                case "HEAD":
                    return await self._head(party, address)
            return await self._get(request, party_id, party, address)

        async def search(request: Request) -> Response:
            requester = who_asks(request)
            wanted = _decoded(_searches, await bounded_body(request, SEARCH_BODY_BYTES))
            return _packed(await self.search(requester, wanted))

        async def tokens(request: Request) -> Response:
            party = _live(self._ledger.view(), who_asks(request))
            own = party.kind in _INSTITUTIONAL and party.organisation == self._organisation
            require(own, VaultCode.MAY_NOT_WRITE)
            put = _decoded(_puts, await bounded_body(request, _TOKENS_BODY_BYTES))
            erased = self._ledger.view().contracts.records.is_erased(put.pseudonym, put.record)
            require(not erased, VaultCode.OBJECT_ERASED)
            await asyncio.to_thread(self._vault.tokens.put, put.pseudonym, put.record, put.tokens)
            if self._ledger.view().contracts.records.is_erased(put.pseudonym, put.record):
                # Ordered while they were written, perhaps after the eraser had looked.
                await asyncio.to_thread(self._vault.tokens.delete, put.pseudonym, put.record)
                raise Rejected(VaultCode.OBJECT_ERASED)
            return _packed({})

        return (
            Route("/v1/objects/{address}", objects, methods=["GET", "HEAD", "PUT", "DELETE"]),
            Route("/v1/search", search, methods=["POST"]),
            Route("/v1/tokens", tokens, methods=["POST"]),
        )

    # --- reading --------------------------------------------------------------------------------------------

    async def _head(self, party: Party, address: bytes) -> Response:
        size = await self._size(address, only_ours=self._is_a_partners_server(party))
        return Response(media_type=_OCTETS, headers={"content-length": str(size), "accept-ranges": "bytes"})

    async def _get(self, request: Request, asker: bytes, party: Party, address: bytes) -> Response:
        only_ours = self._is_a_partners_server(party)
        size = await self._size(address, only_ours=only_ours)
        asked = request.headers.get("range")
        start, end = (0, size) if asked is None else _range(asked, size)
        busy = self._reading.total() >= VAULT_READS_AT_ONCE or self._reading[asker] >= READS_PER_PARTY
        require(not busy, VaultCode.BUSY)
        last = None if (start, end) == (0, size) else end
        chunks = self._chunks(asker, self._vault.open(address, start, last, only_ours=only_ours))
        # The first chunk comes before the status: until then whatever is wrong can be told by its own code.
        first = await anext(chunks, b"")
        headers = {"content-length": str(end - start), "accept-ranges": "bytes", "cache-control": "no-store"}
        if asked is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        status = HTTPStatus.OK if asked is None else HTTPStatus.PARTIAL_CONTENT
        return _Content(_again(first, chunks), status_code=status, headers=headers, media_type=_OCTETS)

    def _is_a_partners_server(self, party: Party) -> bool:
        """Whether another organisation's own key asks: it wants to know what is here, not what its partners have."""
        return party.kind is PartyKind.MEMBER and party.organisation != self._organisation

    async def _size(self, address: bytes, *, only_ours: bool) -> int:
        size = await self._vault.size(address, only_ours=only_ours)
        if size is None:
            raise Rejected(VaultCode.OBJECT_UNKNOWN)
        return size

    async def _chunks(self, asker: bytes, content: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        self._reading[asker] += 1
        try:
            async with aclosing(content) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._reading[asker] -= 1
            self._reading += Counter()

    # --- writing --------------------------------------------------------------------------------------------

    async def _put(self, request: Request, party: Party, address: bytes) -> Response:
        organisation = self._writer(party)
        require(not await self._vault.is_erased(address), VaultCode.OBJECT_ERASED)
        own = organisation == self._organisation
        pseudonym = _pseudonym(request.headers.get(PSEUDONYM_HEADER)) if own else NOBODY
        with self._write_turn(), NamedTemporaryFile(dir=self._incoming, prefix="arriving-") as file:
            received = await self._receive(request, file, organisation)
            try:
                await self._vault.put(
                    address,
                    Path(file.name),
                    replace=request.headers.get(REPLACE_HEADER) == "1",
                    pseudonym=pseudonym,
                    party=organisation,
                )
            finally:
                self._arriving[organisation] -= received
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _receive(self, request: Request, file: Any, organisation: bytes) -> int:  # noqa: ANN401 - of tempfile
        """Write the body to the file; what has arrived counts against the quota until it stands in the books."""
        limit, refusal = await self._limit(organisation)
        announced = request.headers.get("content-length", "")
        require(not announced.isdigit() or int(announced) <= limit, refusal)
        received, stream = 0, request.stream()
        try:
            while True:
                async with asyncio.timeout(HTTP_BODY_S):
                    chunk = await anext(stream, None)
                if chunk is None:
                    break
                require(received + len(chunk) <= limit, refusal)
                received += len(chunk)
                self._arriving[organisation] += len(chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.flush)
            # What began to arrive at the same time saw the same room.
            require(await self._room(organisation) >= 0, refusal)
        except BaseException as failure:
            self._arriving[organisation] -= received
            if isinstance(failure, TimeoutError | ClientDisconnect):
                raise Rejected(VaultCode.REQUEST_MALFORMED) from None
            raise
        return received

    async def _limit(self, organisation: bytes) -> tuple[int, VaultCode]:
        """How many bytes an object of this organisation may have now, and what is said about a larger one."""
        if organisation == self._organisation:
            return OBJECT_SIZE_BYTES, VaultCode.OBJECT_TOO_LARGE
        return max(0, min(await self._room(organisation), OBJECT_SIZE_BYTES)), VaultCode.QUOTA_EXCEEDED

    async def _room(self, organisation: bytes) -> int:
        """How many bytes more are kept for an organisation, beside those that are arriving; below zero: too many."""
        if organisation == self._organisation:
            return OBJECT_SIZE_BYTES
        held = await asyncio.to_thread(self._vault.metering.held_bytes, organisation)
        return self._policy.quota_bytes - held - self._arriving[organisation]

    async def _delete(self, party: Party, address: bytes) -> Response:
        organisation = self._writer(party)
        require(party.kind is PartyKind.MEMBER, VaultCode.MAY_NOT_WRITE)
        # What the patient had erased is this organisation's own to destroy, and to sign for.
        require(not await self._vault.is_erased(address), VaultCode.OBJECT_ERASED)
        require(await self._vault.give_up(address, organisation), VaultCode.OBJECT_UNKNOWN)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _writer(self, party: Party) -> bytes:
        organisation = party.organisation
        known = organisation == self._organisation or organisation in self._policy.partners
        require(known and party.kind in _INSTITUTIONAL, VaultCode.MAY_NOT_WRITE)
        return organisation

    @contextmanager
    def _write_turn(self) -> Iterator[None]:
        require(self._writing < VAULT_WRITES_AT_ONCE, VaultCode.BUSY)
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    # --- searching ------------------------------------------------------------------------------------------

    async def search(self, requester: bytes, request: SearchRequest) -> SearchAnswer:
        """The records inside the ticket's scope with all the tokens; audited before it is answered.

        Raises :class:`Withheld` for the ticket, ``Rejected`` for the tokens.
        """
        view = self._ledger.view()
        decision = read_decision(view, request.ticket)
        try:
            allowed = self._require(decision, requester)
            found = await asyncio.to_thread(
                self._vault.tokens.search, allowed.ticket.pseudonym, request.tokens, after=request.after or b""
            )
            covered = await self._covered(view, allowed, found)
        except Rejected as refused:
            await self._note(requester, request.ticket, decision, code=int(refused.code))
            raise
        await self._note(requester, request.ticket, decision, code=0)
        page = covered[:SEARCH_RECORDS]
        more = len(covered) > len(page)
        return SearchAnswer(records=tuple(page), after=page[-1] if more else None, height=decision.height)

    def _require(self, decision: Decision, requester: bytes) -> Allow:
        verdict = decide_ticket(
            ticket=decision.ticket,
            requester=requester,
            custodian=self._organisation,
            roles=decision.roles,
            path_is_live=decision.path_is_live,
            moment=Moment(block_s=decision.block_s, wall_s=self._clock()),
            door=Door.RECORDS,
        )
        if isinstance(verdict, Deny):
            raise Withheld(verdict.code)
        return verdict

    async def _covered(self, view: View, allowed: Allow, found: Sequence[bytes]) -> list[bytes]:
        """The records that the ticket covers, up to one more than a page."""
        ticket, covered = allowed.ticket, list[bytes]()
        for at in range(0, len(found), _LOOKED_AT_ONCE):
            part = found[at : at + _LOOKED_AT_ONCE]
            wanted = read_wanted(view, ticket.pseudonym, [(record, LATEST) for record in part])
            covered += [one.record_id for one in wanted if record_gap(ticket, one) is None]
            if len(covered) > SEARCH_RECORDS:
                break
            # A long list must not keep everybody else waiting.
            await asyncio.sleep(0)
        return covered

    async def _note(self, requester: bytes, ticket: bytes, decision: Decision, *, code: int) -> None:
        read = Read(
            at_s=self._clock(), height=decision.height, requester=requester, ticket=ticket, code=code, records=()
        )
        await asyncio.to_thread(self._audit.append, read)


def _live(view: View, party_id: bytes) -> Party:
    """The party, if the ledger has it as live; raises ``Rejected``."""
    membership = view.contracts.membership
    party = membership.party(party_id)
    if party is None or membership.standing(party, view.time_s) is not None:
        raise Rejected(VaultCode.NOT_LIVE)
    return party


def _range(asked: str, size: int) -> tuple[int, int]:
    """One range of a ``Range`` header (RFC 9110 section 14.1.2) as start and end; raises ``Rejected``."""
    first, separator, last = asked.removeprefix(_BYTES).partition("-")
    digits = all(not one or (one.isascii() and one.isdigit() and len(one) < len(str(2 * OBJECT_SIZE_BYTES)))
                 for one in (first, last))  # fmt: skip
    require(asked.startswith(_BYTES) and separator and digits and (first or last), VaultCode.RANGE_UNUSABLE)
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    require(start < end, VaultCode.RANGE_UNUSABLE)
    return span(start, end, size)


def _pseudonym(given: str | None) -> bytes:
    try:
        return NOBODY if given is None else parse_address(given)
    except Rejected:
        raise Rejected(VaultCode.REQUEST_MALFORMED) from None


def _decoded(decoder: "msgspec.msgpack.Decoder[Any]", body: bytes) -> Any:  # noqa: ANN401 - what the decoder is of
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Rejected(VaultCode.REQUEST_MALFORMED) from None


def _packed(answer: object) -> Response:
    return Response(_encoder.encode(answer), media_type=_MSGPACK, headers={"cache-control": "no-store"})


async def _again(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest) as chunks:
        if first:
            yield first
        async for chunk in chunks:
            yield chunk
