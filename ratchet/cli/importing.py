"""`ratchet import`: convert a topology of another tool."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence

import yaml

from ratchet.cli.containerlab import from_containerlab
from ratchet.cli.conversion import Conversion, Json, list_text, nearest_name
from ratchet.cli.documents import ManifestError, Value, decode, parse_documents, read_bytes
from ratchet.cli.kathara import from_kathara
from ratchet.cli.kne import from_kne
from ratchet.cli.manual import Manual
from ratchet.cli.meshnet import from_meshnet
from ratchet.cli.object_rules import name_problem
from ratchet.cli.protobuf_text import parse_protobuf_text
from ratchet.cli.yaml_nodes import Kind, SyntaxFaultError, is_plain_text
from ratchet.core.escape import excerpt
from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.core.intent.link_parser import LINKS_MOST
from ratchet.errors import RatchetError

MANUAL = Manual(
    description="""
        Print a topology with the links of a containerlab file, a list of meshnet-cni Topology objects, a KNE topology
        (pb.txt or YAML) or a lab.conf of Kathará. Each thing that cannot be converted is a line on stderr: links to the
        host, interface names that Linux rejects, variables, collision domains of three machines.
        More than 256 links become several topologies. Names that Kubernetes rejects are changed, with a note.
    """,
    examples=(
        ("Convert a containerlab file", "ratchet import lab.clab.yml --name lab > topology.yaml"),
        ("Convert a topology of KNE", "ratchet import topology.pb.txt > topology.yaml"),
        ("Convert the objects of meshnet-cni", "kubectl get topologies -o yaml | ratchet import -"),
    ),
    exit_status={0: "the topology was printed", 1: "the file has no link, or its format is not supported"},
)

_KATHARA = re.compile(r"^[\w.-]+\[\d+\]\s*=", re.MULTILINE)
_KNE = re.compile(r"\ba_node\s*:")  # a link, in the text format of protocol buffers, which is seldom valid YAML
_TEMPLATE = re.compile(r"\{\{|\{%")


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    parser.add_argument("file", metavar="FILE", help="file to convert; - for stdin")
    parser.add_argument("--name", help="name of the topology (default: the name in the file, else imported)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return print_topology(arguments.file, arguments.name)


def print_topology(file: str, name: str | None) -> int:
    """Print the topologies of a file, and on stderr what is not converted. Returns the exit status, 0.

    Raises RatchetError if the file is of neither kind or has no link that can be converted, a type in it is wrong, or
    Kubernetes rejects the `name`.
    """
    if name is not None and (problem := name_problem(name)):
        raise RatchetError(f"cannot import {file}: {problem}", details=f"use --name {nearest_name(name)}")
    conversions, own_name = _convert(file)
    for one in conversions:
        _print_to_stderr("not converted", one.unconverted)
        _print_to_stderr("note", one.notes)
    if name is None and name_problem(own_name):
        valid = nearest_name(own_name)
        _print_to_stderr("note", [f'name "{excerpt(own_name)}" is changed to {valid}, because Kubernetes rejects it'])
    topologies = [one for each in conversions for one in _topologies(each, name or nearest_name(own_name))]
    if not topologies:
        raise RatchetError(f"cannot import {file}: it has no link that can be converted")
    print(yaml.dump_all(topologies, Dumper=_Dumper, sort_keys=False), end="")
    return 0


def _print_to_stderr(what: str, lines: Sequence[str]) -> None:
    for line in lines:
        print(f"{what}: {line}", file=sys.stderr)


def _convert(file: str) -> tuple[list[Conversion], str]:
    """The links of a file, and the name in it. Raises RatchetError."""
    content = read_bytes(file)
    text = decode(file, content)
    if _KATHARA.search(text):
        return [from_kathara(file, text)], "imported"
    try:
        return _convert_yaml(file, parse_documents(file, content))
    except ManifestError as error:
        if _KNE.search(text):
            return _converted_kne(_protobuf_message(file, text))
        if _TEMPLATE.search(text):
            raise _unsupported(file, "it looks like a template; render it first, as containerlab does") from error
        raise


def _convert_yaml(file: str, documents: Sequence[Value]) -> tuple[list[Conversion], str]:
    """As `_convert`, for YAML and JSON."""
    objects = [one for document in documents for one in _objects(document) if one.kind is Kind.MAPPING]
    if topologies := [one for one in objects if one["kind"].text("") == "Topology" and "spec" in one.fields()]:
        return from_meshnet(topologies), "imported"
    if len(documents) != 1 or len(objects) != 1:
        raise _unsupported(file, f"it has {len(objects)} objects")
    (only,) = objects
    if "topology" in only.fields():
        return [from_containerlab(only)], only["name"].scalar("imported")
    if {"nodes", "links"} <= only.fields().keys():
        return _converted_kne(only)
    raise _unsupported(file, f"it has the fields {excerpt(', '.join(only.fields()))}")


def _converted_kne(document: Value) -> tuple[list[Conversion], str]:
    return [from_kne(document)], document["name"].scalar("imported")


def _protobuf_message(file: str, text: str) -> Value:
    try:
        return Value(parse_protobuf_text(text), file)
    except SyntaxFaultError as cause:
        raise ManifestError(file, f"line {cause.line}", cause.cause) from cause


def _unsupported(file: str, found: str) -> RatchetError:
    return RatchetError(
        f"cannot import {file}: {found}",
        details="supported: a containerlab file, meshnet-cni Topology objects, a KNE topology (pb.txt or YAML), and a "
        "lab.conf of Kathará",
    )


def _topologies(conversion: Conversion, name: str) -> Iterator[Json]:
    """The ConfigMaps of the converted links, each with as many as one may have."""
    for begin in range(0, len(conversion.links), LINKS_MOST):
        metadata: Json = {"name": name if begin == 0 else f"{name}-{begin // LINKS_MOST + 1}"}
        if conversion.namespace:
            metadata["namespace"] = conversion.namespace
        links = conversion.links[begin : begin + LINKS_MOST]
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata | {"labels": {TOPOLOGY_LABEL: "true"}},
            "data": {TOPOLOGY_KEY: list_text(links)},
        }


def _objects(document: Value) -> list[Value]:
    """The objects of a list, or the document itself."""
    if document.kind is Kind.MAPPING and document["kind"].kind is Kind.TEXT and document["items"].kind is Kind.LIST:
        return document["items"].items()
    return [document]


class _Dumper(yaml.SafeDumper):
    """Dumper that writes strings of several lines as block scalars, and quotes what kubectl takes for no text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if is_plain_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
