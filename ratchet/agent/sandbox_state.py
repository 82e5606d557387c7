"""The state of the sandbox that holds an end, for the workers that reconcile the end after its ADD."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.errors import SupersededError
from ratchet.node.journal import HeldEnd, Journal, SandboxEntry


@dataclass(frozen=True, slots=True)
class HeldEndState:
    """`ratchet.node.endpoint_progress.SandboxState` for an end that the journal holds."""

    journal: Journal
    entry: SandboxEntry
    end: HeldEnd

    def refuse_superseded(self) -> None:
        """Raise SupersededError if the end was removed. A worker removes an end only under its link's lock."""
        if not self.journal.still_wants(self.entry, self.end):
            raise SupersededError(
                f"cannot link pod {self.entry.pod}: link {self.end.link} was removed from it meanwhile"
            )

    def is_deleted(self) -> bool:
        return self.journal.was_deleted(self.entry)
