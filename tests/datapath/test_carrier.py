"""A tunnel's end loses its carrier as a cable would have it, and gets it back; the interface stays what it was."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ratchet.core.interface import VxlanWire, differences
from ratchet.core.model import Location
from ratchet.datapath import ensure, messages, observe, observe_port, open_netns, rtnetlink, unplug, vxlan
from ratchet.datapath.netns import inside
from ratchet.datapath.nlattr import message
from ratchet.errors import DatapathError, ForeignInterfaceError, HostNamespaceError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

GROUP = str(messages.GROUP)
ONE, TWO, THREE = "10.9.0.1", "10.9.0.2", "10.9.0.3"
RTMGRP_LINK = 1
IFF_LOWER_UP = 0x10000


@pytest.fixture
def wire(nodes: Bed, wires: Wires) -> Iterator[VxlanWire]:
    """The end in pod-a, not made yet, toward pod-b's, which stands; the calling thread is in node-1."""
    with nodes.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, TWO, ONE))
    with nodes.inside("node-1"):
        yield wires.tunnel("pod-a", 0, ONE, TWO)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A kernel that will not have a VXLAN's carrier changed: it is asked by an attribute that it does refuse so.

    The indices that it was asked of.
    """
    asked: list[int] = []

    def by_ifla_carrier(index: int, has: bool) -> bytearray:
        asked.append(index)
        carrier = messages._LINK.pack(("IFLA_CARRIER", int(has)))
        return message(messages.RTM_NEWLINK, messages.ACT, messages._link(index), carrier)

    monkeypatch.setattr(messages, "carrier", by_ifla_carrier)
    monkeypatch.setattr(vxlan, "_kernel", vxlan._Kernel())
    return asked


def test_the_carrier_is_taken_and_given_back(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    assert _carries(nodes)
    before = _kept(nodes)
    dark = replace(wire, carrier=False)
    assert differences(dark, observe(dark)) == ("in1 has carrier while its peer is gone",)

    assert ensure(dark) is True
    assert differences(dark, observe(dark)) == ()
    assert ensure(dark) is False
    _is_dark(nodes)
    assert not nodes.pings("pod-a", "192.168.2.2")
    assert differences(wire, observe(wire)) == ("in1 is held without carrier",)
    assert _kept(nodes) == before

    assert ensure(wire) is True
    assert differences(wire, observe(wire)) == ()
    assert ensure(wire) is False
    _is_lit(nodes)
    # The question for the peer's MAC that was asked in vain is asked again in its own time, as with any cable.
    _until(lambda: _carries(nodes))
    assert _kept(nodes) == before


def test_unplugging_is_the_same_and_may_be_called_again(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    before = _kept(nodes)
    assert unplug(Location(wire.near.netns), "in1") is True
    _is_dark(nodes)
    assert unplug(Location(wire.near.netns), "in1") is False
    assert differences(wire, observe(wire)) == ("in1 is held without carrier",)
    assert ensure(wire) is True
    assert _carries(nodes)
    assert _kept(nodes) == before
    assert unplug(Location(wire.near.netns), "in1") is True, "once more, as a cable"


def test_only_the_pods_own_end_is_without_carrier(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    unplug(Location(wire.near.netns), "in1")
    assert "LOWER_UP" in nodes.show("pod-b", "in1")["flags"]


def test_what_the_pod_has_set_itself_outlasts_the_loss(nodes: Bed, wire: VxlanWire) -> None:
    """Routes stay, marked as the kernel marks them; a neighbour set by hand stays, a learnt one is learnt anew."""
    ensure(wire)
    nodes.ip("pod-a", "route", "add", "172.16.0.0/16", "via", "192.168.2.2")
    nodes.ip("pod-a", "route", "add", "fd77::/64", "via", "fd00::2")
    nodes.ip("pod-a", "addr", "add", "172.31.0.1/24", "dev", "in1")
    nodes.ip("pod-a", "neigh", "add", "192.168.2.77", "lladdr", "02:00:00:00:00:77", "dev", "in1", "nud", "permanent")
    assert _carries(nodes)
    assert "192.168.2.2 " in nodes.ip("pod-a", "neigh", "show")
    before = _kept(nodes)

    unplug(Location(wire.near.netns), "in1")
    _is_dark(nodes)
    for family, routes in (("-4", ("172.16.0.0/16", "192.168.2.0/24")), ("-6", ("fd77::/64", "fd00::/64"))):
        shown = nodes.ip("pod-a", family, "route", "show").splitlines()
        for route in routes:
            assert "linkdown" in next(line for line in shown if line.startswith(route))
    neighbours = nodes.ip("pod-a", "neigh", "show")
    assert "192.168.2.77" in neighbours
    assert "192.168.2.2 " not in neighbours

    ensure(wire)
    _is_lit(nodes)
    assert _carries(nodes)
    for family, route in (("-4", "172.16.0.0/16"), ("-6", "fd77::/64")):
        back = nodes.ip("pod-a", family, "route", "show", route)
        assert back
        assert "linkdown" not in back
    assert "192.168.2.77" in nodes.ip("pod-a", "neigh", "show")
    assert _kept(nodes) == before


def test_an_end_is_made_without_carrier_and_never_shows_any(nodes: Bed, wire: VxlanWire) -> None:
    dark = replace(wire, carrier=False)
    with _link_messages(nodes, "pod-a") as heard:
        assert ensure(dark) is True
        flags = [one["flags"] for one in heard() if one.get_attr("IFLA_IFNAME") == "in1"]
    assert any(one & messages.IFF_UP for one in flags), "it was heard to come up"
    assert not any(one & IFF_LOWER_UP for one in flags)
    assert differences(dark, observe(dark)) == ()
    _is_dark(nodes)
    index = nodes.show("pod-a", "in1")["ifindex"]

    assert ensure(wire) is True
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    assert _carries(nodes)
    assert [one.get("tentative") for one in nodes.show("pod-a", "in1")["addr_info"] if "fd00::1" in one["local"]] == [
        None
    ]
    assert nodes.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/in1/accept_ra") == "0\n"


def test_an_end_is_made_in_as_many_messages_with_carrier_as_ever(
    nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without, in as many sends: the one more goes along with those that bring the end up."""
    sends: list[int] = []
    exchange = rtnetlink.Channel.exchange

    def counted(channel: rtnetlink.Channel, *requests: bytearray) -> list[rtnetlink.NetlinkReply]:
        sends.append(len(requests))
        return exchange(channel, *requests)

    monkeypatch.setattr(rtnetlink.Channel, "exchange", counted)
    ensure(wire)
    with_carrier = sends.copy()
    nodes.ip("pod-a", "link", "del", "in1")
    sends.clear()
    ensure(replace(wire, carrier=False))
    assert sends == [*with_carrier[:-1], with_carrier[-1] + 1]


