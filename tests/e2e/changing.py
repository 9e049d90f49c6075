"""A real consortium whose members change what it is: its programs, its seats, its topology.

The network of :mod:`e2e.consortium`, founded with a rotation or with older contracts where a test wants that, and the
commands that an organisation gives in its own home.
"""

import base64
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from carechain.chain.versions import LATEST
from carechain.cli import local_network as local
from carechain.contracts.governance import Closed, Vote
from carechain.contracts.upgrades import ContractVersion
from carechain.contracts.validators import Rotation
from carechain.engine.cometbft.config import FOLDER, VALIDATOR_KEY, read_key
from e2e.consortium import Consortium, until

QUICK: Final = "propose_wait_ms = 1000\n"
"""A proposer that is away costs the others a second and not three: the tests are shorter."""


NetworkT = TypeVar("NetworkT", bound="Changing")
Step = Callable[[NetworkT], None]


def step(*, after: Step[NetworkT] | None = None) -> Callable[[Step[NetworkT]], Step[NetworkT]]:
    """A test that goes on where another one ended, which is run first unless it has been: so each can be run alone."""

    def of(test: Step[NetworkT]) -> Step[NetworkT]:
        @wraps(test)
        def run(net: NetworkT) -> None:
            if test not in net.told:
                if after is not None:
                    after(net)
                test(net)
                net.told.add(test)

        return run

    return of


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
        founded = local.make

        def found(folder: Path, **told: Any) -> local.LocalNetwork:
            return founded(folder, **{**told, "rotation": rotation or Rotation(), "versions": versions})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local, "make", found)
            self.told: set[Callable[..., None]] = set()
            """The steps that were taken."""
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
