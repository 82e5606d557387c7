"""`ratchet validate`: all errors and warnings of manifests at once, before they are applied."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.cli.main import main
from ratchet.cli.manifest_checks import find_problems
from ratchet.cli.problems import Problem
from tests.support.links import annotated, pod, primary_pod

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
Captured = pytest.CaptureFixture[str]


def texts(found: list[Problem], *, is_error: bool) -> list[str]:
    return [one.text for one in found if one.is_error is is_error]


def pod_manifest(name: str, *items: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a pod with these links in its annotation."""
    annotations = {"ratchet.links": json.dumps(items)} if items else {}
    return {"kind": "Pod", "metadata": {"name": name, "labels": {"ratchet": "true"}, "annotations": annotations}}


def item(peer: str, ifname: str, peer_ifname: str, **properties: Any) -> dict[str, Any]:
    return {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, **properties}


def write_manifests(folder: Path, *manifests: dict[str, Any]) -> str:
    file = folder / "pods.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    return str(file)


@pytest.mark.parametrize("file", ["example.yaml", "example-one-node.yaml"])
def test_the_examples_of_2017_are_valid(file: str, capsys: Captured) -> None:
    assert main(["validate", "--strict", str(EXAMPLES / file)]) == 0
    assert capsys.readouterr().out == "2 pods, 1 link: 0 errors, 0 warnings\n"


def test_all_errors_are_reported_at_once(tmp_path: Path, capsys: Captured) -> None:
    file = write_manifests(
        tmp_path,
        pod_manifest("hub", item("nobody", "in1", "in2"), item("a", "in3", "up7")),
        pod_manifest("late", item("a", "in3", "up0")),
        pod_manifest("a"),
        pod_manifest("b", item("a", "1in", "up1")),
        pod_manifest("c", item("a", "in1", "up0")),
    )
    assert main(["validate", file]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "error: cannot link pod default/b: ratchet.links: line 1: ifname: "
        'invalid interface name "1in": expected A-Z a-z, then up to 14 of these, 0-9 _ . -',
        "error: cannot link pod default/hub: ratchet.links: line 1: peer: pod nobody: there is no such pod",
        "error: cannot link pod default/late: ratchet.links: line 1: peer_ifname: "
        "up0 in pod a is taken by the link default.a.up0.c.in1",
        "5 pods, 3 links: 3 errors, 0 warnings",
    ]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["10.0.0.1/24", "10.0.0.2/24"], []),
        (["10.0.0.1/24", None], []),
        (["10.0.0.1/24", "2001:db8::1/64"], []),
        (
            ["10.0.0.1/24", "10.0.1.2/24"],
            ["link default.a.in1.b.in2: its ends have no common subnet: 10.0.0.0/24 and 10.0.1.0/24"],
        ),
        (
            [["10.0.0.1/24", "2001:db8::1/64"], ["10.0.0.2/24", "2001:db8:1::2/64"]],
            ["link default.a.in1.b.in2: its ends have no common subnet: 2001:db8::/64 and 2001:db8:1::/64"],
        ),
    ],
)
def test_ends_without_a_common_subnet_are_a_warning(addresses: list[object], expected: list[str]) -> None:
    one = annotated(pod("a"), links=json.dumps([item("b", "in1", "in2", addresses=addresses)]))
    assert find_problems([one, pod("b")]) == [Problem(False, text) for text in expected]


def test_a_duplicate_address_or_subnet_is_a_warning() -> None:
    items = [
        item("b", "in1", "up0", addresses=["10.0.0.1/24", "10.0.0.2/24"]),
        item("c", "in2", "up0", addresses=["10.0.0.3/24", "10.0.0.2/24"]),
    ]
    found = find_problems([annotated(pod("a"), links=json.dumps(items)), pod("b"), pod("c")])
    assert texts(found, is_error=True) == []
    assert texts(found, is_error=False) == [
        "10.0.0.0/24 is on in1 of pod a and on in2 of pod a: the pod has two routes to it",
        "10.0.0.2 is the address of up0 of pod b and of up0 of pod c",
    ]


def test_different_mtus_of_the_ends_are_a_warning() -> None:
    one = annotated(pod("a"), links=json.dumps([item("b", "in1", "in2", mtu=[1400, 1300])]))
    expected = "link default.a.in1.b.in2: the MTUs of its ends differ: 1400 and 1300"
    assert find_problems([one, pod("b")]) == [Problem(False, expected)]


def test_labels_and_annotations_without_effect_are_warnings() -> None:
    pods = [
        annotated(primary_pod("a", "b"), pair_nam="b"),
        pod("b", primary="false"),
        pod("c", primary="false"),
        pod("d", pair_name="a"),
        pod("e", colour="x"),
    ]
    unlabelled = replace(annotated(pod("f"), links="[]"), labels={})
    assert texts(find_problems([*pods, unlabelled]), is_error=False) == [
        "pod default/a: unknown label or annotation ratchet.pair_nam",
        'pod default/c: ratchet.primary is "false", but no pod declares a link to it',
        'pod default/d has ratchet.pair_name but not ratchet.primary: "true": its labels declare no link',
        "pod default/e: unknown label or annotation ratchet.colour",
        'pod default/f has ratchet labels or annotations, but not ratchet: "true": it gets no links',
    ]


def test_warnings_fail_only_with_strict(tmp_path: Path) -> None:
    file = write_manifests(tmp_path, pod_manifest("a", item("b", "in1", "in2", mtu=[1400, 1300])), pod_manifest("b"))
    assert main(["validate", file]) == 0
    assert main(["validate", "--strict", file]) == 1


