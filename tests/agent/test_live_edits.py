"""Edits of a topology while its pods run: settings, peers, links added and removed."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ratchet.cli.declarations import Declarations, Files
from ratchet.cli.link_changes import Change, LinkChange, link_changes
from ratchet.core.kinds import Wiring
from ratchet.core.model import State
from ratchet.core.panel import is_former
from ratchet.core.pod import Topology
from ratchet.core.ports import ports_on_one_node
from ratchet.datapath import ethtool, netns
from ratchet.datapath.panel.leftovers import sweep
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import command_in, ip, netns_path
from ratchet.dev.testbed import wait_for
from tests.support.cluster import Cluster
from tests.support.declarations import (
    NOTHING,
    TO_X,
    TO_Y,
    Placed,
    X,
    Y,
    add_all,
    assert_one_link,
    in_labels,
    in_topology,
    place,
)
from tests.support.link_monitor import link_monitor
from tests.support.resync import held_at, touch
from tests.support.wired import has_carrier

LINK = "default.x.in1.y.in1"
EDITS: dict[str, dict[str, object]] = {
    "mtu": {"mtu": 1300},
    "addresses": {"addresses": [[*X, "10.0.3.1/24"], [Y[0]]]},
    "routes": {"routes": [[{"to": "10.9.0.0/16", "via": TO_Y}], []]},
    "rate": {"rate": "100mbit"},
    "txqlen": {"txqlen": 77},
    "sysctls": {"sysctls": {"net.ipv4.conf.IFNAME.rp_filter": 2}},
    "offloads": {"offloads": False},
    "mac": {"mac": ["02:00:00:00:0a:01", None]},
}


def topology(properties: dict[str, object], wiring: str) -> str:
    link = {"endpoints": ["x:in1", "y:in1"], "addresses": [X, Y], "wiring": wiring, **properties}
    return f"- {json.dumps(link)}\n"


def linked(cluster: Cluster, node_of_y: str, text: str) -> tuple[Placed, Placed]:
    cluster.bed.create_topology("lab", text)
    x, y = place(cluster, "x", NOTHING, cluster.a), place(cluster, "y", NOTHING, cluster.bed.kubelets[node_of_y])
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    return x, y


@contextmanager
def pinging(cluster: Cluster, placed: Placed, address: str) -> Iterator[None]:
    """Ping during the block, and assert that at most a few packets are lost: those of the moment of the change."""
    command = command_in(placed[1].netns, "ping", "-n", "-i", "0.02", "-W", "1", address)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.send_signal(2)
            output = process.communicate(timeout=30)[0]
    sent, received = (int(word.split()[0]) for word in output.splitlines()[-2].split(", ")[:2])
    assert sent - received <= 5, output


def identity(cluster: Cluster, placed: Placed) -> dict[str, Any]:
    """What an interface keeps. The link-local address comes and goes with the carrier."""
    found = cluster.identity(placed[1], "in1")
    return {**found, "addresses": {one for one in found["addresses"] if not one.startswith("fe80")}}


def indexes(cluster: Cluster, *placed: Placed) -> list[int]:
    return [cluster.show(sandbox, "in1")["ifindex"] for _, sandbox in placed]


def troubles_of(cluster: Cluster, *placed: Placed) -> set[str]:
    """The reasons of the Events of these pods that report trouble. Events of earlier tests' pods stay."""
    return {
        reason
        for reason in ("LinkLost", "LinkFailed", "WantsRestart", "InvalidIntent")
        if cluster.pods_with_event(reason) & {sandbox.pod.uid for _, sandbox in placed}
    }


def names(cluster: Cluster, placed: Placed) -> list[str]:
    """The records that hold the interface of a pod."""
    return [record.name for record in held_at(cluster.bed, placed[1], "in1")]


def generation(cluster: Cluster, link: str = LINK) -> int | None:
    return cluster.bed.links()[link].observed_generation


