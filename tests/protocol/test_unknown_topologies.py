"""Topologies that are forbidden, do not parse or have no links while a primary restarts, in every order of steps.

A topology declares one link. Its primary restarts: DEL, the pod is deleted and created again, ADD. Meanwhile the list
of topologies is forbidden, the topology does not parse, or its list has another key. The agent uses the real
`CachedStore` with caches that are not synced, so each read goes to the API.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import pytest

from ratchet.core.model import Link, State
from ratchet.core.pod import Pod
from ratchet.core.state_machine import derive
from ratchet.store.cached_store import CachedStore
from ratchet.store.caches import Caches, PodCache
from ratchet.store.formats import RecordFormats
from ratchet.store.link_cache import LinkCache
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.vni import VniAllocator
from tests.protocol.asking import FakeApi, Request, ask
from tests.protocol.editing import (
    Alone,
    Declared,
    announcing,
    doubly_held,
    ending,
    pod_of,
    reconcile,
    sandbox_in,
    started,
    starting,
    worker,
)
from tests.protocol.exploring import END, Process, Report, Search, assert_no_fault
from tests.protocol.mutations import treating_forbidden_as_empty, treating_unreadable_as_undeclared
from tests.protocol.namespaces import netns_path
from tests.protocol.scenes import (
    NAMESPACE,
    RECORDS,
    VNIS,
    Expectation,
    UnobservableRequests,
    link_of,
    set_up_as_recorded,
)
from tests.protocol.world import Actor, World, perform
from tests.support.lanes import with_thorough

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
TOPOLOGIES = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
LAB = '- {endpoints: ["x:in1", "y:in1"], wiring: direct}'
UNCLOSED = LAB.removesuffix("}")
CUT_SHORT = '- {endpoints: ["x:in1", '  # the text no longer names the running pod

END_REMOVED = "the end of a running pod is given up"
NOT_LINKED = "the restarted primary is not linked"


class EmptyLinkCache(LinkCache):
    """A link cache that stays empty, so that a repeated decision (`Replay.retry_on_conflict`) reads again."""

    def put(self, link: Link) -> None: ...


class ListedRecords(CachedStore):
    """The store of an agent without synced caches. It reads declarations from the API."""

    def __init__(self, _: Declared) -> None:
        formats = RecordFormats()
        formats.read(announcing())
        cache = NamespaceCache(with_topologies=True)
        notifier, vnis, addresses = KeyedNotifier(), VniAllocator(), NodeAddressCache()
        caches = Caches(EmptyLinkCache(), PodCache(), lambda _: cache, notifier, vnis, addresses, formats)
        super().__init__(FakeApi(), "ratchet", VNIS, caches)


@dataclass(frozen=True)
class Restart:
    """The primary x:in1 on node A restarts, while its pair y:in1 runs on node `pair`.

    Meanwhile, topologies are `forbidden`, or the topology has `text` under `key`. `deleted`: DEL of x has ended before.
    `wiring` replaces that of LAB.
    """

    pair: str
    deleted: bool = False
    forbidden: bool = False
    text: str = ""
    key: str = "links"
    wiring: str = "direct"

    @property
    def before(self) -> Declared:
        return self._declared(1)

    @property
    def after(self) -> Declared:
        return self._declared(2)

    def _declared(self, number: int) -> Declared:
        properties = f"on_edit: restart, wiring: {self.wiring}"
        return Declared((pod_of("x", "A", number), pod_of("y", self.pair)), (("x:in1", "y:in1"),), properties)

    def _topology(self, text: str, key: str = "links") -> tuple[str, str]:
        return _topology(text.replace("direct", self.wiring), key)

    @property
    def link(self) -> str:
        return self.before.link()

    def world(self) -> World:
        """The initial world: the link is up, and its pods and topology are in the API."""
        world = World()
        for name in ("x", "y"):
            world = started(world, sandbox_in(self.before, name), self.before)
        for _ in range(2):
            for pod in self.before.pods:
                world = Alone(world, pod.node).run(partial(reconcile, pod.node, self.before, self.link))
        for pod in self.before.pods:
            world = _put(world, *_pod(pod))
        if self.deleted:
            world = Alone(world, "A").run(ending(sandbox_in(self.before, "x"), self.before).stages["1"])
        return _put(world, *self._topology(LAB))

    def search(self) -> Search:
        processes = [self._restart(), self._outage(), self._agent()]
        return Search(
            self.world(), processes, Expectation().check, self._is_unobservable(), check_world=self._check_world
        )

    def _agent(self) -> Process:
        """The agent of the running pod's node. It reconciles the link once at any time, then as a worker does."""
        agent_worker = worker(self.pair, (self.link,), self.after, store=ListedRecords)

        def once() -> str:
            reconcile(self.pair, self.after, self.link, ListedRecords)
            return agent_worker.first

        return replace(agent_worker, stages={"once": once, **agent_worker.stages}, first="once")

    def _restart(self) -> Process:
        """The restart of x: DEL, the pod is deleted and created in the API, ADD."""
        first, second = sandbox_in(self.before, "x"), sandbox_in(self.after, "x", 2)
        delete = ending(first, self.before).stages["1"]
        add = starting(second, self.after, after=first.container_id).stages

        def end() -> str:
            delete()
            return "delete pod"

        def delete_pod() -> str:
            ask("put", f"{PODS}/x", "")
            return "create pod"

        def create_pod() -> str:
            ask("put", *_pod(self.after.pod("x")))
            return "start"

        stages = {"DEL": end, "delete pod": delete_pod, "create pod": create_pod, **add}
        return Process("restart of x", "A", stages, "delete pod" if self.deleted else "DEL")

    def _outage(self) -> Process:
        def begin() -> str:
            if self.forbidden:
                ask("forbid", TOPOLOGIES)
            else:
                ask("put", *self._topology(self.text, self.key))
            return "end"

        def end() -> str:
            if self.forbidden:
                ask("allow", TOPOLOGIES)
            else:
                ask("put", *self._topology(LAB))
            return END

        return Process("403" if self.forbidden else "editor", "", {"begin": begin, "end": end}, "begin")

    def _is_unobservable(self) -> Callable[[World, Actor, Request], bool]:
        """As `UnobservableRequests`, and journal requests on a node with only one process."""
        unobservable = UnobservableRequests(frozenset({"x1"}), frozenset())
        shared = {"A"} if self.pair == "A" else set()

        def is_unobservable(world: World, actor: Actor, request: Request) -> bool:
            if request[0] in ("entries", "held", "cookie", "read", "write", "change_ends", "of_container"):
                return actor.node not in shared
            return request[0] == "is_there" or unobservable(world, actor, request)

        return is_unobservable

    # The conditions

    def _check_world(self, world: World, quiet: bool) -> Iterator[str]:
        text = world.find(f"{RECORDS}/{self.link}")
        record = link_of(text) if text is not None else None
        yield from doubly_held([record] if record is not None else [])
        if record is None or record.side_of("y1") is None or not self._has_end(world):
            yield END_REMOVED
        elif quiet and not (
            derive(record) is State.LINKED
            and record.side_of("x2") is not None
            and set_up_as_recorded(text or "", world.interfaces, world.namespaces)
        ):
            yield NOT_LINKED

    def _has_end(self, world: World) -> bool:
        """Whether the running pod's sandbox holds its end and, for a VXLAN, has its interface.

        A vEth disappears with its peer.
        """
        ends = [end.link for _, entry in world.entries if entry.attachment.container_id == "y1" for end in entry.ends]
        there = any(one.place == (netns_path("y1"), "in1") for one in world.interfaces)
        return ends == [self.link] and (there or self.pair == "A")


