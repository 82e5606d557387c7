"""The hostile topologies of a chaos run: what each does to its own pods, and that it concerns no other pod."""

from __future__ import annotations

import pytest

from ratchet.core.intent import wanted_links
from ratchet.core.pod import Topology
from tests.chaos.steps import HOSTILE_PODS, PODS, Family, Fault
from tests.chaos.tenants import CROWD, hostile_topology
from tests.support.links import pod

ALL = [pod(name) for name in (*HOSTILE_PODS, *PODS)]
HOSTILE = [fault for fault in Fault if fault.family is Family.TENANT]


@pytest.mark.parametrize("fault", [fault for fault in HOSTILE if fault is not Fault.CROWD])
def test_an_invalid_topology_rejects_the_hostile_pods_only(fault: Fault) -> None:
    wanted = wanted_links(ALL, topologies=[Topology("default", "hostile", hostile_topology(fault))])
    assert {one.ref.name for one in ALL if one.ref.uid in wanted.refused} == set(HOSTILE_PODS)


def test_a_crowd_is_hundreds_of_valid_links_between_the_hostile_pods() -> None:
    wanted = wanted_links(ALL, topologies=[Topology("default", "hostile", hostile_topology(Fault.CROWD))])
    assert not wanted.refused
    assert len(wanted.links) == CROWD
    assert {end.name for link in wanted.links for end in (link.link.primary, link.link.pair)} == set(HOSTILE_PODS)


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_topology_fits_into_a_config_map(fault: Fault) -> None:
    assert len(hostile_topology(fault)) < 1 << 20
