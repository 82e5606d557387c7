from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.interface import InterfaceSpec
from ratchet.datapath import messages
from ratchet.datapath.netns import open_netns
from ratchet.datapath.panel.attachments import remove_group
from ratchet.datapath.panel.cables import cables_of
from ratchet.datapath.panel.carrier import pod_end_is_up, set_carrier
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.parse import known_as
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from ratchet.errors import ForeignInterfaceError
from tests.support.namespaces import Bed
from tests.support.panels import INDEXES, MACS, Panels, group_of


@pytest.fixture
def panel(pods: Bed, panels: Panels) -> Panel:
    """A panel, and the pods pod-a and pod-b."""
    return panels.make()


def _end(spec: InterfaceSpec) -> str:
    """The name of the panel's end."""
    assert spec.slot is not None
    return spec.slot.cable(spec.index)


def _make_by_hand(bed: Bed, spec: InterfaceSpec, *, pod: str = "pod-a", index: int = 0, end: str = "") -> None:
    """Make the vEth of a cable as a process that is killed right after its creation."""
    assert spec.slot is not None
    near = (spec.ifname, "index", str(spec.index), "mtu", str(spec.mtu), "group", str(messages.GROUP))
    far = ("name", end or _end(spec), *(("index", str(index)) if index else ()), "group", str(spec.slot.group))
    bed.ip(pod, "link", "add", *near, "type", "veth", "peer", *far, "netns", bed.name("panel"))


def _has_carrier(bed: Bed, pod: str) -> bool:
    return "LOWER_UP" in bed.show(pod, "eth1")["flags"]


def test_a_cable_has_its_final_interface_in_the_pod_and_no_carrier(pods: Bed, panels: Panels, panel: Panel) -> None:
    spec = panels.spec("pod-a", "a")
    cable = panels.make_cable(panel, spec)
    shown = pods.show("pod-a", "eth1")
    assert (shown["ifindex"], shown["address"], shown["mtu"]) == (INDEXES["a"], MACS["a"], 1400)
    assert (shown["group"], shown["ifalias"]) == (str(messages.GROUP), "ratchet/a-b")
    assert {"UP", "NO-CARRIER"} <= set(shown["flags"])
    assert {"192.168.2.1", "fd00::1"} <= {one["local"] for one in shown["addr_info"]}
    assert pods.run("pod-a", "cat", "/proc/sys/net/ipv6/conf/eth1/accept_ra") == "0\n"
    end = pods.show("panel", _end(spec))
    assert (end["mtu"], end["group"], end["ifalias"]) == (65535, str(group_of("pod-a")), "ratchet/a-b")
    assert (end["ifindex"], end["addr_info"], "UP" in end["flags"]) == (cable.index, [], False)
    assert cable.index != INDEXES["a"]
    assert (pods.interfaces("pod-a"), pods.interfaces("panel")) == (["eth1"], [_end(spec)])


def test_the_ends_never_have_one_ifindex(pods: Bed, panels: Panels, panel: Panel) -> None:
    """The panel's kernel would assign the index that the pod's end has."""
    pods.ip("panel", "link", "add", "probe", "type", "bridge")
    following = pods.show("panel", "probe")["ifindex"] + 1
    pods.ip("panel", "link", "del", "probe")
    spec = panels.spec("pod-a", "a")
    cable = panels.make_cable(panel, replace(spec, index=following))
    assert pods.show("pod-a", "eth1")["ifindex"] == following
    assert cable.index != following


def test_ensure_does_not_change_a_matching_cable(pods: Bed, panels: Panels, panel: Panel) -> None:
    cable = panels.cable(panel, "pod-a", "a")
    with Channel(panel.netns) as channel:
        assert set_carrier(channel, cable, True)
    before = pods.show("pod-a", "eth1"), pods.show("panel", cable.ifname)
    assert panels.cable(panel, "pod-a", "a").up
    assert (pods.show("pod-a", "eth1"), pods.show("panel", cable.ifname)) == before


