"""Links in the kernel: the only package that uses netlink.

All code that needs a network namespace or a netlink socket is here. `core.interface` decides how a link must look.
Nothing here logs, forks, or keeps a descriptor open between two calls. Apart from the kernel, calls wait for one thing
only: a dying namespace that still holds a VNI (`vxlan.PATIENCE`).
"""

from __future__ import annotations

from ratchet.datapath.identity import namespace_is_there, netns_cookie
from ratchet.datapath.links import build, ensure, make, observe, observe_port, remove, removing, unplug
from ratchet.datapath.netns import Netns, inside, is_host, open_netns, refuse_host
from ratchet.datapath.stats import count
from ratchet.datapath.underlay import find_parent
from ratchet.datapath.vni_conflicts import release

__all__ = [
    "Netns",
    "build",
    "count",
    "ensure",
    "find_parent",
    "inside",
    "is_host",
    "make",
    "namespace_is_there",
    "netns_cookie",
    "observe",
    "observe_port",
    "open_netns",
    "refuse_host",
    "release",
    "remove",
    "removing",
    "unplug",
]
