"""A link whose declaration is edited while its pods run: agents, and DEL and ADD of a restarting pod.

The code is the real `add`, `delete`, `Membership` and `LinkController`. The declarations of the namespace are constant
during a search. An agent is idle while a pass over a link would change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from ratchet.agent.controller import LinkController
from ratchet.agent.failures import EndFailures
from ratchet.agent.handover import Handover
from ratchet.agent.liveness import SandboxLiveness
from ratchet.agent.membership import Membership
from ratchet.cni.command import Command
from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import Wanted, WantedLink, wanted_links
from ratchet.core.interface import CABLE, DEFAULT_TXQLEN
from ratchet.core.kinds import Wiring
from ratchet.core.model import End, Link, Side, State
from ratchet.core.pod import Pod, PodRef, Topology
from ratchet.core.sandbox import Sandbox
from ratchet.core.state_machine import derive
from ratchet.errors import RatchetError
from ratchet.node.add import add
from ratchet.node.call import Call
from ratchet.node.delete import delete
from ratchet.node.overrides import NO_OVERRIDES
from ratchet.store.formats import RecordFormats
from ratchet.store.interface import Store
from ratchet.store.links import LinkStore
from ratchet.store.pods import PodList, PodStore
from ratchet.store.store import ApiStore
from ratchet.store.topologies import TopologyList, TopologyStore
from tests.protocol.asking import FakeApi, FakeJournal, Request, ask, run_by
from tests.protocol.exploring import END, Process, Search
from tests.protocol.namespaces import netns_path
from tests.protocol.scenes import (
    NAMESPACE,
    RECORDS,
    VNIS,
    Expectation,
    UnobservableRequests,
    cached_for_test,
    link_of,
    operated,
    plain_call,
    sandbox_of,
    scene_underlay,
    set_up_as_recorded,
)
from tests.protocol.world import Actor, World, perform

Outcome = TypeVar("Outcome")
Thing = TypeVar("Thing")

DOUBLY_HELD = "two links have one end"
CUT_WHILE_RUNNING = "the old link does not stand while its pods run"
NOT_LINKED = "the new link is not linked"
OTHER_INTERFACES = "there are other interfaces than those of the new link"
OLD_LINK_LEFT = "the old link is left"
UNTAKEN = "an end sends to a UDP port from which its peer does not take"
CABLE_LOST = "an interface in panel wiring is gone"


@dataclass(frozen=True, eq=False)
class Declared:
    """The pods of the namespace, and the links of a topology as pairs of `pod:interface`.

    `properties` are those of each link, as in `mtu: 1400`.
    """

    pods: tuple[Pod, ...]
    topology: tuple[tuple[str, str], ...] = ()
    properties: str = "on_edit: restart, wiring: direct"

    @property
    def topologies(self) -> list[Topology]:
        text = "\n".join(f'- {{endpoints: ["{near}", "{far}"], {self.properties}}}' for near, far in self.topology)
        return [Topology(NAMESPACE, "lab", text)] if self.topology else []

    def wanted(self, reserved: frozenset[str] = frozenset({"eth0"})) -> Wanted:
        return _wanted(self, reserved)

    def link(self) -> str:
        """The name of the only link."""
        (only,) = self.wanted().links
        return only.link.name

    def pod(self, name: str) -> Pod:
        return next(pod for pod in self.pods if pod.ref.name == name)


@cached_for_test
def _wanted(declared: Declared, reserved: frozenset[str]) -> Wanted:
    return wanted_links(declared.pods, reserved, topologies=declared.topologies)


def pod_of(name: str, node: str, number: int = 1, links: str = "") -> Pod:
    """A pod that asks for links. `number` distinguishes pods of one name. `links` is its annotation."""
    annotations = {"ratchet.links": links} if links else {}
    return Pod(PodRef(NAMESPACE, name, f"{name}-{number}"), {"ratchet": "true"}, annotations, node)


def announcing(*leases: NodeLease, earlier: bool = False) -> Any:
    """A store that lists these node Leases. `earlier`: records of schema 1 exist."""
    nodes, links = SimpleNamespace(list_leases=lambda: leases), SimpleNamespace(has_earlier=lambda: earlier)
    return SimpleNamespace(nodes=nodes, links=links)


class UncachedLinks(LinkStore):
    """Records that are always read from the API, even where an agent would use its cache."""

    @property
    def cache(self) -> Any:
        return SimpleNamespace(get=self.get)


class DeclaredPods(PodStore):
    """A pod store that contains the declared pods."""

    def __init__(self, declared: Declared) -> None:
        super().__init__(FakeApi())
        self._declared = declared

    def get(self, namespace: str, name: str) -> Pod | None:
        return next((pod for pod in self._declared.pods if pod.ref.name == name), None)

    def is_cached(self, pod: PodRef) -> bool:
        found = self.get(pod.namespace, pod.name)
        return found is not None and found.ref == pod

    def list(self, namespace: str | None = None) -> PodList:
        return list(self._declared.pods)


class DeclaredTopologies(TopologyStore):
    """A topology store that contains the declared topologies."""

    def __init__(self, declared: Declared) -> None:
        super().__init__(FakeApi())
        self._declared = declared

    def list(self, namespace: str) -> TopologyList:
        return self._declared.topologies


class DeclaredRecords(ApiStore):
    """A store with constant declarations. Each record is read from the API."""

    def __init__(self, declared: Declared) -> None:
        formats = RecordFormats()
        formats.read(announcing())
        super().__init__(FakeApi(), "ratchet", VNIS, formats=formats)
        self._declared = declared
        self.links = UncachedLinks(self.api, self.namespace, self.vnis)
        self.pods = DeclaredPods(declared)
        self.topologies = DeclaredTopologies(declared)

    def wanted_for(self, pod: Pod, reserved: frozenset[str]) -> Wanted:
        return self._declared.wanted(reserved)

    def watch_wanted(self, pod: Pod, reserved: frozenset[str], seconds: float, until: float) -> Iterator[Wanted]:
        yield self._declared.wanted(reserved)

    def resolve(
        self, pod: Pod, pods: Collection[Pod], topologies: Collection[Topology], reserved: frozenset[str]
    ) -> Wanted:
        return self._declared.wanted(reserved).of(pod)


# The processes


def _call(command: Command, sandbox: Sandbox, declared: Declared, store: Callable[[Declared], Store]) -> Call:
    call = plain_call(command, sandbox, FakeJournal(), store(declared))
    return replace(call, require=False)


def starting(
    sandbox: Sandbox,
    declared: Declared,
    *,
    after: str = "",
    killable: bool = False,
    store: Callable[[Declared], Store] = DeclaredRecords,
) -> Process:
    """ADD of a sandbox that replaces the sandbox `after`. The agent completes links that must wait."""

    def start() -> str:
        ask("birth", sandbox.container_id, after)
        return "add"

    def run() -> str:
        with _call_in_progress(sandbox.container_id), suppress(RatchetError):
            add(_call(Command.ADD, sandbox, declared, store))
        return END

    stages = {"start": start, "add": run}
    return Process(f"ADD {sandbox.container_id}", sandbox.node, stages, "start", killable=killable)


@contextmanager
def _call_in_progress(container_id: str) -> Iterator[None]:
    """Within the block, the agent sees that an ADD runs for the container."""
    ask("lock", f"call/{container_id}")
    try:
        yield
    finally:
        ask("unlock", f"call/{container_id}")


def ending(sandbox: Sandbox, declared: Declared, *, times: int = 1, name: str = "DEL") -> Process:
    """The runtime's DEL of a sandbox, repeated `times` times."""

    def calling(left: int) -> str:
        delete(_call(Command.DEL, sandbox, declared, DeclaredRecords))
        return str(left) if left else END

    stages = {str(left): partial(calling, left - 1) for left in range(times, 0, -1)}
    return Process(f"{name} {sandbox.container_id}", sandbox.node, stages, str(times))


