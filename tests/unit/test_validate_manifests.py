"""`ratchet validate` on manifests that no cluster can link, and on manifests that clusters do link."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ratchet.cli.main import main
from ratchet.cli.workloads import PODS_MOST

Captured = pytest.CaptureFixture[str]

TOPOLOGY = """\
kind: ConfigMap
metadata: {name: lab, labels: {ratchet.topology: "true"}}
data:
  links: |
    - endpoints: [%s]
"""
POD = """\
kind: Pod
metadata: {name: %s, labels: {ratchet: "true"}}
"""
WORKLOAD = """\
kind: %s
metadata: {name: fw}
spec:
  %s
  template:
    metadata: {labels: {ratchet: "true"%s}}
"""


class Checker:
    """Validates texts, each as a file."""

    def __init__(self, folder: Path, captured: Captured) -> None:
        self._folder, self._captured = folder, captured

    def __call__(self, *texts: str) -> list[str]:
        """The errors and warnings, without the folder, and the summary. The exit status must agree with it."""
        file = self._folder / "f.yaml"
        file.write_text("---\n".join(texts))
        status = main(["validate", str(file)])
        out, err = self._captured.readouterr()
        assert err == ""
        *problems, summary = out.splitlines()
        assert status == (": 0 errors" not in summary)
        return [one.replace(f"{self._folder}/", "") for one in problems]


@pytest.fixture
def check(tmp_path: Path, capsys: Captured) -> Checker:
    return Checker(tmp_path, capsys)


# Workloads


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "Rollout"])
def test_a_workload_is_no_pod_of_its_name(kind: str, check: Checker) -> None:
    assert check(TOPOLOGY % "a:x, fw:x", POD % "a", WORKLOAD % (kind, "", "")) == [
        "error: topology default/lab: line 1: endpoints: pod fw: there is no such pod: "
        f"pods of {kind} fw have generated names: set ratchet.pod_name in its template"
    ]


def test_a_cron_job_is_checked_by_the_template_of_its_jobs(check: Checker) -> None:
    job = 'spec: {template: {metadata: {labels: {ratchet: "true", ratchet.pod_name: fw}}}}'
    cron = f"kind: CronJob\nmetadata: {{name: nightly}}\nspec:\n  jobTemplate:\n    {job}\n"
    assert check(TOPOLOGY % "a:x, fw:x", POD % "a", cron) == []
    (error,) = check(TOPOLOGY % "a:x, nightly:x", POD % "a", cron)
    assert "pods of CronJob nightly have generated names" in error


def test_replicas_with_one_name_are_an_error(check: Checker) -> None:
    named = WORKLOAD % ("Deployment", "replicas: 3", ", ratchet.pod_name: r")
    assert check(TOPOLOGY % "a:x, r:x", POD % "a", named) == [
        "error: f.yaml: line 10: 3 pods have the name r, and one of them gets its links: "
        "default/fw-HASH-1, default/fw-HASH-2, default/fw-HASH-3"
    ]
    assert check(TOPOLOGY % "a:x, r:x", POD % "a", named.replace("3", "1")) == []


def test_replicas_with_one_interface_of_a_peer_are_an_error(check: Checker) -> None:
    template = WORKLOAD % ("StatefulSet", "replicas: 2", "")
    links = "[{peer: hub, ifname: in1, peer_ifname: up0}]"
    linked = template.replace('"true"}', f'"true"}}, annotations: {{ratchet.links: "{links}"}}')
    assert check(POD % "hub", linked) == [
        "error: cannot link pod default/fw-1: ratchet.links: line 1: peer_ifname: "
        "up0 in pod hub is taken by the link default.fw-0.in1.hub.up0"
    ]


def test_a_job_has_as_many_pods_at_a_time_as_it_runs_in_parallel(check: Checker) -> None:
    named = ", ratchet.pod_name: r"
    assert check(TOPOLOGY % "a:x, r:x", POD % "a", WORKLOAD % ("Job", "completions: 5", named)) == []
    (error,) = check(TOPOLOGY % "a:x, r:x", POD % "a", WORKLOAD % ("Job", "parallelism: 2", named))
    assert "2 pods have the name r" in error


def test_a_daemon_set_with_links_is_a_warning(check: Checker) -> None:
    (warning,) = check(TOPOLOGY % "a:x, r:x", POD % "a", WORKLOAD % ("DaemonSet", "", ", ratchet.pod_name: r"))
    assert warning.startswith("warning: f.yaml: line 10: DaemonSet fw creates a pod on each node")


def test_ordinals_of_a_stateful_set_start_where_it_says(check: Checker) -> None:
    ring = WORKLOAD % ("StatefulSet", "replicas: 2\n  ordinals: {start: 5}", "")
    assert check(TOPOLOGY % "fw-5:x, fw-6:x", ring) == []
    assert check(TOPOLOGY % "fw-5:x, fw:x", ring) == [
        "error: topology default/lab: line 1: endpoints: pod fw: there is no such pod: "
        "pods of StatefulSet fw are called fw-5 to fw-6"
    ]


def test_replicas_beyond_the_limit_are_reported(check: Checker) -> None:
    text = WORKLOAD % ("StatefulSet", "replicas: 999999999", "")
    assert check(text) == [
        f"warning: f.yaml: line 1: StatefulSet fw: the first {PODS_MOST} of 999999999 pods are checked"
    ]


def test_a_pod_whose_owner_is_given_is_checked_by_the_owner(check: Checker) -> None:
    owned = POD.replace("labels", "ownerReferences: [{kind: ReplicaSet, name: fw-7d9}], labels") % "fw-7d9-x"
    named = owned.replace('"true"', '"true", ratchet.pod_name: r')
    deployment = WORKLOAD % ("Deployment", "", ", ratchet.pod_name: r")
    assert check(TOPOLOGY % "a:x, r:x", POD % "a", deployment, named) == []
    assert check(TOPOLOGY % "a:x, r:x", POD % "a", named) == []


def test_a_pod_with_a_generated_name_needs_a_name_for_links(check: Checker) -> None:
    generated = POD.replace("name:", "generateName:") % "r-"
    assert check(TOPOLOGY % "a:x, r:x", POD % "a", generated.replace('"true"', '"true", ratchet.pod_name: r')) == []
    (error,) = check(TOPOLOGY % "a:x, r:x", POD % "a", generated)
    assert "pod r: there is no such pod" in error


# Pods


def test_a_pod_on_the_host_network_has_no_links(check: Checker) -> None:
    host = f"{POD % 'b'}spec: {{hostNetwork: true}}\n"
    expected = "f.yaml: line 10: pod default/b has hostNetwork: true: the runtime calls no CNI plugin for it"
    assert check(TOPOLOGY % "a:x, b:x", POD % "a", host) == [f"error: {expected}"]
    assert check(TOPOLOGY % "a:x, c:x", POD % "a", host, POD % "c") == [f"warning: {expected}"]
    workload = WORKLOAD % ("StatefulSet", "", "") + "    spec: {hostNetwork: true}\n"
    (error,) = check(TOPOLOGY % "a:x, fw-0:x", POD % "a", workload)
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POD % "R1", 'line 2: metadata.name: invalid name "R1": expected at most 253 of a-z 0-9'),
        (POD % "a b", 'line 2: metadata.name: invalid name "a b": expected'),
        (POD % '""', "line 2: metadata.name: it is missing"),
        (POD % ("a" * 254), "line 2: metadata.name: invalid name"),
        (POD % "a, namespace: My_Ns", 'line 2: metadata.namespace: invalid namespace "My_Ns": expected at most 63'),
        (TOPOLOGY.replace("lab,", "My_Lab,") % "a:x, b:x", 'line 2: metadata.name: invalid name "My_Lab"'),
        (POD.replace('"true"', f'"true", x: {"y" * 70}') % "a", "line 2: metadata.labels.x: invalid label value"),
        (POD.replace('"true"', '"true", "x y": z') % "a", "line 2: metadata.labels: invalid key x y: expected"),
        (POD.replace('"true"', '"true", "/y": z') % "a", "line 2: metadata.labels: invalid key /y: expected"),
        (
            POD.replace('"true"', '"true", ratchet.local_ip: 10.0.0.1/24') % "a",
            'line 2: metadata.labels[ratchet.local_ip]: invalid label value "10.0.0.1/24": expected A-Z a-z 0-9 - _ . '
            "with a letter or digit at both ends; use an annotation of the same name",
        ),
        (
            POD.replace("labels", f"annotations: {{x: {'y' * 262144}}}, labels") % "a",
            "line 2: metadata.annotations: 262145 bytes, at most 262144",
        ),
        (WORKLOAD.replace("fw", "Fw") % ("Deployment", "", ""), 'line 2: metadata.name: invalid name "Fw"'),
        ("kind: pod\nmetadata: {name: a}\n", "line 1: kind: expected Pod"),
        ("hello\n", "line 1: expected a mapping, found text"),
    ],
)
def test_what_the_api_server_rejects_is_an_error(text: str, expected: str, check: Checker) -> None:
    assert any(one.startswith(f"error: f.yaml: {expected}") for one in check(text))


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (POD % "a", POD % "a", "Pod default/a"),
        (POD % "fw-0", WORKLOAD % ("StatefulSet", "", ""), "Pod default/fw-0"),
        (WORKLOAD % ("Deployment", "", ""), WORKLOAD % ("Deployment", "", ""), "Deployment default/fw"),
        (TOPOLOGY % "a:x, b:x", TOPOLOGY % "a:y, b:y", "ConfigMap default/lab"),
    ],
)
def test_an_object_that_is_declared_twice_is_an_error(first: str, second: str, name: str, check: Checker) -> None:
    assert any(f"{name} is declared twice, first at f.yaml: line 1" in one for one in check(first, second))


def test_objects_with_one_name_may_differ_in_kind_or_namespace(check: Checker) -> None:
    deployment, job = (WORKLOAD % (kind, "", "") for kind in ("Deployment", "Job"))
    assert check(deployment, job, POD % "fw", POD % "fw, namespace: other") == []


def test_labels_without_effect_are_warnings(check: Checker) -> None:
    text = POD.replace('"true"', '"yes", ratchet.links: x') % "a"
    found = [one for one in check(text) if "line" in one]
    assert found == [
        "warning: f.yaml: line 1: pod default/a: the label ratchet.links is ignored: make it an annotation",
        'warning: f.yaml: line 1: pod default/a: ratchet: "yes" is not "true": the pod gets no links',
    ]


def test_files_without_objects_are_warnings(check: Checker) -> None:
    assert check("# nothing\n") == ["warning: f.yaml: there is no object"]
    assert check("replicas: 2\n") == ["warning: f.yaml: line 1: an object without kind is ignored"]


# Topologies


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("links:", "links.yaml:", "topology default/lab: it has no key links in data: found links.yaml"),
        ("links:", "Links:", "topology default/lab: it has no key links in data: found Links"),
        ("links:", "topology:", "topology default/lab: it has no key links in data: found topology"),
        ("\ndata:", "\nbinaryData:", "topology default/lab: it has no key links in data: found links as binary data"),
        ("links: |", "links:", "f.yaml: line 5: data.links: expected text, found a list: write `links: |` before"),
        ('"true"', "True", "f.yaml: line 2: metadata.labels[ratchet.topology]: expected text, found a boolean (True)"),
        ('"true"', "true", "f.yaml: line 2: metadata.labels[ratchet.topology]: expected text, found a boolean (true)"),
        ('"true"', '"yes"', 'f.yaml: line 2: metadata.labels[ratchet.topology]: invalid value "yes": expected "true"'),
        ("name: lab, ", "", "f.yaml: line 2: metadata.name: it is missing"),
    ],
)
def test_a_topology_that_declares_nothing_by_mistake_is_an_error(
    before: str, after: str, expected: str, check: Checker
) -> None:
    (error,) = check(TOPOLOGY.replace(before, after) % "a:x, b:x", POD % "a", POD % "b")
    assert error.startswith(f"error: {expected}")


def test_a_topology_without_data_is_an_error(check: Checker) -> None:
    text = TOPOLOGY.partition("\ndata:")[0] + "\n"
    assert check(text) == ["error: topology default/lab: it has no key links in data: it is empty"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (', labels: {ratchet.topology: "true"}', "", "has a list of links, but not the label ratchet.topology"),
        (', labels: {ratchet.topology: "true"}', ", annotations: {ratchet.topology: x}", "make it a label"),
        ('"true"', '"true", ratchet.topologie: x', "unknown label ratchet.topologie"),
    ],
)
def test_a_config_map_that_looks_like_a_topology_is_a_warning(
    before: str, after: str, expected: str, check: Checker
) -> None:
    (warning,) = check(TOPOLOGY.replace(before, after) % "a:x, b:x", POD % "a", POD % "b")
    assert warning.startswith("warning: f.yaml: line 1: ")
    assert expected in warning


OPERATIONS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: %s, labels: {ratchet.topology: operations}}
data:
  lab.a.x.b.y: '{"operation": "%s"}'
"""