NOTE = (
    "note: {}: between nodes, a packet of 9000 bytes takes 7 outer packets over IPv4 "
    "if the underlay MTU is 1500; over IPv6, this mtu needs a larger underlay MTU"
)


def notes_of(folder: Path, capsys: Captured, *pods: dict[str, Any]) -> list[str]:
    """The notes of valid manifests."""
    assert main(["validate", "--strict", write_manifests(folder, *pods)]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]


def test_a_link_in_panel_wiring_with_a_large_mtu_has_a_note_and_no_problem(tmp_path: Path, capsys: Captured) -> None:
    file = write_manifests(
        tmp_path, pod_manifest("a", item("b", "in1", "in2", mtu=9000, wiring="panel")), pod_manifest("b")
    )
    assert main(["validate", "--strict", file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        NOTE.format("link default.a.in1.b.in2"),
        "2 pods, 1 link: 0 errors, 0 warnings",
    ]


def test_links_with_one_mtu_have_one_note(tmp_path: Path, capsys: Captured) -> None:
    items = [item("b", f"in{number}", f"in{number}", mtu=9000, wiring="panel") for number in range(3)]
    found = notes_of(tmp_path, capsys, pod_manifest("a", *items), pod_manifest("b"))
    assert found == [NOTE.format("3 links, such as default.a.in0.b.in0")]


@pytest.mark.parametrize("declared", [{"mtu": 1450}, {}, {"mtu": 65535}, {"mtu": 9000, "wiring": "direct"}])
def test_a_link_whose_packets_are_not_fragmented_has_no_note(
    tmp_path: Path, capsys: Captured, declared: dict[str, Any]
) -> None:
    declared = {"wiring": "panel", **declared}
    assert notes_of(tmp_path, capsys, pod_manifest("a", item("b", "in1", "in2", **declared)), pod_manifest("b")) == []


@pytest.mark.parametrize(("kind", "number"), [(None, 0), ("vxlan", 1)])
def test_a_link_between_pods_of_one_node_has_a_note_if_it_is_a_tunnel(
    tmp_path: Path, capsys: Captured, kind: str | None, number: int
) -> None:
    declared = item("b", "in1", "in2", mtu=9000, wiring="panel") | ({"kind": kind} if kind else {})
    pods = [pod_manifest("a", declared), pod_manifest("b")]
    for one in pods:
        one["spec"] = {"nodeName": "node-1"}
    assert len(notes_of(tmp_path, capsys, *pods)) == number


def test_files_are_checked_together_and_namespaces_separately(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "one").mkdir()
    first = write_manifests(tmp_path, pod_manifest("a", item("b", "in1", "in2")))
    elsewhere = pod_manifest("b")
    elsewhere["metadata"]["namespace"] = "other"
    second = write_manifests(tmp_path / "one", elsewhere)
    assert main(["validate", first, second]) == 1
    assert "pod b: there is no such pod" in capsys.readouterr().out
    assert main(["validate", "-n", "other", first, second]) == 0


def test_workloads_are_checked_as_the_pods_that_they_create(tmp_path: Path, capsys: Captured) -> None:
    template = {"metadata": {"labels": {"ratchet": "true"}}}
    ring = {"kind": "StatefulSet", "metadata": {"name": "r"}, "spec": {"replicas": 2, "template": template}}
    named = {"metadata": {"labels": {"ratchet": "true", "ratchet.pod_name": "fw"}}}
    rolled = {"kind": "Deployment", "metadata": {"name": "any"}, "spec": {"template": named}}
    hub = pod_manifest("hub", item("r-0", "in1", "up0"), item("r-1", "in2", "up0"), item("fw", "in3", "up0"))
    file = write_manifests(
        tmp_path, {"kind": "List", "items": [ring, rolled, hub]}, {"kind": "Service", "metadata": {}}
    )
    assert main(["validate", "--strict", file]) == 0
    assert capsys.readouterr().out == "4 pods, 3 links: 0 errors, 0 warnings\n"


def test_topologies_are_checked_with_the_pods(tmp_path: Path, capsys: Captured) -> None:
    text = "- endpoints: [a:in1, b:in2]\n- endpoints: [b:up, c:up]\n  mtu: 1\n"
    metadata = {"name": "lab", "labels": {"ratchet.topology": "true"}}
    lab = {"kind": "ConfigMap", "metadata": metadata, "data": {"links": text}}
    other = {"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"links": "what it likes"}}
    assert main(["validate", write_manifests(tmp_path, lab, other, pod_manifest("a"))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "error: topology default/lab: line 1: endpoints: pod b: there is no such pod",
        'error: topology default/lab: line 3: mtu: invalid MTU "1": expected bytes from 68 to 65535',
        "1 pod, 1 link: 2 errors, 0 warnings",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: [", "line 2: did not find expected node content"),
        (b"a: b\nc: &x [*x]", "line 2: the anchor of *x is missing, or has the alias in it"),
        (b"a: b\nc: \xff", "line 2: expected UTF-8"),
        (b"a: 1\na: 2", "line 2: duplicate key a"),
    ],
)
def test_an_unreadable_file_is_an_error(tmp_path: Path, text: bytes, expected: str, capsys: Captured) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(text)
    assert main(["validate", str(file)]) == 1
    output = capsys.readouterr().err
    assert output.startswith(f"ratchet: cannot read {file}: {expected}")
    assert main(["validate", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