@pytest.mark.parametrize("wiring", ["direct", "panel"])
@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_an_edit_of_settings_changes_the_running_interfaces(cluster: Cluster, node_of_y: str, wiring: str) -> None:
    x, y = linked(cluster, node_of_y, topology({}, wiring))
    before = indexes(cluster, x, y)
    own = "echo 1 > /proc/sys/net/ipv4/conf/in1/arp_announce"
    subprocess.run(command_in(x[1].netns, "sh", "-c", own), check=True)
    with pinging(cluster, x, TO_Y):
        wait_for("a neighbour entry", lambda: "lladdr" in ip("-n", y[1].netns, "neigh"))
        for made, edit in enumerate(EDITS.values(), 2):
            cluster.bed.edit_topology("lab", topology(edit, wiring))
            wait_for(f"generation {made}", lambda made=made: generation(cluster) == made)  # type: ignore[misc]
            cluster.wait_until(State.LINKED, LINK)
            assert_edited(cluster, x, y, edit)
        assert cluster.pings(y[1], TO_X)
    assert indexes(cluster, x, y) == before
    assert troubles_of(cluster, x, y) == set()
    cluster.bed.edit_topology("lab", topology({}, wiring))
    wait_for("the first settings", lambda: generation(cluster) == len(EDITS) + 2)
    assert cluster.show(x[1], "in1")["txqlen"] == 1000
    assert cluster.identity(x[1], "in1")["addresses"] >= set(X)


def assert_edited(cluster: Cluster, x: Placed, y: Placed, edit: dict[str, object]) -> None:
    """Assert that the interface of x has the settings of an edit, and no others."""
    shown, addresses = cluster.show(x[1], "in1"), cluster.identity(x[1], "in1")["addresses"]
    assert "10.0.3.1/24" in addresses or "addresses" not in edit
    assert ("10.0.2.2/24" in cluster.identity(y[1], "in1")["addresses"]) is ("addresses" not in edit)
    assert (shown["mtu"] == 1300) is ("mtu" in edit)
    assert (shown["txqlen"] == 77) is ("txqlen" in edit)
    assert (shown["address"] == "02:00:00:00:0a:01") is ("mac" in edit)
    assert ("10.9.0.0/16" in ip("-n", x[1].netns, "route")) is ("routes" in edit)
    tc = subprocess.run(command_in(x[1].netns, "tc", "qdisc", "show", "dev", "in1"), check=True, capture_output=True)
    assert (b"100Mbit" in tc.stdout) is ("rate" in edit)
    assert (sysctl_of(x, "rp_filter") == "2") is ("sysctls" in edit)
    assert sysctl_of(x, "arp_announce") == "1", "the pod has set it"
    with netns.open_netns(x[1].path) as opened, netns.inside(opened):
        assert ethtool.has_offloads("in1") is ("offloads" not in edit)


def sysctl_of(placed: Placed, name: str) -> str:
    command = command_in(placed[1].netns, "cat", f"/proc/sys/net/ipv4/conf/in1/{name}")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("wiring", ["direct", "panel"])
@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_an_edit_of_the_encapsulation_replaces_the_tunnel(cluster: Cluster, node_of_y: str, wiring: str) -> None:
    """In panel wiring, both interfaces stay."""
    x, y = linked(cluster, node_of_y, topology({}, wiring))
    before = [identity(cluster, one) for one in (x, y)]
    edits: list[dict[str, object]] = [{"kind": "vxlan"}, {"kind": "vxlan", "vxlan_port": 4790}, {}]
    for made, edit in enumerate(edits, 2):
        cluster.bed.edit_topology("lab", topology(edit, wiring))
        wait_for(f"generation {made}", lambda made=made: generation(cluster) == made)  # type: ignore[misc]
        cluster.wait_until(State.LINKED, LINK)
        wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    if wiring == "panel":
        assert [identity(cluster, one) for one in (x, y)] == before


