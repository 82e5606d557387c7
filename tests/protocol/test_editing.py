"""Links whose declaration is edited while their pods run, in every order of steps (see `editing`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from ratchet.agent import liveness, membership
from ratchet.agent.edits import has_peer
from ratchet.agent.handover import Handover
from ratchet.agent.liveness import SandboxLiveness
from ratchet.agent.membership import Membership
from ratchet.core import record_updates, wires
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.plan import Attempt
from ratchet.node import add
from ratchet.node.journal import HeldEnd, SandboxEntry
from ratchet.node.record_writer import RecordWriter
from ratchet.node.reservation import reserve
from ratchet.node.teardown import take_down
from tests.protocol.editing import (
    CABLE_LOST,
    CUT_WHILE_RUNNING,
    DOUBLY_HELD,
    NOT_LINKED,
    OLD_LINK_LEFT,
    OTHER_INTERFACES,
    UNTAKEN,
    Declared,
    DeclaredPods,
    Edit,
    pod_of,
    sandbox_in,
)
from tests.protocol.exploring import Report, assert_no_fault
from tests.protocol.scenes import FALSE_CLAIM, held_down_by_an_operation
from tests.support.lanes import with_thorough


def moved(x: str, y: str, z: str, **more: bool) -> Edit:
    """A topology moves x:in1 from y:in1 to z:in1. The arguments are the nodes of the pods x, y and z."""
    pods = (pod_of("x", x), pod_of("y", y), pod_of("z", z))
    before, after = Declared(pods, (("x:in1", "y:in1"),)), Declared(pods, (("x:in1", "z:in1"),))
    return Edit(
        before,
        after,
        first=sandbox_in(before, "x"),
        second=sandbox_in(after, "x", 2),
        left=sandbox_in(before, "y"),
        other=sandbox_in(after, "z"),
        **more,
    )


def moved_live(x: str, y: str, z: str, wiring: str = "direct", **more: bool) -> Edit:
    """As `moved`, while all pods run: x follows the edit."""
    pods, properties = (pod_of("x", x), pod_of("y", y), pod_of("z", z)), f"wiring: {wiring}"
    before, after = (Declared(pods, (("x:in1", f"{peer}:in1"),), properties) for peer in ("y", "z"))
    first, other = sandbox_in(before, "x"), sandbox_in(after, "z")
    return Edit(before, after, first, first, sandbox_in(before, "y"), other, live=True, **more)


def adjusted(p: str, q: str, edit: str, wiring: str = "direct", *, before: str = "mtu: null") -> Edit:
    """The link between p:in1 and q:in1 of a topology has `edit` instead of `before`, while both pods run.

    The arguments are the nodes of the pods.
    """
    pods, link = (pod_of("p", p), pod_of("q", q)), (("p:in1", "q:in1"),)
    earlier, later = (Declared(pods, link, f"wiring: {wiring}, {text}") for text in (before, edit))
    first, left = sandbox_in(earlier, "p"), sandbox_in(earlier, "q")
    return Edit(earlier, later, first, first, left, left, live=True)


def renamed(p: str, q: str, *, workers: int = 1, **more: bool) -> Edit:
    """The primary p restarts and declares a link from p:in2 to q:in1, instead of from p:in1.

    The arguments are the nodes of the pods.
    """
    links = "- {{peer: q, ifname: {}, peer_ifname: in1, wiring: direct}}"
    before = Declared((pod_of("p", p, 1, links.format("in1")), pod_of("q", q)))
    after = Declared((pod_of("p", p, 2, links.format("in2")), pod_of("q", q)))
    return Edit(
        before,
        after,
        first=sandbox_in(before, "p"),
        second=sandbox_in(after, "p", 2),
        left=sandbox_in(before, "q"),
        other=sandbox_in(after, "q"),
        workers=workers,
        **more,
    )


SCENES = {
    "moved, vEth, the pods run on": moved("A", "A", "A", running=True),
    "moved, VXLAN": moved("A", "B", "A"),
    "moved, kill": moved("A", "A", "A", killed=True),
    "moved, late DEL": moved("A", "A", "A", late_del=True),
    "moved, kill, the new peer is absent": moved("A", "A", "A", killed=True, peer_absent=True),
    "moved, VXLAN, late DEL, the new peer is absent": moved("A", "B", "A", late_del=True, peer_absent=True),
    "moved live, vEth": moved_live("A", "A", "A"),
    "moved live, vEth to VXLAN": moved_live("A", "A", "B"),
    "moved live, VXLAN to vEth": moved_live("A", "B", "A"),
    "moved live, VXLAN": moved_live("A", "B", "B"),
    "moved live, panel": moved_live("A", "B", "A", "panel"),
    "adjusted, vEth": adjusted("A", "A", "mtu: 1400"),
    "adjusted, VXLAN": adjusted("A", "B", "mtu: 1400"),
    "adjusted, patch": adjusted("A", "A", "mtu: 1400", "panel"),
    "adjusted, panel, VXLAN": adjusted("A", "B", "mtu: 1400", "panel"),
    "a setting is removed, VXLAN": adjusted("A", "B", "mtu: null", before="txqlen: 5"),
    "a setting is removed, panel": adjusted("A", "A", "mtu: null", "panel", before="txqlen: 5"),
    "another port, panel": adjusted("A", "B", "vxlan_port: 4790", "panel"),
    "held down, patch": adjusted("A", "A", "state: down", "panel"),
    "held down, VXLAN": adjusted("A", "B", "state: down", "panel"),
    "cut, patch": adjusted("A", "A", "state: [down, up]", "panel"),
    "cut, VXLAN": adjusted("A", "B", "state: [down, up]", "panel"),
    "renamed, vEth": renamed("A", "A"),
    "renamed, VXLAN": renamed("A", "B"),
    "renamed, vEth, two workers": renamed("A", "A", workers=2, restarted=True),
    "renamed, VXLAN, two workers": renamed("A", "B", workers=2, restarted=True),
}
SLOW = ("moved, VXLAN", "moved, kill", "moved, late DEL", "renamed, vEth", "renamed, VXLAN")

LARGE = {
    "moved, kill and DEL twice": moved("A", "A", "A", killed=True, concurrent_del=True),
    "moved, VXLAN, both peers on the other node": moved("A", "B", "B", late_del=True),
    "moved, VXLAN, kill and late DEL": moved("A", "B", "A", killed=True, late_del=True),
    "renamed, kill and late DEL": renamed("A", "A", killed=True, late_del=True),
    "renamed, VXLAN, kill and late DEL": renamed("A", "B", killed=True, late_del=True),
    "moved, the new peer is absent": moved("A", "A", "A", peer_absent=True, late_del=True),
    "renamed, vEth, two workers, calls": renamed("A", "A", workers=2),
    "renamed, VXLAN, two workers, calls": renamed("A", "B", workers=2),
}


@pytest.mark.parametrize("name", with_thorough(SCENES, SLOW))
def test_no_order_of_steps_breaks_an_edited_link(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run()
    print_report(report)
    assert_no_fault(report)


@pytest.mark.parametrize("name", ["adjusted, patch", "adjusted, panel, VXLAN"])
def test_no_order_of_steps_breaks_an_edited_link_that_an_operation_holds_down(
    name: str, print_report: Callable[[Report], None]
) -> None:
    with held_down_by_an_operation():
        report = SCENES[name].search().run()
    print_report(report)
    assert_no_fault(report)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_no_order_of_steps_breaks_an_edited_link_in_large_scenes(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = LARGE[name].search().run(max_states=20_000_000)
    print_report(report)
    assert_no_fault(report)


# Mutations


@contextmanager
def sharing_interfaces() -> Iterator[None]:
    """A sandbox takes every declared end, even if another link holds the interface."""

    def every(wanted: Iterable[HeldEnd], _held: Iterable[HeldEnd]) -> tuple[HeldEnd, ...]:
        return reserve(wanted, ())

    with patch.object(membership, "reserve", every), patch.object(add, "reserve", every):
        yield


@contextmanager
def forgetting_before_taking_down() -> Iterator[None]:
    """A removed end is first forgotten, then its interface is removed by name, whichever link holds it."""

    def remove_end(self: Membership, entry: SandboxEntry, end: HeldEnd, reason: str, *_: HeldEnd | None) -> None:
        container_id = entry.attachment.container_id
        with self.journal.lock(end.link):
            if has_peer(self.store.links.get(end.link), entry) or not self.journal.still_wants(entry, end):
                return
            RecordWriter(self.store).leave(end.link, container_id, reason)
            self.journal.change_ends(entry.attachment, lambda ends: tuple(one for one in ends if one.link != end.link))
            by_name = replace(entry.location(end), index=0)
            take_down(self.journal, container_id, by_name, end.ifname)

    with patch.object(Membership, "_remove_end", remove_end):
        yield


@contextmanager
def keeping_undeclared_ends() -> Iterator[None]:
    """An end whose link is undeclared is not removed."""
    with patch.object(Membership, "remove_undeclared", lambda *_: None):
        yield


@contextmanager
def leaving_interfaces_behind() -> Iterator[None]:
    """The interface of a removed end stays in the kernel."""
    with patch.object(membership, "take_down", lambda *_: None):
        yield


@contextmanager
def removing_sandboxes_without_their_pod() -> Iterator[None]:
    """A sandbox whose pod is gone leaves the record, though its namespace and its interfaces are still there."""
    with patch.object(liveness, "datapath", SimpleNamespace(namespace_is_there=lambda _: False)):
        yield


@contextmanager
def removing_every_sandbox() -> Iterator[None]:
    """A sandbox leaves the record whether or not its pod and its namespace are there."""

    def gone(*_: object) -> None:
        return None

    with (
        removing_sandboxes_without_their_pod(),
        patch.object(DeclaredPods, "is_cached", gone),
        patch.object(SandboxLiveness, "pod_of", gone),
    ):
        yield


@contextmanager
def disconnecting_while_edited() -> Iterator[None]:
    """An end that was built for an earlier generation counts as not connected."""
    with patch.object(Link, "is_connected", Link.is_ready):
        yield


@contextmanager
def ignoring_edits() -> Iterator[None]:
    """The journal keeps the declaration with which an end was taken."""
    with patch.object(membership, "all_followed", lambda ends, _: ends):
        yield


@contextmanager
def keeping_the_recorded_declaration() -> Iterator[None]:
    """The record keeps its declaration while its primary runs, whatever the primary's journal has."""
    with patch.object(Attempt, "declares", lambda *_: False):
        yield


