"""Whole calls (`add`, `delete`, gc) of pods in a chain or a ring, in orders that Hypothesis draws.

The runtimes behave as with a kubelet. After an ADD that fails or is killed, they call DEL and create a new sandbox. A
sandbox may be deleted during its ADD or after it, and DEL may come again at any time. There are no agents.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratchet.cni.command import Command
from ratchet.core.model import Side, State
from ratchet.core.state_machine import derive
from ratchet.errors import RatchetError
from ratchet.gc import collect_garbage
from ratchet.node.add import add
from ratchet.node.call import Call
from ratchet.node.delete import delete
from ratchet.store.store import ApiStore
from tests.protocol.asking import FakeApi, FakeJournal, ask, current_driver
from tests.protocol.mutations import UnversionedApi, leaving_unconditionally, naming_by_declarer
from tests.protocol.scenes import (
    LEASES,
    RECORDS,
    WRONG_DATA,
    inconsistencies,
    link_of,
    plain_call,
    sandbox_of,
    set_up_as_recorded,
)
from tests.protocol.taking_turns import Runner, TurnScheduler
from tests.protocol.world import World

EXAMPLES = 2000 if os.environ.get("RATCHET_EXHAUSTIVE") else settings().max_examples
lifecycle_timeout = pytest.mark.timeout(0 if os.environ.get("RATCHET_EXHAUSTIVE") else 120)
TRIES = 8
WAIT_SECONDS = 60.0
VNIS = (11, 18)
PODS = "/api/v1/namespaces/ns/pods"

Work = tuple[str, Callable[[], None]]


@dataclass(frozen=True)
class Cluster:
    """Numbered pods. Each has a link to the next one, and in a ring the last one to the first.

    - `nodes`: the node of each pod.
    - `labelled`: the first pod of each link declares it with labels.
    - `listed`: both pods of each link declare it equally in their annotations.
    - `restarted`: the pods whose sandbox is deleted at any time after it was created.
    - `killed`: by pod, at which of its requests the first ADD is killed.
    - `collected`: gc runs meanwhile.
    - `choices`: the order of the threads (`TurnScheduler`).
    """

    nodes: tuple[str, ...]
    ring: bool
    labelled: bool
    listed: bool
    restarted: frozenset[int]
    killed: dict[int, int]
    collected: bool
    choices: list[tuple[int, int]]

    @property
    def links(self) -> int:
        return len(self.nodes) if self.ring else len(self.nodes) - 1

    def world(self) -> World:
        objects = {f"{PODS}/{_name(number)}": self._pod(number) for number in range(len(self.nodes))}
        for node in "AB":
            objects[f"/api/v1/nodes/{node}"] = json.dumps({"metadata": {"name": node, "resourceVersion": "1"}})
        return World(objects=tuple(sorted(objects.items())), version=1)

    def _pod(self, number: int) -> str:
        labels = {"ratchet": "true"}
        if self.labelled and number < self.links:
            labels |= {
                "ratchet.primary": "true",
                "ratchet.pair_name": _name((number + 1) % len(self.nodes)),
                "ratchet.local_ifname": "next",
                "ratchet.local_ip": f"10.1.{number}.1",
                "ratchet.pair_ifname": "previous",
                "ratchet.pair_ip": f"10.1.{number}.2",
            }
        metadata = {
            "name": _name(number),
            "namespace": "ns",
            "uid": f"{_name(number)}-1",
            "labels": labels,
            "annotations": {"ratchet.links": json.dumps(self._list(number))} if self.listed else {},
            "resourceVersion": "1",
        }
        return json.dumps({"metadata": metadata, "spec": {"nodeName": self.nodes[number]}})

    def _list(self, number: int) -> list[dict[str, Any]]:
        """The links of a pod as its annotation declares them, with its own address first."""
        previous = (number - 1) % len(self.nodes)
        listed = [(number, "next", (number + 1) % len(self.nodes))] if number < self.links else []
        listed += [(previous, "previous", previous)] if previous < self.links else []
        return [
            {
                "peer": _name(peer),
                "ifname": ifname,
                "peer_ifname": "previous" if ifname == "next" else "next",
                "addresses": [f"10.1.{link}.{end}" for end in ((1, 2) if ifname == "next" else (2, 1))],
            }
            for link, ifname, peer in listed
        ]


def _name(number: int) -> str:
    return f"p{number}"


@st.composite
def clusters(draw: st.DrawFn, kills: bool) -> Cluster:
    size = draw(st.integers(3, 4))
    numbers = st.integers(0, size - 1)
    turns = st.tuples(st.integers(0, 5), st.sampled_from((1, 2, 5, 15)))
    labelled, listed = draw(st.sampled_from(((True, False), (False, True), (True, True))))
    return Cluster(
        nodes=tuple(draw(st.lists(st.sampled_from("AB"), min_size=size, max_size=size))),
        ring=draw(st.booleans()),
        labelled=labelled,
        listed=listed,
        restarted=draw(st.frozensets(numbers, max_size=2)),
        killed=draw(st.dictionaries(numbers, st.integers(2, 40), max_size=2)) if kills else {},
        collected=draw(st.booleans()),
        choices=draw(st.lists(turns, min_size=120, max_size=120)),
    )


@dataclass
class Kubelets:
    """The runtimes of all nodes, with the running sandbox and all created sandboxes of each pod."""

    cluster: Cluster
    api: type[FakeApi] = FakeApi
    journals: dict[str, FakeJournal] = field(default_factory=lambda: {node: FakeJournal() for node in "AB"})
    running: dict[int, str] = field(default_factory=dict)
    created: dict[int, list[str]] = field(default_factory=dict)
    restarting: set[int] = field(default_factory=set)

    def start_work(self) -> dict[str, Work]:
        """The processes that start every pod, restart some pods, and run gc."""
        found: dict[str, Work] = {}
        for number, node in enumerate(self.cluster.nodes):
            found[f"start {_name(number)}"] = (node, partial(self._start, number))
            if number in self.cluster.restarted:
                found[f"restart {_name(number)}"] = (node, partial(self._restart, number))
        if self.cluster.collected:
            found["gc"] = ("A", collect)
        return found

    def deletion_work(self) -> dict[str, Work]:
        """The processes that delete every sandbox ever created, some for the second time."""
        return {
            f"end {sandbox}": (self.cluster.nodes[number], partial(self._end, number, sandbox))
            for number, sandboxes in self.created.items()
            for sandbox in sandboxes
        }

    def _start(self, number: int, restarting: bool = False) -> None:
        """Create sandboxes until an ADD succeeds. If the pod is restarted meanwhile, `_restart` continues."""
        for _ in range(TRIES):
            if number in self.restarting and not restarting:
                return
            sandbox = f"{_name(number)}-{len(self.created.setdefault(number, [])) + 1}"
            self.created[number].append(sandbox)
            ask("birth", sandbox, "")
            call = self._call(number, sandbox, Command.ADD)
            added = cast(Runner, current_driver()).killable(partial(_add_succeeds, call))
            if number in self.restarting and not restarting:
                return
            if added:
                self.running[number] = sandbox
                return
            self._end(number, sandbox)
        raise AssertionError(f"{_name(number)} does not start")

    def _restart(self, number: int) -> None:
        """Act as a restarted runtime: delete the last sandbox, whose ADD may still run, and start the pod."""
        ask("choose", lambda world, _: [True] if self.created.get(number) else [])
        self.restarting.add(number)
        self.running.pop(number, None)
        self._end(number, self.created[number][-1])
        self._start(number, restarting=True)

    def _end(self, number: int, sandbox: str) -> None:
        delete(self._call(number, sandbox, Command.DEL))
        ask("choose", lambda world, _: [True])  # one step in which the namespace still exists
        ask("collapse", sandbox, True)

    def _records(self) -> ApiStore:
        return ApiStore(self.api(keeps_history=True), "ratchet", VNIS)

    def _call(self, number: int, sandbox: str, command: Command) -> Call:
        node = self.cluster.nodes[number]
        joined = sandbox_of(sandbox, _name(number), node)
        return plain_call(command, joined, self.journals[node], self._records(), WAIT_SECONDS)


def _add_succeeds(call: Call) -> bool:
    try:
        add(call)
    except RatchetError:
        return False
    return True


def collect() -> None:
    store = ApiStore(FakeApi(keeps_history=True), "ratchet", VNIS)
    list(collect_garbage(store, now=lambda: datetime.now(UTC), grace=timedelta(0)))


# The properties


def check_step(world: World) -> None:
    """Check the conditions that must hold after every step."""
    held: set[tuple[str, str]] = set()
    numbers: list[int] = []
    for text in _records_in(world):
        faults = inconsistencies(text)
        assert not faults, ", ".join(faults)
        link = link_of(text)
        numbers += [] if link.vni is None else [link.vni]
        for side in Side:
            if sandbox := link.sandbox(side):
                end = (sandbox.container_id, link.end(side).ifname)
                assert end not in held, f"two links have the end {end}"
                held.add(end)
    assert len(numbers) == len(set(numbers)), "two links have one VNI"


def assert_all_linked(cluster: Cluster, kubelets: Kubelets, world: World) -> None:
    assert len(kubelets.running) == len(cluster.nodes)
    texts = list(_records_in(world))
    assert len(texts) == cluster.links
    for text in texts:
        link = link_of(text)
        joined = {sandbox.container_id for side in Side if (sandbox := link.sandbox(side))}
        assert joined <= set(kubelets.running.values()), "a record holds a dead sandbox"
        assert derive(link) is State.LINKED, f"{link.name} is {derive(link)}"
        assert set_up_as_recorded(text, world.interfaces, world.namespaces), f"{link.name} does not stand"
    assert len(world.interfaces) == 2 * cluster.links
    assert not world.locks


def assert_nothing_left(world: World, leases_too: bool) -> None:
    collections = (RECORDS, LEASES) if leases_too else (RECORDS,)
    assert not [path for path, _ in world.objects if path.startswith(collections)]
    assert not world.interfaces
    assert not world.entries
    assert not world.locks


def _records_in(world: World) -> Iterator[str]:
    return (text for path, text in world.objects if path.startswith(RECORDS))


def live_and_die(cluster: Cluster, api: type[FakeApi] = FakeApi) -> None:
    """Start all pods and check that all are linked; delete all, run gc and check that nothing is left."""
    kubelets = Kubelets(cluster, api)
    kills = {f"start {_name(number)}": request for number, request in cluster.killed.items()}
    turns = TurnScheduler(cluster.world(), cluster.choices, kills)
    turns.run(kubelets.start_work(), check_step)
    assert_all_linked(cluster, kubelets, turns.world)
    turns.run(kubelets.deletion_work(), check_step)
    assert_nothing_left(turns.world, leases_too=not turns.killed)
    turns.run({"gc": ("A", collect), "gc again": ("B", collect)}, check_step)
    assert_nothing_left(turns.world, leases_too=True)


example_settings = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@lifecycle_timeout
@example_settings
@given(clusters(kills=False))
def test_pods_that_come_and_go_are_linked_and_leave_nothing(cluster: Cluster) -> None:
    live_and_die(cluster)


@lifecycle_timeout
@example_settings
@given(clusters(kills=True))
def test_pods_whose_add_is_killed_are_linked_in_the_end_and_leave_nothing(cluster: Cluster) -> None:
    live_and_die(cluster)


# Mutations whose faults occur in many orders, so that drawn orders find them, and the fault of each.
# A peer whose end was cleared is missing for the other end: its pod does not start, or its link is not linked.
PEER_MISSING = r"^\S+ (does not start|is (pending|primary-ready|pair-ready))"
EASY_MUTATIONS: dict[str, tuple[type[FakeApi], Callable[[], AbstractContextManager[None]], str]] = {
    "leaving without comparing": (FakeApi, leaving_unconditionally, PEER_MISSING),
    "writing without a version": (UnversionedApi, nullcontext, f"^{WRONG_DATA}"),
    "a record is named by who declares it": (FakeApi, naming_by_declarer, r"^\S+ does not start"),
}


@pytest.mark.parametrize("name", EASY_MUTATIONS)
def test_drawn_orders_find_the_fault_of_each_mutation(name: str) -> None:
    api, mutate, fault = EASY_MUTATIONS[name]

    # More examples than usual, because an order with the fault may be rare. Hypothesis stops at the first fault.
    @settings(example_settings, max_examples=2000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(clusters(kills=True))
    def try_some(cluster: Cluster) -> None:
        live_and_die(cluster, api)

    with mutate(), pytest.raises(AssertionError, match=fault):
        try_some()
