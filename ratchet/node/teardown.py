"""Remove the interface of a sandbox's end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ratchet import datapath
from ratchet.core.sandbox import Location
from ratchet.errors import ForeignInterfaceError
from ratchet.node.journal import Journal


def take_down(journal: Journal, container_id: str, location: Location, ifname: str, link: str = "") -> None:
    """Remove the interface of a sandbox's end.

    Leaves the interface alone if it belongs to another sandbox or, with `link`, to another link, or is not Ratchet's.
    Does nothing if the interface or its namespace is gone.
    """
    with taking_down(journal, container_id, location, ifname, link):
        pass


@contextmanager
def taking_down(journal: Journal, container_id: str, location: Location, ifname: str, link: str = "") -> Iterator[None]:
    """Run the block while the interface is removed as by `take_down`."""
    if not location.netns or journal.is_anothers(location, ifname, container_id, link):
        yield
        return
    with suppress(ForeignInterfaceError), datapath.removing(location, ifname):
        yield
