"""The world in memory: objects of the Kubernetes API, and each node's journal, locks and interfaces.

A `World` is an immutable value. `perform` returns the possible outcomes of one request: the world after it, and the
answer. No outcome means that the request blocks. Every request is one atomic step.

resourceVersions are of two kinds. *Exact* versions are growing numbers, as an API server's. *Masked* versions hide the
number from the process; the world remembers for which processes an object has changed since they read it. Both reject
the same writes if a process writes on what it read last. Only masked versions keep the number of states finite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

from ratchet.core.differences import differences
from ratchet.core.interface import (
    CABLE,
    DEFAULT_TXQLEN,
    CableWire,
    Device,
    InterfaceSpec,
    Observed,
    PatchWire,
    VethWire,
    VxlanWire,
    Wire,
    is_panel_wire,
)
from ratchet.core.kinds import Wiring
from ratchet.core.sandbox import Location
from ratchet.node.journal import Attachment, HeldEnd, SandboxEntry
from tests.protocol.asking import Failure, Request
from tests.protocol.namespaces import cookie_of, netns_path

Json = dict[str, Any]
ChangeEnds = Callable[[tuple[HeldEnd, ...]], tuple[HeldEnd, ...]]
InterfacePlace = tuple[str, str]  # the path of a network namespace, and the name of an interface


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface and its place. A vEth also has that of its peer, and a patched cable that of the other cable.

    `former` is the UDP port of a cable's former tunnel, from which it takes too. `sends_to` is the same port if the
    cable still sends into that tunnel.
    """

    place: InterfacePlace
    device: Device
    peer: InterfacePlace | None = None
    patched: InterfacePlace | None = None
    former: int | None = None
    sends_to: int | None = None

    def has_taken_by(self, peer: Interface) -> bool:
        """Whether the end of a tunnel sends to a UDP port from which its peer takes."""
        return (self.sends_to or self.device.port) in (peer.device.port, peer.former)


class _State(NamedTuple):
    """The state that all processes share.

    - `objects`: objects of the API by path.
    - `stale_reads`: (pid, path) of each object that has changed since the process read it. Masked versions only.
    - `version`: the newest resourceVersion; 0 if versions are masked. `log` has the event of each version.
    - `namespaces`: the sandboxes whose network namespace exists.
    - `locks`: (node, link, pid of the holder).
    - `uids_issued`: the number of UIDs given to objects so far. The next UID is derived from it.
    - `forbidden`: collections whose list is rejected with 403.
    - `replaced`: sandboxes whose cable was removed although the runtime has not deleted them.
    """

    objects: tuple[tuple[str, str], ...] = ()
    stale_reads: frozenset[tuple[int, str]] = frozenset()
    tombstones: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    interfaces: frozenset[Interface] = frozenset()
    locks: frozenset[tuple[str, str, int]] = frozenset()
    uids_issued: int = 0
    version: int = 0
    log: tuple[tuple[int, str, str, str], ...] = ()
    entries: frozenset[tuple[str, SandboxEntry]] = frozenset()
    now: float = 0.0
    forbidden: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()


