"""`ratchet validate`: check manifests before they are applied, without a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from ratchet.cli.documents import ManifestError
from ratchet.cli.link_notes import fragment_notes
from ratchet.cli.manifest_checks import find_problems
from ratchet.cli.manifests import read_manifests
from ratchet.cli.manual import Manual
from ratchet.cli.pod_checks import find_pod_problems
from ratchet.cli.problems import Problem
from ratchet.core.intent import asks_for_links, wanted_links
from ratchet.core.pod import Topology

MANUAL = Manual(
    description="""
        Check pods, workloads and topologies for link errors, all files together. No cluster is used. A workload is
        checked by the pods that it creates; generated names are shown as NAME-HASH-1.

        Errors keep a pod from starting. Warnings are for what may be intended, such as two ends without a common subnet
        or with different MTUs. Notes are neither: they name what depends on the cluster, such as the fragments of
        packets with a large MTU.
    """,
    examples=(
        ("Check files", "ratchet validate topology.yaml pods.yaml"),
        ("Check a kustomization, and fail on warnings", "kubectl kustomize lab | ratchet validate --strict -"),
    ),
    exit_status={0: "there is no error", 1: "there are errors, or warnings with --strict; or a file cannot be read"},
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="manifests of pods, workloads and topologies; - for stdin"
    )
    parser.add_argument(
        "-n", "--namespace", default="default", help="namespace of objects that name none (default: default)"
    )
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return validate(arguments.files, arguments.namespace, strict=arguments.strict)


def validate(files: Sequence[str], namespace: str, *, strict: bool) -> int:
    """Print the problems of the manifests in files ("-" is stdin); the exit status, 1 if there are errors.

    `namespace`: of objects that name none. `strict`: warnings count as errors. Raises ManifestError if a file cannot be
    read.
    """
    manifests = read_manifests(files, namespace)
    problems = [*(Problem(True, _text(error)) for error in manifests.unreadable), *manifests.problems]
    notes = list[str]()
    links = 0
    for name in sorted({*(one.pod.ref.namespace for one in manifests.pods), *map(_namespace, manifests.topologies)}):
        group = [one for one in manifests.pods if one.pod.ref.namespace == name]
        pods, topologies = [one.pod for one in group], [one for one in manifests.topologies if one.namespace == name]
        workloads = {own: why for (place, own), why in manifests.workloads.items() if place == name}
        wanted = wanted_links(pods, topologies=topologies)
        problems += find_problems(pods, topologies, workloads=workloads)
        problems += find_pod_problems(group, wanted)
        notes += fragment_notes(wanted.links)
        links += len(wanted.links)
    asking = sum(asks_for_links(one.pod) for one in manifests.pods)
    return _print(problems, notes, f"{_count(asking, 'pod')}, {_count(links, 'link')}", strict=strict)


def _print(problems: Iterable[Problem], notes: Iterable[str], found: str, *, strict: bool) -> int:
    """Print each problem once, errors first, the notes, and a summary; the exit status."""
    counts = {True: 0, False: 0}
    for problem in sorted(dict.fromkeys(problems), key=lambda one: not one.is_error):
        print(f"{'error' if problem.is_error else 'warning'}: {problem.text}")
        counts[problem.is_error] += 1
    for note in notes:
        print(f"note: {note}")
    print(f"{found}: {_count(counts[True], 'error')}, {_count(counts[False], 'warning')}")
    return 1 if counts[True] or (strict and counts[False]) else 0


def _text(error: ManifestError) -> str:
    return f"{error.place}: {error.cause}{f': {error.details}' if error.details else ''}"


def _namespace(topology: Topology) -> str:
    return topology.namespace


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
