"""Packed netlink messages, decoded again with pyroute2."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ratchet.core.interface import InterfaceSpec, Parent, VxlanWire
from ratchet.datapath import messages

NEAR, FAR = (
    InterfaceSpec("/near", "in1", (), 1450, "02:aa:00:00:00:01"),
    InterfaceSpec("/far", "interface-15byt", (), 1300),
)


def _read(kind: Any, raw: bytearray) -> Any:
    message = kind(bytes(raw))
    message.decode()
    assert message["header"]["length"] == len(raw)
    return message


def test_new_veth_packs_both_ends() -> None:
    message = _read(ifinfmsg, messages.new_veth(NEAR, FAR, far_fd=9))
    assert message["header"]["type"] == messages.RTM_NEWLINK
    for end, port in ((message, NEAR), (_peer(message), FAR)):
        assert (end.get_attr("IFLA_IFNAME"), end.get_attr("IFLA_MTU")) == (port.ifname, port.mtu)
        assert end.get_attr("IFLA_GROUP") == messages.GROUP
        assert end.get_attr("IFLA_ADDRESS") == (port.mac or None)
        assert end["flags"] == 0, "up in the peer's header is refused, and up before the settings would be too soon"
    assert message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "veth"


def _peer(message: Any) -> Any:
    return message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")


@pytest.mark.parametrize(("remote", "local", "suffix"), [("10.0.0.2", "10.0.0.1", ""), ("fd00::2", "fd00::1", "6")])
def test_new_vxlan_packs_the_tunnel(remote: str, local: str, suffix: str) -> None:
    wire = VxlanWire(
        "a-b",
        NEAR,
        vni=77,
        remote=remote,
        local=local,
        port=4789,
        remote_port=4789,
        parent=Parent("eth0", 5, local, 1500),
    )
    message = _read(ifinfmsg, messages.new_vxlan(wire, "in1", pod_fd=9))
    assert message.get_attr("IFLA_GROUP") == messages.GROUP
    data = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert data.get_attr(f"IFLA_VXLAN_GROUP{suffix}") == remote
    assert data.get_attr(f"IFLA_VXLAN_LOCAL{suffix}") == local
    expected = {"ID": 77, "LINK": 5, "PORT": 4789, "LEARNING": 0}
    assert {name: data.get_attr(f"IFLA_VXLAN_{name}") for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "broadcast"),
    [("192.168.2.1/24", "192.168.2.255"), ("10.0.0.1/30", "10.0.0.3"), ("10.0.0.1/31", None), ("fd00::1/64", None)],
)
def test_give_address_packs_address_broadcast_and_flags(text: str, broadcast: str | None) -> None:
    address = ip_interface(text)
    message = _read(ifaddrmsg, messages.give_address(7, address))
    assert (message["index"], message["prefixlen"]) == (7, address.network.prefixlen)
    assert message.get_attr("IFA_LOCAL") == str(address.ip)
    assert message.get_attr("IFA_BROADCAST") == broadcast
    assert message.get_attr("IFA_FLAGS") == messages.IFA_F_NODAD


@pytest.mark.parametrize("has", [True, False])
def test_carrier_packs_only_proto_down(has: bool) -> None:
    message = _read(ifinfmsg, messages.carrier(7, has))
    assert (message["index"], message.get_attr("IFLA_PROTO_DOWN")) == (7, int(not has))
    assert (message["flags"], message["change"]) == (0, 0), "it is neither brought up nor put down"


def test_a_long_alias_is_truncated_between_characters() -> None:
    alias = _read(ifinfmsg, messages.brought_up(7, "é" * 200)).get_attr("IFLA_IFALIAS")
    assert alias == "ratchet/" + "é" * 123
    assert len(alias.encode()) <= messages.IFALIAS_BYTES
