"""Patches: what arrives at a device of the panel leaves by another one (tc-u32(8), tc-mirred(8)).

Each side of a link patches its own direction. A patched device has a clsact qdisc with two ingress filters:

| priority | protocol | filter |
|---|---|---|
| OAM_PRIORITY | OAM_ETHERTYPE | at a tunnel, passes the frame to the panel's stack; at a cable, drops it |
| PATCH_PRIORITY | all | redirects the frame to the egress of the other device |

A redirect whose target is deleted drops the frames; its filter stays.

The drop is a classic BPF program of one instruction (CONFIG_NET_CLS_BPF). A kernel without it passes a pod's forged
frames to the panel's stack too. They never leave, but a pod can fill the buffer of the socket for OAM frames.

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
from errno import EEXIST, EINVAL, ENODEV, ENOENT, EOPNOTSUPP

from ratchet.core.oam import ETHERTYPE as OAM_ETHERTYPE
from ratchet.datapath.message_classes import tcmsg
from ratchet.datapath.messages import ACT, DUMP, MAKE, PUT
from ratchet.datapath.nlattr import HEADER, Layout, Reading, attributes, message
from ratchet.datapath.rtnetlink import INTERRUPTED_DUMPS, Channel, NetlinkReply, RefusedError
from ratchet.datapath.tc import RTM_NEWQDISC, TCMSG, nested
from ratchet.errors import DatapathError

ETH_P_ALL = 0x0003
# Room before, between and after them.
OAM_PRIORITY, PATCH_PRIORITY = 100, 200

RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
CLSACT, INGRESS, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFF0000

# include/uapi/linux/pkt_cls.h
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT = 1, 5, 7
TCA_BPF_OPS_LEN, TCA_BPF_OPS, TCA_BPF_FLAGS = 4, 5, 8
TC_U32_TERMINAL = 1
TCA_BPF_FLAG_ACT_DIRECT = 1
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_ACT_STOLEN = 4
TCA_EGRESS_REDIR = 1
FIRST_ACTION = 1
MINOR_ONE = 1  # flowid :1
NODE_OF_HANDLE = 0xFFF  # of a u32 filter, and never 0 (net/sched/cls_u32.c). A bpf filter has the handle 1 here

_U32 = struct.Struct("=I")
_U16 = struct.Struct("=H")
# struct tc_u32_sel: flags, offshift, nkeys, offmask, off, offoff, hoff, hmask; and one tc_u32_key: mask, val, off,
# offmask. A mask of 0 matches every frame.
_SELECTOR = struct.Struct("=BBBxHHhhI IIii")
_MATCH_ALL = _SELECTOR.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
_DROP = struct.pack("=HBBI", 0x06, 0, 0, 2)  # struct sock_filter: BPF_RET | BPF_K, and the verdict TC_ACT_SHOT
_MIRRED = struct.Struct("=IIiiiiI")  # struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex

_LAYOUT = Layout(tcmsg)
_FILTER = Reading(tcmsg, "TCA_KIND", "TCA_OPTIONS")


@dataclass(frozen=True, slots=True)
class Patch:
    """The ingress filters of a device. `target` is the ifindex to which it sends; 0: that device has been deleted.

    None: it is not patched. `handle` is that of the redirect's filter. `takes_oam`: OAM frames are passed to the
    panel's stack, or dropped; None: neither.
    """

    target: int | None = None
    handle: int = 0
    takes_oam: bool | None = None

    def leads(self, target: int, *, takes_oam: bool) -> bool:
        """Whether the patch is as `set_patch` makes it on this kernel."""
        return self.target == target and self.treats_oam(takes_oam)

    def treats_oam(self, takes: bool) -> bool:
        return self.takes_oam is takes or (self.takes_oam is True and _kernel.drops_oam is False)


@dataclass(slots=True)
class _Kernel:
    """Properties of the running kernel. They are constant for the lifetime of this process; None: not yet found."""

    drops_oam: bool | None = None


_kernel = _Kernel()


def observe_patch(channel: Channel, index: int) -> Patch:
    """The patch of the device `index`. Raises DatapathError."""
    for _ in range(INTERRUPTED_DUMPS):
        (answer,) = channel.exchange(patch_at(index))
        if not answer.interrupted:
            break
    return read_patch(index, answer)


def leads_as_set(channel: Channel, index: int, target: int, *, sends: bool) -> bool:
    """Whether a cable is patched as by `set_direction`. Raises DatapathError."""
    patch = observe_patch(channel, index)
    return patch.leads(target, takes_oam=False) if sends else patch.target is None


def lead_to_each_other(channel: Channel, cable: int, tunnel: int, *, sends: bool) -> bool:
    """Whether a cable, as by `set_direction`, and a tunnel are patched to each other. Raises DatapathError."""
    if not leads_as_set(channel, cable, tunnel, sends=sends):
        return False
    return observe_patch(channel, tunnel).leads(cable, takes_oam=True)


def patch_at(index: int) -> bytearray:
    """The request for the patch of the device `index`: a dump."""
    return message(RTM_GETTFILTER, DUMP, TCMSG.pack(0, index, 0, INGRESS, 0))


def read_patch(index: int, answer: NetlinkReply) -> Patch:
    """The patch in the answer to `patch_at`. Raises DatapathError."""
    if answer.refusal is not None:
        if answer.refusal.errno in (EINVAL, ENOENT, ENODEV):  # no clsact qdisc, or no device
            return Patch()
        raise DatapathError(f"cannot read the patch of ifindex {index}: {answer.refusal.strerror}") from answer.refusal
    patch = Patch()
    for raw in answer.messages:
        patch = _with_filter(patch, raw)
    return patch


def set_patch(
    channel: Channel, index: int, target: int, *, takes_oam: bool = False, patch: Patch | None = None
) -> bool:
    """Make the device `index` send what arrives at it to the device `target`. Returns whether anything changed.

    `takes_oam`: it is a tunnel, whose OAM frames are passed to the panel's stack. `patch`: as the caller knows it, such
    as that of a new device. An existing redirect is replaced in place, and loses no frame. Raises DatapathError, also
    if either device is gone.
    """
    patch = patch or observe_patch(channel, index)
    if patch.leads(target, takes_oam=takes_oam):
        return False
    if patch == Patch():
        if _patch_new(channel, index, target, takes_oam):
            return True
        patch = observe_patch(channel, index)
    qdisc, *_ = channel.exchange(_clsact(index))
    refusal = qdisc.refusal if qdisc.refusal is not None and qdisc.refusal.errno != EEXIST else None
    if refusal is None:
        refusal = _treat_oam(channel, index, patch, takes_oam)
    if refusal is None and patch.target != target:
        refusal = channel.exchange(_redirect(index, target, patch.handle))[0].refusal
    if refusal is not None:
        raise DatapathError(f"cannot patch ifindex {index} to {target}: {refusal.strerror}") from refusal
    return True


def set_direction(channel: Channel, index: int, target: int, *, sends: bool, patch: Patch | None = None) -> None:
    """Make a cable send to a device, or drop what its pod sends. `patch` as for `set_patch`. Raises DatapathError."""
    if sends:
        set_patch(channel, index, target, patch=patch)
    else:
        remove_patch(channel, index)


def _patch_new(channel: Channel, index: int, target: int, takes_oam: bool) -> bool:
    """Patch a device that has no filters in one exchange. Returns False if the kernel has refused any of it.

    Then the device has no redirect: without the filter for OAM frames, a pod's forged ones would leave. So a drop is
    tried alone until this kernel is known to take it.
    """
    if takes_oam or _kernel.drops_oam is False:
        oam = _oam_pass(index)
    elif _kernel.drops_oam:
        oam = _oam_drop(index)
    else:
        return False
    qdisc, treated, redirected = channel.exchange(_clsact(index), oam, _redirect(index, target, 0))
    if qdisc.refusal is not None and qdisc.refusal.errno != EEXIST:
        return False
    if treated.refusal is None and redirected.refusal is None:
        return True
    if redirected.refusal is None:
        remove_patch(channel, index)
    return False


def _treat_oam(channel: Channel, index: int, patch: Patch, takes: bool) -> RefusedError | None:
    """Install the filter for OAM frames, unless it is there. Returns the kernel's refusal, if any."""
    if patch.treats_oam(takes):
        return None
    if not takes and _kernel.drops_oam is not False:
        _, added = channel.exchange(_no_filter(index, OAM_PRIORITY, OAM_ETHERTYPE), _oam_drop(index))
        if added.refusal is None:
            _kernel.drops_oam = True
        if added.refusal is None or added.refusal.errno not in (ENOENT, EOPNOTSUPP):
            return added.refusal
        _kernel.drops_oam = False
    _, added = channel.exchange(_no_filter(index, OAM_PRIORITY, OAM_ETHERTYPE), _oam_pass(index))
    return added.refusal


