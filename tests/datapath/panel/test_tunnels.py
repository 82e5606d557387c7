from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from ratchet.dev.testbed import wait_for
from tests.support.guarded_link import ONE, ONE6, TWO, TWO6
from tests.support.namespaces import Bed
from tests.support.panels import EndKey, Panels, connect, group_of, tunnel_of
from tests.support.raw_frames import OAM, ethernet, opened, received

ETHERNET_UNDERLAY = 1500
LARGEST = {4: 65485, 6: ETHERNET_UNDERLAY - 70}
ICMP_HEADERS = 28


def _tunnels(bed: Bed, panels: Panels, one: str = ONE, two: str = TWO, *, mtu: int = 1400) -> tuple[str, str]:
    """Connect pod-a on node-1 and pod-b on node-2; returns the names of the tunnels."""
    names = []
    ends: tuple[tuple[str, str, EndKey, str, str], ...]
    ends = (("node-1", "pod-a", "a", one, two), ("node-2", "pod-b", "b", two, one))
    for node, pod, end, local, remote in ends:
        panel = panels.make(f"panel-{node}")
        cable = panels.cable(panel, pod, end, mtu=mtu)
        with bed.inside(node):
            panels.tunnel(panel, wire := panels.wire(pod, end, local, remote, panel=f"panel-{node}", mtu=mtu))
        connect(panel, cable, bed.show(f"panel-{node}", tunnel_of(wire))["ifindex"])
        names.append(tunnel_of(wire))
    return names[0], names[1]


def test_a_tunnel_is_in_the_panel_with_its_socket_in_the_node(underlay: Bed, panels: Panels) -> None:
    name, _ = _tunnels(underlay, panels)
    shown = underlay.show("panel-node-1", name)
    data = shown["linkinfo"]["info_data"]
    assert (data["id"], data["local"], data["remote"], data.get("link")) == (11, ONE, TWO, None)
    assert (shown["mtu"], shown["group"]) == (LARGEST[4], str(group_of("pod-a")))
    assert shown["addr_info"] == []
    assert underlay.interfaces("node-1") == ["eth0"]
    assert "4789" in underlay.run("node-1", "ss", "-lun")
    assert "4789" not in underlay.run("panel-node-1", "ss", "-lun")


def test_ensure_does_not_change_a_matching_tunnel_and_corrects_another(underlay: Bed, panels: Panels) -> None:
    name, _ = _tunnels(underlay, panels)
    panel = panels.make("panel-node-1")
    with underlay.inside("node-1"):
        wire = panels.wire("pod-a", "a", ONE, TWO, panel="panel-node-1")
        before = underlay.show("panel-node-1", name)
        assert panels.tunnel(panel, wire) is False
        assert underlay.show("panel-node-1", name) == before
        assert panels.tunnel(panel, replace(wire, remote="10.9.0.3")) is True
    after = underlay.show("panel-node-1", name)
    assert (after["ifindex"], after["linkinfo"]["info_data"]["remote"]) == (before["ifindex"], "10.9.0.3")


def test_the_tunnel_of_an_earlier_attachment_makes_way(underlay: Bed, panels: Panels) -> None:
    panel = panels.make("panel")
    for pod in ("pod-a", "pod-b"):
        panels.cable(panel, pod, "a")
    with underlay.inside("node-1"):
        panels.tunnel(panel, former := panels.wire("pod-b", "a", ONE, TWO))
        panels.tunnel(panel, wire := panels.wire("pod-a", "a", ONE, TWO))
    assert underlay.show("panel", tunnel_of(former)) == {}
    assert underlay.show("panel", tunnel_of(wire))["linkinfo"]["info_data"]["id"] == 11


@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), (ONE6, TWO6)], ids=["IPv4", "IPv6"])
def test_the_largest_packet_of_an_underlay_passes(one: str, two: str, underlay: Bed, panels: Panels) -> None:
    version = 6 if ":" in one else 4
    name, _ = _tunnels(underlay, panels, one, two, mtu=LARGEST[version])
    assert underlay.show("panel-node-1", name)["mtu"] == LARGEST[version]
    size = str(LARGEST[version] - ICMP_HEADERS)
    underlay.run("pod-a", "ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", size, "192.168.2.2")


def test_an_oam_frame_gets_to_the_other_panel_and_not_to_its_pod(underlay: Bed, panels: Panels) -> None:
    near, far = _tunnels(underlay, panels)
    for pod in ("pod-a", "pod-b"):
        wait_for(f"eth1 of {pod}", partial(_is_running, underlay, pod))
    sent = ethernet("ff:ff:ff:ff:ff:ff", OAM, b"oam")
    tagged = ethernet("ff:ff:ff:ff:ff:ff", 0x8100, b"\0\0" + OAM.to_bytes(2, "big") + b"forged")
    following = ethernet("ff:ff:ff:ff:ff:ff", 0x88B5, b"following")
    with (
        opened(underlay, "panel-node-1", near) as own,
        opened(underlay, "pod-a", "eth1") as sender,
        opened(underlay, "panel-node-2", far, OAM) as other,
        opened(underlay, "pod-b", "eth1") as receiver,
    ):
        sender.send(tagged)
        assert received(receiver) == tagged, "a frame with a tag is no OAM frame"
        own.send(sent)
        assert received(other) == sent
        sender.send(following)
        assert received(receiver) == following


def _is_running(bed: Bed, pod: str) -> bool:
    return bool(bed.show(pod, "eth1")["operstate"] == "UP")
