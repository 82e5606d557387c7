"""Limits on the topologies of a namespace: they bound the memory that a tenant's ConfigMaps take on every node.

A parsed link takes some 2 kB, and hostile text up to 80 times its length. A topology that is over a limit is withheld:
its text is dropped, and it counts as one whose links cannot be read (`topologies.Faulty`). Pods whose names may be in
the text do not start, and no link of the namespace is removed.

Which topologies are over the limits is a function of the namespace's topologies: the oldest are admitted. A topology is
over a limit if it and all older ones together exceed it. An older topology that is found later can only withhold more,
so texts can be dropped while a list is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zlib import crc32

from ratchet.core.declared_memory import UNLIMITED, in_mib
from ratchet.core.intent.link_parser import LINKS_MOST
from ratchet.core.intent.yaml_source import SIZE_MOST
from ratchet.core.limits import TopologyLimits
from ratchet.core.pod import Topology, Withheld

# Withheld topologies of a namespace that are kept one by one. More of them count as one that names every pod.
WITHHELD_MOST = 128

_FILTER_BITS = 1 << 13
_EVERY_NAME = b"\xff" * (_FILTER_BITS // 8)
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_FIRST = datetime.min.replace(tzinfo=UTC)


def size_of(topology: Topology) -> int:
    """The bytes of a topology's text."""
    if topology.withheld:
        return topology.withheld.size
    return len(topology.text if topology.text.isascii() else _encoded(topology.text))


def links_of(topology: Topology) -> int:
    """The most links that a topology can declare: each has the word `endpoints`, unless it is escaped."""
    if topology.withheld:
        return topology.withheld.links
    return LINKS_MOST if "\\" in topology.text else min(LINKS_MOST, topology.text.count("endpoints"))


def memory_used(topology: Topology) -> int:
    """The most bytes that a topology takes as it is. A withheld one is not read."""
    return 0 if topology.withheld else topology.memory


def with_bounded_text(topology: Topology) -> Topology:
    """The topology, or a withheld one if its text is too long for a list of links. That one takes no room of others."""
    if len(topology.text) <= SIZE_MOST:
        return topology
    cause = f"longer than {SIZE_MOST} bytes"
    return _withhold(topology, cause, f"shorten topology {topology}", by_namespace=False)


def admit(topologies: Iterable[Topology], limits: TopologyLimits) -> list[Topology]:
    """The topologies of a namespace, the oldest first. Those over a limit are withheld."""
    admitted, total = list[Topology](), _Total()
    for topology in sorted(topologies, key=_seniority):
        total.add(topology)
        over = total.exceeded(limits)
        admitted.append(_over(topology, *over) if over else topology)
    most = limits.topologies + WITHHELD_MOST
    if len(admitted) > most:
        admitted[most - 1] = _for_others(admitted[most - 1])
    return admitted[:most]


def needed_memory(topologies: Iterable[Topology], limits: TopologyLimits) -> int:
    """The memory of the topologies that the limits of the namespace admit, whatever its share of the node's memory."""
    without, total, needed = replace(limits, memory=UNLIMITED), _Total(), 0
    for topology in sorted(topologies, key=_seniority):
        total.add(topology)
        if total.exceeded(without):
            break
        needed = total.memory
    return needed


def must_be_listed(topologies: Iterable[Topology], limits: TopologyLimits) -> bool:
    """Whether a list may admit a topology that is withheld or not kept here: older ones were deleted or shortened."""
    found = sorted(topologies, key=_seniority)
    if len(found) < limits.topologies + WITHHELD_MOST and stands_for_others(found):
        return True
    total = _Total()
    for topology in found:
        total.add(topology)
        if total.exceeded(limits):
            return False
        if topology.withheld and topology.withheld.by_namespace:
            return True
    return False


def stands_for_others(topologies: Iterable[Topology]) -> bool:
    """Whether the namespace has topologies that are not kept."""
    return any(one.withheld is not None and one.withheld.stands_for_others for one in topologies)


