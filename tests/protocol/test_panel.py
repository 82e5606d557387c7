"""A link in panel wiring whose primary restarts, also on another node, in every order of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from ratchet.core import plan
from ratchet.core.interface import CABLE, PatchWire, Wire
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.plan import Attempt, Build, Step, Wait
from ratchet.core.underlay import Underlay
from ratchet.core.wires import cable_wire
from ratchet.node import endpoint_reconcile
from ratchet.node.end_interface import EndInterface
from tests.protocol import world
from tests.protocol.exploring import LIVELOCK, Report, assert_no_fault
from tests.protocol.mutations import marking_ready_before_building
from tests.protocol.restarting import Scene
from tests.protocol.scenes import FALSE_CLAIM, INTERFACE_OF_DEAD, REPLACED, held_down_by_an_operation
from tests.protocol.world import Interface
from tests.support.lanes import with_thorough

PANEL = Wiring.PANEL

SCENES = {
    "patch": Scene("A", "A", collapse=False, wiring=PANEL),
    "patch, namespaces go": Scene("A", "A", wiring=PANEL),
    "patch, kills and late DEL": Scene("A", "A", kill="s1 s2 t1", late_del=True, collapse=False, wiring=PANEL),
    "patch, all deleted": Scene("A", "A", kill="s1", gone=True, late_del=True, collapse=False, wiring=PANEL),
    "patch, no agents": Scene("A", "A", late_del=True, agents=False, wiring=PANEL),
    "patch, records not seen": Scene("A", "A", kill="t1", collapse=False, unsynced="s1 s2 t1", wiring=PANEL),
    "from patch to VXLAN": Scene("B", "A", collapse=False, wiring=PANEL),
    "from VXLAN to patch, no agents": Scene("B", "B", agents=False, wiring=PANEL),
    "VXLAN, kill": Scene("A", "B", kill="s1", collapse=False, wiring=PANEL),
    "patch, kills, late DEL, namespaces go": Scene("A", "A", kill="s1 s2 t1", late_del=True, wiring=PANEL),
    "patch, DEL without API": Scene("A", "A", api_may_fail=True, late_del=True, collapse=False, wiring=PANEL),
    "patch, ADD gives up": Scene("A", "A", late_del=True, agents=False, may_time_out=True, wiring=PANEL),
    "from patch to VXLAN, kills and late DEL": Scene(
        "B", "A", kill="s1 s2 t1", late_del=True, collapse=False, wiring=PANEL
    ),
    "from VXLAN to patch": Scene("B", "B", kill="s1", collapse=False, wiring=PANEL),
    "VXLAN": Scene("A", "B", collapse=False, wiring=PANEL),
    "patch, the panel is lost": Scene("A", "A", panel_lost=True, collapse=False, wiring=PANEL),
    "from patch to VXLAN, the panel is lost": Scene("B", "A", panel_lost=True, collapse=False, wiring=PANEL),
    "VXLAN, kill of the next primary": Scene("A", "B", kill="s2", collapse=False, wiring=PANEL),
    "VXLAN, all deleted, no agents": Scene(
        "A", "B", gone=True, late_del=True, agents=False, collapse=False, wiring=PANEL
    ),
}

SLOW = (
    "from patch to VXLAN, kills and late DEL",
    "from patch to VXLAN, the panel is lost",
    "VXLAN, all deleted, no agents",
)


@pytest.mark.parametrize("name", with_thorough(SCENES, SLOW))
def test_no_order_of_steps_breaks_a_link_in_panel_wiring(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run(to_rest=name not in SLOW)
    print_report(report)
    assert_no_fault(report)


@pytest.mark.parametrize("name", ["patch", "patch, kills and late DEL", "from patch to VXLAN", "VXLAN, kill"])
def test_no_order_of_steps_breaks_a_link_that_an_operation_holds_down(
    name: str, print_report: Callable[[Report], None]
) -> None:
    with held_down_by_an_operation():
        report = SCENES[name].search().run(to_rest=True)
    print_report(report)
    assert_no_fault(report)


@contextmanager
def cutting_the_tunnel_of_a_waiting_end() -> Iterator[None]:
    """The tunnel of an end is removed when its peer leaves. The record may still call the end ready for its VTEP."""

    def without_tunnel(*given: Any, **options: Any) -> Any:
        return cable_wire(*given, **options, keeps_tunnel=False)

    with patch.object(plan, "cable_wire", without_tunnel):
        yield


@contextmanager
def removing_the_cable_with_a_freed_vni() -> Iterator[None]:
    with patch.object(EndInterface, "remove_tunnel", lambda self, _: self.take_down()):
        yield


@contextmanager
def removing_the_cable_of_a_waiting_end() -> Iterator[None]:
    """An end whose peer has left is taken down, as in direct wiring."""
    with (
        patch.object(endpoint_reconcile, "may_lose_connection", lambda _, underlay: underlay.has_agent),
        patch.object(EndInterface, "is_connected", lambda _: True),
        patch.object(EndInterface, "disconnect", EndInterface.take_down),
    ):
        yield


@contextmanager
def keeping_the_carrier_of_a_waiting_end() -> Iterator[None]:
    """A cable that exists is left as it is while its end waits."""
    wait_for_peer = plan._wait_for_peer

    def waiting(attempt: Attempt, record: Link, underlay: Underlay, observed: Any) -> Step:
        step = wait_for_peer(attempt, record, underlay, observed)
        exists = observed is not None and observed.near is not None and observed.near.kind == CABLE
        return Wait() if isinstance(step, Build) and exists else step

    with patch.object(plan, "_wait_for_peer", waiting):
        yield


@contextmanager
def making_the_cable_of_the_peer() -> Iterator[None]:
    """A pass also makes the peer's cable, in a sandbox that may be dead."""
    with_cable = world._with_cable

    def with_both(interfaces: frozenset[Interface], wire: Wire) -> frozenset[Interface]:
        made = with_cable(interfaces, wire)
        return with_cable(made, replace(wire, near=wire.far)) if isinstance(wire, PatchWire) else made

    world._made.cache_clear()
    try:
        with patch.object(world, "_with_cable", with_both), patch.object(plan, "PatchWire", ()):
            yield
    finally:
        world._made.cache_clear()


# Each mutation, the smallest scene that shows it, and the fault that the rule prevents.
Mutation = Callable[[], AbstractContextManager[None]]
MUTATIONS: dict[str, tuple[Mutation, str, str]] = {
    "the tunnel of a waiting end is cut": (cutting_the_tunnel_of_a_waiting_end, "VXLAN, kill", FALSE_CLAIM),
    "a freed VNI takes the cable": (
        removing_the_cable_with_a_freed_vni,
        "from VXLAN to patch, no agents",
        REPLACED,
    ),
    "a waiting end loses its cable": (removing_the_cable_of_a_waiting_end, "patch", REPLACED),
    "a waiting end keeps its carrier": (
        keeping_the_carrier_of_a_waiting_end,
        "VXLAN, kill of the next primary",
        LIVELOCK,
    ),
    "a pass makes the peer's cable": (making_the_cable_of_the_peer, "patch, the panel is lost", INTERFACE_OF_DEAD),
    "noting before patching": (marking_ready_before_building, "patch, kills and late DEL", FALSE_CLAIM),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_the_fault_of_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    mutation, scene, expected = MUTATIONS[name]
    with mutation():
        report = SCENES[scene].search().run(first_fault=True, to_rest=expected == LIVELOCK)
    print_report(report)
    assert expected in report.faults, str(report)
