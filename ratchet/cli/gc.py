"""`ratchet gc`: one pass of garbage collection, told line by line."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from ratchet.cli.cluster import add_cluster_options, records_of
from ratchet.gc import Outcome, collect_garbage
from ratchet.store.records import Records


def declare(parser: argparse.ArgumentParser) -> None:
    add_cluster_options(parser)
    parser.add_argument("--grace", type=float, default=300.0, metavar="SECONDS", help="spare what is younger (300)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return print_garbage(records_of(arguments), arguments.grace, dry_run=arguments.dry_run)


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
