"""The declared links of a namespace and their records, as read from the cluster at one time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from ratchet.core.drift import Edits, edits_of
from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.model import Link
from ratchet.core.pod import Pod, Topology
from ratchet.errors import RatchetError
from ratchet.store.store import ApiStore


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The declared links of a namespace, all records by name, and the namespace's pods and topologies."""

    wanted: Wanted
    records: dict[str, Link]
    pods: list[Pod]
    topologies: list[Topology]


@dataclass(frozen=True, slots=True)
class FoundEdits:
    """The edits of links, by their names, and the error of each namespace that cannot be read."""

    of_links: dict[str, Edits]
    unknown: dict[str, RatchetError]

    def words(self, link: Link) -> tuple[str, ...] | None:
        """The edits of a link in words; None if they are unknown."""
        found = self.of_links.get(link.name)
        return found.words if found is not None else None

    def warnings(self) -> list[str]:
        """One warning for all namespaces that cannot be read: most likely they have one cause."""
        if not self.unknown:
            return []
        first = next(iter(self.unknown.values()))
        return [f"cannot compare links with their declarations in {', '.join(self.unknown)}: {first}"]


def read_edits(store: ApiStore, links: Iterable[Link]) -> FoundEdits:
    """The edits of these links. Each namespace is read once."""
    found = FoundEdits({}, {})
    for namespace, group in groupby(sorted(links, key=_namespace), key=_namespace):
        try:
            wanted = read_declared(store, namespace)[0]
        except RatchetError as error:
            found.unknown[namespace] = error
        else:
            found.of_links.update({link.name: edits_of(link, wanted) for link in group})
    return found


def _namespace(link: Link) -> str:
    return link.namespace


def read_snapshot(store: ApiStore, namespace: str) -> Snapshot:
    """Read a namespace. Raises RatchetError."""
    wanted, pods, topologies = read_declared(store, namespace)
    links, _ = store.links.list()
    return Snapshot(wanted, {link.name: link for link in links}, pods, topologies)


def read_declared(store: ApiStore, namespace: str) -> tuple[Wanted, list[Pod], list[Topology]]:
    """The declared links of a namespace, and the pods and topologies that declare them."""
    pods, topologies = store.pods.list(namespace), store.topologies.list(namespace)
    return wanted_links(pods, topologies=topologies), pods, topologies
