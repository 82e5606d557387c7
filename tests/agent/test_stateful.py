"""Two agents, many pods, and random steps of kubelets, runtimes, nodes and the network.

`machine` has the steps and the conditions. Some conditions hold at every change of the records, others for records,
interfaces and pings at quiet points. A step depends only on the steps before it, so that an example can be replayed as
far as the timing of processes allows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.control import current_build_context
from hypothesis.errors import StopTest
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ratchet.dev.testbed import Testbed
from ratchet.install.plugin import find_shim
from tests.agent.machine import (
    BOTH,
    CHAIN,
    DRAWN,
    NODES,
    RING,
    STAR,
    DeclaredIn,
    Fault,
    Game,
    OldSandbox,
    Outage,
    Patience,
    Shape,
)
from tests.support.capabilities import agent_capabilities
from tests.support.cluster import PATIENT, Cluster
from tests.support.event_streams import EventStreams
from tests.support.faults import Faults
from tests.support.forking import fork_agent
from tests.support.namespaces import may_make_namespaces
from tests.support.record_history import History

SHAPES = (CHAIN, RING, STAR, DRAWN, BOTH)
# Examples of each shape, and steps of each example.
EXAMPLES, STEPS = (100, 60) if os.environ.get("RATCHET_EXHAUSTIVE") else (6, 25)
# Few VNIs, so that they are reused. A short resync, so that agents notice within an example what no watch reports.
AGENT = {"vni_range": "11-26", "resync": 10, "drain_seconds": 1}

_games = count(1)


class Stages:
    """A testbed with two agents that examples share. After a failure the next example gets a new one."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._event_streams = EventStreams()
        self._history: History | None = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def game(self, shape: Shape) -> Game:
        if self._cluster is None:
            self._build()
        assert self._cluster is not None and self._history is not None
        return Game(self._cluster, self._event_streams, self._history, f"game-{next(_games)}", shape)

    def discard(self) -> None:
        """Stop the testbed. The next example builds a new one."""
        self._cluster = None
        self._stack.close()

    def _build(self) -> None:
        faults, self._event_streams = Faults(), EventStreams()
        middlewares = [self._event_streams.middleware, faults.middleware]
        testbed = Testbed(middlewares=middlewares, spawn_agent=fork_agent, capabilities=agent_capabilities())
        bed = self._stack.enter_context(testbed)
        history = self._history = History(bed.api, bed.store.links.path, bed.store.vnis.path)
        self._stack.callback(history.close)
        history.follow()
        self._cluster = Cluster(bed, faults, PATIENT, agent=AGENT)


numbers = st.integers(0, 5)
nodes = st.sampled_from(NODES)
olds = st.sampled_from(OldSandbox)
patiences = st.sampled_from(Patience)
flags = st.booleans()


