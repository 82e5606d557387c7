"""The processes that act on one link, and the conditions that must hold.

ADD and DEL are the node's own code (`Reconciler`, `delete`, `undo`). An agent is idle until an end of its node needs
work, and then calls `Reconciler.reconcile` for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from ipaddress import ip_interface
from typing import Any, ParamSpec, TypeVar, cast
from unittest.mock import patch

from ratchet.cni.arguments import Arguments
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig
from ratchet.core.differences import differences, only_gains_carrier
from ratchet.core.interface import CABLE, Parent, PatchWire, VethWire, VxlanWire, Wire
from ratchet.core.kinds import Kind, Wiring
from ratchet.core.limits import DEFAULT_ANNOTATION_LIMITS, DEFAULT_TOPOLOGY_LIMITS, LINKS_PER_NAMESPACE, LINKS_PER_POD
from ratchet.core.model import End, Link, Side, State
from ratchet.core.naming import record_name
from ratchet.core.operations import Verb
from ratchet.core.overrides import Override
from ratchet.core.plan import Attempt
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Location, Sandbox
from ratchet.core.schemas import CURRENT_SCHEMA, PANEL_SCHEMA
from ratchet.core.state_machine import derive
from ratchet.core.underlay import Underlay
from ratchet.core.wires import wire_of
from ratchet.errors import RatchetError
from ratchet.node.add import _refuse_deleted
from ratchet.node.call import Call
from ratchet.node.delete import delete, undo
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry
from ratchet.node.overrides import NO_OVERRIDES, NoOverrides
from ratchet.node.reconciler import Reconciler
from ratchet.store.codec.links import decode_link, encode_link
from ratchet.store.interface import Store
from ratchet.store.links import LinkStore, Lookup
from ratchet.store.store import ApiStore
from ratchet.store.vni_leases import VniLeases
from tests.protocol.asking import Failure, FakeApi, FakeJournal, OneEntryJournal, ask, fake_environment, slot_for
from tests.protocol.exploring import END, Place, Process, at_rest
from tests.protocol.namespaces import cookie_of, netns_path
from tests.protocol.world import Actor, Interface, World, observed

Params = ParamSpec("Params")
Answer = TypeVar("Answer")

NAMESPACE = "ns"
RECORDS = "/api/v1/namespaces/ratchet/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ratchet/leases"
VNIS = (11, 12)
VXLAN_PORT = 4789
FALSE_CLAIM = "it says linked and the devices do not stand"
LIVE_NOT_LINKED = "both are live and not linked"
INTERFACE_OF_DEAD = "an interface is in a dead sandbox"
REPLACED = "the interface of a running pod was replaced"
CARRIER_WITHOUT_PEER = "a cable has carrier, and its peer is gone"
NO_CARRIER = "it says linked and a cable has no carrier"
WRONG_DATA = "a record's data is not what its facts say"

PARENTS = {
    "A": Parent("eth0", 2, "10.0.0.1", 1500),
    "B": Parent("eth0", 2, "10.0.0.2", 1500),
    "C": Parent("eth0", 2, "10.0.0.3", 1500),
}


@dataclass(frozen=True)
class DelState:
    """The state of a sandbox of which only DEL is known. Without `call`, there is no DEL.

    Nothing else takes over a sandbox in these scenes.
    """

    call: Call | None = None

    def refuse_superseded(self) -> None: ...

    def is_deleted(self) -> bool:
        return self.call is not None and self.call.is_deleted()


_CACHES: list[Callable[[], None]] = []  # empty one cache each


def cached_for_test(function: Callable[Params, Answer]) -> Callable[Params, Answer]:
    """Cache a function until the next test, whose mutation may change the results."""
    cached = cache(function)
    _CACHES.append(cached.cache_clear)
    return cast(Callable[Params, Answer], cached)


def scene_underlay(node: str) -> Underlay:
    return Underlay(node, PARENTS[node], VXLAN_PORT)


def sandbox_of(name: str, pod: str, node: str) -> Sandbox:
    ref = PodRef(NAMESPACE, pod, f"{pod}-1")
    return Sandbox(name, ref, node, netns_path(name), PARENTS[node].address, cookie_of(name))


def wanted_link(primary: str = "left", pair: str = "right", wiring: Wiring = Wiring.DIRECT) -> Link:
    return Link(
        name=record_name(NAMESPACE, (primary, "in1"), (pair, "in2")),
        namespace=NAMESPACE,
        primary=End(primary, "in1", (ip_interface("192.168.2.1/24"),)),
        pair=End(pair, "in2", (ip_interface("192.168.2.2/24"),)),
        wiring=wiring,
        schema=CURRENT_SCHEMA if wiring is Wiring.DIRECT else PANEL_SCHEMA,
    )


def attempt_of(name: str, side: Side, node: str, link: Link | None = None) -> Attempt:
    link = link or wanted_link()
    return Attempt(link, side, sandbox_of(name, link.end(side).name, node), slot=slot_for(link))


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol that a scene follows. A mutation replaces one of them."""

    locking: bool = True
    api: Callable[[], FakeApi] = FakeApi
    journal: Callable[[SandboxEntry, bool], FakeJournal] = OneEntryJournal

    def store(self) -> ApiStore:
        return ApiStore(self.api(), "ratchet", VNIS)


