"""Steps and conditions of the stateful test: the pods of one namespace, on two nodes with agents.

`Shape` declares the pods and their links. `Game` does what kubelets, runtimes, nodes and the network may do, and checks
the result at quiet points.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from aiohttp import web

from ratchet.core.kinds import Kind, Wiring
from ratchet.core.model import End, Link, State
from ratchet.core.pod import PodRef
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox, finished
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError
from ratchet.gc import collect_garbage
from tests.support.cluster import PATIENT, Cluster
from tests.support.event_streams import EventStreams
from tests.support.faults import Act, Rule, Sent, answering, dropping
from tests.support.link_spec import LinkSpec, ends_of_record
from tests.support.record_history import History
from tests.support.resync import touch

Json = dict[str, Any]

NODES = ("a", "b")
TOPOLOGY = "game"
QUIET_SECONDS = 30.0
CALL_SECONDS = 100.0
MAX_ADDS = 4  # the most ADDs that a pod needs to run when there are no faults
LOG_LINES = 60
# What a pod gives an interface that it sets down: a flag, which agents leave alone and a recreated interface does not
# have, and an MTU, which agents repair.
SHUT, SHUT_MTU = "ALLMULTI", 1280


# Declarations of the pods


class DeclaredIn(StrEnum):
    """Where the links of a shape are declared."""

    LABELS = "the labels of one of the pods"
    LISTS = "the lists of both pods"
    TOPOLOGY = "a topology"


@dataclass(frozen=True, slots=True)
class Shape:
    """Pods, the links between them, and where the links are declared.

    If labels declare the links, a pod without a link of its own has `ratchet.primary: "false"`.
    """

    name: str
    pods: tuple[str, ...]
    specs: tuple[LinkSpec, ...]
    declared_in: DeclaredIn = DeclaredIn.LABELS

    def __repr__(self) -> str:
        return self.name


def _in_a_row(name: str, pods: tuple[str, ...], *, closed: bool, declared_in: DeclaredIn = DeclaredIn.LABELS) -> Shape:
    followers = (*pods[1:], *pods[:1]) if closed else pods[1:]
    specs = (LinkSpec(one, "next", two, "prev", at) for at, (one, two) in enumerate(zip(pods, followers, strict=False)))
    return Shape(name, pods, tuple(specs), declared_in)


def _holds(end: End, attachment: Attachment) -> bool:
    """Whether this sandbox has joined the end of a record."""
    return end.sandbox is not None and end.sandbox.container_id == attachment.id


_SPOKES = ("spoke1", "spoke2", "spoke3")
CHAIN = _in_a_row("CHAIN", ("p0", "p1", "p2", "p3"), closed=False)
RING = _in_a_row("RING", ("p0", "p1", "p2"), closed=True)
STAR = Shape(
    "STAR", ("hub", *_SPOKES), tuple(LinkSpec(one, "up", "hub", f"to-{one}", n) for n, one in enumerate(_SPOKES))
)
DRAWN = _in_a_row("DRAWN", ("p0", "p1", "p2"), closed=True, declared_in=DeclaredIn.TOPOLOGY)
BOTH = _in_a_row("BOTH", ("p0", "p1", "p2", "p3"), closed=False, declared_in=DeclaredIn.LISTS)


# Steps


class Patience(StrEnum):
    """How long an ADD waits for missing peers, and whether it fails without them."""

    NONE = "goes on at once"
    SOME = "goes on after a while"
    STRICT = "fails after a while"

    @property
    def config(self) -> Json:
        wait = 0 if self is Patience.NONE else 0.4
        return {**PATIENT, "wait": wait, "wait_policy": "require" if self is Patience.STRICT else "proceed"}


class OldSandbox(StrEnum):
    """When a sandbox that is replaced gets its DEL."""

    DELETED = "deleted before"
    DELETED_TWICE = "deleted before, twice"
    DELETED_MEANWHILE = "deleted meanwhile"
    LATE = "deleted later"


class Fault(StrEnum):
    """A fault of the API that affects a few requests of a node."""

    REPLY_LOST = "writes are done and the replies lost"
    REQUEST_LOST = "requests are lost"
    BUSY = "the API is busy"
    SLOW = "the API is slow"


class Outage(StrEnum):
    """A fault of the API that lasts until `Game.end_faults`."""

    CUT_OFF = "no request comes through"
    WATCHES_BROKEN = "no watch comes through"


@dataclass(slots=True, eq=False)
class Attachment:
    """A sandbox, the runtime's calls for it, and their results."""

    sandbox: Sandbox
    node: str
    adding: subprocess.Popen[str] | None = None
    added: CniResponse | None = None
    deletes: int = 0
    deleted: bool = False
    present: bool = True

    @property
    def id(self) -> str:
        return self.sandbox.container_id

    @property
    def runs(self) -> bool:
        return self.added is not None and self.added.status == 0 and not self.deletes

    def __str__(self) -> str:
        return f"{self.sandbox.pod.name}/{self.id[:6]} on {self.node}"