class World(_State):
    """The state that all processes share. Its hash is computed once, because a search looks it up often."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def find(self, path: str) -> str | None:
        return next((text for name, text in self.objects if name == path), None)

    def in_collection(self, collection: str) -> Iterator[str]:
        """The objects of a collection. Pods can also be listed cluster-wide."""
        for path, text in self.objects:
            parent = path.rpartition("/")[0]
            if parent == collection or (collection == "/api/v1/pods" and parent.endswith("/pods")):
                yield text

    def without_process(self, pid: int) -> World:
        """The world after a process has ended: the kernel frees its locks, and its reads are forgotten."""
        return self._replace(
            locks=frozenset(lock for lock in self.locks if lock[2] != pid),
            stale_reads=frozenset(entry for entry in self.stale_reads if entry[0] != pid),
        )


class Actor(NamedTuple):
    """The process that makes a request, its node, and the other processes that depend on their reads."""

    pid: int
    node: str
    others: tuple[int, ...] = ()


Outcomes = list[tuple[World, Any]]


def perform(world: World, actor: Actor, request: Request) -> Outcomes:
    """The possible outcomes of a request; none while it blocks."""
    name, *arguments = request
    return _REQUESTS[name](world, actor, *arguments)


# The API server


def _get(world: World, actor: Actor, path: str) -> Outcomes:
    text = world.find(path)
    return [(_mark_read(world, actor, path), Failure("missing", path) if text is None else text)]


def _list(world: World, actor: Actor, collection: str, selector: str) -> Outcomes:
    if collection in world.forbidden:
        return [(world, Failure("forbidden", collection))]
    found = tuple(text for text in world.in_collection(collection) if _selected(text, selector))
    for text in found if not world.version else ():
        world = _mark_read(world, actor, f"{collection}/{_metadata(text)['name']}")
    return [(world, (found, str(world.version)))]


def _glance(world: World, _: Actor, collection: str, selector: str) -> Outcomes:
    """A list on which no process decides a write. Earlier reads of the objects stay stale."""
    return [(world, tuple(text for text in world.in_collection(collection) if _selected(text, selector)))]


def _create(world: World, actor: Actor, collection: str, body: str) -> Outcomes:
    path = f"{collection}/{json.loads(body)['metadata']['name']}"
    if world.find(path) is not None:
        return [(world, Failure("exists", path))]
    # A masked Lease needs no unique UID: `stale_reads` shows whether the Lease was replaced.
    uid = "lease" if "/leases" in path and not world.version else new_uid(path, world.uids_issued + 1)
    uids_issued = world.uids_issued + (uid != "lease")
    return _store(world._replace(uids_issued=uids_issued), actor, path, _with_uid(body, uid), "ADDED")


def new_uid(_path: str, number: int) -> str:
    return f"uid-{number}"


def _patch(world: World, actor: Actor, path: str, body: str) -> Outcomes:
    text = world.find(path)
    if text is None:
        return [(world, Failure("missing", path))]
    preconditions = json.loads(body)["metadata"]
    if not _meets_preconditions(
        world, actor, path, preconditions.get("uid", ""), preconditions.get("resourceVersion", "")
    ):
        return [(world, Failure("conflict", path))]
    return _store(world, actor, path, _merged(text, body), "MODIFIED")


def _delete(world: World, actor: Actor, path: str, uid: str, version: str) -> Outcomes:
    text = world.find(path)
    if text is None:
        return [(world, Failure("missing", path))]
    if not _meets_preconditions(world, actor, path, uid, version):
        return [(world, Failure("conflict", path))]
    after = _mark_stale(world, actor, path)._replace(objects=tuple(one for one in world.objects if one[0] != path))
    return [(_log_event(after, path, "DELETED", text), None)]


def _watch(world: World, _: Actor, collection: str, version: str, selector: str, until: float) -> Outcomes:
    events = tuple(
        (kind, text)
        for at, kind, path, text in world.log
        if at > int(version) and path.rpartition("/")[0] == collection and _selected(text, selector)
    )
    return [(world, events)] if events or world.now >= until else []


def _put(world: World, _: Actor, path: str, text: str) -> Outcomes:
    """A user's write of an object that Ratchet only lists. An empty text deletes the object."""
    others = [one for one in world.objects if one[0] != path]
    return [(world._replace(objects=tuple(sorted([*others, (path, text)] if text else others))), None)]


def _forbid(world: World, _: Actor, collection: str) -> Outcomes:
    return [(world._replace(forbidden=world.forbidden | {collection}), None)]


def _allow(world: World, _: Actor, collection: str) -> Outcomes:
    return [(world._replace(forbidden=world.forbidden - {collection}), None)]


def _store(world: World, actor: Actor, path: str, text: str, event: str) -> Outcomes:
    after = _mark_stale(world, actor, path)
    if world.version:
        text = _with_version(text, world.version + 1)
    others = [one for one in world.objects if one[0] != path]
    after = after._replace(objects=tuple(sorted([*others, (path, text)])))
    return [(_log_event(after, path, event, text), text)]


