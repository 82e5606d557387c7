"""`ratchet gc` and `ratchet links`, the commands, on an API with live links and what is left of dead ones."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import End, Link, PodRef, Sandbox, State
from ratchet.core.naming import record_name
from ratchet.gc import collect_garbage
from ratchet.store.codec.leases import encode_vni_lease
from ratchet.store.codec.links import encode_link
from tests.support.cluster import LINK, Cluster

pytestmark = pytest.mark.own_cluster  # planted records and Leases stay

CONFIG_MAPS = "/api/v1/namespaces/ratchet/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ratchet/leases"
GONE = "00000000-0000-4000-8000-00000000dead"
ADDRESSES = {"a": "192.168.1.73", "b": "192.168.1.33", "gone": "192.168.1.99"}


def run(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person or a CronJob runs it."""
    command = [sys.executable, "-m", "ratchet.cli.main", *arguments]
    kubeconfig = ["--kubeconfig", str(cluster.bed.access.kubeconfig)]
    return subprocess.run([*command, *kubeconfig], capture_output=True, text=True, timeout=60, check=False)


def gc(cluster: Cluster, *options: str) -> list[str]:
    """The lines that one pass of garbage collection prints."""
    done = run(cluster, "gc", *options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def end(pod: PodRef | None, name: str, ifname: str, node: str) -> End:
    """An end that a pod has joined, or one that waits."""
    sandbox = Sandbox(f"{name}-sandbox", pod, node, f"/run/netns/{name}", ADDRESSES[node]) if pod else None
    return End(name, ifname, sandbox=sandbox)


def planted(cluster: Cluster, primary: End, pair: End, vni: int | None = None) -> Link:
    """A record as a node left it, with the Lease of its VNI where it has one."""
    name = record_name("default", (primary.name, primary.ifname), (pair.name, pair.ifname))
    record = cluster.bed.records.links.create(Link(name, "default", primary, pair))
    if vni is not None:
        record = cluster.bed.records.links.update(record, replace(record, vni=vni))
        cluster.bed.api.create(LEASES, encode_vni_lease(vni, record))
    return record


def gone(name: str) -> PodRef:
    return PodRef("default", name, GONE)


def plant_one_of_each_kind(cluster: Cluster) -> dict[str, list[str]]:
    """What is garbage, each kind by its name, and words of the line that has to tell of it."""
    dead = planted(cluster, end(gone("d1"), "d1", "in1", "a"), end(gone("d2"), "d2", "in2", "b"), vni=501)
    alive = cluster.bed.create_pod("h1", {"ratchet": "true"}, "a")
    half = planted(cluster, end(alive, "h1", "in1", "a"), end(gone("h2"), "h2", "in2", "b"), vni=502)
    lost = planted(cluster, end(gone("n1"), "n1", "in1", "gone"), end(None, "n2", "in2", "b"))
    bare = planted(cluster, end(None, "e1", "in1", "a"), end(None, "e2", "in2", "b"))
    cluster.bed.api.create(LEASES, encode_vni_lease(503, replace(dead, uid=GONE)))
    return {
        "both pods gone": [f"record {dead.name}", "default/d1", "default/d2", GONE],
        "one pod gone": [f"end of {half.name}", "default/h2", GONE],
        "pod gone with its node": [f"record {lost.name}", "default/n1", GONE],
        "no end": [f"record {bare.name}", "nobody has joined it"],
        "no record": ["VNI 503", GONE],
    }


def contents(cluster: Cluster) -> dict[str, Any]:
    """Everything in Ratchet's namespace, by path."""
    found = {}
    for collection in (CONFIG_MAPS, LEASES):
        for item in cluster.bed.api.list(collection)[0]:
            found[f"{collection}/{item['metadata']['name']}"] = item
    return found


def test_each_kind_of_garbage_is_removed_and_told_and_nothing_else(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    foreign = [
        (CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {}}),
        (LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-a"}}),
        (LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "vni-controller"}}),
    ]
    for collection, body in foreign:
        cluster.bed.api.create(collection, body)
    to_stay = contents(cluster)
    told = plant_one_of_each_kind(cluster)
    before = contents(cluster)

    lines = gc(cluster, "--grace", "0", "--dry-run")
    assert contents(cluster) == before
    assert_told(lines, "would remove", told)

    lines = gc(cluster, "--grace", "0")
    assert_told(lines, "removed", told)
    half = cluster.bed.records.links.get("default.h1.in1.h2.in2")
    assert half is not None
    assert half.primary.sandbox is not None
    assert half.pair.sandbox is None
    after = contents(cluster)
    for name in ("configmaps/default.h1.in1.h2.in2", "leases/vni-502"):
        (path,) = [path for path in after if path.endswith(name)]
        del after[path]
    assert after == to_stay
    assert cluster.state() is State.LINKED
    assert cluster.pings(primary, "192.168.2.101")
    assert gc(cluster, "--grace", "0") == ["nothing to remove"]
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))


