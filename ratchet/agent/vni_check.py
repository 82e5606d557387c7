"""Check that the records of this node's links hold the Leases of their VNIs, at a cost of this node's links alone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ratchet.core.garbage import VniLease, links_without_lease
from ratchet.core.model import Link
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

# Links checked one by one at each `check_some`. After an upgrade no Lease has the labels of its nodes.
CHECKED_AT_ONCE = 50


class Cache(Protocol):
    """The cached records."""

    def of_node(self, node: str) -> list[Link]: ...


class Leases(Protocol):
    """The VNI Leases in the API."""

    def list_of_node(self, node: str) -> Sequence[VniLease]: ...


class VniCheck:
    """Finds the links whose Lease is not among those that are labelled with this node.

    `assert_vni` is called with the name of each: the Lease may be missing, have another holder, or lack the label.
    """

    def __init__(self, node: str, cache: Cache, leases: Leases, assert_vni: Callable[[str], None]) -> None:
        self._node = node
        self._cache = cache
        self._leases = leases
        self._assert_vni = assert_vni
        self._waiting: deque[str] = deque()

    def list(self) -> bool:
        """List this node's Leases and note the links to be checked. Returns whether the Leases could be listed."""
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
            self._assert_vni(self._waiting.popleft())