def _log_event(world: World, path: str, event: str, text: str) -> World:
    if not world.version:
        return world
    version = world.version + 1
    return world._replace(version=version, log=(*world.log, (version, event, path, _with_version(text, version))))


def _mark_read(world: World, actor: Actor, path: str) -> World:
    if (actor.pid, path) not in world.stale_reads:
        return world
    return world._replace(stale_reads=world.stale_reads - {(actor.pid, path)})


def _mark_stale(world: World, actor: Actor, path: str) -> World:
    """The world after a write: every other process's read of the object is stale."""
    if world.version:
        return world
    stale = {(pid, path) for pid in actor.others}
    return world._replace(stale_reads=(world.stale_reads | stale) - {(actor.pid, path)})


def _meets_preconditions(world: World, actor: Actor, path: str, uid: str, version: str) -> bool:
    """Whether the object meets the preconditions of a write: UID and resourceVersion, if given."""
    metadata = _metadata(world.find(path) or "{}")
    if uid and metadata["uid"] != uid:
        return False
    if world.version:
        return version in ("", metadata["resourceVersion"])
    # All masked Leases have the same UID. A stale read shows that the Lease was replaced.
    return not (version or uid == "lease") or (actor.pid, path) not in world.stale_reads


@cache
def _metadata(text: str) -> Json:
    return dict(json.loads(text).get("metadata", {}))


@cache
def _selected(text: str, selector: str) -> bool:
    if not selector:
        return True
    labels = _metadata(text).get("labels", {})
    if " in (" in selector:
        key, _, values = selector.removesuffix(")").partition(" in (")
        return labels.get(key) in values.split(",")
    key, _, value = selector.partition("=")
    return key in labels and value in ("", labels[key])


@cache
def _with_uid(body: str, uid: str) -> str:
    document = json.loads(body)
    document["metadata"] |= {"uid": uid, "resourceVersion": "seen"}
    return json.dumps(document, sort_keys=True)


def _with_version(text: str, version: int) -> str:
    document = json.loads(text)
    document["metadata"]["resourceVersion"] = str(version)
    return json.dumps(document, sort_keys=True)


@cache
def _merged(text: str, body: str) -> str:
    """Apply a merge patch (RFC 7386). Its preconditions are not part of the change."""
    document, changes = json.loads(text), json.loads(body)
    pairs = [(document["metadata"].setdefault("labels", {}), changes["metadata"].get("labels", {}))]
    if "data" in changes:
        pairs.append((document.setdefault("data", {}), changes["data"]))
    for target, patch in pairs:
        target.update(patch)
        for key in [key for key, value in target.items() if value is None]:
            del target[key]
    return json.dumps(document, sort_keys=True)


# The node


def _birth(world: World, _: Actor, sandbox: str, after: str) -> Outcomes:
    """The runtime creates a sandbox. Blocks until DEL of `after` has begun and the path is free."""
    if (after and after not in world.tombstones) or _namespace_at(world.namespaces, netns_path(sandbox)):
        return []
    return [(world._replace(namespaces=world.namespaces | {sandbox}), None)]


def _bury(world: World, _: Actor, sandbox: str) -> Outcomes:
    """Write a tombstone. Blocks until the runtime has created the sandbox, because DEL follows ADD.

    DEL may come twice, and after the namespace is gone. The answer is whether there was a tombstone already.
    """
    again = sandbox in world.tombstones
    if sandbox not in world.namespaces and not again:
        return []
    return [(world._replace(tombstones=world.tombstones | {sandbox}), again)]


def _buried(world: World, _: Actor, sandbox: str) -> Outcomes:
    return [(world, sandbox in world.tombstones)]


