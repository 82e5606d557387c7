"""Which ends a sandbox takes. An interface of a sandbox has one owner: one end of one link, for one attachment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ratchet.core.naming import reserved_ifindex
from ratchet.node.journal import HeldEnd


def reserve(wanted: Iterable[HeldEnd], held: Iterable[HeldEnd]) -> tuple[HeldEnd, ...]:
    """Those of the wanted ends that the sandbox can take now, each with an ifindex of its own.

    `held` are the ends that the sandbox has, of all its attachments. An end is left out if its link or its interface is
    among them: it is taken once the old end has been given up. A link's ifindex is the same for every sandbox, so that
    a new sandbox in a namespace knows the link's interface that an old one has left there.
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
