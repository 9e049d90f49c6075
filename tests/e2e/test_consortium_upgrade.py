"""Goal: a consortium moves to a newer program and to a contract's next version without losing a write (LED-11).

Method: four real nodes that begin with the release before governance 2: a copy of the source in which nothing knows
what that version brought. Nodes are replaced one after the other under writers. One of them is replaced by a copy that
besides proposes whatever it is given, so that the new message gets into a block before its time. Then the members vote;
at the height the last old node must stop and say why, and the others go on. The tests are one story; each
goes on from the one before.
"""

import ast
import base64
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import carechain
from carechain.chain.questions import NoArgs
from carechain.chain.receipts import decode_receipt
from carechain.chain.tx import AdmissionCode
from carechain.cli import local_network as local
from carechain.contracts.governance import GovernanceCode, Propose, Proposed, SetRotation, Vote, WithdrawProposal
from carechain.sdk.client import Refused
from e2e.changing import Changing, step
from e2e.consortium import until

pytestmark = pytest.mark.engine

NOTICE: Final = 40
"""How many blocks ahead the upgrade is voted in: there is something to be done before it."""
NEW: Final = re.compile(
    r"withdraw_proposal|WithdrawProposal|ProposalWithdrawn|vote_or_change|NOT_THE_PROPOSER|WITHDRAWN"
)
"""What governance 2 brought, in the source's words."""
OLDER: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "chain/versions.py": ((", Contract.GOVERNANCE: 2}", "}"),),
    "chain/routing.py": (
        ("    governance.WithdrawProposal,\n", ""),
        ("    governance.ProposalWithdrawn,\n", ""),
        (r"            \(Contract\.GOVERNANCE, 2\): _routed\(\n.*?\n            \),\n", ""),
    ),
    "node/audience.py": (("    governance.ProposalWithdrawn: _votes,\n", ""),),
    "contracts/roles.py": ((', "governance.withdraw_proposal"', ""),),
    "contracts/governance.py": (
        ("    WITHDRAWN = 4\n", ""),
        (r'    \("open", "governance\.withdraw_proposal", "withdrawn"\),\n', ""),
        (r"    NOT_THE_PROPOSER = [^\n]*\n", ""),
    ),
}
"""How the release before differs, besides the definitions that :func:`without` takes out."""
CARELESS: Final = {
    "            self._session.check(raw)\n": "            pass\n",
    "            except Rejected:\n                continue\n": (
        "            except Rejected:\n                chosen[raw] = raw\n                continue\n"
    ),
}
"""A program that asks nobody what may be proposed; what a member's program does is the member's business."""


def without(source: str, *names: str) -> str:
    """``source`` without the definitions of these names, each of which must be there."""
    lines = source.splitlines(keepends=True)
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in names:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            del lines[first - 1 : node.end_lineno]
            names = tuple(one for one in names if one != node.name)
    assert not names, names
    return "".join(lines)


def older_release(folder: Path, *, careless: bool = False) -> Path:
    """A source tree as it was before governance 2."""
    package = folder / "carechain"
    shutil.copytree(Path(carechain.__file__).parent, package)
    definitions = {
        "contracts/governance.py": ("WithdrawProposal", "ProposalWithdrawn", "vote_or_change", "withdraw_proposal"),
        "cli/members.py": ("withdraw_proposal",),
    }
    for name, names in definitions.items():
        path = package / name
        path.write_text(without(path.read_text(encoding="utf-8"), *names), encoding="utf-8")
    for name, changes in OLDER.items():
        path = package / name
        text = path.read_text(encoding="utf-8")
        for pattern, instead in changes:
            wanted = pattern if "\\" in pattern or "[^" in pattern else re.escape(pattern)
            text, count = re.subn(wanted, instead, text, flags=re.DOTALL)
            assert count == 1, (name, pattern, count)
        path.write_text(text, encoding="utf-8")
    left = [path for path in package.rglob("*.py") if NEW.search(path.read_text(encoding="utf-8"))]
    assert not left, f"the older release knows of what came later: {left}"
    if careless:
        path = package / "engine/cometbft/application.py"
        text = path.read_text(encoding="utf-8")
        for here, instead in CARELESS.items():
            assert text.count(here) == 1, here
            text = text.replace(here, instead)
        path.write_text(text, encoding="utf-8")
    return folder


class Network(Changing):
    """Four nodes, each on one of the programs, in a network that was founded before governance 2 existed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "网络", versions=())
        self.older = older_release(folder / "older")
        self.careless = older_release(folder / "careless", careless=True)

    @contextmanager
    def program(self, tree: Path | None) -> Iterator[None]:
        """What is started meanwhile runs the program in this tree; without one, the present program."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", self.path_of(tree))
            yield

    def path_of(self, tree: Path | None) -> str:
        """Where a program that is started looks for its parts."""
        return os.pathsep.join([*([] if tree is None else [str(tree)]), *filter(None, sys.path)])

    def run_on(self, tree: Path | None, *names: str) -> None:
        """Replace the program of these nodes, one after the other, and wait until each is ready again."""
        for name in names:
            self.stop(name)
            with self.program(tree):
                self.start(name)
            self.meet(name, others=len(self.names) - 1)

    def knows_it_all(self, name: str) -> bool:
        """Whether a node's program has every version that is in force or voted in."""
        return all(one.known for one in self.at(name).rows("governance.versions", NoArgs()))

    def propose(self, name: str, active: int) -> bytes:
        """A proposal of this organisation that nobody else votes on."""
        done = self.submit(name, Propose(change=SetRotation(every_blocks=100 + active, active=active)))
        return next(one for one in done.receipt.events if isinstance(one, Proposed)).proposal


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    net = Network(tmp_path_factory.mktemp("upgrade"))
    try:
        with net.program(net.older):
            local.start(net.folder, local.read(net.folder), lambda _: None)
        net.populate()
        yield net
    finally:
        net.close()