def remove_patch(channel: Channel, index: int) -> bool:
    """Make the device `index` drop what arrives at it. Returns False if it is not patched. Raises DatapathError."""
    (answer,) = channel.exchange(_no_filter(index, PATCH_PRIORITY, ETH_P_ALL))
    if answer.refusal is None:
        return True
    if answer.refusal.errno in (EINVAL, ENOENT, ENODEV):
        return False
    raise DatapathError(f"cannot remove the patch of ifindex {index}: {answer.refusal.strerror}") from answer.refusal


def _clsact(index: int) -> bytearray:
    head = TCMSG.pack(0, index, CLSACT_HANDLE, CLSACT, 0)
    return message(RTM_NEWQDISC, MAKE, head, _LAYOUT.pack(("TCA_KIND", "clsact")))


def _oam_pass(index: int) -> bytearray:
    options = nested(TCA_U32_CLASSID, _U32.pack(MINOR_ONE)) + nested(TCA_U32_SEL, _MATCH_ALL)
    return _filter(index, OAM_PRIORITY, OAM_ETHERTYPE, "u32", options)


def _oam_drop(index: int) -> bytearray:
    options = nested(TCA_BPF_OPS_LEN, _U16.pack(1)) + nested(TCA_BPF_OPS, _DROP)
    options += nested(TCA_BPF_FLAGS, _U32.pack(TCA_BPF_FLAG_ACT_DIRECT))
    return _filter(index, OAM_PRIORITY, OAM_ETHERTYPE, "bpf", options)