@pytest.mark.parametrize("wiring", ["direct", "panel"])
@pytest.mark.parametrize("node_of_z", ["a", "b"])
def test_an_end_moves_to_another_peer(cluster: Cluster, node_of_z: str, wiring: str) -> None:
    """In panel wiring, its interface stays."""
    z = place(cluster, "z", NOTHING, cluster.bed.kubelets[node_of_z])
    add_all(cluster, z)
    x, y = linked(cluster, "b", topology({}, wiring))
    before = identity(cluster, x)
    for peer, left in ((z, y), (y, z), (z, y)):
        name = peer[1].pod.name
        cluster.bed.edit_topology("lab", in_topology("x:in1", f"{name}:in1", wiring=wiring))
        wait_for(f"the link to {name}", lambda name=name: names(cluster, x) == [f"default.x.in1.{name}.in1"])  # type: ignore[misc]
        wait_for("the old peer's end", lambda left=left: names(cluster, left) == [])  # type: ignore[misc]
        assert_one_link(cluster, x[1], peer[1])
        wait_for("the old interface", lambda left=left: cluster.interfaces(left[1]) == [])  # type: ignore[misc]
        assert identity(cluster, x) == before or wiring == "direct"
    assert "WantsRestart" not in troubles_of(cluster, x, y, z)


def rx_packets(placed: Placed) -> int:
    (shown,) = json.loads(ip("-j", "-s", "-n", placed[1].netns, "link", "show", "dev", "in1"))
    return int(shown["stats64"]["rx"]["packets"])


@pytest.mark.parametrize("kind", ["auto", "vxlan"])
@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_a_link_is_held_down_and_cut(cluster: Cluster, node_of_y: str, kind: str) -> None:
    x, y = linked(cluster, node_of_y, topology({"kind": kind}, "panel"))
    before = [identity(cluster, one) for one in (x, y)]

    def becomes(state: object, *, carrier: bool) -> None:
        made = (generation(cluster) or 0) + 1
        cluster.bed.edit_topology("lab", topology({"kind": kind, "state": state}, "panel"))
        wait_for(f"state {state}", lambda: generation(cluster) == made)
        for _, sandbox in (x, y):
            wait_for(f"carrier {carrier}", lambda at=sandbox: has_carrier(cluster, at, "in1") is carrier)  # type: ignore[misc]
        assert [identity(cluster, one) for one in (x, y)] == before

    becomes("down", carrier=False)
    assert not cluster.carries(x[1], TO_Y, 100)
    becomes("up", carrier=True)
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    for state, sender, receiver in ((["down", "up"], y, x), (["up", "down"], x, y)):
        becomes(state, carrier=True)
        cut, heard = rx_packets(sender), rx_packets(receiver)
        assert not cluster.carries(sender[1], TO_X if sender is y else TO_Y, 100)
        assert rx_packets(receiver) > heard, "what the other pod sends arrives"
        assert rx_packets(sender) == cut, "what this pod sends is dropped"
        becomes("up", carrier=True)
        wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    becomes("down", carrier=False)
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    assert not has_carrier(cluster, x[1], "in1")
    becomes(None, carrier=True)
    wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))


@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_a_state_waits_until_both_pods_of_a_direct_link_restart(cluster: Cluster, node_of_y: str) -> None:
    """As of a link that was up when panel wiring became the default. The link follows its other edits."""
    x, y = linked(cluster, node_of_y, topology({}, "direct"))
    link: dict[str, object] = {"endpoints": ["x:in1", "y:in1"], "addresses": [X, Y]}
    cluster.bed.edit_topology("lab", json.dumps([{**link, "state": "down", "mtu": 1300}]))
    wait_for("an Event", lambda: troubles_of(cluster, x) == {"WantsRestart"})
    wait_for("the edited MTU", lambda: cluster.show(x[1], "in1")["mtu"] == 1300)
    assert cluster.pings(x[1], TO_Y)
    assert troubles_of(cluster, x, y) == {"WantsRestart"}
    for node, sandbox in (x, y):
        assert node.delete(sandbox).status == 0
    again = [(node, cluster.sandbox(node, sandbox.pod)) for node, sandbox in (x, y)]
    add_all(cluster, *again)
    wait_for("the record", lambda: [one.wiring for one in cluster.bed.links().values()] == [Wiring.PANEL])
    assert not any(has_carrier(cluster, sandbox, "in1") for _, sandbox in again)


