"""Topologies in manifests, and ConfigMaps that are probably meant as topologies."""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.cli.documents import ManifestError, Value
from ratchet.cli.metadata import read_metadata
from ratchet.cli.problems import Problem
from ratchet.cli.yaml_nodes import Kind
from ratchet.core.escape import excerpt
from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.core.intent.topologies import TOPOLOGY_VALUES
from ratchet.core.operations import OPERATIONS_NAME, OPERATIONS_VALUE, parse_operations
from ratchet.core.pod import Topology
from ratchet.store.codec.pods import decode_topology

_WORD_OF_LINKS = "endpoints"


def read_topology(document: Value, namespace: str) -> tuple[Topology | None, list[Problem]]:
    """The topology in a ConfigMap, None for other ConfigMaps; and the problems of either.

    Raises ManifestError.
    """
    metadata = document["metadata"]
    label = metadata["labels"].fields().get(TOPOLOGY_LABEL)
    if label is None:
        return None, list(_likely_topology(document))
    if label.text("") not in TOPOLOGY_VALUES:
        if label.text("").lower() == "false":
            return None, []
        if label.text("") == OPERATIONS_VALUE:
            return None, list(_invalid_operations(document))
        raise label.error(f'invalid value "{excerpt(label.text(""))}": expected "true"')
    problems: list[Problem] = []
    own = read_metadata(metadata, namespace, problems)
    if not own.name:
        raise metadata["name"].error("it is missing")
    problems += [
        Problem(False, f"{document.place}: topology {own.namespace}/{own.name}: unknown label {key}")
        for key in sorted(own.labels)
        if key.startswith("ratchet.") and key != TOPOLOGY_LABEL
    ]
    data = document["data"]
    if (links := data[TOPOLOGY_KEY]).kind in (Kind.LIST, Kind.MAPPING):
        raise links.error(f"expected text, found {links.kind}", details=f"write `{TOPOLOGY_KEY}: |` before the list")
    decoded = {
        "metadata": {"namespace": own.namespace, "name": own.name, "creationTimestamp": own.created},
        "data": data.texts(),
        "binaryData": document["binaryData"].texts(),
    }
    return decode_topology(decoded), problems


def _invalid_operations(document: Value) -> Iterator[Problem]:
    """The errors of a ConfigMap of operations (`ratchet link`)."""
    name, data = document["metadata"]["name"], document["data"]
    if name.text("") != OPERATIONS_NAME:
        yield _problem(name, f'expected "{OPERATIONS_NAME}": agents read operations of no other ConfigMap')
    operations = parse_operations(data.texts())
    if operations.fault:
        yield _problem(data, operations.fault)
    for key, error in operations.invalid.items():
        yield _problem(data[key], error)


def _problem(value: Value, cause: str) -> Problem:
    return Problem(True, f"{value.error('').place}: {cause}")


def _likely_topology(document: Value) -> Iterator[Problem]:
    """A warning for a ConfigMap that declares no links, but looks as if it should."""
    try:
        name = excerpt(document["metadata"]["name"].text(""))
        notes, data = document["metadata"]["annotations"].fields(), document["data"].fields()
    except ManifestError:  # the API server rejects it, and nothing in it is about links
        return
    lists = [key for key, value in data.items() if key.startswith(TOPOLOGY_KEY) and _has_links(value)]
    if TOPOLOGY_LABEL in notes:
        text = f"ConfigMap {name} has {TOPOLOGY_LABEL} as an annotation: make it a label"
    elif lists:
        text = f'ConfigMap {name} has a list of links, but not the label {TOPOLOGY_LABEL}: "true": it declares no links'
    else:
        return
    yield Problem(False, f"{document.place}: {text}")


def _has_links(value: Value) -> bool:
    return value.kind is Kind.LIST or (value.kind is Kind.TEXT and _WORD_OF_LINKS in value.text())