@pytest.mark.parametrize(
    ("name", "verb", "expected"),
    [
        ("ratchet-operations", "down", []),
        (
            "ratchet-operations",
            "sideways",
            ['f.yaml: line 5: data[lab.a.x.b.y]: operation: invalid operation "sideways"'],
        ),
        ("mine", "down", ['f.yaml: line 3: metadata.name: expected "ratchet-operations"']),
    ],
)
def test_operations_are_checked(name: str, verb: str, expected: list[str], check: Checker) -> None:
    found = check(OPERATIONS % (name, verb))
    assert [line.startswith(f"error: {text}") for line, text in zip(found, expected, strict=True)] == [True] * len(
        found
    )


@pytest.mark.parametrize(("label", "links"), [("True", 1), ("TRUE", 1), ("false", 0)])
def test_the_label_of_topologies_may_have_upper_case(label: str, links: int, check: Checker, capsys: Captured) -> None:
    assert check(TOPOLOGY.replace("true", label) % "a:x, b:x", POD % "a", POD % "b") == []


def test_a_topology_without_its_pods_is_one_error(check: Checker) -> None:
    many = "".join(f"    - endpoints: [p{one}:x, p{one + 1}:y]\n" for one in range(1, 9))
    text = TOPOLOGY % "p0:x, p1:y" + many
    assert check(text) == [
        "error: topology default/lab: no pod of the namespace is given: p0, p1, p2, p3, p4, p5, p6, p7 and 2 others"
    ]
    assert check(text, *(POD % f"p{one}" for one in range(9) if one != 2)) == [
        "error: topology default/lab: line 2: endpoints: pod p2: there is no such pod (2 links)",
        "error: topology default/lab: line 9: endpoints: pod p9: there is no such pod",
    ]


