"""Carrier across nodes: two panels that tell each other by OAM frames what their pods do."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from ratchet.core import oam
from ratchet.core.interface import VxlanWire
from ratchet.core.oam import TunnelPeer, record_id, sandbox_id
from ratchet.datapath import build, make
from ratchet.datapath.panel.events import CarrierWatch
from ratchet.datapath.panel.far_pods import READING_SECONDS, FarPods
from ratchet.datapath.panel.lowered import forget_lowered, note_lowered
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.oam import OamSocket
from ratchet.datapath.panel.tunnel_cables import TunnelCable, read_cable
from ratchet.datapath.panel.tunnel_state import forget_tunnel, note_complete
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from tests.support.guarded_link import ONE, TWO
from tests.support.namespaces import Bed
from tests.support.panels import EndKey, Panels, tunnel_of
from tests.support.raw_frames import SECONDS, ethernet, opened

RECORD = record_id("3f2b8c1e-0d4a-4a57-9a61-5c0e6f7a8b9c")
SANDBOXES = sandbox_id("one"), sandbox_id("two")


@dataclass
class Node:
    """One side of a link between pod-a on node-1 and pod-b on node-2."""

    bed: Bed
    pod: str
    panel: Panel
    wire: VxlanWire
    peer: TunnelPeer

    def set_end(self, state: str) -> None:
        self.bed.ip(self.pod, "link", "set", "eth1", state)

    def has_carrier(self) -> bool:
        return "LOWER_UP" in self.bed.show(self.pod, "eth1")["flags"]

    def wait_for_carrier(self, has: bool) -> None:
        wait_for(f"carrier of {self.pod}: {has}", lambda: self.has_carrier() is has)

    @property
    def tunnel(self) -> int:
        return int(self.bed.show(self.bed_name, tunnel_of(self.wire))["ifindex"])

    @property
    def bed_name(self) -> str:
        return "panel-1" if self.pod == "pod-a" else "panel-2"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Follow events and frames in a thread, as an agent does that starts now."""
        forget_tunnel(self.panel.cookie, self.tunnel)
        self.make()
        stopping = threading.Event()
        with ExitStack() as stack:
            far_pods = FarPods(self.panel, stack.enter_context(OamSocket(self.panel)))
            watch = stack.enter_context(CarrierWatch(self.panel, far_pods))
            far_pods.update({tunnel_of(self.wire): self.peer})
            watch.look()

            def run() -> None:
                while not stopping.is_set():
                    watch.follow(0.01)
                    far_pods.update({tunnel_of(self.wire): self.peer})
                    far_pods.follow_frames()
                    far_pods.follow_due()

            thread = threading.Thread(target=run)
            thread.start()
            try:
                yield
            finally:
                stopping.set()
                thread.join()

    def make(self) -> None:
        with self.bed.inside("node-1" if self.pod == "pod-a" else "node-2"):
            make(self.wire)


@pytest.fixture
def sides(underlay: Bed, panels: Panels) -> tuple[Node, Node]:
    made = []
    ends: list[tuple[str, EndKey, str, str]] = [("pod-a", "a", ONE, TWO), ("pod-b", "b", TWO, ONE)]
    for number, (pod, end, local, remote) in enumerate(ends):
        name = f"panel-{number + 1}"
        panel = panels.make(name)
        with underlay.inside(f"node-{number + 1}"):
            wire = panels.wire(pod, end, local, remote, panel=name)
        peer = TunnelPeer(wire.link, RECORD, number, SANDBOXES[number], SANDBOXES[1 - number])
        made.append(Node(underlay, pod, panel, wire, peer))
        made[-1].make()
    return made[0], made[1]


def test_a_pod_that_shuts_its_end_takes_the_carrier_of_the_other_node(sides: tuple[Node, Node]) -> None:
    one, two = sides
    with one.serving(), two.serving():
        for near, far in ((one, two), (two, one), (one, two)):
            near.set_end("down")
            far.wait_for_carrier(False)
            near.set_end("up")
            far.wait_for_carrier(True)
            near.wait_for_carrier(True)
    assert one.bed.pings("pod-a", "192.168.2.2")


@pytest.mark.parametrize("first_open", [0, 1])
def test_two_pods_that_both_shut_their_ends_get_carrier_once_both_open_them(
    first_open: int, sides: tuple[Node, Node]
) -> None:
    first, last = sides[first_open], sides[1 - first_open]
    with sides[0].serving(), sides[1].serving():
        sides[0].set_end("down")
        sides[1].wait_for_carrier(False)
        sides[1].set_end("down")
        first.set_end("up")
        first.wait_for_carrier(False)
        last.set_end("up")
        for side in sides:
            side.wait_for_carrier(True)


