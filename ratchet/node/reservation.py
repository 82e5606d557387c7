"""Reservation of a sandbox's interfaces. Each has one owner: one end of one link, for one attachment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ratchet.core.naming import reserved_ifindex
from ratchet.node.journal import HeldEnd


def reserve(wanted: Iterable[HeldEnd], held: Iterable[HeldEnd]) -> tuple[HeldEnd, ...]:
    """The wanted ends that the sandbox can take now, each with its own ifindex.

    `held` are the ends that the sandbox has, of all its attachments. An end is left out if its link or its interface is
    among them; it is taken after the old end is removed. A link's ifindex is the same for every sandbox. So a new
    sandbox recognizes the link's interface that an old one has left in its namespace.
    """
    links, interfaces, indexes = set[str](), set[str](), set[int]()
    for one in held:
        links.add(one.link)
        interfaces.add(one.ifname)
        indexes.add(one.index)
    taken = []
    for one in wanted:
        if one.link in links or one.ifname in interfaces:
            continue
        index = reserved_ifindex(one.wanted, one.wanted.end(one.side), indexes)
        links.add(one.link)
        interfaces.add(one.ifname)
        indexes.add(index)
        taken.append(replace(one, index=index))
    return tuple(taken)