def call_of(attempt: Attempt, command: Command, rules: Rules) -> Call:
    """The runtime's call for a sandbox with one end."""
    sandbox = attempt.sandbox
    held = HeldEnd(attempt.wanted, attempt.side)
    attachment = Attachment("net", sandbox.container_id, "eth0")
    entry = SandboxEntry(attachment, sandbox.netns, sandbox.pod, (held,), cookie=sandbox.cookie)
    journal = rules.journal(entry, rules.locking)
    return plain_call(command, sandbox, journal, rules.store())


def plain_call(command: Command, sandbox: Sandbox, journal: Journal, store: Store, wait: float = 0.0) -> Call:
    args = {"K8S_POD_NAMESPACE": sandbox.pod.namespace, "K8S_POD_NAME": sandbox.pod.name}
    arguments = Arguments(command, sandbox.container_id, sandbox.netns, "eth0", (), args, {})
    return Call(arguments, network_config(), journal, lambda _: store, began=0.0, wait=wait, timed_from=float("inf"))


@cache
def network_config() -> NetworkConfig:
    return NetworkConfig(
        raw={},
        cni_version="1.1.0",
        name="net",
        type="ratchet",
        prev_result=None,
        valid_attachments=None,
        runtime_config={},
        delegate=None,
        boot_network=None,
        parent_interface="eth0",
        parent_address=None,
        kubeconfig=None,
        namespace="ratchet",
        topologies=True,
        topologies_per_namespace=DEFAULT_TOPOLOGY_LIMITS.topologies,
        topology_links_per_namespace=DEFAULT_TOPOLOGY_LIMITS.links,
        topology_bytes_per_namespace=DEFAULT_TOPOLOGY_LIMITS.size,
        annotation_bytes_per_namespace=DEFAULT_ANNOTATION_LIMITS.size,
        wait=None,
        wait_policy=None,
        wiring=Wiring.DIRECT,
        vxlan_port=VXLAN_PORT,
        vxlan_ports=None,
        guard=None,
        vni_range=VNIS,
        links_per_pod=LINKS_PER_POD,
        links_per_namespace=LINKS_PER_NAMESPACE,
        log_file=None,
        log_level="info",
        state_dir=None,
        ignored=(),
        unknown=(),
    )


# The processes