def _put(world: World, path: str, text: str) -> World:
    ((after, _),) = perform(world, Actor(-1, ""), ("put", path, text))
    return after


def _pod(pod: Pod) -> tuple[str, str]:
    """The path and the text of a pod, without `kind`, as in a list."""
    metadata = {"name": pod.ref.name, "namespace": pod.ref.namespace, "uid": pod.ref.uid, "labels": dict(pod.labels)}
    return f"{PODS}/{pod.ref.name}", json.dumps({"metadata": metadata, "spec": {"nodeName": pod.node}}, sort_keys=True)


def _topology(text: str, key: str = "links") -> tuple[str, str]:
    metadata = {"name": "lab", "namespace": NAMESPACE, "labels": {"ratchet.topology": "true"}}
    return f"{TOPOLOGIES}/lab", json.dumps({"metadata": metadata, "data": {key: text}}, sort_keys=True)


SCENES = {
    "forbidden, VXLAN": Restart("B", forbidden=True),
    "forbidden, vEth": Restart("A", deleted=True, forbidden=True),
    "does not parse, VXLAN": Restart("B", text=UNCLOSED),
    "does not parse, vEth": Restart("A", deleted=True, text=UNCLOSED),
    "does not parse, the pod is not named": Restart("B", text=CUT_SHORT),
    "another key, VXLAN": Restart("B", text=LAB, key="links.yaml"),
    "another key, vEth": Restart("A", deleted=True, text=LAB, key="links.yaml"),
    "forbidden, patch": Restart("A", deleted=True, forbidden=True, wiring="panel"),
    "does not parse, VXLAN in the panel": Restart("B", text=UNCLOSED, wiring="panel"),
    "another key, VXLAN in the panel": Restart("B", text=LAB, key="links.yaml", wiring="panel"),
}
SLOW = ("forbidden, vEth", "does not parse, vEth", "does not parse, the pod is not named")


@pytest.mark.parametrize("name", with_thorough(SCENES, SLOW))
def test_no_order_of_steps_removes_an_end_whose_declaration_is_unknown(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = SCENES[name].search().run()
    print_report(report)
    assert_no_fault(report)


MUTATIONS: dict[str, tuple[Callable[[], AbstractContextManager[None]], Restart]] = {
    "forbidden is none": (treating_forbidden_as_empty, Restart("B", forbidden=True)),
    "forbidden is none, vEth": (treating_forbidden_as_empty, Restart("A", deleted=True, forbidden=True)),
    "unreadable is undeclared": (treating_unreadable_as_undeclared, Restart("B", text=UNCLOSED)),
    "unreadable is undeclared, vEth": (treating_unreadable_as_undeclared, Restart("A", deleted=True, text=UNCLOSED)),
    "unreadable is undeclared, the pod is not named": (treating_unreadable_as_undeclared, Restart("B", text=CUT_SHORT)),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_the_fault_when_unknown_counts_as_absent(
    name: str, print_report: Callable[[Report], None]
) -> None:
    mutate, scene = MUTATIONS[name]
    with mutate():
        report = scene.search().run(first_fault=True)
    print_report(report)
    assert END_REMOVED in report.faults, str(report)
