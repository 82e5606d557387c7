"""Who has a UDP port of the node."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ratchet.datapath.udp_ports import holder_of
from tests.support.namespaces import Bed

PORT = 4789


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_process_that_has_the_port_is_named(bed: Bed, family: int) -> None:
    bed.add("node")
    with bed.inside("node"), socket.socket(family, socket.SOCK_DGRAM) as taken:
        taken.bind(("", PORT))
        name = Path("/proc/self/comm").read_text().strip()
        assert holder_of(PORT) == f"{name} (PID {os.getpid()})"
        assert holder_of(PORT + 1) is None
    with bed.inside("node"):
        assert holder_of(PORT) is None


def test_a_device_that_keeps_tunnels_from_the_port_is_named(bed: Bed) -> None:
    bed.add("node")
    bed.ip("node", "link", "add", "vxlan_sys", "type", "vxlan", "external", "dstport", str(PORT))
    bed.ip("node", "link", "set", "vxlan_sys", "up")
    with bed.inside("node"):
        assert holder_of(PORT) == "the VXLAN device vxlan_sys (external)"


def test_a_tunnel_that_shares_its_port_is_no_holder(bed: Bed) -> None:
    bed.add("node")
    bed.ip("node", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", str(PORT), "nolearning")
    bed.ip("node", "link", "set", "flannel.1", "up")
    with bed.inside("node"):
        assert holder_of(PORT) is None


def test_the_port_of_another_namespace_is_free(bed: Bed) -> None:
    bed.add("node", "other")
    with bed.inside("other"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", PORT))
        with bed.inside("node"):
            assert holder_of(PORT) is None
