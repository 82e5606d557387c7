"""Faults 24 to 26 of docs/faults.md, reproduced in the kernel."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import Wire
from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, messages, observe, observe_port, open_netns, release, remove, rtnetlink
from ratchet.datapath.netns import inside
from ratchet.datapath.vni_conflicts import Holder
from ratchet.errors import DatapathError, NamespaceGoneError, VniForeignError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

GROUP = str(messages.GROUP)
ONE, TWO = "10.9.0.1", "10.9.0.2"


def test_fault_24_a_vni_in_a_leaked_netns_is_released(nodes: Bed, wires: Wires) -> None:
    """The pod is gone, but its netns is still mounted. The new pod's tunnel has the same VNI."""
    nodes.add("pod-old")
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-old", 0, ONE, TWO))
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        assert ensure(wire) is True
        assert differences(wire, observe(wire)) == ()
    assert nodes.interfaces("pod-old") == []


def test_fault_24_a_vni_in_an_unnamed_netns_is_released(nodes: Bed, wires: Wires) -> None:
    """No path leads to the netns; only an open socket keeps it alive."""
    nodes.add("pod-old")
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-old", 0, ONE, TWO))
        with open_netns(nodes.path("pod-old")) as old, inside(old):
            left_open = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        nodes.delete("pod-old")
        with left_open:
            wire = wires.tunnel("pod-a", 0, ONE, TWO)
            assert ensure(wire) is True
            assert differences(wire, observe(wire)) == ()


def test_fault_24_ensure_waits_for_a_vni_in_a_netns_under_deletion(nodes: Bed, wires: Wires) -> None:
    """The kernel deletes a netns asynchronously. The next pod must not fail with EEXIST meanwhile."""
    nodes.add("pod-old")
    _add_vni_holder(nodes, "pod-old", "in9", group=GROUP)
    old = open_netns(nodes.path("pod-old"))
    nodes.delete("pod-old")
    closer = threading.Timer(0.2, old.close)
    with nodes.inside("node-1"):
        closer.start()
        assert ensure(wires.tunnel("pod-a", 0, ONE, TWO)) is True
        assert closer.finished.is_set()
    closer.join()