def test_all_cables_are_observed_with_the_ends_that_they_lead_to(pods: Bed, panels: Panels, panel: Panel) -> None:
    made = [panels.cable(panel, "pod-a", "a"), panels.cable(panel, "pod-b", "b")]
    pods.ip("panel", "link", "add", "stranger", "type", "bridge")
    assert cables_of(panel) == made
    assert [cable.pod_index for cable in made] == [INDEXES["a"], INDEXES["b"]]
    assert [cable.group for cable in made] == [group_of("pod-a"), group_of("pod-b")]
    for cable, pod in zip(made, ("pod-a", "pod-b"), strict=True):
        with open_netns(pods.path(pod)) as netns, Channel(panel.netns) as channel:
            assert cable.pod_nsid == known_as(channel, netns)


def test_ensure_completes_a_half_made_cable(pods: Bed, panels: Panels, panel: Panel) -> None:
    spec = panels.spec("pod-a", "a")
    _make_by_hand(pods, spec)
    index = pods.show("panel", _end(spec))["ifindex"]
    cable = panels.make_cable(panel, spec)
    shown = pods.show("pod-a", "eth1")
    assert (cable.index, cable.mtu, cable.alias) == (index, 65535, "ratchet/a-b"), "finished, not remade"
    assert (shown["ifindex"], "UP" in shown["flags"], shown["ifalias"]) == (INDEXES["a"], True, "ratchet/a-b")
    assert "192.168.2.1" in {one["local"] for one in shown["addr_info"]}


def test_a_changed_specification_is_applied_in_place(pods: Bed, panels: Panels, panel: Panel) -> None:
    before = panels.cable(panel, "pod-a", "a")
    pods.ip("panel", "link", "set", before.ifname, "mtu", "1500", "group", "7")
    pods.ip("panel", "link", "set", before.ifname, "group", str(before.group))
    after = panels.cable(panel, "pod-a", "a", mtu=9000)
    assert after == before, "the panel's end has its MTU again"
    shown = pods.show("pod-a", "eth1")
    assert (shown["ifindex"], shown["address"], shown["mtu"]) == (INDEXES["a"], MACS["a"], 9000)


def test_an_interface_that_its_pod_has_shut_stays_shut(pods: Bed, panels: Panels, panel: Panel) -> None:
    panels.cable(panel, "pod-a", "a")
    pods.ip("pod-a", "link", "set", "eth1", "down")
    panels.cable(panel, "pod-a", "a", mtu=1300)
    shown = pods.show("pod-a", "eth1")
    assert (shown["mtu"], "UP" in shown["flags"]) == (1300, False)


def test_a_late_deletion_of_a_former_attachment_takes_its_own_cable(pods: Bed, panels: Panels, panel: Panel) -> None:
    """The pod starts again in another namespace, before its former attachment is deleted."""
    panels.cable(panel, "pod-b", "a")
    cable = panels.cable(panel, "pod-a", "a")
    assert remove_group(panel, group_of("pod-b")) is True
    assert (cables_of(panel), pods.interfaces("pod-b")) == ([cable], [])
    assert pods.show("pod-a", "eth1")["ifindex"] == INDEXES["a"]


def test_a_half_made_cable_whose_ends_have_one_ifindex_is_replaced(pods: Bed, panels: Panels, panel: Panel) -> None:
    spec = panels.spec("pod-a", "a")
    _make_by_hand(pods, spec, index=INDEXES["a"])
    cable = panels.make_cable(panel, spec)
    assert (pods.show("pod-a", "eth1")["ifindex"], cable.index == INDEXES["a"]) == (INDEXES["a"], False)


def test_the_ends_of_two_cables_are_no_cable(pods: Bed, panels: Panels, panel: Panel) -> None:
    """The panel's end leads to an interface of the same ifindex in another pod."""
    spec = panels.spec("pod-a", "a")
    _make_by_hand(pods, spec, end="other")
    _make_by_hand(pods, spec, pod="pod-b")
    cable = panels.make_cable(panel, spec)
    assert (cables_of(panel), pods.interfaces("pod-b")) == ([cable], [])
    with open_netns(pods.path("pod-a")) as netns, Channel(panel.netns) as channel:
        assert cable.pod_nsid == known_as(channel, netns)


def test_a_leftover_interface_under_the_pods_name_is_replaced(pods: Bed, panels: Panels, panel: Panel) -> None:
    spec = panels.spec("pod-a", "a")
    _make_by_hand(pods, spec, end="other")
    cable = panels.make_cable(panel, spec)
    assert cables_of(panel) == [cable]
    assert pods.show("pod-a", "eth1")["ifindex"] == INDEXES["a"]