# Types


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POD.replace('"true"', "true"), "metadata.labels.ratchet: expected text, found a boolean (true): put it in"),
        (POD.replace("{ratchet: ", "[").replace("}}", "]}"), "metadata.labels: expected a mapping, found a list"),
        (POD.replace("labels", "annotations: [x], labels"), "metadata.annotations: expected a mapping, found a list"),
        ("kind: Pod\nmetadata: {name: 7}\n#%s", "metadata.name: expected text, found a number (7)"),
        ("kind: Pod\nmetadata: {name: 2001-99-99, labels: {x: !!int x}}\n#%s", "metadata.labels.x: expected text"),
        ("kind: Pod\nmetadata: {name: a, labels: {x: !!bool x}}\n#%s", "metadata.labels.x: expected text, found a"),
        (f"kind: Pod\nmetadata: {{name: {'9' * 5000}}}\n#%s", "metadata.name: expected text, found a number (9999"),
        (POD.replace("labels", "namespace: 7, labels"), "metadata.namespace: expected text, found a number (7)"),
        ("kind: Pod\nmetadata: [%s]\n", "metadata: expected a mapping, found a list"),
        ("kind: Pod\nmetadata: {name: %s}\nspec: [x]\n", "spec: expected a mapping, found a list"),
        ("kind: Pod\nmetadata: {name: %s}\nspec: {hostNetwork: 1}\n", "spec.hostNetwork: expected true or false"),
        ("kind: Pod\nmetadata: {name: %s, creationTimestamp: 2001-99-99}\n", 'invalid time "2001-99-99": expected'),
        ("kind: 7\n#%s", "kind: expected text, found a number (7)"),
        ("kind: Deployment\nmetadata: {name: %s}\nspec: [x]\n", "spec: expected a mapping, found a list"),
        ("kind: Deployment\nmetadata: {name: %s}\nspec: {template: x}\n", "spec.template"),
        ("kind: Job\nmetadata: {name: %s}\nspec: {template: {metadata: x}}\n", "spec.template.metadata: expected a"),
        (
            "kind: StatefulSet\nmetadata: {name: %s}\nspec: {replicas: -1, template: {}}\n",
            "spec.replicas: expected a whole number, at least 0, found a number (-1)",
        ),
        ("kind: ConfigMap\nmetadata: {labels: {ratchet.topology: 1}, name: %s}\n", "expected text, found a number (1)"),
        ("kind: ConfigMap\nmetadata: {labels: [%s]}\n", "metadata.labels: expected a mapping, found a list"),
        ((TOPOLOGY % "a:x, b:x").replace("links: |", "x: 1\n  links: |") + "#%s", "data.x: expected text, found a n"),
        ("kind: List\nitems: [{kind: Pod, metadata: {name: %s, labels: 1}}]\n", "items[0].metadata.labels: expected a"),
    ],
)
def test_values_of_another_type_are_errors_with_their_place(text: str, expected: str, check: Checker) -> None:
    found = check(text % "a")
    assert any(one.startswith("error: f.yaml: line ") and expected in one for one in found), found


