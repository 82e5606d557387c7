#!/usr/bin/env python3
"""Import the files of other tools in a folder, and print what of them becomes links: `hack/corpus.py DIR`.

A file counts as one of containerlab, meshnet-cni, KNE or Kathará by its name and content. Each printed topology is
checked as `ratchet validate` does it, with a pod for each name, and applied to the embedded API server as a dry run.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ratchet.cli.importing import print_topology
from ratchet.cli.main import main as ratchet
from ratchet.dev.api.server import EmbeddedApi
from ratchet.errors import RatchetError
from ratchet.store.apiserver import ApiServer, connect

_YAML = re.compile(rb"^topology:|^kind:\s*[\"']?Topology|^\s*-? *a_node:", re.MULTILINE)
_SUFFIXES = (".yml", ".yaml")
_REASONS = 25
# Lines that say what a pod has, or how a link differs, and not that a link is missing.
_NO_LOSS = ("note: ", "not converted: topology.nodes: ", "not converted: nodes: ", "not converted: settings of ")
_NO_POD = re.compile(r"is not a pod|no network of its own|node's own network|links of type")


@dataclass
class Result:
    """Counts over all files, and why links are missing."""

    files: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: hack/corpus.py DIR", file=sys.stderr)
        return 2
    result = Result()
    with tempfile.TemporaryDirectory() as folder, EmbeddedApi() as embedded:
        api = connect(str(embedded.write_kubeconfig(Path(folder) / "kubeconfig")))
        for path in sorted(Path(sys.argv[1]).rglob("*")):
            if path.is_file() and _is_topology(path):
                _import(path, result, api)
    _print(result)
    return 1 if result.faults else 0


def _is_topology(path: Path) -> bool:
    if path.name == "lab.conf" or path.name.endswith((".pb.txt", ".pbtxt")):
        return True
    return path.suffix in _SUFFIXES and _YAML.search(path.read_bytes()) is not None


def _import(path: Path, result: Result, api: ApiServer) -> None:
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            print_topology(str(path), None)
    except RatchetError as error:
        result.files["not at all"] += 1
        result.reasons[_kind(str(error).replace(str(path), "FILE"))] += 1
    except Exception as fault:  # noqa: BLE001  # this program looks for them
        result.faults.append(f"{path}: {fault!r}")
        return
    lost = [line for line in err.getvalue().splitlines() if not line.startswith(_NO_LOSS)]
    for line in lost:
        result.reasons[_kind(line)] += 1
    result.links["not between pods"] += sum(bool(_NO_POD.search(line)) for line in lost)
    result.links["lost"] += len({_place(line) for line in lost if not _NO_POD.search(line)})
    if out.getvalue():
        result.files["in part" if lost else "whole"] += 1
        _check(path, out.getvalue(), result)
        _apply(path, out.getvalue(), result, api)


def _check(path: Path, printed: str, result: Result) -> None:
    """Count the links, and validate them with a pod for each name."""
    topologies = [one for one in yaml.safe_load_all(printed) if one]
    links = [link for one in topologies for link in yaml.safe_load(one["data"]["links"])]
    result.links["converted"] += len(links)
    names = {end.partition(":")[0] for link in links for end in link["endpoints"]}
    namespaces = {one["metadata"].get("namespace", "default") for one in topologies}
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"ratchet": "true"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }
        for name in sorted(names)
        for namespace in sorted(namespaces)
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("\n---\n".join(map(json.dumps, [*topologies, *pods])))
        file.flush()
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            status = ratchet(["validate", file.name])
    if status != 0:
        errors = [line for line in out.getvalue().splitlines() if line.startswith("error")]
        result.faults.append(f"{path}: the result is invalid: {errors[:1]}")


def _apply(path: Path, printed: str, result: Result, api: ApiServer) -> None:
    """Create the topologies in an API server as a dry run."""
    for topology in yaml.safe_load_all(printed):
        topology["metadata"].pop("namespace", None)  # which does not exist
        try:
            api.create("/api/v1/namespaces/default/configmaps?dryRun=All", topology)
        except RatchetError as error:
            result.faults.append(f"{path}: the result cannot be applied: {error}")


def _place(line: str) -> str:
    """The link that a line is about."""
    return re.sub(r"^(not converted: .*?links\[\d+\]).*", r"\1", line)


def _kind(line: str) -> str:
    """A line without names, numbers and values."""
    line = re.sub(r'"[^"]*"|\b\d+\b', "…", line)
    line = re.sub(r"(Topology|node|name is|interface name) \S+", r"\1 …", line)
    return re.sub(r"\S+ of \S+ is also used by .*", "… is also used by …", line)


def _print(result: Result) -> None:
    print("files:", ", ".join(f"{number} {what}" for what, number in sorted(result.files.items())))
    converted, lost = result.links["converted"], result.links["lost"]
    share = 100 * converted / (converted + lost) if converted + lost else 0.0
    print(f"links: {converted} converted, {lost} lost, {result.links['not between pods']} not between pods")
    print(f"converted of those between pods: {share:.1f} %")
    for reason, number in result.reasons.most_common(_REASONS):
        print(f"{number:6}  {reason}")
    for fault in result.faults:
        print(f"fault: {fault}")


if __name__ == "__main__":
    sys.exit(main())
