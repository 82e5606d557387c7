"""Settings of an end in the kernel: routes, sysctls, offloads, txqlen and rate."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from pyroute2.ethtool.ioctl import IoctlEthtool

from ratchet.core.differences import differences
from ratchet.core.endpoint_spec import Route
from ratchet.core.interface import InterfaceSpec, VethWire, VxlanWire
from ratchet.core.sandbox import Location
from ratchet.datapath import build, ensure, observe, observe_port, tc
from ratchet.errors import DatapathError
from tests.support.namespaces import Bed
from tests.support.wires import Wires

ROUTES = (
    Route(ip_network("10.1.0.0/16"), ip_address("192.168.2.2")),
    Route(ip_network("10.2.0.0/16"), ip_address("192.168.2.2"), 7),
    Route(ip_network("10.3.0.0/24")),
    Route(ip_network("2001:db8::/32"), ip_address("fd00::2")),
    Route(ip_network("2001:db9::/32"), ip_address("fe80::1"), 50),
    Route(ip_network("0.0.0.0/0"), ip_address("192.168.2.2"), 500),
)
SYSCTLS = (("net.ipv4.conf.IFNAME.rp_filter", 2), ("net.ipv6.conf.IFNAME.ndisc_notify", 1))
RATE = 20_000_000


def with_settings(port: InterfaceSpec) -> InterfaceSpec:
    return replace(port, txqlen=77, routes=ROUTES, sysctls=SYSCTLS, offloads=False, rate=RATE)


OFFLOADS = ("tx-checksum-ip-generic", "tx-scatter-gather", "tx-tcp-segmentation", "tx-generic-segmentation", "rx-gro")


def offloads(bed: Bed, pod: str, ifname: str) -> set[str]:
    """Return the names of the enabled offloads."""
    with bed.inside(pod), closing(IoctlEthtool(ifname)) as ethtool:
        features = ethtool.get_features()
    return {name for name in OFFLOADS if features[name]}


def enable_offload(bed: Bed, pod: str, ifname: str, feature: str) -> None:
    with bed.inside(pod), closing(IoctlEthtool(ifname)) as ethtool:
        features = ethtool.get_features()
        features[feature] = True
        ethtool.set_features(features)


def routes(bed: Bed, pod: str, ifname: str) -> set[str]:
    """Return the routes with Ratchet's protocol number, as `ip` shows them."""
    lines = [*bed.run(pod, "ip", "route", "show", "dev", ifname, "proto", "82").splitlines()]
    lines += bed.run(pod, "ip", "-6", "route", "show", "dev", ifname, "proto", "82").splitlines()
    return {" ".join(line.replace("scope link", "").replace("pref medium", "").split()) for line in lines}


EXPECTED_ROUTES = {
    *("10.1.0.0/16 via 192.168.2.2", "10.2.0.0/16 via 192.168.2.2 metric 7", "10.3.0.0/24"),
    *("2001:db8::/32 via fd00::2 metric 1024", "2001:db9::/32 via fe80::1 metric 50"),
    "default via 192.168.2.2 metric 500",
}


def assert_all_settings(bed: Bed, pod: str, ifname: str) -> None:
    assert routes(bed, pod, ifname) == EXPECTED_ROUTES
    assert bed.show(pod, ifname)["txqlen"] == 77
    assert bed.run(pod, "cat", f"/proc/sys/net/ipv4/conf/{ifname}/rp_filter") == "2\n"
    assert bed.run(pod, "cat", f"/proc/sys/net/ipv6/conf/{ifname}/ndisc_notify") == "1\n"
    assert offloads(bed, pod, ifname) == set()
    (qdisc,) = json.loads(bed.run(pod, "tc", "-j", "qdisc", "show", "dev", ifname))
    assert (qdisc["kind"], qdisc["options"]["rate"] * 8) == ("tbf", RATE)