def worker(
    node: str,
    links: Sequence[str],
    declared: Declared,
    number: int = 0,
    store: Callable[[Declared], Store] = DeclaredRecords,
) -> Process:
    """A worker of a node's agent that reconciles these links and never ends."""
    pending = _pending_links(node, tuple(links), declared, store)

    def work() -> str:
        reconcile(node, declared, ask("choose", pending), store)
        return "work"

    return Process(f"agent {node} {number or ''}".strip(), node, {"work": work}, "work")


class Calls:
    """The calls that the agent serves: the ADDs of `starting`."""

    def is_adding(self, container_id: str) -> bool:
        return bool(ask("held", f"call/{container_id}"))


def reconcile(node: str, declared: Declared, link: str, source: Callable[[Declared], Store] = DeclaredRecords) -> None:
    """Reconcile the membership of the declared pods on a node, then the node's ends of a link."""
    journal, records = FakeJournal(), cast(Any, source(declared))
    nothing: Any = None
    announcer: Any = SimpleNamespace(event=lambda *_: None, condition=lambda *_: None)

    queue: Any = SimpleNamespace(enqueue_link=lambda _: None, enqueue_pod=lambda *_: None)
    calls = Calls()
    underlays: Any = lambda *_: replace(scene_underlay(node), has_agent=True)  # noqa: E731
    membership = Membership(journal, records, announcer, calls, queue, Handover(node, records, underlays))
    controller = LinkController(
        node=node,
        journal=journal,
        store=records,
        underlays=underlays,
        failures=EndFailures(records, journal, announcer),
        calls=calls,
        membership=membership,
        liveness=SandboxLiveness(node, journal, records, calls),
        lost_peers=nothing,
        status=nothing,
        queue=queue,
        operation_status=cast(Any, SimpleNamespace(operations=NO_OVERRIDES)),
    )
    for pod in declared.pods:
        with suppress(RatchetError):
            membership.reconcile(NAMESPACE, pod.ref.name)
    with suppress(RatchetError):
        for entry, end in journal.holding(link):
            if calls.is_adding(entry.attachment.container_id):
                continue
            if not (membership.may_remove(entry, end) and membership.remove_undeclared(entry, end)):
                controller._reconcile_end(entry, end)
            controller.liveness.remove_dead(link, entry)


