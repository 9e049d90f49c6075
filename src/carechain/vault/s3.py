"""Objects in a bucket of an S3 server, through obstore; one key each, named by its address."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import obstore
from msgspec import Struct
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store as Bucket

from carechain.core.limits import VAULT_CHUNK_BYTES
from carechain.core.rejection import Rejected, require
from carechain.vault.base import (
    SHA256,
    Hashing,
    Source,
    VaultUnavailable,
    address_of,
    parse_address,
    pieces_of,
    require_address,
    size_of,
    span,
)
from carechain.vault.codes import VaultCode

_PART_BYTES: Final = 8 * 1024 * 1024
"""S3 takes at most 10,000 parts of at least 5 MiB."""
_PARTS: Final = 10_000
_PARTS_AT_ONCE: Final = 2
_KEYS_AT_ONCE: Final = 1_000
_FOLDER: Final = "objects"
_CONNECT_S: Final = 5
_SILENCE_S: Final = 30
_TRIES_AGAIN: Final = 4


class S3Place(Struct, frozen=True, kw_only=True):
    """Where a bucket is and who may use it. ``endpoint`` is empty for Amazon's own; the repr shows no secret."""

    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    prefix: str = ""
    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"S3Place({self.endpoint}/{self.bucket}/{self.prefix})"


class S3Store:
    """A vault in a bucket. S3 shows a key only once the whole object is there."""

    is_near: Final = False
    is_ours: Final = True

    def __init__(self, place: S3Place, *, hashing: Hashing = SHA256, name: str = "s3") -> None:
        """Nothing is asked of the server yet."""
        self.name: Final = name
        self._hashing = hashing
        self._bucket = Bucket(
            place.bucket,
            prefix=place.prefix or None,
            endpoint=place.endpoint or None,
            region=place.region,
            access_key_id=place.access_key_id,
            secret_access_key=place.secret_access_key,
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "read_timeout": timedelta(seconds=_SILENCE_S),
                # A large object takes as long as it takes, as long as something comes.
                "timeout": timedelta(days=1),
            },
            retry_config={"max_retries": _TRIES_AGAIN, "retry_timeout": timedelta(seconds=_SILENCE_S)},
        )

    async def put(self, address: bytes, source: Source, *, replace: bool = False) -> None:
        """As :meth:`carechain.vault.base.Vault.put`. Without ``replace`` an object of the same size is left alone."""
        key, size = _key(address), size_of(source)
        require(await asyncio.to_thread(address_of, source, self._hashing) == address, VaultCode.CONTENT_DIFFERS)
        if not replace and await self.size(address) == size:
            return
        hasher = self._hashing()

        async def content() -> AsyncIterator[bytes]:
            pieces = pieces_of(source)
            while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
                hasher.update(piece)
                yield piece

        part = max(_PART_BYTES, -(-size // _PARTS))
        with self._reached():
            if size > part:
                await obstore.put_async(
                    self._bucket, key, content(), chunk_size=part, max_concurrency=_PARTS_AT_ONCE, use_multipart=True
                )
            else:
                await obstore.put_async(self._bucket, key, b"".join([piece async for piece in content()]))
        if hasher.digest() != address:
            # The file changed between its two readings: what was sent is not the object.
            await self.delete(address)
            raise Rejected(VaultCode.CONTENT_DIFFERS)

    async def open(self, address: bytes, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """As :meth:`carechain.vault.base.Vault.open`."""
        key, size = _key(address), await self.size(address)
        if size is None:
            raise Rejected(VaultCode.OBJECT_UNKNOWN)
        first, last = span(start, end, size)
        if first == last:
            return
        with self._reached():
            answer = await obstore.get_async(self._bucket, key, options={"range": (first, last)})
            async for chunk in answer.stream(min_chunk_size=VAULT_CHUNK_BYTES):
                yield bytes(chunk)

    async def size(self, address: bytes) -> int | None:
        """As :meth:`carechain.vault.base.Vault.size`."""
        key = _key(address)
        try:
            with self._reached():
                return (await obstore.head_async(self._bucket, key))["size"]
        except Rejected:
            return None

    async def holds_own(self, address: bytes) -> bool:
        """As :meth:`carechain.vault.base.Vault.holds_own`."""
        return await self.size(address) is not None

    async def delete(self, address: bytes) -> bool:
        """As :meth:`carechain.vault.base.Vault.delete`. A bucket that keeps versions keeps the old ones."""
        if await self.size(address) is None:
            return False
        with self._reached():
            await obstore.delete_async(self._bucket, _key(address))
        return True

    async def addresses(self) -> AsyncIterator[bytes]:
        """As :meth:`carechain.vault.base.Vault.addresses`: S3 lists keys in their order."""
        with self._reached():
            async for page in obstore.list(self._bucket, prefix=_FOLDER, chunk_size=_KEYS_AT_ONCE):
                for found in page:
                    try:
                        yield parse_address(found["path"].rpartition("/")[2])
                    except Rejected:
                        continue

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """The library's failures as the vault's. Its texts can hold addresses of servers, so only the kind is told."""
        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise Rejected(VaultCode.OBJECT_UNKNOWN) from None
        except BaseError as error:
            raise VaultUnavailable(f"the bucket of {self.name} cannot be used: {type(error).__name__}") from None


def _key(address: bytes) -> str:
    return f"{_FOLDER}/{require_address(address).hex()}"
