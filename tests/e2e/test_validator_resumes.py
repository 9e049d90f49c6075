"""A validator whose signing state was lost goes on once its operator says so, also where no block is made without it.

Goal: `--resume-validator` ends the standby, and a hub makes blocks again. Method: a network of one validator with the
real engine; the record of what its key has signed is taken away between two starts.
"""

import asyncio
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from carechain.chain.genesis import Genesis
from carechain.contracts.validators import FounderNode, FounderSeat
from carechain.core.vocabulary import OrganisationKind
from carechain.engine.cometbft import config
from carechain.engine.cometbft.binary import EngineMissing, find_cometbft
from carechain.node.consortium import ConsortiumService, Place, prepare
from carechain.node.home import make_home
from world import Organisation, seeded

pytestmark = pytest.mark.engine


def test_a_hub_whose_signing_state_was_lost_makes_blocks_again(tmp_path: Path) -> None:
    try:
        program = find_cometbft(None)
    except EngineMissing as missing:
        pytest.skip(str(missing))
    hub = Organisation("hub", kind=OrganisationKind.HOSPITAL, registrar=True)
    home = tmp_path / "home"
    make_home(home)
    folder = home / config.FOLDER
    prepare(folder, seeded("keys", size=64))
    genesis = Genesis(
        chain_id="resumes",
        time_s=int(time.time()),
        members=(hub.as_new(),),
        validators=(FounderSeat(hub.id, config.read_key(folder / config.VALIDATOR_KEY).public_key),),
        nodes=(FounderNode(hub.id, bytes.fromhex(config.node_id(folder))),),
    )
    place = Place(program=program, p2p="127.0.0.1:0", same_host=True, tuning=config.Tuning(heartbeat_ms=50))

    async def lived(place: Place, *, more: int) -> bool:
        """One life of the node, until it has made some more blocks; whether it stood by."""
        service = ConsortiumService.open(home, genesis, hub.signing, place)
        await service.start()
        try:
            if more:
                async with asyncio.timeout(30):
                    await service.reached(service.height + more)
            return service.stands_by
        finally:
            await service.drain()

    assert not asyncio.run(lived(place, more=3))
    (folder / config.VALIDATOR_STATE).unlink()
    assert asyncio.run(lived(place, more=0))
    assert not asyncio.run(lived(replace(place, resume_validator=True), more=3))
    assert not asyncio.run(lived(place, more=1))