def test_an_agent_that_starts_asks_for_what_it_has_missed(
    sides: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the next repetition."""
    one, two = sides
    monkeypatch.setattr(oam, "FIRST_REPEAT_SECONDS", 1000.0)
    with one.serving():
        with two.serving():
            one.set_end("down")
            two.wait_for_carrier(False)
        one.set_end("up")
        assert not two.has_carrier()
        with two.serving():
            two.wait_for_carrier(True)
        one.set_end("down")
        with two.serving():
            two.wait_for_carrier(False)


def test_without_the_lease_of_its_node_a_far_pod_counts_as_up(sides: tuple[Node, Node]) -> None:
    one, two = sides
    with two.serving():
        with one.serving():
            one.set_end("down")
            two.wait_for_carrier(False)
        one.set_end("up")
        two.peer = replace(two.peer, lease_expired=True)
        two.wait_for_carrier(True)


CHANGES: dict[str, Callable[[TunnelPeer], TunnelPeer]] = {
    "the peer has another sandbox": lambda peer: replace(peer, far=sandbox_id("next")),
    "the tunnel is of another record": lambda peer: replace(peer, record=record_id("next")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_former_peer_said_does_not_count(what: str, sides: tuple[Node, Node]) -> None:
    one, two = sides
    with one.serving(), two.serving():
        one.set_end("down")
        two.wait_for_carrier(False)
        two.peer = CHANGES[what](two.peer)
        two.wait_for_carrier(True)


def test_a_frame_that_a_pod_forges_changes_nothing(sides: tuple[Node, Node]) -> None:
    """Not even with all that the record has."""
    one, two = sides
    frame = oam.OamFrame(RECORD, 0, SANDBOXES[0], 2**63, 1, pod_up=False)
    forged = ethernet(oam.DESTINATION.hex(":"), oam.ETHERTYPE, oam.encode(frame))
    with one.serving(), two.serving():
        with opened(one.bed, "pod-a", "eth1") as sender:
            sender.send(forged)
        one.set_end("down")
        two.wait_for_carrier(False)
        one.set_end("up")
        wait_for("a later frame counts, so the forged one does not", partial(two.has_carrier))


def test_a_frame_at_a_tunnel_that_is_not_patched_changes_nothing(sides: tuple[Node, Node]) -> None:
    one, two = sides
    frame = oam.OamFrame(RECORD, 0, SANDBOXES[0], 2**63, 1, pod_up=False)
    two.bed.run(two.bed_name, "tc", "filter", "del", "dev", tunnel_of(two.wire), "ingress", "pref", "200")
    with OamSocket(one.panel) as sender, OamSocket(two.panel) as receiver:
        far_pods = FarPods(two.panel, receiver)
        far_pods.update({tunnel_of(two.wire): two.peer})
        for has in (True, False):
            assert sender.send(tunnel_of(one.wire), oam.encode(frame))
            select.select([receiver], [], [], SECONDS)
            far_pods.follow_frames()
            far_pods.follow_due()
            assert two.has_carrier() is has
            with two.bed.inside("node-2"):
                build(two.wire)


def test_a_cable_that_is_raised_while_its_link_is_incomplete_is_lowered(sides: tuple[Node, Node]) -> None:
    """By one that took it for the end of its former patch. Its record may not be in the cache yet."""
    one, _ = sides
    with one.bed.inside("node-1"):
        build(replace(one.wire, carrier=False))
    assert one.wire.near.slot is not None
    cable = one.wire.near.slot.cable(one.wire.near.index)
    with OamSocket(one.panel) as socket, CarrierWatch(one.panel, FarPods(one.panel, socket)) as watch:
        watch.look()
        one.bed.ip(one.bed_name, "link", "set", cable, "up")
        watch.follow(SECONDS)
        assert "UP" not in one.bed.show(one.bed_name, cable)["flags"]


def test_repetitions_do_not_touch_the_panel(sides: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that change something. An answer to one that asks needs no reading either."""
    one, two = sides
    with OamSocket(one.panel) as sender, OamSocket(two.panel) as receiver:
        now = 100.0
        far_pods = FarPods(two.panel, receiver, lambda: now)
        far_pods.update({tunnel_of(two.wire): two.peer})
        far_pods.follow_due()
        settled: list[str] = []
        monkeypatch.setattr(far_pods, "_follow", settled.extend)
        for sequence, (pod_up, asks, expected) in enumerate([(True, False, 1), (True, False, 1), (True, True, 1)]):
            far_pods._ends[tunnel_of(two.wire)].noted = True if sequence else None
            frame = oam.OamFrame(RECORD, 0, SANDBOXES[0], 1, sequence, pod_up, asks)
            assert sender.send(tunnel_of(one.wire), oam.encode(frame))
            select.select([receiver], [], [], SECONDS)
            far_pods.follow_frames()
            assert len(settled) == expected
        sent = far_pods._sequence
        now += oam.ANSWER_SECONDS
        far_pods.follow_due()
        assert (far_pods._sequence - sent, len(settled)) == (1, 1), "it was asked"


@dataclass
class Repeating:
    """The frames of one end whose agent's clock a test sets."""

    node: Node
    far_pods: FarPods
    readings: list[str]
    times: list[float]

    @property
    def end(self) -> Any:
        return self.far_pods._ends[tunnel_of(self.node.wire)]

    def repeat(self, seconds: float) -> tuple[int, int]:
        """Send all frames that are due within this time. Returns the numbers of frames and of readings."""
        until, sent, read = self.times[0] + seconds, self.far_pods._sequence, len(self.readings)
        while self.end.schedule.due <= until:
            self.times[0] = self.end.schedule.due
            self.far_pods.follow_due()
        self.times[0] = until
        return self.far_pods._sequence - sent, len(self.readings) - read


@pytest.fixture
def repeating(sides: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> Iterator[Repeating]:
    """The first side, which has carrier and sends at the slowest rate."""
    readings: list[str] = []

    def read(channel: Channel, name: str, last: TunnelCable | None) -> TunnelCable | None:
        readings.append(name)
        return read_cable(channel, name, last)

    monkeypatch.setattr("ratchet.datapath.panel.far_pods.read_cable", read)
    times, node = [100.0], sides[0]
    with OamSocket(node.panel) as socket:
        made = Repeating(node, FarPods(node.panel, socket, lambda: times[0]), readings, times)
        made.far_pods.update({tunnel_of(node.wire): node.peer})
        made.repeat(READING_SECONDS)
        yield made


def test_an_end_with_carrier_repeats_its_frame_with_few_readings(repeating: Repeating) -> None:
    frames, readings = repeating.repeat(10 * READING_SECONDS)
    assert frames >= 30
    assert 1 <= readings <= 10


def test_an_end_whose_cable_is_deleted_sends_no_more(repeating: Repeating) -> None:
    node = repeating.node
    assert node.wire.near.slot is not None
    cable = node.wire.near.slot.cable(node.wire.near.index)
    index = int(node.bed.show(node.bed_name, cable)["ifindex"])
    node.bed.ip(node.bed_name, "link", "del", cable)
    repeating.far_pods.device_deleted(index)
    assert repeating.repeat(READING_SECONDS)[0] == 0


def test_an_end_whose_patch_is_removed_sends_no_more_after_the_next_reading(repeating: Repeating) -> None:
    node = repeating.node
    node.bed.run(node.bed_name, "tc", "filter", "del", "dev", tunnel_of(node.wire), "ingress", "pref", "200")
    repeating.repeat(READING_SECONDS)
    assert repeating.repeat(READING_SECONDS)[0] == 0


def test_an_end_without_carrier_reads_its_pod_before_each_frame(repeating: Repeating) -> None:
    """No event tells when its pod sets the interface down or up."""
    note_complete(repeating.node.panel.cookie, repeating.node.tunnel, repeating.node.wire.link, False)
    frames, readings = repeating.repeat(READING_SECONDS)
    assert readings >= frames >= 3


@pytest.fixture
def lowered(sides: tuple[Node, Node]) -> Node:
    """The second side, whose pod has no carrier because the other one is shut, and whose agent has just started."""
    one, two = sides
    with one.serving(), two.serving():
        one.set_end("down")
        two.wait_for_carrier(False)
    forget_tunnel(two.panel.cookie, two.tunnel)
    return two


def build_in_node_2(node: Node) -> bool:
    """Reconcile the link as a pass does. Returns whether the pod has carrier then."""
    with node.bed.inside("node-2"):
        build(node.wire)
    return node.has_carrier()


def test_an_end_without_carrier_stays_so_until_the_peer_was_asked(lowered: Node) -> None:
    now, name = 100.0, tunnel_of(lowered.wire)
    found = note_lowered(lowered.panel)
    assert found == {name}
    assert not build_in_node_2(lowered)
    with OamSocket(lowered.panel) as opened:
        far_pods = FarPods(lowered.panel, opened, lambda: now, found)
        for _ in range(2):
            far_pods.update({name: lowered.peer})
            far_pods.follow_due()
            assert not build_in_node_2(lowered)
        assert found == set(), "another reader of frames does not start again"
        now += oam.LOWERED_SECONDS
        far_pods.follow_due()
        assert lowered.has_carrier()
        assert build_in_node_2(lowered)


def test_an_end_without_carrier_is_raised_by_a_pass_if_no_frames_can_be_read(lowered: Node) -> None:
    forget_lowered(lowered.panel, note_lowered(lowered.panel))
    assert build_in_node_2(lowered)


def test_an_end_without_carrier_is_raised_by_a_pass_in_a_process_that_follows_no_frames(lowered: Node) -> None:
    assert build_in_node_2(lowered)


def test_only_cables_at_tunnels_are_lowered(sides: tuple[Node, Node], panels: Panels) -> None:
    one, _ = sides
    assert note_lowered(one.panel) == set(), "the cable has carrier"
    one.bed.add("pod-c")
    panels.cable(one.panel, "pod-c", "b")  # it waits for its peer
    assert note_lowered(one.panel) == set()