def test_nothing_is_touched_beside_the_carrier(nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(wire)
    nodes.ip("pod-a", "link", "set", "in1", "alias", "the pod's own")
    sent: list[bytearray] = []
    exchange = rtnetlink.Channel.exchange

    def kept(channel: rtnetlink.Channel, *requests: bytearray) -> list[rtnetlink.NetlinkReply]:
        sent.extend(requests)
        return exchange(channel, *requests)

    monkeypatch.setattr(rtnetlink.Channel, "exchange", kept)
    ensure(replace(wire, carrier=False))
    ensure(wire)
    asking = (messages.RTM_GETLINK, messages.RTM_GETADDR, messages.RTM_GETROUTE, messages.RTM_NEWNSID)
    told = [ifinfmsg(bytes(one)) for one in sent if int.from_bytes(one[4:6], "little") not in asking]
    for one in told:
        one.decode()
    standing = [one.get_attr("IFLA_PROTO_DOWN") for one in told if one["index"]]
    assert standing == [1, 0]
    assert nodes.show("pod-a", "in1")["ifalias"] == "the pod's own"
    assert _carries(nodes), "the kernel has not had the time to take notice"


@pytest.mark.parametrize("has", [True, False])
def test_a_half_made_end_comes_up_as_it_is_wanted(has: bool, nodes: Bed, wire: VxlanWire) -> None:
    """Whichever way it was held when the crash came."""
    head = ("link", "add", "in1", "netns", nodes.name("pod-a"), "mtu", "1400", "group", GROUP)
    data = ("id", "11", "remote", TWO, "local", ONE, "dev", "eth0", "dstport", "4789", "nolearning")
    nodes.ip("node-1", *head, "type", "vxlan", *data)
    nodes.ip("pod-a", "link", "set", "in1", "protodown", "on" if has else "off")
    wanted = replace(wire, carrier=has)
    with _link_messages(nodes, "pod-a") as heard:
        assert ensure(wanted) is True
        flags = [one["flags"] for one in heard() if one.get_attr("IFLA_IFNAME") == "in1"]
    assert differences(wanted, observe(wanted)) == ()
    assert any(one & IFF_LOWER_UP for one in flags) is has
    assert _carries(nodes) is has


def test_the_carrier_comes_back_toward_another_remote(nodes: Bed, wires: Wires, wire: VxlanWire) -> None:
    """The peer's pod is gone, and comes again on another node, with another MAC: one call follows it."""
    ensure(wire)
    assert _carries(nodes)
    before = _kept(nodes)
    nodes.delete("pod-b")
    unplug(Location(wire.near.netns), "in1")
    _is_dark(nodes)
    with nodes.inside("node-3"):
        ensure(wires.tunnel("pod-c", 1, THREE, ONE))
    moved = replace(wire, remote=THREE)
    assert differences(moved, observe(moved)) == (
        f"in1 has remote {TWO}, wanted {THREE}",
        "in1 is held without carrier",
    )
    assert ensure(moved) is True
    assert differences(moved, observe(moved)) == ()
    assert ensure(moved) is False
    assert _carries(nodes)
    assert _kept(nodes) == before


def test_the_carrier_goes_along_with_remote_mtu_and_addresses(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    index = nodes.show("pod-a", "in1")["ifindex"]
    near = replace(wire.near, mtu=1300, addresses=(ip_interface("192.168.7.1/28"),))
    wanted = replace(wire, near=near, remote=THREE, carrier=False)
    assert ensure(wanted) is True
    assert differences(wanted, observe(wanted)) == ()
    assert nodes.show("pod-a", "in1")["ifindex"] == index
    _is_dark(nodes)


def test_what_is_made_anew_is_made_without_carrier_as_well(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    wanted = replace(wire, vni=12, carrier=False)
    assert ensure(wanted) is True
    assert differences(wanted, observe(wanted)) == ()
    _is_dark(nodes)


def test_an_end_that_was_put_down_by_hand_can_be_unplugged(nodes: Bed, wire: VxlanWire) -> None:
    ensure(wire)
    nodes.ip("pod-a", "link", "set", "in1", "down")
    assert unplug(Location(wire.near.netns), "in1") is True
    dark = replace(wire, carrier=False)
    assert ensure(dark) is True
    _is_dark(nodes)


def test_there_is_nothing_to_unplug_where_nothing_stands(nodes: Bed, wire: VxlanWire) -> None:
    assert unplug(Location(wire.near.netns), "in1") is False
    ensure(wire)
    nodes.delete("pod-a")
    assert unplug(Location(wire.near.netns), "in1") is False
    assert unplug(Location("/run/netns/there-is-no-such"), "in1") is False


def test_an_end_that_goes_while_it_is_unplugged_is_no_error(
    nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(wire)
    carrier = messages.carrier

    def too_late(index: int, has: bool) -> bytearray:
        nodes.ip("pod-a", "link", "del", "in1")
        return carrier(index, has)

    monkeypatch.setattr(messages, "carrier", too_late)
    assert unplug(Location(wire.near.netns), "in1") is False


def test_a_veths_carrier_is_the_kernels_business(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    assert unplug(Location(wire.near.netns), "in1") is False
    assert differences(wire, observe(wire)) == ()
    assert pods.pings("pod-a", "192.168.2.2")
    pods.ip("pod-b", "link", "set", "in2", "down")
    device = observe_port(Location(wire.near.netns), "in1")
    assert device is not None
    assert device.carrier


@pytest.mark.parametrize("kind", ["vxlan", "veth"])
def test_a_foreign_interface_is_not_unplugged(kind: str, nodes: Bed) -> None:
    made = ("vxlan", "id", "99", "dstport", "4789", "remote", TWO) if kind == "vxlan" else ("veth",)
    nodes.ip("pod-a", "link", "add", "in1", "up", "type", *made)
    path = nodes.path("pod-a")
    message = f"cannot unplug in1 in {path}: an interface of that name .* not ratchet's"
    with pytest.raises(ForeignInterfaceError, match=message) as caught:
        unplug(Location(path), "in1")
    assert caught.value.path == path
    assert "proto_down" not in nodes.show("pod-a", "in1")


def test_nothing_of_the_node_is_unplugged(nodes: Bed) -> None:
    with nodes.inside("node-1"), pytest.raises(HostNamespaceError):
        unplug(Location(nodes.path("node-1")), "eth0")


def test_any_other_refusal_is_an_error_that_says_so(
    nodes: Bed, wire: VxlanWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(wire)
    monkeypatch.setattr(messages, "carrier", lambda index, has: messages.sized(index, 1))
    with pytest.raises(DatapathError, match=f"cannot unplug in1 in {wire.near.netns}: .+"):
        unplug(Location(wire.near.netns), "in1")
    with pytest.raises(DatapathError, match=f"cannot make in1 in {wire.near.netns}: .+"):
        ensure(replace(wire, carrier=False))


def test_a_kernel_that_keeps_the_carrier_is_asked_once(nodes: Bed, wire: VxlanWire, refusing: list[int]) -> None:
    dark = replace(wire, carrier=False)
    assert ensure(dark) is True
    near = observe(dark).near
    assert near is not None
    assert (near.carrier, near.carrier_fixed, len(refusing)) == (True, True, 1)
    assert differences(dark, observe(dark)) == differences(wire, observe(wire)) == ()
    assert ensure(dark) is False
    assert _carries(nodes), "all the rest has been done"
    assert unplug(Location(wire.near.netns), "in1") is False
    nodes.ip("pod-a", "link", "del", "in1")
    assert ensure(dark) is True
    assert len(refusing) == 1


def test_a_kernel_that_keeps_the_carrier_is_found_out_by_a_standing_end(
    nodes: Bed, wire: VxlanWire, refusing: list[int]
) -> None:
    ensure(wire)
    dark = replace(wire, carrier=False, near=replace(wire.near, mtu=1300))
    assert len(differences(dark, observe(dark))) == 2
    assert ensure(dark) is True
    assert differences(dark, observe(dark)) == ()
    assert ensure(dark) is False
    assert nodes.show("pod-a", "in1")["mtu"] == 1300
    assert len(refusing) == 1


def test_a_kernel_that_keeps_the_carrier_is_found_out_by_unplugging(
    nodes: Bed, wire: VxlanWire, refusing: list[int]
) -> None:
    ensure(wire)
    assert unplug(Location(wire.near.netns), "in1") is False
    assert unplug(Location(wire.near.netns), "in1") is False
    dark = replace(wire, carrier=False)
    assert differences(dark, observe(dark)) == ()
    assert ensure(dark) is False
    assert _carries(nodes)
    assert len(refusing) == 1


def _carries(nodes: Bed) -> bool:
    return nodes.pings("pod-a", "192.168.2.2") and nodes.pings("pod-a", "fd00::2")


def _kept(nodes: Bed) -> tuple[Any, ...]:
    """What the loss of the carrier must not change."""
    shown = nodes.show("pod-a", "in1")
    given = {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"]}
    return shown["ifindex"], shown["address"], shown["mtu"], "UP" in shown["flags"], given


def _is_dark(nodes: Bed) -> None:
    """What ip(8) shows of a cable that is pulled."""
    _until(lambda: _shown(nodes) == (True, False, "DOWN"))


def _is_lit(nodes: Bed) -> None:
    _until(lambda: _shown(nodes) == (False, True, "UP"))


def _shown(nodes: Bed) -> tuple[bool, bool, str]:
    shown = nodes.show("pod-a", "in1")
    flags = shown["flags"]
    assert "UP" in flags
    return "NO-CARRIER" in flags, "LOWER_UP" in flags, shown["operstate"]


def _until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """The flag is set at once; what follows the kernel does in its own time, within a second (operstates.rst)."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def _link_messages(nodes: Bed, pod: str) -> Iterator[Callable[[], list[Any]]]:
    """What the kernel tells of links in a pod from now on, as it would tell anybody who listens there."""
    with open_netns(nodes.path(pod)) as opened, inside(opened):
        listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with listening:
        listening.bind((0, RTMGRP_LINK))
        listening.setblocking(False)

        def heard() -> list[Any]:
            found: list[Any] = []
            with suppress(BlockingIOError):
                while True:
                    found.append(ifinfmsg(listening.recv(1 << 16)))
                    found[-1].decode()
            return found

        yield heard
