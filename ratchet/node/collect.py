"""GC: delete the attachments of this network on this node that the runtime no longer lists."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from ratchet.cni import delegate
from ratchet.cni.command import Command
from ratchet.datapath import tunnel_guard
from ratchet.errors import GuardError, RatchetError
from ratchet.node.call import Call
from ratchet.node.delete import delete_attachment
from ratchet.node.held_tunnels import held_owners
from ratchet.node.journal import Attachment
from ratchet.node.panel_sweep import sweep_panel

log = logging.getLogger(__name__)


def collect(call: Call) -> None:
    """Delete attachments that are not in the runtime's list of valid ones (SPEC.md, "GC").

    Without a list nothing is removed: a missing list is not an empty one. Continues after errors, and raises the first
    one at the end.
    """
    failures = _delete_unknown(call)
    sweep_panel(call.journal.panel)
    _sweep_guard(call)
    for config in call.delegates():
        try:
            delegate.gc(config, call.network, call.arguments, timeout=call.delegate_seconds(Command.GC))
        except RatchetError as error:
            log.error("%s", error)
            failures.append(error)
    if failures:
        raise failures[0]


def _sweep_guard(call: Call) -> None:
    """Remove tunnels that are gone from the guard of the tunnel port; links work without the guard."""
    held = held_owners(call.journal)
    try:
        # An agent (which knows its node) keeps the table, also without tunnels.
        if removed := tunnel_guard.sweep(held, remove_if_empty=not call.node):
            log.info("tunnels removed from the guard tunnels=%d", removed)
    except GuardError as error:
        log.warning("%s", error)


def _delete_unknown(call: Call) -> list[RatchetError]:
    if call.network.valid_attachments is None:
        return []
    valid = {(one.container_id, one.ifname) for one in call.network.valid_attachments}
    failures = []
    for attachment, netns in _attachments(call):
        if attachment.network != call.network.name or (attachment.container_id, attachment.ifname) in valid:
            continue
        log.info(
            "removing attachment without DEL container=%s interface=%s", attachment.container_id, attachment.ifname
        )
        try:
            with call.interrupts.deferred():
                delete_attachment(call.deleting(attachment, netns))
        except RatchetError as error:
            log.error("%s", error)
            failures.append(error)
    return failures


def _attachments(call: Call) -> Iterator[tuple[Attachment, str]]:
    """The attachments in the journal, each with its namespace; "" for an unreadable file of this network."""
    for entry in call.journal.entries():
        yield entry.attachment, entry.netns
    for name in call.journal.unreadable():
        container_id, _, rest = name.partition("+")  # an interface's name may have a `+` too
        attachment = Attachment(call.network.name, container_id, rest.rpartition("+")[0])
        if attachment.file_name == name:
            yield attachment, ""
