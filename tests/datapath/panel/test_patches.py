"""Cables that are patched to each other on one node, and to tunnels between two nodes."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from ratchet.datapath.panel import patches
from ratchet.datapath.panel.attachments import remove_group
from ratchet.datapath.panel.carrier import set_carrier
from ratchet.datapath.panel.devices import PanelDevice
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.patches import Patch, observe_patch, remove_patch, set_patch
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from ratchet.errors import DatapathError
from tests.support.namespaces import Bed
from tests.support.panels import Panels, connect, group_of, tunnel_of
from tests.support.raw_frames import OAM, SECONDS, SOURCE, ethernet, opened, received

# Sends BATCH numbered frames for each byte that it reads: few enough for the buffer of one socket.
SEND = """
import os, socket, sys
opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
opened.bind(("eth1", 0))
head, batch, sent = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), 0
while os.read(0, 1):
    for sent in range(sent, sent + batch):
        opened.send(head + sent.to_bytes(4, "big") + bytes(42))
    sent += 1
"""
BATCHES, BATCH, MOVES = 200, 100, 4


@pytest.fixture
def panel(pods: Bed, panels: Panels) -> Panel:
    """A panel, and the pods pod-a and pod-b."""
    return panels.make()


@pytest.fixture
def cables(panels: Panels, panel: Panel) -> tuple[PanelDevice, PanelDevice]:
    """The cables of both pods, which are not patched."""
    return panels.cable(panel, "pod-a", "a"), panels.cable(panel, "pod-b", "b")


def _connect(panel: Panel, one: PanelDevice, other: PanelDevice) -> None:
    connect(panel, one, other.index)
    connect(panel, other, one.index)


def _assert_connected(bed: Bed) -> None:
    assert bed.pings("pod-a", "192.168.2.2")
    assert bed.pings("pod-b", "192.168.2.1")
    assert bed.pings("pod-a", "fd00::2")
    assert bed.pings("pod-b", "fd00::1")


def _is_running(bed: Bed, pod: str, ifname: str = "eth1") -> bool:
    return bool(bed.show(pod, ifname)["operstate"] == "UP")


def _filters(bed: Bed, ifname: str) -> list[dict[str, object]]:
    shown = bed.run("panel", "tc", "-j", "filter", "show", "dev", ifname, "ingress")
    return [one for one in json.loads(shown) if "fh" in one.get("options", {})]


def test_two_patched_cables_carry_packets_both_ways(
    pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]
) -> None:
    _connect(panel, *cables)
    _assert_connected(pods)


def test_each_side_patches_its_own_direction(pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]) -> None:
    near, far = cables
    with Channel(panel.netns) as channel:
        assert observe_patch(channel, near.index) == Patch()
        assert set_patch(channel, near.index, far.index) is True
        patch = observe_patch(channel, near.index)
        assert (patch.target, patch.takes_oam) == (far.index, False)
        assert observe_patch(channel, far.index) == Patch()
        assert set_patch(channel, near.index, far.index) is False, "nothing to change"
        assert observe_patch(channel, near.index) == patch


def test_a_patch_is_replaced_in_place(pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]) -> None:
    near, far = cables
    pods.ip("panel", "link", "add", "other", "type", "bridge")
    other = pods.show("panel", "other")["ifindex"]
    with Channel(panel.netns) as channel:
        set_patch(channel, near.index, far.index)
        handle = observe_patch(channel, near.index).handle
        before = len(_filters(pods, near.ifname))
        assert set_patch(channel, near.index, other) is True
        assert observe_patch(channel, near.index) == Patch(other, handle, takes_oam=False)
    assert len(_filters(pods, near.ifname)) == before


def test_replacing_a_patch_loses_no_frame(pods: Bed, panels: Panels, panel: Panel) -> None:
    """Every frame arrives at one of two pods between which the patch is moved."""
    pods.add("pod-c")
    near, far = panels.cable(panel, "pod-a", "a"), panels.cable(panel, "pod-b", "b")
    third = panels.cable(panel, "pod-c", "b", link="a-c")
    with Channel(panel.netns) as channel:
        set_patch(channel, near.index, far.index)
        for cable in (near, far, third):
            set_carrier(channel, cable, True)
    for pod in ("pod-a", "pod-b", "pod-c"):
        wait_for(f"eth1 of {pod}", partial(_is_running, pods, pod))
    with (
        opened(pods, "pod-b", "eth1") as one,
        opened(pods, "pod-c", "eth1") as other,
        _sender(pods) as sender,
        Channel(panel.netns) as channel,
    ):
        for number in range(BATCHES):
            os.write(sender, b"x")
            for cable in (third, far) * (MOVES // 2):
                assert set_patch(channel, near.index, cable.index)
            assert _numbers(one, other) == set(range(number * BATCH, (number + 1) * BATCH))


@contextmanager
def _sender(bed: Bed) -> Iterator[int]:
    """A process that sends frames from pod-a, and the descriptor that it reads."""
    head = ethernet("ff:ff:ff:ff:ff:ff", 0x88B5, b"")[:14].hex()
    netns = ("ip", "netns", "exec", bed.name("pod-a"))
    command = (*netns, sys.executable, "-I", "-S", "-c", SEND, head, str(BATCH))
    with subprocess.Popen(command, stdin=subprocess.PIPE) as sender:
        assert sender.stdin is not None
        yield sender.stdin.fileno()


def _numbers(*receivers: socket.socket) -> set[int]:
    """The numbers of BATCH frames at two interfaces; of fewer if no more arrive."""
    found: set[int] = set()
    while len(found) < BATCH:
        ready, _, _ = select.select(receivers, [], [], SECONDS)
        if not ready:
            break
        for receiver in ready:
            frame = receiver.recv(1 << 16)
            if frame[6:12] == SOURCE:
                found.add(int.from_bytes(frame[14:18], "big"))
    return found


def test_a_removed_patch_drops_frames_and_keeps_the_filter_of_oam(
    pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]
) -> None:
    near, far = cables
    _connect(panel, near, far)
    assert pods.pings("pod-a", "192.168.2.2")
    with Channel(panel.netns) as channel:
        assert remove_patch(channel, near.index) is True
        assert observe_patch(channel, near.index) == Patch(takes_oam=False)
        assert observe_patch(channel, far.index).target == near.index, "the other direction is the other side's"
        assert remove_patch(channel, near.index) is False
        assert _ping_once(pods) is False
        assert set_patch(channel, near.index, far.index) is True
    _assert_connected(pods)


def _ping_once(bed: Bed) -> bool:
    command = ("ip", "netns", "exec", bed.name("pod-a"), "ping", "-n", "-c", "1", "-W", "0.3", "192.168.2.2")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_patch_to_a_deleted_device_is_seen_and_set_again(pods: Bed, panels: Panels, panel: Panel) -> None:
    near, far = panels.cable(panel, "pod-a", "a"), panels.cable(panel, "pod-b", "b")
    _connect(panel, near, far)
    remove_group(panel, far.group)
    with Channel(panel.netns) as channel:
        assert observe_patch(channel, near.index).target == 0
    _connect(panel, near, panels.cable(panel, "pod-b", "b"))
    _assert_connected(pods)


def test_filters_that_others_have_changed_are_put_back(
    pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]
) -> None:
    near, far = cables
    _connect(panel, near, far)
    for arguments in (("pref", "100"), ("pref", "200"), ()):
        pods.run("panel", "tc", "filter", "del", "dev", near.ifname, "ingress", *arguments)
        with Channel(panel.netns) as channel:
            assert set_patch(channel, near.index, far.index) is True
            patch = observe_patch(channel, near.index)
            assert (patch.target, patch.takes_oam) == (far.index, False)
    pods.run("panel", "tc", "qdisc", "del", "dev", near.ifname, "clsact")
    with Channel(panel.netns) as channel:
        assert observe_patch(channel, near.index) == Patch()
    _connect(panel, near, far)
    assert len(_filters(pods, near.ifname)) == 2, "a hash table and a filter that redirects"
    _assert_connected(pods)


def test_a_missing_device_is_an_error_for_a_patch_only(panel: Panel, cables: tuple[PanelDevice, PanelDevice]) -> None:
    near, far = cables
    with Channel(panel.netns) as channel:
        for source, target in ((near.index, 99999), (near.index, 99998), (99999, far.index)):
            with pytest.raises(DatapathError, match=f"cannot patch ifindex {source} to {target}"):
                set_patch(channel, source, target)
        assert observe_patch(channel, 99999) == Patch()
        assert remove_patch(channel, 99999) is False


def test_a_forged_oam_frame_is_dropped(pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]) -> None:
    near, far = cables
    _connect(panel, near, far)
    assert _received_by_stack(pods, near) == following


def test_without_classic_bpf_a_forged_oam_frame_gets_to_the_panel_and_not_to_the_other_pod(
    pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "_kernel", patches._Kernel())
    monkeypatch.setattr(patches, "_oam_drop", lambda index: patches._filter(index, 100, OAM, "absent", b""))
    near, far = cables
    _connect(panel, near, far)
    with Channel(panel.netns) as channel:
        assert observe_patch(channel, near.index).takes_oam is True
        assert set_patch(channel, near.index, far.index) is False
    assert _received_by_stack(pods, near) == forged


forged = ethernet("ff:ff:ff:ff:ff:ff", OAM, b"forged")
following = ethernet("ff:ff:ff:ff:ff:ff", 0x88B5, b"following")


def _received_by_stack(bed: Bed, near: PanelDevice) -> bytes:
    """What the panel's stack gets at pod-a's cable of `forged`, or `following` if it gets nothing.

    `following` is sent after it, and is all that pod-b receives.
    """
    for pod in ("pod-a", "pod-b"):
        wait_for(f"eth1 of {pod}", partial(_is_running, bed, pod))
    with (
        opened(bed, "pod-a", "eth1") as sender,
        opened(bed, "pod-b", "eth1") as receiver,
        opened(bed, "panel", near.ifname, OAM) as stack,
    ):
        sender.send(forged)
        sender.send(following)
        assert received(receiver) == following
        stack.setblocking(False)
        try:
            return received(stack)
        except BlockingIOError:
            return following


def test_the_filter_of_another_kind_of_device_is_replaced(
    pods: Bed, panel: Panel, cables: tuple[PanelDevice, PanelDevice]
) -> None:
    near, far = cables
    with Channel(panel.netns) as channel:
        for takes_oam in (False, True, False):
            assert set_patch(channel, near.index, far.index, takes_oam=takes_oam) is True
            assert observe_patch(channel, near.index).leads(far.index, takes_oam=takes_oam)
            assert set_patch(channel, near.index, far.index, takes_oam=takes_oam) is False


def test_an_interface_stays_when_its_peer_moves_to_another_node_and_back(nodes: Bed, panels: Panels) -> None:
    """pod-a and pod-b are on node-1; pod-b starts again as pod-c on node-2, then again on node-1."""
    one, two = panels.make("panel-1"), panels.make("panel-2")
    near = panels.cable(one, "pod-a", "a")
    _connect(one, near, panels.cable(one, "pod-b", "b"))
    assert nodes.pings("pod-a", "192.168.2.2")
    before = _identity(nodes)

    nodes.delete("pod-b")
    far = panels.cable(two, "pod-c", "b")
    with nodes.inside("node-1"):
        panels.tunnel(one, wire := panels.wire("pod-a", "a", "10.9.0.1", "10.9.0.2", panel="panel-1"))
    with nodes.inside("node-2"):
        panels.tunnel(two, other := panels.wire("pod-c", "b", "10.9.0.2", "10.9.0.1", panel="panel-2"))
    connect(one, near, nodes.show("panel-1", tunnel_of(wire))["ifindex"])
    connect(two, far, nodes.show("panel-2", tunnel_of(other))["ifindex"])
    assert nodes.pings("pod-a", "192.168.2.2")
    assert nodes.pings("pod-c", "192.168.2.1")
    assert _identity(nodes) == before

    remove_group(two, group_of("pod-c"))
    assert (nodes.interfaces("panel-2"), nodes.interfaces("pod-c")) == ([], []), "the tunnel is of the group too"
    nodes.add("pod-b")
    _connect(one, near, panels.cable(one, "pod-b", "b"))
    _assert_connected(nodes)
    assert _identity(nodes) == before


def _identity(bed: Bed) -> tuple[object, ...]:
    shown = bed.show("pod-a", "eth1")
    return shown["ifindex"], shown["address"], shown["mtu"], shown["addr_info"]
