"""The UDP ports that links may use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.ports import PORT_MOST, PortRange, default_range, link_fault, range_fault

RANGE = (4789, 4799)


@pytest.mark.parametrize(
    ("port", "found"), [(4789, (4789, 4799)), (8472, (8472, 8482)), (65535, (65525, 65535)), (65530, (65525, 65535))]
)
def test_the_default_range_has_the_nodes_port_and_ten_others(port: int, found: PortRange) -> None:
    assert default_range(port) == found


@given(st.integers(1, PORT_MOST))
def test_the_default_range_suits_every_port(port: int) -> None:
    assert range_fault(port, default_range(port)) is None
    assert link_fault(None, port, default_range(port), one_node=True) is None


@pytest.mark.parametrize(
    ("port", "allowed", "fault"),
    [
        (4789, (4789, 4791), None),
        (4789, (4789, 4790), "vxlan_ports must include 4789-4791 for the vxlan_port 4789, not 4789-4790"),
        (4789, (5000, 5010), "vxlan_ports must include 4789-4791 for the vxlan_port 4789, not 5000-5010"),
        (65535, (65533, 65535), None),
        (65535, (65534, 65535), "vxlan_ports must include 65533-65535 for the vxlan_port 65535, not 65534-65535"),
    ],
)
def test_a_range_must_include_the_nodes_port_and_those_of_tunnels_on_one_node(
    port: int, allowed: PortRange, fault: str | None
) -> None:
    assert range_fault(port, allowed) == fault


@pytest.mark.parametrize(
    ("declared", "one_node", "fault"),
    [
        (None, False, None),
        (None, True, None),
        (4799, False, None),
        (4797, True, None),
        (4788, False, "vxlan_port: 4788 is not in vxlan_ports, 4789-4799"),
        (4788, True, "vxlan_port: 4788 is not in vxlan_ports, 4789-4799"),
        (53, False, "vxlan_port: 53 is not in vxlan_ports, 4789-4799"),
        (4798, True, "vxlan_port: 4798 needs 4799 and 4800 on one node, which are not in vxlan_ports, 4789-4799"),
    ],
)
def test_every_port_of_a_link_must_be_in_the_range(declared: int | None, one_node: bool, fault: str | None) -> None:
    assert link_fault(declared, 4789, RANGE, one_node=one_node) == fault


def test_a_link_may_use_the_nodes_own_port_outside_of_the_range() -> None:
    """The network configuration can set another port than the agent's, whose range the administrator has set."""
    assert link_fault(None, 5000, RANGE, one_node=False) is None
    assert link_fault(5000, 5000, RANGE, one_node=False) is None
    assert link_fault(None, 5000, RANGE, one_node=True) is not None