@dataclass(slots=True)
class Placed:
    """A pod in the API, and its current sandbox according to the kubelet."""

    ref: PodRef
    node: str
    attachment: Attachment | None = None


class Game:
    """One example: the pods of a namespace, from the first pod until all of them are deleted.

    Which steps are possible (`placed`, `owed_deletes`, `outages`, the running agents) depends only on the steps before,
    never on timing.
    """

    def __init__(
        self, cluster: Cluster, event_streams: EventStreams, history: History, namespace: str, shape: Shape
    ) -> None:
        self.shape = shape
        self.specs = list(shape.specs)
        self.namespace = namespace
        self.placed: dict[str, Placed] = {}
        self.owed_deletes: list[Attachment] = []
        self.deleted: list[Attachment] = []
        self.outages: set[str] = set()
        self.paused: set[str] = set()
        self.down: set[str] = set()
        self._cluster = cluster
        self._event_streams = event_streams
        self._history = history
        self._attachments: list[Attachment] = []
        self._deleting: list[tuple[subprocess.Popen[str], Attachment, bool]] = []
        self._damaged: set[int] = set()
        self._shut: list[tuple[Attachment, str]] = []
        self._swapped: set[int] = set()
        self._annotated: set[str] = set()
        self._quiesce_count = 0
        self._crashed = False
        self._started_at = time.monotonic()
        self._steps: list[str] = []
        self._log_from = {node: self._log_size(node) for node in NODES}
        cluster.bed.namespace = namespace
        cluster.bed.make(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        if shape.declared_in is DeclaredIn.TOPOLOGY:
            cluster.bed.create_topology(TOPOLOGY, self._topology())

    # Declarations

    def swap_endpoints(self, index: int) -> None:
        """Swap the endpoints of a link in the topology. This must not change the link."""
        spec = self.specs[index % len(self.specs)]
        self._log_step(f"swap the endpoints of {spec} in the topology")
        self._swapped ^= {spec.number}
        self._cluster.bed.edit_topology(TOPOLOGY, self._topology())

    def declare_twice(self, pod: str) -> None:
        """Toggle a pod's annotation that declares the links of the topology a second time."""
        self._annotated ^= {pod}
        self._log_step(f"{pod} {'lists' if pod in self._annotated else 'does not list'} its links")
        if pod in self.placed:
            edited = {"ratchet.links": None, **self._annotations(pod)}
            self._cluster.bed.api.patch(f"{self._cluster.bed.pods_path}/{pod}", {"metadata": {"annotations": edited}})

    def _rename(self, pod: str) -> None:
        """Declare the link of a pod on another interface. The new labels apply when the pod is recreated."""
        for at, spec in enumerate(self.specs):
            if spec.primary == pod:
                plain = spec.local_ifname.removesuffix("2")
                renamed = replace(spec, local_ifname=plain if spec.local_ifname != plain else f"{plain}2")
                self._log_step(f"the labels of {pod} declare {renamed} instead of {spec}")
                self.specs[at] = renamed

    def _labels(self, pod: str) -> dict[str, str]:
        if self.shape.declared_in is not DeclaredIn.LABELS:
            return {"ratchet": "true"}
        spec = next((one for one in self.specs if one.primary == pod), None)
        return {"ratchet": "true", **(spec.labels if spec else {"ratchet.primary": "false"})}

    def _annotations(self, pod: str) -> dict[str, str]:
        if self.shape.declared_in is not DeclaredIn.LISTS and pod not in self._annotated:
            return {}
        return {"ratchet.links": json.dumps([spec.in_annotation(at) for spec, at in self._ends_of(pod)])}

    def _topology(self) -> str:
        return json.dumps([spec.in_topology(swapped=spec.number in self._swapped) for spec in self.specs])

    def _ends_of(self, pod: str) -> list[tuple[LinkSpec, int]]:
        return [(spec, at) for spec in self.specs for at in (0, 1) if spec.endpoints[at][0] == pod]

    def _is_declared(self, spec: LinkSpec, at: int) -> bool:
        """Whether an existing pod or topology declares the link, given that the pod of endpoint `at` exists."""
        return self.shape.declared_in is not DeclaredIn.LABELS or at == 0 or spec.primary in self.placed

    # Pods and sandboxes

    def create(self, pod: str, node: str) -> None:
        self._log_step(f"create {pod} on {node}")
        created = self._cluster.bed.create_pod(pod, self._labels(pod), node, self._annotations(pod))
        self.placed[pod] = Placed(created, node)

    def start(self, pod: str, patience: Patience, *, background: bool) -> None:
        """Create a sandbox for a pod and call ADD. An earlier sandbox is replaced."""
        placed = self.placed[pod]
        attachment = placed.attachment = Attachment(self._kubelet(placed.node).make_sandbox(placed.ref), placed.node)
        self._attachments.append(attachment)
        self._log_step(f"ADD {attachment}, which {patience}")
        attachment.adding = self._kubelet(attachment.node).start("ADD", attachment.sandbox, config=patience.config)
        if not background and self._is_responsive(attachment.node):
            self._finish_adding(attachment)

    def restart(self, pod: str, old: OldSandbox, patience: Patience, *, background: bool, lingers: bool) -> None:
        """Replace the sandbox of a pod."""
        before = self._current(pod)
        self._replace(before, old, lambda: self.start(pod, patience, background=background), lingers=lingers)

    def try_again(self, pod: str, patience: Patience = Patience.NONE) -> bool:
        """If the last ADD failed, call DEL and start a new sandbox, as a kubelet does. Return whether it did."""
        attachment = self._current(pod)
        if (
            attachment.adding is not None
            and not self._is_responsive(attachment.node)
            and attachment.node not in self.down
        ):
            return False  # the ADD of an agent that is paused or cut off takes long to return
        self._finish_adding(attachment)
        if attachment.runs:
            return False
        self._delete(attachment, lingers=False)
        self.start(pod, patience, background=False)
        return True

    def kill_call(self, pod: str) -> None:
        """Kill a running ADD with SIGKILL, as when the runtime's deadline expires or the runtime crashes."""
        attachment = self._current(pod)
        if attachment.adding is not None:
            self._log_step(f"SIGKILL the ADD of {attachment}")
            attachment.adding.kill()
            self._finish_adding(attachment)

    def remove(self, pod: str, old: OldSandbox, *, lingers: bool) -> None:
        """Delete a pod. Its DEL comes before its object is deleted, or later, as `old` says."""
        placed = self.placed.pop(pod)

        def delete_object() -> None:
            self._log_step(f"delete {pod}")
            self._history.deleted_pods.add(placed.ref.uid)
            self._cluster.bed.delete_pod(placed.ref)

        self._replace(placed.attachment, old, delete_object, lingers=lingers)

    def move(
        self,
        pod: str,
        node: str,
        old: OldSandbox,
        patience: Patience,
        *,
        background: bool,
        started: bool,
        lingers: bool,
        renamed: bool,
    ) -> None:
        """Delete a pod and recreate it under its name, on either node. If `started`, it gets a sandbox too.

        If `renamed`, its new labels declare another interface. This is skipped if an old sandbox still needs its DEL:
        that sandbox may hold the old end of the link until then.
        """
        before = self.placed[pod]
        held = any(attachment.sandbox.pod.name == pod for attachment in self.owed_deletes)
        may_rename = (
            self.shape.declared_in is DeclaredIn.LABELS
            and old in (OldSandbox.DELETED, OldSandbox.DELETED_TWICE)
            and not held
        )

        def recreate() -> None:
            self._log_step(f"delete {pod}")
            self._history.deleted_pods.add(before.ref.uid)
            self._cluster.bed.delete_pod(before.ref)
            if renamed and may_rename:
                self._rename(pod)
            self.create(pod, node)
            if started:
                self.start(pod, patience, background=background)

        self._replace(before.attachment, old, recreate, lingers=lingers)

    def delete_late(self, index: int, *, lingers: bool) -> None:
        attachment = self.owed_deletes.pop(index % len(self.owed_deletes))
        self._delete(attachment, lingers=lingers)
        self.deleted.append(attachment)

    def delete_again(self, index: int) -> None:
        """Repeat a DEL without `CNI_NETNS`, as containerd does."""
        self._delete(self.deleted[index % len(self.deleted)], again=True, lingers=False)

    def _replace(self, before: Attachment | None, old: OldSandbox, act: Callable[[], None], *, lingers: bool) -> None:
        if before is None:
            act()
            return
        if old in (OldSandbox.DELETED, OldSandbox.DELETED_TWICE):
            self._delete(before, lingers=lingers)
        if old is OldSandbox.DELETED_TWICE:
            self._delete(before, again=True, lingers=lingers)
        if old is OldSandbox.DELETED_MEANWHILE:
            self._delete(before, background=True, lingers=lingers)
        (self.owed_deletes if old is OldSandbox.LATE else self.deleted).append(before)
        act()

    def _delete(self, attachment: Attachment, *, background: bool = False, again: bool = False, lingers: bool) -> None:
        self._log_step(f"DEL {attachment}{' again' if again else ''}")
        changes = {"CNI_NETNS": ""} if again else {}
        if (adding := attachment.adding) is not None:  # on a busy machine, the DEL could be the earlier call
            wait_for(f"the start of the ADD of {attachment}", lambda: _has_begun(adding))
        process = self._kubelet(attachment.node).start("DEL", attachment.sandbox, **changes)
        attachment.deletes += 1
        one = (process, attachment, lingers)
        self._deleting.append(one)
        if not background and (self._is_responsive(attachment.node) or attachment.node in self.down):
            self._finish_deleting(one)

    def _finish_adding(self, attachment: Attachment) -> None:
        if attachment.adding is not None:
            process, attachment.adding = attachment.adding, None
            attachment.added = finished(process, CALL_SECONDS)
            if attachment.added.status == 0:
                attachment.sandbox.result = attachment.added.json
            reported = (
                ""
                if attachment.added.status == 0
                else f": {attachment.added.status}: {attachment.added.stdout.strip()}"
            )
            self._log_step(f"  ADD {attachment} is over{reported}")

    def _finish_deleting(self, one: tuple[subprocess.Popen[str], Attachment, bool]) -> None:
        process, attachment, lingers = one
        answer = finished(process, CALL_SECONDS)
        self._deleting.remove(one)
        self._log_step(f"  DEL {attachment} is over")
        assert (answer.status, answer.stdout) == (0, ""), f"DEL of {attachment}: {answer}"
        attachment.deleted = True
        if not lingers:
            self._remove_namespace(attachment)

    def _remove_namespace(self, attachment: Attachment) -> None:
        if attachment.present:
            attachment.present = False
            self._cluster.bed.hosts.remove_namespace(attachment.sandbox.netns)

    # Agents, the API, garbage, interfaces

    def end_agent(self, node: str, *, kill: bool) -> None:
        self._log_step(f"{'SIGKILL' if kill else 'SIGTERM'} the agent of {node}")
        agent = self._cluster.bed.agents[node]
        agent.kill() if kill else agent.stop()
        self.down.add(node)
        self.paused.discard(node)
        self._crashed = True

    def start_agent(self, node: str, *, patiently: bool) -> None:
        self._log_step(f"start the agent of {node}{' and wait for it' if patiently else ''}")
        agent = self._cluster.bed.agents[node]
        agent.start() if patiently else agent.launch()
        self.down.discard(node)

    def pause(self, node: str) -> None:
        self._log_step(f"SIGSTOP for the agent of {node}")
        self._cluster.bed.agents[node].pause()
        self.paused.add(node)

    def resume(self, node: str) -> None:
        self._log_step(f"SIGCONT for the agent of {node}")
        self._cluster.bed.agents[node].resume()
        self.paused.discard(node)

    def disturb(self, node: str, fault: Fault, first: int, times: int) -> None:
        self._log_step(f"{node}: {fault}, {times} times from the {first}th on")
        self._crashed = True
        address = self._kubelet(node).host.address

        def matches(sent: Sent) -> bool:
            ours = sent.remote == address and "watch=1" not in sent.path and "/leases/node-" not in sent.path
            return ours and (sent.writes or fault is not Fault.REPLY_LOST)

        before, after = _ACTS[fault]
        self._cluster.faults.add(Rule(matches, before=before, after=after, first=first, times=times))

    def begin_outage(self, node: str, outage: Outage) -> None:
        self._log_step(f"{node}: {outage}")
        self._crashed = True
        address = self._kubelet(node).host.address

        def matches(sent: Sent) -> bool:
            return sent.remote == address and (outage is Outage.CUT_OFF or "watch=1" in sent.path)

        self._cluster.faults.add(Rule(matches, before=dropping, times=1 << 30))
        self._event_streams.cut(address)
        if outage is Outage.CUT_OFF:
            self.outages.add(node)

    def end_faults(self) -> None:
        self._log_step("the API is as ever")
        self._cluster.faults.rules.clear()
        self.outages.clear()

    def collect(self, grace: float) -> None:
        """Run garbage collection once. It must not remove the sandbox of a pod that exists."""
        store = self._cluster.bed.store
        found = list(collect_garbage(store, now=lambda: datetime.now(UTC), grace=timedelta(seconds=grace)))
        self._log_step(f"gc, sparing {grace:g} s: {[str(one) for one in found]}")
        for placed in self.placed.values():
            taken = [str(one) for one in found if placed.ref.uid in one.reason]
            assert not taken, f"garbage collection took {placed.ref}, which is alive: {taken}"

    def remove_interface(self, pod: str, index: int) -> None:
        """Delete an interface inside a pod, as an operator might do by hand."""
        attachment = self._current(pod)
        spec, at = self._ends_of(pod)[index % len(self._ends_of(pod))]
        ifname = spec.endpoints[at][1]
        self._log_step(f"remove {ifname} of {attachment} by hand")
        with suppress(RatchetError):  # the interface may not exist
            ip("-n", attachment.sandbox.netns, "link", "del", ifname)
            self._damaged.add(spec.number)

    def shut_interface(self, pod: str, index: int) -> None:
        """Set an interface down inside a pod, and change its MTU. It must stay down until `quiesce` sets it up."""
        attachment = self._current(pod)
        spec, at = self._ends_of(pod)[index % len(self._ends_of(pod))]
        ifname = spec.endpoints[at][1]
        self._log_step(f"{attachment} sets {ifname} down")
        with suppress(RatchetError):  # the interface may not exist
            if _interfaces(attachment).get(ifname, {}).get("ifalias"):  # Ratchet has brought it up
                shut = ("allmulticast", "on", "mtu", str(SHUT_MTU), "down")
                ip("-n", attachment.sandbox.netns, "link", "set", ifname, *shut)
                self._shut.append((attachment, ifname))
                self._damaged.add(spec.number)

    # Quiet points

    def quiesce(self) -> None:
        """End all faults, wait until every pod runs, and check the conditions of a quiet point."""
        self._log_step("quiesce")
        self._restore_everything()
        for one in self._deleting.copy():
            self._finish_deleting(one)
        for attachment in self._attachments:
            self._finish_adding(attachment)
        for pod, placed in self.placed.items():
            if placed.attachment is not None:
                self._start_until_running(pod)
        self._reconcile_damaged()
        if self._shut:
            self._wait_until_quiet()
            self._set_up_shut_interfaces()
        if self.shape.declared_in is DeclaredIn.TOPOLOGY:  # links must not depend on the order of endpoints
            self.swap_endpoints(self._quiesce_count)
        self._quiesce_count += 1
        self._wait_until_quiet()
        self._history.deleted_containers |= {attachment.id for attachment in self._attachments if attachment.deleted}
        for attachment in self._attachments:
            if attachment.deleted:
                self._remove_namespace(attachment)
        self._log_step("  quiet")

    def finish(self) -> None:
        """Quiesce, delete all pods, and check that nothing is left."""
        self.quiesce()
        self._log_step("the end")
        for attachment in self._attachments:
            if not attachment.deletes:
                self._delete(attachment, background=True, lingers=False)
        for one in self._deleting.copy():
            self._finish_deleting(one)
        for placed in self.placed.values():
            self._history.deleted_pods.add(placed.ref.uid)
            self._cluster.bed.delete_pod(placed.ref)
        self.placed.clear()
        wait_for("the end of every record", lambda: not self._cluster.bed.links())
        if self._crashed:  # an agent may have died between deleting a record and its Lease
            self.collect(0.0)
        self._cluster.assert_nothing_left()
        assert not (faults := self._history.violations()), faults

    def kill_running_calls(self) -> None:
        """Kill all running calls."""
        for process in [one.adding for one in self._attachments if one.adding] + [one[0] for one in self._deleting]:
            process.kill()
            process.communicate()

    def _restore_everything(self) -> None:
        if self._cluster.faults.rules:
            self.end_faults()
        for node in sorted(self.paused):
            self.resume(node)
        for node in sorted(self.down):
            self.start_agent(node, patiently=False)
        for node in NODES:
            self._cluster.bed.agents[node].wait_until_serving()

    def _start_until_running(self, pod: str) -> None:
        for _ in range(MAX_ADDS):
            if not self.try_again(pod):
                return
        raise AssertionError(f"{pod} does not start")

    def _reconcile_damaged(self) -> None:
        """Touch the records of damaged links: agents would otherwise reconcile them only at the next resync."""
        damaged = [spec for spec in self.specs if spec.number in self._damaged]
        for name, record in self._records().items():
            if any(spec.matches_record(record) for spec in damaged):
                touch(self._cluster.bed, name)
        self._damaged.clear()

    def _set_up_shut_interfaces(self) -> None:
        """Set up the interfaces that pods have set down. No agent may have done so before, when it repaired the MTU."""
        for attachment, ifname in self._shut:
            device = _interfaces(attachment).get(ifname) if attachment.present else None
            if device is None:
                continue
            assert not {SHUT, "UP"} <= set(device["flags"]), f"{ifname} of {attachment} was set up"
            with suppress(RatchetError):  # the interface may be deleted meanwhile
                ip("-n", attachment.sandbox.netns, "link", "set", ifname, "allmulticast", "off", "up")
        self._shut.clear()

    def _wait_until_quiet(self) -> None:
        until = time.monotonic() + QUIET_SECONDS
        while problems := self.problems():
            assert time.monotonic() < until, f"not so after {QUIET_SECONDS:.0f} s of quiet: {problems}"
            time.sleep(0.05)
        assert not (faults := self._history.violations()), faults

    # Conditions of a quiet point

    def problems(self) -> list[str]:
        """The conditions of a quiet point that do not hold, or do not hold yet."""
        records = self._records()
        shown = {attachment.id: _interfaces(attachment) for attachment in self._attachments if attachment.present}
        found = [f"{node}: DELs wait in the spool" for node in NODES if self._has_spooled_dels(node)]
        for spec in self.specs:
            own = [records.pop(name) for name, one in list(records.items()) if spec.matches_record(one)]
            if len(own) > 1:
                found.append(f"{spec} has {len(own)} records: {[one.name for one in own]}")
            found += self._problems_of_link(spec, own[0] if own else None, shown)
        found += [f"{name} is nobody's wish" for name in records]
        found += self._undeclared_interfaces(shown)
        for attachment in self._attachments:
            if attachment.deleted and (left := shown.get(attachment.id)):
                found.append(f"{attachment} was deleted and still has {sorted(left)}")
        pinging = [spec for spec in self.specs if not _is_shut(spec, shown, self._attachments)]
        return found or [f"no ping from {spec.primary} to {spec.pair}" for spec in pinging if not self._pings(spec)]

    def _records(self) -> dict[str, Link]:
        return {name: one for name, one in self._cluster.bed.links().items() if one.namespace == self.namespace}

    def _problems_of_link(
        self, spec: LinkSpec, record: Link | None, shown: Mapping[str, Mapping[str, Json]]
    ) -> Iterator[str]:
        alive = [self._running_attachment(pod) for pod, _ in spec.endpoints]
        known = {attachment.id: attachment for attachment in self._attachments}
        shut = _is_shut(spec, shown, self._attachments)
        for at, attachment in enumerate(alive):
            held = record is not None and attachment is not None and _holds(spec.end_in(record, at), attachment)
            if attachment is not None and self._is_declared(spec, at) and not held:
                yield f"{spec} has not {attachment} at {spec.endpoints[at][1]}"
        for end in ends_of_record(record) if record else ():
            sandbox = end.sandbox
            if sandbox is not None and ((holder := known.get(sandbox.container_id)) is None or holder.deleted):
                yield f"{spec} has {sandbox.container_id[:6]}, which was deleted, at {end.ifname}"
        for attachment in self._attachments:
            for at, (pod, ifname) in enumerate(spec.endpoints):
                device = shown.get(attachment.id, {}).get(ifname)
                if device is not None and attachment.sandbox.pod.name == pod:
                    yield from self._problems_of_interface(attachment, spec, at, device, record, shut=shut)
        if record is not None and all(alive) and derive(record) is not State.LINKED:
            yield f"{spec} is {derive(record)}"

    def _problems_of_interface(
        self, attachment: Attachment, spec: LinkSpec, at: int, device: Json, record: Link | None, *, shut: bool
    ) -> Iterator[str]:
        """Problems of an interface of a link that exists in a sandbox. `shut`: a pod has set an end down."""
        what = f"{device['ifname']} of {attachment}"
        carrier = "LOWER_UP" in device["flags"]
        if record is None or not _holds(spec.end_in(record, at), attachment):
            if carrier:
                yield f"{what} has carrier, and {spec} does not hold that sandbox"
            return
        if carrier and spec.end_in(record, 1 - at).sandbox is None:
            yield f"{what} has carrier and no peer"
        if derive(record) is State.LINKED:
            if not carrier and not shut:
                yield f"{what} has no carrier"
            if device["mtu"] == SHUT_MTU:
                yield f"{what} still has the MTU of its pod"
            is_direct = record.wiring is Wiring.DIRECT
            kind = record.kind if is_direct else Kind.VETH
            if device["linkinfo"]["info_kind"] != kind:
                yield f"{what} is no {kind}"
            elif is_direct and record.kind is Kind.VXLAN and device["linkinfo"]["info_data"]["id"] != record.vni:
                yield f"{what} has not VNI {record.vni}"

    def _undeclared_interfaces(self, shown: Mapping[str, Mapping[str, Json]]) -> Iterator[str]:
        """Interfaces in running sandboxes that belong to no declared link."""
        for pod in self.placed:
            attachment = self._running_attachment(pod)
            if attachment is not None:
                declared_ifnames = {spec.endpoints[at][1] for spec, at in self._ends_of(pod)}
                yield from (
                    f"{attachment} has {ifname}, which no link has"
                    for ifname in shown[attachment.id].keys() - declared_ifnames
                )

    def _pings(self, spec: LinkSpec) -> bool:
        """Whether the primary reaches the pair. True if one of the two pods does not run."""
        primary, pair = self._running_attachment(spec.primary), self._running_attachment(spec.pair)
        if primary is None or pair is None:
            return True
        return self._cluster.pings(primary.sandbox, spec.address(1))

    def _running_attachment(self, pod: str) -> Attachment | None:
        """The current sandbox of a pod, if its ADD succeeded."""
        placed = self.placed.get(pod)
        return placed.attachment if placed and placed.attachment and placed.attachment.runs else None

    def _has_spooled_dels(self, node: str) -> bool:
        spool = self._cluster.bed.agents[node].spool
        return spool.is_dir() and any(path.is_file() for path in spool.iterdir())

    # Failure report

    def report(self) -> str:
        """The steps with their times, the records, and the ends of the agents' logs."""
        records = [
            f"{one.name}: {derive(one)} vni={one.vni} "
            + " ".join(f"{end.name}:{end.ifname}={end.sandbox} stands={end.ready}" for end in ends_of_record(one))
            for one in self._cluster.bed.links().values()
        ]
        parts = [
            f"What was done, in {self.namespace} (seconds):\n" + "\n".join(self._steps),
            "Records:\n" + "\n".join(records),
            *(f"The end of the log of agent {node}:\n{self._log_end(node)}" for node in NODES),
        ]
        return "\n\n".join(parts)

    def _log_step(self, what: str) -> None:
        self._steps.append(f"{time.monotonic() - self._started_at:7.2f} {what}")

    def _log_size(self, node: str) -> int:
        return self._cluster.bed.agents[node].log.stat().st_size

    def _log_end(self, node: str) -> str:
        text = self._cluster.bed.agents[node].log.read_bytes()[self._log_from[node] :].decode(errors="replace")
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def _current(self, pod: str) -> Attachment:
        attachment = self.placed[pod].attachment
        assert attachment is not None
        return attachment

    def _kubelet(self, node: str) -> Kubelet:
        return self._cluster.bed.kubelets[node]

    def _is_responsive(self, node: str) -> bool:
        """Whether the node's agent runs and reaches the API, so that its calls return soon."""
        return node not in self.down | self.paused | self.outages


async def _slowly(_: web.Request) -> None:
    await asyncio.sleep(0.3)


_ACTS: dict[Fault, tuple[Act | None, Act | None]] = {
    Fault.REPLY_LOST: (None, dropping),
    Fault.REQUEST_LOST: (dropping, None),
    Fault.BUSY: (answering(429, "TooManyRequests"), None),
    Fault.SLOW: (_slowly, None),
}


def _is_shut(spec: LinkSpec, shown: Mapping[str, Mapping[str, Json]], attachments: Collection[Attachment]) -> bool:
    """Whether a pod has set down an interface of a link, and no agent has set it up."""
    ends = [
        shown.get(one.id, {}).get(ifname, {})
        for one in attachments
        for pod, ifname in spec.endpoints
        if one.sandbox.pod.name == pod
    ]
    return any(SHUT in end.get("flags", ()) and "UP" not in end["flags"] for end in ends)


def _has_begun(call: subprocess.Popen[str]) -> bool:
    """Whether a call has noted when it began. It has once it runs the plugin and waits for an answer, or has ended."""
    if call.poll() is not None:
        return True
    command, state, *_ = Path(f"/proc/{call.pid}/stat").read_text().partition("(")[2].replace(")", "").split()
    return (command, state) == ("ratchet", "S")


def _interfaces(attachment: Attachment) -> dict[str, Json]:
    """The interfaces of a sandbox by name, without `lo`. All of them belong to Ratchet."""
    shown = json.loads(ip("-j", "-d", "-n", attachment.sandbox.netns, "link", "show"))
    return {one["ifname"]: one for one in shown if one["ifname"] != "lo"}