@contextmanager
def editing_within_a_generation() -> Iterator[None]:
    """An edit does not change the generation, so ends that were built before it stay ready."""
    renewed = record_updates._renewed

    def without_generation(record: Link, wanted: Link) -> tuple[Link, list[record_updates.Move]]:
        return replace(renewed(record, wanted)[0], generation=record.generation), []

    with patch.object(record_updates, "_renewed", without_generation):
        yield


@contextmanager
def forgetting_what_is_removed() -> Iterator[None]:
    """The record does not name the settings that an edit has removed."""
    with patch.object(record_updates, "_resets", lambda *_: ()):
        yield


@contextmanager
def holding_both_ends_at_once() -> Iterator[None]:
    """The pass of one end records that both ends of a link on one node are held down."""
    with patch.object(Link, "built_with", lambda _record, side: (side, side.other)):
        yield


@contextmanager
def ignoring_operations_when_ends_are_noted() -> Iterator[None]:
    """The pass of one end notes both ends, although an operation holds the link down, so that it has built its own."""
    with held_down_by_an_operation(), holding_both_ends_at_once():
        yield


@contextmanager
def switching_at_once() -> Iterator[None]:
    """A cable sends into its new tunnel as soon as it is made."""
    with patch.object(wires, "_switches", lambda *_: True):
        yield


