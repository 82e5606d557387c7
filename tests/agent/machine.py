"""Pods of one namespace on two nodes that have agents: what was done to them, and what must hold of their links then.

`Shape` is the pods and their links, `History` what the API goes through, `Game` what kubelets, runtimes, nodes and the
network do meanwhile: nothing but what they may.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from ratchet.core.model import End, Kind, Link, PodRef, State
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox, finished
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from ratchet.errors import RatchetError
from ratchet.gc import collect_garbage
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.leases import decode_vni_lease
from ratchet.store.codec.links import decode_link
from tests.support.cluster import PATIENT, Cluster
from tests.support.faults import Act, Handler, Rule, Sent, answering, dropping
from tests.support.resync import touch

Json = dict[str, Any]

Endpoint = tuple[str, str]
"""The name of a pod, and an interface in it."""

NODES = ("a", "b")
TOPOLOGY = "game"
QUIET_SECONDS = 30.0
CALL_SECONDS = 100.0
ADDS = 4  # until a sandbox stays, where nothing is in its way
LOG_LINES = 60


# What the pods declare


@dataclass(frozen=True, slots=True)
class Wish:
    """A link between two endpoints, 0 and 1; `number` makes its addresses."""

    primary: str
    local_ifname: str
    pair: str
    pair_ifname: str
    number: int

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        return (self.primary, self.local_ifname), (self.pair, self.pair_ifname)

    def address(self, at: int) -> str:
        return f"10.1.{self.number}.{at + 1}"

    def is_of(self, record: Link) -> bool:
        """Whether a record is this link's: it has these two endpoints, in either order."""
        return {(end.name, end.ifname) for end in _ends(record)} == set(self.endpoints)

    def end_in(self, record: Link, at: int) -> End:
        """The end of this link's record that is the endpoint `at`."""
        return next(end for end in _ends(record) if (end.name, end.ifname) == self.endpoints[at])

    @property
    def labels(self) -> dict[str, str]:
        """The labels of 2017 with which the pod of endpoint 0 declares the link."""
        return {
            "ratchet.primary": "true",
            "ratchet.local_ifname": self.local_ifname,
            "ratchet.local_ip": self.address(0),
            "ratchet.pair_name": self.pair,
            "ratchet.pair_ifname": self.pair_ifname,
            "ratchet.pair_ip": self.address(1),
        }

    def listed(self, at: int) -> Json:
        """The link in the list of the pod of endpoint `at`."""
        (_, ifname), (peer, peer_ifname) = self.endpoints[at], self.endpoints[1 - at]
        addresses = [self.address(at), self.address(1 - at)]
        return {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, "addresses": addresses}

    def drawn(self, *, swapped: bool) -> Json:
        """The link in a topology, with its endpoints in either order."""
        order = (1, 0) if swapped else (0, 1)
        endpoints = [":".join(self.endpoints[at]) for at in order]
        return {"endpoints": endpoints, "addresses": [self.address(at) for at in order]}

    def __str__(self) -> str:
        return "–".join(":".join(endpoint) for endpoint in self.endpoints)


class Declared(StrEnum):
    """Where links are declared."""

    LABELS = "the labels of one of the pods"
    LISTS = "the lists of both pods"
    TOPOLOGY = "a topology"


@dataclass(frozen=True, slots=True)
class Shape:
    """Pods, the links between them, and where these are declared.

    With labels, a pod that declares no link expects to be named.
    """

    name: str
    pods: tuple[str, ...]
    wishes: tuple[Wish, ...]
    declared: Declared = Declared.LABELS

    def __repr__(self) -> str:
        return self.name


def _in_a_row(name: str, pods: tuple[str, ...], *, closed: bool, declared: Declared = Declared.LABELS) -> Shape:
    followers = (*pods[1:], *pods[:1]) if closed else pods[1:]
    wishes = (Wish(one, "next", two, "prev", at) for at, (one, two) in enumerate(zip(pods, followers, strict=False)))
    return Shape(name, pods, tuple(wishes), declared)


def _ends(record: Link) -> tuple[End, End]:
    return record.primary, record.pair


def _holds(end: End, life: Life) -> bool:
    """Whether an end of a record has this sandbox."""
    return end.sandbox is not None and end.sandbox.container_id == life.id


