"""Where a node's engine listens, and whom it knows: the options, and what they become in ``config.toml``."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from carechain.cli.output import OptionGroup

_PEER: Final = re.compile(r"[0-9a-f]{40}@[^@,\s]+:[0-9]{1,5}")
_GREATEST_PORT: Final = 0xFFFF


class Peering(OptionGroup, frozen=True):
    """Other members' nodes are named one by one: nobody looks for others, and the ledger holds no addresses."""

    peers: Annotated[
        list[str] | None,
        typer.Option("--peer", metavar="ID@HOST:PORT", help="Another member's node, by its node id; repeat it."),
    ] = None
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where other members' nodes reach this one.")
    ] = "127.0.0.1:26656"

    def settings(self) -> str:
        """As ``config.toml`` holds it; raises ``typer.BadParameter`` for what is no address."""
        host, _, port = self.listen.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and int(port) <= _GREATEST_PORT):
            raise typer.BadParameter("give it as HOST:PORT", param_hint="--listen")
        peers = self.peers or []
        if not all(_PEER.fullmatch(one) for one in peers):
            raise typer.BadParameter("give it as ID@HOST:PORT, the id in 40 small digits", param_hint="--peer")
        # Brackets belong into an address, and not into the name of a host (RFC 3986 section 3.2.2).
        return consensus_settings(host=host.strip("[]"), port=int(port), peers=peers)


def consensus_settings(*, host: str, port: int, peers: Sequence[str], same_host: bool = False) -> str:
    """The part of ``config.toml`` that says where this node's engine listens and whom it knows."""
    listed = f"peers = {json.dumps(list(peers))}"
    said = ["", "[consensus]", f"host = {json.dumps(host)}", f"port = {port}", listed]
    return "\n".join([*said, "same_host = true"] if same_host else said) + "\n"
