"""The threads that wait for the database: readers side by side, writers one after the other."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from carechain.charts.repository import Reader, Writer
from carechain.core.limits import FHIR_READERS
from carechain.gateway.fhir.call import Site

T = TypeVar("T")


class Threads:
    """Runs blocking work apart from the event loop; close it when the server stops."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._readers = ThreadPoolExecutor(FHIR_READERS, thread_name_prefix="fhir-read")
        # One writer at a time is what the charts allow; more threads would only wait for its lock.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="fhir-write")

    async def work(self, job: Callable[[], T]) -> T:
        """Something that takes a while and needs no database."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, job)

    async def read(self, job: Callable[[Reader], T]) -> T:
        """Something on one snapshot."""

        def reading() -> T:
            with self._site.repository.reading() as reader:
                return job(reader)

        return await self.work(reading)

    async def glance(self, job: Callable[[Reader], T]) -> T:
        """One resource by its name, without a snapshot."""

        def glancing() -> T:
            with self._site.repository.glancing() as reader:
                return job(reader)

        return await self.work(glancing)

    async def write(self, job: Callable[[Writer], T]) -> T:
        """Something within one transaction; an exception undoes it."""

        def writing() -> T:
            with self._site.repository.writing(self._site.clock_us(), self._site.entropy) as writer:
                return job(writer)

        return await asyncio.get_running_loop().run_in_executor(self._writer, writing)

    async def aclose(self) -> None:
        """Let what runs come to its end, and take nothing new."""
        loop = asyncio.get_running_loop()
        for pool in (self._writer, self._readers):
            await loop.run_in_executor(None, pool.shutdown)
