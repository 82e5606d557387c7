"""Declared links of tests, in each form of a declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ratchet.core.model import End, Link

Json = dict[str, Any]

Endpoint = tuple[str, str]
"""The name of a pod, and an interface in it."""


def ends_of_record(record: Link) -> tuple[End, End]:
    """Both ends of a record, the primary first."""
    return record.primary, record.pair


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A declared link between endpoint 0 and endpoint 1. Its addresses contain `number`.

    `wiring` is empty if none is declared.
    """

    primary: str
    local_ifname: str
    pair: str
    pair_ifname: str
    number: int
    wiring: str = ""

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        return (self.primary, self.local_ifname), (self.pair, self.pair_ifname)

    def address(self, at: int) -> str:
        return f"10.{1 + self.number // 256}.{self.number % 256}.{at + 1}"

    def matches_record(self, record: Link) -> bool:
        """Whether a record has the endpoints of this link, in either order."""
        return {(end.name, end.ifname) for end in ends_of_record(record)} == set(self.endpoints)

    def end_in(self, record: Link, at: int) -> End:
        """The end of this link's record with the index `at`."""
        return next(end for end in ends_of_record(record) if (end.name, end.ifname) == self.endpoints[at])

    @property
    def labels(self) -> dict[str, str]:
        """The labels in the style of 2017 that declare the link on the pod of endpoint 0."""
        wiring = {"ratchet.wiring": self.wiring} if self.wiring else {}
        return {
            **wiring,
            "ratchet.primary": "true",
            "ratchet.local_ifname": self.local_ifname,
            "ratchet.local_ip": self.address(0),
            "ratchet.pair_name": self.pair,
            "ratchet.pair_ifname": self.pair_ifname,
            "ratchet.pair_ip": self.address(1),
        }

    def in_annotation(self, at: int) -> Json:
        """The link as an item of the annotation `ratchet.links` on the pod of endpoint `at`."""
        (_, ifname), (peer, peer_ifname) = self.endpoints[at], self.endpoints[1 - at]
        addresses = [self.address(at), self.address(1 - at)]
        ends = {"peer": peer, "ifname": ifname, "peer_ifname": peer_ifname, "addresses": addresses}
        return {**ends, **self._declared_wiring}

    def in_topology(self, *, swapped: bool) -> Json:
        """The link as an item of a topology, with its endpoints in either order."""
        order = (1, 0) if swapped else (0, 1)
        endpoints = [":".join(self.endpoints[at]) for at in order]
        addresses = [self.address(at) for at in order]
        return {"endpoints": endpoints, "addresses": addresses, **self._declared_wiring}

    @property
    def _declared_wiring(self) -> Json:
        return {"wiring": self.wiring} if self.wiring else {}

    def __str__(self) -> str:
        return "–".join(":".join(endpoint) for endpoint in self.endpoints)