@contextmanager
def created_wire(bed: Bed, wires: Wires, kind: str) -> Iterator[VethWire | VxlanWire]:
    """Create a wire whose near end, in pod-a, has all settings; yield it in the netns of its node."""
    if kind == "veth":
        plain = wires.veth()
        wire: VethWire | VxlanWire = replace(plain, near=with_settings(plain.near))
        ensure(wire)
        yield wire
        return
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24"})
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, "10.9.0.2", "10.9.0.1"))
    with bed.inside("node-1"):
        tunnel = wires.tunnel("pod-a", 0, "10.9.0.1", "10.9.0.2")
        wire = replace(tunnel, near=with_settings(tunnel.near))
        ensure(wire)
        yield wire


KINDS = pytest.mark.parametrize("kind", ["veth", "vxlan"])


def test_unset_properties_keep_the_defaults_of_the_kernel(pods: Bed, wires: Wires) -> None:
    plain = wires.veth()
    ensure(plain)
    assert offloads(pods, "pod-a", "in1") == set(OFFLOADS) - {"rx-gro"}, "a vEth has rx-gro only if it is turned on"
    assert pods.show("pod-a", "in1")["txqlen"] == 1000
    assert routes(pods, "pod-a", "in1") == set()


@KINDS
def test_an_end_has_all_configured_settings(pods: Bed, wires: Wires, kind: str) -> None:
    with created_wire(pods, wires, kind) as wire:
        assert_all_settings(pods, "pod-a", "in1")
        assert differences(wire, observe(wire)) == ()
        assert ensure(wire) is False
        assert pods.pings("pod-a", "192.168.2.2")


