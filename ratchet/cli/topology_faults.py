"""The errors of topologies, for commands that read what a user has declared or is about to declare."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.pod import Topology

# The interface names that no link may have, with every runtime of today.
RESERVED = ("eth0", "lo")


def topology_faults(topologies: Iterable[Topology], reserved: Collection[str] = RESERVED) -> Iterator[Faulty]:
    """The errors of topologies, also those of links whose pods do not exist."""
    for topology in topologies:
        yield from (one for one in drawn_links(topology, {*reserved, "lo"}) if isinstance(one, Faulty))