def place_of(net: Network, raw: bytes, after: int) -> int:
    """The height of the block that has these bytes, looked for above ``after``; 0 where there is none yet."""
    heights = range(after + 1, net.height("org-4") + 1)
    return next((height for height in heights if raw in net.block("org-4", height).txs), 0)


def refused(what: Callable[[], object]) -> str:
    """The label of the refusal that ``what`` must end in."""
    with pytest.raises(Refused) as found:
        what()
    return found.value.label


@step()
def test_nodes_are_replaced_one_after_the_other_while_writes_go_on(net: Network) -> None:
    with net.load() as load:
        load.more(5)
        for name in ("org-1", "org-2", "org-3"):
            net.run_on(None, name)
            load.more(5)
        net.run_on(net.careless, "org-4")
        load.more(5)
    net.agree()
    net.everywhere(load.acknowledged)


@step(after=test_nodes_are_replaced_one_after_the_other_while_writes_go_on)
def test_a_new_message_before_its_time_is_the_same_to_both_programs(net: Network) -> None:
    proposal = net.propose("org-1", 3)
    early = WithdrawProposal(proposal=proposal)
    assert refused(lambda: net.at("org-2").submit(early)) == AdmissionCode.NOT_IN_FORCE.label
    assert refused(lambda: net.at("org-4").submit(early)) == AdmissionCode.MALFORMED.label
    told = net.carechain("org-1", "member", "withdraw-proposal", proposal.hex(), expect=1)["error"]
    assert told["label"] == AdmissionCode.NOT_IN_FORCE.label
    raw = net.at("org-1").sign(early)
    height = net.height("org-4")
    with net.load("org-1", "org-2", "org-3"):
        net.ask_engine("org-4", "broadcast_tx_async", tx=base64.b64encode(raw).decode())
        # Turns go round: whatever a node proposes stands in one of so many blocks.
        until(lambda: net.height("org-4") > height + 2 * len(net.names), "everybody has proposed")
    place = place_of(net, raw, height)
    assert place
    net.agree()
    header = net.headers[place - 1]
    assert header.producer == net.member("org-4").party
    for name in net.names:
        block = net.block(name, place)
        receipt = block.receipts[block.txs.index(raw)]
        assert decode_receipt(receipt).code == AdmissionCode.MALFORMED
    # It was never admitted, so it has no receipt to ask for, and its vote is open.
    assert net.carechain("org-2", "member", "proposals")["proposals"][0]["standing"] == "open"


@step(after=test_a_new_message_before_its_time_is_the_same_to_both_programs)
def test_at_the_height_an_old_node_stops_and_says_why_and_the_others_go_on(net: Network) -> None:
    height = net.height("org-1") + NOTICE
    proposed = net.carechain("org-1", "member", "propose-upgrade", "governance", "--height", str(height))
    assert (proposed["version"], proposed["from_height"]) == (2, height)
    assert net.carechain("org-2", "member", "vote", proposed["proposal"], "--yes")["standing"] == "open"
    # An old node's organisation takes part in the vote: what it is about decides the state and not the program.
    assert net.carechain("org-4", "member", "vote", proposed["proposal"], "--yes")["standing"] == "passed"
    assert [net.knows_it_all(name) for name in net.names] == [True, True, True, False]
    proposal = net.propose("org-3", 2)
    assert refused(lambda: net.submit("org-3", WithdrawProposal(proposal=proposal))) == AdmissionCode.NOT_IN_FORCE.label
    assert net.agree() < height
    with net.load("org-1", "org-2", "org-3") as load:
        said = net.ended("org-4")
        load.more(10)
    assert max(net.height(name) for name in net.names[:3]) > height
    assert said == (
        f"from block {height} on, contract governance runs version 2, which this program does not have: "
        "install a newer release and start again"
    )
    assert net.cannot_run("org-4", env={"PYTHONPATH": net.path_of(net.older)}) == said
    net.agree("org-1", "org-2", "org-3")


@step(after=test_at_the_height_an_old_node_stops_and_says_why_and_the_others_go_on)
def test_the_replaced_node_catches_up_and_the_new_message_works_everywhere(net: Network) -> None:
    net.start("org-4")
    net.wait_ready()
    assert all(net.knows_it_all(name) for name in net.names)
    for active, name in enumerate(net.names, 1):
        proposal = net.propose(name, active)
        other = net.names[active % len(net.names)]
        assert refused(lambda o=other, p=proposal: net.submit(o, WithdrawProposal(proposal=p))) == (
            GovernanceCode.NOT_THE_PROPOSER.label
        )
        net.submit(other, Vote(proposal=proposal, aye=False))
        net.submit(other, Vote(proposal=proposal, aye=True))
        net.carechain(name, "member", "withdraw-proposal", proposal.hex())
    net.agree()


@step(after=test_the_replaced_node_catches_up_and_the_new_message_works_everywhere)
def test_a_replay_over_the_switch_gives_the_same(net: Network) -> None:
    """One node has lost its tree, and executes every block again; another's files are verified as they lie."""
    net.stop("org-2")
    shutil.rmtree(net.home("org-2") / "ledger/tree")
    net.start("org-2")
    net.wait_ready("org-2")
    assert "rebuilt from the block log" in net.log("org-2")
    net.stop("org-3")
    verified = net.carechain("org-3", "verify", "--home", str(net.home("org-3")))
    assert verified["ok"]
    assert verified["height"] > NOTICE
    net.start("org-3")
    net.wait_ready()
    net.write("org-2", "after all of it")
    net.agree()
