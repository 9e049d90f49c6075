"""Goal: a client of a real consortium believes what the validators signed and nothing else, whatever a node shows it.

Method: four nodes; clients that reach one of them through a liar of the test's own, which passes everything on and
changes one thing: a row, a proof, a header, a commit, the order of things, or how much it tells. Then the set of
validators changes and changes back; trust grows stale; and a network of the same name with other validators answers.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from carechain.chain.questions import OfOrganisation, OfPseudonym, OfRecord
from carechain.chain.receipts import OK
from carechain.chain.tx import parse
from carechain.cli import local_network as local
from carechain.contracts.access import RequestAccess
from carechain.core.limits import LIGHT_FRESH_S, TRUSTING_PERIOD_S
from carechain.core.vocabulary import Purpose
from carechain.sdk.client import Client, HasKeys, Node
from carechain.sdk.light.client import LightClient, TrustFile, source_at, trust_of_genesis
from carechain.sdk.light.header import LightBlock, Signed, decode_block, encode_block
from carechain.sdk.light.verify import Forked, Trusted, TrustExpired
from carechain.sdk.proofs import NotProven
from carechain.sdk.verify_log import CompleteLog
from e2e.consortium import Consortium, until
from world import CHAIN_ID, RESULTS, anchor_of, record_id

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("light-consortium")]

DAY_S: Final = 86_400
LINES: Final = 3
Lie = Callable[[str, bytes], bytes | None]
"""Path and body of an answer to what is shown in its place; None: as it is."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    net = Consortium(tmp_path_factory.mktemp("light"))
    try:
        net.testnet("up")
        net.populate()
        net.write("org-1", "r")
        for _ in range(LINES):
            asked = RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
            net.submit("org-2", asked, by=net.carl)
        yield net
    finally:
        net.close()


class Liar(httpx.AsyncBaseTransport):
    """A node's operator: the node is honest, what leaves its house is not. ``told`` counts the lies."""

    def __init__(self, lie: Lie) -> None:
        self.told = 0
        self._lie = lie
        self._honest = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._honest.handle_async_request(request)
        body = await answer.aread()
        lie = self._lie(request.url.path, body) if answer.status_code == 200 else None
        if lie is None:
            return httpx.Response(answer.status_code, headers=answer.headers, content=body)
        self.told += 1
        return httpx.Response(200, headers={"content-type": "application/msgpack"}, content=lie)

    async def aclose(self) -> None:
        await self._honest.aclose()


@asynccontextmanager
async def steve_at(
    net: Consortium, *names: str, lie: Lie | None = None, by: HasKeys | None = None
) -> AsyncIterator[Client]:
    """The patient at these nodes, or at what a liar makes of their answers."""
    nodes = [Node(net.url(name), net.member(name).party) for name in names]
    async with (
        httpx.AsyncClient(transport=Liar(lie or honest)) as http,
        Client(nodes, by or net.steve, genesis=net.genesis, http=http) as client,
    ):
        yield client


async def read_log(net: Consortium, *names: str, lie: Lie | None = None) -> CompleteLog:
    async with steve_at(net, *names, lie=lie) as client:
        return await client.access_log(net.steve.id)


@asynccontextmanager
async def light_at(
    net: Consortium,
    *names: str,
    lies: dict[str, Lie] | None = None,
    trusted: Trusted | None = None,
    clock: Callable[[], float] = time.time,
    **settings: Any,
) -> AsyncIterator[LightClient]:
    """Somebody without any key at these nodes, some of which lie."""
    https = {one: httpx.AsyncClient(transport=Liar((lies or {}).get(one, honest))) for one in names}
    sources = [source_at(net.url(name), https[name]) for name in names]
    try:
        yield LightClient(trusted or trust_of_genesis(net.genesis), lambda: sources, clock=clock, **settings)
    finally:
        for http in https.values():
            await http.aclose()


