"""ADD: set up a starting pod's network and its links. A failed ADD leaves nothing behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ratchet import datapath
from ratchet.cni import delegate
from ratchet.cni.command import Command
from ratchet.cni.delegation import Delegation, prepare
from ratchet.cni.execute import find_plugin
from ratchet.cni.result import Interface, Result
from ratchet.cni.versions import gives_prev_result
from ratchet.core.intent import asks_for_links, wait_of
from ratchet.errors import (
    AlreadyAddedError,
    DelegateError,
    FollowedError,
    InvalidConfigError,
    PodMissingError,
    SupersededError,
)
from ratchet.node.call import Call
from ratchet.node.delete import undo
from ratchet.node.journal import HeldEnd, SandboxEntry
from ratchet.node.reservation import reserve

if TYPE_CHECKING:
    from ratchet.core.interface import Device
    from ratchet.core.model import End
    from ratchet.core.plan import Attempt
    from ratchet.core.pod import Pod
    from ratchet.core.underlay import Underlay
    from ratchet.store.interface import Store

log = logging.getLogger(__name__)

API_SECONDS = 15.0
# The longest wait for topologies that the account may not list, within the pod's own wait. RBAC can answer 403 for a
# short time after an API server has restarted.
TOPOLOGIES_SECONDS = 5.0
# CNI_IFNAME of containerd (go-cni) and CRI-O (ocicni). Multus calls further attachments net1, net2, and so on.
RUNTIME_IFNAME = "eth0"


def add(call: Call) -> dict[str, Any]:
    """Run ADD and return the result in the runtime's version (SPEC.md, "ADD").

    Raises RatchetError, whose code tells the runtime whether to retry. What was created for the sandbox is removed
    before that, or left to the DEL that follows.
    """
    call.refuse_unusable_netns()
    if call.journal.read(call.attachment) is not None:
        raise _added_before(call)
    result = _added(call, time.monotonic())
    _warn_of_no_address(call, result)
    return result.to_json(call.network.cni_version)


def _added(call: Call, began: float) -> Result:
    if not call.arguments.pod_name:
        return _without_links(call, None)
    store = call.connect(API_SECONDS)
    pod = call.pod(store)
    if asks_for_links(pod):
        pod = call.current_pod(store, pod)
    if not asks_for_links(pod):
        return _without_links(call, pod)
    return _with_links(call, store, pod, began)


def _without_links(call: Call, pod: Pod | None) -> Result:
    entry = SandboxEntry(call.attachment, call.arguments.netns, pod.ref if pod else None, began=call.began)
    if call.delegating and call.network.delegate is None:
        who = f"pod {pod.ref}" if pod else f"container {call.arguments.container_id}"
        raise InvalidConfigError(
            f"cannot add {who}: it asks for no links and the configuration has no delegate",
            details='add the key "delegate" with the configuration of the plugin for all other pods',
        )
    entry = replace(entry, delegations=_intended(call, call.network.delegate))

    def set_up() -> Result:
        result = _base(call, entry, call.network.delegate)
        _refuse_deleted(call)
        return result

    with call.interrupts.deferred():
        _begin(call, entry, may_defer=_can_undo_without_journal(call, entry.delegations))
        return _undone_on_failure(call, entry, set_up)


def _with_links(call: Call, store: Store, pod: Pod, began: float) -> Result:
    from ratchet.node.attach import LinkSelection, held_ends  # 15 ms, which a pod without links does not need

    if not pod.node:
        raise PodMissingError(f"cannot link pod {pod.ref}: the pod is on no node")
    underlay = call.node_underlay(store, pod.node)
    entry = SandboxEntry(
        call.attachment,
        call.arguments.netns,
        pod.ref,
        asks=True,
        began=call.began,
        underlay=call.underlay,
        cookie=datapath.netns_cookie(call.arguments.netns),
    )
    requested = wait_of(pod)
    seconds = call.wait if requested is None else requested
    now = time.monotonic()
    until = now + call.wait_seconds(began + seconds - now)
    selection = LinkSelection.look(store, pod, {call.arguments.ifname}, min(seconds, TOPOLOGIES_SECONDS), until)
    wanted = held_ends(store, pod, selection.ends)
    delegations = _intended(call, _delegate(call))

    def set_up() -> Result:
        ends, begun = selection.wait(require=call.require), entry
        if ends != selection.ends:
            begun = _with_ends(call, entry, held_ends(store, pod, ends))
        waits = replace(call, waits_for_cables=call.waits_for_cables or requested is not None)
        return _linked(waits, store, begun, delegations, underlay, until)

    with call.interrupts.deferred():
        with call.journal.sandbox_lock(call.arguments.container_id):
            entry = call.journal.slots.placed(replace(entry, ends=_reserved(call, wanted)))
            _begin(call, entry)
        return _undone_on_failure(call, entry, set_up)


def _undone_on_failure(call: Call, entry: SandboxEntry, set_up: Callable[[], Result]) -> Result:
    """Set up what the entry, which has been written, stands for. Only this may be interrupted, not its undoing."""
    try:
        with call.interrupts.allowed():
            return set_up()
    except BaseException as error:
        _undo_failed(call, entry, error)
        raise


def _linked(
    call: Call,
    store: Store,
    entry: SandboxEntry,
    delegations: tuple[Delegation, ...],
    underlay: Underlay,
    until: float,
) -> Result:
    """Run the delegate, then join the ends of the entry."""
    from ratchet.core.plan import Attempt
    from ratchet.node.attach import link_all

    assert entry.pod is not None  # noqa: S101  # an entry with ends has a pod
    sandbox = underlay.sandbox(call.arguments.container_id, entry.pod, call.arguments.netns, entry.cookie)
    attempts = [Attempt(end.wanted, end.side, sandbox, end.index, slot=entry.slot) for end in entry.ends]
    intended = replace(entry, delegations=delegations)
    if intended != entry:
        _note(call, intended)
    result = _base(call, intended, _delegate(call))
    joined = link_all(
        call.reconciler(store), attempts, underlay, until, require=call.require, waits_for_cables=call.waits_for_cables
    )
    _refuse_deleted(call)
    return result.extended(_link_interfaces(call, attempts, joined))


def _delegate(call: Call) -> Mapping[str, Any] | None:
    """The configuration of the delegate for a pod with links, if there is one."""
    return call.network.boot_network or call.network.delegate


def _with_ends(call: Call, entry: SandboxEntry, wanted: list[HeldEnd]) -> SandboxEntry:
    """The entry with the ends that it can take of those wanted, as written to the journal."""
    with call.journal.sandbox_lock(call.arguments.container_id):
        entry = call.journal.slots.placed(replace(entry, ends=_reserved(call, wanted)))
        _note(call, entry)
    return entry


def _reserved(call: Call, wanted: list[HeldEnd]) -> tuple[HeldEnd, ...]:
    """The ends that this attachment takes, without those that another attachment of the container has."""
    entries = call.journal.of_container(call.arguments.container_id)
    held = [end for entry in entries if entry.attachment != call.attachment for end in entry.ends]
    taken = reserve(wanted, held)
    links = {end.link for end in taken}
    for end in wanted:
        if end.link not in links:
            log.info("end left to another attachment of the container link=%s interface=%s", end.link, end.ifname)
    return taken


def _begin(call: Call, entry: SandboxEntry, *, may_defer: bool = False) -> None:
    """Write the journal entry of this ADD. Only one of several concurrent ADDs goes on.

    A second one would remove what the first creates. Raises AlreadyAddedError.
    """
    if not call.journal.begin(entry, may_defer=may_defer):
        raise _added_before(call)


def _note(call: Call, entry: SandboxEntry, *, may_defer: bool = False) -> None:
    call.refuse_superseded()
    call.journal.write(entry, may_defer=may_defer)


def _can_undo_without_journal(call: Call, delegations: Sequence[Delegation]) -> bool:
    """Whether DEL can undo these delegations if the disk does not accept the journal entry and this process ends.

    DEL has the configuration. A delegate may need its result too, which runtimes keep and send from 0.4.0 on.
    """
    sends_result = gives_prev_result(call.network.cni_version)
    return sends_result or not any(gives_prev_result(one.version) for one in delegations)


def _added_before(call: Call) -> AlreadyAddedError:
    return AlreadyAddedError(
        f"cannot add {call.arguments.ifname} to container {call.arguments.container_id}: it has been added before",
        details="the runtime has to call DEL before it calls ADD again",
    )


def _undo_failed(call: Call, entry: SandboxEntry, error: BaseException) -> None:
    """Undo a failed ADD. What cannot be undone stays in the journal for the DEL that follows."""
    if isinstance(error, FollowedError):
        log.warning("nothing removed, DEL has done it cause=%s", error)
        return
    log.warning("ADD failed, undoing it cause=%s", error)
    noted = call.journal.read(call.attachment) or entry
    try:
        undo(call, noted, "ADD failed")
    except DelegateError as failure:
        log.error("undo incomplete, left to DEL cause=%s", failure)
        call.journal.write(replace(noted, asks=False), may_defer=True)


def _intended(call: Call, config: Mapping[str, Any] | None) -> tuple[Delegation, ...]:
    """The configuration that the delegate is about to receive, if there is a delegate.

    If ADD fails or is killed, DEL uses it to undo what the delegate did. Raises DelegateError if the plugin does not
    exist.
    """
    if config is None:
        return ()
    intended = prepare(config, call.network)
    find_plugin(intended.type, call.arguments.path, call.arguments.root)
    return (intended,)


def _base(call: Call, entry: SandboxEntry, config: Mapping[str, Any] | None) -> Result:
    """The result that ours extends: the delegate's if there is one, else that of the plugins before us."""
    if config is None:
        return call.network.prev_result or Result()
    delegation = delegate.add(config, call.network, call.arguments, timeout=call.delegate_seconds(Command.ADD))
    noted = replace(entry, delegations=(delegation,))
    _note(call, noted, may_defer=_can_undo_without_journal(call, noted.delegations))
    return delegation.decoded_result()


