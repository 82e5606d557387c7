"""The guard of a node's tunnel port, as the kernel has it."""

from __future__ import annotations

from ratchet.core.tunnel_guard import GuardTable
from ratchet.datapath import open_netns, tunnel_guard
from ratchet.datapath.netns import inside
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import netns_path


def guard_of(node: Kubelet) -> GuardTable:
    """The guard's table on a node."""
    with open_netns(netns_path(node.host.netns)) as netns, inside(netns):
        return tunnel_guard.read_table()


def drop_guard(node: Kubelet) -> None:
    """Remove the guard's table, as `nft flush ruleset` does."""
    with open_netns(netns_path(node.host.netns)) as netns, inside(netns):
        assert tunnel_guard.remove_table()


def peers_of(node: Kubelet) -> set[str]:
    """The VTEPs from which the tunnels of a node take datagrams."""
    return {address for address, _, _ in guard_of(node).peers}