def _redirect(index: int, target: int, handle: int) -> bytearray:
    parameters = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = nested(TCA_ACT_KIND, b"mirred\0") + nested(TCA_ACT_OPTIONS, nested(TCA_MIRRED_PARMS, parameters))
    options = nested(TCA_U32_SEL, _MATCH_ALL) + nested(TCA_U32_ACT, nested(FIRST_ACTION, action))
    return _filter(index, PATCH_PRIORITY, ETH_P_ALL, "u32", options, handle)


def _filter(index: int, priority: int, protocol: int, kind: str, options: bytes, handle: int = 0) -> bytearray:
    """Add a filter, or replace the one that has this handle."""
    head = TCMSG.pack(0, index, handle, INGRESS, _info(priority, protocol))
    return message(
        RTM_NEWTFILTER, PUT if handle else MAKE, head, _LAYOUT.pack(("TCA_KIND", kind), ("TCA_OPTIONS", options))
    )


def _no_filter(index: int, priority: int, protocol: int) -> bytearray:
    """Remove all filters of a priority."""
    return message(RTM_DELTFILTER, ACT, TCMSG.pack(0, index, 0, INGRESS, _info(priority, protocol)))


def _info(priority: int, protocol: int) -> int:
    return priority << 16 | socket.htons(protocol)


def _with_filter(patch: Patch, raw: bytes) -> Patch:
    """The patch with what one message of the dump shows: a filter, or its classifier or hash table, without a node."""
    _, _, handle, _, info = TCMSG.unpack_from(raw, HEADER.size)
    if not handle & NODE_OF_HANDLE:
        return patch
    found = _FILTER.read(raw, HEADER.size + TCMSG.size)
    options = dict(attributes(found.get("TCA_OPTIONS", b""), 0))
    kind = found.get("TCA_KIND")
    if info == _info(OAM_PRIORITY, OAM_ETHERTYPE) and kind == "bpf" and options.get(TCA_BPF_OPS) == _DROP:
        return Patch(patch.target, patch.handle, takes_oam=False)
    if kind != "u32" or TCA_U32_SEL not in options:
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
