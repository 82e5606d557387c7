"""Another program that undoes each write of Ratchet's network configuration, as Cilium does with `cni.exclusive`.

Both would write for ever, and the network of a pod would depend on the moment at which it starts. So Ratchet yields.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.files import exists, list_folder

ROUNDS = 5
# Seconds without interference after which it counts as over.
CALM_SECONDS = 60.0
# Seconds after which Ratchet tries again: the other program's configuration may have been corrected.
YIELD_SECONDS = 600.0

_CILIUM = ".cilium_bak"


@dataclass(slots=True)
class Contention:
    """Counts how often others have undone a write in a row. `clock` returns monotonic seconds."""

    clock: Callable[[], float] = time.monotonic
    _rounds: int = 0
    _last: float = 0.0

    def may_write_again(self) -> bool:
        """Count a write that was undone. Returns whether to write again: not after ROUNDS writes in a row."""
        now = self.clock()
        if now - self._last > (YIELD_SECONDS if self._rounds >= ROUNDS else CALM_SECONDS):
            self._rounds = 0
        if self._rounds >= ROUNDS:
            return False
        self._rounds += 1
        self._last = now
        return True


def contention_error(path: Path) -> RatchetError:
    """The error of a file that others keep removing or changing. Raises RatchetError if its folder cannot be read."""
    backups = [one for one in list_folder(path.parent) if one.name.startswith(f"{path.name}.")]
    if any(one.name.endswith(_CILIUM) for one in backups):
        return RatchetError(
            f"cannot keep {path}: Cilium renames it to {path.name}{_CILIUM}",
            details="set cni.exclusive=false in Cilium's Helm values, or cni-exclusive: false in its ConfigMap",
        )
    does = f"renames it to {backups[0].name}" if backups else "changes it" if exists(path) else "removes it"
    return RatchetError(
        f"cannot keep {path}: another program {does}",
        details="find the program that manages the folder alone, and let it keep files that it did not write",
    )
