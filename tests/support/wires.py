"""Wires between the pods of a `Bed`."""

from __future__ import annotations

from ipaddress import ip_interface

from ratchet.core.interface import InterfaceSpec, VethWire, VxlanWire
from ratchet.datapath import find_parent
from tests.support.namespaces import Bed


class Wires:
    """The wires of the link "a-b"."""

    ADDRESSES = (("192.168.2.1/24", "fd00::1/64"), ("192.168.2.2/24", "fd00::2/64"))

    def __init__(self, bed: Bed) -> None:
        self.bed = bed

    def port(self, pod: str, ifname: str, *addresses: str, mtu: int = 1450) -> InterfaceSpec:
        return InterfaceSpec(self.bed.path(pod), ifname, tuple(ip_interface(one) for one in addresses), mtu)

    def veth(self, near: str = "pod-a", far: str = "pod-b", mtu: int = 1450) -> VethWire:
        ours, theirs = self.ADDRESSES
        return VethWire("a-b", self.port(near, "in1", *ours, mtu=mtu), self.port(far, "in2", *theirs, mtu=mtu))

    def tunnel(
        self, pod: str, number: int, local: str, remote: str, vni: int = 11, mtu: int = 1400, carrier: bool = True
    ) -> VxlanWire:
        """The tunnel end in `pod`, with the link's addresses for that end. Call it inside the node."""
        port = self.port(pod, "in1", *self.ADDRESSES[number], mtu=mtu)
        parent = find_parent(None, local)
        return VxlanWire("a-b", port, vni, remote, local, port=4789, remote_port=4789, parent=parent, carrier=carrier)
