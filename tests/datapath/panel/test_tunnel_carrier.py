"""The carrier of a cable that is patched to a tunnel, by what the process has heard of the far pod."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import CableWire, VxlanWire
from ratchet.datapath import build, make, observe
from ratchet.datapath.panel.carrier import settle_tunnel_carrier
from ratchet.datapath.panel.devices import device_named
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.tunnel_state import forget_tunnel, link_at, note_far_pod, tunnel_state
from ratchet.datapath.rtnetlink import Channel
from tests.support.guarded_link import ONE, TWO
from tests.support.namespaces import Bed
from tests.support.panels import Panels, tunnel_of


@pytest.fixture
def panel(underlay: Bed, panels: Panels) -> Panel:
    return panels.make()


@pytest.fixture
def wire(underlay: Bed, panels: Panels, panel: Panel) -> Iterator[VxlanWire]:
    """A link of pod-a to another node, with carrier. The test is inside node-1."""
    with underlay.inside("node-1"):
        wire = panels.wire("pod-a", "a", ONE, TWO)
        assert differences(wire, make(wire)) == ()
        yield wire
    forget_tunnel(panel.cookie, tunnel(panel, wire))


def tunnel(panel: Panel, wire: VxlanWire) -> int:
    with Channel(panel.netns) as channel:
        found = device_named(channel, tunnel_of(wire))
    return 0 if found is None else found.index


def hear(panel: Panel, wire: VxlanWire, up: bool | None) -> None:
    note_far_pod(panel.cookie, tunnel(panel, wire), wire.link, up)


def settle(panel: Panel, wire: VxlanWire) -> None:
    assert wire.near.slot is not None
    with Channel(panel.netns) as channel:
        cable = device_named(channel, wire.near.slot.cable(wire.near.index))
        assert cable is not None
        settle_tunnel_carrier(channel, panel.cookie, cable, tunnel(panel, wire), wire.link)


def panel_end_is_up(bed: Bed, wire: VxlanWire) -> bool:
    assert wire.near.slot is not None
    return "UP" in bed.show("panel", wire.near.slot.cable(wire.near.index))["flags"]


def test_a_far_pod_that_shut_its_end_takes_the_carrier(underlay: Bed, panel: Panel, wire: VxlanWire) -> None:
    for up, has in ((False, False), (True, True), (False, False), (None, True)):
        hear(panel, wire, up)
        settle(panel, wire)
        assert panel_end_is_up(underlay, wire) is has
        assert differences(wire, observe(wire)) == ()
        assert differences(wire, build(wire)) == ()
        assert panel_end_is_up(underlay, wire) is has


def test_a_pass_decides_as_the_settlement_does(underlay: Bed, panel: Panel, wire: VxlanWire) -> None:
    hear(panel, wire, False)
    assert differences(wire, observe(wire)) == ("eth1 has carrier while its peer is shut",)
    assert differences(wire, build(wire)) == ()
    assert not panel_end_is_up(underlay, wire)
    hear(panel, wire, True)
    assert differences(wire, observe(wire)) == ("eth1 is held without carrier",)
    assert differences(wire, build(wire)) == ()
    assert panel_end_is_up(underlay, wire)


def test_an_end_that_its_own_pod_shut_keeps_its_panel_end(underlay: Bed, panel: Panel, wire: VxlanWire) -> None:
    underlay.ip("pod-a", "link", "set", "eth1", "down")
    hear(panel, wire, False)
    settle(panel, wire)
    assert panel_end_is_up(underlay, wire)
    assert differences(wire, build(wire)) == ()
    underlay.ip("pod-a", "link", "set", "eth1", "up")
    settle(panel, wire)
    assert not panel_end_is_up(underlay, wire)


def test_news_gives_no_carrier_to_an_incomplete_link(underlay: Bed, panel: Panel, wire: VxlanWire) -> None:
    for other in (replace(wire, carrier=False), CableWire(wire.link, wire.near, keeps_tunnel=True)):
        assert differences(wire, build(wire)) == ()
        build(other)
        hear(panel, wire, True)
        settle(panel, wire)
        assert not panel_end_is_up(underlay, wire)
        assert differences(other, observe(other)) == ()


def test_a_restarted_process_learns_from_an_observation_whether_the_link_is_complete(
    underlay: Bed, panel: Panel, wire: VxlanWire
) -> None:
    forget_tunnel(panel.cookie, tunnel(panel, wire))
    hear(panel, wire, False)
    settle(panel, wire)
    assert panel_end_is_up(underlay, wire), "nothing is known of the link"
    observe(wire)
    settle(panel, wire)
    assert not panel_end_is_up(underlay, wire)
    observe(replace(wire, carrier=False))
    assert tunnel_state(panel.cookie, tunnel(panel, wire), wire.link).complete is True, "a late observation"


def test_what_was_heard_of_another_link_does_not_count(underlay: Bed, panel: Panel, wire: VxlanWire) -> None:
    note_far_pod(panel.cookie, tunnel(panel, wire), "another", False)
    assert link_at(panel.cookie, tunnel(panel, wire)) == wire.link
    assert differences(wire, observe(wire)) == ()
    forget_tunnel(panel.cookie, tunnel(panel, wire))
    assert link_at(panel.cookie, tunnel(panel, wire)) == ""
