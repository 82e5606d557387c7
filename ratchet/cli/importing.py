"""`ratchet import`: convert a topology of containerlab or meshnet-cni."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

from ratchet.cli.converters import Conversion, from_containerlab, from_meshnet
from ratchet.cli.manual import Manual
from ratchet.cli.validate import read_documents, read_file
from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.errors import RatchetError

MANUAL = Manual(
    description="""
        Print a topology with the links of a containerlab file, or of a list of meshnet-cni Topology objects. Each thing
        that cannot be converted is a line on stderr: links to the host, interface names that Linux rejects, variables.
    """,
    examples=(
        ("Convert a containerlab file", "ratchet import lab.clab.yml --name lab > topology.yaml"),
        ("Convert the objects of meshnet-cni", "kubectl get topologies -o yaml | ratchet import -"),
    ),
    exit_status={0: "the topology was printed", 1: "the file has no link, or is of neither kind"},
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    parser.add_argument("file", metavar="FILE", help="file to convert; - for stdin")
    parser.add_argument("--name", help="name of the topology (default: the name in the file, else imported)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return print_topology(arguments.file, arguments.name)


def print_topology(file: str, name: str | None) -> int:
    """Print the topology of a file, and on stderr what is not converted.

    Returns the exit status, 1 if there is no link.

    Raises RatchetError if the file is of neither kind.
    """
    documents = read_documents(file, read_file(file))
    conversion, own_name = _convert(file, documents)
    for line in conversion.unconverted:
        print(f"not converted: {line}", file=sys.stderr)
    links = "".join(f"- {yaml.safe_dump(link, default_flow_style=True, width=1000)}" for link in conversion.links)
    metadata = {"name": name or own_name, "labels": {TOPOLOGY_LABEL: "true"}}
    topology = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {TOPOLOGY_KEY: links}}
    print(yaml.dump(topology, Dumper=_Dumper, sort_keys=False), end="")
    return 0 if conversion.links else 1


def _convert(file: str, documents: list[dict[str, Any]]) -> tuple[Conversion, str]:
    topologies = [one for one in documents if one.get("kind") == "Topology" and "spec" in one]
    try:
        if topologies:
            return from_meshnet(topologies), "imported"
        (document,) = documents
        return from_containerlab(document), str(document.get("name", "imported"))
    except ValueError as cause:
        raise RatchetError(
            f"cannot import {file}: expected a containerlab file or a list of meshnet-cni Topology objects"
        ) from cause


class _Dumper(yaml.SafeDumper):
    """Dumper that writes strings of several lines as block scalars."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
