"""Attacks on sealed objects, on the vault that keeps them, and on the index beside them. See :mod:`attacks.conftest`.

Goal: whoever keeps the bytes can lose them and nothing else: what is given out is what was anchored, and nothing is
learnt from it. Method: real objects in a folder on the disk, altered as an operator can; a real door on loopback; nodes
of the distributed store with real sockets.
"""

import asyncio
import hmac
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from msgspec.structs import replace

from attacks.cast import Doorway, Ward, synchronous
from carechain.chain.questions import AnchorLine
from carechain.core.rejection import Rejected
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity
from carechain.gatekeeper.codes import GatekeeperCode
from carechain.gatekeeper.objects_door import PutTokens, SearchAnswer, SearchRequest
from carechain.sdk.gathering import NotEnoughShares
from carechain.sdk.opening import NotBelieved
from carechain.sdk.shares import KeyholderCode
from carechain.sealing.blind_index import BlindIndex, index_key, index_record_id
from carechain.sealing.chunks import chunk_nonce, key_commitment
from carechain.sealing.codes import SealingCode
from carechain.sealing.objects import (
    HEADER_SIZE,
    SEALED_CHUNK_BYTES,
    ObjectReader,
    address_of,
    read_prefix,
    seal_object,
)
from carechain.vault.base import address_of as address_in_vault
from carechain.vault.codes import VaultCode
from carechain.vault.folder import FolderStore
from carechain.vault.kademlia_records import Kind, key_of, sign_record
from carechain.vault.metering import Metering
from carechain.vault.replicated import Replicated
from carechain.vault.scrub import Scrub
from carechain.vault.tokens import TokenStore
from dht import NETWORK, network
from sealed_world import SealedWorld
from vaults import MemoryStore, read
from world import CHAIN_ID, Signer, record_id, seeded

KEY = seeded("object key")
RECORD = record_id("object")
CHUNK = SEALED_CHUNK_BYTES


@pytest.fixture
def ward(sealed: SealedWorld, tmp_path: Path) -> Ward:
    return Ward(sealed, tmp_path)


# --- the bytes of one object ------------------------------------------------------------------------------


def made(content: bytes, *, key: bytes = KEY, record: bytes = RECORD, version: int = 1) -> bytes:
    """A sealed object of four chunks, if the content is large enough."""
    out = bytearray()
    seal_object(content, out.extend, key=key, capsule=b"the capsule", record=record, version=version)
    return bytes(out)


def refused(code: SealingCode, data: bytes, *, key: bytes = KEY, version: int = 1) -> None:
    """It does not open, and says why."""
    with pytest.raises(Rejected) as caught:
        opened(data, key, version)
    assert caught.value.code is code


def opened(data: bytes, key: bytes, version: int) -> bytes:
    """All of its content."""
    reader = ObjectReader(data, key, record=RECORD, version=version)
    return reader.read(0, reader.size)


def of_four_chunks() -> tuple[bytes, int]:
    """An object and where its chunks begin."""
    data = made(os.urandom(3 * (CHUNK - 16) + 100))
    return data, read_prefix(data)[0].prefix_size


def test_chunks_swapped() -> None:
    """Two chunks in each other's place: a doctor would read the second page first."""
    data, at = of_four_chunks()
    first, second = data[at : at + CHUNK], data[at + CHUNK : at + 2 * CHUNK]
    refused(SealingCode.CHUNK_MOVED, data[:at] + second + first + data[at + 2 * CHUNK :])
    refused(SealingCode.CHUNK_REPEATED, data[:at] + second + data[at + CHUNK :])


def test_object_cut_short() -> None:
    """The last chunk, or its end, is missing: the diagnosis stood on the last page."""
    data, at = of_four_chunks()
    refused(SealingCode.CUT_BETWEEN_CHUNKS, data[: at + 3 * CHUNK])
    refused(SealingCode.CUT_INSIDE_CHUNK, data[:-1])
    # With the size in the header made to fit, the header is no longer the one that was sealed.
    shorter = replace(read_prefix(data)[0], size_bytes=3 * (CHUNK - 16)).encode()
    refused(SealingCode.HEADER_ALTERED, shorter + data[HEADER_SIZE : at + 3 * CHUNK])


