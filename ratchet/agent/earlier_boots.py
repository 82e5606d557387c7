"""Sandboxes of earlier boots of the node, whose namespaces are gone."""

from __future__ import annotations

import logging
from dataclasses import replace

from ratchet.agent.logs import about
from ratchet.agent.queue import ReconcileQueue
from ratchet.node.journal import Journal, boot_id

log = logging.getLogger(__name__)


def drop_earlier_boots(journal: Journal, queue: ReconcileQueue) -> None:
    """Drop the ends of sandboxes of earlier boots, and queue their links. The results of delegates stay for DEL."""
    for entry in journal.entries():
        if entry.boot == boot_id():
            continue
        with about(pod=entry.pod, sandbox=entry.attachment.container_id):
            log.info("sandbox of an earlier boot: ends dropped")
            for end in entry.ends:
                queue.enqueue_link(end.link)
            # `began` is a time of the earlier boot's clock. 0 is before every time of this boot.
            journal.write(replace(entry, ends=(), asks=False, began=0.0), may_defer=True)
