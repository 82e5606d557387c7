"""Whether the tunnels of this node can use their UDP port: asked by agents from time to time, and by STATUS."""

from __future__ import annotations

from functools import partial

from ratchet.datapath.udp_ports import use_of
from ratchet.node.held_tunnels import held_devices
from ratchet.node.journal import Journal


def port_fault(port: int, journal: Journal) -> str | None:
    """What else uses the UDP port; empty if tunnels can use it, None if that is unknown. Raises DatapathError."""
    use = use_of(port, partial(held_devices, journal))
    if use.holder:
        return f"UDP port {port} of the node is used by {use.holder}"
    return "" if use.is_free else None