def test_object_extended() -> None:
    """Something is added behind the end, or chunks of another object under the same key's record."""
    data, at = of_four_chunks()
    refused(SealingCode.EXTENDED, data + b"\0")
    refused(SealingCode.EXTENDED, data + data[at : at + CHUNK])


def test_chunk_of_another_object() -> None:
    """The same record, the same place, another key or another version: it does not belong there."""
    data, at = of_four_chunks()
    size = read_prefix(data)[0].size_bytes
    for other in (made(os.urandom(size), key=seeded("other")), made(os.urandom(size), version=2)):
        refused(SealingCode.CHUNK_ALTERED, data[:at] + other[at : at + CHUNK] + data[at + CHUNK :])


def test_object_of_another_record_or_version() -> None:
    """Everything about it is sound, and it is not the one that was asked for."""
    with pytest.raises(Rejected) as caught:
        ObjectReader(made(b"x"), KEY, record=record_id("another"), version=1)
    assert caught.value.code is SealingCode.OTHER_RECORD
    refused(SealingCode.OTHER_VERSION, made(b"x", version=2))


def test_object_that_opens_under_two_keys() -> None:
    """The invisible salamander: one AES-GCM ciphertext that two keys authenticate, so that two readers see two records.

    First the cipher alone is shown to let it happen; then the commitment in the header refuses the second key.
    """
    one, two, nonce, aad = seeded("one"), seeded("two"), chunk_nonce(0, final=True), b"data"
    ciphertext = two_faced(one, two, nonce, aad)
    assert AESGCM(one).decrypt(nonce, ciphertext, aad) != AESGCM(two).decrypt(nonce, ciphertext, aad)
    with pytest.raises(InvalidTag):
        AESGCM(seeded("three")).decrypt(nonce, ciphertext, aad)
    data = made(b"what the first reader sees", key=one)
    refused(SealingCode.KEY_WRONG, data, key=two)
    commitment = key_commitment(Institution.INTERNATIONAL, one)
    swapped = data.replace(commitment, key_commitment(Institution.INTERNATIONAL, two))
    refused(SealingCode.HEADER_ALTERED, swapped, key=two)
    refused(SealingCode.KEY_WRONG, swapped, key=one)


def two_faced(one: bytes, two: bytes, nonce: bytes, aad: bytes) -> bytes:
    """Two blocks of ciphertext and a tag that holds under both keys: GHASH is linear in the free second block."""
    first = seeded("a block", size=16)
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * 32).to_bytes(8, "big")
    sums, squares = [], []
    for key in (one, two):
        hashed, start = _block(key, bytes(16)), _block(key, nonce + b"\0\0\0\1")
        total = 0
        for block in (aad.ljust(16, b"\0"), first, bytes(16), lengths):
            total = _times(total ^ int.from_bytes(block, "big"), hashed)
        sums.append(total ^ start)
        squares.append(_times(hashed, hashed))
    free = _times(sums[0] ^ sums[1], _inverse(squares[0] ^ squares[1]))
    tag = sums[0] ^ _times(free, squares[0])
    return first + free.to_bytes(16, "big") + tag.to_bytes(16, "big")


def _block(key: bytes, block: bytes) -> int:
    encryptor = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 - one block, as GCM itself does
    return int.from_bytes(encryptor.update(block) + encryptor.finalize(), "big")


