"""The UDP ports of tunnels: which ones a link uses, and which ones an administrator allows."""

from __future__ import annotations

PORT_MOST = 65535
# An allowed range that is not set has the node's port and so many further ones.
FURTHER_PORTS = 10

PortRange = tuple[int, int]  # the first and the last port


def default_range(port: int) -> PortRange:
    """The ports that links may use on a node whose own port is `port`."""
    first = min(port, PORT_MOST - FURTHER_PORTS)
    return first, first + FURTHER_PORTS


def ports_on_one_node(port: int) -> tuple[int, int]:
    """The ports of both ends of a tunnel on one node, which has one device for each VNI and port.

    They are the two above the link's port, or the two below it if there are none above.
    """
    return (port + 1, port + 2) if port + 2 <= PORT_MOST else (port - 1, port - 2)


def range_fault(port: int, allowed: PortRange) -> str | None:
    """Why a range does not suit the node's own port: it lacks a port that tunnels need. None if it does."""
    needed = (port, *ports_on_one_node(port))
    if are_allowed(needed, allowed):
        return None
    return f"vxlan_ports must include {min(needed)}-{max(needed)} for the vxlan_port {port}, not {range_text(allowed)}"


def link_fault(declared: int | None, own: int, allowed: PortRange, *, one_node: bool) -> str | None:
    """Why a tunnel must not be created. None if all its ports are allowed.

    `declared` is the link's own port, None if it uses the node's, `own`. `one_node`: both ends are on this node.
    """
    port = own if declared is None else declared
    if declared is not None and declared != own and not are_allowed((declared,), allowed):
        return f"vxlan_port: {declared} is not in vxlan_ports, {range_text(allowed)}"
    if one_node and not are_allowed(extra := ports_on_one_node(port), allowed):
        needed = f"vxlan_port: {port} needs {extra[0]} and {extra[1]} on one node"
        return f"{needed}, which are not in vxlan_ports, {range_text(allowed)}"
    return None


def are_allowed(ports: tuple[int, ...], allowed: PortRange) -> bool:
    first, last = allowed
    return all(first <= port <= last for port in ports)


def range_text(allowed: PortRange) -> str:
    return "-".join(map(str, allowed))