def test_foreign_interfaces_are_refused_and_left(pods: Bed, panels: Panels, panel: Panel) -> None:
    spec = panels.spec("pod-a", "a")
    pods.ip("pod-a", "link", "add", "eth1", "type", "bridge")
    with pytest.raises(ForeignInterfaceError, match="an interface of that name exists and is not Ratchet's"):
        panels.make_cable(panel, spec)
    pods.ip("pod-a", "link", "del", "eth1")
    pods.ip("panel", "link", "add", _end(spec), "type", "bridge")
    with pytest.raises(ForeignInterfaceError, match=f"cannot make {_end(spec)} in .*it exists and is not Ratchet's"):
        panels.make_cable(panel, spec)
    pods.ip("panel", "link", "del", _end(spec))
    panels.cable(panel, "pod-a", "a")
    with pytest.raises(ForeignInterfaceError, match="it belongs to another link"):
        panels.make_cable(panel, replace(spec, index=1_000_008), link="a-c")
    assert pods.show("pod-a", "eth1")["ifindex"] == INDEXES["a"]


def test_the_cables_of_an_attachment_are_deleted_together(pods: Bed, panels: Panels, panel: Panel) -> None:
    first = panels.spec("pod-a", "a")
    for spec in (first, replace(first, ifname="eth2", addresses=(), mac="", index=1_000_002)):
        panels.make_cable(panel, spec)
    other = panels.cable(panel, "pod-b", "b")
    assert remove_group(panel, group_of("pod-a")) is True
    assert (pods.interfaces("pod-a"), pods.interfaces("pod-b")) == ([], ["eth1"])
    assert cables_of(panel) == [other]
    assert remove_group(panel, group_of("pod-a")) is False


@pytest.mark.parametrize("group", [0, 1, messages.GROUP])
def test_only_the_group_of_an_attachment_can_be_deleted(group: int, panel: Panel) -> None:
    with pytest.raises(ValueError, match="is not the group of an attachment"):
        remove_group(panel, group)


def test_the_panel_end_gives_and_takes_the_carrier_of_the_pods(pods: Bed, panels: Panels, panel: Panel) -> None:
    cable = panels.cable(panel, "pod-a", "a")
    before = _identity(pods)
    with Channel(panel.netns) as channel:
        for has in (True, False, True):
            assert set_carrier(channel, cable, has) is True
            wait_for("the carrier", lambda has=has: _has_carrier(pods, "pod-a") is has)  # type: ignore[misc]
            assert cables_of(panel)[0].up is cables_of(panel)[0].carrier is has
            assert "UP" in pods.show("pod-a", "eth1")["flags"], "its pod has not shut it"
        assert _identity(pods) == before
        remove_group(panel, cable.group)
        assert set_carrier(channel, cable, True) is False


def _identity(bed: Bed) -> tuple[object, ...]:
    shown = bed.show("pod-a", "eth1")
    return (
        shown["ifindex"],
        shown["address"],
        shown["mtu"],
        [one["local"] for one in shown["addr_info"] if one["scope"] == "global"],
    )


def test_the_panel_sees_whether_a_pod_has_shut_its_end(pods: Bed, panels: Panels, panel: Panel) -> None:
    """Also while the panel's end is down, when the kernel shows no carrier either way."""
    cable = panels.cable(panel, "pod-a", "a")
    with Channel(panel.netns) as channel:
        for up in (False, True):
            assert set_carrier(channel, cable, up)
            for state, is_up in (("down", False), ("up", True)):
                pods.ip("pod-a", "link", "set", "eth1", state)
                assert pod_end_is_up(channel, cable) is is_up
                assert cables_of(panel)[0].carrier is (up and is_up)
        remove_group(panel, cable.group)
        assert pod_end_is_up(channel, cable) is None


def test_a_cable_goes_with_the_namespace_of_its_pod(pods: Bed, panels: Panels, panel: Panel) -> None:
    cable = panels.cable(panel, "pod-a", "a")
    other = panels.cable(panel, "pod-b", "b")
    assert cables_of(panel) == [cable, other]
    pods.delete("pod-a")
    wait_for("the end of the cable", lambda: cables_of(panel) == [other])


def test_a_device_of_another_kind_is_no_cable(pods: Bed, panels: Panels, panel: Panel) -> None:
    pods.ip("panel", "link", "add", "t0-a", "group", str(group_of("pod-a")), "type", "bridge")
    assert cables_of(panel) == []