_SPOKES = ("spoke1", "spoke2", "spoke3")
CHAIN = _in_a_row("CHAIN", ("p0", "p1", "p2", "p3"), closed=False)
RING = _in_a_row("RING", ("p0", "p1", "p2"), closed=True)
STAR = Shape("STAR", ("hub", *_SPOKES), tuple(Wish(one, "up", "hub", f"to-{one}", n) for n, one in enumerate(_SPOKES)))
DRAWN = _in_a_row("DRAWN", ("p0", "p1", "p2"), closed=True, declared=Declared.TOPOLOGY)
BOTH = _in_a_row("BOTH", ("p0", "p1", "p2", "p3"), closed=False, declared=Declared.LISTS)


# What the API goes through


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a record (`vni` is None) or of a VNI's Lease; `object` is None where it is gone."""

    version: int
    name: str
    object: Json | None
    is_lease: bool


@dataclass
class History:
    """Every change of records and of VNIs' Leases, each of them looked at in the order in which they were stored.

    `buried` are the sandboxes that no record may hold any more; `gone` the UIDs of pods that the API has no more.
    """

    api: ApiServer
    config_maps: str
    leases: str
    buried: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    _events: list[Event] = field(default_factory=list)
    _looked_at: int = 0
    _records: dict[str, Link] = field(default_factory=dict)
    _holders: dict[int, str] = field(default_factory=dict)
    _closed: bool = False

    def follow(self) -> None:
        """Watch from now on, when there is nothing yet."""
        for path in (self.config_maps, self.leases):
            _, version = self.api.list(path)
            threading.Thread(target=self._watch, args=(path, version), name=f"history of {path}", daemon=True).start()

    def close(self) -> None:
        self._closed = True

    def _watch(self, path: str, version: str) -> None:
        while not self._closed:
            with suppress(RatchetError):
                for event in self.api.watch(path, version, 3600.0):
                    metadata = event.object["metadata"]
                    version = metadata["resourceVersion"]
                    if event.type != "BOOKMARK":
                        there = None if event.type == "DELETED" else event.object
                        self._events.append(Event(int(version), metadata["name"], there, path == self.leases))

    def violations(self) -> list[str]:
        """What was wrong at any moment since the last time that this was asked."""
        wait_for("all that has changed", self._is_complete)
        events = sorted(self._events[self._looked_at :], key=lambda event: event.version)
        self._looked_at += len(events)
        return [f"at version {event.version}: {fault}" for event in events for fault in self._after(event)]

    def _is_complete(self) -> bool:
        """Whether what was told amounts to what there is; signs of life, which go on, left aside."""
        told: dict[tuple[str, str], str] = {}
        for event in self._events.copy():
            key = (self.leases if event.is_lease else self.config_maps, event.name)
            told.pop(key, None)
            if event.object is not None:
                told[key] = event.object["metadata"]["resourceVersion"]
        there = {
            (path, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for path in (self.config_maps, self.leases)
            for item in self.api.list(path)[0]
        }
        return {key: told[key] for key in told if not _is_a_node(key)} == {
            key: there[key] for key in there if not _is_a_node(key)
        }

    def _after(self, event: Event) -> Iterator[str]:
        if event.is_lease:
            if _is_a_node(("", event.name)):
                return
            vni = int(event.name.removeprefix("vni-"))
            lease = decode_vni_lease(event.object) if event.object else None
            self._holders.pop(vni, None)
            if lease is not None:
                self._holders[vni] = lease.holder
            yield from self._without_lease()
            return
        before = self._records.pop(event.name, None)
        if event.object is None:
            return
        link = self._records[event.name] = decode_link(event.object)
        if (said := event.object["data"]["state"]) != derive(link):
            yield f"{link.name} says {said} and is {derive(link)}"
        yield from self._without_lease()
        yield from self._held_twice()
        for end in _ends(link):
            sandbox = end.sandbox
            if sandbox is not None and sandbox.container_id in self.buried:
                yield f"{link.name} holds {sandbox.container_id[:6]} of {sandbox.pod.name}, which was deleted long ago"
        if before is not None:
            yield from self._collected_alive(before, link)

    def _without_lease(self) -> Iterator[str]:
        for link in self._records.values():
            if link.vni is not None and self._holders.get(link.vni) != link.uid:
                yield f"{link.name} has VNI {link.vni}, whose Lease is {self._holders.get(link.vni) or 'nobody'}'s"

    def _held_twice(self) -> Iterator[str]:
        numbers = Counter(link.vni for link in self._records.values() if link.vni is not None)
        yield from (f"VNI {vni} belongs to {times} records" for vni, times in numbers.items() if times > 1)
        ends = Counter(
            (end.sandbox.pod, end.ifname)
            for link in self._records.values()
            for end in _ends(link)
            if end.sandbox is not None
        )
        yield from (f"{pod} has {times} links at {ifname}" for (pod, ifname), times in ends.items() if times > 1)

    def _collected_alive(self, before: Link, after: Link) -> Iterator[str]:
        told = [step.reason for step in after.history if step not in before.history]
        if not any(reason.startswith("collected:") for reason in told):
            return
        for was, now in zip(_ends(before), _ends(after), strict=True):
            lost = was.sandbox
            if lost is not None and now.sandbox is None and lost.pod.uid not in self.gone:
                yield f"{after.name}: garbage collection removed {lost.pod.name}, which is alive"


def _is_a_node(key: tuple[str, str]) -> bool:
    return key[1].startswith("node-")


@dataclass
class Ears:
    """The watches that are open, by the address of who watches, so that they can be broken."""

    _open: dict[str, set[asyncio.Transport]] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def listening(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            if "watch" not in request.query or transport is None:
                return await handler(request)
            self._loop = asyncio.get_running_loop()
            heard = self._open.setdefault(request.remote or "", set())
            heard.add(transport)
            try:
                return await handler(request)
            finally:
                heard.discard(transport)

        return listening

    def cut(self, address: str) -> None:
        """Break every watch of this node."""

        def abort() -> None:
            for transport in list(self._open.get(address, ())):
                transport.abort()

        if self._loop is not None:
            self._loop.call_soon_threadsafe(abort)


# What is done


class Patience(StrEnum):
    """How an ADD goes about peers that have not come."""

    NONE = "goes on at once"
    SOME = "goes on after a while"
    STRICT = "fails after a while"

    @property
    def config(self) -> Json:
        wait = 0 if self is Patience.NONE else 0.4
        return {**PATIENT, "wait": wait, "wait_policy": "require" if self is Patience.STRICT else "proceed"}


class Old(StrEnum):
    """What becomes of the sandbox that another takes the place of."""

    DELETED = "deleted before"
    DELETED_TWICE = "deleted before, twice"
    DELETED_MEANWHILE = "deleted meanwhile"
    LATE = "deleted later"


class Fault(StrEnum):
    """What a node suffers of the API, a few times."""

    REPLY_LOST = "writes are done and the replies lost"
    REQUEST_LOST = "requests are lost"
    BUSY = "the API is busy"
    SLOW = "the API is slow"


class Outage(StrEnum):
    """What a node suffers of the API until it is over."""

    CUT_OFF = "no request comes through"
    DEAF = "no watch comes through"


@dataclass(slots=True, eq=False)
class Life:
    """A sandbox, what the runtime has asked for it, and what that came to."""

    sandbox: Sandbox
    node: str
    adding: subprocess.Popen[str] | None = None
    added: CniResponse | None = None
    deletes: int = 0
    deleted: bool = False
    there: bool = True

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
    """A pod as the API has it, and the sandbox that its kubelet holds for its own."""

    ref: PodRef
    node: str
    life: Life | None = None


class Game:
    """The pods of one namespace of a bed, from nothing to nothing.

    What is possible at a moment (`placed`, `owed`, `outages`, which agents run) depends on what was done alone and
    never on how fast it went.
    """

    def __init__(self, cluster: Cluster, ears: Ears, history: History, namespace: str, shape: Shape) -> None:
        self.shape = shape
        self.wishes = list(shape.wishes)
        self.namespace = namespace
        self.placed: dict[str, Placed] = {}
        self.owed: list[Life] = []
        self.deleted: list[Life] = []
        self.outages: set[str] = set()
        self.paused: set[str] = set()
        self.down: set[str] = set()
        self._cluster = cluster
        self._ears = ears
        self._history = history
        self._lives: list[Life] = []
        self._deleting: list[tuple[subprocess.Popen[str], Life, bool]] = []
        self._marred: set[int] = set()
        self._swapped: set[int] = set()
        self._listing: set[str] = set()
        self._settled = 0
        self._crashed = False
        self._began = time.monotonic()
        self._story: list[str] = []
        self._log_from = {node: self._log_size(node) for node in NODES}
        cluster.bed.namespace = namespace
        cluster.bed.make(
            "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        if shape.declared is Declared.TOPOLOGY:
            cluster.bed.create_topology(TOPOLOGY, self._topology())

    # What is declared

    def swap_endpoints(self, index: int) -> None:
        """Edit the topology: a link has its endpoints in the other order, which changes nothing."""
        wish = self.wishes[index % len(self.wishes)]
        self._say(f"swap the endpoints of {wish} in the topology")
        self._swapped ^= {wish.number}
        self._cluster.bed.edit_topology(TOPOLOGY, self._topology())

    def declare_twice(self, pod: str) -> None:
        """Edit a pod: it declares its links of the topology in its list too, or does so no longer."""
        self._listing ^= {pod}
        self._say(f"{pod} {'lists' if pod in self._listing else 'does not list'} its links")
        if pod in self.placed:
            edited = {"ratchet.links": None, **self._annotations(pod)}
            self._cluster.bed.api.patch(f"{self._cluster.bed.pods_path}/{pod}", {"metadata": {"annotations": edited}})

    def _rename(self, pod: str) -> None:
        """Have the labels of a pod that is created again declare its link on another interface."""
        for at, wish in enumerate(self.wishes):
            if wish.primary == pod:
                plain = wish.local_ifname.removesuffix("2")
                renamed = replace(wish, local_ifname=plain if wish.local_ifname != plain else f"{plain}2")
                self._say(f"the labels of {pod} declare {renamed} instead of {wish}")
                self.wishes[at] = renamed

    def _labels(self, pod: str) -> dict[str, str]:
        if self.shape.declared is not Declared.LABELS:
            return {"ratchet": "true"}
        wish = next((one for one in self.wishes if one.primary == pod), None)
        return {"ratchet": "true", **(wish.labels if wish else {"ratchet.primary": "false"})}

    def _annotations(self, pod: str) -> dict[str, str]:
        if self.shape.declared is not Declared.LISTS and pod not in self._listing:
            return {}
        return {"ratchet.links": json.dumps([wish.listed(at) for wish, at in self._ends_of(pod)])}

    def _topology(self) -> str:
        return json.dumps([wish.drawn(swapped=wish.number in self._swapped) for wish in self.wishes])

    def _ends_of(self, pod: str) -> list[tuple[Wish, int]]:
        return [(wish, at) for wish in self.wishes for at in (0, 1) if wish.endpoints[at][0] == pod]

    def _is_declared(self, wish: Wish, at: int) -> bool:
        """Whether something that exists declares a link whose pod of endpoint `at` exists."""
        return self.shape.declared is not Declared.LABELS or at == 0 or wish.primary in self.placed

    # Pods and sandboxes

    def create(self, pod: str, node: str) -> None:
        self._say(f"create {pod} on {node}")
        created = self._cluster.bed.create_pod(pod, self._labels(pod), node, self._annotations(pod))
        self.placed[pod] = Placed(created, node)

    def start(self, pod: str, patience: Patience, *, background: bool) -> None:
        """A first sandbox for a pod, or a new one in the place of one that is no more."""
        placed = self.placed[pod]
        life = placed.life = Life(self._kubelet(placed.node).make_sandbox(placed.ref), placed.node)
        self._lives.append(life)
        self._say(f"ADD {life}, which {patience}")
        life.adding = self._kubelet(life.node).start("ADD", life.sandbox, config=patience.config)
        if not background and self._answers(life.node):
            self._finish_adding(life)

    def restart(self, pod: str, old: Old, patience: Patience, *, background: bool, lingers: bool) -> None:
        """Another sandbox for a pod that has one."""
        before = self._current(pod)
        self._replace(before, old, lambda: self.start(pod, patience, background=background), lingers=lingers)

    def try_again(self, pod: str, patience: Patience = Patience.NONE) -> bool:
        """Do as a kubelet does once an ADD is over: where it failed, DEL and a new sandbox. Whether it had to."""
        life = self._current(pod)
        if life.adding is not None and not self._answers(life.node) and life.node not in self.down:
            return False  # who waits for an agent that is not let work waits long
        self._finish_adding(life)
        if life.runs:
            return False
        self._delete(life, lingers=False)
        self.start(pod, patience, background=False)
        return True

    def kill_call(self, pod: str) -> None:
        """The runtime's deadline is over, or the runtime itself: SIGKILL for the ADD that it waits for."""
        life = self._current(pod)
        if life.adding is not None:
            self._say(f"SIGKILL the ADD of {life}")
            life.adding.kill()
            self._finish_adding(life)

    def remove(self, pod: str, old: Old, *, lingers: bool) -> None:
        """A pod deleted: its object goes when the kubelet is done with it, or before."""
        placed = self.placed.pop(pod)

        def go() -> None:
            self._say(f"delete {pod}")
            self._history.gone.add(placed.ref.uid)
            self._cluster.bed.delete_pod(placed.ref)

        self._replace(placed.life, old, go, lingers=lingers)

    def move(
        self,
        pod: str,
        node: str,
        old: Old,
        patience: Patience,
        *,
        background: bool,
        started: bool,
        lingers: bool,
        renamed: bool,
    ) -> None:
        """A pod deleted and made again under its name, on whichever node; `started` if it has its sandbox at once.

        `renamed`: its labels declare another interface from now on. Only where no old sandbox waits for its DEL: that
        one may hold the link's old end until then.
        """
        before = self.placed[pod]
        held = any(life.sandbox.pod.name == pod for life in self.owed)
        may_rename = self.shape.declared is Declared.LABELS and old in (Old.DELETED, Old.DELETED_TWICE) and not held

        def come_again() -> None:
            self._say(f"delete {pod}")
            self._history.gone.add(before.ref.uid)
            self._cluster.bed.delete_pod(before.ref)
            if renamed and may_rename:
                self._rename(pod)
            self.create(pod, node)
            if started:
                self.start(pod, patience, background=background)

        self._replace(before.life, old, come_again, lingers=lingers)

    def delete_late(self, index: int, *, lingers: bool) -> None:
        life = self.owed.pop(index % len(self.owed))
        self._delete(life, lingers=lingers)
        self.deleted.append(life)

    def delete_again(self, index: int) -> None:
        """A DEL that comes once more, without a namespace, as from containerd."""
        self._delete(self.deleted[index % len(self.deleted)], again=True, lingers=False)

    def _replace(self, before: Life | None, old: Old, act: Callable[[], None], *, lingers: bool) -> None:
        if before is None:
            act()
            return
        if old in (Old.DELETED, Old.DELETED_TWICE):
            self._delete(before, lingers=lingers)
        if old is Old.DELETED_TWICE:
            self._delete(before, again=True, lingers=lingers)
        if old is Old.DELETED_MEANWHILE:
            self._delete(before, background=True, lingers=lingers)
        (self.owed if old is Old.LATE else self.deleted).append(before)
        act()

    def _delete(self, life: Life, *, background: bool = False, again: bool = False, lingers: bool) -> None:
        self._say(f"DEL {life}{' again' if again else ''}")
        changes = {"CNI_NETNS": ""} if again else {}
        process = self._kubelet(life.node).start("DEL", life.sandbox, **changes)
        life.deletes += 1
        one = (process, life, lingers)
        self._deleting.append(one)
        if not background and (self._answers(life.node) or life.node in self.down):
            self._finish_deleting(one)

    def _finish_adding(self, life: Life) -> None:
        if life.adding is not None:
            process, life.adding = life.adding, None
            life.added = finished(process, CALL_SECONDS)
            if life.added.status == 0:
                life.sandbox.result = life.added.json
            told = "" if life.added.status == 0 else f": {life.added.status}: {life.added.stdout.strip()}"
            self._say(f"  ADD {life} is over{told}")

    def _finish_deleting(self, one: tuple[subprocess.Popen[str], Life, bool]) -> None:
        process, life, lingers = one
        answer = finished(process, CALL_SECONDS)
        self._deleting.remove(one)
        self._say(f"  DEL {life} is over")
        assert (answer.status, answer.stdout) == (0, ""), f"DEL of {life}: {answer}"
        life.deleted = True
        if not lingers:
            self._remove_namespace(life)

    def _remove_namespace(self, life: Life) -> None:
        if life.there:
            life.there = False
            self._cluster.bed.hosts.remove_namespace(life.sandbox.netns)

    # Agents, the API, garbage, interfaces

    def end_agent(self, node: str, *, kill: bool) -> None:
        self._say(f"{'SIGKILL' if kill else 'SIGTERM'} the agent of {node}")
        agent = self._cluster.bed.agents[node]
        agent.kill() if kill else agent.stop()
        self.down.add(node)
        self.paused.discard(node)
        self._crashed = True

    def start_agent(self, node: str, *, patiently: bool) -> None:
        self._say(f"start the agent of {node}{' and wait for it' if patiently else ''}")
        agent = self._cluster.bed.agents[node]
        agent.start() if patiently else agent.launch()
        self.down.discard(node)

    def pause(self, node: str) -> None:
        self._say(f"SIGSTOP for the agent of {node}")
        self._cluster.bed.agents[node].pause()
        self.paused.add(node)

    def resume(self, node: str) -> None:
        self._say(f"SIGCONT for the agent of {node}")
        self._cluster.bed.agents[node].resume()
        self.paused.discard(node)

    def disturb(self, node: str, fault: Fault, first: int, times: int) -> None:
        self._say(f"{node}: {fault}, {times} times from the {first}th on")
        self._crashed = True
        address = self._kubelet(node).host.address

        def matches(sent: Sent) -> bool:
            ours = sent.remote == address and "watch=1" not in sent.path and "/leases/node-" not in sent.path
            return ours and (sent.writes or fault is not Fault.REPLY_LOST)

        before, after = _ACTS[fault]
        self._cluster.faults.add(Rule(matches, before=before, after=after, first=first, times=times))

    def begin_outage(self, node: str, outage: Outage) -> None:
        self._say(f"{node}: {outage}")
        self._crashed = True
        address = self._kubelet(node).host.address

        def matches(sent: Sent) -> bool:
            return sent.remote == address and (outage is Outage.CUT_OFF or "watch=1" in sent.path)

        self._cluster.faults.add(Rule(matches, before=dropping, times=1 << 30))
        self._ears.cut(address)
        if outage is Outage.CUT_OFF:
            self.outages.add(node)

    def end_faults(self) -> None:
        self._say("the API is as ever")
        self._cluster.faults.rules.clear()
        self.outages.clear()

    def collect(self, grace: float) -> None:
        """One pass of garbage collection."""
        records = self._cluster.bed.records
        found = list(collect_garbage(records, now=lambda: datetime.now(UTC), grace=timedelta(seconds=grace)))
        self._say(f"gc, sparing {grace:g} s: {[str(one) for one in found]}")
        for placed in self.placed.values():
            taken = [str(one) for one in found if placed.ref.uid in one.reason]
            assert not taken, f"garbage collection took {placed.ref}, which is alive: {taken}"

    def mar(self, pod: str, index: int) -> None:
        """Somebody removes an interface in a pod by hand."""
        life = self._current(pod)
        wish, at = self._ends_of(pod)[index % len(self._ends_of(pod))]
        ifname = wish.endpoints[at][1]
        self._say(f"remove {ifname} of {life} by hand")
        with suppress(RatchetError):  # it is not there
            ip("-n", life.sandbox.netns, "link", "del", ifname)
            self._marred.add(wish.number)

    # Quiet points

    def settle(self) -> None:
        """Everything runs again; once it is quiet, all that must hold holds."""
        self._say("settle")
        self._everything_works()
        for one in self._deleting.copy():
            self._finish_deleting(one)
        for life in self._lives:
            self._finish_adding(life)
        for pod, placed in self.placed.items():
            if placed.life is not None:
                self._have_it_run(pod)
        self._look_at_marred()
        if self.shape.declared is Declared.TOPOLOGY:  # the order of endpoints means nothing, so links stay as they are
            self.swap_endpoints(self._settled)
        self._settled += 1
        self._wait_until_quiet()
        self._history.buried |= {life.id for life in self._lives if life.deleted}
        for life in self._lives:
            if life.deleted:
                self._remove_namespace(life)
        self._say("  quiet")

    def finish(self) -> None:
        """After a quiet point all is deleted, and nothing is left."""
        self.settle()
        self._say("the end")
        for life in self._lives:
            if not life.deletes:
                self._delete(life, background=True, lingers=False)
        for one in self._deleting.copy():
            self._finish_deleting(one)
        for placed in self.placed.values():
            self._history.gone.add(placed.ref.uid)
            self._cluster.bed.delete_pod(placed.ref)
        self.placed.clear()
        wait_for("the end of every record", lambda: not self._cluster.bed.links())
        if self._crashed:  # an agent may have ended between a record's end and its Lease's
            self.collect(0.0)
        self._cluster.assert_nothing_left()
        assert not (faults := self._history.violations()), faults

    def abandon(self) -> None:
        """End what was started, whatever has become of it."""
        for process in [one.adding for one in self._lives if one.adding] + [one[0] for one in self._deleting]:
            process.kill()
            process.communicate()

    def _everything_works(self) -> None:
        if self._cluster.faults.rules:
            self.end_faults()
        for node in sorted(self.paused):
            self.resume(node)
        for node in sorted(self.down):
            self.start_agent(node, patiently=False)
        for node in NODES:
            self._cluster.bed.agents[node].wait_until_serving()

    def _have_it_run(self, pod: str) -> None:
        for _ in range(ADDS):
            if not self.try_again(pod):
                return
        raise AssertionError(f"{pod} does not start")

    def _look_at_marred(self) -> None:
        """Have the agents look at links: by themselves they do every half a minute."""
        marred = [wish for wish in self.wishes if wish.number in self._marred]
        for name, record in self._records().items():
            if any(wish.is_of(record) for wish in marred):
                touch(self._cluster.bed, name)
        self._marred.clear()

    def _wait_until_quiet(self) -> None:
        until = time.monotonic() + QUIET_SECONDS
        while problems := self.problems():
            assert time.monotonic() < until, f"not so after {QUIET_SECONDS:.0f} s of quiet: {problems}"
            time.sleep(0.05)
        assert not (faults := self._history.violations()), faults

    # What must hold when it is quiet

    def problems(self) -> list[str]:
        """What is not, or not yet, as it must be once nothing happens any more."""
        records = self._records()
        shown = {life.id: _interfaces(life) for life in self._lives if life.there}
        found = [f"{node}: DELs wait in the spool" for node in NODES if self._spooled(node)]
        for wish in self.wishes:
            own = [records.pop(name) for name, one in list(records.items()) if wish.is_of(one)]
            if len(own) > 1:
                found.append(f"{wish} has {len(own)} records: {[one.name for one in own]}")
            found += self._of_link(wish, own[0] if own else None, shown)
        found += [f"{name} is nobody's wish" for name in records]
        found += self._of_other_interfaces(shown)
        for life in self._lives:
            if life.deleted and (left := shown.get(life.id)):
                found.append(f"{life} was deleted and still has {sorted(left)}")
        return found or [f"no ping from {wish.primary} to {wish.pair}" for wish in self.wishes if not self._pings(wish)]

    def _records(self) -> dict[str, Link]:
        return {name: one for name, one in self._cluster.bed.links().items() if one.namespace == self.namespace}

    def _of_link(self, wish: Wish, record: Link | None, shown: Mapping[str, Mapping[str, Json]]) -> Iterator[str]:
        alive = [self._alive(pod) for pod, _ in wish.endpoints]
        known = {life.id: life for life in self._lives}
        for at, life in enumerate(alive):
            held = record is not None and life is not None and _holds(wish.end_in(record, at), life)
            if life is not None and self._is_declared(wish, at) and not held:
                yield f"{wish} has not {life} at {wish.endpoints[at][1]}"
        for end in _ends(record) if record else ():
            sandbox = end.sandbox
            if sandbox is not None and ((holder := known.get(sandbox.container_id)) is None or holder.deleted):
                yield f"{wish} has {sandbox.container_id[:6]}, which was deleted, at {end.ifname}"
        for life in self._lives:
            for at, (pod, ifname) in enumerate(wish.endpoints):
                device = shown.get(life.id, {}).get(ifname)
                if device is not None and life.sandbox.pod.name == pod:
                    yield from self._of_device(life, wish, at, device, record)
        if record is not None and all(alive) and derive(record) is not State.LINKED:
            yield f"{wish} is {derive(record)}"

    def _of_device(self, life: Life, wish: Wish, at: int, device: Json, record: Link | None) -> Iterator[str]:
        """Of an end that is there in a sandbox."""
        what = f"{device['ifname']} of {life}"
        carrier = "LOWER_UP" in device["flags"]
        if record is None or not _holds(wish.end_in(record, at), life):
            if carrier:
                yield f"{what} has carrier, and {wish} does not hold that sandbox"
            return
        if carrier and wish.end_in(record, 1 - at).sandbox is None:
            yield f"{what} has carrier and no peer"
        if derive(record) is State.LINKED:
            if not carrier:
                yield f"{what} has no carrier"
            if device["linkinfo"]["info_kind"] != record.kind:
                yield f"{what} is no {record.kind}"
            elif record.kind is Kind.VXLAN and device["linkinfo"]["info_data"]["id"] != record.vni:
                yield f"{what} has not VNI {record.vni}"

    def _of_other_interfaces(self, shown: Mapping[str, Mapping[str, Json]]) -> Iterator[str]:
        """Of interfaces in sandboxes that run which no declared link has."""
        for pod in self.placed:
            life = self._alive(pod)
            if life is not None:
                wished = {wish.endpoints[at][1] for wish, at in self._ends_of(pod)}
                yield from (f"{life} has {ifname}, which no link has" for ifname in shown[life.id].keys() - wished)

    def _pings(self, wish: Wish) -> bool:
        """Whether the ends reach each other, where both are alive."""
        primary, pair = self._alive(wish.primary), self._alive(wish.pair)
        if primary is None or pair is None:
            return True
        return self._cluster.pings(primary.sandbox, wish.address(1))

    def _alive(self, pod: str) -> Life | None:
        """The sandbox that is a pod's own and runs."""
        placed = self.placed.get(pod)
        return placed.life if placed and placed.life and placed.life.runs else None

    def _spooled(self, node: str) -> bool:
        spool = self._cluster.bed.agents[node].spool
        return spool.is_dir() and any(path.is_file() for path in spool.iterdir())

    # For people

    def report(self) -> str:
        """What was done and when, what there is, and the ends of the agents' logs."""
        records = [
            f"{one.name}: {derive(one)} vni={one.vni} "
            + " ".join(f"{end.name}:{end.ifname}={end.sandbox} stands={end.ready}" for end in _ends(one))
            for one in self._cluster.bed.links().values()
        ]
        parts = [
            f"What was done, in {self.namespace} (seconds):\n" + "\n".join(self._story),
            "Records:\n" + "\n".join(records),
            *(f"The end of the log of agent {node}:\n{self._log_end(node)}" for node in NODES),
        ]
        return "\n\n".join(parts)

    def _say(self, what: str) -> None:
        self._story.append(f"{time.monotonic() - self._began:7.2f} {what}")

    def _log_size(self, node: str) -> int:
        return self._cluster.bed.agents[node].log.stat().st_size

    def _log_end(self, node: str) -> str:
        text = self._cluster.bed.agents[node].log.read_bytes()[self._log_from[node] :].decode(errors="replace")
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def _current(self, pod: str) -> Life:
        life = self.placed[pod].life
        assert life is not None
        return life

    def _kubelet(self, node: str) -> Kubelet:
        return self._cluster.bed.kubelets[node]

    def _answers(self, node: str) -> bool:
        """Whether a call is served in no time."""
        return node not in self.down | self.paused | self.outages


async def _slowly(_: web.Request) -> None:
    await asyncio.sleep(0.3)


_ACTS: dict[Fault, tuple[Act | None, Act | None]] = {
    Fault.REPLY_LOST: (None, dropping),
    Fault.REQUEST_LOST: (dropping, None),
    Fault.BUSY: (answering(429, "TooManyRequests"), None),
    Fault.SLOW: (_slowly, None),
}


def _interfaces(life: Life) -> dict[str, Json]:
    """A sandbox's interfaces by name, all of them ours."""
    shown = json.loads(ip("-j", "-d", "-n", life.sandbox.netns, "link", "show"))
    return {one["ifname"]: one for one in shown if one["ifname"] != "lo"}
