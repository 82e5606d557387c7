"""The agent's patch panel: held open from the first look that finds it, and watched.

The shim makes the panel before it hands a call over, so a node without pods has none yet. The open panel outlives its
name. The shim asks for it before it makes another one (`descriptor`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ratchet.datapath.panel.namespace import has_name, hold_panel
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)


class NodePanel:
    """The patch panel at a path. Thread-safe. Each change is logged once.

    `opened` is called once with the path and the cookie of the panel.
    """

    def __init__(self, path: str, opened: Callable[[str, int], None] = lambda _path, _cookie: None) -> None:
        self._path = path
        self._opened = opened
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._has_name = True
        self._fault = ""

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the panel's namespace, which stays open; None if there is no panel yet."""
        return self._descriptor

    @property
    def fault(self) -> str:
        """Why the panel cannot be used; empty if it can, or if there is none yet."""
        return self._fault

    def hold(self) -> None:
        """Open the panel, if it exists and is not open yet. A fault is logged and does not raise RatchetError."""
        if self._descriptor is None:
            self.look()

    def look(self) -> None:
        """Hold the panel, and check that it still has its name. A fault is logged and does not raise RatchetError."""
        with self._lock:
            try:
                panel = hold_panel(self._path)
                has_its_name = panel is None or has_name(panel)
            except RatchetError as error:
                self._note_fault(f"{error} ({error.details})" if error.details else str(error))
                return
            except OSError as error:  # such as too many open files
                self._note_fault(f"cannot open patch panel {self._path}: {error.strerror}")
                return
            self._note_fault("")
            if panel is not None and self._descriptor is None:
                log.info("patch panel opened path=%s cookie=%d", self._path, panel.cookie)
                self._descriptor = panel.netns.fd
                self._opened(self._path, panel.cookie)
            self._note_name(has_its_name)

    def _note_fault(self, fault: str) -> None:
        if fault and fault != self._fault:
            log.error('patch panel unusable cause="%s"', fault)
        elif self._fault and not fault:
            log.info("patch panel fault is over path=%s", self._path)
        self._fault = fault

    def _note_name(self, has_its_name: bool) -> None:
        if self._has_name and not has_its_name:
            log.warning("patch panel lost its name, links stay path=%s", self._path)
        elif has_its_name and not self._has_name:
            log.info("patch panel has its name again path=%s", self._path)
        self._has_name = has_its_name