def _times(a: int, b: int) -> int:
    """In the field of GCM (NIST SP 800-38D section 6.3): the highest bit is the constant term."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= b * (a >> bit & 1)
        b = b >> 1 ^ (0xE1 << 120) * (b & 1)
    return product


def _inverse(a: int) -> int:
    power, result = a, 1 << 127
    for _ in range(127):
        power = _times(power, power)
        result = _times(result, power)
    return result


# --- the vault's operator ---------------------------------------------------------------------------------


def not_believed(ward: Ward, line: AnchorLine, *codes: object) -> None:
    used = ward.reader()
    with pytest.raises(NotBelieved) as caught:
        asyncio.run(used.read(ward.sealed.ticket(), ward.world.steve.id, [line]))
    assert caught.value.code in codes
    assert caught.value.record_id == line.record


def test_vault_operator_swaps_ciphertext(ward: Ward) -> None:
    """Another record's object, an older version, a flipped bit, nothing: under the name of the one that is anchored."""
    line, other = ward.write("one"), ward.write("two")
    path = ward.file(line)
    honest = path.read_bytes()
    for swapped in (ward.file(other).read_bytes(), honest[:-1] + bytes([honest[-1] ^ 1]), b""):
        path.write_bytes(swapped)
        not_believed(ward, line, VaultCode.OBJECT_ALTERED)
    path.write_bytes(honest)
    ward.read(line)


def test_vault_operator_gives_an_older_version(ward: Ward) -> None:
    """The laboratory corrected a result; the vault keeps showing the first one."""
    first = ward.write("one")
    corrected = ward.write("one", (b"the corrected result",), version=2)
    ward.file(corrected).write_bytes(ward.file(first).read_bytes())
    not_believed(ward, corrected, VaultCode.OBJECT_ALTERED)


@synchronous
async def test_vault_operator_alters_one_copy(tmp_path: Path) -> None:
    """Of two copies one is altered: readers get the sound one, and the scrub finds and mends the other."""
    own, partner = MemoryStore("own"), FolderStore(tmp_path / "partner")
    vault, books = Replicated([own, partner], copies=2), Metering(tmp_path / "vault.sqlite")
    data = made(b"content " * 100)
    address = address_of(data)
    await vault.put(address, data)
    own.objects[address] = data[:-1] + bytes([data[-1] ^ 1])
    assert await read(vault, address) == data
    report = await Scrub(vault, books).run()
    assert (report.altered, report.repaired, report.is_good) == (1, 1, True)
    assert own.objects[address] == data
    books.close()


def test_writer_that_anchors_other_contents(ward: Ward) -> None:
    """The object opens, every share is right, and what is in it is not what the ledger was told."""
    anchor, data = ward.seal("one")
    lied = replace(anchor, root=seeded("another root"))
    not_believed(ward, ward.place(lied, data), SealingCode.CONTENTS_NOT_ANCHORED)


def test_stranger_takes_or_fills_the_vault(tmp_path: Path) -> None:
    """Without a session nothing is served; who is no partner may store nothing, and a partner no more than agreed."""
    doorway = Doorway(tmp_path)
    world, content = doorway.world, b"sealed " * 100
    path = f"/v1/objects/{sha256(content).hexdigest()}"

    async def attack() -> None:
        async with doorway.open():
            await doorway.vault.put(sha256(content).digest(), content)
            assert (await doorway.ask("GET", path, None)).status_code == 401
            for who in (world.c, world.steve, world.gita):
                answer = await doorway.ask("PUT", path, who, content)
                assert (answer.status_code, answer.json()["code"]) == (403, int(VaultCode.MAY_NOT_WRITE))
                assert (await doorway.ask("DELETE", path, who)).status_code == 403
            large = bytes(2000)
            answer = await doorway.ask("PUT", f"/v1/objects/{sha256(large).hexdigest()}", world.b, large)
            assert answer.json()["code"] == int(VaultCode.QUOTA_EXCEEDED)
            # What a partner puts under a name that is not its hash is not kept, and what it gives up is its own.
            answer = await doorway.ask("PUT", f"/v1/objects/{bytes(32).hex()}", world.b, b"x")
            assert answer.json()["code"] == int(VaultCode.CONTENT_DIFFERS)
            assert (await doorway.ask("DELETE", path, world.b)).status_code == 404
            assert await read(doorway.vault, sha256(content).digest()) == content

    asyncio.run(attack())
    doorway.close()