def add_process(
    attempt: Attempt,
    *,
    after: str = "",
    waits_for_peer: bool,
    killable: bool,
    rules: Rules,
    may_time_out: bool = False,
    unsynced: bool = False,
) -> Process:
    """ADD of a sandbox that replaces the sandbox `after`.

    The stages are the steps of `add`. `waits_for_peer`: ADD waits for its peer without limit, as without an agent.
    Otherwise it leaves its end to the agent instead of waiting. `may_time_out`: the wait may end at any time, and ADD
    fails. `unsynced`: the watch may not have reported the record yet, so ADD takes it for missing.
    """
    call, underlay = call_of(attempt, Command.ADD, rules), scene_underlay(attempt.sandbox.node)

    def start() -> str:
        ask("birth", attempt.container_id, after)
        return "join"

    def reconcile(joined: bool) -> str:
        links = _UnsyncedLinks if unsynced and not joined else LinkStore
        records = store_with(rules.api(), VNIS, links)
        try:
            result = call.reconciler(records).reconcile(attempt, underlay, joined=joined)
        except RatchetError:
            return "undo"
        return "final" if result.is_up or not waits_for_peer else "wait"

    def wait() -> str:
        return str(ask("choose", _record_change(f"{RECORDS}/{attempt.name}", may_time_out)))

    def final() -> str:
        try:
            _refuse_deleted(call)
        except RatchetError:
            return "undo"
        return END

    def undo_add() -> str:
        entry = call.journal.read(call.attachment)
        assert entry is not None
        undo(call, entry, "ADD failed")
        return END

    stages: dict[str, Callable[[], str]] = {
        "start": start,
        "join": partial(reconcile, joined=False),
        "reconcile": partial(reconcile, joined=True),
        "wait": wait,
        "final": final,
        "undo": undo_add,
    }
    return Process(f"ADD {attempt.container_id}", underlay.node, stages, "start", killable=killable)


@cache
def _record_change(path: str, may_time_out: bool) -> Callable[[World, Actor], Iterator[str]]:
    """The next stage of an ADD that waits: "reconcile" if the record has changed, or "undo" at a timeout."""

    def changed(world: World, actor: Actor) -> Iterator[str]:
        if (actor.pid, path) in world.stale_reads:
            yield "reconcile"
        if may_time_out:
            yield "undo"

    return changed


def del_process(attempt: Attempt, *, rules: Rules, again: bool = False, api_may_fail: bool = False) -> Process:
    """The runtime's DEL of a sandbox. `again`: a second one. `api_may_fail`: the API may be unreachable."""
    call = call_of(attempt, Command.DEL, rules)

    def start() -> str:
        delete(call)
        return END

    name = f"DEL {attempt.container_id}{' again' if again else ''}"
    return Process(name, attempt.sandbox.node, {"start": start}, "start", api_may_fail=api_may_fail)


def collapse_process(sandbox: str, node: str) -> Process:
    """The runtime removes the namespace of a sandbox after its DEL has begun."""

    def start() -> str:
        ask("collapse", sandbox)
        return END

    return Process(f"NETNS {sandbox}", node, {"start": start}, "start")


def manual_delete_process(attempt: Attempt) -> Process:
    """A user on the node deletes an end's interface by hand, once."""
    ifname = attempt.wanted.end(attempt.side).ifname

    def there(world: World, _: Actor) -> Iterator[str]:
        if any(one.place == (attempt.sandbox.netns, ifname) for one in world.interfaces):
            yield "there"

    def start() -> str:
        ask("choose", there)
        ask("remove", attempt.location, ifname)
        return END

    return Process(f"hand on {attempt.container_id}", attempt.sandbox.node, {"start": start}, "start")


def lost_panel_process(node: str, sandboxes: tuple[str, ...]) -> Process:
    """The panel of a node disappears once, with the cables of these sandboxes."""
    paths = tuple(map(netns_path, sandboxes))

    def there(world: World, _: Actor) -> Iterator[str]:
        if any(one.place[0] in paths for one in world.interfaces):
            yield "there"

    def start() -> str:
        ask("choose", there)
        ask("lose_panel", paths)
        return END

    return Process(f"panel of {node}", node, {"start": start}, "start")


def agent(node: str, rules: Rules) -> Process:
    """An agent that reconciles any end of its node that needs it, and never ends.

    It decides on the record that its watch reported, which may be stale.
    """
    underlay = replace(scene_underlay(node), has_agent=True)
    pending = _pending_ends(node)

    def reconcile() -> str:
        side, text = ask("notice", pending)
        record = decode_link(_loads(text))
        sandbox = record.sandbox(side)
        assert sandbox is not None
        attempt = Attempt(
            replace(record, uid="", resource_version=""), side, sandbox, lasting=True, slot=slot_for(record)
        )
        call = call_of(attempt, Command.ADD, rules)
        with _ignoring_errors():
            cached = rules.store()
            cached.links = _CachedLinks(cached, text)
            Reconciler(cached, call.journal, DelState(call)).reconcile(attempt, underlay, joined=True)
        return "reconcile"

    return Process(f"agent {node}", node, {"reconcile": reconcile}, "reconcile")


