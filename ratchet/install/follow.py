"""Follow the network that Ratchet is chained after. Its file may change, disappear and come back at any time.

The runtime uses the first file by name, which is Ratchet's copy. A copy that outlives its source would keep a network
in force that its owner has withdrawn: to replace it, or to keep pods from starting while it is upgraded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG, NoNetworkError
from ratchet.install.conflist import Wanted, find_wanted, withdraw, write
from ratchet.install.contention import Contention, contention_error
from ratchet.install.files import read_file

log = logging.getLogger(__name__)

# An owner that replaces its file by `rm` and `cp` leaves a gap, so one pass without the source is not enough.
CONFIRMATIONS = 2


@dataclass(slots=True)
class NetworkFollower:
    """Keeps Ratchet's network configuration in step with its source.

    `network`: a file with the configuration; None to chain Ratchet after the first network in the folder.
    """

    conf_dir: Path
    network: Path | None
    _source: Path | None = field(default=None, init=False)
    _absences: int = field(default=0, init=False)
    _written: bytes | None = field(default=None, init=False)
    _contention: Contention = field(default_factory=Contention)

    @property
    def is_waiting(self) -> bool:
        """Whether the node has no network, and Ratchet's copy of the last one is removed."""
        return self._absences >= CONFIRMATIONS

    def reconcile(self) -> None:
        """Write Ratchet's file if it differs from its source, or remove it if there is no source.

        A source counts as gone after CONFIRMATIONS passes. Nothing changes while the folder or a file in it cannot be
        read: a source that is being written is read again. If another program undoes each write, Ratchet stops writing
        for some time (`contention`). Raises RatchetError, NoNetworkError without a source.
        """
        try:
            wanted = find_wanted(self.conf_dir, self.network)
        except NoNetworkError:
            self._absences += 1
            self._withdraw()
            raise
        except RatchetError:
            self._absences = 0
            raise
        self._absences = self._absences + 1 if self._is_source_gone(wanted.source) else 0
        if not 0 < self._absences < CONFIRMATIONS:
            self._write(wanted)

    def _is_source_gone(self, first: Path) -> bool:
        """Whether the last source is not a network any more: another one is first, although its name is later."""
        return self.network is None and self._source is not None and self._source.name < first.name

    def _write(self, wanted: Wanted) -> None:
        self._absences = 0
        self._source = wanted.source
        path = self.conf_dir / CONFIG
        if self._written not in (None, read_file(path)) and not self._contention.may_write_again():
            raise contention_error(path)
        self._written = wanted.content
        if write(self.conf_dir, wanted):
            log.info("network configured path=%s source=%s", self.conf_dir / CONFIG, wanted.source)

    def _withdraw(self) -> None:
        if self._absences < CONFIRMATIONS:
            return
        self._source = self._written = None
        if withdraw(self.conf_dir):
            log.warning("network configuration removed path=%s reason=its source is gone", self.conf_dir / CONFIG)
