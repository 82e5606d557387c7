"""The guard of the tunnel port: the table in the node's packet filter that `guard_rules` describes.

"The node" is the calling thread's network namespace. Each change is one transaction, so the table never lacks a tunnel
that it had before. Agent and daemonless plugin change the table at the same time. A change that depends on what was
read is conditional on the ruleset's generation, and is decided again if another transaction has come in between.

`admit` and `withdraw` are best effort, because a link also works without the guard: they note a refusal, and `refusal`
has it for the host's log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from errno import EEXIST, ENOENT
from typing import TypeVar

import tenacity

from ratchet.core.tunnel_guard import GuardedTunnel, GuardTable
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
from ratchet.datapath.nftables import Nftables, delete_element, get_element
from ratchet.datapath.rtnetlink import RefusedError
from ratchet.datapath.vni_conflicts import claimed
from ratchet.errors import DatapathError, GuardError
from ratchet.retry import call_with_retries

ERESTART = 85  # the generation has changed (include/linux/errno.h)
RETRY_SECONDS = 5.0

ADVICE = "The node's kernel needs nf_tables with the family inet. Ratchet needs CAP_NET_ADMIN in the node's network."

Result = TypeVar("Result")


@dataclass(slots=True)
class _LastResult:
    """Why the kernel refused a change of the table to this process; empty once it has accepted a tunnel again."""

    refusal: str = ""


_last = _LastResult()
# Threads of one process take turns: each of their transactions would make the others decide again.
_changing = threading.RLock()


def refusal() -> str:
    """Why the kernel refused a change of the table to this process; empty once it has accepted a tunnel again."""
    return _last.refusal


def admit(tunnel: GuardedTunnel, *, is_new: bool = True) -> bool:
    """Take the tunnel's datagrams from its peer only. Returns whether the kernel accepted that.

    Replaces what the table has for another owner or peer of the same port and VNI: a node has one device for both.
    If the tunnel is not new, the table is read first: a refused transaction takes the kernel some 15 ms.
    """
    admitted = _admit if is_new else _admit_again
    return _is_done(lambda: _with_retries(lambda channel: admitted(channel, tunnel)), proves=True)


def withdraw(port: int, vni: int, owner: str = "") -> bool:
    """Remove a tunnel that is gone from the table. Returns False if the kernel refused.

    Leaves it alone if another owner has it by now; an empty owner matches any.
    """
    return _is_done(lambda: _with_retries(lambda channel: _withdraw(channel, port, vni, owner)))


def forget(owner: str) -> bool:
    """Remove an owner's tunnels from the table, for an interface that is gone. Returns False if the kernel refused.

    Keeps a tunnel whose VNI and port a device on this node still claims: its namespace may outlive its path.
    """
    return not owner or _is_done(lambda: _forget(owner))


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
    return _checked("read", lambda: _in_channel(read_all))


def read_drops() -> Mapping[tuple[int, int], int]:
    """Dropped packets by port and VNI, since the table was made. VNI 0 has the fragments. Raises GuardError."""
    return _checked("read", lambda: _in_channel(read_counts))


def rebuild(decide: Callable[[GuardTable], Iterable[GuardedTunnel]]) -> tuple[object, ...]:
    """Replace the table in one transaction by one with the tunnels that `decide` returns for the present table.

    `decide` is asked again if the table changes meanwhile. Returns the new layout (`GuardTable`). Raises GuardError.
    """

    def once(channel: Nftables) -> tuple[object, ...]:
        generation = channel.generation()
        tunnels = tuple(decide(read_all(channel)))
        channel.transact([*table_messages(), *additions(tunnels)], generation)
        return read_layout(channel)

    return _noted("make", lambda: _with_retries(once), proves=True)


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

    return _noted("remove", lambda: _in_channel(once))


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

    return _noted("clean up", lambda: _with_retries(once))


def tunnels_exist(tunnels: Sequence[GuardedTunnel]) -> set[tuple[int, int]]:
    """Which of these tunnels a device on this node claims, by port and VNI; from whatever namespace. Slow.

    Raises GuardError.
    """
    return _checked("read", claimed) & {one.key for one in tunnels} if tunnels else set()


def _admit(channel: Nftables, tunnel: GuardedTunnel) -> None:
    try:
        channel.transact(additions([tunnel], exclusive=True))
    except RefusedError as refused:
        if refused.errno == EEXIST:
            _replace(channel, tunnel)
        elif refused.errno == ENOENT:
            _make_table_with(channel, tunnel)
        else:
            raise


def _admit_again(channel: Nftables, tunnel: GuardedTunnel) -> None:
    try:
        _replace(channel, tunnel)
    except RefusedError as refused:
        if refused.errno != ENOENT:
            raise
        _make_table_with(channel, tunnel)


def _replace(channel: Nftables, tunnel: GuardedTunnel) -> None:
    """Put a tunnel into the place of what the table has for its port and VNI."""
    generation = channel.generation()
    old = look_up(channel, *tunnel.key)
    messages = [delete_element(TABLE, TUNNELS, tunnel_key(*tunnel.key))] if old is not None else []
    messages += peer_removal(old) if old is not None and old.peer != tunnel.peer else []
    channel.transact([*messages, *additions([tunnel])], generation)


def _make_table_with(channel: Nftables, tunnel: GuardedTunnel) -> None:
    """Make the table, which is missing or incomplete, with this tunnel and those that are left in it."""
    generation = channel.generation()
    kept = [one for one in read_all(channel).tunnels if one.key != tunnel.key]
    channel.transact([*table_messages(), *additions([*kept, tunnel])], generation)


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
        _with_retries(once)


def _with_retries(once: Callable[[Nftables], Result]) -> Result:
    """Run `once` on a channel, again if another transaction has changed what it has read."""
    with _changing, Nftables() as channel:
        return call_with_retries(lambda: once(channel), RefusedError, _retries)


def _retries(elapsed: float) -> tenacity.Retrying:
    """Retry after changes of other processes, with random pauses, for a limited time."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, RefusedError) and error.errno == ERESTART),
        wait=tenacity.wait_random_exponential(multiplier=0.001, max=0.1),
        stop=tenacity.stop_after_delay(RETRY_SECONDS - elapsed),
        reraise=True,
    )


def _in_channel(once: Callable[[Nftables], Result]) -> Result:
    with Nftables() as channel:
        return once(channel)


def _checked(verb: str, act: Callable[[], Result]) -> Result:
    """The result of `act`. Raises GuardError if the kernel refuses."""
    try:
        return act()
    except (RefusedError, DatapathError) as error:
        cause = error.strerror if isinstance(error, RefusedError) else error
        raise GuardError(f"cannot {verb} the guard of the tunnel port: {cause}", details=ADVICE) from error


def _noted(verb: str, act: Callable[[], Result], *, proves: bool = False) -> Result:
    """As `_checked`, and notes a refusal. `proves`: success shows that the kernel takes tunnels into the table."""
    try:
        result = _checked(verb, act)
    except GuardError as error:
        _last.refusal = str(error)
        raise
    if proves:
        _last.refusal = ""
    return result


def _is_done(act: Callable[[], object], *, proves: bool = False) -> bool:
    """Whether the kernel accepted a change."""
    try:
        _noted("change", act, proves=proves)
    except GuardError:
        return False
    return True
