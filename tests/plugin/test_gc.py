"""The commands `ratchet gc` and `ratchet links`, with live links and with garbage in the API."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ratchet.core.heartbeat import NodeLease
from ratchet.core.model import End, Link, State
from ratchet.core.naming import record_name
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Sandbox
from ratchet.gc import collect_garbage
from ratchet.store.codec.leases import encode_vni_lease
from ratchet.store.codec.links import encode_link
from tests.support.cluster import LINK, Cluster

pytestmark = pytest.mark.own_cluster  # the records and Leases that tests create stay

CONFIG_MAPS = "/api/v1/namespaces/ratchet/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ratchet/leases"
GONE = "00000000-0000-4000-8000-00000000dead"
ADDRESSES = {"a": "192.168.1.73", "b": "192.168.1.33", "gone": "192.168.1.99"}


def run(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a `ratchet` command as a user or a CronJob does."""
    command = [sys.executable, "-m", "ratchet.cli.main", *arguments]
    kubeconfig = ["--kubeconfig", str(cluster.bed.access.kubeconfig)]
    return subprocess.run([*command, *kubeconfig], capture_output=True, text=True, timeout=60, check=False)


def gc(cluster: Cluster, *options: str) -> list[str]:
    """Run `ratchet gc` and return the lines that it prints."""
    process = run(cluster, "gc", *options)
    assert (process.returncode, process.stderr) == (0, ""), process
    return process.stdout.splitlines()


def make_end(pod: PodRef | None, name: str, ifname: str, node: str) -> End:
    """Build an end that `pod` has joined, or one that nobody has joined if `pod` is None."""
    sandbox = Sandbox(f"{name}-sandbox", pod, node, f"/run/netns/{name}", ADDRESSES[node]) if pod else None
    return End(name, ifname, sandbox=sandbox)


def create_record(cluster: Cluster, primary: End, pair: End, vni: int | None = None) -> Link:
    """Create a record with these ends, and a Lease for its VNI if it has one."""
    name = record_name("default", (primary.name, primary.ifname), (pair.name, pair.ifname))
    record = cluster.bed.store.links.create(Link(name, "default", primary, pair))
    if vni is not None:
        record = cluster.bed.store.links.update(record, replace(record, vni=vni))
        cluster.bed.api.create(LEASES, encode_vni_lease(vni, record))
    return record


def gone_pod(name: str) -> PodRef:
    return PodRef("default", name, GONE)


def create_garbage_of_each_kind(cluster: Cluster) -> dict[str, list[str]]:
    """Create garbage of each kind. Return the words that the output line for each kind must contain."""
    dead = create_record(
        cluster, make_end(gone_pod("d1"), "d1", "in1", "a"), make_end(gone_pod("d2"), "d2", "in2", "b"), vni=501
    )
    alive = cluster.bed.create_pod("h1", {"ratchet": "true"}, "a")
    half = create_record(
        cluster, make_end(alive, "h1", "in1", "a"), make_end(gone_pod("h2"), "h2", "in2", "b"), vni=502
    )
    lost = create_record(cluster, make_end(gone_pod("n1"), "n1", "in1", "gone"), make_end(None, "n2", "in2", "b"))
    bare = create_record(cluster, make_end(None, "e1", "in1", "a"), make_end(None, "e2", "in2", "b"))
    cluster.bed.api.create(LEASES, encode_vni_lease(503, replace(dead, uid=GONE)))
    return {
        "both pods gone": [f"record {dead.name}", "default/d1", "default/d2", GONE],
        "one pod gone": [f"end of {half.name}", "default/h2", GONE],
        "pod gone with its node": [f"record {lost.name}", "default/n1", GONE],
        "no end": [f"record {bare.name}", "nobody has joined it"],
        "no record": ["VNI 503", GONE],
    }


def namespace_contents(cluster: Cluster) -> dict[str, Any]:
    """Return all ConfigMaps and Leases in Ratchet's namespace, by path."""
    found = {}
    for collection in (CONFIG_MAPS, LEASES):
        for item in cluster.bed.api.list(collection)[0]:
            found[f"{collection}/{item['metadata']['name']}"] = item
    return found


