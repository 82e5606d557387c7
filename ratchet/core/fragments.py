"""The outer packets of a tunnel over IPv4 whose MTU is larger than what the underlay carries in one packet."""

from __future__ import annotations

from ratchet.core.interface import VXLAN_OVERHEAD_IPV4

IPV4_HEADER = 20
# The payload of all fragments but the last is a multiple of it (RFC 791, 3.2).
FRAGMENT_UNIT = 8


def outer_packets(mtu: int, underlay_mtu: int) -> int:
    """The number of outer packets for a packet of `mtu` bytes: 1 if it is not fragmented.

    The outer packet has the headers of Ethernet, VXLAN, UDP and IPv4 too.
    """
    room = underlay_mtu - IPV4_HEADER
    rest = mtu + VXLAN_OVERHEAD_IPV4 - IPV4_HEADER - room  # what the last fragment does not carry
    return 1 if rest <= 0 else 1 - -rest // (room // FRAGMENT_UNIT * FRAGMENT_UNIT)
