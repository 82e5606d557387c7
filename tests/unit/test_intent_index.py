"""The index finds for each pod what the whole namespace gives it, and which pods a change can concern."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.intent.index import IntentIndex, PodIndex
from ratchet.core.model import Pod, PodRef, Topology

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


def made_pod(name: str, alias: str, listed: Sequence[object], labels: dict[str, str], age: int, phase: str) -> Pod:
    said = {"ratchet": "true", **({"ratchet.pod_name": alias} if alias else {}), **labels}
    annotations = {"ratchet.links": json.dumps(listed)} if listed else {}
    return Pod(PodRef("ns", name, name), said, annotations, phase=phase, created=NOW + timedelta(seconds=age))


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
    made_pod,
    st.sampled_from(NAMES),
    st.sampled_from(["", "", "", *NAMES]),
    st.lists(items, max_size=3),
    st.just({}) | labelled,
    st.integers(0, 2),
    st.sampled_from(["Running", "Running", "Running", "Failed"]),
)
texts = st.lists(lines, max_size=4).map(json.dumps) | st.sampled_from(["{a", "{} # b", "- endpoints: [a:in1]"])
topologies = st.builds(lambda name, text: Topology("ns", name, text), st.sampled_from(["lab", "more"]), texts)

Put = Pod | Topology
Step = tuple[Put, bool]
steps = st.lists(st.tuples(pods | topologies, st.sampled_from([True, True, True, False])), max_size=10)


class Namespace:
    """A namespace that changes, with an index of it."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.topologies: dict[str, Topology] = {}
        self.index = PodIndex()
        self.intents = IntentIndex(self.index, [], RESERVED)

    def change(self, thing: Put, there: bool) -> set[str]:
        """Put or delete a pod or a topology; the names of the pods that this can concern."""
        return self._change_pod(thing, there) if isinstance(thing, Pod) else self._change_topology(thing, there)

    def _change_pod(self, pod: Pod, there: bool) -> set[str]:
        name = pod.ref.name
        before = self.pods.pop(name, None)
        names = {name, *(one.labels.get("ratchet.pod_name", name) for one in (before, pod) if one)}
        concerned = self.intents.dependents(names)
        if there:
            self.pods[name] = pod
            self.index.put(pod)
        else:
            self.index.remove(name)
        self.intents.pod_changed(name)
        return concerned | self.intents.dependents(names)

    def _change_topology(self, topology: Topology, there: bool) -> set[str]:
        concerned = self._drawn(topology.name)
        self.topologies.pop(topology.name, None)
        if there:
            self.topologies[topology.name] = topology
        self.intents.topology_changed(topology.name, topology if there else None)
        return concerned | self._drawn(topology.name)

    def _drawn(self, topology: str) -> set[str]:
        names = self.intents.names_drawn(topology)
        return set(NAMES) if names is None else self.intents.dependents(names)

    def found(self) -> dict[str, object]:
        """What each pod is to have, by the whole namespace: its ends, its refusal, who has taken its name."""
        wanted = wanted_links(self.pods.values(), RESERVED, topologies=self.topologies.values())
        return {pod.ref.name: of(pod, wanted) for pod in self.pods.values()}

    def found_by_index(self) -> dict[str, object]:
        return {pod.ref.name: of(pod, self.intents.wanted_for(pod)) for pod in self.pods.values()}


def of(pod: Pod, wanted: Wanted) -> object:
    refusal = wanted.refused.get(pod.ref.uid)
    ends = [(one.link, side, one.primary, one.pair, one.record_names()) for one, side in wanted.ends_of(pod)]
    return ends, str(refusal) if refusal else None, wanted.superseding(pod)


def pod(
    name: str, *listed: dict[str, object], alias: str = "", age: int = 0, labels: dict[str, str] | None = None
) -> Pod:
    return made_pod(name, alias, listed, labels or {}, age, "Running")


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

# What the links of pod a depend on, though it is not named there: the things, and the one that is the reason.
FAR: dict[str, tuple[list[Put], Put, Put]] = {
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


@pytest.mark.parametrize("case", FAR)
def test_what_is_far_away_and_matters_is_found(case: str) -> None:
    things, harmless, reason = FAR[case]
    namespace = Namespace()
    for thing in (*things, harmless):
        namespace.change(thing, True)
    before = namespace.found()
    assert namespace.found_by_index() == before
    assert "a" in namespace.change(reason, True)
    assert namespace.found()["a"] != before["a"], "the case is none"
    assert namespace.found_by_index() == namespace.found()


def test_links_of_others_are_not_read() -> None:
    """A ring: what a pod's links cost does not grow with it."""
    ring = [pod(f"p{number}", item(f"p{(number + 1) % 100}", "up", "down")) for number in range(100)]
    namespace = Namespace()
    for one in ring:
        namespace.change(one, True)
    wanted = namespace.intents.wanted_for(ring[50])
    assert [one.link.name for one, _ in wanted.ends_of(ring[50])] == ["ns.p49.up.p50.down", "ns.p50.up.p51.down"]
    assert len(wanted.links) <= 3
    assert namespace.change(ring[50], False) == {"p49", "p50", "p51"}


@given(steps)
def test_the_index_gives_each_pod_what_the_whole_namespace_does(taken: list[Step]) -> None:
    namespace = Namespace()
    for thing, there in taken:
        before = namespace.found()
        concerned = namespace.change(thing, there)
        after = namespace.found()
        assert namespace.found_by_index() == after
        changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
        assert changed <= concerned