def assert_told(lines: list[str], verb: str, told: dict[str, list[str]]) -> None:
    """One line for each kind of garbage, and the sum; a Lease that goes with its record has none of its own."""
    *removals, total = lines
    for kind, words in told.items():
        matching = [line for line in removals if line.startswith(f"{verb} {words[0]}: ")]
        assert len(matching) == 1, (kind, lines)
        for word in words[1:]:
            assert word in matching[0], kind
    assert len(removals) == len(told), lines
    assert total == f"{verb} {len(told)} in all"


def test_the_young_are_spared(cluster: Cluster) -> None:
    """An ADD may be about to join what looks like garbage: five minutes, unless told otherwise."""
    plant_one_of_each_kind(cluster)
    before = contents(cluster)
    assert gc(cluster) == ["nothing to remove"]
    assert gc(cluster, "--grace", "60") == ["nothing to remove"]
    assert contents(cluster) == before


def plant_malformed(cluster: Cluster, data: dict[str, str], labels: dict[str, str], name: str = "broken") -> Link:
    """A ConfigMap that is, or was, a record, whatever a person has done to it; and the VNI that it holds."""
    whole = encode_link(Link(name, "default", End("m1", "in1"), End("m2", "in2")))
    body = {**whole, "metadata": {"name": name, "labels": labels}, "data": data}
    uid = cluster.bed.api.create(CONFIG_MAPS, body)["metadata"]["uid"]
    link = Link(name, "default", End("m1", "in1"), End("m2", "in2"), uid=uid)
    cluster.bed.api.create(LEASES, encode_vni_lease(601, link))
    return link


MANAGED = {"app.kubernetes.io/managed-by": "ratchet"}


@pytest.mark.parametrize("damage", ["no data", "wrong data"])
def test_a_record_that_cannot_be_read_is_reported_and_left(cluster: Cluster, damage: str) -> None:
    """Its link may well be in use: its VNI must not be given to another."""
    data = {} if damage == "no data" else {"namespace": "default", "generation": "soon", "primary.name": "m1"}
    plant_malformed(cluster, data, MANAGED)
    before = contents(cluster)
    for options in (("--dry-run",), ()):
        lines = gc(cluster, "--grace", "0", *options)
        assert any("cannot read the record broken" in line for line in lines)
        assert contents(cluster) == before


def test_a_record_whose_labels_are_gone_keeps_its_vni(cluster: Cluster) -> None:
    plant_malformed(cluster, {}, {})
    before = contents(cluster)
    gc(cluster, "--grace", "0")
    assert contents(cluster) == before


def test_what_is_left_alone_is_not_said_to_be_removed(cluster: Cluster) -> None:
    plant_malformed(cluster, {}, MANAGED)
    for options in (("--dry-run",), ()):
        lines = gc(cluster, "--grace", "0", *options)
        told = [line for line in lines if "cannot read the record broken" in line]
        assert len(told) == 1
        assert not told[0].startswith(("removed", "would remove"))
        assert not any(line.endswith("in all") for line in lines)