class _CachedLinks(LinkStore):
    """Records of which one is cached until the watch reports a newer version."""

    def __init__(self, store: ApiStore, cached: str) -> None:
        super().__init__(store.api, store.namespace, store.vnis)
        self._cached = cached

    def lookup(self, name: str) -> Lookup:
        believed = ask("believed", f"{RECORDS}/{name}", self._cached)
        return Lookup(link_of(self._cached), certain=False) if believed else Lookup(self.get(name), certain=True)


class _UnsyncedLinks(LinkStore):
    """Records of an agent whose watch may not have reported a record yet, so that it takes it for missing."""

    def lookup_cached(self, name: str) -> Lookup:
        unreported = ask("choose", _reported_or_not) == "not reported"
        return Lookup(None, certain=False) if unreported else self.lookup(name)


def store_with(
    api: FakeApi, vni_range: tuple[int, int], links: type[LinkStore] = LinkStore, vnis: type[VniLeases] = VniLeases
) -> ApiStore:
    """A store that uses these classes for records and VNI Leases."""
    store = ApiStore(api, "ratchet", vni_range)
    store.vnis = vnis(api, store.namespace, vni_range)
    store.links = links(api, store.namespace, store.vnis)
    return store


def _reported_or_not(_: World, __: Actor) -> Iterator[str]:
    yield from ("reported", "not reported")


@contextmanager
def _ignoring_errors() -> Iterator[None]:
    try:
        yield
    except RatchetError:
        return


@cache
def _pending_ends(node: str) -> Callable[[World, Actor], Iterator[tuple[str, tuple[Side, str]]]]:
    """The ends of a node that must be reconciled (protocol rule 5), with the paths of their records."""

    def ends(world: World, _: Actor) -> Iterator[tuple[str, tuple[Side, str]]]:
        for path, text in world.objects:
            if '"kind": "ConfigMap"' not in text:
                continue
            for side in Side:
                if _needs(node, side, text, world.tombstones, world.interfaces, world.namespaces):
                    yield path, (side, text)

    return ends


@cached_for_test
def _needs(
    node: str,
    side: Side,
    text: str,
    tombstones: frozenset[str],
    interfaces: frozenset[Interface],
    namespaces: frozenset[str],
) -> bool:
    record = link_of(text)
    mine = record.sandbox(side)
    if mine is None or mine.node != node:
        return False
    if mine.container_id in tombstones:
        return True
    if record.kind is None and record.wiring is Wiring.DIRECT:
        return False
    if record.kind is Kind.VXLAN and record.vni is None:
        return mine.container_id in namespaces
    wire = wire_as_recorded(record, side, has_agent=record.wiring is Wiring.PANEL)
    seen = observed(interfaces, namespaces, wire)
    if record.kind is None:
        return not isinstance(seen, Failure) and bool(differences(wire, seen))
    due = not record.is_ready(side) or record.end(side).error is not None
    return not isinstance(seen, Failure) and (due or bool(differences(wire, seen)))


@dataclass(frozen=True)
class UnobservableRequests:
    """Requests that no other process can notice or influence.

    `deletable`: sandboxes that DEL may delete. `netns_removable`: sandboxes whose namespace may be removed at any time.
    `strangers`: sandboxes whose namespace may reuse the path of another one.

    Interfaces in all other namespaces change only under the link's lock, which `unlocked_changes` checks. So no process
    without the lock notices a change.
    """

    deletable: frozenset[str]
    netns_removable: frozenset[str]
    strangers: frozenset[str] = frozenset()

    def __call__(self, world: World, actor: Actor, request: tuple[Any, ...]) -> bool:
        name = request[0]
        if name == "buried":
            return request[1] in world.tombstones or request[1] not in self.deletable
        if name in ("observe", "observe_port", "make", "patch_one_way", "ensure", "remove"):
            return any(pid == actor.pid for _, _, pid in world.locks) and self._is_in_stable_netns(world, request)
        return False

    def _is_in_stable_netns(self, world: World, request: tuple[Any, ...]) -> bool:
        at_risk = {netns_path(one) for one in (self.netns_removable & world.namespaces) | self.strangers}
        return not at_risk & set(_namespaces_in(request))