def test_an_object_with_an_error_does_not_hide_those_of_others(check: Checker) -> None:
    bad = POD.replace('"true"', "true")
    assert [one.partition(": expected")[0] for one in check(bad % "a", bad % "b")] == [
        "error: f.yaml: line 2: metadata.labels.ratchet",
        "error: f.yaml: line 5: metadata.labels.ratchet",
    ]


def test_items_of_a_typed_list_need_no_kind(check: Checker) -> None:
    items = "- metadata: {name: a, labels: {ratchet: yes}}\n"
    (error,) = check(f"kind: PodList\nitems:\n{items}")
    assert "items[0].metadata.labels.ratchet: expected text" in error


def test_aliases_and_merge_keys_are_read_as_kubectl_does(check: Checker) -> None:
    template = "common: &common {ratchet: 'true'}\nkind: Pod\nmetadata: {name: a, labels: {<<: *common, x: '1'}}\n"
    other = "kind: Pod\nmetadata: {name: b, labels: &l {ratchet: 'true'}, annotations: *l}\n"
    assert check(TOPOLOGY % "a:x, b:x", template, other) == []


def test_stdin_is_read_as_bytes(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfek\x00")))
    assert main(["validate", "-"]) == 1
    assert capsys.readouterr().err.startswith("ratchet: cannot read -: line 1: expected UTF-8")