class Alone:
    """Runs code without concurrent processes, from one world to the next."""

    def __init__(self, world: World, node: str) -> None:
        self.world = world._replace(stale_reads=frozenset())
        self.node = node

    def run(self, act: Callable[[], object]) -> World:
        with run_by(self):
            act()
        return self.world

    def ask(self, request: Request) -> Any:
        self.world, answer = perform(self.world, Actor(-1, self.node), request)[0]
        return answer

    def retry_on_conflict(self, decide: Callable[[], Outcome]) -> Outcome:
        return decide()

    def map_concurrently(self, act: Callable[[Thing], Outcome], things: Sequence[Thing]) -> list[Outcome]:
        return [act(thing) for thing in things]

    def clock(self) -> float:
        return 0.0


def _pending_links(
    node: str, links: Sequence[str], declared: Declared, store: Callable[[Declared], Store]
) -> Callable[[World, Actor], Iterator[str]]:
    """The links that a pass would change if no other process were running."""
    changing_links: dict[World, tuple[str, ...]] = {}

    def changing(world: World, _: Actor) -> Iterator[str]:
        calls = frozenset(lock for lock in world.locks if lock[1].startswith("call/"))
        bare = world._replace(stale_reads=frozenset(), locks=calls)
        if bare not in changing_links:
            runs = {link: partial(reconcile, node, declared, link, store) for link in links}
            passes = ((link, Alone(bare, node).run(run)) for link, run in runs.items())
            changing_links[bare] = tuple(link for link, after in passes if after != bare)
        yield from changing_links[bare]

    return changing


# The scene

_SANDBOX_REQUESTS = ("read", "write", "change_ends", "of_container")


