"""`ratchet validate`: check manifests before they are applied, without a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ratchet.cli.manifest_checks import find_problems
from ratchet.cli.manual import Manual
from ratchet.core.intent import TOPOLOGY_LABEL, asks_for_links, wanted_links
from ratchet.core.pod import Pod, Topology
from ratchet.errors import RatchetError
from ratchet.store.codec.pods import decode_pod, decode_topology

Json = dict[str, Any]

MANUAL = Manual(
    description="""
        Check pods, workloads and topologies for link errors, all files together. No cluster is used. A workload is
        checked by its pod template; a StatefulSet by each replica.

        Errors keep a pod from starting. Warnings are for what may be intended, such as two ends without a common subnet
        or with different MTUs.
    """,
    examples=(
        ("Check files", "ratchet validate topology.yaml pods.yaml"),
        ("Check a kustomization, and fail on warnings", "kubectl kustomize lab | ratchet validate --strict -"),
    ),
    exit_status={0: "there is no error", 1: "there are errors, or warnings with --strict; or a file cannot be read"},
)

REPLICAS_MAX = 1000


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

    `namespace`: of objects that name none. `strict`: warnings count as errors. Raises RatchetError if a file cannot be
    read.
    """
    pods: dict[str, list[Pod]] = {}
    topologies: dict[str, list[Topology]] = {}
    for file in files:
        for one in read_objects(file, read_file(file), namespace):
            if isinstance(one, Pod):
                pods.setdefault(one.ref.namespace, []).append(one)
            else:
                topologies.setdefault(one.namespace, []).append(one)
    errors = warnings = links = asking = 0
    for name in sorted(pods.keys() | topologies.keys()):
        group, drawn = pods.get(name, []), topologies.get(name, [])
        for problem in find_problems(group, drawn):
            print(f"{'error' if problem.is_error else 'warning'}: {problem.text}")
            errors, warnings = errors + problem.is_error, warnings + (not problem.is_error)
        links += len(wanted_links(group, topologies=drawn).links)
        asking += sum(map(asks_for_links, group))
    print(f"{_count(asking, 'pod')}, {_count(links, 'link')}: {_count(errors, 'error')}, {_count(warnings, 'warning')}")
    return 1 if errors or (strict and warnings) else 0


def read_objects(file: str, text: str, namespace: str) -> Iterator[Pod | Topology]:
    """The topologies and pods in a text, and the pods of its workloads.

    Raises RatchetError that names the file, and the line or the object.
    """
    for number, document in enumerate(read_documents(file, text)):
        if (topology := _topology(document, namespace)) is not None:
            yield topology
        for index, pod in enumerate(_pods(document)):
            given = pod.get("metadata")
            metadata = {"namespace": namespace, **(given if isinstance(given, dict) else {})}
            for settings in ("labels", "annotations"):
                _check_strings(file, metadata, settings)
            yield decode_pod({"metadata": {**metadata, "uid": f"{file}#{number}.{index}"}})


def read_documents(file: str, text: str) -> list[Json]:
    """The objects in a text and in its lists. Raises RatchetError that names the file and the line."""
    try:
        documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (yaml.YAMLError, RecursionError) as cause:
        raise RatchetError(f"cannot read {file}: {cause}") from cause
    return list(_objects(documents))


def _check_strings(file: str, metadata: Json, settings: str) -> None:
    """Raise RatchetError if a value is not a string, such as `ratchet: true` without quotes."""
    given = metadata.get(settings)
    pod = f"cannot read {file}: pod {metadata.get('name', '?')}"
    if given is not None and not isinstance(given, dict):
        raise RatchetError(f"{pod}: {settings}: expected a mapping")
    for key, value in (given or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise RatchetError(
                f"{pod}: {settings}: {key}: expected a string, not {value!r:.80}", details="put it in quotes"
            )


def read_file(file: str) -> str:
    """The text of a file, or of stdin for "-". Raises RatchetError."""
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as cause:
        raise RatchetError(f"cannot read {file}: {cause}") from cause


def _objects(documents: Sequence[Any]) -> Iterator[Json]:
    for document in documents:
        if not isinstance(document, dict):
            continue
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            yield from _objects(document["items"])
        else:
            yield document


def _topology(document: Json, namespace: str) -> Topology | None:
    metadata = document.get("metadata")
    if document.get("kind") != "ConfigMap" or not isinstance(metadata, dict):
        return None
    if (metadata.get("labels") or {}).get(TOPOLOGY_LABEL) != "true":
        return None
    return decode_topology({**document, "metadata": {"namespace": namespace, **metadata}})


def _pods(document: Json) -> Iterator[Json]:
    """The pod, or the pods of a workload: one for each replica of a StatefulSet, one for other workloads."""
    kind, metadata = document.get("kind"), document.get("metadata") or {}
    if kind == "Pod":
        yield document
        return
    spec = document.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    if not isinstance(template, dict) or not isinstance(metadata, dict):
        return
    name, replicas = metadata.get("name", "?"), spec.get("replicas", 1) if isinstance(spec, dict) else 1
    if kind == "StatefulSet" and isinstance(replicas, int):
        names = [f"{name}-{ordinal}" for ordinal in range(min(replicas, REPLICAS_MAX))]
    else:
        names = [name]
    for one in names:
        given = {**(template.get("metadata") or {}), "name": one}
        if "namespace" in metadata:
            given["namespace"] = metadata["namespace"]
        yield {"kind": "Pod", "metadata": given, "spec": {}}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
