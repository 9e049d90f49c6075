"""The requester's side of a read: ask a custodian's gatekeeper, open the answer, believe only the ledger (REC-2).

What is expected comes from the requester's own view of the ledger (``records.timeline`` through the ticket), so a
gatekeeper that withholds, exchanges or alters anything is noticed by :mod:`carechain.sdk.opening`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final

import httpx
import msgspec
from msgspec import Meta, Struct

from carechain.chain.questions import AnchorLine
from carechain.core.crypto import SigningKey
from carechain.core.ids import U32, RecordId
from carechain.core.limits import GATEKEEPER_RECORDS, GATEKEEPER_RESPONSE_BYTES, NONCE_SIZE
from carechain.core.rejection import Rejected, RejectionCode
from carechain.core.scope import Scope
from carechain.core.suite import Institution
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.gatekeeper.release import Asked, Release, ReleaseRequest
from carechain.gatekeeper.serve import MSGPACK
from carechain.sdk.authentication import AuthCode, Service, sign_opening
from carechain.sdk.opening import AnchoredRecord, NotBelieved, OpenCode, OpenedRecord, open_records
from carechain.sealing.hpke import HpkePrivateKey

_ENVELOPE_BYTES: Final = 64 * 1024
ANSWER_BYTES: Final = GATEKEEPER_RESPONSE_BYTES + _ENVELOPE_BYTES
_OK: Final = 200


class GatekeeperUnreachable(Exception):  # noqa: N818 - the state of the environment, not of the caller
    """The gatekeeper could not be reached, or what answers there is not a gatekeeper. Names no content."""


class Reader(Struct, frozen=True, kw_only=True):
    """Who asks: a party's id and its two private keys. The repr of neither key shows a secret."""

    party: bytes
    signing: SigningKey
    hpke: HpkePrivateKey


class _Refusal(Struct):
    code: int
    label: str
    reason: str
    record: Annotated[str, Meta(max_length=64)] | None = None


class _Answer(Struct):
    records: Annotated[tuple[tuple[RecordId, U32], ...], Meta(max_length=GATEKEEPER_RECORDS)]
    sealed: bytes
    after: RecordId | None
    height: int


class _Session(Struct):
    token: str

    def __repr__(self) -> str:
        return "_Session()"


_refusals = msgspec.json.Decoder(_Refusal)
_answers = msgspec.msgpack.Decoder(_Answer)
_sessions = msgspec.msgpack.Decoder(_Session)
_encoder = msgspec.msgpack.Encoder()