def honest(_path: str, _body: bytes) -> bytes | None:
    return None


# --- the truth ------------------------------------------------------------------------------------------


def test_states_transactions_and_the_whole_log_are_proven_from_the_genesis(net: Consortium) -> None:
    async def main() -> None:
        async with steve_at(net, "org-3") as client:
            log = await client.access_log(net.steve.id)
            assert [one.line.actor for one in log.lines] == [net.carl.id] * LINES
            answer = await client.query("records.anchor", OfRecord(net.steve.id, record_id("r")), prove=True)
            assert answer.rows[0].record == record_id("r")
            tx_id = net.acknowledged[-LINES - 2]
            receipt = await client.proven_receipt(tx_id)
            assert (receipt.tx_id, receipt.code, receipt.signer) == (tx_id, OK, net.steve.id)
            assert client.light.signatures >= 3

    asyncio.run(main())


def test_what_was_just_written_is_proven_at_once_and_an_old_state_is_not_taken_for_it(net: Consortium) -> None:
    async def main() -> None:
        async with steve_at(net, "org-2") as client, steve_at(net, "org-2", by=net.carl) as carl:
            for _ in range(3):
                asked = RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT)
                done = await carl.submit(asked)
                proven = await carl.proven_receipt(done.tx_id)
                assert proven.height == done.height
                log = await client.access_log(net.steve.id)
                assert log.lines[-1].line.height == done.height

    asyncio.run(main())


def test_an_organisation_takes_its_own_nodes_word_and_no_others(net: Consortium) -> None:
    async def main() -> None:
        own = net.member("org-1")
        for name, by_light in (("org-1", False), ("org-2", True)):
            node = Node(net.url(name), net.member(name).party)
            async with Client(node, own, genesis=net.genesis, keeper=own.party) as client:
                answer = await client.query("membership.member", OfOrganisation(own.party), prove=True)
                assert answer.rows[0].id == own.party
                assert (client.light.signatures > 0) == by_light

    asyncio.run(main())


def test_one_of_several_nodes_may_lie_or_be_away(net: Consortium) -> None:
    async def main() -> None:
        broken: dict[str, Lie] = {"org-1": light(lambda block: header_of(block, app_hash=bytes(32)))}
        async with light_at(net, "org-1", "org-2", lies=broken) as client:
            found = await client.newest()
        async with light_at(net, "org-3") as client:
            assert (await client.at(found.height)).hash == found.hash

    asyncio.run(main())


# --- lies -----------------------------------------------------------------------------------------------


def light(change: Callable[[LightBlock], LightBlock]) -> Lie:
    """Every light block is changed like this."""

    def lie(path: str, body: bytes) -> bytes | None:
        shown = path.startswith("/v1/light/") and "inclusion" not in path
        return encode_block(change(decode_block(body))) if shown else None

    return lie


def fields(start: str, change: Callable[[dict[str, Any]], None]) -> Lie:
    """Every answer of paths that begin like this is changed."""

    def lie(path: str, body: bytes) -> bytes | None:
        if not path.startswith(start):
            return None
        answer = msgspec.msgpack.decode(body)
        change(answer)
        return msgspec.msgpack.encode(answer)

    return lie


def header_of(block: LightBlock, **changed: Any) -> LightBlock:
    return replace(block, header=replace(block.header, **changed))