def test_gc_says_so_where_the_api_cannot_be_reached(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "ratchet.cli.main", "gc", "--kubeconfig", str(cluster.bed.folder / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ratchet: ")
    assert "Traceback" not in done.stderr


# ratchet links


def test_links_are_shown_as_a_table_and_as_json(cluster: Cluster) -> None:
    cluster.linked_pair()
    planted(cluster, end(None, "e1", "in1", "a"), end(None, "e2", "in2", "b"))
    done = run(cluster, "links")
    assert (done.returncode, done.stderr) == (0, "")
    headings, empty, live = (line.split() for line in done.stdout.splitlines())
    assert headings == ["LINK", "STATE", "KIND", "VNI", "PRIMARY", "PAIR", "AGE"]
    assert empty[:6] == ["default.e1.in1.e2.in2", "pending", "-", "-", "e1:in1", "e2:in2"]
    assert live[:6] == [LINK, "linked", "vxlan", "11", "primary-pod:in1@a", "pair-pod:in2@b"]
    assert live[6].endswith("s")

    shown = {one["name"]: one for one in json.loads(run(cluster, "links", "-o", "json").stdout)}
    link = shown[LINK]
    assert (link["state"], link["kind"], link["vni"], link["namespace"]) == ("linked", "vxlan", 11, "default")
    assert (link["primary"]["node"], link["primary"]["vtep"]) == ("a", "192.168.1.73")
    assert link["pair"]["addresses"] == ["192.168.2.101/24"]
    assert link["primary"]["stands"]
    assert link["pair"]["stands"]
    assert link["history"][-1]["to"] == "linked"
    assert shown["default.e1.in1.e2.in2"]["primary"]["pod"] is None
    assert json.loads(run(cluster, "links", "-o", "json", "-n", "elsewhere").stdout) == []


def test_links_tells_of_a_record_that_cannot_be_read(cluster: Cluster) -> None:
    cluster.linked_pair(cluster.a)
    plant_malformed(cluster, {"namespace": "default"}, MANAGED)
    done = run(cluster, "links")
    assert done.returncode == 1
    assert "cannot read the record broken" in done.stderr
    assert done.stdout.splitlines()[1].split()[:4] == [LINK, "linked", "veth", "-"]


# Node objects and mirror pods that are missing


def test_the_end_of_a_living_pod_stays_whatever_the_nodes_are(cluster: Cluster) -> None:
    living = cluster.bed.create_pod("n1", {"ratchet": "true"})
    planted(cluster, end(living, "n1", "in1", "gone"), end(None, "n2", "in2", "b"))
    before = contents(cluster)
    assert gc(cluster, "--grace", "0") == ["nothing to remove"]
    assert contents(cluster) == before


def test_the_lease_of_a_node_is_removed_once_its_node_object_is_missing_and_it_is_silent(cluster: Cluster) -> None:
    now = datetime.now(UTC)
    for node, age in (("a", 3600), ("gone", 3600), ("missing", 10)):
        cluster.bed.records.nodes.renew_lease(NodeLease(node, "192.168.1.1"), 40, now - timedelta(seconds=age))
    told, total = gc(cluster)
    assert told.startswith("removed the Lease of node gone: the Node object is missing and the Lease was last renewed")
    assert total == "removed 1 in all"
    assert {lease.node for lease in cluster.bed.records.nodes.list_leases()} == {"a", "missing"}


@pytest.mark.parametrize(("age", "stays"), [(10, True), (3600, False)], ids=["agent alive", "agent silent"])
def test_a_static_pod_stays_while_its_mirror_is_missing_with_its_node(cluster: Cluster, age: int, stays: bool) -> None:
    """The mirror goes with the Node object; the kubelet creates it again later."""
    later = datetime.now(UTC) + timedelta(hours=1)
    cluster.bed.records.nodes.renew_lease(NodeLease("gone", ADDRESSES["gone"]), 40, later - timedelta(seconds=age))
    static = replace(gone("s1"), mirror="0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    record = planted(cluster, end(static, "s1", "in1", "gone"), end(None, "s2", "in2", "b"))
    before = contents(cluster)
    found = collect_garbage(cluster.bed.records, now=lambda: later)
    lease = "the Lease of node gone"
    assert [finding.name for finding in found] == ([] if stays else [f"record {record.name}", lease])
    assert (contents(cluster) == before) is stays
