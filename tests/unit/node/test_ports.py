"""Free ports: goal: none that the system may lend to somebody else in between, none twice, and an honest refusal."""

import errno
import socket
from pathlib import Path

import pytest

from carechain.node import ports
from carechain.node.ports import free_ports


def test_no_port_is_given_twice_or_lent_by_the_system() -> None:
    found = free_ports(64)
    first_lent = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(found)) == 64
    assert max(found) < first_lent


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = free_ports(2)
    monkeypatch.setattr(ports, "_PORTS", (one, other))
    with socket.create_server(("127.0.0.1", one)):
        assert free_ports(1) == [other]
        with pytest.raises(OSError, match="2 free ports") as refused:
            free_ports(2)
    assert refused.value.errno == errno.EADDRINUSE
