"""`ratchet gc`: one pass of garbage collection, told line by line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ratchet.gc import Outcome, collect_garbage
from ratchet.store.records import Records


def print_garbage(records: Records, grace_seconds: float, *, dry_run: bool) -> int:
    """Collect and print what was removed and why; exit status 0 also where there was nothing."""
    count = 0
    verb = "would remove" if dry_run else "removed"
    grace = timedelta(seconds=grace_seconds)
    for finding in collect_garbage(records, now=lambda: datetime.now(UTC), grace=grace, dry_run=dry_run):
        removed = finding.outcome is Outcome.REMOVED
        print(f"{verb} {finding}" if removed else f"{finding} ({finding.outcome})", flush=True)
        count += removed
    print(f"{verb} {count} in all" if count else "nothing to remove")
    return 0
