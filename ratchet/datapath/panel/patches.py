"""Patches: what arrives at a device of the panel leaves by another one (tc-u32(8), tc-mirred(8)).

Each side of a link patches its own direction. A patched device has a clsact qdisc with two ingress filters:

| priority | protocol | filter |
|---|---|---|
| OAM_PRIORITY | OAM_ETHERTYPE | passes the frame to the panel's own stack, so a pod's forged frame never leaves |
| PATCH_PRIORITY | all | redirects the frame to the egress of the other device |

A redirect whose target is deleted drops the frames; its filter stays.

A frame with a VLAN tag has the protocol of its tag, so a tagged OAM frame is redirected. At a device without a redirect
the stack removes the tag, and a socket for OAM_ETHERTYPE cannot tell such a frame of a pod from one of a panel (tried).
So OAM frames prove something only at a tunnel that is patched.

The functions take a netlink socket in the panel, and change the patches of one device for one caller at a time: the
holder of the link's lock.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENODEV, ENOENT

from ratchet.datapath.message_classes import tcmsg
from ratchet.datapath.messages import ACT, DUMP, MAKE, PUT
from ratchet.datapath.nlattr import HEADER, Layout, Reading, attributes, message
from ratchet.datapath.rtnetlink import Channel, RefusedError
from ratchet.datapath.tc import RTM_NEWQDISC, TCMSG, nested
from ratchet.errors import DatapathError

OAM_ETHERTYPE = 0x88B7  # for local use, with an OUI (IEEE 802)
ETH_P_ALL = 0x0003
# Room before, between and after them.
OAM_PRIORITY, PATCH_PRIORITY = 100, 200

RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
CLSACT, INGRESS, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFF0000

# include/uapi/linux/pkt_cls.h
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT = 1, 5, 7
TC_U32_TERMINAL = 1
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_ACT_STOLEN = 4
TCA_EGRESS_REDIR = 1
FIRST_ACTION = 1
MINOR_ONE = 1  # flowid :1

_U32 = struct.Struct("=I")
# struct tc_u32_sel: flags, offshift, nkeys, offmask, off, offoff, hoff, hmask; and one tc_u32_key: mask, val, off,
# offmask. A mask of 0 matches every frame.
_SELECTOR = struct.Struct("=BBBxHHhhI IIii")
_MATCH_ALL = _SELECTOR.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex

_LAYOUT = Layout(tcmsg)
_FILTER = Reading(tcmsg, "TCA_KIND", "TCA_OPTIONS")


@dataclass(frozen=True, slots=True)
class Patch:
    """The ingress filters of a device. `target` is the ifindex to which it sends; 0: that device has been deleted.

    None: it is not patched. `handle` is that of the redirect's filter. `takes_oam`: the filter for OAM frames is there.
    """

    target: int | None = None
    handle: int = 0
    takes_oam: bool = False


def observe_patch(channel: Channel, index: int) -> Patch:
    """The patch of the device `index`. Raises DatapathError."""
    try:
        found = channel.dump(message(RTM_GETTFILTER, DUMP, TCMSG.pack(0, index, 0, INGRESS, 0)))
    except RefusedError as refusal:
        if refusal.errno in (EINVAL, ENOENT, ENODEV):  # no clsact qdisc, or no device
            return Patch()
        raise DatapathError(f"cannot read the patch of ifindex {index}: {refusal.strerror}") from refusal
    patch = Patch()
    for raw in found:
        patch = _with_filter(patch, raw)
    return patch


def set_patch(channel: Channel, index: int, target: int) -> bool:
    """Make the device `index` send what arrives at it to the device `target`. Returns whether anything changed.

    An existing redirect is replaced in place, and loses no frame. Raises DatapathError, also if either device is gone.
    """
    patch = observe_patch(channel, index)
    if patch.target == target and patch.takes_oam:
        return False
    requests = []
    if not patch.takes_oam:
        requests.append(_oam_filter(index))
    if patch.target != target:
        requests.append(_redirect(index, target, patch.handle))
    qdisc, *filters = channel.exchange(_clsact(index), *requests)
    there = qdisc.refusal is not None and qdisc.refusal.errno == EEXIST
    for answer in filters if there else (qdisc, *filters):
        if answer.refusal is not None:
            cause = answer.refusal.strerror
            raise DatapathError(f"cannot patch ifindex {index} to {target}: {cause}") from answer.refusal
    return True


def remove_patch(channel: Channel, index: int) -> bool:
    """Make the device `index` drop what arrives at it. Returns False if it is not patched. Raises DatapathError."""
    head = TCMSG.pack(0, index, 0, INGRESS, _info(PATCH_PRIORITY, ETH_P_ALL))
    (answer,) = channel.exchange(message(RTM_DELTFILTER, ACT, head))
    if answer.refusal is None:
        return True
    if answer.refusal.errno in (EINVAL, ENOENT, ENODEV):
        return False
    raise DatapathError(f"cannot remove the patch of ifindex {index}: {answer.refusal.strerror}") from answer.refusal


def _clsact(index: int) -> bytearray:
    head = TCMSG.pack(0, index, CLSACT_HANDLE, CLSACT, 0)
    return message(RTM_NEWQDISC, MAKE, head, _LAYOUT.pack(("TCA_KIND", "clsact")))


def _oam_filter(index: int) -> bytearray:
    options = nested(TCA_U32_CLASSID, _U32.pack(MINOR_ONE)) + nested(TCA_U32_SEL, _MATCH_ALL)
    return _u32(index, OAM_PRIORITY, OAM_ETHERTYPE, options)


def _redirect(index: int, target: int, handle: int) -> bytearray:
    parameters = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = nested(TCA_ACT_KIND, b"mirred\0") + nested(TCA_ACT_OPTIONS, nested(TCA_MIRRED_PARMS, parameters))
    options = nested(TCA_U32_SEL, _MATCH_ALL) + nested(TCA_U32_ACT, nested(FIRST_ACTION, action))
    return _u32(index, PATCH_PRIORITY, ETH_P_ALL, options, handle)


def _u32(index: int, priority: int, protocol: int, options: bytes, handle: int = 0) -> bytearray:
    """Add a filter, or replace the one that has this handle."""
    head = TCMSG.pack(0, index, handle, INGRESS, _info(priority, protocol))
    return message(
        RTM_NEWTFILTER, PUT if handle else MAKE, head, _LAYOUT.pack(("TCA_KIND", "u32"), ("TCA_OPTIONS", options))
    )


def _info(priority: int, protocol: int) -> int:
    return priority << 16 | socket.htons(protocol)


def _with_filter(patch: Patch, raw: bytes) -> Patch:
    """The patch with what one message of the dump shows: a filter, or its hash table, which has no selector."""
    _, _, handle, _, info = TCMSG.unpack_from(raw, HEADER.size)
    found = _FILTER.read(raw, HEADER.size + TCMSG.size)
    options = dict(attributes(found.get("TCA_OPTIONS", b""), 0))
    if found.get("TCA_KIND") != "u32" or TCA_U32_SEL not in options:
        return patch
    if info == _info(OAM_PRIORITY, OAM_ETHERTYPE):
        return Patch(patch.target, patch.handle, takes_oam=True)
    if info == _info(PATCH_PRIORITY, ETH_P_ALL):
        return Patch(_target(options.get(TCA_U32_ACT, b"")), handle, patch.takes_oam)
    return patch


def _target(actions: bytes) -> int | None:
    """The ifindex to which the first action redirects; None if it does not redirect."""
    action = dict(attributes(dict(attributes(actions, 0)).get(FIRST_ACTION, b""), 0))
    if action.get(TCA_ACT_KIND, b"").rstrip(b"\0") != b"mirred":
        return None
    parameters = dict(attributes(action[TCA_ACT_OPTIONS], 0))[TCA_MIRRED_PARMS]
    *_, kind, index = _MIRRED.unpack_from(parameters)
    return int(index) if kind == TCA_EGRESS_REDIR else None