@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_links_are_removed_and_added_while_pods_run(cluster: Cluster, node_of_y: str) -> None:
    x, y = linked(cluster, node_of_y, topology({}, "direct"))
    for edit in ("", topology({}, "direct")):
        cluster.bed.edit_topology("lab", edit)
        wait_for("the edit", lambda edit=edit: bool(held_at(cluster.bed, x[1], "in1")) is bool(edit))  # type: ignore[misc]
        if not edit:
            wait_for("no interfaces", lambda: [cluster.interfaces(one) for _, one in (x, y)] == [[], []])
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.delete_topologies()
    wait_for("no interfaces", lambda: [cluster.interfaces(one) for _, one in (x, y)] == [[], []])
    wait_for("no record", lambda: cluster.bed.links() == {})


@pytest.mark.parametrize(
    "text",
    [
        '- {endpoints: ["x:in1", ',
        '- {endpoints: ["x:in1", "y:in1"], mtu: 1}',
        '- {endpoints: ["x:in1", "y:in1"], colour: red}',
        '- endpoints: ["x:in1", "x:in2"]',
    ],
    ids=["unreadable", "an invalid value", "an unknown field", "a pod linked to itself"],
)
def test_an_invalid_edit_leaves_the_last_good_links(cluster: Cluster, text: str) -> None:
    x, y = linked(cluster, "b", topology({}, "direct"))
    before = indexes(cluster, x, y)
    cluster.bed.edit_topology("lab", text)
    wait_for("an Event", lambda: x[1].pod.uid in cluster.pods_with_event("WantsRestart"))
    for node in (cluster.a, cluster.b):
        cluster.renew(node)
    assert_one_link(cluster, x[1], y[1])
    cluster.bed.edit_topology("lab", topology({"mtu": 1300}, "direct"))
    wait_for("the good edit", lambda: cluster.show(x[1], "in1")["mtu"] == cluster.show(y[1], "in1")["mtu"] == 1300)
    assert indexes(cluster, x, y) == before


def test_an_edit_takes_effect_that_was_made_while_no_agent_ran(cluster: Cluster) -> None:
    x, y = linked(cluster, "b", topology({}, "panel"))
    before = indexes(cluster, x, y)
    for agent in cluster.bed.agents.values():
        agent.kill()
    cluster.bed.edit_topology("lab", topology({"mtu": 1300}, "panel"))
    for agent in cluster.bed.agents.values():
        agent.start()
    wait_for("the edit", lambda: [cluster.show(one, "in1")["mtu"] for _, one in (x, y)] == [1300, 1300])
    assert indexes(cluster, x, y) == before


def test_a_pods_own_declaration_does_not_follow_edits(cluster: Cluster) -> None:
    """The labels of a running pod are not trusted. A topology that declares the link too gets no say in them."""
    x, y = place(cluster, "x", in_labels("y", [X, Y]), cluster.a), place(cluster, "y", NOTHING, cluster.b)
    add_all(cluster, x, y)
    assert_one_link(cluster, x[1], y[1])
    before = indexes(cluster, x, y)
    body: dict[str, Any] = {"metadata": {"labels": {"ratchet.primary": None, "ratchet.pair_name": None}}}
    cluster.bed.api.patch(f"{cluster.bed.pods_path}/x", body)
    wait_for("an Event", lambda: x[1].pod.uid in cluster.pods_with_event("WantsRestart"))
    cluster.bed.create_topology("lab", in_topology("x:in1", "y:in1", mtu=1300))
    wait_for("another Event", lambda: "mtu 1300" in str(cluster.bed.api.list("/api/v1/namespaces/default/events")))
    assert_one_link(cluster, x[1], y[1])
    assert indexes(cluster, x, y) == before
    assert cluster.pings(y[1], TO_X)


