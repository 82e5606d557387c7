"""VNI Leases that are deleted, or restored with other holders, and VNIs that a node rejects.

There are two links between two nodes: `a` with a VNI, and `b` without. The agents of both nodes reconcile each end that
does not match its record, and each record that does not hold the Lease of its VNI. `ratchet gc` may run meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest

from ratchet.cni.command import Command
from ratchet.core import record_updates
from ratchet.core.garbage import ClaimDigests
from ratchet.core.interface import Device, VxlanWire
from ratchet.core.model import Link, Side, State
from ratchet.core.naming import vni_lease_name
from ratchet.core.plan import Attempt
from ratchet.core.record_updates import mark_ready, with_vni
from ratchet.core.state_machine import derive
from ratchet.errors import RatchetError
from ratchet.node import endpoint_reconcile
from ratchet.node.reconciler import Reconciler
from ratchet.node.record_writer import RecordWriter
from ratchet.store.codec.leases import encode_vni_lease, node_labels
from ratchet.store.codec.links import encode_link
from ratchet.store.store import ApiStore
from ratchet.store.vni_leases import VniLeases
from tests.protocol import scenes
from tests.protocol.asking import FakeApi, FakeJournal, ask
from tests.protocol.exploring import END, LIVELOCK, Place, Process, Report, Search, assert_no_fault, at_rest
from tests.protocol.scenes import (
    FALSE_CLAIM,
    LEASES,
    PARENTS,
    RECORDS,
    VXLAN_PORT,
    DelState,
    Rules,
    call_of,
    link_of,
    sandbox_of,
    scene_underlay,
    set_up_as_recorded,
    store_with,
    wanted_link,
    wire_as_recorded,
)
from tests.protocol.test_vnis import NOW, Broken, gc_process
from tests.protocol.world import Actor, Interface, World, new_uid, perform
from tests.support.lanes import with_thorough

RANGE = (11, 14)
FIRST = RANGE[0]
A, B = wanted_link("left", "right"), wanted_link("up", "down")
SANDBOXES = {"left": ("s1", "A"), "right": ("t1", "B"), "up": ("u1", "A"), "down": ("d1", "B")}
UID_OF_A, UID_OF_B = (new_uid("", number) for number in (0, 1))
BACKUP_UID = "uid-of-a-backup"
NODE_NAMESPACE = "node"


def records(kind: type[VniLeases] = VniLeases, api: Callable[[], FakeApi] = FakeApi) -> Callable[[], ApiStore]:
    return lambda: store_with(api(), RANGE, vnis=kind)


# The world


def joined(link: Link, vni: int | None = None) -> Link:
    """The link after both ends have joined. With a VNI, both are ready too."""
    for side in Side:
        end = link.end(side)
        name, node = SANDBOXES[end.name]
        link = link.with_end(side, replace(end, sandbox=sandbox_of(name, end.name, node)))
    if vni is None:
        return link
    link = with_vni(link, vni)
    for side in Side:
        link = mark_ready(link, side, NOW)
    return replace(link, history=())


@dataclass(frozen=True)
class InitialState:
    """The initial state of the records, Leases and interfaces.

    - `holder`: the holder of the Lease of `a`'s VNI; None if there is no such Lease.
    - `vni_of_a`, `vni_of_b`: the VNIs in the records of the links.
    - `foreign`: the VNI of a foreign VXLAN device on node A. Link `a` then has no interface there.
    - `alone`: link `b` does not exist.
    - `labelled`: the Lease has the labels of the link's nodes.
    """

    holder: str | None = None
    vni_of_a: int | None = FIRST
    vni_of_b: int | None = None
    foreign: int | None = None
    alone: bool = False
    labelled: bool = True

    def world(self) -> World:
        stored = [joined(A, self.vni_of_a), joined(B)][: 1 if self.alone else 2]
        if self.vni_of_b is not None:
            stored[1] = with_vni(stored[1], self.vni_of_b)
        objects = {}
        for link, uid in zip(stored, (UID_OF_A, UID_OF_B), strict=False):
            objects[f"{RECORDS}/{link.name}"] = _document(encode_link(link), uid)
            pods = {one.pod.name for side in Side if (one := link.sandbox(side)) is not None}
            for name in pods:
                pod = {"metadata": {"name": name, "namespace": "ns", "uid": f"{name}-1"}}
                objects[f"/api/v1/namespaces/ns/pods/{name}"] = json.dumps(pod)
        for node in ("A", "B"):
            objects[f"/api/v1/nodes/{node}"] = json.dumps({"metadata": {"name": node}})
        if self.holder is not None:
            lease = encode_vni_lease(FIRST, replace(stored[0], uid=self.holder))
            if not self.labelled:
                lease["metadata"]["labels"] = {}
            objects[f"{LEASES}/{vni_lease_name(FIRST)}"] = _document(lease, "lease")
        world = World(
            objects=tuple(sorted(objects.items())),
            uids_issued=len(stored),
            namespaces=frozenset(name for name, _ in SANDBOXES.values()),
        )
        if self.vni_of_a is not None:
            for side in Side if self.foreign is None else [Side.PAIR]:
                ((world, _),) = perform(world, Actor(0, ""), ("ensure", wire_as_recorded(stored[0], side)))
        if self.foreign is not None:
            world = world._replace(interfaces=world.interfaces | {_foreign(self.foreign)})
        return world


def _document(document: Any, uid: str) -> str:
    document["metadata"] |= {"uid": uid, "resourceVersion": "seen"}
    return json.dumps(document, sort_keys=True)


def _foreign(vni: int) -> Interface:
    address = PARENTS["A"].address
    device = Device("calico", 9, "vxlan", False, True, 1450, "", vni=vni, local=address, port=VXLAN_PORT)
    return Interface((NODE_NAMESPACE, "calico"), device)


# The processes


def agent(node: str, broken: Broken) -> Process:
    """A node's agent, which asserts the VNIs of its links and reconciles its ends."""
    needs = _needs(node)

    def reconcile() -> str:
        task, text, side = ask("choose", needs)
        record = link_of(text)
        attempt = Attempt(replace(record, uid="", resource_version=""), side, _present(record, side), lasting=True)
        with suppress(RatchetError):
            if task == "VNI":
                with FakeJournal().lock(record.name):
                    RecordWriter(broken.store()).assert_vni(record.name)
            else:
                call = call_of(attempt, Command.ADD, Rules())
                reconciler = Reconciler(broken.store(), call.journal, DelState())
                reconciler.reconcile(attempt, scene_underlay(node), joined=True)
        return "reconcile"

    return Process(f"agent {node}", node, {"reconcile": reconcile}, "reconcile")


