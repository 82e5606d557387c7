"""Counters of an interface, read on request only. No other observation reads them, to save time."""

from __future__ import annotations

import struct
from errno import ENODEV

from ratchet.core.interface import InterfaceSpec
from ratchet.core.observation import Live, Traffic
from ratchet.core.sandbox import Location
from ratchet.datapath import messages
from ratchet.datapath.message_classes import ifinfmsg
from ratchet.datapath.nlattr import HEADER, IFINFOMSG, Reading
from ratchet.datapath.pod_netns import open_pod
from ratchet.errors import DatapathError

# The first fields of struct rtnl_link_stats64: packets, bytes, errors, dropped, each received and sent.
_STATS64 = struct.Struct("=8Q")
_COUNTED = Reading(ifinfmsg, "IFLA_STATS64", "IFLA_CARRIER")


def count(location: Location, ifname: str) -> Live | None:
    """The carrier and the counters of the interface of that name; None if there is none.

    Raises NamespaceGoneError, DatapathError.
    """
    port = InterfaceSpec(location.netns, ifname, addresses=(), mtu=0, cookie=location.cookie)
    with open_pod(port) as pod:
        (answer,) = pod.channel.exchange(messages.link_with_counters(ifname))
        if answer.refusal is not None:
            if answer.refusal.errno == ENODEV:
                return None
            raise DatapathError(f"cannot read {pod}: {answer.refusal.strerror}") from answer.refusal
        return read_live(answer.messages[0])


def read_live(raw: bytes) -> Live:
    found = _COUNTED.read(raw, HEADER.size + IFINFOMSG.size)
    counted = _STATS64.unpack_from(found["IFLA_STATS64"])
    return Live(carrier=bool(found.get("IFLA_CARRIER")), rx=Traffic(*counted[0::2]), tx=Traffic(*counted[1::2]))
