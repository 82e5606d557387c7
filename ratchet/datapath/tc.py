"""Rate limit of a link: a token bucket filter as its root queueing discipline (tc-tbf(8))."""

from __future__ import annotations

import struct
from errno import ENOENT

from ratchet.datapath.message_classes import tcmsg
from ratchet.datapath.messages import ACT, NLM_F_ECHO, PUT
from ratchet.datapath.nlattr import ATTRIBUTE, HEADER, Layout, Reading, attributes, message
from ratchet.datapath.rtnetlink import Channel

KIND = "tbf"
# The mark of ownership: the handle's upper half, which tc uses as a name ("RA" in ASCII).
HANDLE = 0x52410000

BURST_SECONDS = 0.01  # at full rate: a timer of 100 Hz needs that much
BURST_LEAST = 64 * 1024  # bytes: one packet before segmentation
LATENCY_SECONDS = 0.05  # the longest time that a packet may wait

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
TC_H_ROOT = 0xFFFFFFFF
TC_LINKLAYER_ETHERNET = 1
TCMSG = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
# struct tc_tbf_qopt: struct tc_ratespec (cell_log, linklayer, overhead, cell_align, mpu, rate) twice; limit, buffer,
# mtu.
_RATESPEC = struct.Struct("=BBHhHI")
_QOPT = struct.Struct("=III")
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
_U32, _U64 = struct.Struct("=I"), struct.Struct("=Q")
_LARGEST = (1 << 32) - 1

_QDISC = Layout(tcmsg)
_SHOWN = Reading(tcmsg, "TCA_KIND", "TCA_OPTIONS")


def shape(index: int, rate: int) -> bytearray:
    """Limit a link to `rate` bits per second. Replaces its root queueing discipline."""
    speed = rate // 8
    burst = min(_LARGEST, max(int(speed * BURST_SECONDS), BURST_LEAST))
    limit = min(_LARGEST, int(speed * LATENCY_SECONDS) + burst)
    spec = _RATESPEC.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(speed, _LARGEST))
    none = _RATESPEC.pack(0, 0, 0, 0, 0, 0)
    options = nested(TCA_TBF_PARMS, spec + none + _QOPT.pack(limit, 0, 0)) + nested(TCA_TBF_BURST, _U32.pack(burst))
    if speed > _LARGEST:
        options += nested(TCA_TBF_RATE64, _U64.pack(speed))
    head = TCMSG.pack(0, index, HANDLE, TC_H_ROOT, 0)
    return message(RTM_NEWQDISC, PUT, head, _QDISC.pack(("TCA_KIND", KIND), ("TCA_OPTIONS", options)))


def unshape(index: int) -> bytearray:
    """Remove Ratchet's queueing discipline from a link. The kernel restores its default."""
    return message(RTM_DELQDISC, ACT, TCMSG.pack(0, index, HANDLE, TC_H_ROOT, 0))


def rate_of(channel: Channel, index: int) -> int | None:
    """The rate that Ratchet set on a link, in bits per second; None if the qdisc is not Ratchet's."""
    (answer,) = channel.exchange(message(RTM_GETQDISC, ACT | NLM_F_ECHO, TCMSG.pack(0, index, 0, TC_H_ROOT, 0)))
    if answer.refusal is not None:
        if answer.refusal.errno == ENOENT:
            return None
        raise answer.refusal
    raw = answer.messages[0]
    handle = TCMSG.unpack_from(raw, HEADER.size)[2]
    found = _SHOWN.read(raw, HEADER.size + TCMSG.size)
    if handle != HANDLE or found.get("TCA_KIND") != KIND:
        return None
    options = dict(attributes(found["TCA_OPTIONS"], 0))
    if TCA_TBF_RATE64 in options:
        return int(_U64.unpack(options[TCA_TBF_RATE64])[0]) * 8
    return int(_RATESPEC.unpack_from(options[TCA_TBF_PARMS])[5]) * 8


def nested(number: int, content: bytes) -> bytes:
    """An attribute that no layout declares."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(content), number) + content + bytes(-len(content) % 4)
