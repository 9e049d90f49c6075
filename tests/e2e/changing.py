"""A real consortium whose members change what it is: its programs, its seats, its topology.

The network of :mod:`e2e.consortium`, founded with a rotation or with older contracts where a test wants that, and the
commands that an organisation gives in its own home.
"""

import base64
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from carechain.chain.versions import LATEST
from carechain.cli import local_network as local
from carechain.contracts.governance import Closed, Vote
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import Rotation
from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.engine.cometbft.config import FOLDER, VALIDATOR_KEY, read_key
from carechain.sdk.answers import MSGPACK, Status
from e2e.consortium import Consortium, until

QUICK: Final = "propose_wait_ms = 1000\n"
"""A proposer that is away costs the others a second and not three: the tests are shorter."""


class Changing(Consortium):
    """Organisations are called org-1, org-2, …; the first ``validators`` have seats."""

    def __init__(
        self,
        folder: Path,
        *,
        validators: int = 4,
        followers: int = 0,
        hub: bool = False,
        rotation: Rotation | None = None,
        versions: tuple[ContractVersion, ...] = LATEST,
    ) -> None:
        try:
            find_cometbft()
        except EngineMissing as missing:
            pytest.skip(str(missing))
        founded = local.make

        def found(folder: Path, **told: Any) -> local.LocalNetwork:
            return founded(folder, **{**told, "rotation": rotation or Rotation(), "versions": versions})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local, "make", found)
            super().__init__(folder, validators=validators, followers=followers, hub=hub, settings=QUICK)

    def carechain(self, name: str, *words: str, expect: int = 0) -> dict[str, Any]:
        """A command in an organisation's home."""
        secret = str(self.folder / local.PASSWORD_FILE)
        return self.command(*words, "--home", str(self.home(name)), "--password-file", secret, expect=expect)

    def pass_vote(self, proposal: str, *names: str) -> int:
        """Organisations vote yes on what was proposed, each at its own node, and the last one's vote decides.

        The height at which it does.
        """
        for number, name in enumerate(names, 1):
            done = self.submit(name, Vote(proposal=bytes.fromhex(proposal), aye=True))
            closed = [one.passed for one in done.receipt.events if isinstance(one, Closed)]
            assert closed == ([True] if number == len(names) else [])
        return int(done.height)

    def acting(self, height: int, name: str = "org-1") -> set[str]:
        """The organisations whose votes count for the block at ``height``, by the engine's own account."""
        keys = {self.consensus_key(one): one for one in self.names}
        found = self.ask_engine(name, "validators", height=str(height), per_page="100")["validators"]
        assert all(one["voting_power"] == "1" for one in found)
        return {keys[one["pub_key"]["value"]] for one in found}

    def consensus_key(self, name: str) -> str:
        """In base64, as the engine shows it."""
        key = read_key(self.home(name) / FOLDER / VALIDATOR_KEY)
        return base64.b64encode(key.public_key).decode()

    def producers(self) -> list[str]:
        """Whose node put together each block that was compared, from the first on."""
        owners = {self.member(name).party: name for name in self.names}
        return [owners[header.producer] for header in self.headers]

    def meet(self, *names: str, others: int) -> None:
        """These nodes are ready and each is connected to so many others."""
        self.wait_ready(*names)
        for name in names:
            until(
                lambda n=name: (s := self.status(n)) is not None and s.peers >= others,
                f"{name} is connected to {others} others",
            )

    def status(self, name: str) -> Status | None:
        """How a node answers; None when it does not."""
        try:
            answer = httpx.get(f"{self.url(name)}/v1/status", headers={"accept": MSGPACK}, timeout=5, trust_env=False)
        except httpx.HTTPError:
            return None
        return msgspec.msgpack.decode(answer.content, type=Status)

    def ask_engine(self, name: str, method: str, **params: object) -> dict[str, Any]:
        """One call of the engine's own interface, whose socket is in the folder that the engine was started in."""
        place = Path(f"/proc/{self.engine_of(name)}/cwd/rpc").resolve()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(place)), timeout=10) as http:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            answer = http.post("http://engine/", json=body).json()
        assert "error" not in answer, answer
        return dict(answer["result"])
