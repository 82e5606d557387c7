"""`ratchet gc`: one pass of garbage collection, one line for each object."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from ratchet.cli.cluster import add_cluster_options, records_of
from ratchet.cli.manual import Manual
from ratchet.gc import RemovalResult, collect_garbage
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        Remove link records, VNI Leases and node Leases that no node can remove, because the pod or the node is gone.
        Objects younger than the grace period are kept. The manifests run this command in a CronJob.
    """,
    examples=(
        ("Print what would be removed, and why", "ratchet gc --dry-run"),
        ("Remove it", "ratchet gc"),
    ),
    exit_status={0: "the pass is complete, also if there was nothing to remove", 1: "the API failed or refused"},
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument(
        "--grace",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="grace period: keep what is younger (default: 300)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed; remove nothing")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return print_removals(records_of(arguments), arguments.grace, dry_run=arguments.dry_run)


def print_removals(store: ApiStore, grace_seconds: float, *, dry_run: bool) -> int:
    """Collect garbage, print each removal and its reason, and return the exit status, 0."""
    count = 0
    verb = "would remove" if dry_run else "removed"
    grace = timedelta(seconds=grace_seconds)
    for removal in collect_garbage(store, now=lambda: datetime.now(UTC), grace=grace, dry_run=dry_run):
        removed = removal.result is RemovalResult.REMOVED
        print(f"{verb} {removal}" if removed else f"{removal} ({removal.result})", flush=True)
        count += removed
    print(f"{verb} {count} in all" if count else "nothing to remove")
    return 0