def _present(record: Link, side: Side) -> Any:
    sandbox = record.sandbox(side)
    assert sandbox is not None
    return sandbox


@cache
def _needs(node: str) -> Callable[[World, Actor], Iterator[tuple[str, str, Side]]]:
    def needs(world: World, _: Actor) -> Iterator[tuple[str, str, Side]]:
        for path, text in world.objects:
            if not path.startswith(RECORDS):
                continue
            record = link_of(text)
            for side in Side:
                if _present(record, side).node != node:
                    continue
                if record.vni is not None and not _is_held_with_labels(world, record):
                    yield "VNI", text, side
                if scenes._needs(node, side, text, frozenset(), world.interfaces, world.namespaces):
                    yield "end", text, side

    return needs


def lease_delete_process() -> Process:
    """A user deletes the Lease of `a`'s VNI at any time."""

    def start() -> str:
        with suppress(RatchetError):
            ask("delete", f"{LEASES}/{vni_lease_name(FIRST)}", "", "")
        return END

    return Process("kubectl delete", "A", {"start": start}, "start")


def vni_claim_process(broken: Broken, killable: bool = False) -> Process:
    """ADD on node A claims a VNI for `b`, without an agent that asserts VNIs."""
    attempt = Attempt(B, Side.PRIMARY, sandbox_of("u1", "up", "A"))
    call = call_of(attempt, Command.ADD, Rules())

    def start() -> str:
        with suppress(RatchetError):
            Reconciler(broken.store(), call.journal, DelState()).reconcile(attempt, scene_underlay("A"), joined=True)
        return END

    return Process("number u1", "A", {"start": start}, "start", killable=killable)


def _holder(world: World, vni: int) -> str | None:
    lease = world.find(f"{LEASES}/{vni_lease_name(vni)}")
    return str(json.loads(lease)["spec"]["holderIdentity"]) if lease else None


def _is_held_with_labels(world: World, record: Link) -> bool:
    """Whether a record holds the Lease of its VNI, and the Lease has the labels of its nodes."""
    lease = world.find(f"{LEASES}/{vni_lease_name(record.vni)}") if record.vni is not None else None
    if lease is None or record.vni is None or _holder(world, record.vni) != record.uid:
        return False
    return node_labels(record) <= set(json.loads(lease)["metadata"]["labels"])


# The conditions