def _collapse(world: World, _: Actor, sandbox: str, missing_ok: bool = False, deleted: bool = True) -> Outcomes:
    """Remove a sandbox's namespace with its interfaces. Blocks until DEL has written the tombstone.

    `missing_ok`: the namespace may already be gone. `deleted=False` removes the namespace without a DEL.
    """
    if missing_ok and sandbox not in world.namespaces:
        return [(world, None)]
    if (deleted and sandbox not in world.tombstones) or sandbox not in world.namespaces:
        return []
    inside = [one.place for one in world.interfaces if one.place[0] == netns_path(sandbox)]
    kept = _without(world.interfaces, inside)
    return [(world._replace(namespaces=world.namespaces - {sandbox}, interfaces=kept), None)]


def _lock(world: World, actor: Actor, link: str) -> Outcomes:
    if any(node == actor.node and name == link for node, name, _ in world.locks):
        return []
    return [(world._replace(locks=world.locks | {(actor.node, link, actor.pid)}), None)]


def _unlock(world: World, actor: Actor, link: str) -> Outcomes:
    return [(world._replace(locks=world.locks - {(actor.node, link, actor.pid)}), None)]


def _write(world: World, actor: Actor, entry: SandboxEntry) -> Outcomes:
    kept = _entries_except(world, actor.node, entry.attachment)
    return [(world._replace(entries=kept | {(actor.node, entry)}), None)]


def _read(world: World, actor: Actor, attachment: Attachment) -> Outcomes:
    found = (entry for node, entry in world.entries if node == actor.node and entry.attachment == attachment)
    return [(world, next(found, None))]


def _forget(world: World, actor: Actor, attachment: Attachment) -> Outcomes:
    return [(world._replace(entries=_entries_except(world, actor.node, attachment)), None)]


def _entries(world: World, actor: Actor) -> Outcomes:
    found = [entry for node, entry in world.entries if node == actor.node]
    return [(world, tuple(sorted(found, key=lambda entry: entry.attachment.file_name)))]


def _of_container(world: World, actor: Actor, container_id: str) -> Outcomes:
    ((_, entries),) = _entries(world, actor)
    return [(world, tuple(entry for entry in entries if entry.attachment.container_id == container_id))]


def _change_ends(world: World, actor: Actor, attachment: Attachment, change: ChangeEnds) -> Outcomes:
    """Change the entry's ends in one step. The answer is the earlier ends; None if there is no entry."""
    ((_, entry),) = _read(world, actor, attachment)
    if entry is None:
        return [(world, None)]
    ((changed, _),) = _write(world, actor, replace(entry, ends=change(entry.ends)))
    return [(changed, entry.ends)]


def _held(world: World, actor: Actor, lock: str) -> Outcomes:
    return [(world, any((node, name) == (actor.node, lock) for node, name, _ in world.locks))]


def _entries_except(world: World, node: str, attachment: Attachment) -> frozenset[tuple[str, SandboxEntry]]:
    return frozenset(one for one in world.entries if one[0] != node or one[1].attachment != attachment)


def _sleep(world: World, _: Actor, until: float) -> Outcomes:
    return [(world, None)] if world.now >= until else []


def _choose(world: World, actor: Actor, offer: Callable[[World, Actor], Iterable[Any]]) -> Outcomes:
    """One outcome for each choice of the process. The world does not change."""
    return [(world, choice) for choice in offer(world, actor)]


def _notice(world: World, actor: Actor, offer: Callable[[World, Actor], Iterable[tuple[str, Any]]]) -> Outcomes:
    """As `_choose`, for objects with their paths: the chosen object counts as read."""
    return [(_mark_read(world, actor, path), choice) for path, choice in offer(world, actor)]


def _believed(world: World, actor: Actor, path: str, cached: str) -> Outcomes:
    """Whether a process still relies on a cached object.

    True if the cached object is current. If it is stale, the watch may have reported the change or not. False if the
    process has read the new object.
    """
    if world.find(path) == cached:
        return [(world, True)]
    return [(world, True), (world, False)] if (actor.pid, path) in world.stale_reads else [(world, False)]


# The kernel


def _observe(world: World, _: Actor, wire: Wire) -> Outcomes:
    return [(world, observed(world.interfaces, world.namespaces, wire))]


