"""CHECK: verify that the interfaces that ADD created are still as recorded. It changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ratchet import datapath
from ratchet.cni import delegate
from ratchet.cni.command import Command
from ratchet.core.carrier import panel_end_is_up
from ratchet.core.differences import differences
from ratchet.core.interface import Device, Observed, PatchWire, VethWire, VxlanWire, Wire, is_panel_wire
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link
from ratchet.core.wires import wire_of
from ratchet.errors import (
    CheckFailedError,
    DatapathError,
    InvalidConfigError,
)
from ratchet.node.call import Call
from ratchet.node.journal import HeldEnd, SandboxEntry
from ratchet.node.overrides import NoOverrides
from ratchet.node.record_writer import wall_clock

if TYPE_CHECKING:
    from ratchet.store.interface import Store

API_SECONDS = 10.0


def check(call: Call) -> None:
    """Verify what ADD created (SPEC.md, "CHECK").

    A link whose peer has not joined passes, and an interface that its pod has set down. Without an agent, a link passes
    on which an operation may act.

    Raises CheckFailedError with all differences, DelegateError with the failure of a delegate's CHECK.
    """
    if call.network.prev_result is None:
        raise InvalidConfigError('cannot check the attachment: "prevResult" is missing')
    call.refuse_unusable_netns()
    entry = call.journal.read(call.attachment)
    if entry is None:
        raise CheckFailedError(
            f"cannot find {call.arguments.ifname} of container {call.arguments.container_id}: no ADD is on record here"
        )
    for delegation in entry.delegations:
        delegate.check(delegation, call.arguments, timeout=call.delegate_seconds(Command.CHECK))
    if entry.ends:
        _check_links(call, entry)


def _check_links(call: Call, entry: SandboxEntry) -> None:
    store = call.connect(API_SECONDS)
    found = [fault for end in entry.ends for fault in _faults(call, store, entry, end)]
    if found:
        raise CheckFailedError(f"link check failed for pod {entry.pod}: {'; '.join(found)}")


def _faults(call: Call, store: Store, entry: SandboxEntry, end: HeldEnd) -> tuple[str, ...]:
    record = store.links.get(end.link)
    side = record.side_of(entry.attachment.container_id) if record is not None else None
    if record is None or side is None:
        return (f"{end.link}: its record no longer holds this sandbox",)
    sandbox, peer = record.sandbox(side), record.sandbox(side.other)
    is_incomplete = record.kind is None or peer is None
    if sandbox is None or (record.wiring is Wiring.DIRECT if is_incomplete else not record.is_ready(side)):
        return ()
    if _may_be_operated(call, record):
        return ()
    there = call.journal.location(end.link, peer.container_id) if peer is not None and record.is_local else None
    if peer is not None and record.is_local and there is None:
        return (f"{end.link}: its peer's sandbox {peer.container_id} is not in this node's journal",)
    try:
        record = call.overrides.of(end.link).applied_to(record)
        wire = wire_of(record, side, call.node_underlay(store, sandbox.node), entry.location(end), there)
        observed = datapath.observe(wire)
        if isinstance(wire, VxlanWire) and observed.near is not None:
            # Carrier follows the peer, which may just have joined or left. The guard is best effort.
            guarded = observed.near.guarded
            wire = replace(wire, carrier=observed.near.carrier, guard=wire.guard if guarded is None else guarded)
            # An earlier version's tunnels have the local bypass, and without an agent nothing turns it off.
            options = tuple(option for option in observed.near.options if option != "localbypass")
            observed = replace(observed, near=replace(observed.near, options=options, far_up=None, complete=None))
        elif is_panel_wire(wire):
            observed = _with_carrier(observed, is_complete=isinstance(wire, PatchWire))
        return tuple(f"{end.link}: {fault}" for fault in differences(wire, _with_flushed(wire, observed)))
    except DatapathError as error:
        return (f"{end.link}: {error}",)


def _may_be_operated(call: Call, record: Link) -> bool:
    """Whether an operation may act on a link and the host knows of none: the agent, which does, may be restarting."""
    operation = record.operation
    if operation is None or not isinstance(call.overrides, NoOverrides):
        return False
    return operation.until is None or wall_clock() < operation.until


def _with_flushed(wire: Wire, observed: Observed) -> Observed:
    """The interfaces with what the kernel removes from one that its pod sets down, which is no fault."""
    near = observed.near and observed.near.with_flushed(wire.near)
    far = observed.far and observed.far.with_flushed(wire.far) if isinstance(wire, VethWire | PatchWire) else None
    return Observed(near, far)


def _with_carrier(observed: Observed, *, is_complete: bool) -> Observed:
    """The cables with the carrier that they must have.

    It follows the peer, which may just have joined, left or changed its interface. Without an agent it does not follow
    at all.
    """
    near, far = observed.near, observed.far
    return Observed(_following(near, far, is_complete), _following(far, near, is_complete))


def _following(cable: Device | None, other: Device | None, is_complete: bool) -> Device | None:
    """A cable with the carrier that it must have while it is patched to `other`."""
    if cable is None:
        return None
    far_up = other.up if other is not None else None
    up = panel_end_is_up(link_complete=is_complete, held_down=False, own_pod_up=cable.up, far_pod_up=far_up)
    return replace(cable, carrier=up)
