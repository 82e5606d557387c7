"""Carry out the steps of a seed, check what must hold, and quiesce at the end of each round."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ratchet.core.model import State
from ratchet.core.state_machine import derive
from ratchet.errors import ConflictError
from ratchet.gc import collect_garbage
from ratchet.store.api_errors import NotFoundError
from tests.chaos.actor import Actor
from tests.chaos.drawing import STARTED_PODS, drawn_steps
from tests.chaos.invariants import Snapshot, eventually, still_held
from tests.chaos.monitor import Monitor
from tests.chaos.nodes import NodeActor
from tests.chaos.observing import answers, left_behind, observe
from tests.chaos.pods import PodActor
from tests.chaos.steps import NODES, PROBES, Family, Kind, Step
from tests.chaos.tenants import Tenants
from tests.chaos.world import World

# Generous: what must hold eventually may take long on a busy machine, and must come at all.
QUIET_SECONDS = 180.0
POLL_SECONDS = 0.5
# What CNI calls of this age may still be at work on is no garbage.
GRACE = timedelta(seconds=60)


class InvariantError(Exception):
    """What must hold does not hold."""


class Run:
    """A chaos run. `links_made`: how many declared links were up at the quiet points."""

    def __init__(self, world: World, report: Callable[[str], None]) -> None:
        self.links_made = 0
        self.world = world
        self.tenants = Tenants(world)
        self.pods = {name: PodActor(name, world, self.tenants.create_pod) for name in (*STARTED_PODS, *PROBES)}
        self.nodes = {name: NodeActor(name, world) for name in NODES}
        self.monitor = Monitor(world, self.pods, self.nodes, self.tenants, report)
        self._operator = Actor("operator", world)
        self._faults: dict[tuple[str, Family], Step] = {}

    def go(self, seed: int, minutes: float) -> None:
        """Carry out steps for so many minutes, quiesce, delete all pods. Raises InvariantError."""
        for pod, node in zip(PROBES, NODES, strict=True):
            self._submit_start(pod, node)
        self.monitor.start()
        for step in drawn_steps(seed, self.world.server.kind):
            if self.world.log.seconds >= minutes * 60:
                break
            self._carry_out(step)
            self._check()
            time.sleep(step.pause)
        self._end_faults()
        self._quiesce()
        self._finish()

    def close(self) -> None:
        """End all threads and agents."""
        self.world.ended.set()
        self.monitor.close()
        for node in self.nodes.values():
            node.close()
        for agent in self.world.bed.agents.values():
            agent.kill()  # calls that wait for it end
        for pod in self.pods.values():
            pod.finish_late_deletes()
            pod.close()
        self._operator.close()

    # Steps

    def _carry_out(self, step: Step) -> None:
        self.world.log.note(f"{step}")
        self.world.log.counts[step.kind] += 1
        if step.pod:
            self._carry_out_on_pod(step, self.pods[step.pod])
            return
        match step.kind:
            case Kind.DECLARE | Kind.EDIT | Kind.UNDECLARE:
                self.tenants.change(step)
            case Kind.FAULT:
                self._begin(step)
            case Kind.HEAL:
                self._end(step)
            case Kind.CLOCK:
                self.nodes[step.node].submit(lambda: self.nodes[step.node].step_clock(step))
            case Kind.LOSE_LEASES:
                self._operator.submit(self._lose_leases)
            case Kind.COLLECT:
                self._operator.submit(lambda: self._collect(GRACE))
            case Kind.RESTART_API:
                self._operator.submit(self.world.server.restart)
            case Kind.QUIESCE:
                self._quiesce()

    def _carry_out_on_pod(self, step: Step, pod: PodActor) -> None:
        match step.kind:
            case Kind.START:
                pod.submit(lambda: pod.start(step.node))
            case Kind.STOP:
                pod.submit(lambda: pod.stop(step.ending, step.seconds))
            case Kind.RESTART:
                pod.submit(lambda: pod.restart(step.ending, step.seconds))
            case Kind.MOVE:
                pod.submit(lambda: pod.move(step.node, step.ending, step.seconds))
            case Kind.KILL_CALL:
                pod.kill_call()

    def _submit_start(self, pod: str, node: str) -> None:
        self.pods[pod].submit(lambda: self.pods[pod].start(node))

    def _begin(self, step: Step) -> None:
        assert step.fault is not None
        self._faults[step.node, step.fault.family] = step
        self.world.log.counts[step.fault] += 1
        if step.fault.family is Family.TENANT:
            self.tenants.begin_hostility(step)
        else:
            self.nodes[step.node].submit(lambda: self.nodes[step.node].begin(step))

    def _end(self, step: Step) -> None:
        assert step.fault is not None
        self._faults.pop((step.node, step.fault.family))
        if step.fault.family is Family.TENANT:
            self.tenants.end_hostility()
        else:
            self.nodes[step.node].submit(lambda: self.nodes[step.node].end(step))

    def _end_faults(self) -> None:
        for step in list(self._faults.values()):
            self.world.log.note(f"{Kind.HEAL}: {step.node} {step.fault}")
            self._end(step)

    def _lose_leases(self) -> None:
        self.world.leases_lost = True
        for lease in self.world.bed.store.vnis.list()[::2]:
            with suppress(NotFoundError, ConflictError):  # its link has freed it, and perhaps another one has it
                self.world.bed.store.vnis.delete(lease)

    def _collect(self, grace: timedelta) -> None:
        found = collect_garbage(self.world.bed.store, now=lambda: datetime.now(UTC), grace=grace)
        self.world.log.note(f"gc removed {[str(one) for one in found]}")

    # Quiet points

    def _quiesce(self) -> None:
        """Wait until every pod runs, and until what must hold eventually holds."""
        self.world.log.note("quiescing")
        probes = self.tenants.probe()
        actors = (*self.nodes.values(), self._operator)
        self._wait("end of all faults", lambda: [one.name for one in actors if not one.is_idle])
        for pod in self.pods.values():
            pod.finish_late_deletes()
        self._wait("running pods", self._busy)
        self._wait("links between the probes", lambda: [str(one) for one in probes if not self._is_linked(one)])
        for name in self.tenants.stale:
            self.pods[name].submit(self.pods[name].restart_if_exists)
        self._wait("running pods", self._busy)
        self.tenants.stale.clear()
        self._wait("records without deleted sandboxes", self._still_held)  # gc would hide a DEL that was forgotten
        self._collect_everything()
        self._wait("declared links", lambda: eventually(self._observe(), self.tenants.specs))
        self._wait("pings", self._unanswered)
        self._raise_if(self.world.history.violations())
        self.world.history.deleted_containers |= self.world.ended_containers
        self.world.leases_lost = False
        self.links_made += len(self._up())
        self.world.log.note(f"quiet: {len(self._up())} links")

    def _finish(self) -> None:
        """Delete all pods and topologies, and wait until nothing is left."""
        self.world.log.note("delete everything")
        for pod in self.pods.values():
            pod.submit(pod.stop)
        self._wait("the end of all pods", self._busy)
        self._wait("records without deleted sandboxes", self._still_held)
        self.world.bed.delete_topologies()
        self._wait("the end of all records", lambda: list(self.world.bed.links()))
        self._collect_everything()
        self._wait("nothing to be left", lambda: left_behind(self.world))

    def _collect_everything(self) -> None:
        """`ratchet gc`, and GC of every runtime with its sandboxes. No call is running."""
        self._collect(timedelta(0))
        live = [pod.sandbox.container_id for pod in self.pods.values() if pod.sandbox]
        valid = [{"containerID": one, "ifname": "eth0"} for one in live]
        for name, node in self.world.bed.kubelets.items():
            config = {**node.config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
            response = node.call("GC", config=config)
            if response.status != 0:
                raise InvariantError(f"GC failed on {name}: {response.stdout}")

    def _still_held(self) -> list[str]:
        return still_held(self.world.bed.links().values(), self.world.deleted_containers)

    def _busy(self) -> list[str]:
        for node in self.nodes.values():
            node.submit(node.revive)
        return [name for name, pod in self.pods.items() if not pod.is_idle]

    def _is_linked(self, spec: object) -> bool:
        return str(spec) in self._up()

    def _observe(self) -> Snapshot:
        return observe(self.world, self.pods.values(), self.nodes.values())

    def _up(self) -> list[str]:
        """The declared links that are linked."""
        linked = [link for link in self.world.bed.links().values() if derive(link) is State.LINKED]
        return [str(spec) for spec in self.tenants.specs if any(spec.matches_record(link) for link in linked)]

    def _unanswered(self) -> list[str]:
        linked = [link for link in self.world.bed.links().values() if derive(link) is State.LINKED]
        answered = answers(self.pods, self.tenants.specs, linked)
        self.monitor.pings += len(answered)
        return [f"no ping through {link[0]}" for link, was_answered in answered.items() if not was_answered]

    def _wait(self, what: str, problems: Callable[[], list[str]]) -> None:
        """Wait until there are no problems. Raises InvariantError with those that remain after QUIET_SECONDS."""
        until = time.monotonic() + QUIET_SECONDS
        self.world.log.waiting_for = what
        while found := problems():
            self._check()
            if time.monotonic() > until:
                raise InvariantError(f"no {what} within {QUIET_SECONDS:.0f} s of quiet:\n" + "\n".join(found))
            time.sleep(POLL_SECONDS)
        self.world.log.waiting_for = ""

    def _check(self) -> None:
        self._raise_if(self.world.history.violations_so_far())
        self._raise_if(self.monitor.violations)
        self._raise_if(self.world.errors)

    def _raise_if(self, violations: list[str]) -> None:
        if violations:
            raise InvariantError("\n".join(violations))
