"""Remove the whole patch panel of a node: with its cables, the pods lose their interfaces in panel wiring."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ratchet.datapath.panel.attachments import remove_group
from ratchet.datapath.panel.cables import cables_of
from ratchet.datapath.panel.devices import PanelDevice, devices_of
from ratchet.datapath.panel.namespace import open_panel, panel_channel
from ratchet.datapath.rtnetlink import RefusedError
from ratchet.errors import DatapathError, ForeignNamespaceError, NamespaceGoneError

MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def cables_at(path: str) -> list[PanelDevice]:
    """The cables of the panel at `path`; none if there is no panel of Ratchet's. Raises DatapathError."""
    try:
        with open_panel(path) as panel:
            return cables_of(panel)
    except (NamespaceGoneError, ForeignNamespaceError):
        return []


def remove_panel(path: str) -> bool:
    """Remove the panel at `path` with Ratchet's devices in it. Returns False if there is none of Ratchet's.

    Only a process that sees the node's mounts can remove the name. Raises DatapathError.
    """
    try:
        with open_panel(path) as panel:
            with panel_channel(panel) as channel:
                groups = {device.group for device in devices_of(channel) if device.ours}
            for group in sorted(groups):
                remove_group(panel, group)
    except (NamespaceGoneError, ForeignNamespaceError):
        return False
    except RefusedError as refusal:
        raise DatapathError(f"cannot read patch panel {path}: {refusal.strerror}") from refusal
    try:
        if _libc.umount2(path.encode(), MNT_DETACH) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        Path(path).unlink()
    except OSError as error:
        raise DatapathError(
            f"cannot remove patch panel {path}: {error.strerror}",
            details=f"Run on the node: ip netns del {Path(path).name}",
        ) from error
    return True