def predicted(cluster: Cluster, text: str) -> dict[str, LinkChange]:
    """What `ratchet diff` says of an edit of the topology."""
    bed = cluster.bed
    before = Declarations(bed.store.pods.list(bed.namespace), bed.store.topologies.list(bed.namespace))
    after = Files(topologies=[Topology(bed.namespace, "lab", text)]).applied_to(before)
    return {one.link: one for one in link_changes(before, after, bed.links().values())}


@pytest.mark.parametrize("wiring", ["direct", "panel"])
def test_edits_do_what_diff_predicts(cluster: Cluster, wiring: str) -> None:
    z = place(cluster, "z", NOTHING, cluster.b)
    add_all(cluster, z)
    cluster.bed.api.patch(f"{cluster.bed.pods_path}/z/status", {"status": {"phase": "Running"}})
    x, y = linked(cluster, "a", topology({}, wiring))
    replaced = Change.TUNNEL_REPLACED if wiring == "panel" else Change.INTERFACE_REPLACED
    invalid = in_topology("x:in2", "y:in2", mtu=1)
    to_z, later = "default.x.in1.z.in1", {"wiring": wiring, "on_edit": "restart", "mtu": 1300}
    edits = [
        (topology({"mtu": 1300}, wiring), LINK, y, Change.IN_PLACE),
        (topology({"mtu": 1200}, wiring) + invalid, LINK, y, Change.IN_PLACE),
        (topology({"kind": "vxlan"}, wiring), LINK, y, replaced),
        (in_topology("x:in1", "z:in1", wiring=wiring), to_z, z, Change.MOVED),
        (in_topology("x:in1", "z:in1", **later), to_z, z, Change.RESTART),  # type: ignore[arg-type]
    ]
    for text, link, peer, change in edits:
        before, found = identity(cluster, x), predicted(cluster, text)
        assert found[link].change is change
        cluster.bed.edit_topology("lab", text)
        waiting = () if change is not Change.RESTART else found[link].details
        made = {link: LinkChange(link, Change.NONE, waiting)}
        wait_for(f"the edit: {change}", lambda text=text, made=made: predicted(cluster, text) == made)  # type: ignore[misc]
        assert_one_link(cluster, x[1], peer[1])
        stays = wiring == "panel" or change in (Change.IN_PLACE, Change.RESTART)
        assert identity(cluster, x)["ifindex"] == before["ifindex"] or not stays
        if change is Change.MOVED:
            assert found[link].details[0].endswith("its interface stays" if stays else "its interface is replaced")
            assert found[LINK].change is Change.REMOVED
    assert cluster.show(x[1], "in1")["mtu"] != 1300


def test_the_labels_of_a_running_pod_do_not_change_its_links(cluster: Cluster) -> None:
    x, y = linked(cluster, "b", topology({}, "direct"))
    before = indexes(cluster, x, y)
    for labels in ({"ratchet.pod_name": "another"}, {"ratchet": None}):
        cluster.bed.api.patch(f"{cluster.bed.pods_path}/x", {"metadata": {"labels": labels}})
        cluster.bed.edit_topology("lab", topology({}, "direct") + "# another edit\n")
        for node in (cluster.a, cluster.b):
            cluster.renew(node)
        touch(cluster.bed, LINK)
        assert cluster.pings(y[1], TO_X)
        assert indexes(cluster, x, y) == before


