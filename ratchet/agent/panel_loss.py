"""Whether the node's patch panel is another one than before: reported once, because the pods get new interfaces.

While an agent runs, its panel stays. Without an agent, a panel that loses its name is gone with all cables.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ratchet.agent.node_events import NodeEvents, NodeReason
from ratchet.node.files import write_file
from ratchet.node.journal import Journal, boot_id

log = logging.getLogger(__name__)

FILE, SUBJECT = "panel.id", "panel"


@dataclass(frozen=True, slots=True)
class PanelLoss:
    """Compares an opened panel with the last one, which a file in `state_dir` names by boot and cookie."""

    state_dir: str
    journal: Journal
    events: NodeEvents

    def opened(self, path: str, cookie: int) -> None:
        """Report the loss of the former panel if this is another one. Faults are logged and do not raise."""
        file, identity = Path(self.state_dir, FILE), f"{boot_id()} {cookie}"
        try:
            former = file.read_text() if file.exists() else ""
            if former != identity:
                write_file(file, identity.encode())
        except (OSError, UnicodeDecodeError) as error:
            log.warning('patch panel not compared with the former one cause="%s"', error)
            return
        boot, _, former_cookie = former.partition(" ")
        if boot == boot_id() and former != identity:
            self._report(path, cookie, former_cookie)

    def _report(self, path: str, cookie: int, former: str) -> None:
        wired = [one for one in self.journal.entries() if one.slot is not None and one.ends and one.boot == boot_id()]
        pods = len(wired)
        if not pods:
            return
        log.warning(
            "patch panel lost, pods get new interfaces path=%s cookie=%d former=%s pods=%d",
            *(path, cookie, former, pods),
        )
        pods_words = "1 pod gets" if pods == 1 else f"{pods} pods get"
        text = f"patch panel {path} was lost and another one was made: {pods_words} new interfaces"
        self.events.report(SUBJECT, NodeReason.PANEL_LOST, text)
