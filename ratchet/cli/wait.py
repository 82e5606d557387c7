"""`ratchet wait`: wait until all links of a namespace are linked; else print which are not, and why."""

from __future__ import annotations

import argparse
import sys
import time

from ratchet.cli.cluster import add_cluster_options, namespace_meant, records_of
from ratchet.cli.manual import Manual
from ratchet.cli.progress import Progress, progress_of
from ratchet.cli.snapshot import read_standing
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        Wait until all links that pods and topologies of a namespace declare are linked as declared. After the timeout,
        print each link that is not linked, and why.
    """,
    examples=(
        ("Wait after an apply", "kubectl apply -n lab -f topology.yaml && ratchet wait -n lab"),
        ("Wait for at most 30 s", "ratchet wait -n lab --timeout 30"),
    ),
    exit_status={0: "all links are linked", 1: "the timeout is over, no link is declared, or the API failed"},
)

LOOK_SECONDS = 1.0


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument("-n", "--namespace", help="namespace of the links (default: the context's namespace)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="longest time to wait (default: 60)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return wait_for_links(records_of(arguments), namespace_meant(arguments), arguments.timeout)


def wait_for_links(records: ApiStore, namespace: str, seconds: float) -> int:
    """Look until all are linked, saying how many are; the exit status, 1 where they were not within so many seconds.

    Where nothing is wanted that is an error too: most likely nothing has been applied yet, or elsewhere.
    """
    until, said = time.monotonic() + seconds, ""
    while True:
        standing = read_standing(records, namespace)
        progress = progress_of(standing.wanted, standing.records, standing.pods)
        line = f"{progress.linked} of {progress.wanted} links are linked"
        if line != said:
            print(line, flush=True)
        said = line
        if progress.wanted and progress.complete:
            return 0
        if time.monotonic() >= until:
            _complain(progress, namespace, seconds)
            return 1
        time.sleep(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))


def _complain(progress: Progress, namespace: str, seconds: float) -> None:
    if not progress.wanted and not progress.refused:
        print(f"ratchet: no links are declared in namespace {namespace}", file=sys.stderr)
        return
    print(f"ratchet: not all links are linked after {seconds:g} s", file=sys.stderr)
    for name, why in sorted(progress.waiting.items()):
        print(f"         {name}: {why}", file=sys.stderr)
    for error in progress.refused:
        print(f"         {error}", file=sys.stderr)