def _ensure(world: World, _: Actor, wire: Wire, evict: bool = True) -> Outcomes:
    found = observed(world.interfaces, world.namespaces, wire)
    if isinstance(found, Failure):
        return [(world, found)]
    if not differences(wire, found):
        return [(world, False)]
    others = [one for one in _claims(world.interfaces, wire) if one.place != _place(wire.near)]
    if others and not (evict and all(one.device.ours for one in others)):
        failure = Failure("foreign VNI" if evict else "VNI in use", str(others[0].device.vni))
        return [(world._replace(interfaces=_without_tunnel(world.interfaces, wire)), failure)]
    return [(world._replace(interfaces=_made(world.interfaces, wire)), True)]


def _patch_one_way(world: World, _: Actor, wire: PatchWire) -> Outcomes:
    """Patch the near cable to the far one, before the rest of the link is built."""
    near = next((one for one in world.interfaces if one.place == _place(wire.near)), None)
    if near is None or near.device.kind != CABLE:
        return [(world, None)]
    patched = replace(near, patched=_place(wire.far), device=_without_tunnel_fields(near.device))
    return [(world._replace(interfaces=world.interfaces - {near} | {patched}), None)]


def _make(world: World, _: Actor, wire: Wire) -> Outcomes:
    found = observed(world.interfaces, world.namespaces, wire)
    if isinstance(found, Failure):
        return [(world, found)]
    made = _with_cable(world.interfaces, wire) if is_panel_wire(wire) else _made(world.interfaces, wire)
    # `make` removes nothing: if an interface is in the way, nothing is created.
    return [(world._replace(interfaces=made), True) if made > world.interfaces else (world, False)]


def _remove(world: World, _: Actor, location: Location, ifname: str) -> Outcomes:
    if not _is_there(world.namespaces, location.netns, location.cookie):
        return [(world, False)]
    if _belongs_to_another_link(world, location, ifname):
        return [(world, Failure("foreign", location.netns))]
    kept = disconnected(_without(world.interfaces, [(location.netns, ifname)]), (location.netns, ifname))
    sandbox, found = _namespace_at(world.namespaces, location.netns), _device_at(world, location, ifname)
    if sandbox and sandbox not in world.tombstones and found and found.kind == CABLE:
        world = world._replace(replaced=world.replaced | {sandbox})
    return [(world._replace(interfaces=kept), kept != world.interfaces)]


def _lose_panel(world: World, _: Actor, paths: tuple[str, ...]) -> Outcomes:
    """The panel of a node is gone, and with it all cables in these namespaces."""
    kept = frozenset(one for one in world.interfaces if one.place[0] not in paths or one.device.kind != CABLE)
    return [(world._replace(interfaces=kept), None)]


def _belongs_to_another_link(world: World, location: Location, ifname: str) -> bool:
    """Whether the interface has another index than the reserved one, so it belongs to another link."""
    found = _device_at(world, location, ifname)
    return found is not None and location.index not in (0, found.index)


def _observe_port(world: World, _: Actor, location: Location, ifname: str) -> Outcomes:
    if not _is_there(world.namespaces, location.netns, location.cookie):
        return [(world, Failure("gone", location.netns))]
    if _belongs_to_another_link(world, location, ifname):
        return [(world, Failure("foreign", location.netns))]
    return [(world, _device_at(world, location, ifname))]


def _device_at(world: World, location: Location, ifname: str) -> Device | None:
    return next((one.device for one in world.interfaces if one.place == (location.netns, ifname)), None)


def _cookie(world: World, _: Actor, path: str) -> Outcomes:
    sandbox = _namespace_at(world.namespaces, path)
    return [(world, Failure("gone", path) if sandbox is None else cookie_of(sandbox))]


def _namespace_at(namespaces: frozenset[str], path: str) -> str | None:
    """The sandbox whose namespace has this path."""
    return next((one for one in namespaces if netns_path(one) == path), None)