def signed(block: LightBlock, change: Callable[[Signed], Signed | None]) -> LightBlock:
    """The first vote is changed."""
    votes = list(block.commit.signatures)
    place = next(at for at, one in enumerate(votes) if one is not None)
    vote = votes[place]
    assert vote is not None
    votes[place] = change(vote)
    return replace(block, commit=replace(block.commit, signatures=tuple(votes)))


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def flip_end(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def spoil_row(answer: dict[str, Any]) -> None:
    count, running = answer["rows"][0]
    answer["rows"] = [[count, flip(running)]]


def spoil_proof(answer: dict[str, Any]) -> None:
    answer["proofs"][0]["proof"] = flip_end(answer["proofs"][0]["proof"])


def other_state(answer: dict[str, Any]) -> None:
    answer["app_hash"] = flip(answer["app_hash"])


def other_height(answer: dict[str, Any]) -> None:
    answer["height"] = 3


def no_last_line(answer: dict[str, Any]) -> None:
    answer["rows"] = answer["rows"][:-1]


def alone(block: LightBlock) -> LightBlock:
    """One validator, who signed: two thirds of the power of a set that the node made up."""
    kept = next(at for at, one in enumerate(block.commit.signatures) if one is not None)
    commit = replace(block.commit, signatures=(block.commit.signatures[kept],))
    return replace(block, commit=commit, validators=(block.validators[kept],))


LOG: Final = "/v1/query/access.log"
HEAD: Final = "/v1/query/access.log_head"


def only(path: str, change: Callable[[dict[str, Any]], None]) -> Lie:
    """As :func:`fields`, for exactly this path."""
    inner = fields(path, change)
    return lambda shown, body: inner(shown, body) if shown == path else None


LIES: Final[dict[str, Lie]] = {
    "a row": only(HEAD, spoil_row),
    "a proof": only(HEAD, spoil_proof),
    "the app hash": only(HEAD, other_state),
    "another height": only(HEAD, other_height),
    "the last line left out": only(LOG, no_last_line),
    "the header's app hash": light(lambda block: header_of(block, app_hash=flip(block.header.app_hash))),
    "the header's time": light(lambda block: header_of(block, time=replace(block.header.time, nanos=1))),
    "a signature": light(lambda block: signed(block, lambda vote: replace(vote, signature=flip(vote.signature)))),
    "a vote's time": light(lambda block: signed(block, lambda vote: replace(vote, time=replace(vote.time, nanos=1)))),
    "too few votes": light(lambda block: signed(signed(block, lambda _: None), lambda _: None)),
    "other validators": light(alone),
}


@pytest.mark.parametrize("name", LIES)
def test_a_log_through_a_node_whose_operator_lies_is_refused(net: Consortium, name: str) -> None:
    told = []

    def lie(path: str, body: bytes) -> bytes | None:
        shown = LIES[name](path, body)
        told.append(shown is not None)
        return shown

    with pytest.raises(NotProven):
        asyncio.run(read_log(net, "org-4", lie=lie))
    assert any(told)


def test_a_log_without_its_last_line_and_the_proof_that_was_good_before_it_is_refused(net: Consortium) -> None:
    """Both are true of an earlier block; that block is not the newest, which its own header shows."""
    kept: dict[str, bytes] = {}

    def remember(path: str, body: bytes) -> bytes | None:
        kept[path] = body
        return None

    def replay(path: str, body: bytes) -> bytes | None:
        return kept.get(path, body) if path in (LOG, HEAD) else None

    before = asyncio.run(read_log(net, "org-4", lie=remember))
    net.submit("org-2", RequestAccess(pseudonym=net.steve.id, scope=RESULTS, purpose=Purpose.TREAT), by=net.carl)
    # Moments later it is still the state of a moment ago, and says so by its height.
    replayed = asyncio.run(read_log(net, "org-4", lie=replay))
    assert (replayed.lines, replayed.height) == (before.lines, before.height)
    assert len(asyncio.run(read_log(net, "org-4")).lines) == len(before.lines) + 1

    async def later() -> None:
        def clock() -> float:
            return time.time() + LIGHT_FRESH_S

        async with steve_at(net, "org-4", lie=replay) as client, light_at(net, "org-4", clock=clock) as light_client:
            answer = await client.query("access.log_head", OfPseudonym(net.steve.id))
            with pytest.raises(NotProven, match="withheld"):
                await light_client.believe(answer)

    asyncio.run(later())


def test_a_client_that_wrote_takes_no_state_from_before(net: Consortium) -> None:
    async def main() -> None:
        async with steve_at(net, "org-4") as client:
            answer = await client.query("access.log_head", OfPseudonym(net.steve.id), prove=True)
            old, _ = await client.light.believe(answer)
            with pytest.raises(NotProven):
                await client.light.believe(replace(old, height=old.height + 1), at_least=old.height + 2_000_000)

    # The block that it would take is never there, and the wait is bounded.
    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    [
        {"raw": flip_end},
        {"receipt": flip_end},
        {"height": lambda height: height - 1},
        {"count": lambda count: count + 1},
        {"tx_path": lambda path: [*path, bytes(32)]},
        {"result_path": lambda path: [*path, bytes(32)]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_transaction_through_a_node_whose_operator_lies_is_refused(
    net: Consortium, change: dict[str, Callable[[Any], Any]]
) -> None:
    def spoil(answer: dict[str, Any]) -> None:
        for name, how in change.items():
            answer[name] = how(answer[name])

    async def main() -> None:
        async with steve_at(net, "org-4", lie=fields("/v1/light/inclusion/", spoil)) as client:
            await client.proven_receipt(net.acknowledged[2])

    with pytest.raises(NotProven):
        asyncio.run(main())


def test_another_transaction_than_was_asked_for_is_refused(net: Consortium) -> None:
    kept: list[bytes] = []

    def swap(path: str, body: bytes) -> bytes | None:
        if "inclusion" not in path:
            return None
        kept.append(body)
        return kept[0]

    async def main() -> None:
        async with steve_at(net, "org-4", lie=swap, by=net.carl) as carl:
            first, second = net.acknowledged[-1], net.acknowledged[-2]
            assert (await carl.proven_receipt(first)).tx_id == first
            with pytest.raises(NotProven, match="another"):
                await carl.proven_receipt(second)

    asyncio.run(main())


def test_a_node_that_withholds_blocks_is_found_out(net: Consortium) -> None:
    frozen: dict[str, bytes] = {}

    def freeze(path: str, body: bytes) -> bytes | None:
        return frozen.setdefault(path, body) if path == "/v1/light/0" else None

    async def main() -> None:
        async with light_at(net, "org-1", lies={"org-1": freeze}) as client:
            stopped = await client.newest()
        await asyncio.to_thread(net.write, "org-2", "one more")
        await asyncio.to_thread(net.reach, stopped.height + 1)
        async with light_at(net, "org-1", "org-2", lies={"org-1": freeze}) as client:
            assert (await client.newest()).height > stopped.height
        late = {"clock": lambda: time.time() + LIGHT_FRESH_S, "lies": {"org-1": freeze}}
        async with light_at(net, "org-1", **late) as client:
            with pytest.raises(NotProven, match="withheld"):
                await client.newest()
        async with light_at(net, "org-1", settle_s=0.2) as client:
            with pytest.raises(NotProven, match="stands still, or it is withheld"):
                await client.settle(stopped.height + 1_000_000)

    asyncio.run(main())


def test_two_blocks_of_one_height_that_the_validators_signed_are_shown_as_a_fork(net: Consortium) -> None:
    """Real keys, used twice: the test takes them out of three validators' homes."""
    from carechain.engine.cometbft.config import FOLDER, VALIDATOR_KEY, read_key  # noqa: PLC0415
    from carechain.sdk.light.header import header_hash, vote_bytes  # noqa: PLC0415

    keys = {}
    for name in net.names[:3]:
        key = read_key(net.home(name) / FOLDER / VALIDATOR_KEY)
        keys[key.public_key] = key

    def forge(block: LightBlock) -> LightBlock:
        header = replace(block.header, app_hash=bytes(32))
        block_id = replace(block.commit.block_id, hash=header_hash(header))
        commit = replace(block.commit, block_id=block_id)
        votes = []
        for validator in block.validators:
            own = keys.get(validator.public_key)
            signature = None if own is None else own.sign(vote_bytes(header.chain_id, commit, header.time))
            votes.append(None if signature is None else Signed(validator.address, header.time, signature))
        return replace(block, header=header, commit=replace(commit, signatures=tuple(votes)))

    async def main() -> None:
        async with light_at(net, "org-1", "org-2", lies={"org-2": light(forge)}) as client:
            with pytest.raises(Forked) as found:
                await client.at(5)
        hashes = {header_hash(one.header) for one in (found.value.first, found.value.second)}
        assert len(hashes) == 2
        assert found.value.first.height == found.value.second.height == 5

    asyncio.run(main())


# --- the command line -----------------------------------------------------------------------------------


def verify(net: Consortium, *args: str, home: str = "org-1", expect: int = 0) -> dict[str, Any]:
    return net.command("verify", "--light", "--home", str(net.home(home)), *args, expect=expect)


def unseat(net: Consortium, member: str, *, seated: bool) -> int:
    """The four vote an organisation's seat away or give it back; the first height of the new validators."""
    what = "propose-seat" if seated else "propose-unseat"
    asked = ("--home", str(net.home("org-1")), "--password-file", str(net.folder / local.PASSWORD_FILE))
    found = net.command("validator", what, net.member(member).party.hex(), *asked)
    proposal = found["proposal"]
    for name in ("org-2", "org-3", "org-4"):
        if found["standing"] != "open":
            break
        voter = ("--home", str(net.home(name)), "--password-file", str(net.folder / local.PASSWORD_FILE))
        found = net.command("member", "vote", proposal, "--yes", *voter)
    assert found["standing"] == "passed"
    return int(found["height"]) + 2


def test_the_command_goes_on_from_the_trust_file_across_changes_of_the_validators(net: Consortium) -> None:
    first = verify(net)
    assert (first["ok"], first["since"], len(first["validators"])) == (True, 0, 4)
    assert (net.home("org-1") / "light.json").exists()
    net.reach(unseat(net, "org-4", seated=False), "org-1")
    second = verify(net)
    assert second["since"] >= first["height"]
    assert len(second["validators"]) == 3
    net.reach(unseat(net, "org-4", seated=True), "org-1", "org-3")
    third = verify(net, "--node", net.url("org-3"))
    assert third["since"] >= second["height"]
    assert len(third["validators"]) == 4
    # From the genesis alone it is the same chain.
    again = verify(net, "--trust", str(net.folder / "again.json"), home="org-2")
    assert (again["since"], again["ok"]) == (0, True)

    async def main() -> None:
        async with light_at(net, "org-4", trusted=TrustFile(net.folder / "again.json").read(CHAIN_ID)) as client:
            assert (await client.at(third["height"])).hash.hex() == third["hash"]
            assert (await client.at(second["height"])).hash.hex() == second["hash"]

    asyncio.run(main())


def test_the_command_starts_from_a_hash_that_somebody_said(net: Consortium, tmp_path: Path) -> None:
    known = verify(net, "--trust", str(tmp_path / "one.json"))
    start = ("--height", str(known["height"]))
    found = verify(net, *start, "--hash", known["hash"], "--trust", str(tmp_path / "two.json"))
    assert found["since"] == known["height"]
    wrong = verify(net, *start, "--hash", "ab" * 32, "--trust", str(tmp_path / "three.json"), expect=1)
    assert (wrong["ok"], wrong["first_bad"]["kind"], wrong["first_bad"]["height"]) == (False, "proof", known["height"])
    assert not (tmp_path / "three.json").exists()


def test_the_command_proves_an_own_transaction(net: Consortium) -> None:
    member = net.member("org-1")
    raw = net.at("org-1").sign(anchor_of(net.steve, "not the member's to write"))
    net.at("org-1").send(raw)
    tx_id = parse(raw).id
    password = ("--password-file", str(net.folder / local.PASSWORD_FILE))
    found = verify(net, "--tx", tx_id.hex(), *password)["tx"]
    assert found["id"] == tx_id.hex()
    assert found["code"] != OK
    assert member.party
    unknown = verify(net, "--tx", "ab" * 32, *password, expect=1)
    assert unknown["error"]["label"] == "NODE.TX_UNKNOWN"


def test_the_offline_command_verifies_a_consortiums_home(net: Consortium) -> None:
    net.stop("org-4")
    found = net.command("verify", "--home", str(net.home("org-4")))
    net.start("org-4")
    net.wait_ready("org-4")
    assert found["ok"]


def test_a_patients_log_by_the_command_line(net: Consortium, tmp_path: Path) -> None:
    password = ("--password-file", str(net.folder / local.PASSWORD_FILE))
    patient = tmp_path / "patient"
    genesis = str(net.folder / local.GENESIS_FILE)
    net.command("keys", "new", "mine", "--kind", "wallet", "--genesis", genesis, "--home", str(patient), *password)
    id_file = tmp_path / "id"
    id_file.write_text("42\n")
    id_file.chmod(0o600)
    wallet = str(patient / "keys" / "mine.json")
    own = ("--home", str(net.home("org-1")), *password)
    bound = net.command("patient", "register", "--wallet", wallet, "--id-file", str(id_file), *own)
    pseudonym = bytes.fromhex(bound["pseudonym"])
    net.submit("org-1", RequestAccess(pseudonym=pseudonym, scope=RESULTS, purpose=Purpose.TREAT), by=net.carl)
    for flag in ((), ("--light",)):
        log = net.command("log", "--home", str(patient), "--node", net.url("org-2"), *password, *flag)
        assert (log["complete"], log["count"]) == (True, 1)
    assert (patient / "light.json").exists()
    # Nobody's word is taken but the validators': a home whose genesis names others believes nothing.
    assert TrustFile(patient / "light.json").read(CHAIN_ID) is not None


def test_without_a_node_the_command_says_so(net: Consortium) -> None:
    silent = verify(net, "--node", "http://127.0.0.1:9", expect=3)
    assert not silent["ok"]


# --- stale trust, and other validators ------------------------------------------------------------------


def test_stale_trust_is_refused(net: Consortium) -> None:
    async def main() -> None:
        async with light_at(net, "org-1") as client:
            trusted = await client.newest()
        later_s = time.time() + TRUSTING_PERIOD_S + DAY_S
        for start in (None, trusted):
            async with light_at(net, "org-1", trusted=start, clock=lambda: later_s) as client:
                with pytest.raises(TrustExpired):
                    await client.at(trusted.height + 1)

    asyncio.run(main())


def test_a_history_that_other_validators_made_is_refused(net: Consortium, tmp_path: Path) -> None:
    """A network of the same name, from the same founders' public files, with an engine key of its operator's own."""
    forger = Consortium(tmp_path / "forger", validators=1)
    try:
        forger.testnet("up")
        until(lambda: forger.height("org-1") > 1, "the forger has blocks")
        url = ("--node", forger.url("org-1"))
        good = verify(net, "--trust", str(tmp_path / "good.json"))
        for trust, believed in (("good.json", good["height"]), ("none.json", 0)):
            found = verify(net, *url, "--trust", str(tmp_path / trust), expect=1)
            assert "height" in found, found
            assert (found["ok"], found["height"]) == (False, believed)
            assert found["first_bad"]["kind"] == "proof"

        async def main() -> None:
            own = forger.member("org-1")
            node = Node(forger.url("org-1"), own.party)
            async with Client(node, own, genesis=net.genesis) as client:
                with pytest.raises(NotProven):
                    await client.query("membership.member", OfOrganisation(own.party), prove=True)

        asyncio.run(main())
    finally:
        forger.close()
