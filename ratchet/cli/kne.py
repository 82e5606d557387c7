"""Convert the links of a topology of KNE, the Kubernetes Network Emulation (openconfig/kne, proto/topo.proto)."""

from __future__ import annotations

from ratchet.cli.conversion import Conversion
from ratchet.cli.documents import Value
from ratchet.cli.yaml_nodes import Kind
from ratchet.core.escape import excerpt

_KEYS = ("a_node", "a_int", "z_node", "z_int")


def from_kne(document: Value) -> Conversion:
    """Convert the links of a topology. Raises ManifestError if its links are no messages."""
    found = Conversion()
    if document["nodes"].kind is not Kind.NOTHING:
        found.unconverted.append(
            "nodes: create a pod for each node; vendors, images and configurations are not converted"
        )
    for link in _repeated(document["links"]):
        with found.reporting():
            _add_link(found, link)
    return found


def _add_link(found: Conversion, link: Value) -> None:
    """Add a link. Raises ManifestError if it has a value of another type."""
    for key in sorted(set(link.fields()) - set(_KEYS)):
        found.unconverted.append(f"{link.path}.{excerpt(key)}: not supported")
    ends = [(link[f"{end}_node"].text(), link[f"{end}_int"].text()) for end in ("a", "z")]
    found.add(link.path, ends, {})


def _repeated(value: Value) -> list[Value]:
    """The values of a repeated field: one that occurs once is no list in the text format."""
    return [value] if value.kind is Kind.MAPPING else value.items()
