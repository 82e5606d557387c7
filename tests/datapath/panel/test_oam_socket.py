"""OAM frames between the panels of two nodes, and those that pods forge."""

from __future__ import annotations

import ctypes
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ratchet.core import oam
from ratchet.core.panel import PanelSlot
from ratchet.datapath import make
from ratchet.datapath.panel.namespace import Panel, open_panel
from ratchet.datapath.panel.oam import OamSocket
from ratchet.dev.testbed import wait_for
from ratchet.errors import DatapathError
from tests.support.guarded_link import ONE, TWO
from tests.support.namespaces import Bed
from tests.support.panels import INDEXES, Panels, group_of
from tests.support.raw_frames import SECONDS, ethernet, opened

DESTINATION = oam.DESTINATION.hex(":")
PAYLOAD = oam.encode(oam.OamFrame(bytes(16), 0, bytes(8), 1, 1, pod_up=True))
NET_RAW = 13  # include/uapi/linux/capability.h
CAPABILITY_VERSION = 0x20080522


@pytest.fixture
def link(underlay: Bed, panels: Panels) -> tuple[Panel, Panel]:
    """A link between pod-a on node-1 and pod-b on node-2, both with carrier; the panels of the nodes."""
    one, two = panels.make("panel-1"), panels.make("panel-2")
    with underlay.inside("node-1"):
        make(panels.wire("pod-a", "a", ONE, TWO, panel="panel-1"))
    with underlay.inside("node-2"):
        make(panels.wire("pod-b", "b", TWO, ONE, panel="panel-2"))
    for pod in ("pod-a", "pod-b"):
        wait_for(f"carrier of {pod}", partial(_has_carrier, underlay, pod))
    return one, two


@pytest.fixture
def sockets(link: tuple[Panel, Panel]) -> Iterator[tuple[OamSocket, OamSocket]]:
    with OamSocket(link[0]) as one, OamSocket(link[1]) as two:
        yield one, two


def _has_carrier(bed: Bed, pod: str) -> bool:
    return "LOWER_UP" in bed.show(pod, "eth1")["flags"]


def tunnel(pod: str, end: str) -> str:
    return PanelSlot("", group_of(pod)).tunnel(INDEXES[end])


TUNNEL_A, TUNNEL_B = tunnel("pod-a", "a"), tunnel("pod-b", "b")


def next_frames(one: OamSocket) -> list[tuple[str, bytes]]:
    """Those that have arrived once any has; frames of pods count too, and are none."""
    ready, _, _ = select.select([one], [], [], SECONDS)
    return list(one.received()) if ready else []


def send_from_pod(bed: Bed, pod: str, *frames: bytes) -> None:
    with opened(bed, pod, "eth1") as sender:
        for frame in frames:
            sender.send(frame)


def test_a_frame_arrives_at_the_other_panel_and_at_no_pod(underlay: Bed, sockets: tuple[OamSocket, OamSocket]) -> None:
    one, two = sockets
    with opened(underlay, "pod-b", "eth1", oam.ETHERTYPE) as pod:
        assert one.send(TUNNEL_A, PAYLOAD)
        assert next_frames(two) == [(TUNNEL_B, PAYLOAD)]
        assert two.send(TUNNEL_B, PAYLOAD + b"more")
        assert next_frames(one) == [(TUNNEL_A, PAYLOAD + b"more")]
        assert list(one.received()) == list(two.received()) == []
        pod.setblocking(False)
        with pytest.raises(BlockingIOError):
            pod.recv(1)
    assert underlay.pings("pod-a", "192.168.2.2")


def test_frames_that_a_pod_forges_are_not_read(underlay: Bed, sockets: tuple[OamSocket, OamSocket]) -> None:
    """Neither in the panel of the pod, nor in the other one, with a VLAN tag or without."""
    one, two = sockets
    forged = ethernet(DESTINATION, oam.ETHERTYPE, b"forged")
    tagged = [forged[:12] + bytes.fromhex(tag) + forged[12:] for tag in ("81000007", "88a80007", "81000000")]
    with opened(underlay, "pod-b", "eth1") as pod:
        send_from_pod(underlay, "pod-a", forged, *tagged)
        send_from_pod(underlay, "pod-a", ethernet("ff:ff:ff:ff:ff:ff", 0x88B5, b"following"))
        while b"following" not in pod.recv(1 << 16):
            pass
    one.send(TUNNEL_A, PAYLOAD)
    two.send(TUNNEL_B, PAYLOAD)
    assert next_frames(two) == [(TUNNEL_B, PAYLOAD)]
    assert next_frames(one) == [(TUNNEL_A, PAYLOAD)]


def test_a_frame_for_one_host_or_a_tagged_one_is_not_read(underlay: Bed, sockets: tuple[OamSocket, OamSocket]) -> None:
    """Also from the other panel, from whose tunnel only a process on that node sends them."""
    one, two = sockets
    frame = ethernet(DESTINATION, oam.ETHERTYPE, PAYLOAD)
    with opened(underlay, "panel-1", TUNNEL_A) as sender:
        sender.send(ethernet("02:00:00:00:00:0b", oam.ETHERTYPE, PAYLOAD))
        sender.send(frame[:12] + bytes.fromhex("81000007") + frame[12:])
    one.send(TUNNEL_A, PAYLOAD)
    found = next_frames(two)
    assert found == [(TUNNEL_B, PAYLOAD)]


def test_a_tunnel_that_is_gone_or_down_takes_no_frame(underlay: Bed, sockets: tuple[OamSocket, OamSocket]) -> None:
    one, two = sockets
    assert one.send("t-absent", PAYLOAD) is False
    underlay.ip("panel-1", "link", "set", TUNNEL_A, "down")
    assert one.send(TUNNEL_A, PAYLOAD) is False
    underlay.ip("panel-1", "link", "set", TUNNEL_A, "up")
    assert one.send(TUNNEL_A, PAYLOAD)
    assert next_frames(two) == [(TUNNEL_B, PAYLOAD)]
    underlay.ip("panel-1", "link", "del", TUNNEL_A)
    assert one.send(TUNNEL_A, PAYLOAD) is False
    assert list(one.received()) == [], "a device that goes down is no error of the socket"


def test_more_frames_than_the_buffer_has_room_for_are_dropped(sockets: tuple[OamSocket, OamSocket]) -> None:
    one, two = sockets
    for _ in range(5000):
        one.send(TUNNEL_A, PAYLOAD)
    read = 0
    while batch := list(two.received()):
        read += len(batch)
        assert len(batch) <= 256
    assert 500 < read < 5000
    one.send(TUNNEL_A, PAYLOAD)
    assert next_frames(two) == [(TUNNEL_B, PAYLOAD)]


def test_without_net_raw_the_error_names_it(link: tuple[Panel, Panel]) -> None:
    with ThreadPoolExecutor(1) as helper, pytest.raises(DatapathError, match="cannot open an OAM socket") as caught:
        helper.submit(_open_without_net_raw, link[0].netns.path).result()
    assert caught.value.details == "Ratchet needs CAP_NET_RAW."


def _open_without_net_raw(path: str) -> None:
    """Of the calling thread only: capabilities are a thread's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << NET_RAW)
    assert libc.capset(header, sets) == 0
    with open_panel(path) as panel, OamSocket(panel):
        pass


def test_the_socket_is_no_tap(sockets: tuple[OamSocket, OamSocket]) -> None:
    with socket.socket(fileno=socket.dup(sockets[0].fileno())) as opened_twice:
        assert opened_twice.getsockname()[1] == oam.ETHERTYPE