def _namespaces_in(request: tuple[Any, ...]) -> list[str]:
    """The paths of the namespaces that a request to the kernel names."""
    about = request[1]
    if isinstance(about, Location):
        return [about.netns]
    return [about.near.netns, about.far.netns] if isinstance(about, VethWire | PatchWire) else [about.near.netns]


# The conditions


def unlocked_changes(world: World, places: tuple[Place, ...]) -> Iterator[str]:
    """Fault if a process without a lock is about to change interfaces. A user by hand is exempt."""
    for pid, place in enumerate(places):
        if place.request and place.request[0] in ("make", "patch_one_way", "ensure", "remove"):
            held = any(holder == pid for _, _, holder in world.locks)
            if not held and not place.process.name.startswith("hand"):
                yield "interfaces are worked on without the lock"


@dataclass(frozen=True)
class Expectation:
    """The conditions of a scene.

    `live`: the sandboxes that exist at the end, which must be linked. `all_gone`: nothing may be left at the end.
    `leases_may_leak`: except Leases. `deleted_by_hand`: a user deletes interfaces, so a record may be wrong until an
    agent has observed it.
    """

    live: tuple[str, str] | None = None
    all_gone: bool = False
    leases_may_leak: bool = False
    locking: bool = True
    deleted_by_hand: bool = False

    def check(self, world: World, places: tuple[Place, ...], quiet: bool) -> Iterator[str]:
        """Yield a message for each condition that does not hold."""
        yield from _record_faults(world, quiet or (at_rest(places) and not self.deleted_by_hand))
        if self.locking:
            yield from unlocked_changes(world, places)
        if not quiet:
            return
        texts = _records_in(world)
        if not at_rest(places) and not all(place.ended or place.stage in ("wait", "start") for place in places):
            yield "a process is stuck"
        if world.locks:
            yield "a lock is left"
        yield from _leftovers_of_dead_sandboxes(texts, world)
        yield from _carrier_faults(texts, world)
        if self.live:
            yield from self._not_linked(texts, world)
            if world.replaced & (set(self.live) - world.tombstones):
                yield REPLACED
        if self.all_gone:
            yield from self._leftovers(world)

    def _not_linked(self, texts: list[str], world: World) -> Iterator[str]:
        assert self.live is not None
        if not all(one in world.namespaces and one not in world.tombstones for one in self.live):
            return
        joined = [text for text in texts if (_id(link_of(text).primary), _id(link_of(text).pair)) == self.live]
        if not joined or derive(link_of(joined[0])) is not State.LINKED:
            yield LIVE_NOT_LINKED
        elif not set_up_as_recorded(joined[0], world.interfaces, world.namespaces):
            yield "both are live and their devices do not stand"

    def _leftovers(self, world: World) -> Iterator[str]:
        paths = [path for path, _ in world.objects]
        if any(path.startswith(RECORDS) for path in paths):
            yield "a record is left"
        if any(path.startswith(LEASES) for path in paths) and not self.leases_may_leak:
            yield "a Lease is left"
        if world.interfaces:
            yield "an interface is left"


@cached_for_test
def _record_faults(world: World, resting: bool) -> tuple[str, ...]:
    """Faults of the records in a world. `resting`: no process is in the midst of a stage, so records must be true."""
    found: list[str] = []
    for text in _records_in(world):
        found += inconsistencies(text)
        if resting:
            found += _false_claims(text, world.interfaces, world.tombstones, world.namespaces)
    return tuple(found)


def _records_in(world: World) -> list[str]:
    return [text for _, text in world.objects if '"kind": "ConfigMap"' in text]


