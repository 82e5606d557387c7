"""Where the namespaces of sandboxes are: the path of each, and the identity that tells it from others at that path."""

from __future__ import annotations

from functools import cache

from ratchet.core.model import Location


def netns_path(sandbox: str) -> str:
    """The path of a sandbox's namespace. `b@a` is a sandbox whose namespace has the path that the one of `a` had."""
    return f"/netns/{sandbox.rpartition('@')[2]}"


@cache
def cookie_of(sandbox: str) -> int:
    """The identity of a sandbox's namespace (SO_NETNS_COOKIE); no two sandboxes have the same."""
    return int.from_bytes(sandbox.encode())


def location_of(sandbox: str, index: int = 0) -> Location:
    """The location of an end in a sandbox."""
    return Location(netns_path(sandbox), cookie_of(sandbox), index)
