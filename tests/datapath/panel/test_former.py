"""A tunnel of another UDP port is made beside the former one, and a link passes packets at each step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar

import pytest

from ratchet import datapath
from ratchet.core.differences import differences
from ratchet.core.interface import VxlanWire
from ratchet.core.panel import is_former
from ratchet.datapath.panel.former import rename_while_down
from ratchet.datapath.panel.leftovers import sweep
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from tests.support.guarded_link import ONE, TWO
from tests.support.namespaces import Bed
from tests.support.panels import EndKey, Panels, tunnel_of


class Link:
    """A link between pod-a on node-1 and pod-b on node-2, each with a panel of its node."""

    ENDS: ClassVar[tuple[tuple[str, str, EndKey, str, str], ...]] = (
        ("node-1", "pod-a", "a", ONE, TWO),
        ("node-2", "pod-b", "b", TWO, ONE),
    )

    def __init__(self, bed: Bed, panels: Panels) -> None:
        self.bed = bed
        self.panels = {node: panels.make(f"panel-{node}") for node, *_ in self.ENDS}
        self.wires = dict[str, VxlanWire]()
        for node, pod, end, local, remote in self.ENDS:
            with bed.inside(node):
                self.wires[node] = panels.wire(pod, end, local, remote, panel=f"panel-{node}")
            self.build(node)

    def build(self, node: str, port: int = 4789, *, switches: bool = True) -> None:
        """Build the end of a node, and assert that it is as it must be."""
        wire = replace(self.wires[node], port=port, remote_port=port, switches=switches, carrier=True)
        with self.bed.inside(node):
            datapath.build(wire, datapath.observe(wire))
            seen = datapath.observe(wire)
        assert differences(wire, seen) == ()
        self.wires[node] = wire

    def tunnels(self, node: str) -> dict[str, int]:
        """The UDP ports of a panel's tunnels, by their names."""
        shown = json.loads(self.bed.run(f"panel-{node}", "ip", "-d", "-j", "link", "show", "type", "vxlan"))
        return {one["ifname"]: one["linkinfo"]["info_data"]["port"] for one in shown}

    def sweep(self, node: str) -> list[str]:
        with self.bed.inside(node):
            return sweep(self.panels[node].netns.path)

    def passes(self) -> bool:
        return self.bed.pings("pod-a", "192.168.2.2")


@pytest.fixture
def link(underlay: Bed, panels: Panels) -> Link:
    return Link(underlay, panels)


def test_each_step_of_another_port_passes_packets(link: Link) -> None:
    wait_for("a ping", link.passes)
    link.build("node-1", 4790, switches=False)
    assert sorted(link.tunnels("node-1").values()) == [4789, 4790]
    assert link.passes(), "node-1 sends into its former tunnel"
    assert link.sweep("node-1") == [], "it is in use"
    link.build("node-2", 4790)
    assert link.passes(), "node-2 sends into its new tunnel, and takes from both"
    link.build("node-1", 4790)
    assert link.passes()
    for node in link.wires:
        (removed,) = link.sweep(node)
        assert is_former(removed)
        assert list(link.tunnels(node).values()) == [4790]
    assert link.passes()


def test_another_edit_replaces_a_tunnel_that_was_never_used(link: Link) -> None:
    link.build("node-1", 4790, switches=False)
    link.build("node-1", 4791, switches=False)

    assert sorted(link.tunnels("node-1").values()) == [4789, 4791]
    assert link.passes()


def test_an_edit_that_is_taken_back_returns_to_the_tunnel_in_use(link: Link) -> None:
    name = tunnel_of(link.wires["node-1"])
    before = link.bed.show("panel-node-1", name)["ifindex"]
    link.build("node-1", 4790, switches=False)
    link.build("node-1", 4789, switches=False)

    assert link.tunnels("node-1") == {name: 4789}
    assert link.bed.show("panel-node-1", name)["ifindex"] == before
    assert link.passes()


def test_a_tunnel_that_was_renamed_while_down_passes_packets(link: Link) -> None:
    """As before Linux 6.2."""
    index = link.bed.show("panel-node-1", tunnel_of(link.wires["node-1"]))["ifindex"]
    with Channel(link.panels["node-1"].netns) as channel:
        assert rename_while_down(channel, index, "renamed") is None

    assert list(link.tunnels("node-1")) == ["renamed"]
    assert link.passes()