def _is_there(namespaces: frozenset[str], path: str, cookie: int) -> bool:
    """Whether the namespace with this cookie is at the path. With cookie 0, any namespace counts."""
    sandbox = _namespace_at(namespaces, path)
    return sandbox is not None and cookie in (0, cookie_of(sandbox))


@cache
def observed(interfaces: frozenset[Interface], namespaces: frozenset[str], wire: Wire) -> Observed | Failure:
    """The interfaces at the wire's ends, or a failure that names the namespace that is gone."""
    ports = (wire.near, wire.far) if isinstance(wire, VethWire) else (wire.near,)
    for port in ports:
        if not _is_there(namespaces, port.netns, port.cookie):
            return Failure("gone", port.netns)
    at = {one.place: one for one in interfaces}
    near = at.get(_place(wire.near))
    if isinstance(wire, PatchWire):
        is_there = _is_there(namespaces, wire.far.netns, wire.far.cookie)
        far_cable = at.get(_place(wire.far)) if is_there else None
        ends = ((near, _place(wire.far)), (far_cable, _place(wire.near)))
        return Observed(*(replace(one.device, wired=one.patched == to) if one else None for one, to in ends))
    if near is not None and isinstance(wire, VxlanWire) and wire.switches and near.sends_to is not None:
        return Observed(replace(near.device, wired=False))
    if not isinstance(wire, VethWire):
        return Observed(near.device if near else None)
    far = at.get(_place(wire.far))
    wired = near is not None and near.peer == _place(wire.far)
    return Observed(*(replace(one.device, wired=wired) if one else None for one in (near, far)))


@cache
def _made(interfaces: frozenset[Interface], wire: Wire) -> frozenset[Interface]:
    if isinstance(wire, VethWire):
        near, far = _place(wire.near), _place(wire.far)
        kept = _without(interfaces, [near, far])
        return kept | {Interface(near, _veth(wire.near), far), Interface(far, _veth(wire.far), near)}
    if not isinstance(wire, VxlanWire) or wire.wiring is Wiring.PANEL:
        return _connected(_with_cable(interfaces, wire), wire)
    # A kernel allows one tunnel per VNI and address, so other tunnels with this VNI are removed first.
    kept = _without(interfaces, [_place(wire.near), *(one.place for one in _claims(interfaces, wire))])
    return kept | {Interface(_place(wire.near), _tunnel(wire))}


def _with_cable(interfaces: frozenset[Interface], wire: Wire) -> frozenset[Interface]:
    """The interfaces with the wire's near cable. A new cable has no carrier; an existing interface is left alone."""
    if any(one.place == _place(wire.near) for one in interfaces):
        return interfaces
    return interfaces | {Interface(_place(wire.near), replace(_device(wire.near, CABLE), carrier=False))}


def _connected(interfaces: frozenset[Interface], wire: Wire) -> frozenset[Interface]:
    """The interfaces with the wire's cables patched and raised as it requires."""
    cables = {one.place: one for one in interfaces}
    near = cables[_place(wire.near)]
    if isinstance(wire, PatchWire):
        far = cables.get(_place(wire.far))
        if far is None:
            return interfaces
        pairs = ((wire.near, far.place), (wire.far, near.place))
        return interfaces - {near, far} | {Interface(_place(one), _device(one, CABLE), patched=to) for one, to in pairs}
    if not isinstance(wire, VxlanWire):
        assert isinstance(wire, CableWire)
        lowered = replace(near.device, mtu=wire.near.mtu, addresses=wire.near.addresses, given=wire.near.addresses)
        lowered = replace(lowered, carrier=False) if wire.keeps_tunnel else _without_tunnel_fields(lowered)
        return interfaces - {near} | {replace(near, device=lowered)}
    others = _claims(interfaces - {near}, wire)
    cut = {replace(one, device=_without_tunnel_fields(one.device)) for one in others}
    tunnel = replace(_tunnel(wire), kind=CABLE, carrier=wire.carrier, carrier_fixed=False)
    used = (near.sends_to or near.device.port) if near.device.vni == wire.vni else None
    former = used if used != wire.port else None
    sends_to = former if not wire.switches else None
    made = replace(near, patched=None, device=tunnel, sends_to=sends_to, former=former or near.former)
    return interfaces - {near, *others} | cut | {made}