EVICTED_WITHOUT_LEASE = "a tunnel is taken down without the Lease"
LINKED_WITH_ANOTHER_VNI = "a record says linked and a device has another VNI"
SHARED_VNI = "two links have one VNI"


def evictions_without_lease(world: World, places: tuple[Place, ...]) -> Iterator[str]:
    """Fault if a process is about to evict another tunnel and its link does not hold the VNI's Lease."""
    for place in places:
        match place.request:
            case ("ensure", VxlanWire() as wire, True):
                text = world.find(f"{RECORDS}/{wire.link}")
                held = text is not None and _holder(world, wire.vni) == link_of(text).uid
                others = (one.device for one in world.interfaces if one.place[0] != wire.near.netns)
                if not held and any((one.vni, one.local) == (wire.vni, wire.local) for one in others):
                    yield EVICTED_WITHOUT_LEASE


def linked_with_another_vni(world: World) -> Iterator[str]:
    """Fault if a record is `linked` and an interface has another VNI."""
    devices = {one.place: one.device for one in world.interfaces}
    for path, text in world.objects:
        if path.startswith(RECORDS) and derive(link_of(text)) is State.LINKED:
            link = link_of(text)
            for side in Side:
                device = devices.get((_present(link, side).netns, link.end(side).ifname))
                if device is not None and device.vni != link.vni:
                    yield LINKED_WITH_ANOTHER_VNI


def check(world: World, places: tuple[Place, ...], quiet: bool) -> Iterator[str]:
    """The conditions of each situation, and those that must hold once no step is left."""
    yield from evictions_without_lease(world, places)
    if at_rest(places):
        yield from linked_with_another_vni(world)
    if not quiet:
        return
    texts = [text for path, text in world.objects if path.startswith(RECORDS)]
    links = [link_of(text) for text in texts]
    numbers = [link.vni for link in links if link.vni is not None]
    if len(numbers) != len(set(numbers)):
        yield SHARED_VNI
    for text, link in zip(texts, links, strict=True):
        if not _is_held_with_labels(world, link):
            yield "a record does not hold the Lease of its VNI, or the Lease is not labelled"
        if derive(link) is not State.LINKED:
            yield "a link is not linked"
        elif not set_up_as_recorded(text, world.interfaces, world.namespaces):
            yield FALSE_CLAIM
    uids = {link.uid for link in links}
    leases = (json.loads(text) for path, text in world.objects if path.startswith(LEASES))
    if not {lease["spec"]["holderIdentity"] for lease in leases} <= uids:
        yield "a Lease has no record"


def check_unique_vnis(world: World, _: tuple[Place, ...], __: bool) -> Iterator[str]:
    numbers = [link_of(text).vni for path, text in world.objects if path.startswith(RECORDS)]
    numbers = [one for one in numbers if one is not None]
    if len(numbers) != len(set(numbers)):
        yield SHARED_VNI


def is_unobservable(_world: World, _actor: Actor, request: tuple[Any, ...]) -> bool:
    """Requests that no other process can notice or influence.

    Pods and nodes are constant, there are no tombstones, and only its agent changes a node's interfaces.
    """
    alone = request[0] in ("observe", "make", "remove", "observe_port", "buried", "lock")
    return alone or (request[0] == "list" and str(request[1]).endswith(("/pods", "/nodes")))


# The scenes


@dataclass(frozen=True)
class Scene:
    """The processes that run from an initial state: both agents, or one ADD with `claims`.

    `deleted`: a user deletes the Lease at any time. `collected`: gc runs once. `claims`: there are no agents. Node A
    claims a VNI for link `b`, and the two links must never have the same VNI.
    """

    initial: InitialState
    deleted: bool = False
    collected: bool = False
    claims: bool = False

    def search(self, broken: Broken | None = None) -> Search:
        broken = broken or Broken(records())
        processes = [vni_claim_process(broken)] if self.claims else [agent("A", broken), agent("B", broken)]
        processes += [gc_process(broken)] if self.collected else []
        processes += [lease_delete_process()] if self.deleted else []
        return Search(self.initial.world(), processes, check_unique_vnis if self.claims else check, is_unobservable)


