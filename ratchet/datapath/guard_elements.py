"""The elements of the guard's table: from tunnels to messages and back (`guard_rules` has the sets)."""

from __future__ import annotations

from collections.abc import Iterable
from errno import ENOENT
from ipaddress import ip_address

from ratchet.core.tunnel_guard import GuardedTunnel, GuardTable, peers_of, read_comment
from ratchet.datapath.guard_rules import DROPS, PEERS4, PEERS6, PORTS, TABLE, TUNNELS, read_layout
from ratchet.datapath.nftables import (
    Element,
    Nftables,
    add_elements,
    delete_element,
    get_element,
    read_elements,
)
from ratchet.datapath.nlattr import pack_address
from ratchet.datapath.rtnetlink import NetlinkReply


def removal(tunnel: GuardedTunnel) -> list[bytearray]:
    """Remove a tunnel and its peer. A tunnel that is missing is refused with ENOENT."""
    return [delete_element(TABLE, TUNNELS, tunnel_key(*tunnel.key)), *peer_removal(tunnel)]


def look_up(channel: Nftables, port: int, vni: int) -> GuardedTunnel | None:
    """The tunnel that the table has; one without a peer if its comment is not Ratchet's."""
    (answer,) = channel.exchange(get_element(TABLE, TUNNELS, tunnel_key(port, vni)))
    if answer.refusal is not None:
        if _is_missing(answer):
            return None
        raise answer.refusal
    return tunnel_in(answer) or GuardedTunnel(port, vni, "", "")


def tunnel_in(answer: NetlinkReply) -> GuardedTunnel | None:
    """The tunnel in the reply to a request of one; None if there is none, or its comment is not Ratchet's."""
    elements = [one for raw in answer.messages for one in read_elements(raw)]
    return _read_tunnel(elements[0]) if elements else None


def _is_missing(answer: NetlinkReply) -> bool:
    return answer.refusal is not None and answer.refusal.errno == ENOENT


def read_all(channel: Nftables) -> GuardTable:
    """The whole table. Raises RefusedError."""
    tunnels, unreadable = read_tunnels(channel)
    peers = frozenset(
        (str(ip_address(one.key[:-8])), *_read_key(one.key[-8:]))
        for name in (PEERS4, PEERS6)
        for one in channel.elements(TABLE, name)
    )
    ports = frozenset(int.from_bytes(one.key[:2], "big") for one in channel.elements(TABLE, PORTS))
    return GuardTable(read_layout(channel), tunnels, peers, unreadable, ports)


def read_tunnels(channel: Nftables) -> tuple[tuple[GuardedTunnel, ...], int]:
    """The tunnels in the table, and the number of those without a comment of Ratchet's."""
    found = [_read_tunnel(one) for one in channel.elements(TABLE, TUNNELS)]
    readable = tuple(one for one in found if one is not None)
    return readable, len(found) - len(readable)


def read_counts(channel: Nftables) -> dict[tuple[int, int], int]:
    """Dropped packets by port and VNI. Raises RefusedError."""
    return {_read_key(one.key): one.packets for one in channel.elements(TABLE, DROPS)}


def _read_tunnel(element: Element) -> GuardedTunnel | None:
    return read_comment(*_read_key(element.key), element.comment)


def additions(tunnels: Iterable[GuardedTunnel], *, exclusive: bool = False) -> list[bytearray]:
    """Add the elements of tunnels; with `exclusive` a tunnel that the table has is refused with EEXIST."""
    known = list(tunnels)
    ports = [Element(port.to_bytes(2, "big")) for port in sorted({one.port for one in known})]
    added = [Element(tunnel_key(*one.key), one.comment) for one in known]
    messages = add_elements(TABLE, PORTS, ports) + add_elements(TABLE, TUNNELS, added, exclusive=exclusive)
    for name in (PEERS4, PEERS6):
        peers = [Element(peer_key(*one)) for one in sorted(peers_of(known)) if _peer_set(one[0]) == name]
        messages += add_elements(TABLE, name, peers)
    return messages


def peer_removal(tunnel: GuardedTunnel) -> list[bytearray]:
    """Remove a tunnel's peer. It is added first, because to delete a missing element would fail the transaction."""
    if not tunnel.peer:
        return []
    name, key = peer_element(tunnel)
    return [*add_elements(TABLE, name, [Element(key)]), delete_element(TABLE, name, key)]


def peer_element(tunnel: GuardedTunnel) -> tuple[str, bytes]:
    """The set that has the tunnel's peer, and the peer's key there."""
    return _peer_set(tunnel.peer), peer_key(tunnel.peer, *tunnel.key)


def _peer_set(address: str) -> str:
    return PEERS6 if ":" in address else PEERS4


def peer_key(address: str, port: int, vni: int) -> bytes:
    """The key of an address, a port and a VNI."""
    return pack_address(address) + tunnel_key(port, vni)


def tunnel_key(port: int, vni: int) -> bytes:
    """The key of a port and a VNI, each padded to four bytes."""
    return port.to_bytes(2, "big") + bytes(2) + vni.to_bytes(3, "big") + bytes(1)


def _read_key(key: bytes) -> tuple[int, int]:
    return int.from_bytes(key[:2], "big"), int.from_bytes(key[4:7], "big")