@synchronous
async def test_malicious_node_of_the_distributed_store(tmp_path: Path) -> None:
    """A member's node answers with other bytes, forged records and rubbish, and signs a false list of pieces."""
    async with network(tmp_path, 5, copies=3) as net:
        small, large = os.urandom(3000), os.urandom(40_000)
        contents = {sha256(one).digest(): one for one in (small, large)}
        for address, content in contents.items():
            await net.store(0).put(address, content)
        liar, honest = net.nodes[1], net.nodes[1].members._answer
        lies: list[Callable[[bytes], object]] = [
            lambda key: {"value": [one[:-1] + bytes([one[-1] ^ 1]) for one in liar.file.values(key)] or [b"x"]},
            lambda _: {"value": [_forged(net.members[1], b"something else")]},
            lambda _: "rubbish",
        ]
        for lie in lies:

            async def answer(name: str, args: list[object], caller: object, lie: Callable = lie) -> object:
                return lie(args[1]) if name == "find_value" else await honest(name, args, caller)

            liar.members._answer = answer  # type: ignore[method-assign]
            for address, content in contents.items():
                assert await read(net.store(3), address) == content
        other = sha256(os.urandom(1)).digest()
        await net.store(1).put(address_in_vault(twin := os.urandom(40_000)), twin)
        (root,) = [one for one in await net.nodes[0].find(sha256(twin).digest()) if one.kind is Kind.ROOT]
        raw = sign_record(
            net.members[1].key,
            network=NETWORK,
            kind=Kind.ROOT,
            address=sha256(large).digest(),
            body=root.body,
            signer=net.members[1].party,
            time_s=net.clock(),
        )
        await net.nodes[1].store(key_of(sha256(large).digest()), raw)
        assert await read(net.store(4), sha256(large).digest()) == large
        with pytest.raises(Rejected):
            await read(net.store(4), other)


def _forged(member: object, body: bytes) -> bytes:
    return sign_record(
        member.key,  # type: ignore[attr-defined]
        network=NETWORK,
        kind=Kind.PIECE,
        address=sha256(body).digest(),
        body=body,
        signer=member.party,  # type: ignore[attr-defined]
        time_s=0,
    )


# --- the index --------------------------------------------------------------------------------------------

WORDS = ("糖尿病", "病", "糖尿", "hiv", "metformin", "e11.9", "depression", "抑郁")


def index_of(patient: Signer, secret: bytes, *, grade: Sensitivity = Sensitivity.N) -> BlindIndex:
    key = index_key(secret, chain_id=CHAIN_ID, pseudonym=patient.id, category=Category.RESULT, sensitivity=grade)
    return BlindIndex(key)


def test_dictionary_attack_on_the_index(sealed: SealedWorld, tmp_path: Path) -> None:
    """The vault's operator has the whole token database, a medical dictionary, and every hash that needs no key."""
    steve, secret = sealed.world.steve, seeded("index secret")
    tokens = TokenStore(tmp_path / "tokens.sqlite")
    tokens.put(steve.id, RECORD, index_of(steve, secret).tokens(RECORD, WORDS))
    stored = {bytes(token) for (token,) in tokens._select("SELECT token FROM tokens")}
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("tokens.sqlite*"))
    for word in WORDS:
        data = word.encode()
        assert data not in raw
        known = (b"", bytes(32), steve.id, RECORD, CHAIN_ID.encode(), steve.signing.public_key, steve.hpke.public_key)
        guesses = {sha256(data).digest(), *(hmac.digest(key, data, "sha256") for key in known)}
        guesses |= {BlindIndex(sha256(key).digest()).keyword_token(word) for key in known}
        assert stored.isdisjoint(guesses)
    # Who has the key can; so the test would notice.
    assert set(index_of(steve, secret).search_tokens("糖尿病")) <= stored
    tokens.close()


