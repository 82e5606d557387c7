"""Links in the kernel: the only package that uses netlink.

All code that needs a network namespace or a netlink socket is here. `core.interface` decides how a link must look.
Nothing here logs, forks, or keeps a descriptor open between two calls. Apart from the kernel, calls wait for one thing
only: a dying namespace that still holds a VNI (`vxlan.PATIENCE`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ratchet.datapath.identity import namespace_is_there, netns_cookie
    from ratchet.datapath.links import (
        build,
        ensure,
        make,
        observe,
        observe_port,
        panel_tunnels,
        remove,
        removing,
        unplug,
    )
    from ratchet.datapath.netns import Netns, inside, is_host, open_netns, refuse_host
    from ratchet.datapath.panel.attachments import remove_attachment
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
    "panel_tunnels",
    "refuse_host",
    "release",
    "remove",
    "remove_attachment",
    "removing",
    "unplug",
]

_MODULES = {
    "Netns": "netns",
    "build": "links",
    "count": "stats",
    "ensure": "links",
    "find_parent": "underlay",
    "inside": "netns",
    "is_host": "netns",
    "make": "links",
    "namespace_is_there": "identity",
    "netns_cookie": "identity",
    "observe": "links",
    "observe_port": "links",
    "open_netns": "netns",
    "panel_tunnels": "links",
    "refuse_host": "netns",
    "release": "vni_conflicts",
    "remove": "links",
    "remove_attachment": "panel.attachments",
    "removing": "links",
    "unplug": "links",
}


def __getattr__(name: str) -> Any:
    """Import a function's module at its first use: a call for a pod without links needs hardly any of them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found
