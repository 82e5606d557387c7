"""The guard of a node's tunnel port, as the kernel has it."""

from __future__ import annotations

from ratchet.core.tunnel_guard import GuardTable
from ratchet.datapath import messages, open_netns, tunnel_guard
from ratchet.datapath.netns import inside
from ratchet.datapath.nlattr import message
from ratchet.datapath.parse import read_new_link
from ratchet.datapath.rtnetlink import Channel
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


def turn_local_bypass_on(netns: str, ifname: str) -> None:
    """As `ip link set IFNAME type vxlan localbypass` in a namespace; older versions of iproute2 lack the option."""
    off = messages.NO_LOCAL_BYPASS
    option = off[:4] + b"\1" + off[5:]
    with open_netns(netns) as opened, Channel(opened) as channel:
        (shown,) = channel.do(messages.link_named(ifname))
        index = read_new_link(shown.messages[0]).index
        head, content = messages._link(index), messages._vxlan_info(option)
        channel.do(message(messages.RTM_NEWLINK, messages.ACT, head, content))
