"""The guard of the tunnel port: which node's datagrams each tunnel of this node takes.

Linux's VXLAN takes a datagram of a VNI from any address. The guard is a table in the node's packet filter. It holds a
`GuardedTunnel` for each tunnel of the node and drops datagrams of these tunnels from other addresses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

# The longest comment of an element in bytes. nft(8) takes 128 characters, and the kernel silently drops one of 253.
COMMENT_BYTES = 127
UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class GuardedTunnel:
    """A tunnel's end on this node, and the only address from which it takes datagrams.

    `port` and `vni` identify it on the node. `peer` is the VTEP of the peer. `owner` identifies the end's interface
    within one boot (`owner_of`), empty if it is not known. `link` is the name of its record, cut if it is long.
    """

    port: int
    vni: int
    peer: str
    owner: str
    link: str = ""

    @property
    def key(self) -> tuple[int, int]:
        return self.port, self.vni

    @property
    def comment(self) -> str:
        """What the table keeps of it, beside its key; `read_comment` reads it."""
        text = f"{self.peer} {self.owner or UNKNOWN} {self.link}".rstrip()
        return text.encode()[:COMMENT_BYTES].decode("utf-8", "ignore")


Peer = tuple[str, int, int]
"""An address that a tunnel takes datagrams from: the address, the tunnel's UDP port and its VNI."""


@dataclass(frozen=True, slots=True)
class GuardTable:
    """The guard as the kernel has it.

    `layout` has its sets, chains and rules in the kernel's own form, empty if there is no table. `unreadable` counts
    the tunnels that have no comment of Ratchet's. Only datagrams to `ports` are judged.
    """

    layout: tuple[object, ...] = ()
    tunnels: tuple[GuardedTunnel, ...] = ()
    peers: frozenset[Peer] = frozenset()
    unreadable: int = 0
    ports: frozenset[int] = frozenset()


def owner_of(cookie: int, index: int) -> str:
    """The identity of an interface: the cookie of its namespace and its ifindex. Empty if either is not known."""
    return f"{cookie}/{index}" if cookie and index else ""


def read_comment(port: int, vni: int, comment: str) -> GuardedTunnel | None:
    """The tunnel with the comment of an element; None if the comment is not Ratchet's."""
    peer, _, rest = comment.partition(" ")
    owner, _, link = rest.partition(" ")
    return GuardedTunnel(port, vni, peer, "" if owner == UNKNOWN else owner, link) if peer and owner else None


def peers_of(tunnels: Iterable[GuardedTunnel]) -> frozenset[Peer]:
    """The addresses that these tunnels take datagrams from."""
    return frozenset((one.peer, one.port, one.vni) for one in tunnels)


def faults(table: GuardTable, layout: tuple[object, ...], gone: Collection[GuardedTunnel]) -> tuple[str, ...]:
    """What is wrong with the table, in words; empty if it is as it must be.

    `layout` is the right one. `gone` are the tunnels in the table that are known to be gone.
    """
    if not table.layout:
        return ("the table is missing",)
    found = [] if table.layout == layout else ["its rules were changed"]
    if table.peers - peers_of(table.tunnels):
        found.append("it accepts datagrams from addresses that are no peers")
    if peers_of(table.tunnels) - table.peers:
        found.append("it lacks addresses of peers")
    if {one.port for one in table.tunnels} - table.ports:
        found.append("it lacks UDP ports of tunnels")
    if table.unreadable:
        found.append("it has tunnels that are not Ratchet's")
    if any(count > 1 for count in Counter(one.owner for one in table.tunnels if one.owner).values()):
        found.append("it has several tunnels of one interface")
    if gone:
        found.append(f"it has {len(gone)} tunnels that are gone")
    return tuple(found)


def gone_tunnels(
    table: GuardTable, held: Collection[str], exists: Callable[[GuardedTunnel], bool]
) -> tuple[GuardedTunnel, ...]:
    """The tunnels in the table that no interface of this node has any more.

    `held` are the owners that the node's journal holds; their ends may have no interface for a while. `exists` looks
    for any interface of a tunnel, and is asked for the others only.
    """
    return tuple(one for one in table.tunnels if one.owner not in held and not exists(one))


def rebuilt_tunnels(
    table: GuardTable,
    observed: Iterable[GuardedTunnel],
    gone: Collection[GuardedTunnel],
    unguarded: Collection[str],
) -> tuple[GuardedTunnel, ...]:
    """The tunnels that a new table must have: those observed, and those in the table that are not known to be gone.

    `unguarded` are the owners whose tunnels are to take datagrams from anywhere.
    """
    found = {one.key: one for one in table.tunnels if one not in gone}
    found.update((one.key, one) for one in observed)
    return tuple(one for one in found.values() if one.owner not in unguarded)


def complete_tunnels(
    table: GuardTable, found: Iterable[GuardedTunnel], admitted: GuardedTunnel | None = None
) -> tuple[GuardedTunnel, ...]:
    """The tunnels that a table must have that is made because it was missing or incomplete.

    A tunnel that is left in the table is newer than one that was `found` on the node, and `admitted` is the newest.
    """
    newest = {one.key: one for one in found}
    newest.update((one.key, one) for one in table.tunnels)
    if admitted is not None:
        newest[admitted.key] = admitted
    return tuple(newest.values())


def count_new_drops(
    before: Mapping[tuple[int, int], int], now: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int], int]:
    """The packets dropped since `before`, by port and VNI. A count that has fallen began again at 0."""
    counts = {key: count - before.get(key, 0) if count >= before.get(key, 0) else count for key, count in now.items()}
    return {key: count for key, count in counts.items() if count}