@contextmanager
def disconnecting_for_another_port() -> Iterator[None]:
    """In panel wiring too, an edit of the UDP port takes the carrier of both ends until both tunnels are replaced."""
    with patch.object(record_updates, "Wiring", SimpleNamespace(DIRECT=Wiring.PANEL)):
        yield


@contextmanager
def waiting_for_the_peer_to_leave() -> Iterator[None]:
    """A link that a topology does not declare any more stays while both ends are held."""
    with patch.object(membership, "is_kept", lambda _end, record, entry: has_peer(record, entry)):
        yield


@contextmanager
def removing_every_interface() -> Iterator[None]:
    """No interface is handed over to another link."""
    with patch.object(Handover, "successor", lambda *_: None):
        yield


Witness = tuple[Callable[[], AbstractContextManager[None]], Edit, str]
MUTATIONS: dict[str, Witness] = {
    "an interface has no owner": (sharing_interfaces, moved("A", "A", "A", running=True), CUT_WHILE_RUNNING),
    "an interface has no owner, no new peer": (
        sharing_interfaces,
        moved("A", "B", "A", peer_absent=True, running=True),
        DOUBLY_HELD,
    ),
    "clean-up by name": (forgetting_before_taking_down, renamed("A", "A", workers=2, restarted=True), FALSE_CLAIM),
    "clean-up by name, VXLAN": (
        forgetting_before_taking_down,
        renamed("A", "B", workers=2, restarted=True),
        FALSE_CLAIM,
    ),
    "no end is given up": (keeping_undeclared_ends, renamed("A", "A", restarted=True), OLD_LINK_LEFT),
    "no end is given up, so none is taken": (keeping_undeclared_ends, renamed("A", "B", restarted=True), NOT_LINKED),
    "a pod that is gone is enough": (removing_sandboxes_without_their_pod, renamed("A", "A"), CUT_WHILE_RUNNING),
    "a sandbox needs neither pod nor namespace": (
        removing_every_sandbox,
        moved("A", "A", "A", running=True),
        CUT_WHILE_RUNNING,
    ),
    "an edit disconnects": (disconnecting_while_edited, adjusted("A", "B", "mtu: 1400"), CUT_WHILE_RUNNING),
    "edits are ignored": (ignoring_edits, adjusted("A", "A", "mtu: 1400"), OLD_LINK_LEFT),
    "an edit is not recorded": (keeping_the_recorded_declaration, adjusted("A", "B", "mtu: 1400"), OLD_LINK_LEFT),
    "an edit has no generation": (editing_within_a_generation, adjusted("A", "B", "mtu: 1400"), FALSE_CLAIM),
    "the peer keeps an undeclared link": (waiting_for_the_peer_to_leave, moved_live("A", "B", "A"), OLD_LINK_LEFT),
    "a removed setting is forgotten": (
        forgetting_what_is_removed,
        SCENES["a setting is removed, VXLAN"],
        OTHER_INTERFACES,
    ),
    "both ends held down at once": (holding_both_ends_at_once, SCENES["held down, patch"], FALSE_CLAIM),
    "an operation is ignored when ends are noted": (
        ignoring_operations_when_ends_are_noted,
        SCENES["adjusted, patch"],
        FALSE_CLAIM,
    ),
    "a cable switches before its peer is ready": (switching_at_once, SCENES["another port, panel"], UNTAKEN),
    "an edit of the port disconnects": (
        disconnecting_for_another_port,
        SCENES["another port, panel"],
        CUT_WHILE_RUNNING,
    ),
    "no interface is handed over": (removing_every_interface, moved_live("A", "B", "A", "panel"), CABLE_LOST),
    "interfaces stay": (leaving_interfaces_behind, moved("A", "B", "A", restarted=True), OTHER_INTERFACES),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_the_fault_of_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    mutate, scene, expected = MUTATIONS[name]
    with mutate():
        report = scene.search().run(first_fault=True)
    print_report(report)
    assert expected in report.faults, str(report)
