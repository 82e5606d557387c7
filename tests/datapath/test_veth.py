from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import VethWire
from ratchet.core.naming import reserved_ifindex
from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, make, messages, observe, observe_port, remove
from ratchet.errors import DatapathError, ForeignInterfaceError
from tests.support.links import wanted
from tests.support.namespaces import Bed
from tests.support.wires import Wires

GROUP = str(messages.GROUP)


def _assert_connected(pods: Bed, wire: VethWire) -> None:
    """Assert that the link matches the wire and carries IPv4 and IPv6 packets both ways."""
    assert differences(wire, observe(wire)) == ()
    assert pods.pings("pod-a", "192.168.2.2")
    assert pods.pings("pod-b", "192.168.2.1")
    assert pods.pings("pod-a", "fd00::2")
    assert pods.pings("pod-b", "fd00::1")


def test_ensure_creates_a_complete_link(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    assert ensure(wire) is True
    _assert_connected(pods, wire)
    for pod, ifname, address in (("pod-a", "in1", "192.168.2.1"), ("pod-b", "in2", "192.168.2.2")):
        shown = pods.show(pod, ifname)
        assert (shown["mtu"], shown["group"], shown["ifalias"]) == (1450, GROUP, "ratchet/a-b")
        assert {"UP", "LOWER_UP"} <= set(shown["flags"])
        inet = next(one for one in shown["addr_info"] if one["family"] == "inet")
        assert (inet["local"], inet["prefixlen"], inet["broadcast"]) == (address, 24, "192.168.2.255")
        inet6 = next(one for one in shown["addr_info"] if one["local"].startswith("fd00::"))
        assert (inet6["prefixlen"], inet6.get("nodad"), inet6.get("tentative")) == (64, True, None)
        assert pods.run(pod, "cat", f"/proc/sys/net/ipv6/conf/{ifname}/accept_ra") == "0\n"
        assert pods.run(pod, "cat", "/proc/sys/net/ipv6/conf/default/accept_ra") == "1\n"


def test_ensure_does_not_change_a_matching_link(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    before = observe(wire)
    assert ensure(wire) is False
    assert observe(wire) == before


def test_observe_reports_the_interfaces_of_the_kernel(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    assert observe(wire).near is observe(wire).far is observe_port(Location(wire.near.netns), "in1") is None
    ensure(wire)
    near = observe(wire).near
    shown = pods.show("pod-a", "in1")
    assert near is not None
    assert (near.index, near.mac, near.kind) == (shown["ifindex"], shown["address"], "veth")
    assert near.addresses == wire.near.addresses, "the kernel's link-local address is not among them"
    assert observe_port(Location(wire.near.netns), "in1") == near


def test_a_link_can_have_no_addresses(pods: Bed, wires: Wires) -> None:
    plain = wires.veth()
    wire = VethWire("a-b", replace(plain.near, addresses=()), replace(plain.far, addresses=()))
    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False


def test_addresses_can_have_any_prefix_length(pods: Bed, wires: Wires) -> None:
    plain = wires.veth()
    odd = tuple(ip_interface(one) for one in ("10.1.0.1/31", "10.2.0.1/32", "fd01::1/128", "fe80::7/64"))
    wire = replace(plain, near=replace(plain.near, addresses=odd))
    ensure(wire)
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False, "a link-local address that is wanted is not taken for the kernel's own"
    shown = {one["local"]: one for one in pods.show("pod-a", "in1")["addr_info"]}
    assert "broadcast" not in shown["10.1.0.1"]
    assert "broadcast" not in shown["10.2.0.1"]


HALF_MADE = {
    "made, marked, down": (),
    "near up": ("a link set in1 up alias ratchet/a-b",),
    "near complete": ("a link set in1 up", "a addr add 192.168.2.1/24 dev in1", "a addr add fd00::1/64 dev in1 nodad"),
    "far complete": ("b link set in2 up", "b addr add 192.168.2.2/24 dev in2", "b addr add fd00::2/64 dev in2 nodad"),
    "one address lacking": ("a link set in1 up", "b link set in2 up", "a addr add 192.168.2.1/24 dev in1"),
}


@pytest.mark.parametrize("steps", HALF_MADE.values(), ids=HALF_MADE.keys())
def test_ensure_completes_a_half_made_link(steps: tuple[str, ...], pods: Bed, wires: Wires) -> None:
    end = ("mtu", "1450", "group", GROUP)
    peer = ("peer", "name", "in2", *end, "netns", pods.name("pod-b"))
    pods.ip("pod-a", "link", "add", "in1", *end, "type", "veth", *peer)
    for step in steps:
        pod, *command = step.split()
        pods.ip(f"pod-{pod}", *command)
    indices = pods.show("pod-a", "in1")["ifindex"], pods.show("pod-b", "in2")["ifindex"]
    wire = wires.veth()
    assert ensure(wire) is True
    _assert_connected(pods, wire)
    for pod, ifname in (("pod-a", "in1"), ("pod-b", "in2")):
        assert pods.run(pod, "cat", f"/proc/sys/net/ipv6/conf/{ifname}/accept_ra") == "0\n"
    assert indices == (pods.show("pod-a", "in1")["ifindex"], pods.show("pod-b", "in2")["ifindex"]), (
        "finished, not remade"
    )


def test_a_changed_declaration_is_applied_in_place(pods: Bed, wires: Wires) -> None:
    old = wires.veth()
    ensure(old)
    before = observe(old)
    pods.ip("pod-a", "addr", "add", "172.16.0.1/24", "dev", "in1")
    wire = wires.veth(mtu=1300)
    wire = replace(
        wire, near=replace(wire.near, addresses=(ip_interface("192.168.2.9/24"), ip_interface("fd00::1/64")))
    )
    assert "in1 still has 192.168.2.1/24" in differences(wire, observe(wire))
    assert ensure(wire) is True
    after = observe(wire)
    assert differences(wire, after) == ()
    assert after.near is not None
    assert before.near is not None
    assert (after.near.index, after.near.mac) == (before.near.index, before.near.mac)
    assert set(after.near.addresses) == {*wire.near.addresses, ip_interface("172.16.0.1/24")}, "the pod's own stays"
    assert pods.pings("pod-b", "192.168.2.9")
    assert pods.show("pod-b", "in2")["mtu"] == 1300
    assert ensure(wire) is False


def test_ipv6_returns_after_an_mtu_too_small_for_it(pods: Bed, wires: Wires) -> None:
    """Below an MTU of 1280 bytes the kernel removes IPv6. It returns with router advertisements accepted."""
    small, wire = wires.veth(mtu=1000), wires.veth()
    ipv4_only = VethWire("a-b", *(replace(one, addresses=one.addresses[:1]) for one in (small.near, small.far)))
    ensure(ipv4_only)
    assert differences(ipv4_only, observe(ipv4_only)) == ()
    assert ensure(wire) is True
    _assert_connected(pods, wire)
    assert pods.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


@pytest.mark.parametrize("side", ["near", "far"])
def test_a_foreign_interface_is_left_alone(side: str, pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    pod, ifname, other = ("pod-a", "in1", "pod-b") if side == "near" else ("pod-b", "in2", "pod-a")
    pods.ip(pod, "link", "add", ifname, "type", "veth", "peer", "name", "theirs")
    before = pods.show(pod, ifname)
    path = pods.path(pod)
    message = f"cannot make {ifname} in {path}: an interface of that name exists and is not Ratchet's"
    with pytest.raises(ForeignInterfaceError, match=message):
        ensure(wire)
    message = f"cannot remove {ifname} in {path}: an interface of that name .* not Ratchet's"
    with pytest.raises(ForeignInterfaceError, match=message):
        remove(Location(path), ifname)
    assert pods.show(pod, ifname) == before
    assert pods.interfaces(other) == []


@pytest.mark.parametrize("side", ["near", "far"])
def test_make_reports_an_existing_interface_and_keeps_it(side: str, pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    pod, ifname = ("pod-a", "in1") if side == "near" else ("pod-b", "in2")
    pods.ip(pod, "link", "add", ifname, "group", GROUP, "type", "veth", "peer", "name", "old")
    before = {pod: pods.interfaces(pod) for pod in ("pod-a", "pod-b")}
    observed = make(wire)
    assert differences(wire, observed)
    seen = observed.near if side == "near" else observed.far
    assert seen is not None and seen.index == pods.show(pod, ifname)["ifindex"]
    assert {pod: pods.interfaces(pod) for pod in ("pod-a", "pod-b")} == before


def test_make_creates_a_link_if_nothing_is_in_the_way(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    made = make(wire)
    assert not differences(wire, made)
    _assert_connected(pods, wire)
    assert make(wire) == made == observe(wire)


def test_a_peer_in_an_old_sandbox_is_replaced(pods: Bed, wires: Wires) -> None:
    """The far pod has a new sandbox, but the near end leads to the old one. Both have the same ifindex."""
    pods.add("pod-old")
    ensure(wires.veth(far="pod-old"))
    wire = wires.veth()
    assert ensure(wire) is True
    _assert_connected(pods, wire)
    assert pods.interfaces("pod-old") == []


def test_two_ends_of_two_other_links_are_replaced(pods: Bed, wires: Wires) -> None:
    pods.add("pod-c", "pod-d")
    wire = wires.veth()
    ensure(wires.veth(far="pod-c"))
    ensure(wires.veth(near="pod-d"))
    observed = observe(wire)
    assert observed.near is not None
    assert observed.far is not None
    assert observed.near.index == observed.far.index, "the indices alone would say that they are each other's"
    assert (observed.near.wired, observed.far.wired) == (False, False)
    assert ensure(wire) is True
    _assert_connected(pods, wire)
    assert pods.interfaces("pod-c") == pods.interfaces("pod-d") == []


def test_a_veth_pair_within_one_pod_is_replaced(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    pods.ip("pod-a", "link", "add", "in1", "group", GROUP, "type", "veth", "peer", "name", "other", "group", GROUP)
    assert ensure(wire) is True
    _assert_connected(pods, wire)
    assert pods.interfaces("pod-a") == ["in1"]


def test_both_ends_can_be_in_one_pod(pods: Bed, wires: Wires) -> None:
    wire = wires.veth(far="pod-a")
    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False


@pytest.mark.parametrize("ends", [("pod-a",), ("pod-b",), ("pod-a", "pod-b")])
def test_old_tunnels_of_ratchet_are_replaced(ends: tuple[str, ...], pods: Bed, wires: Wires) -> None:
    """The pods were on two nodes and are now on one."""
    wire = wires.veth()
    for pod, ifname in (("pod-a", "in1"), ("pod-b", "in2")):
        if pod in ends:
            tunnel = ("type", "vxlan", "id", "7", "dstport", "4789", "remote", "10.9.0.2")
            pods.ip(pod, "link", "add", ifname, "group", GROUP, *tunnel)
    assert ensure(wire) is True
    _assert_connected(pods, wire)


def test_a_failed_ensure_leaves_no_interfaces(pods: Bed, wires: Wires) -> None:
    pods.run("pod-b", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    with pytest.raises(DatapathError, match=f"cannot make in2 in {pods.path('pod-b')}: ") as caught:
        ensure(wires.veth())
    assert "disable_ipv6" in caught.value.details
    assert pods.interfaces("pod-a") == pods.interfaces("pod-b") == []


def test_remove_deletes_both_ends_and_is_idempotent(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    assert remove(Location(wire.far.netns), "in2") is True
    assert pods.interfaces("pod-a") == pods.interfaces("pod-b") == []
    assert remove(Location(wire.far.netns), "in2") is False
    assert remove(Location(wire.near.netns), "in1") is False
    assert remove(Location("/run/netns/there-is-no-such"), "in1") is False


def test_concurrent_threads_create_many_links(pods: Bed, wires: Wires) -> None:
    links = [
        VethWire(
            f"link-{number}",
            wires.port("pod-a", f"n{number}", f"10.{number}.0.1/24"),
            wires.port("pod-b", f"f{number}", f"10.{number}.0.2/24"),
        )
        for number in range(20)
    ]
    namespaces = set()
    start = threading.Barrier(20)

    def make(wire: VethWire) -> bool:
        start.wait(10)
        made = ensure(wire)
        namespaces.add(Path("/proc/thread-self/ns/net").readlink())
        return made

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(make, links))
    assert namespaces == {Path("/proc/thread-self/ns/net").readlink()}
    assert [differences(wire, observe(wire)) for wire in links] == [()] * 20
    assert pods.pings("pod-a", "10.0.0.2")
    assert pods.pings("pod-b", "10.19.0.1")


def test_concurrent_threads_create_one_link_from_both_ends(pods: Bed, wires: Wires) -> None:
    """Both pods of a link start at the same time, and each ADD creates the vEth pair."""
    wire = wires.veth()
    start = threading.Barrier(8)

    def make(number: int) -> bool:
        start.wait(10)
        return ensure(wire if number % 2 else VethWire("a-b", wire.far, wire.near))

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            assert any(pool.map(make, range(8)))
        assert differences(wire, observe(wire)) == ()
        assert (pods.interfaces("pod-a"), pods.interfaces("pod-b")) == (["in1"], ["in2"])
        remove(Location(wire.near.netns), "in1")


def with_indexes(wire: VethWire, near: int, far: int) -> VethWire:
    return replace(wire, near=replace(wire.near, index=near), far=replace(wire.far, index=far))


def test_both_ends_get_their_reserved_ifindexes(pods: Bed, wires: Wires) -> None:
    wire = with_indexes(wires.veth(), 1_000_000, 1_000_001)
    assert ensure(wire) is True
    assert pods.show("pod-a", "in1")["ifindex"] == 1_000_000
    assert pods.show("pod-b", "in2")["ifindex"] == 1_000_001
    assert differences(wire, observe(wire)) == ()


def test_no_end_of_a_link_has_the_ifindex_of_the_other_one(pods: Bed, wires: Wires) -> None:
    """Of two new pods, in which the kernel would choose the same. It reports a loss of carrier late then."""
    link = wanted()
    near, far = (reserved_ifindex(link, end, ()) for end in (link.primary, link.pair))
    ensure(with_indexes(wires.veth(), near, far))
    for pod, ifname in (("pod-a", "in1"), ("pod-b", "in2")):
        ifindex, iflink = (pods.run(pod, "cat", f"/sys/class/net/{ifname}/{name}") for name in ("ifindex", "iflink"))
        assert ifindex != iflink


def test_a_link_whose_ends_have_one_ifindex_is_kept(pods: Bed, wires: Wires) -> None:
    wire = with_indexes(wires.veth(), 1_000_000, 1_000_000)
    ensure(wire)
    before = pods.show("pod-a", "in1")
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False
    assert pods.show("pod-a", "in1") == before
    assert pods.pings("pod-a", "192.168.2.2")


def test_an_interface_of_another_link_is_left_alone(pods: Bed, wires: Wires) -> None:
    ensure(with_indexes(wires.veth(), 1_000_000, 1_000_001))
    before = pods.show("pod-a", "in1")
    other = with_indexes(wires.veth(), 1_000_002, 1_000_003)
    with pytest.raises(ForeignInterfaceError, match="it belongs to another link"):
        ensure(other)
    with pytest.raises(ForeignInterfaceError, match="it belongs to another link"):
        remove(Location(other.near.netns, index=other.near.index), "in1")
    assert pods.show("pod-a", "in1") == before


@pytest.mark.parametrize("pod", ["pod-a", "pod-b"])
def test_a_renamed_end_is_recreated(pod: str, pods: Bed, wires: Wires) -> None:
    """Its ifindex shows that it belongs to the link."""
    wire = with_indexes(wires.veth(), 1_000_000, 1_000_001)
    ensure(wire)
    ifname = "in1" if pod == "pod-a" else "in2"
    for command in (f"link set {ifname} down", f"link set {ifname} name was"):
        pods.ip(pod, *command.split())
    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert [one for one in pods.interfaces(pod) if one != "lo"] == [ifname]


def test_an_ifindex_conflict_names_the_foreign_interface(pods: Bed, wires: Wires) -> None:
    pods.ip("pod-a", *["link", "add", "stranger", "index", "1000000", "type", "bridge"])
    with pytest.raises(DatapathError, match="its ifindex 1000000 is that of stranger, which is not Ratchet's"):
        ensure(with_indexes(wires.veth(), 1_000_000, 1_000_001))
