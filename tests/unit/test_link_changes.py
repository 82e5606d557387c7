"""What an edit of declarations does to each link: in place, replaced, moved, or when a pod starts or restarts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from ratchet.cli.declarations import Declarations, Files
from ratchet.cli.link_changes import Change, LinkChange, link_changes
from ratchet.cli.manifests import ManifestPod
from ratchet.core.kinds import Wiring
from ratchet.core.model import SIDES, Link
from ratchet.core.pod import LINKS, Pod, Topology
from tests.support.links import pod, sandbox

Json = dict[str, Any]
LINK = "default.x.e1.y.e1"
TO_Z = "default.x.e1.z.e1"
TUNNEL = {"kind": "vxlan"}
UNKNOWN = "its interface stays if panel wiring is the default of its node, else it is replaced"
ON_A, ON_B = "node-a", "node-b"
BOTH = pytest.mark.parametrize("wiring", list(Wiring))
NODES = pytest.mark.parametrize("node_of_y", [ON_A, ON_B])


def item(one: str = "x:e1", other: str = "y:e1", **properties: Any) -> Json:
    return {"endpoints": [one, other], **properties}


def topology(*items: Json, name: str = "lab") -> Topology:
    return Topology("default", name, "\n".join(f"- {json.dumps(one)}" for one in items) or "[]")


def running(name: str, **labels: str) -> Pod:
    return replace(pod(name, **labels), phase="Running")


def listing(one: Pod, *links: Json) -> Pod:
    """The pod with these links in its annotation."""
    return replace(one, annotations={LINKS: json.dumps(links)})


def records(
    before: Declarations, wiring: Wiring = Wiring.DIRECT, nodes: Json | None = None, absent: Iterable[str] = ()
) -> list[Link]:
    """The records of the declared links, as made for all pods but the `absent` ones. `nodes`: of pods not on node-a."""
    found = []
    for one in before.wanted.links:
        link = replace(one.link, wiring=one.effective_wiring(wiring))
        for side in SIDES:
            end = link.end(side)
            if end.name not in absent:
                link = link.with_end(side, replace(end, sandbox=sandbox(end.name, (nodes or {}).get(end.name, ON_A))))
        found.append(link)
    return found


def manifest(one: Pod) -> ManifestPod:
    return ManifestPod(replace(one, ref=replace(one.ref, uid=f"file#{one.ref.name}")), "file: line 1")


def changed(before: Declarations, files: Files, found: Iterable[Link]) -> dict[str, LinkChange]:
    return {one.link: one for one in link_changes(before, files.applied_to(before), found)}


def edit_of(before: Json, after: Json, wiring: Wiring, node_of_y: str = ON_A) -> LinkChange:
    """The change of the link between running pods x and y if its topology is edited."""
    now = Declarations([running("x"), running("y")], [topology(item(**before))])
    return changed(now, Files(topologies=[topology(item(**after))]), records(now, wiring, {"y": node_of_y}))[LINK]


@BOTH
@NODES
@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"mtu": 1300}, ("e1: mtu 1300 instead of none", "e1: mtu 1300 instead of none")),
        ({"rate": "1mbit"}, {"rate": ["1mbit", None]}, ("e1: rate none instead of 1mbit",)),
        ({"addresses": ["10.0.0.1/24", "10.0.0.2/24"]}, {"addresses": [["10.0.0.1/24"], "10.0.0.2/24"]}, None),
        ({}, {}, None),
        ({"on_edit": "live"}, {"on_edit": "restart"}, None),
    ],
    ids=["mtu", "rate", "the same in another form", "nothing", "on_edit"],
)
def test_settings_of_running_pods_change_in_place(
    before: Json, after: Json, words: tuple[str, ...] | None, wiring: Wiring, node_of_y: str
) -> None:
    found = edit_of(before, after, wiring, node_of_y)
    assert found == LinkChange(LINK, Change.IN_PLACE if words else Change.NONE, words or ())


@pytest.mark.parametrize(
    ("before", "after", "node_of_y", "direct", "panel"),
    [
        ({}, TUNNEL, ON_A, Change.INTERFACE_REPLACED, Change.TUNNEL_REPLACED),
        (TUNNEL, {}, ON_A, Change.INTERFACE_REPLACED, Change.TUNNEL_REPLACED),
        ({}, {"vxlan_port": 4790}, ON_B, Change.INTERFACE_REPLACED, Change.TUNNEL_REPLACED),
        (
            {"kind": "vxlan"},
            {"kind": "vxlan", "vxlan_port": 4790},
            ON_A,
            Change.INTERFACE_REPLACED,
            Change.TUNNEL_REPLACED,
        ),
        ({}, TUNNEL, ON_B, Change.IN_PLACE, Change.IN_PLACE),
        ({}, {"vxlan_port": 4790}, ON_A, Change.IN_PLACE, Change.IN_PLACE),
    ],
    ids=["to a tunnel", "from a tunnel", "a port", "a port on one node", "a tunnel anyway", "a port without a tunnel"],
)
def test_another_encapsulation_replaces_a_tunnel_or_in_direct_wiring_the_interfaces(
    before: Json, after: Json, node_of_y: str, direct: Change, panel: Change
) -> None:
    assert edit_of(before, after, Wiring.DIRECT, node_of_y).change is direct
    assert edit_of(before, after, Wiring.PANEL, node_of_y).change is panel
    details = edit_of(before, {**after, "mtu": [1300, None]}, Wiring.PANEL, node_of_y).details
    assert details[-1] == "e1: mtu 1300 instead of none"
    assert details[0].startswith(("kind ", "vxlan_port "))


@BOTH
def test_another_wiring_waits_for_a_restart_of_both_pods_and_other_settings_do_not(wiring: Wiring) -> None:
    other = next(one for one in Wiring if one is not wiring)
    words = f"wiring {other} instead of {wiring}, which needs a restart of both pods at once"
    restart = f"wants a restart of pod default/x: {words}"
    assert edit_of({}, {"wiring": other}, wiring) == LinkChange(LINK, Change.RESTART, (restart,))
    mixed = edit_of({}, {"wiring": other, "mtu": [1300, None]}, wiring)
    assert mixed == LinkChange(LINK, Change.RESTART, ("in place: e1: mtu 1300 instead of none", restart))
    assert edit_of({"wiring": wiring}, {}, wiring).change is Change.NONE


def test_a_state_waits_until_a_direct_link_is_in_panel_wiring() -> None:
    words = "wiring panel instead of direct for its state, which needs a restart of both pods at once"
    restart = f"wants a restart of pod default/x: {words}"
    assert edit_of({}, {"state": "down"}, Wiring.DIRECT) == LinkChange(LINK, Change.RESTART, (restart,))
    states = ("e1: state down instead of up",) * 2
    assert edit_of({}, {"state": "down"}, Wiring.PANEL) == LinkChange(LINK, Change.IN_PLACE, states)


def test_a_state_of_a_link_that_no_pod_has_joined_is_an_edit() -> None:
    found = changed(Declarations([], [topology(item())]), Files(topologies=[topology(item(state="down"))]), [])[LINK]
    assert found.details[:2] == ("e1: state down instead of up",) * 2


@BOTH
def test_an_edit_with_on_edit_restart_waits_for_the_primary(wiring: Wiring) -> None:
    fixed = {"on_edit": "restart"}
    waits = LinkChange(LINK, Change.RESTART, ("wants a restart of pod default/x: e1: mtu 1300 instead of none",))
    assert edit_of(fixed, {**fixed, "mtu": [1300, None]}, wiring) == waits
    assert edit_of({}, {**fixed, "mtu": [1300, None]}, wiring) == waits
    assert edit_of(fixed, {"mtu": [1300, None]}, wiring).change is Change.IN_PLACE


def test_an_edit_that_waits_already_is_no_change_until_pods_follow_it() -> None:
    fixed = topology(item(mtu=[1300, None], on_edit="restart"))
    made = records(Declarations([running("x"), running("y")], [topology(item())]))
    now = Declarations([running("x"), running("y")], [fixed])
    waiting = changed(now, Files(topologies=[fixed]), made)[LINK]
    assert waiting == LinkChange(LINK, Change.NONE, ("wants a restart of pod default/x: e1: mtu 1300 instead of none",))
    live = Files(topologies=[topology(item(mtu=[1300, None]))])
    assert changed(now, live, made)[LINK].change is Change.IN_PLACE
    back = Files(topologies=[topology(item(on_edit="restart"))])
    assert changed(now, back, made)[LINK].change is Change.NONE


@BOTH
def test_links_between_running_pods_are_added_and_removed_at_once(wiring: Wiring) -> None:
    now = Declarations([running("x"), running("y"), running("z")], [topology(item())])
    found = changed(now, Files(topologies=[topology(item("y:e2", "z:e2"))]), records(now, wiring))
    removed = LinkChange(LINK, Change.REMOVED, ("e1 of pod x is removed", "e1 of pod y is removed"))
    added = LinkChange("default.y.e2.z.e2", Change.ADDED)
    assert list(found.values()) == [removed, added]
    gone = changed(now, Files(others={"lab"}), records(now, wiring))
    assert gone == {LINK: removed}


@pytest.mark.parametrize(
    ("old", "made", "new", "fate"),
    [
        ("direct", Wiring.DIRECT, "direct", "its interface is replaced"),
        ("panel", Wiring.PANEL, "panel", "its interface stays"),
        ("panel", Wiring.PANEL, "direct", "its interface is replaced"),
        ("direct", Wiring.DIRECT, "panel", "its interface is replaced"),
        (None, Wiring.PANEL, None, "its interface stays"),
        (None, Wiring.DIRECT, None, "its interface is replaced"),
        (
            "panel",
            Wiring.PANEL,
            None,
            "its interface stays if panel wiring is the default of its node, else it is replaced",
        ),
    ],
)
def test_an_interface_moves_to_another_peer(old: str | None, made: Wiring, new: str | None, fate: str) -> None:
    now = Declarations([running("x"), running("y"), running("z")], [topology(item(wiring=old))])
    files = Files(topologies=[topology(item("x:e1", "z:e1", wiring=new))])
    assert changed(now, files, records(now, made)) == {
        LINK: LinkChange(LINK, Change.REMOVED, (f"e1 of pod x goes to link {TO_Z}", "e1 of pod y is removed")),
        TO_Z: LinkChange(TO_Z, Change.MOVED, (f"e1 of pod x leads to z:e1 instead of y:e1, and {fate}",)),
    }


def test_an_interface_of_a_link_that_stays_is_not_free_for_another() -> None:
    now = Declarations([running("x"), running("y"), running("z")], [topology(item(on_edit="restart"))])
    files = Files(topologies=[topology(item("x:e1", "z:e1"))])
    kept = "wants a restart of pod default/x or pod default/y: nothing asks for it any more"
    blocked = f"wants a restart of pod default/x: e1 belongs to link {LINK}"
    assert changed(now, files, records(now)) == {
        LINK: LinkChange(LINK, Change.RESTART, (kept,)),
        TO_Z: LinkChange(TO_Z, Change.RESTART, (blocked,)),
    }


def test_an_interface_moves_to_a_pod_that_does_not_run() -> None:
    now = Declarations([running("x"), running("y"), pod("z")], [topology(item())])
    found = changed(now, Files(topologies=[topology(item("x:e1", "z:e1"))]), records(now, Wiring.PANEL))[TO_Z]
    moved = "e1 of pod x leads to z:e1 instead of y:e1, and its interface stays"
    assert found == LinkChange(TO_Z, Change.ON_START, (moved, "when pod z starts"))


@BOTH
def test_links_of_pods_that_do_not_run_are_made_when_these_start(wiring: Wiring) -> None:
    now = Declarations([running("x")], [])
    new = Files(pods=[manifest(pod("y"))], topologies=[topology(item(), item("x:e2", "none:e1"))])
    assert changed(now, new, records(now, wiring)) == {
        LINK: LinkChange(LINK, Change.ON_START, ("when pod y starts",)),
        "default.none.e1.x.e2": LinkChange(
            "default.none.e1.x.e2", Change.ON_START, ("when pod none starts: there is no such pod",)
        ),
    }
    declared = Declarations([running("x")], [topology(item())])
    half = records(declared, wiring, absent=["y"])
    assert changed(declared, Files(topologies=[topology(item())]), half)[LINK].change is Change.NONE
    arrives = changed(declared, Files(pods=[manifest(pod("y"))]), half)[LINK]
    assert arrives == LinkChange(LINK, Change.ON_START, ("when pod y starts",))


@BOTH
def test_an_edit_of_a_link_with_one_pod_reaches_its_cable_at_once(wiring: Wiring) -> None:
    now = Declarations([running("x"), pod("y")], [topology(item())])
    found = changed(now, Files(topologies=[topology(item(mtu=[1300, None]))]), records(now, wiring, absent=["y"]))[LINK]
    change = Change.IN_PLACE if wiring is Wiring.PANEL else Change.ON_START
    assert found == LinkChange(LINK, change, ("e1: mtu 1300 instead of none", "when pod y starts"))
    far = changed(now, Files(topologies=[topology(item(mtu=[None, 1300]))]), records(now, wiring, absent=["y"]))[LINK]
    assert far.change is Change.ON_START


def test_an_edit_before_both_pods_start_is_applied_by_their_start() -> None:
    now = Declarations([pod("x"), pod("y")], [topology(item())])
    found = changed(now, Files(topologies=[topology(item(wiring="panel", mtu=[1300, None]))]), [])[LINK]
    words = ("wiring panel instead of none", "e1: mtu 1300 instead of none", "when pod x starts", "when pod y starts")
    assert found == LinkChange(LINK, Change.ON_START, words)
    assert changed(now, Files(topologies=[topology()]), []) == {
        LINK: LinkChange(LINK, Change.REMOVED, ("it was not made yet",))
    }


TO_Y: Json = {"peer": "y", "ifname": "e1", "peer_ifname": "e1"}


@BOTH
def test_what_a_running_pod_declares_itself_waits_for_its_restart(wiring: Wiring) -> None:
    x, y = running("x"), running("y")
    added = changed(Declarations([x, y], []), Files(pods=[manifest(listing(x, TO_Y))]), [])
    why = "wants a restart of pod default/x: it declares the link itself"
    assert added == {LINK: LinkChange(LINK, Change.RESTART, (why,))}
    now = Declarations([listing(x, TO_Y), y], [])
    made = records(now, wiring)
    edited = changed(now, Files(pods=[manifest(listing(x, {**TO_Y, "mtu": [1300, None]}))]), made)
    words = "wants a restart of pod default/x: e1: mtu 1300 instead of none"
    assert edited == {LINK: LinkChange(LINK, Change.RESTART, (words,))}
    gone = "wants a restart of pod default/x: nothing asks for it any more"
    assert changed(now, Files(pods=[manifest(x)]), made) == {LINK: LinkChange(LINK, Change.RESTART, (gone,))}


def test_a_link_that_a_topology_and_a_pod_declare_stays_until_a_restart() -> None:
    x, y = running("x"), running("y")
    now = Declarations([x, listing(y, {**TO_Y, "peer": "x"})], [topology(item())])
    found = changed(now, Files(pods=[manifest(y)], topologies=[topology()]), records(now))[LINK]
    stays = "wants a restart of pod default/y: nothing asks for it any more"
    assert found == LinkChange(LINK, Change.RESTART, (stays,))


def test_a_pod_that_started_without_links_has_to_restart() -> None:
    x, y = running("x"), running("y")
    now = Declarations([replace(x, labels={}), y], [])
    found = changed(now, Files(pods=[manifest(x)], topologies=[topology(item())]), [])
    why = 'wants a restart of pod default/x: it has started without ratchet: "true"'
    assert found == {LINK: LinkChange(LINK, Change.RESTART, (why,))}


@BOTH
def test_an_invalid_edit_is_rejected_and_running_pods_keep_their_links(wiring: Wiring) -> None:
    now = Declarations([running("x"), running("y")], [topology(item(), item("x:e2", "y:e2"))])
    files = Files(topologies=[topology(item(mtu=1), item("x:e2", "y:e2", mtu=1300))])
    found = changed(now, files, records(now, wiring))
    (error,) = found[LINK].details
    assert found[LINK].change is Change.REJECTED
    assert error.startswith("cannot link pod default/x: topology default/lab: line 1: mtu: ")
    assert found["default.x.e2.y.e2"].change is Change.IN_PLACE


def test_nothing_is_removed_that_an_unreadable_topology_may_declare() -> None:
    now = Declarations([running("x"), running("y")], [topology(item())])
    found = changed(now, Files(topologies=[replace(topology(), text='- {endpoints: ["a:e1", ')]), records(now))
    assert found[LINK].change is Change.REJECTED
    after = Declarations(now.pods, [replace(topology(), text='- {endpoints: ["x:e1", ')])
    (gone,) = changed(after, Files(topologies=[topology()]), records(now)).values()
    assert gone.change is Change.REMOVED, "once it can be read"


def test_a_pod_that_cannot_start_rejects_its_links() -> None:
    now = Declarations([running("x")], [])
    bad = listing(pod("y"), {"peer": "x", "ifname": "1", "peer_ifname": "e9"})
    found = changed(now, Files(pods=[manifest(bad)], topologies=[topology(item())]), [])[LINK]
    assert found.change is Change.REJECTED
    assert "pod default/y: ratchet.links: line 1: ifname: " in found.details[0]
    host = ManifestPod(manifest(pod("y")).pod, "file", on_host_network=True)
    found = changed(now, Files(pods=[host], topologies=[topology(item())]), [])[LINK]
    assert found.details == ("cannot link pod default/y: it uses the host's network",)


def test_new_errors_and_those_of_the_files_are_reported_by_their_place() -> None:
    now = Declarations([pod("x")], [topology(item("a:e1", "b:lo"), name="old")])
    files = Files(topologies=[topology(item("c:e1", "d:lo"), name="new")])
    assert [*files.rejected(now, files.applied_to(now))] == ["topology default/new: line 1: endpoints"]
    again = Files(topologies=[topology(item("a:e1", "b:lo"), name="old")])
    assert [*again.rejected(now, again.applied_to(now))] == ["topology default/old: line 1: endpoints"]
    x = listing(pod("x"), {"peer": "x"})
    bad, own = Declarations([x], []), Files(pods=[manifest(x)])
    assert [*own.rejected(bad, own.applied_to(bad))] == ["ratchet.links: line 1: peer of pod default/x"]
    assert [*Files().rejected(bad, bad)] == []


def test_the_roles_of_a_record_may_be_those_of_an_earlier_declaration() -> None:
    now = Declarations([running("x"), running("y")], [topology(item())])
    swapped = [one.swapped() for one in records(now)]
    found = changed(now, Files(topologies=[topology(item(mtu=[1300, None]))]), swapped)[LINK]
    assert found == LinkChange(LINK, Change.IN_PLACE, ("e1: mtu 1300 instead of none",))
    half = [replace(one, primary=replace(one.primary, sandbox=None)) for one in swapped]
    without_y = Declarations([running("x")], now.topologies)
    found = changed(without_y, Files(pods=[manifest(pod("y"))]), half)[LINK]
    assert found == LinkChange(LINK, Change.ON_START, ("when pod y starts",))


def test_a_pod_that_took_the_name_of_another_has_not_joined_its_links() -> None:
    now = Declarations([running("x"), replace(pod("y", "new"))], [topology(item("x:e2", "y:e1"))])
    made = records(Declarations([running("x"), running("y")], [topology(item())]))
    found = changed(now, Files(topologies=[topology(item("x:e2", "y:e1"), item("x:e3", "y:e3"))]), made)
    assert found["default.x.e3.y.e3"].details == ("when pod y starts",)
    assert found[LINK].change is Change.NONE, "the agents remove it anyway"


def test_a_running_primary_whose_peer_is_gone_keeps_what_it_does_not_follow() -> None:
    fixed = {"on_edit": "restart"}
    now = Declarations([running("x"), pod("y")], [topology(item(**fixed))])
    half = records(now, absent=["y"])
    edited = changed(now, Files(topologies=[topology(item(**fixed, mtu=[1300, None]))]), half)[LINK]
    restart = "wants a restart of pod default/x: e1: mtu 1300 instead of none"
    assert edited == LinkChange(LINK, Change.RESTART, (restart,))
    rewired = changed(now, Files(topologies=[topology(item(wiring="panel"))]), half)[LINK]
    assert rewired.change is Change.RESTART
    gone = changed(now, Files(topologies=[topology()]), half)[LINK]
    assert gone == LinkChange(LINK, Change.REMOVED, ("e1 of pod x is removed",))


def test_links_that_were_undeclared_are_taken_up_again() -> None:
    now = Declarations([running("x"), running("y")], [])
    half = records(Declarations(now.pods, [topology(item())]), absent=["y"])
    assert changed(now, Files(topologies=[topology(item())]), half)[LINK].change is Change.ADDED
    made = records(Declarations(now.pods, [topology(item())]))
    assert changed(now, Files(topologies=[topology(item())]), made)[LINK].change is Change.NONE
    arriving = Declarations(now.pods, [topology(item())])
    edit = Files(topologies=[topology(item(mtu=[1300, None]))])
    assert changed(arriving, edit, half)[LINK].change is Change.IN_PLACE


def test_two_places_that_differ_reject_a_link() -> None:
    now = Declarations([running("x"), running("y")], [topology(item())])
    files = Files(topologies=[topology(item(mtu=1300), name="other")])
    found = changed(now, files, records(now))[LINK]
    assert found.change is Change.REJECTED
    assert found.details[0].endswith("line 1 and topology default/other: line 1 declare one link differently")
    unmade = changed(Declarations([pod("x"), pod("y")], now.topologies), files, [])[LINK]
    assert unmade.change is Change.REJECTED


def test_an_interface_of_a_rejected_link_is_not_free_for_another() -> None:
    now = Declarations([running("x"), running("y"), running("z")], [topology(item())])
    found = changed(now, Files(topologies=[topology(item(mtu=1), item("x:e1", "z:e1"))]), records(now))
    assert found[LINK].change is Change.REJECTED
    words = f"wants a restart of pod default/x: e1 belongs to link {LINK}"
    assert found[TO_Z] == LinkChange(TO_Z, Change.RESTART, (words,))
