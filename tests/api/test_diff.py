"""`ratchet diff` against an API server: a table, JSON, and the exit status."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ratchet.cli.main import main
from ratchet.core.model import End, Link
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Sandbox
from ratchet.store.apiserver import connect
from ratchet.store.store import ApiStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Client

Captured = pytest.CaptureFixture[str]
Json = dict[str, Any]
EDITED = '- {endpoints: ["x:e1", "y:e1"], mtu: [1300, null]}\n- {endpoints: ["y:e2", "new:e1"]}\n'
LINK = "- {endpoints: [x:e1, y:e1]}\n"


def topology(links: str, name: str = "lab", label: str = "true") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"ratchet.topology": label}},
        "data": {"links": links},
    }


@dataclass
class Lab:
    """A namespace with a topology and its link between the running pods x and y."""

    namespace: str
    kubeconfig: Path
    folder: Path
    capsys: Captured

    def diff(self, *objects: Json | str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """Run `ratchet diff` with a file for each object, or with its text; the status, stdout and stderr."""
        files = []
        for number, one in enumerate(objects):
            file = self.folder / f"{number}.yaml"
            file.write_text(one if isinstance(one, str) else yaml.safe_dump(one))
            files.append(str(file))
        cluster = ["--kubeconfig", str(self.kubeconfig), "--records-in", self.namespace, "-n", self.namespace]
        status = main(["diff", *cluster, *options, "-f", *files])
        out, err = self.capsys.readouterr()
        return status, out, err


@pytest.fixture
def lab(
    api: Client,
    kubeconfig: Path,
    namespace: str,
    new_pod: Callable[[str], Json],
    tmp_path: Path,
    capsys: Captured,
) -> Lab:
    ends = []
    for name in ("x", "y"):
        body = new_pod(name)
        body["metadata"]["labels"] = {"ratchet": "true"}
        uid = api.post(api.path("pods", namespace), body).accepted(201)["metadata"]["uid"]
        ref = PodRef(namespace, name, uid)
        ends.append(End(name, "e1", sandbox=Sandbox(f"{name}-c1", ref, "node-a", f"/run/netns/{name}", "192.0.2.1")))
    api.post(api.path("configmaps", namespace), topology(LINK)).accepted(201)
    with closing(connect(str(kubeconfig), patience=5.0)) as server:
        ApiStore(server, namespace).links.create(Link(f"{namespace}.x.e1.y.e1", namespace, ends[0], ends[1]))
    return Lab(namespace, kubeconfig, tmp_path, capsys)


def test_each_link_that_changes_is_a_row_and_the_last_line_counts(lab: Lab, new_pod: Callable[[str], Json]) -> None:
    new = {"apiVersion": "v1", "kind": "Pod", **new_pod("new")}
    new["metadata"]["labels"] = {"ratchet": "true"}
    status, out, err = lab.diff(topology(EDITED), new)
    assert (status, err) == (1, "")
    headings, *rows = out.splitlines()
    assert headings.split() == ["LINK", "CHANGE", "DETAILS"]
    assert [line.split(maxsplit=1) for line in rows] == [
        [f"{lab.namespace}.new.e1.y.e2", "on start   when pod new starts"],
        [f"{lab.namespace}.x.e1.y.e1", "in place   e1: mtu 1300 instead of none"],
        ["1", "in place, 1 on start, 0 unchanged"],
    ]


def test_files_that_change_nothing_have_no_rows(lab: Lab) -> None:
    assert lab.diff(topology(LINK)) == (0, "1 unchanged\n", "")
    status, out, _ = lab.diff(topology(LINK), options=("--all",))
    assert status == 0
    assert out.splitlines()[1].split() == [f"{lab.namespace}.x.e1.y.e1", "none"]
    assert lab.diff({"kind": "Service", "metadata": {"name": "x"}}) == (0, "0 unchanged\n", "")


def test_json_has_an_object_for_each_link(lab: Lab) -> None:
    status, out, _ = lab.diff(topology(EDITED.partition("\n")[0]), options=("-o", "json"))
    assert status == 1
    assert json.loads(out) == [
        {
            "namespace": lab.namespace,
            "link": f"{lab.namespace}.x.e1.y.e1",
            "change": "in place",
            "details": ["e1: mtu 1300 instead of none"],
        }
    ]


def test_a_config_map_that_loses_its_label_is_no_topology_any_more(lab: Lab) -> None:
    status, out, _ = lab.diff(topology(LINK, label="false"))
    assert status == 1
    assert out.splitlines()[1].split()[1] == "removed"


def test_topologies_are_ignored_if_the_nodes_ignore_them(lab: Lab) -> None:
    assert lab.diff(topology(EDITED), options=("--topologies", "off")) == (0, "0 unchanged\n", "")


def test_rejected_declarations_have_status_2(lab: Lab) -> None:
    other = topology('- {endpoints: ["a:e1", "b:lo"]}', name="other")
    status, out, _ = lab.diff(topology("- {endpoints: [x:e1, y:e1], mtu: 1}"), other)
    assert status == 2
    place = f"topology {lab.namespace}/lab: line 1: mtu: "
    assert f"rejected   cannot link pod {lab.namespace}/x: {place}" in out.splitlines()[1]
    assert out.splitlines()[2].startswith("- ")
    assert f"rejected   topology {lab.namespace}/other: line 1: endpoints: " in out.splitlines()[2]
    assert out.splitlines()[3] == "2 rejected, 0 unchanged"


def test_what_cannot_be_read_has_status_2(lab: Lab) -> None:
    assert main(["diff", "--kubeconfig", str(lab.kubeconfig), "-f", str(lab.folder / "none")]) == 2
    assert lab.capsys.readouterr().err.startswith("ratchet: cannot read ")
    status, _, err = lab.diff("{kind: Pod, metadata: [1]}", topology(LINK))
    assert (status, err.startswith("ratchet: cannot read ")) == (2, True)
    status, _, err = lab.diff(topology(LINK), topology(LINK))
    assert status == 2
    assert "is declared twice" in err


def test_a_namespace_must_exist_or_be_in_the_files(lab: Lab) -> None:
    elsewhere = topology(LINK)
    elsewhere["metadata"]["namespace"] = "typo"
    assert lab.diff(elsewhere) == (2, "", "ratchet: cannot compare links: namespace typo does not exist\n")
    assert lab.diff({"kind": "Namespace", "metadata": {"name": "typo"}}, elsewhere)[0] == 1


def test_pods_of_workloads_are_ignored_with_a_note(lab: Lab) -> None:
    template = {"metadata": {"labels": {"ratchet": "true"}}, "spec": {}}
    workload = {"kind": "Deployment", "metadata": {"name": "r"}, "spec": {"replicas": 2, "template": template}}
    status, out, err = lab.diff(workload)
    assert (status, out) == (0, "0 unchanged\n")
    assert err.endswith(": line 1: Deployment r: pods of workloads are ignored\n")
