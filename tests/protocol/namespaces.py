"""Network namespaces of sandboxes: the path, and the cookie that distinguishes namespaces at one path."""

from __future__ import annotations

from functools import cache

from ratchet.core.sandbox import Location


def netns_path(sandbox: str) -> str:
    """The path of a sandbox's namespace. The namespace of a sandbox `b@a` reuses the path of `a`."""
    return f"/netns/{sandbox.rpartition('@')[2]}"


@cache
def cookie_of(sandbox: str) -> int:
    """The cookie of a sandbox's namespace (SO_NETNS_COOKIE), unique for each sandbox."""
    return int.from_bytes(sandbox.encode())


def location_of(sandbox: str, index: int = 0) -> Location:
    """The location of a sandbox's end, with the ifindex reserved for it."""
    return Location(netns_path(sandbox), cookie_of(sandbox), index)
