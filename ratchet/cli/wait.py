"""`ratchet wait`: wait until all links of a namespace are linked; else print which are not, and why."""

from __future__ import annotations

import argparse
import sys
import time

from ratchet.cli.cluster import add_cluster_options, chosen_namespace, records_of, require_namespace
from ratchet.cli.duration import duration
from ratchet.cli.manual import Manual
from ratchet.cli.progress import Progress, progress_of
from ratchet.cli.snapshot import read_snapshot
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        Wait until all links that pods and topologies of a namespace declare are linked as declared. After the timeout,
        print each link that is not linked, and why.
    """,
    examples=(
        ("Wait after an apply", "kubectl apply -n lab -f topology.yaml && ratchet wait -n lab"),
        ("Wait for at most 30 s", "ratchet wait -n lab --timeout 30s"),
    ),
    exit_status={0: "all links are linked", 1: "the timeout is over, no link is declared, or the API failed"},
)

POLL_SECONDS = 1.0


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument("-n", "--namespace", help="namespace of the links (default: the context's namespace)")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="DURATION",
        help="longest time to wait, such as 90s or 5m; seconds without a unit (default: 60s)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return wait_for_links(records_of(arguments), chosen_namespace(arguments), arguments.timeout)


def wait_for_links(store: ApiStore, namespace: str, seconds: float) -> int:
    """Poll until all links are linked, and print their number; the exit status, 1 after `seconds`.

    A namespace without declared links fails too: most likely nothing is applied yet, or in another namespace. Raises
    RatchetError if the namespace does not exist by then.
    """
    until, printed = time.monotonic() + seconds, ""
    while True:
        snapshot = read_snapshot(store, namespace)
        progress = progress_of(snapshot.wanted, snapshot.records, snapshot.pods, snapshot.topologies)
        line = f"{progress.linked} of {progress.wanted} links are linked"
        if line != printed:
            print(line, flush=True)
        printed = line
        if progress.wanted and progress.complete:
            return 0
        if time.monotonic() >= until:
            if not snapshot.pods:
                require_namespace(store, namespace, "wait for links")
            _print_missing(progress, namespace, seconds)
            return 1
        time.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))


def _print_missing(progress: Progress, namespace: str, seconds: float) -> None:
    if not progress.wanted:
        print(f"ratchet: no links are declared in namespace {namespace}", file=sys.stderr)
        return
    print(f"ratchet: not all links are linked after {seconds:g} s", file=sys.stderr)
    for name, why in sorted(progress.waiting.items()):
        print(f"         {name}: {why}", file=sys.stderr)
    for error in progress.refused:
        print(f"         {error}", file=sys.stderr)