@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_an_edit_of_the_port_is_made_before_the_link_breaks(cluster: Cluster, node_of_y: str) -> None:
    x, y = linked(cluster, node_of_y, topology({"kind": "vxlan"}, "panel"))
    nodes = [cluster.bed.kubelets[node] for node in sorted({"a", node_of_y})]
    with ExitStack() as stack:
        monitors = [stack.enter_context(link_monitor(one.netns)) for _, one in (x, y)]
        stack.enter_context(pinging(cluster, x, TO_Y))
        wait_for("a neighbour entry", lambda: "lladdr" in ip("-n", y[1].netns, "neigh"))
        for port in (4793, 4796, 4793):
            cluster.bed.edit_topology("lab", topology({"kind": "vxlan", "vxlan_port": port}, "panel"))
            made = {port} if node_of_y == "b" else set(ports_on_one_node(port))
            wait_for("the tunnels", lambda made=made: ports(*nodes) == made)  # type: ignore[misc]
            cluster.wait_until(State.LINKED, LINK)
            for node in nodes:
                wait_for("the switch", lambda node=node: swept(node))  # type: ignore[misc]
    assert cluster.pings(x[1], TO_Y)
    assert [monitor.losses("in1") for monitor in monitors] == [0, 0]


@pytest.mark.parametrize("node_of_y", ["a", "b"])
def test_ports_that_change_quickly_lose_no_carrier(cluster: Cluster, node_of_y: str) -> None:
    """Edits are taken back and replaced before both ends have followed them."""
    x, y = linked(cluster, node_of_y, topology({"kind": "vxlan"}, "panel"))
    with link_monitor(x[1].netns) as of_x, link_monitor(y[1].netns) as of_y:
        for port in (4793, 4789, 4796, 4793, 4789, 4796):
            cluster.bed.edit_topology("lab", topology({"kind": "vxlan", "vxlan_port": port}, "panel"))
            wait_for("the edit", lambda port=port: cluster.bed.links()[LINK].encapsulation.vxlan_port == port)  # type: ignore[misc]
        cluster.wait_until(State.LINKED, LINK)
        made = {port} if node_of_y == "b" else set(ports_on_one_node(port))
        nodes = [cluster.bed.kubelets[node] for node in sorted({"a", node_of_y})]
        wait_for("the tunnels", lambda: ports(*nodes) == made)
        wait_for("a ping", lambda: cluster.pings(x[1], TO_Y))
    assert (of_x.losses("in1"), of_y.losses("in1")) == (0, 0)


def test_an_edit_to_a_port_that_is_taken_leaves_the_link_as_it_is(cluster: Cluster) -> None:
    x, y = linked(cluster, "b", topology({}, "panel"))
    with netns.open_netns(netns_path(cluster.b.host.netns)) as opened, netns.inside(opened):
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with holder, link_monitor(y[1].netns) as monitor:
        holder.bind(("", 4793))
        cluster.bed.edit_topology("lab", topology({"vxlan_port": 4793}, "panel"))
        wait_for("an Event", lambda: y[1].pod.uid in cluster.pods_with_event("LinkFailed"))
        assert cluster.state(LINK) is not State.LINKED
        assert cluster.pings(x[1], TO_Y)
        assert has_carrier(cluster, y[1], "in1")
    cluster.wait_until(State.LINKED, LINK)
    assert ports(cluster.a, cluster.b) == {4793}
    assert cluster.pings(x[1], TO_Y)
    assert monitor.losses("in1") == 0


def tunnels(*nodes: Kubelet) -> dict[str, int]:
    """The UDP ports of the tunnels in the nodes' panels, by the tunnels' names."""
    show = "-d", "-j", "link", "show", "type", "vxlan"
    shown = [one for node in nodes for one in json.loads(ip("-n", node.host.panel, *show))]
    return {one["ifname"]: one["linkinfo"]["info_data"]["port"] for one in shown}


def ports(*nodes: Kubelet) -> set[int]:
    """The UDP ports of the tunnels that are not former ones."""
    return {port for name, port in tunnels(*nodes).items() if not is_former(name)}


def swept(node: Kubelet) -> bool:
    """Sweep a panel. Returns whether it has no former tunnels left: none is removed while a cable sends into it."""
    with netns.open_netns(netns_path(node.host.netns)) as opened, netns.inside(opened):
        sweep(netns_path(node.host.panel))
    return not any(map(is_former, tunnels(node)))