def wire_as_recorded(record: Link, side: Side, *, has_agent: bool = False) -> Wire:
    """The wire of an end, with each sandbox at the location that the record has.

    `has_agent`: on a node with an agent, which holds a tunnel without carrier until the peer is ready.
    """
    record = operated(record)
    mine, peer = record.sandbox(side), record.sandbox(side.other)
    assert mine is not None
    there = Location(peer.netns, peer.cookie) if peer is not None else None
    underlay = replace(scene_underlay(mine.node), has_agent=has_agent)
    return wire_of(record, side, underlay, Location(mine.netns, mine.cookie), there)


@cached_for_test
def link_of(text: str) -> Link:
    return decode_link(_loads(text))


@cached_for_test
def inconsistencies(text: str) -> tuple[str, ...]:
    """Faults of a stored record whose derived keys or labels do not match its other fields."""
    stored, encoded = _loads(text), encode_link(link_of(text))
    found = []
    if stored["data"] != encoded["data"]:
        found.append(WRONG_DATA)
    if stored["metadata"]["labels"] != encoded["metadata"]["labels"]:
        found.append("a record's labels are not what its facts say")
    return tuple(found)


@cached_for_test
def set_up_as_recorded(text: str, interfaces: frozenset[Interface], namespaces: frozenset[str]) -> bool:
    """Whether the interfaces of both ends match the record, and what an operation makes of it."""
    record = link_of(text)
    for side in Side:
        wire = wire_as_recorded(record, side)
        if isinstance(wire, VxlanWire):
            wire = replace(wire, switches=False)  # a cable may still send into its former tunnel
        seen = observed(interfaces, namespaces, wire)
        if isinstance(seen, Failure) or (differences(wire, seen) and not only_gains_carrier(wire, seen)):
            return False
    return True


def operated(record: Link) -> Link:
    """The link as the operation of the scene makes it: none, unless a test replaces `NoOverrides.of`."""
    return NO_OVERRIDES.of(record.name).applied_to(record)


@contextmanager
def held_down_by_an_operation() -> Iterator[None]:
    """Within the block, an operation holds every link down."""
    with patch.object(NoOverrides, "of", lambda *_: Override(Verb.DOWN)):
        yield


@cached_for_test
def _false_claims(
    text: str, interfaces: frozenset[Interface], tombstones: frozenset[str], namespaces: frozenset[str]
) -> tuple[str, ...]:
    record = link_of(text)
    if derive(record) is not State.LINKED:
        return ()
    joined = {_id(record.primary), _id(record.pair)}
    if joined & tombstones or not joined <= namespaces or set_up_as_recorded(text, interfaces, namespaces):
        return ()
    return (FALSE_CLAIM,)


def _leftovers_of_dead_sandboxes(texts: list[str], world: World) -> Iterator[str]:
    for text in texts:
        record = link_of(text)
        if {_id(record.primary), _id(record.pair)} & world.tombstones:
            yield "a dead sandbox is in a record"
    dead = {netns_path(sandbox) for sandbox in world.tombstones & world.namespaces}
    if any(one.place[0] in dead for one in world.interfaces):
        yield INTERFACE_OF_DEAD


def _carrier_faults(texts: list[str], world: World) -> Iterator[str]:
    """Faults of cables: those of a linked link have carrier, those without a peer or of a link held down have none."""
    states = {
        netns_path(end.sandbox.container_id): (record.kind, derive(record) is State.LINKED and not record.is_held_down)
        for record in map(operated, map(link_of, texts))
        for end in (record.primary, record.pair)
        if end.sandbox is not None
    }
    for one in world.interfaces:
        if one.device.kind != CABLE or one.place[0] not in states:
            continue  # DEL removes the cable of an ADD that was killed before it joined
        kind, is_linked = states[one.place[0]]
        if one.device.carrier and kind is None:
            yield CARRIER_WITHOUT_PEER
        if not one.device.carrier and is_linked:
            yield NO_CARRIER


def _id(end: End) -> str:
    return end.sandbox.container_id if end.sandbox else ""


def _loads(text: str) -> Mapping[str, Any]:
    return dict(json.loads(text))


@contextmanager
def isolated() -> Iterator[None]:
    """Within the block, the node's code runs on fakes, without logs and with empty caches."""
    for clear in _CACHES:
        clear()
    logging.disable(logging.CRITICAL)
    try:
        with fake_environment(PARENTS):
            yield
    finally:
        logging.disable(logging.NOTSET)
