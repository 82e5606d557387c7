"""The guard of the tunnel port: the table in the node's packet filter that `guard_rules` describes.

"The node" is the calling thread's network namespace. Each change is one transaction, so the table never lacks a tunnel
that it had before. Agent and daemonless plugin change the table at the same time. A change that depends on what was
read is conditional on the ruleset's generation, and is decided again if another transaction has come in between.

`admit` and `withdraw` are best effort, because a link also works without the guard: they note a refusal, and `refusal`
has it for the host's log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from errno import EEXIST, ENOENT

from ratchet.core.tunnel_guard import GuardedTunnel, GuardTable, complete_tunnels
from ratchet.datapath.guard_elements import (
    additions,
    look_up,
    peer_element,
    peer_removal,
    read_all,
    read_counts,
    read_tunnels,
    removal,
    tunnel_in,
    tunnel_key,
)
from ratchet.datapath.guard_rules import TABLE, TUNNELS, delete_messages, read_layout, table_messages
from ratchet.datapath.guard_state import find_tunnels, refusal, restore_from
from ratchet.datapath.guard_transactions import checked, in_channel, is_done, noted, turn, with_retries
from ratchet.datapath.nftables import Nftables, delete_element, get_element
from ratchet.datapath.rtnetlink import RefusedError
from ratchet.datapath.vni_conflicts import claimed
from ratchet.errors import DatapathError

__all__ = [
    "admit",
    "forget",
    "is_admitted",
    "read_drops",
    "read_table",
    "rebuild",
    "refusal",
    "remove_table",
    "restore",
    "restore_from",
    "sweep",
    "tunnels_exist",
    "withdraw",
]


def admit(tunnel: GuardedTunnel, *, is_new: bool = True) -> bool:
    """Take the tunnel's datagrams from its peer only. Returns whether the kernel accepted that.

    Replaces what the table has for another owner or peer of the same port and VNI: a node has one device for both.
    If the tunnel is not new, the table is read first: a refused transaction takes the kernel some 15 ms.
    """
    return is_done(lambda: _admit(tunnel, is_new=is_new), proves=True)


def withdraw(port: int, vni: int, owner: str = "") -> bool:
    """Remove a tunnel that is gone from the table. Returns False if the kernel refused.

    Leaves it alone if another owner has it by now; an empty owner matches any.
    """
    return is_done(lambda: with_retries(lambda channel: _withdraw(channel, port, vni, owner)))


def forget(owner: str) -> bool:
    """Remove an owner's tunnels from the table, for an interface that is gone. Returns False if the kernel refused.

    Keeps a tunnel whose VNI and port a device on this node still claims: its namespace may outlive its path.
    """
    return not owner or is_done(lambda: _forget(owner))


def is_admitted(tunnel: GuardedTunnel) -> bool | None:
    """Whether the table has this tunnel, with this owner and peer.

    None if the kernel does not tell, or has refused a change (`refusal`).
    """
    if refusal():
        return None
    try:
        with Nftables() as channel:
            keys = ((TUNNELS, tunnel_key(*tunnel.key)), peer_element(tunnel))
            answers = channel.exchange(*(get_element(TABLE, name, key) for name, key in keys))
    except (RefusedError, DatapathError):
        return None
    if any(one.refusal is not None and one.refusal.errno != ENOENT for one in answers):
        return None
    at_tunnel, at_peer = answers
    found = tunnel_in(at_tunnel)
    return found is not None and at_peer.refusal is None and (found.owner, found.peer) == (tunnel.owner, tunnel.peer)


def read_table() -> GuardTable:
    """The table as the kernel has it. Raises GuardError."""
    return checked("read", lambda: in_channel(read_all))


def read_drops() -> Mapping[tuple[int, int], int]:
    """Dropped packets by port and VNI, since the table was made. VNI 0 has the fragments. Raises GuardError."""
    return checked("read", lambda: in_channel(read_counts))


def rebuild(decide: Callable[[GuardTable], Iterable[GuardedTunnel]]) -> tuple[object, ...]:
    """Replace the table in one transaction by one with the tunnels that `decide` returns for the present table.

    `decide` is asked again if the table changes meanwhile. Returns the new layout (`GuardTable`). Raises GuardError.
    """

    def once(channel: Nftables) -> tuple[object, ...]:
        generation = channel.generation()
        tunnels = tuple(decide(read_all(channel)))
        channel.transact([*table_messages(), *additions(tunnels)], generation)
        return read_layout(channel)

    return noted("make", lambda: with_retries(once), proves=True)


def restore() -> bool:
    """Make the table again if it is missing, with the node's tunnels (`restore_from`). Returns whether it was made.

    A table without tunnels is not made. Raises GuardError.
    """
    return noted("make", lambda: not in_channel(read_layout) and _make_table())


def remove_table() -> bool:
    """Remove the table, and the guard with it. Returns False if there was none. Raises GuardError."""

    def once(channel: Nftables) -> bool:
        try:
            channel.transact(delete_messages())
        except RefusedError as refused:
            if refused.errno != ENOENT:
                raise
            return False
        return True

    return noted("remove", lambda: in_channel(once))


def sweep(held: Collection[str], *, remove_if_empty: bool) -> int:
    """Remove the tunnels that no device has any more, except those of the owners in `held`. Returns their number.

    With `remove_if_empty`, removes a table without tunnels too. Raises GuardError.
    """

    def once(channel: Nftables) -> int:
        generation = channel.generation()
        tunnels, unreadable = read_tunnels(channel)
        others = [one for one in tunnels if one.owner not in held]
        existing = tunnels_exist(others)
        gone = [one for one in others if one.key not in existing]
        if remove_if_empty and len(gone) == len(tunnels) and not unreadable:
            messages = delete_messages() if read_layout(channel) else []
        else:
            messages = [message for one in gone for message in removal(one)]
        if messages:
            channel.transact(messages, generation)
        return len(gone)

    return noted("clean up", lambda: with_retries(once))


def tunnels_exist(tunnels: Sequence[GuardedTunnel]) -> set[tuple[int, int]]:
    """Which of these tunnels a device on this node claims, by port and VNI; from whatever namespace. Slow.

    Raises GuardError.
    """
    return checked("read", claimed) & {one.key for one in tunnels} if tunnels else set()


def _admit(tunnel: GuardedTunnel, *, is_new: bool) -> None:
    with turn:  # so that one thread makes a missing table for all
        try:
            with_retries(lambda channel: _add(channel, tunnel) if is_new else _replace(channel, tunnel))
        except RefusedError as refused:
            if refused.errno != ENOENT:
                raise
            _make_table(tunnel)


def _add(channel: Nftables, tunnel: GuardedTunnel) -> None:
    try:
        channel.transact(additions([tunnel], exclusive=True))
    except RefusedError as refused:
        if refused.errno != EEXIST:
            raise
        _replace(channel, tunnel)


def _replace(channel: Nftables, tunnel: GuardedTunnel) -> None:
    """Put a tunnel into the place of what the table has for its port and VNI."""
    generation = channel.generation()
    old = look_up(channel, *tunnel.key)
    messages = [delete_element(TABLE, TUNNELS, tunnel_key(*tunnel.key))] if old is not None else []
    messages += peer_removal(old) if old is not None and old.peer != tunnel.peer else []
    channel.transact([*messages, *additions([tunnel])], generation)


def _make_table(tunnel: GuardedTunnel | None = None) -> bool:
    """Make the table, which is missing or incomplete: with this tunnel, those that are left in it, and the node's.

    Returns False, and makes none, if there is no tunnel for it.
    """
    # Before the generation is read: it may take long, and the generation changes with every firewall of the node.
    found = find_tunnels()

    def once(channel: Nftables) -> bool:
        generation = channel.generation()
        tunnels = complete_tunnels(read_all(channel), found, tunnel)
        if not tunnels:
            return False
        channel.transact([*table_messages(), *additions(tunnels)], generation)
        return True

    return with_retries(once)


def _withdraw(channel: Nftables, port: int, vni: int, owner: str) -> None:
    generation = channel.generation()
    old = look_up(channel, port, vni)
    if old is None or (owner and old.owner and old.owner != owner):
        return
    channel.transact(removal(old), generation)


def _forget(owner: str) -> None:
    with Nftables() as channel:
        theirs = [one for one in read_tunnels(channel)[0] if one.owner == owner]
    existing = tunnels_exist(theirs)
    gone = [one for one in theirs if one.key not in existing]

    def once(channel: Nftables) -> None:
        for one in gone:
            _withdraw(channel, *one.key, owner)

    if gone:
        with_retries(once)