def _without_tunnel(interfaces: frozenset[Interface], wire: Wire) -> frozenset[Interface]:
    """The interfaces after a tunnel at the wire's near end was removed. A cable stays, without carrier."""
    near = next((one for one in interfaces if one.place == _place(wire.near)), None)
    if near is None or near.device.kind != CABLE:
        return _without(interfaces, [_place(wire.near)])
    return interfaces - {near} | {replace(near, device=_without_tunnel_fields(near.device))}


def _without_tunnel_fields(device: Device) -> Device:
    """A cable that is patched to no tunnel, and so has no carrier."""
    return replace(device, vni=None, remote=None, local=None, port=None, parent_index=None, carrier=False)


def disconnected(interfaces: frozenset[Interface], gone: InterfacePlace) -> frozenset[Interface]:
    """The interfaces after a cable was taken down with the carrier of the cable that was patched to it."""
    far = {one for one in interfaces if one.patched == gone}
    return interfaces - far | {replace(one, device=replace(one.device, carrier=False)) for one in far}


def _claims(interfaces: frozenset[Interface], wire: Wire) -> list[Interface]:
    """The tunnels on the wire's node that have its VNI."""
    if not isinstance(wire, VxlanWire):
        return []
    return [one for one in interfaces if (one.device.vni, one.device.local) == (wire.vni, wire.local)]


def _without(interfaces: frozenset[Interface], places: Iterable[InterfacePlace]) -> frozenset[Interface]:
    """The interfaces that remain after these are deleted. A vEth is deleted with its peer."""
    gone = set(places)
    return frozenset(one for one in interfaces if one.place not in gone and one.peer not in gone)


def _place(port: InterfaceSpec) -> InterfacePlace:
    return (port.netns, port.ifname)


def _veth(port: InterfaceSpec) -> Device:
    return _device(port, "veth")


def _tunnel(wire: VxlanWire) -> Device:
    parts = {"vni": wire.vni, "remote": wire.remote, "local": wire.local, "port": wire.port}
    # Carrier is not modelled: no tunnel loses it.
    made = replace(_device(wire.near, "vxlan"), parent_index=wire.parent.index, carrier_fixed=True)
    return replace(made, **parts)  # type: ignore[arg-type]


def _device(port: InterfaceSpec, kind: str) -> Device:
    return Device(
        ifname=port.ifname,
        index=port.index or 2,
        kind=kind,
        ours=True,
        up=True,
        mtu=port.mtu,
        mac=port.mac,
        addresses=port.addresses,
        given=port.addresses,
        txqlen=DEFAULT_TXQLEN if port.txqlen is None else port.txqlen,
    )


_REQUESTS: dict[str, Callable[..., Outcomes]] = {
    "get": _get,
    "list": _list,
    "glance": _glance,
    "create": _create,
    "patch": _patch,
    "delete": _delete,
    "watch": _watch,
    "put": _put,
    "forbid": _forbid,
    "allow": _allow,
    "birth": _birth,
    "bury": _bury,
    "buried": _buried,
    "collapse": _collapse,
    "lock": _lock,
    "unlock": _unlock,
    "write": _write,
    "read": _read,
    "forget": _forget,
    "entries": _entries,
    "of_container": _of_container,
    "change_ends": _change_ends,
    "held": _held,
    "sleep": _sleep,
    "choose": _choose,
    "notice": _notice,
    "believed": _believed,
    "observe": _observe,
    "make": _make,
    "ensure": _ensure,
    "remove": _remove,
    "observe_port": _observe_port,
    "patch_one_way": _patch_one_way,
    "lose_panel": _lose_panel,
    "cookie": _cookie,
    "is_there": lambda world, _, location: [(world, _is_there(world.namespaces, location.netns, location.cookie))],
}
