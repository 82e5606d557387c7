"""What a namespace wants and how it stands, read from the cluster for whoever shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from ratchet.core.drift import edits_of
from ratchet.core.intent import Wanted, wanted_links
from ratchet.core.model import Link, Pod
from ratchet.errors import RatchetError
from ratchet.store.store import ApiStore


@dataclass(frozen=True, slots=True)
class Standing:
    """The wanted links of a namespace, all records by name, and the namespace's pods."""

    wanted: Wanted
    records: dict[str, Link]
    pods: list[Pod]


@dataclass(frozen=True, slots=True)
class Edits:
    """How links were edited since their primaries started, by name; and why that cannot be told in some namespaces."""

    words: dict[str, tuple[str, ...]]
    untold: dict[str, RatchetError]

    def complaints(self) -> list[str]:
        """What to say of the namespaces of which nothing can be told: most likely the reason is one for all."""
        if not self.untold:
            return []
        first = next(iter(self.untold.values()))
        return [f"cannot tell what was edited of links in {', '.join(self.untold)}: {first}"]


def read_edits(records: ApiStore, links: Iterable[Link]) -> Edits:
    """What was edited of these links; each namespace is read once."""
    found = Edits({}, {})
    for namespace, group in groupby(sorted(links, key=_namespace), key=_namespace):
        try:
            _, wanted = _wanted_in(records, namespace)
        except RatchetError as error:
            found.untold[namespace] = error
        else:
            found.words.update({link.name: edits_of(link, wanted) for link in group})
    return found


def _namespace(link: Link) -> str:
    return link.namespace


def read_standing(records: ApiStore, namespace: str) -> Standing:
    """Raises RatchetError."""
    pods, wanted = _wanted_in(records, namespace)
    links, _ = records.links.list()
    return Standing(wanted, {link.name: link for link in links}, pods)


def _wanted_in(records: ApiStore, namespace: str) -> tuple[list[Pod], Wanted]:
    """The pods of a namespace, and what they and its topologies want."""
    pods = records.pods.list(namespace)
    return pods, wanted_links(pods, topologies=records.topologies.list(namespace))
