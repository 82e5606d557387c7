"""The memory of an agent whose tenants write as much as the API accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.core.intent.topology_limits import WITHHELD_MOST
from tests.support.lanes import with_thorough
from tests.support.synthetic import Collection, measure, serve

# MB. The manifests' limit is 256 Mi, of which 60 MB are for an agent without links.
MOST = 150
NAMESPACES = 3
BUDGET = "50331648"  # bytes: the default of declaration_memory

# The informers and caches of an agent that has pods in all these namespaces, and the wanted links of one pod of each.
AGENT = """
import os
import ratchet.agent.agent
from ratchet.agent.informers import Informers
from ratchet.agent.priority import ForegroundGate
from ratchet.core.pod import Pod, PodRef
from ratchet.dev.testbed import wait_for
from ratchet.store.apiserver import connect
from ratchet.store.declaration_budget import DeclarationBudget
from ratchet.store.store import ApiStore

class Handler:
    def link_changed(self, link): pass
    def pods_changed(self, namespace, names): pass
    def pod_deleted(self, change): pass
    def operations_changed(self, namespace, change): pass

api = connect(sys.argv[1], patience=60.0)
budget = DeclarationBudget(int(sys.argv[3]))
informers = Informers(ApiStore(api), "node-a", Handler(), ForegroundGate(), budget)
informers.start()
names = [f"tenant-{number}" for number in range(int(sys.argv[2]))]
caches = {name: informers.namespace_cache(name) for name in names}
wait_for("the lists", lambda: all(one.is_synced for one in caches.values()), 200)
wait_for("the watches", lambda: all(one.get("last") is not None for one in caches.values()), 100)
for name, cache in caches.items():
    cache.wanted_for(Pod(PodRef(name, "own", "own"), {"ratchet": "true"}), frozenset({"eth0"}))
    print(sum(one.text == "" for one in cache.topologies()), flush=True)
report_peak()
sys.stderr.flush()
os._exit(0)  # informers wait for the network
"""


def topology(text: str) -> Callable[[int], str]:
    metadata = '{"namespace":"tenant","name":"%s","uid":"u","resourceVersion":"1","creationTimestamp":"%s"}'

    def make(number: int) -> str:
        named = metadata % (f"lab-{number:06}", "2026-01-01T00:00:00Z")
        return f'{{"metadata":{named},"data":{{"links":{json.dumps(text.replace("NUMBER", str(number)))}}}}}'

    return make


def pod(name: str, padding: int, links: str = "") -> str:
    metadata = {"namespace": "tenant", "name": name, "uid": name, "resourceVersion": "2"}
    annotations = {"example.com/notes": "x" * padding, "ratchet.links": links}
    notes = {"annotations": annotations, "labels": {"ratchet": "true"}}
    return json.dumps({"metadata": {**metadata, **notes}, "spec": {}, "status": {"phase": "Running"}})


LAST = f'{{"type":"ADDED","object":{pod("last", 1_000_000)}}}'
LINKS = "\n".join(f"- endpoints: [p{number}-NUMBER:x, q{number}-NUMBER:x]" for number in range(256))
ADDRESSES = ", ".join(f"10.{number}.NUMBER.1/24" for number in range(16))
LINK_WITH_ADDRESSES = f"- endpoints: [a:x, b:x]\n  addresses: [[{ADDRESSES}], null]\n"
# The topologies of a namespace, and how many of them are withheld.
HOSTILE = {
    "many links": (Collection(60, topology(LINKS)), 44),
    "long comments": (Collection(12, topology("# " + "comment " * 125_000)), 12),
    "many addresses": (Collection(12, topology(LINK_WITH_ADDRESSES * 200)), 7),
    "many topologies": (Collection(700, topology("- {")), WITHHELD_MOST),
}


@pytest.mark.parametrize("kind", with_thorough(HOSTILE, ["many links", "long comments", "many addresses"]))
def test_the_topologies_of_hostile_tenants_fit_into_an_agents_memory(kind: str, tmp_path: Path) -> None:
    """At a start, all namespaces are listed at once. Each watch then reports one large pod."""
    topologies, withheld = HOSTILE[kind]
    collections = {}
    for number in range(NAMESPACES):
        path = f"/api/v1/namespaces/tenant-{number}"
        collections[f"{path}/configmaps"] = topologies
        collections[f"{path}/pods"] = Collection(5, lambda one: pod(f"pod-{one}", 900_000), (LAST,))
    with serve(collections) as api:
        measured = measure(AGENT, api.kubeconfig(tmp_path), str(NAMESPACES), BUDGET)
    assert list(map(int, measured.stdout.split())) == [withheld] * NAMESPACES
    assert measured.peak < MOST


DECLARED = f"- {{peer: PEER, ifname: x, peer_ifname: y, addresses: [[{ADDRESSES}], null]}}\n"
ANNOTATIONS: dict[str, Callable[[int], str]] = {
    "many addresses": lambda number: "".join(
        DECLARED.replace("PEER", f"p{one}").replace("NUMBER", str(number)).replace("10.", f"1{one % 250}.", 16)
        for one in range(240)
    ),
    "many items": lambda _: "[" + "a, " * 80_000 + "]",
    "an invalid item": lambda number: DECLARED.replace("NUMBER", str(number)) * 250 + "- {peer: x}",
}


@pytest.mark.parametrize("kind", with_thorough(ANNOTATIONS, ["an invalid item"]))
def test_the_annotations_of_hostile_tenants_fit_into_an_agents_memory(kind: str, tmp_path: Path) -> None:
    pods = Collection(30, lambda number: pod(f"pod-{number}", 1000, ANNOTATIONS[kind](number)), (LAST,))
    paths = [f"/api/v1/namespaces/tenant-{number}/pods" for number in range(NAMESPACES)]
    with serve(dict.fromkeys(paths, pods)) as api:
        measured = measure(AGENT, api.kubeconfig(tmp_path), str(NAMESPACES), BUDGET)
    assert measured.peak < MOST
