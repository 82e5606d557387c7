"""The check that this node's records hold the Leases of their VNIs. It costs this node's links alone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ratchet.core.garbage import VniLease, links_without_lease
from ratchet.core.model import Link
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

# The most links that one `check_some` checks. After an upgrade no Lease has the labels of its nodes.
CHECKED_AT_ONCE = 50


class Cache(Protocol):
    """The cached records."""

    def of_node(self, node: str) -> list[Link]: ...


class Leases(Protocol):
    """The VNI Leases in the API."""

    def list_of_node(self, node: str) -> Sequence[VniLease]: ...


class Controller(Protocol):
    """The controller of links."""

    def assert_vni(self, link: str) -> None:
        """Queue a link, and have its reconciliation assert that the record holds the Lease of its VNI."""
        ...


class VniCheck:
    """Finds the links whose Lease is not among those that are labelled with this node.

    The controller asserts the VNI of each: the Lease may be missing, have another holder, or lack the label.
    """

    def __init__(self, node: str, cache: Cache, leases: Leases, controller: Controller) -> None:
        self._node = node
        self._cache = cache
        self._leases = leases
        self._controller = controller
        self._waiting: deque[str] = deque()

    def list(self) -> bool:
        """List this node's Leases and note the links to be checked. Returns whether the list succeeded."""
        # The records first: each Lease is created before its number is written into the record.
        links = self._cache.of_node(self._node)
        try:
            leases = self._leases.list_of_node(self._node)
        except RatchetError as error:
            log.warning('cannot list the VNI Leases cause="%s"', error)
            return False
        self._waiting = deque(links_without_lease(links, leases))
        return True

    def check_some(self) -> None:
        """Have the next CHECKED_AT_ONCE links checked."""
        for _ in range(min(CHECKED_AT_ONCE, len(self._waiting))):
            self._controller.assert_vni(self._waiting.popleft())
