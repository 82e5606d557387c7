"""Carrier and traffic counters of an interface."""

from __future__ import annotations

import json

import pytest

from ratchet.core.observation import Traffic
from ratchet.core.sandbox import Location
from ratchet.datapath import count, ensure
from ratchet.errors import HostNamespaceError, NamespaceGoneError
from tests.support.namespaces import Bed
from tests.support.wires import Wires


def test_count_returns_the_carrier_and_counters_that_ip_shows(pods: Bed, wires: Wires) -> None:
    ensure(wires.veth())
    assert pods.pings("pod-a", "192.168.2.2")
    assert not pods.pings("pod-a", "192.168.2.99")  # so that tx exceeds rx
    pods.ip("pod-b", "link", "set", "in2", "down")  # so that the counters stay constant
    shown = json.loads(pods.ip("pod-a", "-s", "-j", "link", "show", "dev", "in1"))[0]["stats64"]
    live = count(Location(pods.path("pod-a")), "in1")
    assert live is not None
    assert not live.carrier
    for way, traffic in (("rx", live.rx), ("tx", live.tx)):
        assert traffic == Traffic(*(shown[way][key] for key in ("packets", "bytes", "errors", "dropped")))
        assert traffic.packets > 0
        assert traffic.bytes > traffic.packets
    assert live.tx.packets > live.rx.packets


def test_a_veth_with_both_ends_up_has_carrier(pods: Bed, wires: Wires) -> None:
    ensure(wires.veth())
    live = count(Location(pods.path("pod-a")), "in1")
    assert live is not None
    assert live.carrier


def test_count_is_none_without_an_interface_and_fails_without_a_pod_netns(pods: Bed) -> None:
    assert count(Location(pods.path("pod-a")), "in1") is None
    with pytest.raises(NamespaceGoneError):
        count(Location("/nowhere"), "in1")
    with pytest.raises(HostNamespaceError):
        count(Location("/proc/thread-self/ns/net"), "lo")
