"""`ratchet diff`: what `kubectl apply` of manifests would do to the links of the cluster."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ratchet.cli.cluster import add_cluster_options, chosen_namespace, records_of, require_namespace
from ratchet.cli.commands import printing_errors
from ratchet.cli.declarations import Declarations, Files, files_by_namespace
from ratchet.cli.link_changes import Change, LinkChange, link_changes
from ratchet.cli.link_table import table
from ratchet.cli.manifests import ManifestPod, Manifests, read_manifests
from ratchet.cli.manual import Manual
from ratchet.cli.snapshot import read_snapshot
from ratchet.core.intent import asks_for_links
from ratchet.store.store import ApiStore

MANUAL = Manual(
    description="""
        Print what kubectl apply of these files would do to each link of the cluster, if all nodes have agents. Nothing
        is changed. Pods and topologies in the files replace those of the cluster. Other objects are ignored, and so are
        the pods of workloads.

        The changes "added", "removed", "moved" and "in place" happen at once, in running pods. So do "tunnel replaced"
        and "interface replaced", which interrupt traffic; another vxlan_port in panel wiring does not. "on start" waits
        for the start of a pod, "restart" for the restart of a running pod. "rejected" is an invalid declaration:
        running pods keep their links as they are.
    """,
    examples=(
        ("Show what a file would change", "ratchet diff -n lab -f topology.yaml"),
        ("Show what a kustomization would change, as JSON", "kubectl kustomize lab | ratchet diff -o json -f -"),
    ),
    exit_status={
        0: "no link changes",
        1: "links change, now or when pods start",
        2: "a declaration is rejected, or a file or the API cannot be read",
    },
)

FAILURE = 2  # as of diff(1) and kubectl diff: 1 is a difference


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    add_cluster_options(parser)
    parser.add_argument(
        "-f",
        "--file",
        action="extend",
        nargs="+",
        required=True,
        dest="files",
        metavar="FILE",
        help="manifests of pods and topologies; - for stdin; may be repeated",
    )
    parser.add_argument(
        "-n", "--namespace", help="namespace of objects that name none (default: the context's namespace)"
    )
    parser.add_argument("--all", action="store_true", help="print links that do not change too")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="format (default: table)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    def run() -> int:
        manifests = read_manifests(arguments.files, chosen_namespace(arguments))
        return print_diff(records_of(arguments), manifests, as_json=arguments.output == "json", is_all=arguments.all)

    return printing_errors(run, FAILURE)


def print_diff(store: ApiStore, manifests: Manifests, *, as_json: bool = False, is_all: bool = False) -> int:
    """Print the changes of links that applying manifests makes; the exit status.

    `is_all`: print links that do not change too. Raises RatchetError if the API cannot be read, or a namespace
    does not exist.
    """
    faults = [str(error) for error in manifests.unreadable]
    faults += [problem.text for problem in manifests.problems if problem.is_error]
    found = list[_Found]()
    for name, files in _files_of(store, manifests).items():
        if name not in manifests.namespaces:
            require_namespace(store, name, "compare links")
        found += _changes_in(store, name, files)
    shown = [one for one in found if is_all or one.change is not Change.NONE]
    if as_json:
        print(json.dumps([one.as_json() for one in shown], indent=2))
    else:
        _print_table(shown, found)
    for note in (*faults, *_left_out(manifests.pods)):
        print(f"ratchet: {note}", file=sys.stderr)
    changes = {one.change for one in found}
    if faults or Change.REJECTED in changes:
        return FAILURE
    return 1 if changes - {Change.NONE} else 0


@dataclass(frozen=True, slots=True)
class _Found:
    """The change of a link. An error of a declaration that is of no known link has an empty `link`."""

    namespace: str
    link: str
    change: Change
    details: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "namespace": self.namespace,
            "link": self.link or None,
            "change": self.change.value,
            "details": list(self.details),
        }


def _files_of(store: ApiStore, manifests: Manifests) -> dict[str, Files]:
    """The objects of the manifests that can change links, by namespace."""
    if not store.topologies.enabled:
        return files_by_namespace(manifests.pods, (), ())
    return files_by_namespace(manifests.pods, manifests.topologies, manifests.config_maps)


def _changes_in(store: ApiStore, namespace: str, files: Files) -> list[_Found]:
    """The changes of a namespace's links, then the errors of declarations that are of none of them."""
    snapshot = read_snapshot(store, namespace)
    before = Declarations(snapshot.pods, snapshot.topologies)
    after = files.applied_to(before)
    changes = link_changes(before, after, [one for one in snapshot.records.values() if one.namespace == namespace])
    rejected = files.rejected(before, after)
    changes += [LinkChange("", Change.REJECTED, (error,)) for error in _unexplained(rejected.items(), changes)]
    return [_Found(namespace, one.link, one.change, one.details) for one in changes]


def _unexplained(rejected: Iterable[tuple[str, str]], changes: Sequence[LinkChange]) -> list[str]:
    """The errors, given with their places, that no rejected link has. Those of both pods of a link have one place."""
    known = [text for one in changes if one.change is Change.REJECTED for text in one.details]
    return [
        error
        for place, error in rejected
        if not any(text == error or f"{place}: " in text or f"{place} declare " in text for text in known)
    ]


def _print_table(shown: Sequence[_Found], found: Sequence[_Found]) -> None:
    if shown:
        rows = [(one.link or "-", one.change.value, "; ".join(one.details)) for one in shown]
        print(table([("LINK", "CHANGE", "DETAILS"), *rows]))
    counts = Counter(one.change for one in found)
    unchanged = counts.pop(Change.NONE, 0)
    parts = [f"{counts[change]} {change}" for change in Change if counts[change]]
    print(", ".join([*parts, f"{unchanged} unchanged"]))


def _left_out(pods: Iterable[ManifestPod]) -> list[str]:
    """A note for each workload whose pods ask for links."""
    owners = dict.fromkeys(f"{one.place}: {one.owner}" for one in pods if one.owner and asks_for_links(one.pod))
    return [f"{owner}: pods of workloads are ignored" for owner in owners]
