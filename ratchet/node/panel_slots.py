"""The places of attachments in the patch panel: a symlink for each group in use, to the name of the attachment's entry.

An agent and the plugin beside it may claim groups at the same time. A symlink is created at once or not at all, and
none is overwritten, so no two attachments get one group.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ratchet.core.panel import PanelSlot, attachment_groups
from ratchet.errors import RatchetError
from ratchet.node.entries import Attachment, SandboxEntry
from ratchet.node.files import make_private_directory, unwritable


class PanelSlots:
    """The groups in a directory, for the panel at the path `panel`, which `prepare` makes if it is missing."""

    def __init__(self, folder: Path, panel: str, prepare: Callable[[], object] = lambda: None) -> None:
        self._folder = folder
        self._panel = panel
        self._prepare = prepare

    def claim(self, attachment: Attachment) -> PanelSlot:
        """Claim a group for an attachment, or find the one that it has. Raises RatchetError."""
        self._prepare()
        name = attachment.file_name
        try:
            make_private_directory(self._folder)
            return PanelSlot(self._panel, next(group for group in attachment_groups(name) if self._is_of(group, name)))
        except OSError as cause:
            raise unwritable(self._folder, cause) from cause
        except StopIteration as cause:
            raise RatchetError(
                "cannot wire a pod to the patch panel: all groups are in use", details="delete pods of this node"
            ) from cause

    def placed(self, entry: SandboxEntry) -> SandboxEntry:
        """An entry with its attachment's place, if one of its links needs one. Raises RatchetError."""
        if entry.slot is not None or not entry.needs_slot:
            return entry
        return replace(entry, slot=self.claim(entry.attachment))

    def free(self, slot: PanelSlot, attachment: Attachment) -> None:
        """Free an attachment's group, if it still has it. One that the disk keeps is left to `remove_stale`."""
        path = self._path(slot.group)
        with suppress(OSError):
            if str(path.readlink()) == attachment.file_name:
                path.unlink()

    def remove_stale(self, oldest: float, is_held: Callable[[str], bool]) -> None:
        """Free the groups claimed before `oldest` (Unix time, seconds) whose entry is not held: its ADD was killed.

        `is_held` tells whether there is an entry of this file name.
        """
        with suppress(OSError), os.scandir(self._folder) as links:
            for link in links:
                with suppress(OSError):  # removed meanwhile, or the disk rejects writes: the next purge retries
                    is_old = link.stat(follow_symlinks=False).st_mtime < oldest
                    if is_old and not is_held(str(Path(link.path).readlink())):
                        Path(link.path).unlink()

    def _is_of(self, group: int, name: str) -> bool:
        """Whether a group is an entry's, or was free and is so now. Raises OSError."""
        path = self._path(group)
        try:
            path.symlink_to(name)
        except FileExistsError:
            try:
                return str(path.readlink()) == name
            except FileNotFoundError:  # freed meanwhile: another group is free as well
                return False
        return True

    def _path(self, group: int) -> Path:
        return self._folder / f"{group:x}"
