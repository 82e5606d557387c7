"""Links as large as a declaration can make them: 16 addresses, 64 routes and 64 sysctls at both ends, long names."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from ratchet.core import record_updates
from ratchet.core.endpoint_spec import EndpointSpec, Route
from ratchet.core.intent.values import ADDRESSES_MAX, ROUTES_MAX, SYSCTLS_MAX
from ratchet.core.model import End, Link, Side
from ratchet.core.naming import node_label
from ratchet.core.pod import PodRef
from ratchet.core.sysctls import ALLOWED
from ratchet.store.codec.links import encode_link
from tests.support.links import NOW, sandbox

_ADDRESS = re.compile(r"fd00(:[0-9a-f]{1,4}){7}")


def declared_link(number: int) -> Link:
    """A link with as much as a declaration may have at both ends, and values of its own."""
    drawn = random.Random(str(number))

    def address() -> str:
        return _address(drawn)

    def end(letter: str) -> End:
        spec = EndpointSpec(
            routes=tuple(Route(ip_network(address()), ip_address(address()), drawn.getrandbits(31)) for _ in range(64)),
            sysctls=tuple((name, drawn.getrandbits(31)) for name in sorted(ALLOWED)[:SYSCTLS_MAX]),
        )
        assert len(spec.routes) == ROUTES_MAX
        addresses = tuple(ip_interface(f"{address()}/64") for _ in range(ADDRESSES_MAX))
        return End(f"{letter}{number:06}".ljust(253, letter), f"in{number}"[:15], addresses, spec)

    return Link(f"{number}".ljust(253, "x"), "n" * 63, end("a"), end("b"))


def joined_link(link: Link, number: int) -> Link:
    """The link with sandboxes and a history."""
    for turn in range(3):
        for side, node in ((Side.PRIMARY, "node-a"), (Side.PAIR, "node-b")):
            name = link.end(side).name
            own = replace(sandbox("p", node), container_id=f"{number}-{turn}-{side}".ljust(64, "0"))
            own = replace(own, pod=PodRef("n" * 63, name, f"{number}-{turn}-{side}".ljust(36, "0")))
            link = record_updates.join(link, link, side, own, NOW + timedelta(seconds=turn))
        link = record_updates.mark_ready(link, Side.PRIMARY, NOW)
        link = record_updates.mark_ready(link, Side.PAIR, NOW)
    return link


def expected_records(number: int, node: str) -> Iterator[dict[str, Any]]:
    """Records, each with values of its own, of links whose one end has joined on a node that does not exist.

    The other end is expected on `node`.
    """
    link = declared_link(0)
    own = replace(sandbox("p"), node="elsewhere", pod=PodRef(link.namespace, link.primary.name, "uid"))
    link = record_updates.join(None, link, Side.PRIMARY, own, NOW)
    template = encode_link(replace(link, expected_on=(node_label(node),)))
    for one in range(number):
        drawn = random.Random(one)
        data = {key: _ADDRESS.sub(lambda _: _address(drawn), text) for key, text in template["data"].items()}  # noqa: B023
        yield {**template, "metadata": {**template["metadata"], "name": f"hostile-{one}"}, "data": data}


def _address(drawn: random.Random) -> str:
    return ":".join(["fd00", *(f"{drawn.getrandbits(16) or 1:x}" for _ in range(7))])