def test_dictionary_attack_with_another_patients_key(sealed: SealedWorld) -> None:
    """Mary's index key, Steve's at another hospital, and Steve's of another grade, category or network."""
    steve, secret = sealed.world.steve, seeded("index secret")
    stored = set(index_of(steve, secret).tokens(RECORD, WORDS))
    others = [
        index_of(sealed.world.mary, secret),
        index_of(sealed.world.steve_at_b, secret),
        index_of(steve, seeded("another hospital's secret")),
        index_of(steve, secret, grade=Sensitivity.R),
        *(
            BlindIndex(index_key(secret, chain_id=chain, pseudonym=steve.id, category=kind, sensitivity=Sensitivity.N))
            for chain, kind in ((CHAIN_ID, Category.DIAGNOSIS), ("world-2", Category.RESULT))
        ),
    ]
    for other in others:
        assert stored.isdisjoint(other.tokens(RECORD, WORDS))
        assert stored.isdisjoint(token for word in WORDS for token in other.search_tokens(word))


def test_token_search_without_a_ticket(tmp_path: Path) -> None:
    """The searcher knows the tokens. It has no session, no ticket, somebody else's, a revoked or a narrow one."""
    doorway = Doorway(tmp_path)
    house, world = doorway.house, doorway.world
    token = seeded("token")
    visible = house.of_grade(Sensitivity.N)[0].record_id
    hidden = house.of_grade(Sensitivity.V)[0].record_id
    for record in (visible, hidden):
        doorway.vault.tokens.put(world.steve.id, record, [token])

    async def search(ticket: bytes, by: Signer | None) -> tuple[bytes, ...] | int:
        body = msgspec.msgpack.encode(SearchRequest(ticket=ticket, tokens=(token,)))
        answer = await doorway.ask("POST", "/v1/search", by, body)
        if answer.status_code == 200:
            return msgspec.msgpack.decode(answer.content, type=SearchAnswer).records
        return int(answer.json()["code"])

    async def attack() -> None:
        async with doorway.open():
            ticket = house.ticket()
            assert await search(ticket, world.bert) == (visible,), "the one above the ceiling is not named"
            assert await search(ticket, world.carl) == int(GatekeeperCode.NOT_THE_REQUESTER)
            assert await search(seeded("invented"), world.bert) == int(GatekeeperCode.TICKET_UNKNOWN)
            refused_ticket = house.ticket(by=world.bina)
            assert await search(refused_ticket, world.bina) == int(GatekeeperCode.TICKET_REFUSED)
            assert isinstance(await search(ticket, None), int)
            put = msgspec.msgpack.encode(PutTokens(pseudonym=world.steve.id, record=hidden, tokens=()))
            assert (await doorway.ask("POST", "/v1/tokens", world.bert, put)).status_code == 403
            assert doorway.vault.tokens.holds(world.steve.id, hidden)

    asyncio.run(attack())
    doorway.close()


def test_key_of_a_graded_index_without_the_grade(ward: Ward) -> None:
    """The index key of Steve's R records is itself a sealed R record: a grant up to N opens no way to search them."""
    key = index_key(
        seeded("index secret"),
        chain_id=CHAIN_ID,
        pseudonym=ward.world.steve.id,
        category=Category.RESULT,
        sensitivity=Sensitivity.R,
    )
    record = index_record_id(ward.world.steve.id, Category.RESULT, Sensitivity.R)
    line = ward.write("index", (key,), record=record, sensitivity=Sensitivity.R)
    used = ward.reader()
    with pytest.raises(NotEnoughShares):
        asyncio.run(used.read(ward.sealed.ticket(), ward.world.steve.id, [line]))
    assert {one.why for one in used.gatherer.failed} == {KeyholderCode.OUTSIDE_SCOPE.label}