def test_gc_removes_and_reports_each_kind_of_garbage_and_nothing_else(cluster: Cluster) -> None:
    primary, pair = cluster.linked_pair()
    foreign = [
        (CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {}}),
        (LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-a"}}),
        (LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "vni-controller"}}),
    ]
    for collection, body in foreign:
        cluster.bed.api.create(collection, body)
    untouched = namespace_contents(cluster)
    reported = create_garbage_of_each_kind(cluster)
    before = namespace_contents(cluster)

    lines = gc(cluster, "--grace", "0", "--dry-run")
    assert namespace_contents(cluster) == before
    assert_reported(lines, "would remove", reported)

    lines = gc(cluster, "--grace", "0")
    assert_reported(lines, "removed", reported)
    half = cluster.bed.store.links.get("default.h1.in1.h2.in2")
    assert half is not None
    assert half.primary.sandbox is not None
    assert half.pair.sandbox is None
    after = namespace_contents(cluster)
    for name in ("configmaps/default.h1.in1.h2.in2", "leases/vni-502"):
        (path,) = [path for path in after if path.endswith(name)]
        del after[path]
    assert after == untouched
    assert cluster.state() is State.LINKED
    assert cluster.pings(primary, "192.168.2.101")
    assert gc(cluster, "--grace", "0") == ["nothing to remove"]
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))


def assert_reported(lines: list[str], verb: str, reported: dict[str, list[str]]) -> None:
    """Assert one line for each kind of garbage, and the total. Leases of removed records have none."""
    *removals, total = lines
    for kind, words in reported.items():
        matching = [line for line in removals if line.startswith(f"{verb} {words[0]}: ")]
        assert len(matching) == 1, (kind, lines)
        for word in words[1:]:
            assert word in matching[0], kind
    assert len(removals) == len(reported), lines
    assert total == f"{verb} {len(reported)} in all"


def test_gc_spares_objects_within_the_grace_period(cluster: Cluster) -> None:
    """Collect with the default grace period, five minutes, and with one minute: an ADD may still join."""
    create_garbage_of_each_kind(cluster)
    before = namespace_contents(cluster)
    assert gc(cluster) == ["nothing to remove"]
    assert gc(cluster, "--grace", "60") == ["nothing to remove"]
    assert namespace_contents(cluster) == before


def create_malformed_record(
    cluster: Cluster, data: dict[str, str], labels: dict[str, str], name: str = "broken"
) -> Link:
    """Create a record with damaged data or labels, and the Lease of its VNI."""
    whole = encode_link(Link(name, "default", End("m1", "in1"), End("m2", "in2")))
    body = {**whole, "metadata": {"name": name, "labels": labels}, "data": data}
    uid = cluster.bed.api.create(CONFIG_MAPS, body)["metadata"]["uid"]
    link = Link(name, "default", End("m1", "in1"), End("m2", "in2"), uid=uid)
    cluster.bed.api.create(LEASES, encode_vni_lease(601, link))
    return link


MANAGED = {"app.kubernetes.io/managed-by": "ratchet"}


@pytest.mark.parametrize("damage", ["no data", "wrong data"])
def test_gc_reports_an_unreadable_record_and_keeps_it(cluster: Cluster, damage: str) -> None:
    """Damage a record whose link may be in use. Its VNI must stay reserved."""
    data = {} if damage == "no data" else {"namespace": "default", "generation": "soon", "primary.name": "m1"}
    create_malformed_record(cluster, data, MANAGED)
    before = namespace_contents(cluster)
    for options in (("--dry-run",), ()):
        lines = gc(cluster, "--grace", "0", *options)
        assert any("cannot read the record broken" in line for line in lines)
        assert namespace_contents(cluster) == before


def test_gc_keeps_the_vni_of_a_record_without_labels(cluster: Cluster) -> None:
    create_malformed_record(cluster, {}, {})
    before = namespace_contents(cluster)
    gc(cluster, "--grace", "0")
    assert namespace_contents(cluster) == before


def test_gc_does_not_report_an_unreadable_record_as_removed(cluster: Cluster) -> None:
    create_malformed_record(cluster, {}, MANAGED)
    for options in (("--dry-run",), ()):
        lines = gc(cluster, "--grace", "0", *options)
        reported = [line for line in lines if "cannot read the record broken" in line]
        assert len(reported) == 1
        assert not reported[0].startswith(("removed", "would remove"))
        assert not any(line.endswith("in all") for line in lines)


