"""The watch that gives cables their carrier as pods shut and open their ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ratchet.core.differences import differences
from ratchet.core.interface import CableWire, PatchWire
from ratchet.datapath import build, make, observe
from ratchet.datapath.panel.carrier import set_carrier
from ratchet.datapath.panel.devices import device_named
from ratchet.datapath.panel.events import CarrierWatch
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.patches import set_patch
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from tests.support.namespaces import Bed
from tests.support.panels import Panels


@pytest.fixture
def panel(pods: Bed, panels: Panels) -> Panel:
    """A panel, and the pods pod-a and pod-b."""
    return panels.make()


@pytest.fixture
def wire(panels: Panels, panel: Panel) -> PatchWire:
    """A patched link between pod-a and pod-b."""
    wire = PatchWire("a-b", panels.spec("pod-a", "a"), panels.spec("pod-b", "b"))
    make(wire)
    make(PatchWire(wire.link, wire.far, wire.near))
    return wire


@contextmanager
def watching(panel: Panel) -> Iterator[None]:
    """Run a watch in a thread."""
    stopping = threading.Event()
    with CarrierWatch(panel) as watch:
        watch.look()

        def run() -> None:
            while not stopping.is_set():
                watch.follow(0.05)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


def has_carrier(bed: Bed, pod: str) -> bool:
    return "LOWER_UP" in bed.show(pod, "eth1")["flags"]


def wait_for_carrier(bed: Bed, pod: str, has: bool) -> None:
    wait_for(f"carrier of {pod}: {has}", lambda: has_carrier(bed, pod) is has)


def set_end(bed: Bed, pod: str, state: str) -> None:
    bed.ip(pod, "link", "set", "eth1", state)


def test_a_pod_that_shuts_its_end_takes_the_carrier_of_the_other(pods: Bed, panel: Panel, wire: PatchWire) -> None:
    with watching(panel):
        for _ in range(3):
            set_end(pods, "pod-a", "down")
            wait_for_carrier(pods, "pod-b", False)
            assert "UP" in pods.show("pod-b", "eth1")["flags"]
            set_end(pods, "pod-a", "up")
            wait_for_carrier(pods, "pod-b", True)
            wait_for_carrier(pods, "pod-a", True)
    assert pods.pings("pod-a", "192.168.2.2")


@pytest.mark.parametrize("first_open", ["pod-a", "pod-b"])
def test_two_pods_that_both_shut_their_ends_get_carrier_once_both_open_them(
    first_open: str, pods: Bed, panel: Panel, wire: PatchWire
) -> None:
    last_open = "pod-b" if first_open == "pod-a" else "pod-a"
    with watching(panel):
        set_end(pods, "pod-a", "down")
        wait_for_carrier(pods, "pod-b", False)
        set_end(pods, "pod-b", "down")
        set_end(pods, first_open, "up")
        wait_for_carrier(pods, first_open, False)
        set_end(pods, last_open, "up")
        for pod in ("pod-a", "pod-b"):
            wait_for_carrier(pods, pod, True)


def test_changes_while_nobody_watched_are_made_up_for(pods: Bed, panel: Panel, wire: PatchWire) -> None:
    set_end(pods, "pod-a", "down")
    with watching(panel):
        wait_for_carrier(pods, "pod-b", False)
    set_end(pods, "pod-a", "up")
    with watching(panel):
        wait_for_carrier(pods, "pod-b", True)


def test_a_pass_decides_as_the_watch_does(pods: Bed, panel: Panel, wire: PatchWire) -> None:
    set_end(pods, "pod-a", "down")
    assert "eth1 has carrier while its peer is shut" in differences(wire, observe(wire))
    assert differences(wire, build(wire)) == ()
    assert not has_carrier(pods, "pod-b")
    set_end(pods, "pod-a", "up")
    assert differences(wire, observe(wire)) == ("eth1 is held without carrier",)
    assert differences(wire, build(wire)) == ()
    wait_for_carrier(pods, "pod-b", True)


def test_the_end_of_a_pods_namespace_takes_the_carrier_of_the_other(pods: Bed, panel: Panel, wire: PatchWire) -> None:
    with watching(panel):
        pods.delete("pod-b")
        wait_for_carrier(pods, "pod-a", False)


def test_an_end_whose_peer_has_left_gets_no_carrier_from_its_former_peer(
    pods: Bed, panel: Panel, wire: PatchWire
) -> None:
    with watching(panel):
        build(CableWire(wire.link, wire.near))
        set_end(pods, "pod-b", "down")
        set_end(pods, "pod-b", "up")
        wait_for_carrier(pods, "pod-b", True)
        assert not has_carrier(pods, "pod-a")
        assert differences(wire, build(wire)) == ()
        wait_for_carrier(pods, "pod-a", True)


def test_a_cable_whose_tunnel_is_deleted_gets_the_carrier_of_its_new_patch(
    pods: Bed, panel: Panel, wire: PatchWire
) -> None:
    """It may have been settled for the tunnel after it was patched to the other cable."""
    assert wire.near.slot is not None
    cable = wire.near.slot.cable(wire.near.index)
    pods.ip("panel", "link", "add", "tunnel", "type", "bridge")
    with CarrierWatch(panel) as watch, Channel(panel.netns) as channel:
        near, tunnel = device_named(channel, cable), device_named(channel, "tunnel")
        assert near is not None
        assert tunnel is not None
        set_patch(channel, near.index, tunnel.index)
        watch.look()
        assert differences(wire, build(wire)) == ()
        set_carrier(channel, near, False)
        pods.ip("panel", "link", "del", "tunnel")

        def has_carrier_after_events() -> bool:
            watch.follow(0.01)
            return has_carrier(pods, "pod-a")

        wait_for("the carrier", has_carrier_after_events)


def test_links_that_are_made_while_the_watch_runs_are_watched(pods: Bed, panels: Panels, panel: Panel) -> None:
    with watching(panel):
        wire = PatchWire("a-b", panels.spec("pod-a", "a"), panels.spec("pod-b", "b"))
        make(wire)
        make(PatchWire(wire.link, wire.far, wire.near))
        wait_for_carrier(pods, "pod-a", True)
        set_end(pods, "pod-a", "down")
        wait_for_carrier(pods, "pod-b", False)
        pods.delete("pod-a")
        wait_for_carrier(pods, "pod-b", False)
