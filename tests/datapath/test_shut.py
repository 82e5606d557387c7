"""An interface that its pod has set down stays down; one that Ratchet has not brought up yet is brought up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from ratchet.core.differences import differences
from ratchet.core.endpoint_spec import Route
from ratchet.core.interface import VethWire, VxlanWire
from ratchet.core.sandbox import Location
from ratchet.datapath import build, ensure, observe, observe_port
from ratchet.datapath.messages import GROUP
from ratchet.datapath.pod_netns import OpenPod
from ratchet.errors import DatapathError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ONE, TWO = "10.9.0.1", "10.9.0.2"
PORT = 4789
ROUTES = (Route(ip_network("10.1.0.0/16"), ip_address("192.168.2.2")), Route(ip_network("2001:db8::/32")))

Wire = VethWire | VxlanWire


@pytest.fixture(params=["veth", "vxlan"])
def wire(request: pytest.FixtureRequest, nodes: Bed, wires: Wires) -> Iterator[Wire]:
    """A wire from pod-a, with routes, to pod-b. The test runs in the near end's node."""
    with nodes.inside("node-2"):
        if request.param == "vxlan":
            ensure(wires.tunnel("pod-b", 1, TWO, ONE))
    with nodes.inside("node-1"):
        made: Wire = wires.veth() if request.param == "veth" else wires.tunnel("pod-a", 0, ONE, TWO)
        yield replace(made, near=replace(made.near, routes=ROUTES))


def shut(nodes: Bed) -> None:
    nodes.ip("pod-a", "link", "set", "in1", "down")


def is_up(nodes: Bed) -> bool:
    return "UP" in nodes.show("pod-a", "in1")["flags"]


def test_an_interface_that_its_pod_sets_down_stays_down(nodes: Bed, wire: Wire) -> None:
    ensure(wire)
    shut(nodes)
    assert set(differences(wire, observe(wire))) <= {"in1 lacks fd00::1/64"}, "the kernel has removed the address"
    ensure(wire)
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False
    assert not is_up(nodes)


def test_a_shut_interface_works_again_once_its_pod_sets_it_up(nodes: Bed, wire: Wire) -> None:
    ensure(wire)
    index = nodes.show("pod-a", "in1")["ifindex"]
    shut(nodes)
    ensure(wire)
    nodes.ip("pod-a", "link", "set", "in1", "up")
    assert nodes.pings("pod-a", "192.168.2.2")
    assert nodes.pings("pod-a", "fd00::2")
    assert differences(wire, observe(wire)) == tuple(f"in1 lacks the route {route}" for route in ROUTES)
    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert nodes.show("pod-a", "in1")["ifindex"] == index


REPAIRS: dict[str, Callable[[Wire], Wire]] = {
    "MTU": lambda wire: replace(wire, near=replace(wire.near, mtu=1300)),
    "address": lambda wire: replace(wire, near=replace(wire.near, addresses=(ip_interface("192.168.2.9/24"),))),
    "queue length": lambda wire: replace(wire, near=replace(wire.near, txqlen=77)),
    "routes": lambda wire: replace(wire, near=replace(wire.near, routes=(), renewed=True)),
    "sysctl": lambda wire: replace(wire, near=replace(wire.near, sysctls=(("net.ipv4.conf.IFNAME.rp_filter", 2),))),
    "rate": lambda wire: replace(wire, near=replace(wire.near, rate=20_000_000)),
    "all": lambda wire: replace(wire, near=replace(wire.near, mtu=1300, txqlen=77, rate=20_000_000, offloads=False)),
}


@pytest.mark.parametrize("repair", REPAIRS.values(), ids=REPAIRS.keys())
def test_other_changes_leave_a_shut_interface_down(nodes: Bed, wire: Wire, repair: Callable[[Wire], Wire]) -> None:
    ensure(wire)
    nodes.ip("pod-a", "link", "set", "in1", "alias", "the pod's own")
    shut(nodes)
    index, changed = nodes.show("pod-a", "in1")["ifindex"], repair(wire)
    build(changed)
    shown = nodes.show("pod-a", "in1")
    assert "UP" not in shown["flags"]
    assert (shown["ifindex"], shown["ifalias"]) == (index, "the pod's own")
    assert differences(changed, observe(changed)) == ()


def test_a_shut_tunnel_follows_its_peer_and_stays_down(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
        shut(nodes)
        moved = replace(wire, remote="10.9.0.3", carrier=False)
        build(moved)
        assert not is_up(nodes)
        build(replace(moved, carrier=True))
        assert not is_up(nodes)
        with nodes.inside("node-3"):
            ensure(wires.tunnel("pod-c", 1, "10.9.0.3", ONE))
        nodes.ip("pod-a", "link", "set", "in1", "up")
        assert nodes.pings("pod-a", "192.168.2.2")


def test_an_interface_that_is_recreated_is_up(nodes: Bed, wire: Wire) -> None:
    ensure(wire)
    shut(nodes)
    nodes.ip("pod-a", "link", "del", "in1")
    assert ensure(wire) is True
    assert is_up(nodes)


def test_an_interface_that_was_never_up_is_brought_up(nodes: Bed, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed before it sets the interface up, so that it removes nothing."""

    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(OpenPod, "finish", killed)
        patch.setattr(OpenPod, "delete", lambda *_: False)
        with pytest.raises(KilledError):
            ensure(wire)
    device = observe_port(Location(wire.near.netns), "in1")
    assert device is not None and not device.up and not device.is_shut
    assert "in1 is down" in differences(wire, observe(wire))
    assert ensure(wire) is True
    assert is_up(nodes)
    assert differences(wire, observe(wire)) == ()


def test_an_end_that_the_kernel_refused_to_set_up_is_not_shut(nodes: Bed, wires: Wires) -> None:
    """A crash has left the end, and another process has its UDP port meanwhile."""
    head = ("link", "add", "in1", "netns", nodes.name("pod-a"), "mtu", "1400", "group", str(GROUP))
    data = ("id", "11", "remote", TWO, "local", ONE, "dev", "eth0", "dstport", str(PORT), "nolearning")
    nodes.ip("node-1", *head, "type", "vxlan", *data)
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("", PORT))
            with pytest.raises(DatapathError):
                ensure(wire)
        assert "in1 is down" in differences(wire, observe(wire))
        assert ensure(wire) is True
    assert is_up(nodes)


def test_an_interface_that_is_shut_during_a_repair_of_its_routes_is_left_to_its_pod(
    nodes: Bed, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(wire)
    nodes.ip("pod-a", "route", "flush", "proto", "82")
    tune = OpenPod.tune

    def shut_meanwhile(pod: OpenPod) -> None:
        tune(pod)
        shut(nodes)

    monkeypatch.setattr(OpenPod, "tune", shut_meanwhile)
    assert differences(wire, build(wire)) == ()
    assert not is_up(nodes)