def test_gc_prints_an_error_if_the_kubeconfig_is_missing(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "ratchet.cli.main", "gc", "--kubeconfig", str(cluster.bed.folder / "none")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("ratchet: ")
    assert "Traceback" not in process.stderr


# ratchet links


def test_links_prints_a_table_or_json(cluster: Cluster) -> None:
    cluster.linked_pair()
    create_record(cluster, make_end(None, "e1", "in1", "a"), make_end(None, "e2", "in2", "b"))
    process = run(cluster, "links")
    assert (process.returncode, process.stderr) == (0, "")
    headings, empty, live = (line.split() for line in process.stdout.splitlines())
    assert headings == ["NAMESPACE", "PRIMARY", "PAIR", "STATE", "KIND", "VNI", "AGE"]
    assert empty[:6] == ["default", "e1:in1", "e2:in2", "pending", "-", "-"]
    assert live[:6] == ["default", "primary-pod:in1", "pair-pod:in2", "linked", "vxlan", "11"]
    assert live[6].endswith("s")
    wide = run(cluster, "links", "-o", "wide", "-n", "default").stdout.splitlines()
    assert wide[-1].split()[6:] == ["direct", "a", "b", "-", LINK]

    shown = {one["name"]: one for one in json.loads(run(cluster, "links", "-o", "json").stdout)}
    link = shown[LINK]
    assert (link["state"], link["kind"], link["vni"], link["namespace"]) == ("linked", "vxlan", 11, "default")
    assert (link["primary"]["node"], link["primary"]["vtep"]) == ("a", "192.168.1.73")
    assert link["pair"]["addresses"] == ["192.168.2.101/24"]
    assert link["primary"]["stands"]
    assert link["pair"]["stands"]
    assert link["history"][-1]["to"] == "linked"
    assert shown["default.e1.in1.e2.in2"]["primary"]["pod"] is None
    assert json.loads(run(cluster, "links", "-o", "json", "-n", "kube-system").stdout) == []
    missing = run(cluster, "links", "-n", "elsewhere")
    assert missing.returncode == 1
    assert missing.stderr == "ratchet: cannot list links: namespace elsewhere does not exist\n"


def test_links_reports_an_unreadable_record(cluster: Cluster) -> None:
    cluster.linked_pair(cluster.a)
    create_malformed_record(cluster, {"namespace": "default"}, MANAGED)
    process = run(cluster, "links")
    assert process.returncode == 1
    assert "cannot read the record broken" in process.stderr
    assert process.stdout.splitlines()[1].split()[:5] == [
        "default",
        "primary-pod:in1",
        "pair-pod:in2",
        "linked",
        "veth",
    ]


# Missing Node objects and mirror pods


def test_gc_keeps_the_end_of_an_existing_pod_without_a_node_object(cluster: Cluster) -> None:
    living = cluster.bed.create_pod("n1", {"ratchet": "true"})
    create_record(cluster, make_end(living, "n1", "in1", "gone"), make_end(None, "n2", "in2", "b"))
    before = namespace_contents(cluster)
    assert gc(cluster, "--grace", "0") == ["nothing to remove"]
    assert namespace_contents(cluster) == before


def test_gc_removes_the_expired_lease_of_a_node_without_a_node_object(cluster: Cluster) -> None:
    now = datetime.now(UTC)
    for node, age in (("a", 3600), ("gone", 3600), ("missing", 10)):
        cluster.bed.store.nodes.renew_lease(NodeLease(node, "192.168.1.1"), 40, now - timedelta(seconds=age))
    reported, total = gc(cluster)
    assert reported.startswith(
        "removed the Lease of node gone: the Node object is missing and the Lease was last renewed"
    )
    assert total == "removed 1 in all"
    assert {lease.node for lease in cluster.bed.store.nodes.list_leases()} == {"a", "missing"}


@pytest.mark.parametrize(("age", "stays"), [(10, True), (3600, False)], ids=["agent alive", "agent silent"])
def test_gc_keeps_a_static_pod_without_mirror_and_node_while_its_agent_is_alive(
    cluster: Cluster, age: int, stays: bool
) -> None:
    """Collect while the mirror and the Node object are missing. The kubelet recreates the mirror later."""
    later = datetime.now(UTC) + timedelta(hours=1)
    cluster.bed.store.nodes.renew_lease(NodeLease("gone", ADDRESSES["gone"]), 40, later - timedelta(seconds=age))
    static = replace(gone_pod("s1"), mirror="0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    record = create_record(cluster, make_end(static, "s1", "in1", "gone"), make_end(None, "s2", "in2", "b"))
    before = namespace_contents(cluster)
    found = collect_garbage(cluster.bed.store, now=lambda: later)
    lease = "the Lease of node gone"
    assert [finding.name for finding in found] == ([] if stays else [f"record {record.name}", lease])
    assert (namespace_contents(cluster) == before) is stays
