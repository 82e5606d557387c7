"""The node's state on disk: entries of attachments, tombstones of deleted sandboxes, locks of links.

The state is small files that only root can access, each put in place by a rename. Nothing here needs the API server,
so DEL finds what to remove without it. Changes that a full or read-only disk rejects can be deferred: they are kept in
memory, and `flush` writes them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from ratchet.core.limits import LINKS_PER_NODE
from ratchet.core.panel import PANEL_PATH
from ratchet.core.sandbox import Location
from ratchet.errors import RatchetError
from ratchet.node.boot import boot_id, since_boot
from ratchet.node.deferred import DeferredEntries
from ratchet.node.entries import Attachment, HeldEnd, SandboxEntry, is_held_by_another
from ratchet.node.entry_files import EntryFiles
from ratchet.node.entry_index import EntryIndex
from ratchet.node.link_admission import LinkAdmission
from ratchet.node.locks import LOCK_SECONDS, KeyedLocks, Locks
from ratchet.node.panel_slots import PanelSlots
from ratchet.node.tombstones import TOMBSTONE_SECONDS, Tombstones

__all__ = ["TOMBSTONE_SECONDS", "Attachment", "HeldEnd", "Journal", "SandboxEntry", "boot_id", "since_boot"]

log = logging.getLogger(__name__)

PURGE_SECONDS = 60.0


class Journal:
    """The journal under `state_dir` (default /var/lib/cni/ratchet).

    Methods raise RatchetError if a write fails, unless it is deferred. With `remembers` all entries are also kept in
    memory. This is for an agent, which writes nearly all of them. The plugin beside it may write others; `reload` finds
    these. A write that would give the agent's node more than `links_most` links raises InvalidIntentError.
    """

    def __init__(
        self,
        state_dir: str | Path,
        lock_seconds: float = LOCK_SECONDS,
        *,
        remembers: bool = False,
        links_most: int = LINKS_PER_NODE,
        panel: str = PANEL_PATH,
        prepare_panel: Callable[[], object] = lambda: None,
    ) -> None:
        root = Path(state_dir)
        self._memory = EntryIndex() if remembers else None
        self._admission = LinkAdmission(self._memory, links_most)
        # The attachments whose entries were written or removed while `reload` runs; None while it does not run.
        self._changed: set[Attachment] | None = None
        self._remembering = threading.Lock()
        self._files = EntryFiles(root / "sandboxes", root / "unreadable")
        self._entries = DeferredEntries(self._files)
        self._tombstones = Tombstones(root / "deleted", remembers=remembers)
        self._locks = Locks(root / "links.lock", lock_seconds)
        self._entry_locks = KeyedLocks()
        self.panel = panel
        self.slots = PanelSlots(root / "panel", panel, prepare_panel)
        self._purged = float("-inf")
        if remembers:
            self.reload()

    def reload(self) -> None:
        """Update memory from disk and remove expired files. Not thread-safe."""
        if self._memory is None:
            return
        with self._remembering:
            self._changed = set()
        try:
            read = self._entries.read_all()
            listed = {entry.attachment for entry in read}
            new = [entry for entry in read if self._memory.get(entry.attachment) is not entry]
            # An entry whose file exists but cannot be read now is kept: its sandbox may still be there.
            missing = {entry.attachment for entry in self._memory.entries()} - listed
            gone = [attachment for attachment in missing if not self._entries.exists(attachment)]
            with self._remembering:
                for entry in new:
                    if entry.attachment not in self._changed:
                        self._memory.put(entry)
                for attachment in gone:
                    if attachment not in self._changed:
                        self._memory.forget(attachment)
        finally:
            with self._remembering:
                self._changed = None
        self._purge()

    def write(self, entry: SandboxEntry, *, may_defer: bool = False) -> None:
        """Write an entry. With `may_defer`, one that the disk rejects is kept in memory until `flush` writes it."""
        entry = replace(entry, boot=boot_id())
        with self._admission.admitted(entry):
            self._entries.write(entry, may_defer=may_defer)
            self._remember(entry.attachment, entry)

    def begin(self, entry: SandboxEntry, *, may_defer: bool = False) -> bool:
        """Write the entry of an ADD that begins; `may_defer` as for `write`.

        Returns False and writes nothing if the attachment has an entry. Of several concurrent calls, only one returns
        True. An unreadable file of the attachment is set aside.
        """
        entry, name = replace(entry, boot=boot_id()), entry.attachment.file_name
        if self._files.exists(entry.attachment) and self._files.read(entry.attachment) is None:
            self._files.set_aside(name)
        with self._admission.admitted(entry), suppress(FileExistsError):
            self._entries.write(entry, exclusive=True, may_defer=may_defer)
            self._remember(entry.attachment, entry)
            return True
        return False

    def change_ends(self, attachment: Attachment, change: Callable[[tuple[HeldEnd, ...]], tuple[HeldEnd, ...]]) -> bool:
        """Change the ends in an attachment's entry. Returns False if the attachment has no entry any more."""
        with self._entry_locks.of(attachment.file_name):
            if (entry := self.read(attachment)) is None:
                return False
            ends = change(entry.ends)
            if ends != entry.ends:
                self.write(self.slots.placed(replace(entry, ends=ends)))
            return True

    def read(self, attachment: Attachment) -> SandboxEntry | None:
        """The entry that ADD wrote; None if there is none or it cannot be read."""
        if self._memory is not None and (known := self._memory.get(attachment)) is not None:
            return known
        return self._entries.read(attachment)

    def to_delete(self, attachment: Attachment) -> list[SandboxEntry]:
        """The entries that a DEL of this attachment undoes.

        The operator can rename the network between ADD and DEL. If the attachment has no entry, these are the entries
        of its container and interface under other network names. Raises RatchetError if they cannot be listed.
        """
        if (entry := self.read(attachment)) is not None:
            return [entry]
        found = self._entries.read_all(f"{attachment.interface_key}+")  # reads no file of another container
        return [entry for entry in found if entry.attachment.interface_key == attachment.interface_key]

    def still_wants(self, entry: SandboxEntry, end: HeldEnd) -> bool:
        """Whether the sandbox of an entry that was read earlier still needs an end.

        False if, since then, its ADD has failed, the sandbox was deleted, or another ADD of the attachment has begun.
        False also if the link is no longer one of the sandbox's links.
        """
        current = self.read(entry.attachment)
        if current is None or not current.asks or current.began != entry.began:
            return False
        return (wanted := current.end_of(end.link)) is not None and wanted.side is end.side

    def forget(self, attachment: Attachment) -> None:
        """Remove an attachment's entry, if it has one. The removal of its file is deferred if the disk rejects it."""
        with self._entry_locks.of(attachment.file_name):
            entry = self.read(attachment)
            self._entries.remove(attachment)
            if entry is not None and entry.slot is not None:
                self.slots.free(entry.slot, attachment)
            self._remember(attachment, None)

    def entries(self) -> list[SandboxEntry]:
        """The entries of all attachments on this node."""
        return self._memory.entries() if self._memory is not None else self._entries.read_all()

    def of_container(self, container_id: str) -> list[SandboxEntry]:
        """The entries of a container's attachments."""
        if self._memory is not None:
            return self._memory.of_container(container_id)
        return self._entries.read_all(f"{container_id}+")

    def of_pod(self, namespace: str, name: str) -> list[SandboxEntry]:
        """The entries of the sandboxes of all pods that have, or had, this name."""
        if self._memory is not None:
            return self._memory.of_pod(namespace, name)
        return [one for one in self.entries() if one.pod and (one.pod.namespace, one.pod.name) == (namespace, name)]

    def in_namespace(self, location: Location) -> list[SandboxEntry]:
        """The entries whose network namespace is that of a location (`SandboxEntry.is_in`)."""
        if self._memory is not None:
            return self._memory.in_namespace(location)
        return [entry for entry in self.entries() if entry.is_in(location)]

    def location(self, link: str, container_id: str) -> Location | None:
        """The location of a sandbox's end of this link; None if this node holds no such end."""
        entries = self.of_container(container_id)
        return next((entry.location(end) for entry in entries if (end := entry.end_of(link)) is not None), None)

    def is_anothers(self, location: Location, ifname: str, container_id: str, link: str = "") -> bool:
        """Whether an interface belongs to another sandbox's end or, with `link`, to another link's end.

        A late DEL and the cleanup of an old link must not remove such an interface.
        """
        return is_held_by_another(self.in_namespace(location), ifname, container_id, link, boot_id())

    def holding(self, link: str) -> list[tuple[SandboxEntry, HeldEnd]]:
        """The entries of sandboxes that have joined, or may have joined, a link, each with its end."""
        entries = self._memory.of_link(link) if self._memory is not None else self.entries()
        return [(entry, end) for entry in entries if (end := entry.end_of(link)) is not None]

    def _remember(self, attachment: Attachment, entry: SandboxEntry | None) -> None:
        with self._remembering:
            if self._memory is not None:
                self._memory.forget(attachment) if entry is None else self._memory.put(entry)
            if self._changed is not None:
                self._changed.add(attachment)

    def bury(self, attachment: Attachment, at: float, *, undone: bool = True) -> bool:
        """Write a tombstone for the attachment, so that an ADD that still runs undoes its work.

        `at` is the time of the DEL in seconds since boot. Returns True if an earlier DEL wrote a tombstone already. An
        ADD under an earlier network name sees it too: the key is the container and the interface. Without `undone`, the
        DEL has failed, and the next one does not count as a repeated one.
        """
        again = self._tombstones.bury(attachment, at, undone=undone)
        self._purge()
        return again

    def is_deleted(self, container_id: str) -> bool:
        """Whether the runtime has called DEL for any attachment of a container in this boot."""
        return self._tombstones.is_deleted(container_id)

    def is_buried(self, attachment: Attachment, began: float) -> bool:
        """Whether DEL came after `began` (seconds since boot). An ADD that began after that DEL is a new one."""
        return self._tombstones.is_buried(attachment, began)

    def was_deleted(self, entry: SandboxEntry) -> bool:
        """Whether the runtime has called DEL for an entry's attachment since its ADD."""
        return self.is_buried(entry.attachment, entry.began)

    def has_unreadable(self, attachment: Attachment) -> bool:
        """Whether a file of the attachment, under any network name, was read and could not be decoded."""
        return bool(self._files.unreadable(f"{attachment.interface_key}+"))

    def unreadable(self) -> list[str]:
        """The names of the files that were read before and could not be decoded (`Attachment.file_name`)."""
        return self._files.unreadable()

    def set_aside(self, attachment: Attachment) -> None:
        """Move the unreadable files of an attachment, which has been deleted, to the folder `unreadable`.

        Raises RatchetError.
        """
        for name in self._files.unreadable(f"{attachment.interface_key}+"):
            self._files.set_aside(name)

    @property
    def deferred(self) -> int:
        """The number of changes that the disk has rejected and that `flush` has not written yet."""
        return len(self._entries) + self._tombstones.deferred

    def flush(self) -> None:
        """Write the deferred changes, and have this process's changes of entries survive a power loss. Does not raise.

        What the disk still rejects stays deferred. Tombstones and locks are of one boot, so they need not survive.
        """
        before = self.deferred
        try:
            self._entries.flush()
            self._tombstones.flush()
        except RatchetError as error:
            log.debug('journal still cannot be written cause="%s"', error)
        if before > self.deferred:
            log.info("deferred journal changes written changes=%d left=%d", before - self.deferred, self.deferred)
        try:
            self._files.sync()
        except RatchetError as error:
            log.error('journal not synced, a power loss may lose changes cause="%s"', error)

    def lock(self, link: str) -> AbstractContextManager[None]:
        """Lock one link on this node for a block. The kernel frees the lock when its process ends.

        Raises TryAgainError if another call holds the lock for `lock_seconds`.
        """
        return self._locks.held(link)

    def sandbox_lock(self, container_id: str) -> AbstractContextManager[None]:
        """Lock one container for a block, in which an attachment takes its ends. Raises as `lock` does."""
        return self._locks.held(f"sandbox/{container_id}")

    def _purge(self) -> None:
        """Remove old tombstones and the partly written files of killed processes."""
        if (now := since_boot()) - self._purged < PURGE_SECONDS:
            return
        self._purged = now
        oldest = time.time() - TOMBSTONE_SECONDS
        self._files.remove_partial(oldest)
        self.slots.remove_stale(oldest, self._files.has)
        self._tombstones.purge()
