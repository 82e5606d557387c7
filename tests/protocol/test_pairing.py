"""ADD and DEL of one link, in every order of steps (see `exploring` and `scenes`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.protocol.exploring import LIVELOCK, Report, assert_no_fault
from tests.protocol.mutations import MUTATIONS
from tests.protocol.restarting import Scene
from tests.protocol.scenes import (
    FALSE_CLAIM,
    INTERFACE_OF_DEAD,
    LIVE_NOT_LINKED,
    WRONG_DATA,
)
from tests.support.lanes import with_thorough

ALL = "s1 s2 t1"

SCENES = {
    "vEth": Scene("A", "A"),
    "vEth, kills and late DEL": Scene("A", "A", kill=ALL, late_del=True, collapse=False),
    "vEth, interfaces deleted by hand": Scene("A", "A", deleted_by_hand=True, collapse=False),
    "vEth, DEL without API": Scene("A", "A", api_may_fail=True, late_del=True, collapse=False),
    "vEth, all deleted": Scene("A", "A", kill="s1", gone=True, late_del=True, collapse=False),
    "vEth, no agents": Scene("A", "A", late_del=True, agents=False),
    "vEth, ADD gives up": Scene("A", "A", late_del=True, agents=False, may_time_out=True),
    "vEth, records not seen": Scene("A", "A", kill="t1", late_del=True, collapse=False, unsynced=ALL),
    "VXLAN, records not seen": Scene("A", "B", kill="s1", collapse=False, unsynced=ALL),
    "from vEth to VXLAN, records not seen": Scene("B", "A", collapse=False, unsynced=ALL),
    "VXLAN, kill": Scene("A", "B", kill="s1", collapse=False),
    "VXLAN, late DEL and kill, no agents": Scene("A", "B", kill="s1", late_del=True, agents=False, collapse=False),
    "VXLAN, ADD gives up": Scene("A", "B", agents=False, may_time_out=True, collapse=False),
    "VXLAN, all deleted, no agents": Scene("A", "B", gone=True, late_del=True, agents=False, collapse=False),
    "from vEth to VXLAN": Scene("B", "A", collapse=False),
    "from VXLAN to vEth, no agents": Scene("B", "B", agents=False),
}

LARGE = {
    "vEth, kills, late DEL, namespaces go": Scene("A", "A", kill=ALL, late_del=True),
    "vEth, all deleted, kills": Scene("A", "A", kill=ALL, gone=True, late_del=True),
    "VXLAN": Scene("A", "B"),
    "VXLAN, kills and late DEL": Scene("A", "B", kill=ALL, late_del=True, collapse=False),
    "VXLAN, kill of the pair": Scene("A", "B", kill="t1", collapse=False),
    "VXLAN, all deleted": Scene("A", "B", kill="s1", gone=True, collapse=False),
    "VXLAN, DEL without API": Scene("A", "B", gone=True, api_may_fail=True, collapse=False),
    "from VXLAN to vEth": Scene("B", "B", collapse=False, kill="s1"),
    "from vEth to VXLAN, kills": Scene("B", "A", collapse=False, kill=ALL, late_del=True),
}

# Scenes that are small enough for `to_rest`, which keeps all steps in memory.
SMALL = ("vEth", "vEth, interfaces deleted by hand", "from vEth to VXLAN")


@pytest.mark.parametrize("name", with_thorough(SCENES, ["VXLAN, all deleted, no agents"]))
def test_no_order_of_steps_breaks_the_pairing(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run(to_rest=name in SMALL)
    print_report(report)
    assert_no_fault(report)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_no_order_of_steps_breaks_the_pairing_in_large_scenes(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = LARGE[name].search().run(max_states=20_000_000)
    print_report(report)
    assert_no_fault(report)


def test_without_agents_a_link_does_not_follow_a_peer_to_another_node(print_report: Callable[[Report], None]) -> None:
    """A documented limit: ADD of the pair has ended when the primary starts on another node.

    The record is not `linked` then: the search would otherwise find another fault.
    """
    report = Scene("B", "A", agents=False).search().run()
    print_report(report)
    assert set(report.faults) == {LIVE_NOT_LINKED}, str(report)


# The smallest scene that shows each mutation, and the fault that the rule prevents.
WITNESSES: dict[str, tuple[Scene, str]] = {
    "no lock": (Scene("A", "A", kill="t1", agents=False), FALSE_CLAIM),
    "the record is read outside the lock": (Scene("A", "A", kill="t1", agents=False), FALSE_CLAIM),
    "no look for the tombstone before the note": (Scene("A", "A", kill="t1", collapse=False), INTERFACE_OF_DEAD),
    "no look for the tombstone once joined": (Scene("A", "A", kill="t1", collapse=False), INTERFACE_OF_DEAD),
    "no look for the tombstone": (Scene("A", "A", kill="t1", collapse=False), INTERFACE_OF_DEAD),
    "leaving without comparing": (Scene("A", "A", late_del=True, agents=False), LIVE_NOT_LINKED),
    "readiness as a flag": (Scene("B", "A", collapse=False), FALSE_CLAIM),
    "writing without a version": (Scene("A", "B", collapse=False), WRONG_DATA),
    "deleting without a version": (Scene("A", "B", collapse=False), LIVE_NOT_LINKED),
    "believing the record": (Scene("A", "A", deleted_by_hand=True, collapse=False), LIVELOCK),
    "destroying from memory": (Scene("A", "A", collapse=False), FALSE_CLAIM),
    "creating over a record": (Scene("A", "B", collapse=False, unsynced=ALL), LIVE_NOT_LINKED),
    "noting before building": (Scene("A", "A", kill="s1", late_del=True, collapse=False), FALSE_CLAIM),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_the_fault_of_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    mutation, (scene, expected) = MUTATIONS[name], WITNESSES[name]
    with mutation.patched():
        report = scene.search(mutation.rules).run(first_fault=True, to_rest=expected == LIVELOCK)
    print_report(report)
    assert expected in report.faults, str(report)
