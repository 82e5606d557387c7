"""Notes for `ratchet validate`: consequences of declarations that depend on a cluster, which it does not know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ratchet.core.fragments import outer_packets
from ratchet.core.intent.wanted import WantedLink
from ratchet.core.interface import FRAGMENTED_MTU_MAX
from ratchet.core.kinds import DEFAULT_WIRING, Wiring

UNDERLAY_MTU = 1500


def fragment_notes(links: Iterable[WantedLink]) -> list[str]:
    """How many packets an underlay with UNDERLAY_MTU carries for one of a link: a note for each `mtu` that needs more.

    Only links in panel wiring send fragments. Links whose pods are on one node have no tunnel.
    """
    fragmented: dict[int, list[str]] = defaultdict(list)
    for one in links:
        mtu = max(one.link.primary.properties.mtu or 0, one.link.pair.properties.mtu or 0)
        packets = outer_packets(mtu, UNDERLAY_MTU)
        if mtu <= FRAGMENTED_MTU_MAX and packets > 1 and _may_be_fragmented(one):
            fragmented[mtu].append(one.link.name)
    return [f"{_named(names)}: {_consequence(mtu)}" for mtu, names in sorted(fragmented.items())]


def _may_be_fragmented(one: WantedLink) -> bool:
    nodes = {pod.node for pod in (one.primary, one.pair) if pod is not None}
    is_local = len(nodes) == 1 and "" not in nodes and len(one.pods()) == 2
    has_tunnel = one.link.encapsulation.tunnel or not is_local
    return has_tunnel and one.effective_wiring(DEFAULT_WIRING) is Wiring.PANEL


def _named(names: list[str]) -> str:
    return f"link {names[0]}" if len(names) == 1 else f"{len(names)} links, such as {min(names)}"


def _consequence(mtu: int) -> str:
    return (
        f"between nodes, a packet of {mtu} bytes takes {outer_packets(mtu, UNDERLAY_MTU)} outer packets over IPv4 "
        f"if the underlay MTU is {UNDERLAY_MTU}; over IPv6, this mtu needs a larger underlay MTU"
    )