@dataclass(frozen=True)
class Edit:
    """An edit that replaces the link declared `before` by the one declared `after`.

    The old link is up between the sandboxes `first` and `left`. The pod of `first` restarts as `second`. The new link
    is between `second` and `other`.

    - `killed`: ADD of `second` may be killed.
    - `late_del`: DEL of `first` comes twice. `concurrent_del`: another DEL of `first` runs concurrently.
    - `workers`: with two, each link has its own worker on every node.
    - `peer_absent`: `other` has not started.
    - `restarted`: DEL of `first` and ADD of `second` have ended, so only the agents act.
    - `running`: `first` keeps running, and only the agents act.
    - `live`: `first` keeps running and follows the edit, so `second` is `first`.
    """

    before: Declared
    after: Declared
    first: Sandbox
    second: Sandbox
    left: Sandbox
    other: Sandbox
    killed: bool = False
    late_del: bool = False
    concurrent_del: bool = False
    workers: int = 1
    peer_absent: bool = False
    restarted: bool = False
    running: bool = False
    live: bool = False
    _names: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", (self.before.link(), self.after.link()))

    @property
    def nodes(self) -> list[str]:
        return sorted({one.node for one in (self.first, self.second, self.left, self.other)})

    def world(self) -> World:
        """The initial world: the old link is up, and `other` waits in the new one."""
        world = World()
        for sandbox in (self.first, self.left):
            world = started(world, sandbox, self.before)
        for _ in range(2):
            for node in self.nodes:
                world = Alone(world, node).run(partial(reconcile, node, self.before, self._names[0]))
        if self.other != self.left and not self.peer_absent:
            world = started(world, self.other, self.after)
        if self.restarted:
            world = Alone(world, self.first.node).run(ending(self.first, self.after).stages["1"])
            world = started(world, self.second, self.after)
        return world

    def search(self) -> Search:
        processes = [] if self.restarted or self.running or self.live else self._calls()
        names = tuple(dict.fromkeys(self._names))
        for node in self.nodes:
            shares = [names] if self.workers == 1 else [names[:1], names[1:]]
            processes += [worker(node, share, self.after, number) for number, share in enumerate(shares)]
        return Search(
            self.world(), processes, Expectation().check, self._is_unobservable(), check_world=self._check_world
        )

    def _calls(self) -> list[Process]:
        found = [
            starting(self.second, self.after, after=self.first.container_id, killable=self.killed),
            ending(self.first, self.after, times=2 if self.late_del else 1),
        ]
        return [*found, ending(self.first, self.after, name="DEL at once")] if self.concurrent_del else found

    def _is_unobservable(self) -> Callable[[World, Actor, Request], bool]:
        """As `UnobservableRequests`, and journal requests that only one worker makes.

        With one worker per node, these concern sandboxes that are not restarted, and nodes on which no call runs.
        """
        unobservable = UnobservableRequests(frozenset({self.first.container_id}), frozenset())
        private = {self.left.container_id, self.other.container_id} if self.workers == 1 else set()
        busy_nodes = set() if self.restarted else {self.first.node, self.second.node}
        quiet_nodes = set(self.nodes) - busy_nodes if self.workers == 1 else set()

        def is_unobservable(world: World, actor: Actor, request: Request) -> bool:
            name = request[0]
            if name == "is_there":
                return True
            if name in ("entries", "held", "cookie") or (name in _SANDBOX_REQUESTS and actor.node in quiet_nodes):
                return actor.node in quiet_nodes
            if name in _SANDBOX_REQUESTS:
                return getattr(_attachment_of(request[1]), "container_id", request[1]) in private
            return unobservable(world, actor, request)

        return is_unobservable

    # The conditions

    def _check_world(self, world: World, quiet: bool) -> Iterator[str]:
        texts = {path.rpartition("/")[2]: text for path, text in world.objects if path.startswith(RECORDS)}
        records = {name: link_of(text) for name, text in texts.items()}
        yield from doubly_held(records.values())
        old, new = self._names
        held_down = operated(self.after.wanted().links[0].link).is_held_down
        if self.live and old == new and not held_down and not self._is_connected(world, texts.get(old)):
            yield CUT_WHILE_RUNNING
        if self.live and old == new and _is_untaken(world):
            yield UNTAKEN
        if self.live and records and self._lost_its_cable(world, self.after.wanted().links[0]):
            yield CABLE_LOST
        if self.first.container_id not in world.tombstones and not self.live:
            if not self._is_linked(world, texts.get(old), (self.first, self.left)):
                yield CUT_WHILE_RUNNING
        elif quiet:
            if old != new and (
                old in records or any(end.link == old for _, entry in world.entries for end in entry.ends)
            ):
                yield OLD_LINK_LEFT
            if self.live and old == new and not records[old].intends_the_same_as(self.after.wanted().links[0].link):
                yield OLD_LINK_LEFT
            if self.killed or self.peer_absent:
                return
            if not self._is_linked(world, texts.get(new), (self.second, self.other)):
                yield NOT_LINKED
            if len(world.interfaces) != 2 or self._keeps_removed_settings(world):
                yield OTHER_INTERFACES

    def _keeps_removed_settings(self, world: World) -> bool:
        """Whether an interface has a queue of another length than declared, or than a new interface."""
        lengths = {end.properties.txqlen or DEFAULT_TXQLEN for end in self._ends_after()}
        return any(one.device.txqlen not in lengths for one in world.interfaces)

    def _ends_after(self) -> tuple[End, End]:
        link = self.after.wanted().links[0].link
        return link.primary, link.pair

    def _lost_its_cable(self, world: World, wanted: WantedLink) -> bool:
        """Whether the interface of `first`, which both links have in panel wiring, is gone."""
        if wanted.wiring is not Wiring.PANEL:
            return False
        return all(one.place[0] != netns_path(self.first.container_id) for one in world.interfaces)

    @staticmethod
    def _is_connected(world: World, text: str | None) -> bool:
        """Whether both ends have their interfaces, with carrier, whatever their settings."""
        if text is None or [one.device.carrier for one in world.interfaces] != [True, True]:
            return False
        return all(link_of(text).is_connected(side) for side in Side)

    @staticmethod
    def _is_linked(world: World, text: str | None, sandboxes: tuple[Sandbox, Sandbox]) -> bool:
        if text is None or derive(link_of(text)) is not State.LINKED:
            return False
        joined = {sandbox.container_id for side in Side if (sandbox := link_of(text).sandbox(side)) is not None}
        both = {one.container_id for one in sandboxes}
        return joined == both and set_up_as_recorded(text, world.interfaces, world.namespaces)