class GatekeeperClient:
    """One party at one custodian's gatekeeper. The session is opened at the first request and renewed when it ends.

    Refusals are raised with their own codes: :class:`Withheld` with a :class:`GatekeeperCode` and the record where
    one is to blame, ``Rejected`` with an :class:`AuthCode`, and ``NotBelieved`` for an answer that the ledger
    contradicts. A broken connection is :class:`GatekeeperUnreachable`.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        chain_id: str,
        custodian: bytes,
        reader: Reader,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
        institution: Institution = Institution.INTERNATIONAL,
    ) -> None:
        """``http`` has the gatekeeper's address as its base URL and stays the caller's to close.

        ``institution`` is the network's suite.
        """
        self._http = http
        self._chain_id = chain_id
        self._custodian = custodian
        self._reader = reader
        self._clock = clock
        self._entropy = entropy
        self._institution = institution
        self._token: str | None = None

    async def read(self, ticket: bytes, expected: Sequence[AnchoredRecord]) -> tuple[OpenedRecord, ...]:
        """Exactly these records under the ticket, each verified against its anchor; all of them or none."""
        opened: list[OpenedRecord] = []
        for at in range(0, len(expected), GATEKEEPER_RECORDS):
            part = expected[at : at + GATEKEEPER_RECORDS]
            asked = tuple(Asked(one.record_id, one.version) for one in part)
            answer = await self._release(ReleaseRequest(ticket=ticket, records=asked))
            opened.extend(self._open(ticket, answer, part))
        return tuple(opened)

    async def read_all(
        self, ticket: bytes, expected: Sequence[AnchoredRecord], *, page: int = GATEKEEPER_RECORDS
    ) -> tuple[OpenedRecord, ...]:
        """Everything the ticket covers, page by page; it must be all of ``expected`` and nothing else.

        ``expected`` is what the ledger shows through the ticket, see :func:`newest_of`.
        """
        anchors = sorted(expected, key=lambda one: one.record_id)
        opened: list[OpenedRecord] = []
        after: bytes | None = None
        while True:
            answer = await self._release(ReleaseRequest(ticket=ticket, after=after, limit=page))
            after = answer.after
            rest = anchors[len(opened) :]
            # Pages follow record ids, so each must be the next stretch of what is expected, the last one all of it.
            part = rest if after is None else rest[: len(answer.records)]
            opened.extend(self._open(ticket, answer, part))
            if after is None:
                return tuple(opened)
            # A page that promises more must bring something and end where the next begins: a gatekeeper that
            # stops short would otherwise pass for one that has no more.
            if not part or part[-1].record_id != after:
                unread = anchors[len(opened) :]
                raise NotBelieved(OpenCode.RECORD_MISSING, record_id=unread[0].record_id if unread else None)

    def _open(self, ticket: bytes, answer: Release, expected: Sequence[AnchoredRecord]) -> tuple[OpenedRecord, ...]:
        return open_records(
            answer.sealed,
            chain_id=self._chain_id,
            ticket_id=ticket,
            requester=self._reader.party,
            private_key=self._reader.hpke,
            expected=expected,
            institution=self._institution,
        )

    async def _release(self, request: ReleaseRequest) -> Release:
        try:
            return await self._ask(request)
        except Rejected as refused:
            if refused.code is not AuthCode.SESSION_UNKNOWN:
                raise
        self._token = None
        return await self._ask(request)

    async def _ask(self, request: ReleaseRequest) -> Release:
        if self._token is None:
            self._token = await self._open_session()
        data = await self._post("/v1/release", request, {"authorization": f"Bearer {self._token}"})
        try:
            answer = _answers.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise GatekeeperUnreachable("the answer is not a gatekeeper's") from None
        return Release(records=answer.records, sealed=answer.sealed, after=answer.after, height=answer.height)

    async def _open_session(self) -> str:
        opening = sign_opening(
            self._reader.signing,
            chain_id=self._chain_id,
            service=Service.GATEKEEPER,
            server=self._custodian,
            party=self._reader.party,
            time_s=self._clock(),
            nonce=self._entropy(NONCE_SIZE),
        )
        data = await self._post("/v1/session", opening, {})
        try:
            return _sessions.decode(data).token
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise GatekeeperUnreachable("the answer is not a gatekeeper's") from None

    async def _post(self, path: str, body: Any, headers: dict[str, str]) -> bytes:  # noqa: ANN401 - any message
        data = bytearray()
        try:
            async with self._http.stream(
                "POST", path, content=_encoder.encode(body), headers={"content-type": MSGPACK, **headers}
            ) as response:
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > ANSWER_BYTES:
                        raise GatekeeperUnreachable("the answer is larger than any answer may be")
        except httpx.HTTPError as error:
            raise GatekeeperUnreachable(type(error).__name__) from None
        if response.status_code != _OK:
            raise _refused(bytes(data), response.status_code)
        return bytes(data)


def newest_of(lines: Iterable[AnchorLine], scope: Scope | None = None) -> tuple[AnchoredRecord, ...]:
    """The newest version of every record in a timeline as the ledger answered it, by record id; of erased ones none.

    With the ticket's ``scope``, only what the ticket covers: the custodian's own staff is shown more than that.
    """
    newest: dict[bytes, AnchorLine] = {}
    for line in lines:
        before = newest.get(line.record)
        if line.erased is not None:
            continue
        if before is None or line.version > before.version:
            newest[line.record] = line
    return tuple(
        AnchoredRecord(record_id=record, version=line.version, root=line.anchor.root)
        for record, line in sorted(newest.items())
        if scope is None or _covers(scope, line)
    )


def _covers(scope: Scope, line: AnchorLine) -> bool:
    row = line.anchor
    return scope.covers(category=row.category, sensitivity=row.sensitivity, day=row.day, record=line.record)


def _refused(data: bytes, status: int) -> Exception:
    """The refusal as it was raised at the gatekeeper; what is not one of its codes is not a gatekeeper's answer."""
    try:
        refusal = _refusals.decode(data)
        record = bytes.fromhex(refusal.record) if refusal.record else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return GatekeeperUnreachable(f"status {status}")
    known: dict[int, RejectionCode] = {int(code): code for code in (*GatekeeperCode, *AuthCode)}
    code = known.get(refusal.code)
    if isinstance(code, GatekeeperCode):
        return Withheld(code, record_id=record)
    return GatekeeperUnreachable(f"status {status}") if code is None else Rejected(code)