DUPLICATE_VNI = InitialState(vni_of_b=FIRST)
SCENES = {
    "all Leases are missing": Scene(InitialState()),
    "a Lease is deleted at any time": Scene(InitialState(holder=UID_OF_A), deleted=True),
    "a Lease is not labelled": Scene(InitialState(holder=UID_OF_A, labelled=False)),
    "a Lease that is not labelled is deleted at any time": Scene(
        InitialState(holder=UID_OF_A, labelled=False, alone=True), deleted=True
    ),
    "Leases are restored with other holders": Scene(InitialState(holder=BACKUP_UID)),
    "Leases are restored with other holders, and gc runs": Scene(
        InitialState(holder=BACKUP_UID, alone=True), collected=True
    ),
    "another link holds the Lease": Scene(InitialState(holder=UID_OF_B)),
    "another link has the number too": Scene(DUPLICATE_VNI),
    "a node refuses the number": Scene(InitialState(vni_of_a=None, foreign=FIRST, alone=True)),
    "a node refuses the number of a link that is up": Scene(InitialState(holder=UID_OF_A, foreign=FIRST, alone=True)),
    "all Leases are missing, and a VNI is claimed": Scene(InitialState(), claims=True),
    "Leases are restored, a VNI is claimed, and gc runs": Scene(
        InitialState(holder=BACKUP_UID), claims=True, collected=True
    ),
}
SLOW = ("another link holds the Lease", "another link has the number too")


@pytest.mark.parametrize("name", with_thorough(SCENES, SLOW))
def test_every_link_gets_and_keeps_a_vni_of_its_own(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run(to_rest=True)
    print_report(report)
    assert_no_fault(report)


# Mutations


class LeasesOnly(VniLeases):
    """A claim ignores the VNIs in records and looks at Leases only, as an earlier version did."""

    def record_vnis(self, vnis: Collection[int] | None = None) -> dict[int, str]:
        return {}


class NeverLabelled(VniLeases):
    """The labels of a Lease are never updated."""

    def _label(self, *_: object) -> None:
        pass


class NeverRenumbered(VniLeases):
    """A record keeps its VNI, even if another record holds the Lease."""

    def hold(self, link: Link) -> bool:
        super().hold(link)
        return True


def freeing_by_holder() -> AbstractContextManager[Any]:
    """gc frees a Lease whose holder is no record, even if a record has the VNI."""
    unused = ClaimDigests.unused
    return patch.object(ClaimDigests, "unused", lambda claims, records, _vnis: unused(claims, records, ()))


def evicting_without_lease_check() -> AbstractContextManager[Any]:
    """Another tunnel with the VNI is evicted without a check of the Lease."""
    return patch.object(endpoint_reconcile, "is_held", lambda *_: True)


def keeping_ready_marks() -> AbstractContextManager[Any]:
    """Renumbering a record does not clear the readiness of its ends."""
    return patch.object(record_updates, "_without_ready", lambda record, _: (record, []))


CLAIMED = Scene(InitialState(), claims=True)
RESTORED = Scene(InitialState(holder=BACKUP_UID), claims=True, collected=True)

# The broken code, the smallest scene that shows it, and the fault that the rule prevents.
MUTATIONS: dict[str, tuple[Broken, Scene, str]] = {
    "records are not looked at for a claim": (Broken(records(LeasesOnly)), CLAIMED, SHARED_VNI),
    "gc frees a Lease by its holder": (Broken(records(LeasesOnly), freeing_by_holder), RESTORED, SHARED_VNI),
    "Leases keep their first labels": (
        Broken(records(NeverLabelled)),
        Scene(InitialState(holder=UID_OF_A, labelled=False, alone=True)),
        LIVELOCK,
    ),
    "nobody renumbers": (Broken(records(NeverRenumbered)), Scene(DUPLICATE_VNI), EVICTED_WITHOUT_LEASE),
    "a tunnel is taken down at once": (
        Broken(records(), evicting_without_lease_check),
        Scene(DUPLICATE_VNI),
        EVICTED_WITHOUT_LEASE,
    ),
    "a renumbered end still stands": (
        Broken(records(), keeping_ready_marks),
        Scene(DUPLICATE_VNI),
        LINKED_WITH_ANOTHER_VNI,
    ),
}


def test_an_earlier_version_claims_no_vni_in_use_after_leases_are_restored(
    print_report: Callable[[Report], None],
) -> None:
    """The earlier version looks at Leases only, so gc must not free the restored Leases of VNIs in use."""
    claiming, collector = Broken(records(LeasesOnly)), Broken(records())
    processes = [vni_claim_process(claiming), gc_process(collector)]
    report = Search(RESTORED.initial.world(), processes, check_unique_vnis, is_unobservable).run()
    print_report(report)
    assert report.complete
    assert not report.faults, str(report)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_the_fault_of_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    broken, scene, expected = MUTATIONS[name]
    with broken.patched():
        report = scene.search(broken).run(first_fault=True, to_rest=True)
    print_report(report)
    assert expected in report.faults, str(report)
