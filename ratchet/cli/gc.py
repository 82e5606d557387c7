"""`ratchet gc`: one pass of garbage collection, one line for each object."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

from ratchet.cli.cluster import add_cluster_options, records_of
from ratchet.cli.manual import Manual
from ratchet.gc import GcResult, collect_garbage
from ratchet.store.records import Records

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
    return print_garbage(records_of(arguments), arguments.grace, dry_run=arguments.dry_run)


def print_garbage(records: Records, grace_seconds: float, *, dry_run: bool) -> int:
    """Collect garbage and print what was removed and why; exit status 0, also if there was nothing."""
    count = 0
    verb = "would remove" if dry_run else "removed"
    grace = timedelta(seconds=grace_seconds)
    for garbage in collect_garbage(records, now=lambda: datetime.now(UTC), grace=grace, dry_run=dry_run):
        removed = garbage.result is GcResult.REMOVED
        print(f"{verb} {garbage}" if removed else f"{garbage} ({garbage.result})", flush=True)
        count += removed
    print(f"{verb} {count} in all" if count else "nothing to remove")
    return 0