def test_fault_24_a_vni_holder_in_a_missing_netns_is_no_error(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"), rtnetlink.Channel() as node:
        ensure(wires.tunnel("pod-a", 0, ONE, TWO))
        device = observe_port(Location(nodes.path("pod-a")), "in1")
        assert device is not None
        assert Holder(device, "a namespace", node, nsid=4711).delete() is False


def test_fault_24_a_pod_can_be_recreated_repeatedly(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        for _ in range(5):
            assert ensure(wires.tunnel("pod-a", 0, ONE, TWO)) is True
            nodes.delete("pod-a")
            nodes.add("pod-a")


@pytest.mark.parametrize("way", ["mounted", "of a process", "given"])
def test_fault_24_a_netns_without_an_nsid_is_searched(way: str, nodes: Bed, wires: Wires) -> None:
    nodes.add("pod-old")
    _add_vni_holder(nodes, "pod-old", "in9", group=GROUP)
    with open_netns(nodes.path("pod-old")) as old, nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO)
        sleeper = _start_sleeper(old.fd) if way == "of a process" else 0
        if way != "mounted":
            nodes.delete("pod-old")
        try:
            search = [f"/proc/self/fd/{old.fd}"] if way == "given" else []
            assert ensure(wire, search) is True
            assert differences(wire, observe(wire)) == ()
            with inside(old):
                assert [name for _, name in socket.if_nameindex()] == ["lo"], "the VNI's former holder is deleted"
        finally:
            if sleeper:
                os.kill(sleeper, 9)
                os.waitpid(sleeper, 0)


def test_fault_24_an_unreachable_vni_holder_is_an_error(nodes: Bed, wires: Wires) -> None:
    nodes.add("pod-old")
    _add_vni_holder(nodes, "pod-old", "in9", group=GROUP)
    with open_netns(nodes.path("pod-old")), nodes.inside("node-1"):
        nodes.delete("pod-old")
        with pytest.raises(DatapathError, match=r"cannot make in1 in .*: VNI 11 on UDP port 4789 is in use") as caught:
            ensure(wires.tunnel("pod-a", 0, ONE, TWO))
    assert "lsns -t net" in caught.value.details
    assert nodes.interfaces("pod-a") == []


@pytest.mark.parametrize("place", ["node-1", "pod-c"])
def test_fault_24_a_foreign_vni_holder_is_named_and_not_deleted(place: str, nodes: Bed, wires: Wires) -> None:
    _add_vni_holder(nodes, place, "flannel.11", group="0")
    with (
        nodes.inside("node-1"),
        pytest.raises(VniForeignError, match=r"held by flannel\.11 in .*not Ratchet's") as caught,
    ):
        ensure(wires.tunnel("pod-a", 0, ONE, TWO))
    assert caught.value.vni == 11
    assert "vni_range" in caught.value.details
    assert "flannel.11" in nodes.interfaces(place)
    assert nodes.interfaces("pod-a") == []


def test_fault_24_a_tunnel_with_its_underlay_in_another_netns_is_no_holder(nodes: Bed, wires: Wires) -> None:
    """A pod created the tunnel with the same VNI by chance. Its underlay is in the pod, not in the node."""
    nodes.ip("pod-c", "link", "add", "flannel.11", "type", "vxlan", "id", "11", "dstport", "4789", "remote", TWO)
    before = nodes.show("pod-c", "flannel.11")
    nodes.add("pod-old")
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-old", 0, ONE, TWO))
        assert ensure(wires.tunnel("pod-a", 0, ONE, TWO)) is True
    assert nodes.interfaces("pod-old") == []
    assert nodes.show("pod-c", "flannel.11") == before


def test_fault_24_the_end_on_another_node_with_the_same_vni_is_not_deleted(nodes: Bed, wires: Wires) -> None:
    """Two nodes can be two netns of one machine. Each sees the pods of the other."""
    nodes.add("pod-old")
    with nodes.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, TWO, ONE))
    with open_netns(nodes.path("pod-b")) as pod, nodes.inside("node-1"), rtnetlink.Channel() as node:
        node.do(messages.assign_nsid(pod.fd))
    before = nodes.show("pod-b", "in1")
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-old", 0, ONE, TWO))
        ensure(wires.tunnel("pod-a", 0, ONE, TWO))
        assert release(11, 4789) is True
        assert release(11, 4789) is False
    assert nodes.interfaces("pod-a") == nodes.interfaces("pod-old") == []
    assert nodes.show("pod-b", "in1")["ifindex"] == before["ifindex"]


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_fault_25_deletion_of_a_netns_deletes_its_link(kind: str, nodes: Bed, wires: Wires) -> None:
    """Ratchet leaves no socket or descriptor open in the netns, which would keep the far end alive."""
    with nodes.inside("node-1"):
        wire: Wire = wires.veth() if kind == "veth" else wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(wire)
        observe(wire)
        nodes.delete("pod-a")
        with pytest.raises(NamespaceGoneError, match=wire.near.netns):
            observe(wire)
        with pytest.raises(NamespaceGoneError, match=wire.near.netns):
            ensure(wire)
        assert remove(Location(wire.near.netns), "in1") is False
        if kind == "veth":
            _wait_until(lambda: observe_port(Location(nodes.path("pod-b")), "in2") is None)
        nodes.add("pod-a")
        assert ensure(wire) is True
        assert differences(wire, observe(wire)) == ()


