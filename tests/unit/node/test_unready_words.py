"""Goal: what a node tells anybody who asks, without a session, names no other node's address.

Method: a node of a consortium whose engine is away and has just logged a connection, as the engine writes it.
"""

import time
from pathlib import Path

from carechain.chain.genesis import Genesis
from carechain.contracts.validators import FounderNode, FounderSeat
from carechain.core.vocabulary import OrganisationKind
from carechain.engine.cometbft import config
from carechain.engine.cometbft.process import LOG_FILE
from carechain.node.consortium import ConsortiumService, Place, prepare
from carechain.node.home import make_home
from world import Organisation, seeded

FOLLOWER = "10.20.0.7"


def test_why_a_node_is_unready_names_no_address(tmp_path: Path) -> None:
    member = Organisation("hub", kind=OrganisationKind.HOSPITAL, registrar=True)
    make_home(tmp_path / "home")
    folder = tmp_path / "home" / config.FOLDER
    prepare(folder, seeded("keys", size=64))
    genesis = Genesis(
        chain_id="hub",
        time_s=int(time.time()),
        members=(member.as_new(),),
        validators=(FounderSeat(member.id, config.read_key(folder / config.VALIDATOR_KEY).public_key),),
        nodes=(FounderNode(member.id, bytes.fromhex(config.node_id(folder))),),
    )
    service = ConsortiumService.open(
        tmp_path / "home", genesis, member.signing, Place(program=Path("none"), p2p="127.0.0.1:0")
    )
    try:
        (folder / LOG_FILE).write_text(
            f'E[2026-11-21] Stopping peer for error module=p2p peer="Peer{{MConn{{{FOLLOWER}:26656}} 3f in}}" err=EOF\n'
        )
        service._process.starts = 1
        said = service.why_unready()
        assert "being started again" in said
        assert FOLLOWER not in said
    finally:
        service._application.close()
        service._close_session()
