"""What a namespace wants and how it stands, read from the cluster for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.model import Link, Pod
from ratchet.store.records import Records


@dataclass(frozen=True, slots=True)
class Standing:
    """The wanted links of a namespace, all records by name, and the namespace's pods."""

    wanted: Wanted
    records: dict[str, Link]
    pods: list[Pod]


def read_standing(records: Records, namespace: str) -> Standing:
    """Raises RatchetError."""
    pods, topologies = records.pods(namespace), records.topologies(namespace)
    links, _ = records.links()
    return Standing(wanted_links(pods, topologies=topologies), {link.name: link for link in links}, pods)