def test_fault_25_an_interface_deleted_during_observation_is_absent(
    pods: Bed, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = wires.veth()
    ensure(wire)
    original = messages.addresses

    def too_late(index: int = 0) -> bytearray:
        if "in1" in pods.interfaces("pod-a"):
            pods.ip("pod-a", "link", "del", "in1")
        return original(index)

    monkeypatch.setattr(messages, "addresses", too_late)
    assert observe_port(Location(wire.near.netns), "in1") is None
    assert observe(wire).far is None


def test_fault_25_the_error_names_the_missing_netns(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    pods.delete("pod-b")
    with pytest.raises(NamespaceGoneError, match=f"cannot open network namespace {wire.far.netns}: No such file"):
        observe(wire)
    _wait_until(lambda: observe_port(Location(wire.near.netns), "in1") is None)
    pods.add("pod-b")
    assert ensure(wire) is True
    assert pods.pings("pod-a", "192.168.2.2")


@pytest.mark.parametrize("kind", ["veth", "vxlan", "vxlan beside a namesake", "vxlan without carrier"])
def test_fault_26_ensure_repairs_a_crash_at_any_step(kind: str, nodes: Bed, wires: Wires) -> None:
    if kind == "vxlan beside a namesake":
        nodes.ip("node-1", "link", "add", "in1", "type", "veth", "peer", "name", "other")
    with nodes.inside("node-1"):
        has_carrier = kind != "vxlan without carrier"
        wire: Wire = wires.veth() if kind == "veth" else wires.tunnel("pod-a", 0, ONE, TWO, carrier=has_carrier)
        steps = 0
        left = set()
        while _crashes_at(steps, wire):
            left.update(nodes.interfaces("pod-a"))
            ensure(wire)
            assert differences(wire, observe(wire)) == (), f"after a crash at step {steps}"
            assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"
            assert nodes.interfaces("pod-a") == ["in1"]
            remove(Location(wire.near.netns), "in1")
            steps += 1
    assert steps >= 3
    assert left == ({"in1", "ratchetb"} if kind == "vxlan beside a namesake" else {"in1"})


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_fault_26_a_half_made_link_can_be_removed(kind: str, nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        wire: Wire = wires.veth() if kind == "veth" else wires.tunnel("pod-a", 0, ONE, TWO)
        steps = 0
        while _crashes_at(steps, wire):
            present = nodes.interfaces("pod-a") == ["in1"]
            assert remove(Location(wire.near.netns), "in1") is present
            assert nodes.interfaces("pod-a") == nodes.interfaces("pod-b") == []
            steps += 1
        remove(Location(wire.near.netns), "in1")


def _crashes_at(step: int, wire: Wire) -> bool:
    """Run `ensure` in a process that exits before its send number `step`; return whether it got that far."""
    child = os.fork()
    if child == 0:
        try:
            exchange, left = rtnetlink.Channel.exchange, iter(range(step))

            def exchange_or_exit(channel: rtnetlink.Channel, *requests: bytearray) -> list[rtnetlink.NetlinkReply]:
                if next(left, None) is None:
                    os._exit(1)
                return exchange(channel, *requests)

            vars(rtnetlink)["Channel"].exchange = exchange_or_exit
            ensure(wire)
            os._exit(0)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1)
    return code == 1


def _add_vni_holder(nodes: Bed, place: str, ifname: str, group: str) -> None:
    """Create a tunnel of node-1 with VNI 11, as another program would."""
    head = ("link", "add", ifname, "group", group) + (() if place == "node-1" else ("netns", nodes.name(place)))
    nodes.ip("node-1", *head, "type", "vxlan", "id", "11", "dev", "eth0", "dstport", "4789")


def _start_sleeper(fd: int) -> int:
    """Start a process in a netns that closes its descriptor of it; return its PID."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open_netns(f"/proc/self/fd/{fd}") as netns, inside(netns):
                os.closerange(3, writing)
                os.write(writing, b"!")
                os.closerange(writing, 100)
                while True:
                    time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    return child


def _wait_until(predicate: Callable[[], bool], seconds: float = 20) -> None:
    """Wait, because the kernel tears down a netns asynchronously."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline
        time.sleep(0.01)
