"""`ratchet.datapath` with links in panel wiring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ratchet import datapath
from ratchet.core.differences import differences
from ratchet.core.interface import CABLE, CableWire, InterfaceSpec, Observed, PatchWire, Wire
from ratchet.core.sandbox import Location
from ratchet.datapath import build, make, messages, observe
from ratchet.datapath.panel.cables import cables_of
from ratchet.datapath.panel.leftovers import sweep
from ratchet.datapath.panel.namespace import Panel
from ratchet.datapath.panel.patches import Patch, set_direction
from ratchet.datapath.panel.tunnels import tunnel_named
from ratchet.datapath.rtnetlink import Channel
from ratchet.dev.testbed import wait_for
from ratchet.errors import DatapathError, ForeignInterfaceError, NamespaceGoneError, VniInUseError
from tests.support.namespaces import Bed
from tests.support.panels import Panels, group_of, tunnel_of

ONE, TWO = "10.9.0.1", "10.9.0.2"


@pytest.fixture
def panel(pods: Bed, panels: Panels) -> Panel:
    """A panel, and the pods pod-a and pod-b."""
    return panels.make()


@pytest.fixture
def nodes(bed: Bed, panels: Panels) -> Bed:
    """Two nodes on one Ethernet, each with a panel; pod-a and pod-b are on node-1, pod-c on node-2."""
    bed.fabric(**{"node-1": f"{ONE}/24", "node-2": f"{TWO}/24"})
    bed.add("pod-a", "pod-b", "pod-c")
    panels.make("panel")
    panels.make("panel-2")
    return bed


def patch(panels: Panels) -> PatchWire:
    return PatchWire("a-b", panels.spec("pod-a", "a"), panels.spec("pod-b", "b"))


def other_side(wire: PatchWire) -> PatchWire:
    return PatchWire(wire.link, wire.far, wire.near)


def remove(spec: InterfaceSpec) -> bool:
    return datapath.remove(Location(spec.netns, spec.cookie, spec.index, spec.slot), spec.ifname)


def make_veth_by_hand(bed: Bed, spec: InterfaceSpec) -> None:
    """Make an end in direct wiring under the name and the ifindex of a cable."""
    numbers = ("index", str(spec.index), "group", str(messages.GROUP))
    bed.ip("pod-a", "link", "add", spec.ifname, *numbers, "type", "veth", "peer", "name", "peer")


def has_carrier(bed: Bed, pod: str) -> bool:
    return "LOWER_UP" in bed.show(pod, "eth1")["flags"]


def identity(bed: Bed, pod: str = "pod-a") -> tuple[Any, ...]:
    shown = bed.show(pod, "eth1")
    return shown["ifindex"], shown["address"], [one["local"] for one in shown["addr_info"] if one["scope"] == "global"]


def assert_matches(wire: Wire, observed: Observed) -> None:
    assert differences(wire, observed) == ()
    assert differences(wire, observe(wire)) == ()


def patched(panels: Panels) -> PatchWire:
    """Both cables, made by the pass of each, and patched by the second one."""
    wire = patch(panels)
    alone = make(wire)
    assert (alone.far, differences(wire, alone) != ()) == (None, True)
    assert_matches(other_side(wire), make(other_side(wire)))
    assert_matches(wire, observe(wire))
    return wire


def test_a_waiting_end_has_its_interface_without_carrier(pods: Bed, panels: Panels, panel: Panel) -> None:
    wire = CableWire("a-b", panels.spec("pod-a", "a"))
    assert observe(wire) == Observed(None)
    observed = make(wire)
    assert_matches(wire, observed)
    assert observed.near is not None
    assert (observed.near.kind, observed.near.carrier) == (CABLE, False)
    assert "NO-CARRIER" in pods.show("pod-a", "eth1")["flags"]
    before = identity(pods)
    assert_matches(wire, make(wire))
    assert_matches(wire, build(wire))
    assert identity(pods) == before


def test_a_pass_makes_its_own_cable_and_patches_both_directions(pods: Bed, panels: Panels, panel: Panel) -> None:
    patched(panels)
    assert pods.pings("pod-a", "192.168.2.2")
    assert pods.pings("pod-b", "fd00::1")


def test_a_patch_whose_peer_has_no_namespace_is_a_cable_without_carrier(
    pods: Bed, panels: Panels, panel: Panel
) -> None:
    wire = patched(panels)
    pods.delete("pod-b")
    assert build(wire).far is None
    waiting = CableWire(wire.link, wire.near)
    assert_matches(waiting, build(waiting))
    assert not has_carrier(pods, "pod-a")
    pods.delete("pod-a")
    for call in (observe, make, build):
        with pytest.raises(NamespaceGoneError, match="pod-a"):
            call(waiting)


def test_a_survivor_keeps_its_interface_while_its_peer_moves(nodes: Bed, panels: Panels) -> None:
    """The peer leaves this node, starts on another one, leaves that, and comes back."""
    wire = patched(panels)
    before = identity(nodes)
    waiting = CableWire(wire.link, wire.near)
    remove(wire.far)
    wait_for("no carrier", lambda: not has_carrier(nodes, "pod-a"))
    assert_matches(waiting, build(waiting))

    with nodes.inside("node-2"):
        far = panels.wire("pod-c", "b", TWO, ONE, panel="panel-2")
        assert_matches(far, make(far))
    with nodes.inside("node-1"):
        near = panels.wire("pod-a", "a", ONE, TWO)
        incomplete = replace(near, carrier=False)
        assert_matches(incomplete, build(incomplete))
        assert not has_carrier(nodes, "pod-a")
        assert_matches(near, build(near))
    assert nodes.pings("pod-a", "192.168.2.2")
    assert nodes.pings("pod-c", "fd00::1")

    with nodes.inside("node-2"):
        assert remove(far.near)
    with nodes.inside("node-1"):
        assert_matches(waiting, build(waiting))
        assert nodes.interfaces("panel") == [panels_end(near), tunnel_of(near)], "the next peer may have the same VTEP"
        freed = replace(waiting, keeps_tunnel=False)
        assert_matches(freed, build(freed))
    assert nodes.interfaces("panel") == [panels_end(near)]
    assert nodes.interfaces("panel-2") == nodes.interfaces("pod-c") == []
    make(other_side(wire))
    assert_matches(wire, observe(wire))
    assert nodes.pings("pod-b", "192.168.2.1")
    assert identity(nodes) == before


def panels_end(wire: Wire) -> str:
    assert wire.near.slot is not None
    return wire.near.slot.cable(wire.near.index)


# What somebody does to a patched link in the panel: arguments of ip(8) and tc(8), with the names of the near cable, and
# of its tunnel.
MEDDLING = {
    "the redirect is removed": "tc filter del dev {cable} ingress pref 200",
    "OAM frames are redirected": "tc filter del dev {cable} ingress pref 100",
    "all filters are removed": "tc qdisc del dev {cable} clsact",
    "the panel's end is down": "ip link set {cable} down",
    "the panel's end has a small MTU": "ip link set {cable} mtu 1300",
    "the panel's end is renamed": "ip link set {cable} name another",
    "the panel's end has another group": "ip link set {cable} group 7",
    "the panel's end has no alias": "ip link set {cable} alias ''",
}
OF_TUNNELS = {
    "the tunnel is removed": "ip link del {tunnel}",
    "the tunnel is down": "ip link set {tunnel} down",
    "the tunnel has a small MTU": "ip link set {tunnel} mtu 1400",
    "the tunnel leads elsewhere": "ip link set {tunnel} type vxlan id 11 remote 10.9.0.9",
    "the tunnel does not take OAM frames": "tc filter del dev {tunnel} ingress pref 100",
    "the tunnel's redirect is removed": "tc filter del dev {tunnel} ingress pref 200",
    "the tunnel has a forwarding entry": "bridge fdb append 02:00:00:00:00:01 dev {tunnel} dst 10.9.0.9",
}


def meddle(bed: Bed, command: str, spec: InterfaceSpec) -> None:
    assert spec.slot is not None
    names = {"cable": spec.slot.cable(spec.index), "tunnel": spec.slot.tunnel(spec.index)}
    bed.run("panel", "sh", "-c", command.format(**names))


@pytest.mark.parametrize("what", MEDDLING)
def test_what_somebody_changes_at_a_patch_is_put_back(what: str, pods: Bed, panels: Panels, panel: Panel) -> None:
    wire = patched(panels)
    before = identity(pods)
    meddle(pods, MEDDLING[what], wire.near)
    assert differences(wire, observe(wire)) != ()
    assert_matches(wire, build(wire))
    assert pods.pings("pod-a", "192.168.2.2")
    assert identity(pods) == before


@pytest.mark.parametrize("what", [*MEDDLING, *OF_TUNNELS])
def test_what_somebody_changes_at_a_patched_tunnel_is_put_back(what: str, nodes: Bed, panels: Panels) -> None:
    with nodes.inside("node-1"):
        wire = panels.wire("pod-a", "a", ONE, TWO)
        make(wire)
        before = identity(nodes)
        meddle(nodes, (MEDDLING | OF_TUNNELS)[what], wire.near)
        assert differences(wire, observe(wire)) != ()
        assert_matches(wire, build(wire))
    assert identity(nodes) == before


@pytest.mark.parametrize("what", MEDDLING)
def test_what_somebody_changes_at_a_waiting_cable_is_put_back(
    what: str, pods: Bed, panels: Panels, panel: Panel
) -> None:
    wire = CableWire("a-b", panels.spec("pod-a", "a"))
    make(wire)
    before = identity(pods)
    if not MEDDLING[what].startswith("tc"):
        meddle(pods, MEDDLING[what], wire.near)
    assert_matches(wire, build(wire))
    assert identity(pods) == before


def test_a_removed_end_takes_the_carrier_of_the_other(pods: Bed, panels: Panels, panel: Panel) -> None:
    wire = patched(panels)
    assert remove(wire.far) is True
    wait_for("no carrier", lambda: not has_carrier(pods, "pod-a"))
    assert pods.interfaces("pod-b") == []
    assert [cable.ifname for cable in cables_of(panel)] == [panels_end(wire)]
    assert remove(wire.far) is False


@pytest.mark.parametrize("removed", ["the end", "the attachment"])
def test_a_removed_end_leaves_the_carrier_of_one_that_is_patched_to_another(
    nodes: Bed, panels: Panels, removed: str
) -> None:
    """A peer starts again, or a link is edited: the other pod has its new patch before the old end is removed."""
    old, new = (PatchWire("a-b", panels.spec("pod-a", "a"), panels.spec(f"pod-{pod}", "b")) for pod in "bc")
    for wire in (old, other_side(old), other_side(new), new):
        build(wire)
    assert_matches(new, observe(new))
    if removed == "the end":
        assert remove(old.far)
    else:
        slot = old.far.slot
        assert slot is not None
        assert datapath.remove_attachment(slot.path, slot.group)
    assert_matches(new, observe(new))
    assert has_carrier(nodes, "pod-a")


def test_all_that_an_attachment_has_is_removed_at_once(nodes: Bed, panels: Panels) -> None:
    wire = patched(panels)
    with nodes.inside("node-1"):
        tunnel = replace(panels.wire("pod-b", "b", ONE, TWO), near=replace(wire.far, ifname="eth2", index=1_000_003))
        make(tunnel)
        path = nodes.path("panel")
        assert len(nodes.interfaces("panel")) == 4
        assert datapath.remove_attachment(path, group_of("pod-b")) is True
        assert datapath.remove_attachment(path, group_of("pod-b")) is False
        assert datapath.remove_attachment(nodes.path("absent"), group_of("pod-b")) is False
    assert (nodes.interfaces("panel"), nodes.interfaces("pod-b")) == ([panels_end(wire)], [])
    wait_for("no carrier", lambda: not has_carrier(nodes, "pod-a"))


def test_a_removed_tunnel_leaves_nothing(nodes: Bed, panels: Panels) -> None:
    with nodes.inside("node-1"):
        wire = panels.wire("pod-a", "a", ONE, TWO)
        make(wire)
        assert remove(wire.near) is True
        assert remove(wire.near) is False
    assert nodes.interfaces("panel") == nodes.interfaces("pod-a") == []


def test_the_tunnel_of_a_pod_whose_namespace_is_gone_is_removed(nodes: Bed, panels: Panels) -> None:
    with nodes.inside("node-1"):
        wire = panels.wire("pod-a", "a", ONE, TWO)
        make(wire)
        nodes.delete("pod-a")
        wait_for("the end of the cable", lambda: nodes.interfaces("panel") == [tunnel_of(wire)])
        assert remove(wire.near) is False
    assert nodes.interfaces("panel") == []


def test_the_sweep_removes_tunnels_without_cable_and_nothing_else(nodes: Bed, panels: Panels) -> None:
    with nodes.inside("node-1"):
        gone, live = panels.wire("pod-a", "a", ONE, TWO), panels.wire("pod-b", "b", ONE, TWO, vni=12)
        for wire in (gone, live):
            make(wire)
        path = nodes.path("panel")
        assert sweep(path) == []
        nodes.ip("panel", "link", "add", "t-stranger", "type", "bridge")
        nodes.delete("pod-a")
        wait_for("the end of the cable", lambda: panels_end(gone) not in nodes.interfaces("panel"))
        assert set(datapath.panel_tunnels(path)) == {tunnel_of(gone), tunnel_of(live)}
        assert sweep(path) == [tunnel_of(gone)]
        assert sweep(path) == []
        assert_matches(live, observe(live))
    assert set(nodes.interfaces("panel")) == {panels_end(live), tunnel_of(live), "t-stranger"}
    assert sweep(nodes.path("absent")) == []
    assert datapath.panel_tunnels(nodes.path("absent")) == {}


def test_an_interface_in_direct_wiring_is_removed_also_if_its_attachment_has_cables(
    pods: Bed, panels: Panels, panel: Panel
) -> None:
    spec = panels.spec("pod-a", "a")
    make_veth_by_hand(pods, panels.spec("pod-a", "a"))
    assert remove(spec) is True
    assert pods.interfaces("pod-a") == []


def test_a_vni_in_use_leaves_the_cable_without_carrier_until_it_may_be_evicted(nodes: Bed, panels: Panels) -> None:
    with nodes.inside("node-1"):
        first, second = panels.wire("pod-a", "a", ONE, TWO), panels.wire("pod-b", "b", ONE, TWO)
        make(first)
        observed = make(second)
        assert differences(second, observed) != ()
        with pytest.raises(VniInUseError, match="VNI 11 is in use on this node"):
            build(second, evict=False)
        assert not has_carrier(nodes, "pod-b")
        assert_matches(second, build(second))
        assert differences(first, observe(first)) != ()


def test_a_foreign_interface_is_observed_and_left(pods: Bed, panels: Panels, panel: Panel) -> None:
    pods.ip("pod-a", "link", "add", "eth1", "type", "bridge")
    before = pods.show("pod-a", "eth1")
    wire = patch(panels)
    assert differences(wire, make(wire)) == ("eth1 was not made by ratchet", "eth1 is not there")
    with pytest.raises(ForeignInterfaceError, match="an interface of that name exists and is not Ratchet's"):
        build(wire)
    assert make(other_side(wire)).far is None, "it is for the other pod's pass to report"
    assert pods.show("pod-a", "eth1") == before


def test_an_interface_of_the_link_in_direct_wiring_is_replaced(pods: Bed, panels: Panels, panel: Panel) -> None:
    make_veth_by_hand(pods, panels.spec("pod-a", "a"))
    wire = CableWire("a-b", panels.spec("pod-a", "a"))
    assert "eth1 is a veth, wanted a cable" in differences(wire, make(wire))
    assert_matches(wire, build(wire))
    assert pods.interfaces("pod-a") == ["eth1"]


@pytest.mark.parametrize("call", [observe, make, build])
def test_without_a_panel_nothing_is_made(call: Callable[[Wire], Observed], pods: Bed, panels: Panels) -> None:
    spec = panels.spec("pod-a", "a")
    with pytest.raises(DatapathError, match=r"cannot wire eth1 of a-b: the node has no patch panel"):
        call(CableWire("a-b", spec))
    with pytest.raises(DatapathError, match="cannot wire eth1 of a-b: its pod has no place in the patch panel"):
        call(CableWire("a-b", replace(spec, slot=None)))
    assert remove(spec) is False
    assert pods.interfaces("pod-a") == []


def test_a_peer_whose_cable_goes_meanwhile_is_waited_for(
    pods: Bed, panels: Panels, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEL removes all cables of a pod at once, without the locks of its links."""
    wire = patched(panels)

    def set_after_removal(
        channel: Channel, index: int, target: int, *, sends: bool, patch: Patch | None = None
    ) -> None:
        remove(wire.far)
        set_direction(channel, index, target, sends=sends, patch=patch)

    monkeypatch.setattr("ratchet.datapath.panel.links.set_direction", set_after_removal)
    pods.run("panel", "tc", "qdisc", "del", "dev", panels_end(wire), "clsact")
    assert build(wire).far is None


def test_a_tunnel_that_the_kernel_does_not_show_is_not_missing(panel: Panel) -> None:
    with Channel(panel.netns) as channel:
        assert tunnel_named(channel, "t00000-1") is None
        with pytest.raises(DatapathError, match=r"cannot read tunnel .* of the patch panel"):
            tunnel_named(channel, "a-name-that-is-too-long")
