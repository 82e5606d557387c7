"""`ratchet import`: convert a topology of containerlab or meshnet-cni."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import yaml

from ratchet.cli.converters import Conversion, from_containerlab, from_meshnet
from ratchet.cli.documents import Value, read_documents
from ratchet.cli.manual import Manual
from ratchet.cli.yaml_nodes import Kind
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

    Raises RatchetError if the file is of neither kind, or a type in it is wrong.
    """
    conversion, own_name = _convert(file, read_documents(file))
    for line in conversion.unconverted:
        print(f"not converted: {line}", file=sys.stderr)
    links = "".join(f"- {yaml.safe_dump(link, default_flow_style=True, width=1000)}" for link in conversion.links)
    metadata = {"name": name or own_name, "labels": {TOPOLOGY_LABEL: "true"}}
    topology = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {TOPOLOGY_KEY: links}}
    print(yaml.dump(topology, Dumper=_Dumper, sort_keys=False), end="")
    return 0 if conversion.links else 1


def _convert(file: str, documents: Sequence[Value]) -> tuple[Conversion, str]:
    """The links of the documents, and the name in them. Raises RatchetError."""
    objects = [one for document in documents for one in _objects(document) if one.kind is Kind.MAPPING]
    if topologies := [one for one in objects if one["kind"].text("") == "Topology" and "spec" in one.fields()]:
        return from_meshnet(topologies), "imported"
    if len(documents) != 1 or len(objects) != 1 or "topology" not in objects[0].fields():
        raise RatchetError(
            f"cannot import {file}: expected a containerlab file or a list of meshnet-cni Topology objects"
        )
    return from_containerlab(objects[0]), objects[0]["name"].scalar("imported")


def _objects(document: Value) -> list[Value]:
    """The objects of a list, or the document itself."""
    if document.kind is Kind.MAPPING and document["kind"].kind is Kind.TEXT and document["items"].kind is Kind.LIST:
        return document["items"].items()
    return [document]


class _Dumper(yaml.SafeDumper):
    """Dumper that writes strings of several lines as block scalars."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