def may_name(withheld: Withheld, name: str) -> bool:
    """Whether a withheld text may name a pod. One name in 50 that is not in the text counts as named."""
    return all(withheld.names[bit // 8] & 1 << bit % 8 for bit in _bits(name))


class Admission:
    """The topologies of a list, which are admitted while the list is read: few texts are in memory at a time."""

    def __init__(self, limits: TopologyLimits) -> None:
        self._limits = limits
        self._topologies: list[Topology] = []
        self._new = self._new_size = 0

    def add(self, topology: Topology) -> None:
        """Add a topology with bounded text."""
        self._topologies.append(topology)
        self._new, self._new_size = self._new + 1, self._new_size + len(topology.text)
        if self._new > self._limits.topologies or self._new_size > self._limits.size:
            self._topologies = self.admitted()
            self._new = self._new_size = 0

    def admitted(self) -> list[Topology]:
        """The topologies so far, as by `admit`."""
        return admit(self._topologies, self._limits)


@dataclass(slots=True)
class _Total:
    """The sums over the oldest topologies of a namespace."""

    topologies: int = 0
    links: int = 0
    size: int = 0
    memory: int = 0

    def add(self, topology: Topology) -> None:
        self.topologies += 1
        self.links += links_of(topology)
        self.size += size_of(topology)
        self.memory += topology.memory

    def exceeded(self, limits: TopologyLimits) -> tuple[str, str] | None:
        """The limit that is exceeded, as text, and the name of its setting."""
        if self.topologies > limits.topologies:
            return f"{limits.topologies} topologies", "topologies_per_namespace"
        if self.links > limits.links:
            return f"{limits.links} links", "topology_links_per_namespace"
        if self.size > limits.size:
            return f"{limits.size} bytes", "topology_bytes_per_namespace"
        if self.memory > limits.memory:
            return "", "declaration_memory"
        return None


def _over(topology: Topology, limit: str, setting: str) -> Topology:
    if topology.withheld is not None and not topology.withheld.by_namespace:
        return topology  # it is too long itself
    if limit:
        own = f"{links_of(topology)} links, {size_of(topology)} bytes"
        cause = f"over the limit of {limit} in the topologies of a namespace ({setting}); this one has {own}"
        remedy = f"delete older topologies of the namespace, or set {setting} on all nodes"
    else:
        cause = (
            f"over the namespace's share of this node's memory for declarations ({setting}); this one takes up to "
            f"{in_mib(topology.memory)}"
        )
        remedy = f"declare fewer links in the namespace, or have an administrator raise {setting}"
    if topology.withheld is not None:
        return replace(topology, withheld=replace(topology.withheld, cause=cause, remedy=remedy))
    return _withhold(topology, cause, remedy, by_namespace=True)


def _withhold(topology: Topology, cause: str, remedy: str, *, by_namespace: bool) -> Topology:
    text = topology.text
    size, links, memory = (size_of(topology), links_of(topology), topology.memory) if by_namespace else (0, 0, 0)
    kept = Withheld(cause, remedy, _names_in(text), size, links, memory, crc32(_encoded(text)), by_namespace)
    return replace(topology, text="", withheld=kept)


def _for_others(topology: Topology) -> Topology:
    """The withheld topology as one that stands for all younger ones."""
    withheld = topology.withheld
    return replace(topology, withheld=withheld and replace(withheld, names=_EVERY_NAME, stands_for_others=True))


def _names_in(text: str) -> bytes:
    """A filter of the words in a text, which are the names that it can spell without escapes."""
    if "\\" in text:
        return _EVERY_NAME
    bits = bytearray(_FILTER_BITS // 8)
    for word in set(_WORD.findall(text)):
        for bit in _bits(word):
            bits[bit // 8] |= 1 << bit % 8
    return bytes(bits)


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _bits(word: str) -> tuple[int, int]:
    """Two bits of the filter; the same ones on every node."""
    number = crc32(word.encode())
    return number % _FILTER_BITS, (number >> 16) % _FILTER_BITS


def _seniority(topology: Topology) -> tuple[datetime, str]:
    return topology.created or _FIRST, topology.name
