"""The text of `ratchet inspect` for a link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ratchet.cli.describe import describe_link
from ratchet.core.endpoint_spec import EndpointSpec
from ratchet.core.kinds import Wiring
from ratchet.core.model import Encapsulation, Link, Side
from ratchet.core.observation import Live, Observation, Traffic
from ratchet.core.operations import RecordedOperation
from ratchet.core.record_updates import join, mark_ready
from ratchet.core.serialize import plain
from tests.support.links import NOW, later, own, wanted

# As an agent sends it. The agent may have another version.
DEVICE = {
    "ifname": "in1",
    "index": 7,
    "kind": "vxlan",
    "ours": True,
    "up": True,
    "mtu": 1450,
    "mac": "02:00:00:00:00:01",
    "addresses": ["192.168.2.100/24", "fd00::1/64"],
    "wired": True,
    "vni": 11,
    "remote": "192.168.1.33",
    "local": "192.168.1.73",
    "port": 4789,
    "parent_index": 2,
    "given": ["192.168.2.100/24"],
    "carrier": True,
    "carrier_fixed": False,
    "brought_up": True,
}
LIVE = Live(carrier=False, rx=Traffic(3, 300, 0, 0), tx=Traffic(4, 412, 0, 1))


def half_ready() -> Link:
    sandbox = replace(own(Side.PRIMARY), vteps=("192.168.1.73", "fd00::73"), underlay_mtu=9000)
    link = join(wanted(), wanted(), Side.PRIMARY, sandbox, NOW)
    link = join(link, wanted(), Side.PAIR, own(Side.PAIR, "node-b"), later(2))
    link = mark_ready(replace(link, vni=11, created=NOW), Side.PRIMARY, later(3))
    primary = replace(link.primary, properties=EndpointSpec(mtu=1400))
    return replace(link, primary=primary, pair=replace(link.pair, notes={"public_ip": "1.1.1.1"}))


def seen(*differences: str, **more: object) -> Mapping[str, Any]:
    """The observation of the primary's end that its agent returns."""
    known = {"device": {**DEVICE, **more}, "live": plain(LIVE), "differences": list(differences), "fault": ""}
    return {"node": "node-a", "at": later(298).isoformat(), **known}


def test_an_operation_is_described_until_it_ends() -> None:
    link = replace(wanted(), operation=RecordedOperation("1", "down", "alice", NOW, later(30)))
    assert (
        "Operation:   down, by alice, since 2026-03-04 05:06:07 UTC, until 2026-03-04 05:06:37 UTC (25s left)\n"
        in describe_link(link, {}, later(5))
    )
    assert "Operation" not in describe_link(link, {}, later(30))


GOLDEN = """\
Name:        default.pair-pod.in2.primary-pod.in1
Namespace:   default
State:       pair-ready, for 4m
Kind:        vxlan
VNI:         11
Generation:  1
Created:     2026-03-04 05:06:07 UTC, 5m ago
Primary:
  Name:          primary-pod
  Pod:           primary-pod, UID primary-pod-uid1
  Node:          node-a
  VTEPs:         192.168.1.73, fd00::73
  Underlay MTU:  9000
  Sandbox:       primary-pod-c1, /run/netns/primary-pod-1
  Stands:        yes
  Observed:      2026-03-04 05:11:05 UTC, by the agent of its node
  Differences:   in1 has MTU 1450, wanted 1400
                 in1 is blue
  Interface:
                WANTED             OBSERVED
    ifname      in1                in1
    addresses   192.168.2.100/24   192.168.2.100/24
                                   fd00::1/64
    mtu         1400               1450
    mac                            02:00:00:00:00:01
    kind                           vxlan
    up                             yes
    vni                            11
    remote                         192.168.1.33
    local                          192.168.1.73
    port                           4789
    carrier                        no
  Counters:
         PACKETS   BYTES   ERRORS   DROPPED
    rx   3         300     0        0
    tx   4         412     0        1
Pair:
  Name:          pair-pod
  Pod:           pair-pod, UID pair-pod-uid1
  Node:          node-b
  VTEPs:         192.168.1.33
  Underlay MTU:  -
  Sandbox:       pair-pod-c1, /run/netns/pair-pod-1
  Stands:        no
  Note:          public_ip: 1.1.1.1
  Not observed:  cannot ask the agent of node-b: no agent runs in a pod there, and others cannot be asked
  Interface:
                WANTED             OBSERVED
    ifname      in2
    addresses   192.168.2.101/24
History:
  WHEN                      FROM            TO              WHY
  2026-03-04 05:06:07 UTC   pending         primary-ready   primary default/primary-pod joined on node-a
  2026-03-04 05:06:09 UTC   primary-ready   pair-ready      pair default/pair-pod joined on node-b"""


def test_a_link_is_described_with_all_known_values() -> None:
    fault = plain(
        Observation(fault="cannot ask the agent of node-b: no agent runs in a pod there, and others cannot be asked")
    )
    observations = {
        Side.PRIMARY: seen("in1 has MTU 1450, wanted 1400", "in1 is blue"),
        Side.PAIR: {"node": "node-b", "at": None, **fault},
    }
    assert describe_link(half_ready(), observations, later(300)) == GOLDEN


@pytest.mark.parametrize(
    ("device", "shown"),
    [
        ({"up": False}, ["Shut:          by its pod: ip link set in1 up, in the pod, ends it"]),
        ({"up": True}, []),
        ({"up": False, "brought_up": False}, []),
    ],
)
def test_an_end_that_its_pod_has_set_down_is_described(device: Mapping[str, Any], shown: list[str]) -> None:
    lines = describe_link(half_ready(), {Side.PRIMARY: seen(**device)}, later(300)).splitlines()
    assert [line.strip() for line in lines if line.strip().startswith("Shut:")] == shown


