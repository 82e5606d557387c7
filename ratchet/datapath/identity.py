"""Identity of the namespace at a path: whether it is still the one that its pod started in."""

from __future__ import annotations

from ratchet.core.sandbox import Location
from ratchet.datapath.netns import open_netns
from ratchet.datapath.pod_netns import is_cookie
from ratchet.datapath.rtnetlink import Channel
from ratchet.errors import DatapathError, NamespaceGoneError


def netns_cookie(path: str) -> int:
    """The SO_NETNS_COOKIE of the namespace at `path`, 0 before Linux 5.14.

    Raises NamespaceGoneError, DatapathError.
    """
    with open_netns(path) as netns, Channel(netns) as channel:
        return channel.cookie()


def namespace_is_there(location: Location) -> bool:
    """Whether the location's path leads to its namespace now. Raises nothing.

    True if the process cannot tell because it lacks descriptors or permission: an existing namespace must not be
    treated as gone.
    """
    try:
        with open_netns(location.netns) as netns:
            if not location.cookie:
                return True
            with Channel(netns) as channel:
                return is_cookie(location.cookie, channel)
    except NamespaceGoneError:
        return False
    except DatapathError:
        return True
