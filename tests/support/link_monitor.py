"""Watch the carrier of interfaces in a namespace, with `ip monitor`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ratchet.dev.hosts import command_in
from ratchet.dev.testbed import wait_for


@dataclass(slots=True)
class LinkMonitor:
    """The events of a namespace's interfaces, once the block that records them has ended."""

    events: str = ""

    def losses(self, ifname: str) -> int:
        """How often an interface has lost its carrier."""
        lost = ["NO-CARRIER" in line for line in self.events.splitlines() if f" {ifname}@" in line]
        return sum(now and not before for before, now in zip([False, *lost], lost, strict=False))


@contextmanager
def link_monitor(netns: str) -> Iterator[LinkMonitor]:
    """Record the events of the interfaces in a namespace during the block."""
    monitor = LinkMonitor()
    command = command_in(netns, "ip", "-o", "monitor", "link")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_for("the monitor", lambda: _has_socket(process.pid))
            yield monitor
        finally:
            process.terminate()
            monitor.events = process.communicate(timeout=30)[0]


def _has_socket(pid: int) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a program that starts opens and closes files
            if str(descriptor.readlink()).startswith("socket:"):
                return True
    return False