class Agents(RuleBasedStateMachine):
    """The steps of an example. The argument `which` selects a pod or node that the step can affect."""

    def __init__(self, stages: Stages, shape: Shape) -> None:
        super().__init__()
        self._stages = stages
        self._shape = shape
        self._game: Game | None = None

    @property
    def game(self) -> Game:
        assert self._game is not None
        return self._game

    @initialize(begun=flags, on=st.lists(nodes, min_size=4, max_size=4))
    def begin(self, begun: bool, on: list[str]) -> None:
        self._game = self._stages.game(self._shape)
        if begun:
            for pod, node in zip(self._shape.pods, on, strict=False):
                self.game.create(pod, node)
                self.game.start(pod, Patience.NONE, background=True)

    # Pods by state

    def _absent(self) -> list[str]:
        return [pod for pod in self.game.shape.pods if pod not in self.game.placed]

    def _not_started(self) -> list[str]:
        return [pod for pod, placed in self.game.placed.items() if placed.attachment is None]

    def _started(self) -> list[str]:
        return [pod for pod, placed in self.game.placed.items() if placed.attachment is not None]

    def _has_topology(self) -> bool:
        return self.game.shape.declared_in is DeclaredIn.TOPOLOGY

    # Declarations

    @precondition(lambda self: self._has_topology())
    @rule(which=numbers)
    def swap_endpoints(self, which: int) -> None:
        self.game.swap_endpoints(which)

    @precondition(lambda self: self._has_topology())
    @rule(which=numbers)
    def declare_twice(self, which: int) -> None:
        self.game.declare_twice(_chosen(which, list(self.game.shape.pods)))

    # Pods and sandboxes

    @precondition(lambda self: self._absent())
    @rule(which=numbers, node=nodes)
    def create(self, which: int, node: str) -> None:
        self.game.create(_chosen(which, self._absent()), node)

    @precondition(lambda self: self._not_started())
    @rule(which=numbers, patience=patiences, background=flags)
    def add(self, which: int, patience: Patience, background: bool) -> None:
        self.game.start(_chosen(which, self._not_started()), patience, background=background)

    @precondition(lambda self: self._started())
    @rule(which=numbers, old=olds, patience=patiences, background=flags, lingers=flags)
    def restart(self, which: int, old: OldSandbox, patience: Patience, background: bool, lingers: bool) -> None:
        self.game.restart(_chosen(which, self._started()), old, patience, background=background, lingers=lingers)

    @precondition(lambda self: self._started())
    @rule(which=numbers, patience=patiences)
    def try_again(self, which: int, patience: Patience) -> None:
        self.game.try_again(_chosen(which, self._started()), patience)

    @precondition(lambda self: self._started())
    @rule(which=numbers)
    def kill_call(self, which: int) -> None:
        self.game.kill_call(_chosen(which, self._started()))

    @precondition(lambda self: self.game.placed)
    @rule(which=numbers, old=olds, lingers=flags)
    def remove(self, which: int, old: OldSandbox, lingers: bool) -> None:
        self.game.remove(_chosen(which, list(self.game.placed)), old, lingers=lingers)

    @precondition(lambda self: self.game.placed)
    @rule(
        which=numbers,
        node=nodes,
        old=olds,
        patience=patiences,
        background=flags,
        started=flags,
        lingers=flags,
        renamed=flags,
    )
    def move(
        self,
        which: int,
        node: str,
        old: OldSandbox,
        patience: Patience,
        background: bool,
        started: bool,
        lingers: bool,
        renamed: bool,
    ) -> None:
        pod = _chosen(which, list(self.game.placed))
        how = {"background": background, "started": started, "lingers": lingers, "renamed": renamed}
        self.game.move(pod, node, old, patience, **how)

    @precondition(lambda self: self.game.owed_deletes)
    @rule(which=numbers, lingers=flags)
    def delete_late(self, which: int, lingers: bool) -> None:
        self.game.delete_late(which, lingers=lingers)

    @precondition(lambda self: self.game.deleted)
    @rule(which=numbers)
    def delete_again(self, which: int) -> None:
        self.game.delete_again(which)

    @precondition(lambda self: self._started())
    @rule(which=numbers, end=numbers)
    def remove_interface(self, which: int, end: int) -> None:
        self.game.remove_interface(_chosen(which, self._started()), end)

    @precondition(lambda self: self._started())
    @rule(which=numbers, end=numbers)
    def shut_interface(self, which: int, end: int) -> None:
        self.game.shut_interface(_chosen(which, self._started()), end)

    # Agents

    @precondition(lambda self: len(self.game.down) < len(NODES))
    @rule(which=numbers, kill=flags)
    def end_agent(self, which: int, kill: bool) -> None:
        running = [node for node in NODES if node not in self.game.down]
        self.game.end_agent(_chosen(which, running), kill=kill)

    @precondition(lambda self: self.game.down)
    @rule(which=numbers, patiently=flags)
    def start_agent(self, which: int, patiently: bool) -> None:
        self.game.start_agent(_chosen(which, sorted(self.game.down)), patiently=patiently)

    @precondition(lambda self: len(self.game.down | self.game.paused) < len(NODES))
    @rule(which=numbers)
    def pause(self, which: int) -> None:
        running = [node for node in NODES if node not in self.game.down | self.game.paused]
        self.game.pause(_chosen(which, running))

    @precondition(lambda self: self.game.paused)
    @rule(which=numbers)
    def resume(self, which: int) -> None:
        self.game.resume(_chosen(which, sorted(self.game.paused)))

    # The API

    @rule(node=nodes, fault=st.sampled_from(Fault), first=st.integers(1, 4), times=st.integers(1, 4))
    def disturb(self, node: str, fault: Fault, first: int, times: int) -> None:
        self.game.disturb(node, fault, first, times)

    @rule(node=nodes, outage=st.sampled_from(Outage))
    def begin_outage(self, node: str, outage: Outage) -> None:
        self.game.begin_outage(node, outage)

    @rule()
    def end_faults(self) -> None:
        self.game.end_faults()

    @rule(grace=st.sampled_from((0.0, 2.0)))
    def collect(self, grace: float) -> None:
        self.game.collect(grace)

    # Quiet

    @rule()
    def quiesce(self) -> None:
        self.game.quiesce()

    def teardown(self) -> None:
        if self._game is None:
            return
        error = sys.exc_info()[1]
        if error is None:
            try:
                self.game.finish()
            except BaseException as fault:
                self._report_and_discard(fault)
                raise
        else:
            self._report_and_discard(error)

    def _report_and_discard(self, error: BaseException) -> None:
        """Report the steps of the failed example, and discard its testbed."""
        if not isinstance(error, StopTest):
            report = self.game.report()
            if currently_in_test_context() and current_build_context().is_final:
                note(report)
            else:
                error.add_note(report)
        self.game.kill_running_calls()
        self._stages.discard()


def _chosen(which: int, among: list[str]) -> str:
    return among[which % len(among)]


@pytest.fixture
def stages() -> Iterator[Stages]:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    with Stages() as made:
        yield made


@pytest.mark.timeout(0)
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_pods_are_linked_and_leave_nothing_after_random_steps(stages: Stages, shape: Shape) -> None:
    def agents() -> Agents:
        return Agents(stages, shape)

    run_state_machine_as_test(
        agents,  # type: ignore[arg-type]  # documented: any factory of a machine
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=os.environ.get("RATCHET_SEED") is None,
            phases=[Phase.generate],  # shrinking takes minutes of processes, and the report shows as much
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
