"""DEL and what undoes an ADD: take down, leave, run the delegates' DEL. It needs neither API server nor namespace.

Only a delegate's failure makes DEL fail, so that the runtime tries again; what else could not be done is said in the
log and left to garbage collection, since a DEL that fails keeps the pod from going.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from ratchet.cni import delegate
from ratchet.cni.delegation import Delegation, prepare
from ratchet.errors import ApiUnavailableError, DelegateError, RatchetError
from ratchet.node.call import Call
from ratchet.node.concurrency import map_concurrently
from ratchet.node.journal import HeldEnd, SandboxEntry, boot_id
from ratchet.node.reconciler import taking_down
from ratchet.store.records import Records

log = logging.getLogger(__name__)

API_SECONDS = 4.0


def delete(call: Call) -> None:
    """Take back what ADD gave this attachment, whatever is left of it (SPEC.md, "DEL").

    An attachment without an entry may have been added under another network name: then the entries of its container and
    interface are taken back. Raises DelegateError alone.
    """
    deleted_before = _bury(call)
    entries = _to_delete(call)
    if not entries and not deleted_before:
        _delete_delegations(call, _likely_delegations(call))
    failures = []
    for entry in entries:
        try:
            _delete_entry(call, entry)
        except DelegateError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def delete_attachment(call: Call) -> None:
    """Take back what ADD gave this attachment under this very network name. Raises DelegateError alone."""
    _bury(call)
    if (entry := call.journal.read(call.attachment)) is not None:
        _delete_entry(call, entry)


def _delete_entry(call: Call, entry: SandboxEntry) -> None:
    if entry.attachment != call.attachment:
        log.info("DEL falls back to another network name: network=%s", entry.attachment.network)
    if entry.boot == boot_id() and entry.began > call.began:
        log.warning("nothing is taken back: the runtime has added it anew since it called")
    else:
        undo(call, entry, "the sandbox was deleted")


def undo(call: Call, entry: SandboxEntry, reason: str) -> None:
    """Take a sandbox's ends down, leave their links, run its delegates' DEL, and forget it.

    Raises DelegateError, once everything else is done; the journal then still has the entry.
    """
    if entry.ends:
        _leave_links(call, entry, reason)
    _delete_delegations(call, entry.delegations)
    try:
        call.journal.forget(entry.attachment)
    except RatchetError as error:
        log.error("what ADD noted stays on disk: %s", error)


def _bury(call: Call) -> bool:
    try:
        return call.journal.bury(call.attachment, call.began)
    except RatchetError as error:
        log.error("an ADD that still runs will not learn of this DEL: %s", error)
        return False


def _to_delete(call: Call) -> list[SandboxEntry]:
    try:
        return call.journal.to_delete(call.attachment)
    except RatchetError as error:
        log.error("cannot find entries under other network names, they are left to `ratchet gc`: %s", error)
        return []


def _leave_links(call: Call, entry: SandboxEntry, reason: str) -> None:
    """Take the ends down and out of their records, several at once."""
    records, away = _connected(call), threading.Event()
    container_id = entry.attachment.container_id

    def leave(end: HeldEnd) -> None:
        try:
            removing = taking_down(call.journal, container_id, entry.location(end), end.ifname)
            with call.journal.lock(end.link), removing:
                if records is None or away.is_set():
                    return
                call.reconciler(records).leave(end.link, container_id, reason)
            log.info("left link %s: %s", end.link, reason)
        except ApiUnavailableError as error:
            log.error("the record of %s, and what follows, is left to the agent or `ratchet gc`: %s", end.link, error)
            away.set()  # one that is down would be waited for again and again
        except RatchetError as error:
            log.error("the end of %s is left to the agent or `ratchet gc`: %s", end.link, error)

    map_concurrently(leave, entry.ends)


def _connected(call: Call) -> Records | None:
    try:
        return call.connect(API_SECONDS)
    except RatchetError as error:
        log.warning("the records of its links are left to the agent or `ratchet gc`: %s", error)
        return None


def _delete_delegations(call: Call, delegations: Sequence[Delegation]) -> None:
    """Run the delegates' DEL, the last added first. Raises the first DelegateError when all have been run."""
    failures = []
    for delegation in reversed(delegations):
        try:
            if said := delegate.delete(delegation, call.arguments):
                log.info("delegate %s: %s", delegation.type, said)
        except DelegateError as error:
            log.error("%s", error)
            failures.append(error)
    if failures:
        raise failures[0]


def _likely_delegations(call: Call) -> list[Delegation]:
    """What ADD may have given to delegates, where nothing was noted: a DEL too many does no harm, one too few leaks."""
    return [_with_prev_result(prepare(config, call.network), call) for config in call.delegates()]


def _with_prev_result(delegation: Delegation, call: Call) -> Delegation:
    previous = call.network.prev_result
    return replace(delegation, result=previous.to_json(delegation.version)) if previous else delegation
