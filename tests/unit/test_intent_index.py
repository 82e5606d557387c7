"""The intent index: the same links as from the whole namespace, and the dependents of a change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.intent.index import IntentIndex, PodIndex
from ratchet.core.pod import Pod, PodRef, Topology

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES, IFNAMES = ["a", "b", "c", "d", "e"], ["in1", "in2"]
RESERVED = frozenset({"eth0"})

endpoints = st.tuples(st.sampled_from(NAMES), st.sampled_from(IFNAMES))
items = st.fixed_dictionaries(
    {"peer": st.sampled_from(NAMES), "ifname": st.sampled_from(IFNAMES), "peer_ifname": st.sampled_from(IFNAMES)},
    optional={"mtu": st.sampled_from([1400, 1, 9000])},
)
lines = st.builds(
    lambda ends, extra: {"endpoints": [":".join(one) for one in ends], **extra},
    st.tuples(endpoints, endpoints),
    st.sampled_from([{}, {}, {"mtu": 1400}, {"mtu": 1}, {"colour": "red"}]),
)


def make_pod(name: str, alias: str, listed: Sequence[object], labels: dict[str, str], age: int, phase: str) -> Pod:
    all_labels = {"ratchet": "true", **({"ratchet.pod_name": alias} if alias else {}), **labels}
    annotations = {"ratchet.links": json.dumps(listed)} if listed else {}
    return Pod(PodRef("ns", name, name), all_labels, annotations, phase=phase, created=NOW + timedelta(seconds=age))


labelled = st.builds(
    lambda primary, pair, near, far: {
        "ratchet.primary": primary,
        "ratchet.pair_name": pair,
        "ratchet.local_ifname": near,
        "ratchet.pair_ifname": far,
    },
    st.sampled_from(["true", "true", "false", "maybe"]),
    st.sampled_from(NAMES),
    st.sampled_from(IFNAMES),
    st.sampled_from(IFNAMES),
)
pods = st.builds(
    make_pod,
    st.sampled_from(NAMES),
    st.sampled_from(["", "", "", *NAMES]),
    st.lists(items, max_size=3),
    st.just({}) | labelled,
    st.integers(0, 2),
    st.sampled_from(["Running", "Running", "Pending", "Failed"]),
)
texts = st.lists(lines, max_size=4).map(json.dumps) | st.sampled_from(["{a", "{} # b", "- endpoints: [a:in1]"])
topologies = st.builds(lambda name, text: Topology("ns", name, text), st.sampled_from(["lab", "more"]), texts)

Manifest = Pod | Topology
Step = tuple[Manifest, bool]
steps = st.lists(st.tuples(pods | topologies, st.sampled_from([True, True, True, False])), max_size=10)


class Namespace:
    """A namespace whose pods and topologies change, and its index."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.topologies: dict[str, Topology] = {}
        self.index = PodIndex()
        self.intents = IntentIndex(self.index, [], RESERVED)

    def change(self, manifest: Manifest, exists: bool) -> set[str]:
        """Put or delete a pod or a topology, and return the names of the pods whose links can depend on it."""
        return (
            self._change_pod(manifest, exists) if isinstance(manifest, Pod) else self._change_topology(manifest, exists)
        )

    def _change_pod(self, pod: Pod, exists: bool) -> set[str]:
        name = pod.ref.name
        before = self.pods.pop(name, None)
        names = {name, *(one.labels.get("ratchet.pod_name", name) for one in (before, pod) if one)}
        affected = self.intents.dependents(names)
        if exists:
            self.pods[name] = pod
            self.index.put(pod)
        else:
            self.index.remove(name)
        self.intents.pod_changed(name)
        return affected | self.intents.dependents(names)

    def _change_topology(self, topology: Topology, exists: bool) -> set[str]:
        affected = self._dependents_of_topology(topology.name)
        self.topologies.pop(topology.name, None)
        if exists:
            self.topologies[topology.name] = topology
        self.intents.topology_changed(topology.name, topology if exists else None)
        return affected | self._dependents_of_topology(topology.name)

    def _dependents_of_topology(self, topology: str) -> set[str]:
        names = self.intents.names_drawn(topology)
        return set(NAMES) if names is None else self.intents.dependents(names)

    def by_namespace(self) -> dict[str, object]:
        """The result of each pod by the whole namespace: its ends, its error, and the pod that took its name."""
        wanted = wanted_links(self.pods.values(), RESERVED, topologies=self.topologies.values())
        return {pod.ref.name: result_of(pod, wanted) for pod in self.pods.values()}

    def by_index(self) -> dict[str, object]:
        return {pod.ref.name: result_of(pod, self.intents.wanted_for(pod)) for pod in self.pods.values()}


def result_of(pod: Pod, wanted: Wanted) -> object:
    refusal = wanted.refused.get(pod.ref.uid)
    ends = [(one.link, side, one.primary, one.pair, one.record_names()) for one, side in wanted.ends_of(pod)]
    return ends, str(refusal) if refusal else None, wanted.superseding(pod)


def pod(
    name: str, *listed: dict[str, object], alias: str = "", age: int = 0, labels: dict[str, str] | None = None
) -> Pod:
    return make_pod(name, alias, listed, labels or {}, age, "Running")


