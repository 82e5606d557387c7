"""Who has a UDP port of the node."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ratchet.core.interface import Device
from ratchet.datapath import udp_ports
from ratchet.datapath.udp_ports import PortUse, use_of
from tests.support.namespaces import Bed

PORT = 4789
FREE = PortUse(is_free=True)


def _tunnel(remote: str, *, up: bool = True) -> Device:
    return Device("in1", 7, "vxlan", True, up, 1450, "02:00:00:00:00:01", vni=1, remote=remote, port=PORT)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_process_that_has_the_port_is_named(bed: Bed, family: int) -> None:
    bed.add("node")
    with bed.inside("node"), socket.socket(family, socket.SOCK_DGRAM) as taken:
        taken.bind(("", PORT))
        name = Path("/proc/self/comm").read_text().strip()
        assert use_of(PORT) == PortUse(f"{name} (PID {os.getpid()})")
        assert use_of(PORT + 1) == FREE
    with bed.inside("node"):
        assert use_of(PORT) == FREE


def test_a_port_whose_process_is_not_found_is_not_free(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.add("node")
    monkeypatch.setattr(udp_ports, "_process_with", lambda _: "")
    with bed.inside("node"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", PORT))
        assert use_of(PORT) == PortUse()
        assert use_of(PORT, lambda: [_tunnel("fd00::1"), _tunnel("192.0.2.1", up=False)]) == PortUse()
        assert use_of(PORT, lambda: [_tunnel("192.0.2.1")]) == FREE


def test_a_device_that_keeps_tunnels_from_the_port_is_named(bed: Bed) -> None:
    bed.add("node")
    bed.ip("node", "link", "add", "vxlan_sys", "type", "vxlan", "external", "dstport", str(PORT))
    bed.ip("node", "link", "set", "vxlan_sys", "up")
    with bed.inside("node"):
        assert use_of(PORT) == PortUse("the VXLAN device vxlan_sys (external)")


@pytest.mark.parametrize("local", ["192.0.2.1", "fd00::1"])
def test_a_tunnel_that_shares_its_port_is_no_holder(bed: Bed, local: str) -> None:
    bed.add("node")
    options = ("id", "1", "dstport", str(PORT), "nolearning", "local", local)
    bed.ip("node", "link", "add", "flannel.1", "type", "vxlan", *options)
    bed.ip("node", "link", "set", "flannel.1", "up")
    with bed.inside("node"):
        assert use_of(PORT) == FREE


def test_a_tunnel_of_the_node_in_another_namespace_is_no_holder(bed: Bed) -> None:
    """As those of pods: the socket is in the namespace in which the device was made."""
    bed.add("node", "pod")
    bed.ip("node", "link", "add", "in1", "type", "vxlan", "id", "1", "dstport", str(PORT), "remote", "192.0.2.1")
    bed.ip("node", "link", "set", "in1", "netns", bed.name("pod"))
    bed.ip("pod", "link", "set", "in1", "up")
    with bed.inside("node"):
        assert use_of(PORT) == PortUse()
        assert use_of(PORT, lambda: [_tunnel("192.0.2.1")]) == FREE


def test_the_port_of_another_namespace_is_free(bed: Bed) -> None:
    bed.add("node", "other")
    with bed.inside("other"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", PORT))
        with bed.inside("node"):
            assert use_of(PORT) == FREE
