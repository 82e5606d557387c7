"""VNIs that are claimed and freed, in every order of steps.

The code is the real store, `Reconciler` and `collect_garbage`. Both ends of link `a` have joined, and it has no VNI
yet. Two nodes claim one concurrently. The ends leave, and new sandboxes may join. Meanwhile, link `b` claims a VNI and
gc runs. Processes may be killed at any step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest

from ratchet import gc
from ratchet.cni.command import Command
from ratchet.core.garbage import ClaimDigests, digest
from ratchet.core.model import Link, Side
from ratchet.core.naming import vni_lease_name
from ratchet.core.plan import Attempt
from ratchet.core.record_updates import with_vni
from ratchet.errors import RatchetError
from ratchet.node.reconciler import Reconciler
from ratchet.node.record_writer import RecordWriter
from ratchet.node.vni_claim import VniClaim
from ratchet.store.codec.leases import encode_vni_lease
from ratchet.store.codec.links import encode_link
from ratchet.store.links import LinkStore
from ratchet.store.store import ApiStore
from ratchet.store.vni_leases import VniLeases
from tests.protocol import world
from tests.protocol.asking import FakeApi
from tests.protocol.exploring import END, Place, Process, Report, Search, assert_no_fault
from tests.protocol.scenes import (
    LEASES,
    RECORDS,
    VNIS,
    DelState,
    Rules,
    attempt_of,
    call_of,
    link_of,
    sandbox_of,
    scene_underlay,
    store_with,
    wanted_link,
)
from tests.protocol.world import Actor, World
from tests.support.lanes import with_thorough

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B = wanted_link("left", "right"), wanted_link("up", "down")
LEFT, RIGHT = attempt_of("s1", Side.PRIMARY, "A", A), attempt_of("t1", Side.PAIR, "B", A)
UP = attempt_of("u1", Side.PRIMARY, "A", B)
NAMESPACES = frozenset({"s1", "t1", "u1", "d1", "s3", "t3"})


def _joined(link: Link, **ends: Any) -> Link:
    for side in Side:
        name, node = ends[side.value]
        end = link.end(side)
        link = link.with_end(side, _with_sandbox(end, name, node))
    return link


def _with_sandbox(end: Any, name: str, node: str) -> Any:
    return replace(end, sandbox=sandbox_of(name, end.name, node))


def _world(pods: Collection[str], has_vni: bool) -> World:
    """The initial world: both links are joined, without VNIs. Only the pods `pods` exist.

    `has_vni`: link `a` has a VNI and its Lease.
    """
    records = [
        _joined(A, primary=("s1", "A"), pair=("t1", "B")),
        _joined(B, primary=("u1", "A"), pair=("d1", "B")),
    ]
    uids = [world.new_uid(f"{RECORDS}/{record.name}", number) for number, record in enumerate(records)]
    if has_vni:
        records[0] = with_vni(records[0], VNIS[0])
    objects = {f"{RECORDS}/{record.name}": _document(record, uid) for record, uid in zip(records, uids, strict=True)}
    if has_vni:
        lease = encode_vni_lease(VNIS[0], replace(records[0], uid=uids[0]))
        lease["metadata"] |= {"uid": "lease", "resourceVersion": "seen"}
        objects[f"{LEASES}/{vni_lease_name(VNIS[0])}"] = json.dumps(lease, sort_keys=True)
    for name in pods:
        pod = {"metadata": {"name": name, "namespace": "ns", "uid": f"{name}-1"}}
        objects[f"/api/v1/namespaces/ns/pods/{name}"] = json.dumps(pod)
    for node in ("A", "B"):
        objects[f"/api/v1/nodes/{node}"] = json.dumps({"metadata": {"name": node}})
    return World(objects=tuple(sorted(objects.items())), uids_issued=len(records), namespaces=NAMESPACES)


def _document(record: Link, uid: str) -> str:
    document = encode_link(record)
    document["metadata"] |= {"uid": uid, "resourceVersion": "seen"}
    return json.dumps(document, sort_keys=True)


# The processes


@dataclass(frozen=True)
class Broken:
    """A mutation: the store that the code uses, and a context manager that patches the code."""

    store: Callable[[], ApiStore] = Rules().store
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext


def vni_claim_process(attempt: Attempt, broken: Broken, killable: bool) -> Process:
    """A node that reconciles an end: it claims a VNI and records that the end is ready."""
    end_reconciler, underlay = _reconciler(attempt, broken), scene_underlay(attempt.sandbox.node)

    def start() -> str:
        with suppress(RatchetError):
            end_reconciler.reconcile(attempt, underlay, joined=True)
        return END

    return Process(f"number {attempt.container_id}", underlay.node, {"start": start}, "start", killable=killable)


def leave_process(attempts: Iterable[Attempt], broken: Broken, killable: bool) -> Process:
    """The ends leave one after the other. The last one deletes the record."""
    stages: dict[str, Callable[[], str]] = {}
    attempts = list(attempts)
    for number, attempt in enumerate(attempts):
        following = str(number + 1) if number + 1 < len(attempts) else END
        stages[str(number)] = _leave_stage(attempt, RecordWriter(broken.store()), following)
    return Process("leave", "A", stages, "0", killable=killable)


def _leave_stage(attempt: Attempt, writer: RecordWriter, following: str) -> Callable[[], str]:
    def leave() -> str:
        writer.leave(attempt.name, attempt.container_id, "it was deleted")
        return following

    return leave


def rejoin_process(attempts: Iterable[Attempt], broken: Broken, killable: bool) -> Process:
    """New sandboxes join the link, in the old record or a new one. The second one claims a VNI."""
    stages: dict[str, Callable[[], str]] = {}
    attempts = list(attempts)
    for number, attempt in enumerate(attempts):
        following = str(number + 1) if number + 1 < len(attempts) else END
        stages[str(number)] = _join_stage(attempt, _reconciler(attempt, broken), following)
    return Process("again", "A", stages, "0", killable=killable)


def _join_stage(attempt: Attempt, reconciler: Reconciler, following: str) -> Callable[[], str]:
    def join() -> str:
        with suppress(RatchetError):
            reconciler.reconcile(attempt, scene_underlay(attempt.sandbox.node), joined=False)
        return following

    return join


def gc_process(broken: Broken, passes: int = 1) -> Process:
    store = broken.store()

    def collect(following: str) -> Callable[[], str]:
        def one_pass() -> str:
            list(gc.collect_garbage(store, now=lambda: NOW, grace=timedelta(0)))
            return following

        return one_pass

    stages = {str(number): collect(str(number + 1) if number + 1 < passes else END) for number in range(passes)}
    return Process("gc", "A", stages, "0")


def _reconciler(attempt: Attempt, broken: Broken) -> Reconciler:
    return Reconciler(broken.store(), call_of(attempt, Command.ADD, Rules()).journal, DelState())


# The conditions

VNI_WITHOUT_LEASE = "a record's VNI has no Lease of its own"


def check(state: World, _: tuple[Place, ...], quiet: bool) -> Iterator[str]:
    yield from _vni_faults(state.objects)
    if quiet:
        yield from _leaked(state._replace(stale_reads=frozenset()))


@cache
def _vni_faults(objects: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    texts = dict(objects)
    records = [link_of(text) for path, text in objects if path.startswith(RECORDS)]
    numbers = [record.vni for record in records if record.vni is not None]
    found = [] if len(numbers) == len(set(numbers)) else ["two links have one VNI"]
    strays = (one for one in records if one.vni is not None and _holder(texts, one.vni) != one.uid)
    found.extend(VNI_WITHOUT_LEASE for _ in strays)
    return tuple(found)


@cache
def _leaked(rest: World) -> tuple[str, ...]:
    """Fault if a Lease without record remains after gc has run without other processes."""
    ends: list[World] = []

    def collect_quiet(after: World, _: tuple[Place, ...], quiet: bool) -> Iterator[str]:
        ends.extend([after] if quiet else [])
        yield from ()

    Search(rest, [gc_process(Broken(), passes=2)], collect_quiet).run()
    (end,) = ends
    texts = dict(end.objects)
    records = {link_of(text).uid for path, text in end.objects if path.startswith(RECORDS)}
    held = {_holder(texts, vni) for vni in range(VNIS[0], VNIS[1] + 1)} - {None}
    return ("a Lease is leaked",) if held - records else ()


def _holder(texts: Mapping[str, str], vni: int) -> str | None:
    lease = texts.get(f"{LEASES}/{vni_lease_name(vni)}")
    return str(json.loads(lease)["spec"]["holderIdentity"]) if lease else None


def is_unobservable(_world: World, actor: Actor, request: tuple[Any, ...]) -> bool:
    """Requests that no other process can notice or influence.

    Pods and nodes are constant, there are no tombstones, and only one process works on each end.
    """
    alone = request[0] in ("observe", "make", "ensure", "remove", "buried")
    return alone or (request[0] == "list" and request[1].endswith(("/pods", "/nodes")))


# The scenes


@dataclass(frozen=True)
class Scene:
    """The processes that claim and free VNIs.

    - `ends`: both ends of link `a` leave. `rejoins`: new sandboxes join it.
    - `has_vni`: link `a` has a VNI from the start. Otherwise the primary's node claims one.
    - `pair`: the pair's node claims a VNI for link `a`, too.
    - `other`: a node claims a VNI for link `b`.
    - `dead`: the pods of link `a` do not exist, so gc removes its ends.
    - `killed`: processes other than gc may be killed. `passes`: the number of gc's passes.
    """

    ends: bool = True
    rejoins: bool = False
    has_vni: bool = False
    pair: bool = False
    other: bool = True
    dead: bool = False
    killed: bool = False
    passes: int = 1

    def search(self, broken: Broken = Broken()) -> Search:  # frozen
        claimants = [
            *([] if self.has_vni else [LEFT]),
            *([RIGHT] if self.pair else []),
            *([UP] if self.other else []),
        ]
        processes = [vni_claim_process(one, broken, self.killed) for one in claimants]
        processes.append(gc_process(broken, self.passes))
        if self.ends:
            processes.append(leave_process([LEFT, RIGHT], broken, self.killed))
        if self.rejoins:
            rejoining = [attempt_of("s3", Side.PRIMARY, "A", A), attempt_of("t3", Side.PAIR, "B", A)]
            processes.append(rejoin_process(rejoining, broken, self.killed))
        pods = {"up", "down"} if self.dead else {"left", "right", "up", "down"}
        return Search(_world(pods, self.has_vni), processes, check, is_unobservable)


SCENES = {
    "two number one link": Scene(pair=True, other=False, killed=True),
    "two number two links, one of which ends": Scene(killed=True),
    "the link comes again": Scene(rejoins=True, has_vni=True, killed=True),
    "the link comes again before it has a number": Scene(rejoins=True, other=False),
    "gc ends the link": Scene(ends=False, dead=True, passes=2, killed=True),
}
SLOW = ("two number one link", "two number two links, one of which ends", "the link comes again")

LARGE = {
    "three number two links, one of which ends": Scene(pair=True, killed=True),
    "the link comes again before it has a number": Scene(rejoins=True, killed=True),
    "gc ends the link, three number": Scene(ends=False, dead=True, passes=2, killed=True, pair=True),
}


@pytest.mark.parametrize("name", with_thorough(SCENES, SLOW))
def test_no_order_of_steps_duplicates_or_leaks_a_vni(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run()
    print_report(report)
    assert_no_fault(report)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_no_order_of_steps_duplicates_or_leaks_a_vni_in_large_scenes(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = LARGE[name].search().run(max_states=20_000_000)
    print_report(report)
    assert_no_fault(report)


# Mutations


class RecordsFirst(VniLeases):
    """Leases for a gc that lists records before Leases."""

    _listed: set[int] | None = None

    def claim_digests(self) -> ClaimDigests:
        self._listed = super().record_uid_digests()
        return super().claim_digests()

    def record_uid_digests(self) -> set[int]:
        assert self._listed is not None
        return self._listed


class VniOwnersOnly(VniLeases):
    """Leases for a gc to which only records with a VNI count as holders."""

    def record_uid_digests(self) -> set[int]:
        links, _ = LinkStore(self.api, "ratchet", self).list()
        return {digest(link.uid) for link in links if link.vni is not None}


class LeaseFirst(LinkStore):
    """The Lease is freed before the record is deleted."""

    def delete(self, link: Link) -> None:
        if link.vni is not None:
            self.vnis.release(link.vni, link.uid)
        super().delete(link)


class UnconditionalLeaseDeleteApi(FakeApi):
    """A Lease is deleted by name, without preconditions."""

    def delete(self, path: str, *, uid: str, resource_version: str = "", grace_seconds: int | None = None) -> None:
        about_lease = path.startswith(LEASES)
        super().delete(path, uid="" if about_lease else uid, resource_version="" if about_lease else resource_version)


def _records(
    api: Callable[[], FakeApi] = FakeApi, links: type[LinkStore] = LinkStore, vnis: type[VniLeases] = VniLeases
) -> Callable[[], ApiStore]:
    return lambda: store_with(api(), VNIS, links, vnis)


@contextmanager
def held_by_name() -> Iterator[None]:
    """UIDs are derived from names, so a record that is created again counts as the old holder."""
    with patch("tests.protocol.world.new_uid", lambda path, _: f"uid-of-{path}"):
        yield


@contextmanager
def freed_without_check() -> Iterator[None]:
    """A VNI whose write failed is freed without a check whether the other end has written it."""

    def release(self: VniClaim, _: object) -> None:
        if (claimed := self.claimed) and claimed.vni is not None:
            self.store.vnis.release(claimed.vni, claimed.uid)

    with patch.object(VniClaim, "free", release):
        yield


MUTATIONS = {
    "a Lease is held by the link's name": (Broken(patched=held_by_name), Scene(rejoins=True, has_vni=True)),
    "a Lease is freed where it is unused": (Broken(_records(vnis=VniOwnersOnly)), Scene()),
    "a Lease is freed before the record": (Broken(_records(links=LeaseFirst)), Scene(has_vni=True)),
    "a Lease is deleted whichever it is": (Broken(_records(UnconditionalLeaseDeleteApi)), Scene(has_vni=True)),
    "a number is given back at once": (Broken(patched=freed_without_check), Scene(pair=True, other=False, ends=False)),
    "records are listed before Leases": (Broken(_records(vnis=RecordsFirst)), Scene(rejoins=True, has_vni=True)),
}


@pytest.mark.parametrize("name", with_thorough(MUTATIONS, ["records are listed before Leases"]))
def test_the_search_finds_the_fault_of_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    broken, scene = MUTATIONS[name]
    with broken.patched():
        report = scene.search(broken).run(first_fault=True)
    print_report(report)
    assert VNI_WITHOUT_LEASE in report.faults, str(report)