def _is_untaken(world: World) -> bool:
    """Whether one of two cables on two nodes sends into a tunnel from which the other one does not take."""
    ends = [one for one in world.interfaces if one.device.kind == CABLE and one.device.vni is not None]
    if len({one.device.local for one in ends}) != 2:
        return False
    return not (ends[0].has_taken_by(ends[1]) and ends[1].has_taken_by(ends[0]))


def _attachment_of(about: Any) -> Any:
    return getattr(about, "attachment", about)


def started(
    world: World, sandbox: Sandbox, declared: Declared, store: Callable[[Declared], Store] = DeclaredRecords
) -> World:
    process = starting(sandbox, declared, store=store)
    for stage in ("start", "add"):
        world = Alone(world, sandbox.node).run(process.stages[stage])
    return world


def doubly_held(records: Iterable[Link]) -> Iterator[str]:
    """Fault if two records hold one interface of one sandbox."""
    held: set[tuple[str, str]] = set()
    for record in records:
        for side in Side:
            if (sandbox := record.sandbox(side)) is not None:
                end = (sandbox.container_id, record.end(side).ifname)
                if end in held:
                    yield DOUBLY_HELD
                held.add(end)


def sandbox_in(declared: Declared, name: str, number: int = 1) -> Sandbox:
    """The `number`th sandbox of a declared pod."""
    pod = declared.pod(name)
    return replace(sandbox_of(f"{name}{number}", name, pod.node), pod=pod.ref)