def _link_interfaces(call: Call, attempts: list[Attempt], ends: list[tuple[End, Device | None]]) -> list[Interface]:
    """The interfaces of the links in this sandbox, for the result. Those whose peer has not joined are missing.

    Their addresses and routes are not in the result: CRI-O takes every address of a result as the pod's own, and the
    CHECK of a plugin before us requires all addresses on its own interface, and all routes.
    """
    interfaces = list[Interface]()
    for attempt, (end, observed) in zip(attempts, ends, strict=True):
        device = observed or datapath.observe_port(attempt.location, end.ifname)
        if device is not None:
            interfaces.append(Interface(end.ifname, device.mac, call.arguments.netns, device.mtu))
    return interfaces


def _refuse_deleted(call: Call) -> None:
    call.refuse_superseded()
    if call.is_deleted():
        raise SupersededError(
            f"cannot add {call.arguments.ifname} to container {call.arguments.container_id}: "
            "the runtime deleted it meanwhile"
        )


def _warn_of_no_address(call: Call, result: Result) -> None:
    is_first = call.arguments.ifname == RUNTIME_IFNAME
    if is_first and not result.has_address_on(call.arguments.ifname, call.arguments.netns):
        log.warning(
            "the result has no address on %s: containerd will refuse the sandbox; "
            "pods need a network besides their links (leave boot_network out, or make it a bridge)",
            call.arguments.ifname,
        )