NO_FRAME = "no frame of the peer's panel arrives over the tunnel"


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        (None, []),
        ({"verified": 2.6, "silent": None}, ["Verified: 3 s ago, by a frame of the peer's panel"]),
        ({"verified": None, "silent": None}, ["Verified: not yet"]),
        (
            {"verified": 61.0, "silent": 61.0},
            ["Silent: for 61 s: no frame of the peer's panel arrives over the tunnel"],
        ),
        (
            {"verified": None, "silent": 40.2},
            ["Silent: for 40 s: no frame of the peer's panel arrives over the tunnel"],
        ),
    ],
)
def test_what_frames_prove_of_a_tunnel_is_described(proof: dict[str, float | None] | None, said: list[str]) -> None:
    description = describe_link(half_ready(), {Side.PRIMARY: {**seen(), "proof": proof}}, later(300))
    lines = [" ".join(line.split()) for line in description.splitlines()]
    assert [line for line in lines if line.startswith(("Verified:", "Silent:"))] == said


@pytest.mark.parametrize("far_up", [None, True, False])
def test_an_end_whose_far_pod_has_set_its_own_down_is_described(far_up: bool | None) -> None:
    description = describe_link(half_ready(), {Side.PRIMARY: seen(far_up=far_up)}, later(300))
    assert ("Peer shut:" in description) is (far_up is False)
    assert "far_up" not in description


def test_an_end_is_described_as_observed_by_an_agent_of_version_0_1() -> None:
    """It does not say whether it has brought an interface up."""
    device = {key: value for key, value in DEVICE.items() if key != "brought_up"}
    observation = {**seen(), "device": {**device, "up": False}}
    assert "Shut:" not in describe_link(half_ready(), {Side.PRIMARY: observation}, later(300))


def test_a_link_that_no_pod_has_joined_is_described() -> None:
    description = describe_link(wanted(), {}, NOW)
    assert description.splitlines()[2:7] == [
        "State:       pending",
        "Kind:        -",
        "VNI:         -",
        "Generation:  1",
        "Created:     -",
    ]
    assert description.count("none has joined") == 2
    assert description.endswith("History:\n  none")


def test_panel_wiring_is_shown_after_the_kind() -> None:
    link = replace(half_ready(), wiring=Wiring.PANEL)
    assert describe_link(link, {}, NOW).splitlines()[3:6] == [
        "Kind:        vxlan",
        "Wiring:      panel",
        "VNI:         11",
    ]


@pytest.mark.parametrize(
    ("wiring", "mtu", "vtep", "line"),
    [
        (Wiring.PANEL, 20000, "192.168.1.73", "  Fragmented:    a packet of 20000 bytes takes 3 outer packets"),
        (Wiring.PANEL, 8950, "192.168.1.73", None),
        (Wiring.PANEL, 20000, "fd00::73", None),
        (Wiring.DIRECT, 20000, "192.168.1.73", None),
    ],
)
def test_the_outer_packets_of_a_full_size_packet_are_shown(
    wiring: Wiring, mtu: int, vtep: str, line: str | None
) -> None:
    """Only in panel wiring over IPv4, and if the underlay does not carry the packet in one."""
    link = replace(half_ready(), wiring=wiring)
    sandboxes = (
        replace(own(Side.PRIMARY), vteps=(vtep,), underlay_mtu=9000),
        replace(own(Side.PAIR, "node-b"), vteps=(vtep,)),
    )
    for side, sandbox in zip((Side.PRIMARY, Side.PAIR), sandboxes, strict=True):
        link = link.with_end(side, replace(link.end(side), sandbox=sandbox))
    lines = describe_link(link, {Side.PRIMARY: seen(mtu=mtu)}, NOW).splitlines()
    assert [one for one in lines if "Fragmented" in one] == ([line] if line else [])


def test_a_declared_encapsulation_is_shown() -> None:
    link = replace(half_ready(), encapsulation=Encapsulation(tunnel=True, vxlan_port=4790))
    assert describe_link(link, {}, NOW).splitlines()[4:7] == [
        "VNI:                     11",
        "tunnel (asked for):      yes",
        "vxlan_port (asked for):  4790",
    ]


def test_an_end_without_differences_is_shown_with_none() -> None:
    description = describe_link(half_ready(), {Side.PRIMARY: seen()}, NOW)
    assert "  Differences:   none\n" in description
    assert "Not observed" not in description


def test_observed_properties_without_a_declared_value_are_shown() -> None:
    observation = seen(
        routes=[{"to": "10.0.0.0/8", "via": "192.168.2.1", "metric": None}, {"to": "10.1.0.0/16", "via": None}],
        sysctls=[["net.ipv4.conf.IFNAME.rp_filter", 2]],
        rate=1000,
    )
    description = describe_link(half_ready(), {Side.PRIMARY: observation}, NOW)
    lines = [line.split("   ")[-1].strip() for line in description.splitlines()]
    assert "to 10.0.0.0/8, via 192.168.2.1" in lines
    assert "to 10.1.0.0/16" in lines
    assert "net.ipv4.conf.IFNAME.rp_filter = 2" in lines
    assert "1000" in lines


def test_unprintable_text_of_users_is_escaped_for_the_terminal() -> None:
    link = half_ready()
    link = replace(link, pair=replace(link.pair, notes={"public_ip": "é\x1b[2J\nName: other\u202e"}))
    description = describe_link(link, {}, NOW)
    assert "  Note:          public_ip: é\\x1b[2J\\nName: other\\u202e" in description.splitlines()