def item(peer: str, ifname: str = "in1", peer_ifname: str = "in1", **more: object) -> dict[str, object]:
    return {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, **more}


def lab(*lines: str) -> Topology:
    return Topology("ns", "lab", "\n".join(f"- {line}" for line in lines))


BY_LABELS = {
    "ratchet.primary": "true",
    "ratchet.pair_name": "c",
    "ratchet.local_ifname": "in1",
    "ratchet.pair_ifname": "in1",
}

# Changes that affect the links of pod a without naming it: the manifests, a harmless one, and the one that affects a.
INDIRECT: dict[str, tuple[list[Manifest], Manifest, Manifest]] = {
    "its peer is refused for its own list": (
        [pod("a"), pod("b", item("a")), pod("c")],
        pod("b", item("a"), item("c", "in2")),
        pod("b", item("a"), item("c", "in2", mtu=1)),
    ),
    "its peer's other interface belongs to an older pod": (
        [pod("a"), pod("b", item("a"), item("c", "in2"), age=1), pod("c")],
        pod("d", age=0),
        pod("d", item("c"), age=0),
    ),
    "the pod that has the interface is itself refused": (
        [pod("a"), pod("b", item("a"), item("c", "in2"), age=2), pod("d", item("c"), item("e", "in2"), age=1)],
        pod("f", age=0),
        pod("f", item("e", "in1", "in1"), item("d", "in2", "in2"), age=0),
    ),
    "an error in a topology names its peer": (
        [pod("a"), pod("b", item("a")), pod("c")],
        lab("endpoints: [b:in2, c:in2]"),
        lab("{endpoints: [b:in2, c:in2], mtu: 1}"),
    ),
    "a topology cannot be read, and may name its peer": (
        [pod("a"), pod("b", item("a"))],
        lab("endpoints: [x:in1, y:in1]"),
        Topology("ns", "lab", "- {b"),
    ),
    "two links of topologies want one interface of its peer": (
        [pod("a"), pod("b", item("a"))],
        lab("endpoints: [b:in2, c:in2]", "endpoints: [b:in3, d:in2]"),
        lab("endpoints: [b:in2, c:in2]", "endpoints: [b:in2, d:in2]"),
    ),
    "a topology links its peer to itself, by both its names": (
        [pod("a"), pod("b", item("a"), alias="router")],
        lab("endpoints: [b:in2, c:in2]"),
        lab("endpoints: [b:in2, router:in3]"),
    ),
    "another pod declares a link to its peer in two ways": (
        [pod("a"), pod("c", item("a", "in2"))],
        pod("b", item("c"), labels=BY_LABELS),
        pod("b", item("c", mtu=1400), labels=BY_LABELS),
    ),
    "two older pods want one interface, which they call by two names of its pod": (
        [pod("a"), pod("b", alias="router"), pod("c", item("a"), item("b", "in2", "in5"), age=2)],
        pod("d", age=1),
        pod("d", item("router", "in1", "in5"), age=1),
    ),
    "a newer pod takes the name of its peer": (
        [pod("a"), pod("b", item("a"), alias="router")],
        pod("c", age=1),
        pod("c", alias="router", age=1),
    ),
}


@pytest.mark.parametrize("case", INDIRECT)
def test_the_index_finds_indirect_dependencies(case: str) -> None:
    manifests, harmless, reason = INDIRECT[case]
    namespace = Namespace()
    for manifest in (*manifests, harmless):
        namespace.change(manifest, True)
    before = namespace.by_namespace()
    assert namespace.by_index() == before
    assert "a" in namespace.change(reason, True)
    assert namespace.by_namespace()["a"] != before["a"], "the case is none"
    assert namespace.by_index() == namespace.by_namespace()


def test_the_index_reads_only_the_links_that_a_pod_depends_on() -> None:
    """In a ring, the cost of a pod's links does not grow with the number of pods."""
    ring = [pod(f"p{number}", item(f"p{(number + 1) % 100}", "up", "down")) for number in range(100)]
    namespace = Namespace()
    for one in ring:
        namespace.change(one, True)
    wanted = namespace.intents.wanted_for(ring[50])
    assert [one.link.name for one, _ in wanted.ends_of(ring[50])] == ["ns.p49.up.p50.down", "ns.p50.up.p51.down"]
    assert len(wanted.links) <= 3
    assert namespace.change(ring[50], False) == {"p49", "p50", "p51"}


@given(steps)
def test_the_index_gives_each_pod_the_result_of_the_whole_namespace(taken: list[Step]) -> None:
    namespace = Namespace()
    for manifest, exists in taken:
        before = namespace.by_namespace()
        affected = namespace.change(manifest, exists)
        after = namespace.by_namespace()
        assert namespace.by_index() == after
        changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
        assert changed <= affected


@given(steps)
def test_the_index_counts_the_links_of_the_whole_namespace(taken: list[Step]) -> None:
    namespace = Namespace()
    for manifest, exists in taken:
        namespace.change(manifest, exists)
        counted = wanted_links(namespace.pods.values(), RESERVED, topologies=namespace.topologies.values())
        for one in namespace.pods.values():
            assert namespace.intents.wanted_for(one).namespace_links == counted.namespace_links