@KINDS
def test_lost_settings_are_reported_and_restored(pods: Bed, wires: Wires, kind: str) -> None:
    with created_wire(pods, wires, kind) as wire:
        index = pods.show("pod-a", "in1")["ifindex"]
        pods.run("pod-a", "ip", "route", "del", "10.2.0.0/16", "metric", "7")
        pods.run("pod-a", "ip", "-6", "route", "del", "2001:db8::/32")
        pods.run("pod-a", "ip", "link", "set", "in1", "txqueuelen", "5")
        pods.run("pod-a", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/in1/rp_filter")
        enable_offload(pods, "pod-a", "in1", "rx-gro")
        pods.run("pod-a", "tc", "qdisc", "del", "dev", "in1", "root")
        assert differences(wire, observe(wire)) == (
            "in1 has txqlen 5, wanted 77",
            "in1 lacks the route 10.2.0.0/16 via 192.168.2.2 metric 7",
            "in1 lacks the route 2001:db8::/32 via fd00::2",
            "in1 has net.ipv4.conf.IFNAME.rp_filter 0, wanted 2",
            "in1 has offloads, wanted none",
            "in1 has no rate, wanted 20mbit",
        )
        observed = build(wire)
        assert differences(wire, observed) == ()
        assert_all_settings(pods, "pod-a", "in1")
        assert pods.show("pod-a", "in1")["ifindex"] == index


@KINDS
def test_a_renewed_end_without_routes_loses_its_old_routes(pods: Bed, wires: Wires, kind: str) -> None:
    with created_wire(pods, wires, kind) as wire:
        without_routes = replace(wire, near=replace(wire.near, routes=(), renewed=True))
        assert len(differences(without_routes, observe(without_routes))) == len(ROUTES)
        assert ensure(without_routes) is True
        assert routes(pods, "pod-a", "in1") == set()
        assert ensure(without_routes) is False


@KINDS
def test_settings_no_longer_declared_are_removed_and_foreign_routes_stay(pods: Bed, wires: Wires, kind: str) -> None:
    with created_wire(pods, wires, kind) as wire:
        pods.run("pod-a", "ip", "route", "add", "10.77.0.0/16", "via", "192.168.2.2")
        fewer = replace(wire, near=replace(wire.near, routes=ROUTES[:1], rate=None))
        assert len(differences(fewer, observe(fewer))) == len(ROUTES[1:]) + 1
        assert ensure(fewer) is True
        assert routes(pods, "pod-a", "in1") == {"10.1.0.0/16 via 192.168.2.2"}
        assert "10.77.0.0/16" in pods.run("pod-a", "ip", "route")
        assert json.loads(pods.run("pod-a", "tc", "-j", "qdisc", "show", "dev", "in1"))[0]["kind"] == "noqueue"
        assert differences(fewer, observe(fewer)) == ()


def test_an_end_without_carrier_has_all_configured_settings(pods: Bed, wires: Wires) -> None:
    pods.fabric(**{"node-1": "10.9.0.1/24"})
    with pods.inside("node-1"):
        tunnel = wires.tunnel("pod-a", 0, "10.9.0.1", "10.9.0.2", carrier=False)
        wire = replace(tunnel, near=with_settings(tunnel.near))
        ensure(wire)
        assert differences(wire, observe(wire)) == ()
        assert "NO-CARRIER" in pods.show("pod-a", "in1")["flags"]
        assert ensure(replace(wire, carrier=True)) is True
        assert {line.removesuffix(" linkdown") for line in routes(pods, "pod-a", "in1")} == EXPECTED_ROUTES


def qdisc_counters(bed: Bed) -> dict[str, int]:
    """Return the counters of the queueing discipline of the end in pod-a."""
    (qdisc,) = json.loads(bed.run("pod-a", "tc", "-s", "-j", "qdisc", "show", "dev", "in1"))
    return {key: qdisc[key] for key in ("packets", "drops", "overlimits", "backlog", "qlen")}


def received_packets(bed: Bed) -> int:
    """Return the number of packets that the end in pod-b has received."""
    (shown,) = json.loads(bed.ip("pod-b", "-s", "-j", "link", "show", "in2"))
    return int(shown["stats64"]["rx"]["packets"])


def test_sent_packets_pass_the_qdisc_of_the_rate(pods: Bed, wires: Wires) -> None:
    """At the lowest rate, 1000 bytes per second: what exceeds the burst waits in the queue, the rest is dropped."""
    plain = wires.veth()
    ensure(replace(plain, near=replace(plain.near, rate=8_000)))
    assert pods.pings("pod-a", "192.168.2.2"), "the neighbour is known, so all packets reach the queue at once"
    before, received = qdisc_counters(pods), received_packets(pods)
    sent = 3 * tc.BURST_LEAST // 1400
    with pods.inside("pod-a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(sent):
            sender.sendto(bytes(1400), ("192.168.2.2", 9))
    after = qdisc_counters(pods)
    passed, dropped = (after[key] - before[key] for key in ("packets", "drops"))
    assert passed + after["qlen"] + dropped >= sent
    assert 0 < passed < sent
    assert min(dropped, after["backlog"], after["overlimits"] - before["overlimits"]) > 0
    assert received_packets(pods) - received < sent


@pytest.mark.parametrize(("rate", "shown"), [(8_000, 1_000), (10**9, 125_000_000), (10**11, 12_500_000_000)])
def test_small_and_large_rates_are_applied(pods: Bed, wires: Wires, rate: int, shown: int) -> None:
    plain = wires.veth()
    wire = replace(plain, near=replace(plain.near, rate=rate))
    ensure(wire)
    (qdisc,) = json.loads(pods.run("pod-a", "tc", "-j", "qdisc", "show", "dev", "in1"))
    assert qdisc["options"]["rate"] == shown
    assert differences(wire, observe(wire)) == ()


def test_a_foreign_qdisc_is_ignored(pods: Bed, wires: Wires) -> None:
    wire = wires.veth()
    ensure(wire)
    pods.run(
        "pod-a",
        *["tc", "qdisc", "add", "dev", "in1", "root"],
        *["tbf", "rate", "1mbit", "burst", "10kb", "latency", "50ms"],
    )
    assert differences(wire, observe(wire)) == ()


@KINDS
def test_an_existing_route_of_the_pod_is_not_replaced(pods: Bed, wires: Wires, kind: str) -> None:
    pods.run("pod-a", *["ip", "link", "add", "other", "up", "type", "veth", "peer", "name", "another"])
    pods.run("pod-a", *["ip", "link", "set", "another", "up"])
    pods.run("pod-a", *["ip", "route", "add", "default", "dev", "other"])
    conflicting = Route(ip_network("0.0.0.0/0"), ip_address("192.168.2.2"))
    if kind == "veth":
        plain: VethWire | VxlanWire = wires.veth()
        wire = replace(plain, near=replace(plain.near, routes=(conflicting,)))
        with pytest.raises(DatapathError, match=r"cannot add the route 0\.0\.0\.0/0 via 192\.168\.2\.2: .* metric"):
            ensure(wire)
    else:
        pods.fabric(**{"node-1": "10.9.0.1/24"})
        with pods.inside("node-1"):
            plain = wires.tunnel("pod-a", 0, "10.9.0.1", "10.9.0.2")
            wire = replace(plain, near=replace(plain.near, routes=(conflicting,)))
            with pytest.raises(DatapathError, match=r"cannot add the route 0\.0\.0\.0/0"):
                ensure(wire)
    assert observe_port(Location(wire.near.netns), "in1") is None, "nothing half made stays"
    assert pods.run("pod-a", "ip", "route", "show", "default").split()[:3] == ["default", "dev", "other"]


@pytest.mark.parametrize(
    ("sysctl", "words"),
    [
        (("net.ipv4.conf.IFNAME.no_such", 1), "cannot set net.ipv4.conf.IFNAME.no_such: the pod has no such setting"),
        (("net.ipv6.conf.IFNAME.addr_gen_mode", 77), "cannot set net.ipv6.conf.IFNAME.addr_gen_mode to 77: the kernel"),
    ],
)
def test_a_rejected_sysctl_is_an_error_and_leaves_no_interface(
    pods: Bed, wires: Wires, sysctl: tuple[str, int], words: str
) -> None:
    plain = wires.veth()
    wire = replace(plain, far=replace(plain.far, sysctls=(sysctl,)))
    with pytest.raises(DatapathError) as caught:
        ensure(wire)
    assert words in str(caught.value)
    assert observe_port(Location(wire.near.netns), "in1") is observe_port(Location(wire.far.netns), "in2") is None


def test_a_tunnel_connects_two_pods_of_one_node(bed: Bed, wires: Wires) -> None:
    bed.fabric(**{"node-1": "10.9.0.1/24"})
    bed.add("pod-a", "pod-b")
    with bed.inside("node-1"):
        near = replace(wires.tunnel("pod-a", 0, "10.9.0.1", "10.9.0.1"), port=4790, remote_port=4791)
        far = replace(wires.tunnel("pod-b", 1, "10.9.0.1", "10.9.0.1"), port=4791, remote_port=4790)
        for wire in (near, far):
            assert ensure(wire) is True
            assert ensure(wire) is False
        assert bed.pings("pod-a", "192.168.2.2")
        assert bed.pings("pod-b", "fd00::1")


def test_a_tunnel_follows_its_peer_to_its_own_node(bed: Bed, wires: Wires) -> None:
    bed.fabric(**{"node-1": "10.9.0.1/24", "node-2": "10.9.0.2/24"})
    bed.add("pod-a", "pod-b", "pod-c")
    with bed.inside("node-1"):
        ensure(wires.tunnel("pod-a", 0, "10.9.0.1", "10.9.0.2"))
    with bed.inside("node-2"):
        ensure(wires.tunnel("pod-b", 1, "10.9.0.2", "10.9.0.1"))
    assert bed.pings("pod-a", "192.168.2.2")
    with bed.inside("node-1"):
        near = replace(wires.tunnel("pod-a", 0, "10.9.0.1", "10.9.0.1"), port=4790, remote_port=4791)
        assert ensure(near) is True
        assert ensure(replace(wires.tunnel("pod-c", 1, "10.9.0.1", "10.9.0.1"), port=4791, remote_port=4790)) is True
    assert bed.pings("pod-a", "192.168.2.2")
    assert bed.pings("pod-c", "192.168.2.1")
