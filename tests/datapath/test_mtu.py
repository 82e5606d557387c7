"""MTU changes of the parent interface: existing links get a new MTU in place."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import VxlanWire, tunnel_mtu
from ratchet.datapath import ensure, observe
from ratchet.errors import DatapathError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ONE, TWO = "10.9.0.1", "10.9.0.2"


@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), ("fd09::1", "fd09::2")])
def test_tunnels_follow_the_parent_mtu_up_and_down(one: str, two: str, bed: Bed, wires: Wires) -> None:
    width = 64 if ":" in one else 24
    bed.fabric(**{"node-1": f"{one}/{width}", "node-2": f"{two}/{width}"})
    bed.add("pod-a", "pod-b")
    _ensure_both(bed, wires, one, two)
    before = _identity(bed, "pod-a", "in1"), _identity(bed, "pod-b", "in1")
    for mtu in (9000, 1400, 1500, 1399, 9000):
        _set_parent_mtu(bed, mtu)
        link_mtu = _ensure_both(bed, wires, one, two)
        assert link_mtu == mtu - (70 if ":" in one else 50)
        for pod in ("pod-a", "pod-b"):
            assert bed.show(pod, "in1")["mtu"] == link_mtu
        assert (_identity(bed, "pod-a", "in1"), _identity(bed, "pod-b", "in1")) == before
        assert _path_mtu_is(bed, link_mtu)


def test_a_smaller_parent_mtu_is_applied_whether_or_not_the_kernel_did_so(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, ONE, TWO, mtu=1450))
        before = _identity(nodes, "pod-a", "in1")
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "1400")
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1350)
        assert ensure(wire) is True
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "1390")
        nodes.ip("pod-a", "link", "set", "in1", "mtu", "1340")
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1340)
        ensure(wire)
        assert ensure(wire) is False
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "1500")
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1450)
        assert ensure(wire) is True
        assert differences(wire, observe(wire)) == ()
    assert _identity(nodes, "pod-a", "in1") == before
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


def test_a_parent_mtu_too_small_for_ipv6_is_an_error_until_it_grows(nodes: Bed, wires: Wires) -> None:
    """Below an MTU of 1280 bytes the kernel removes IPv6 from an interface. The link keeps IPv4."""
    with nodes.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1450)
        ensure(wire)
        before = _identity(nodes, "pod-a", "in1")
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "1300")
        small = wires.tunnel("pod-a", 0, ONE, TWO, mtu=1250)
        for _ in range(2):
            with pytest.raises(DatapathError, match=f"cannot make in1 in {wire.near.netns}: ") as caught:
                ensure(small)
            assert "IPv6 needs an MTU of 1280 bytes" in caught.value.details
        assert differences(small, observe(small)) == ("in1 lacks fd00::1/64",)
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "1500")
        assert ensure(wire) is True
        assert differences(wire, observe(wire)) == ()
    assert _identity(nodes, "pod-a", "in1") == before
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


def test_an_end_without_carrier_follows_the_parent_mtu(nodes: Bed, wires: Wires) -> None:
    with nodes.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, ONE, TWO, mtu=1450, carrier=False))
        before = _identity(nodes, "pod-a", "in1")
        for mtu in (9000, 1400):
            nodes.ip("node-1", "link", "set", "eth0", "mtu", str(mtu))
            wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=mtu - 50, carrier=False)
            assert ensure(wire) is True
            assert differences(wire, observe(wire)) == ()
            assert "LOWER_UP" not in nodes.show("pod-a", "in1")["flags"]
    assert _identity(nodes, "pod-a", "in1") == before


def test_an_mtu_above_a_shrunken_parent_is_an_error_and_changes_nothing(nodes: Bed, wires: Wires) -> None:
    """The MTU of the parent shrinks after it was read."""
    with nodes.inside("node-1"):
        old = wires.tunnel("pod-a", 0, ONE, TWO)
        ensure(old)
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "9000")
        wire = wires.tunnel("pod-a", 0, ONE, TWO, mtu=8950)
        nodes.ip("node-1", "link", "set", "eth0", "mtu", "1500")
        message = f"cannot make in1 in {wire.near.netns}: MTU 8950 does not fit into eth0"
        with pytest.raises(DatapathError, match=message) as caught:
            ensure(wire)
        assert "9000" in caught.value.details
        assert differences(old, observe(old)) == ()
        tiny = replace(old, near=replace(old.near, mtu=10))
        with pytest.raises(DatapathError, match=f"cannot make in1 in {wire.near.netns}: (?!MTU 10 does not fit)"):
            ensure(tiny)
        assert differences(old, observe(old)) == ()


def test_the_mtu_of_a_veth_changes_up_and_down(pods: Bed, wires: Wires) -> None:
    ensure(wires.veth(mtu=1500))
    before = _identity(pods, "pod-a", "in1"), _identity(pods, "pod-b", "in2")
    for mtu in (9000, 1400, 1500, 65535, 1280):
        wire = wires.veth(mtu=mtu)
        assert len(differences(wire, observe(wire))) == 2
        assert ensure(wire) is True
        assert differences(wire, observe(wire)) == ()
        assert ensure(wire) is False
        assert (_identity(pods, "pod-a", "in1"), _identity(pods, "pod-b", "in2")) == before
        assert _path_mtu_is(pods, mtu)


def test_ensure_restores_the_mtu_of_a_veth_end(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    pods.ip("pod-b", "link", "set", "in2", "mtu", "1300")
    assert differences(wire, observe(wire)) == ("in2 has MTU 1300, wanted 1450",)
    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert _path_mtu_is(pods, 1450)


def _ensure_both(bed: Bed, wires: Wires, one: str, two: str) -> int:
    """Ensure both ends with the MTU that the parent allows; return this MTU."""
    mtu = 0
    for node, pod, number, local, remote in (("node-1", "pod-a", 0, one, two), ("node-2", "pod-b", 1, two, one)):
        with bed.inside(node):
            plain = wires.tunnel(pod, number, local, remote)
            mtu = tunnel_mtu(plain.parent.mtu, plain.local)
            wire: VxlanWire = replace(plain, near=replace(plain.near, mtu=mtu))
            assert ensure(wire) is True
            assert differences(wire, observe(wire)) == ()
            assert ensure(wire) is False
    return mtu


def _set_parent_mtu(bed: Bed, mtu: int) -> None:
    for port in ("port0", "port1"):
        bed.ip("fabric", "link", "set", port, "mtu", str(mtu))
    for node in ("node-1", "node-2"):
        bed.ip(node, "link", "set", "eth0", "mtu", str(mtu))


def _identity(bed: Bed, pod: str, ifname: str) -> tuple[Any, ...]:
    shown = bed.show(pod, ifname)
    given = {one["local"] for one in shown["addr_info"] if not one["local"].startswith("fe80")}
    return shown["ifindex"], shown["address"], given


def _path_mtu_is(bed: Bed, mtu: int) -> bool:
    """Return whether a packet of `mtu` bytes passes unfragmented, and one byte more does not."""
    return _ping(bed, mtu) and not _ping(bed, mtu + 1)


def _ping(bed: Bed, size: int) -> bool:
    headers = 28
    if size > 65535:
        return False
    sized = ("ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", str(size - headers), "192.168.2.2")
    command = ("ip", "netns", "exec", bed.name("pod-a"), *sized)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
