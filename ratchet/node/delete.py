"""DEL, and the undo of a failed ADD: remove interfaces, leave records, run the delegates' DEL.

DEL needs neither the API server nor the pod's namespace. It fails only if a delegate fails, so that the runtime
retries. Other failures are logged and left to garbage collection, because a failed DEL blocks the pod's deletion.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ratchet import datapath
from ratchet.cni import delegate
from ratchet.cni.command import Command
from ratchet.cni.delegation import Delegation, prepare
from ratchet.core.panel import PanelSlot
from ratchet.errors import ApiUnavailableError, DelegateError, RatchetError
from ratchet.node.call import Call
from ratchet.node.concurrency import map_concurrently
from ratchet.node.journal import HeldEnd, SandboxEntry, boot_id
from ratchet.node.record_writer import RecordWriter
from ratchet.node.teardown import taking_down

if TYPE_CHECKING:
    from ratchet.store.interface import Store

log = logging.getLogger(__name__)

API_SECONDS = 4.0


def delete(call: Call) -> None:
    """Undo ADD for this attachment, whatever is left of it (SPEC.md, "DEL").

    An attachment without a journal entry may have been added under another network name. In that case the entries of
    its container and interface are undone. Raises only DelegateError.
    """
    deleted_before = _bury(call)
    entries = _to_delete(call)
    if not entries and call.journal.has_unreadable(call.attachment):
        _delete_unreadable(call)
    elif not entries and not deleted_before:
        _delete_likely(call)
    failures = []
    for entry in entries:
        try:
            _delete_entry(call, entry)
        except DelegateError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def delete_attachment(call: Call) -> None:
    """Undo ADD for this attachment, under this network name only. Raises only DelegateError."""
    _bury(call)
    if (entry := call.journal.read(call.attachment)) is not None:
        _delete_entry(call, entry)
    elif call.journal.has_unreadable(call.attachment):
        _delete_unreadable(call)


def _delete_entry(call: Call, entry: SandboxEntry) -> None:
    if entry.attachment != call.attachment:
        log.info("DEL falls back to another network name network=%s", entry.attachment.network)
    if entry.boot == boot_id() and entry.began > call.began:
        log.warning("nothing removed, the runtime has added the attachment again since this DEL")
    else:
        delegations = tuple(_with_prev_result(one, call) if one.result is None else one for one in entry.delegations)
        undo(call, replace(entry, delegations=delegations), "the sandbox was deleted")


def _delete_likely(call: Call) -> None:
    """Run the delegates' DEL for an attachment without an entry. A failed one is repeated by the next DEL.

    Raises DelegateError.
    """
    try:
        _delete_delegations(call, _likely_delegations(call))
    except DelegateError:
        _bury(call, undone=False)
        raise


def _delete_unreadable(call: Call) -> None:
    """Undo what an unreadable entry stands for, as far as the call says it, and set the entry's file aside.

    The links' interfaces go with the sandbox's namespace. The agent and gc remove its ends from the records.
    Raises DelegateError; the file then stays, so that the next DEL runs the delegates again.
    """
    log.warning("DEL of a sandbox whose journal file is unreadable")
    _delete_delegations(call, _likely_delegations(call))
    try:
        call.journal.set_aside(call.attachment)
    except RatchetError as error:
        log.error("unreadable journal file not set aside cause=%s", error)


def undo(call: Call, entry: SandboxEntry, reason: str) -> None:
    """Remove a sandbox's interfaces, leave its links, run the delegates' DEL, remove the journal entry.

    Raises DelegateError after everything else is done; the journal then keeps the entry.
    """
    if entry.slot is not None and len(entry.ends) > 1:
        _remove_cables(entry.slot)
    if entry.ends:
        _leave_links(call, entry, reason)
    _delete_delegations(call, entry.delegations)
    call.journal.forget(entry.attachment)


def _remove_cables(slot: PanelSlot) -> None:
    """Remove an attachment's cables at once, without its links' locks. What is left is removed with each link.

    The tombstone keeps this sandbox's ADD from making them again, and a peer's pass waits if it finds none.
    """
    try:
        datapath.remove_attachment(slot.path, slot.group)
    except RatchetError as error:
        log.warning('cables not removed at once cause="%s"', error)


def _bury(call: Call, *, undone: bool = True) -> bool:
    try:
        return call.journal.bury(call.attachment, call.began, undone=undone)
    except RatchetError as error:
        log.error("tombstone not written, a running ADD will not see this DEL cause=%s", error)
        return False


def _to_delete(call: Call) -> list[SandboxEntry]:
    try:
        return call.journal.to_delete(call.attachment)
    except RatchetError as error:
        log.error("entries under other network names not read, left to `ratchet gc` cause=%s", error)
        return []


def _leave_links(call: Call, entry: SandboxEntry, reason: str) -> None:
    """Remove the ends' interfaces and leave their records, several ends at a time."""
    store, away = _connected(call), threading.Event()
    container_id = entry.attachment.container_id

    def leave(end: HeldEnd) -> None:
        try:
            removing = taking_down(call.journal, container_id, entry.location(end), end.ifname)
            with call.journal.lock(end.link), removing:
                if store is None or away.is_set():
                    return
                RecordWriter(store).leave(end.link, container_id, reason)
            log.info("link left link=%s reason=%r", end.link, reason)
        except ApiUnavailableError as error:
            log.error("this and later records left to the agent or `ratchet gc` link=%s cause=%s", end.link, error)
            away.set()  # each further call to an API server that is down would time out too
        except RatchetError as error:
            log.error("end left to the agent or `ratchet gc` link=%s cause=%s", end.link, error)

    map_concurrently(leave, entry.ends, entry.pod.namespace if entry.pod is not None else "")


def _connected(call: Call) -> Store | None:
    try:
        return call.connect(API_SECONDS)
    except RatchetError as error:
        log.warning("records left to the agent or `ratchet gc` cause=%s", error)
        return None


def _delete_delegations(call: Call, delegations: Sequence[Delegation]) -> None:
    """Run the delegates' DEL, the last added first. Raises the first DelegateError after all have run."""
    failures = []
    for delegation in reversed(delegations):
        try:
            if message := delegate.delete(delegation, call.arguments, timeout=call.delegate_seconds(Command.DEL)):
                log.info("delegate reported type=%s message=%r", delegation.type, message)
        except DelegateError as error:
            log.error("%s", error)
            failures.append(error)
    if failures:
        raise failures[0]


def _likely_delegations(call: Call) -> list[Delegation]:
    """The delegations that ADD may have made, for an attachment without an entry.

    A needless DEL does no harm; a missing DEL leaks addresses and interfaces.
    """
    return [_with_prev_result(prepare(config, call.network), call) for config in call.delegates()]


def _with_prev_result(delegation: Delegation, call: Call) -> Delegation:
    previous = call.network.prev_result
    return replace(delegation, result=previous.to_json(delegation.version)) if previous else delegation
