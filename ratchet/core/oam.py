"""OAM frames: a panel tells the panel at the other end of a tunnel whether its pod has its interface up.

The frames go through the link's own tunnel, so they need no API, and they prove that the tunnel passes frames.

Payload after the EtherType, in network byte order:

| bytes | field |
|---|---|
| 3 | OUI |
| 2 | PROTOCOL |
| 1 | VERSION; another one is not read |
| 1 | flags: POD_UP, ASKS. Others are ignored |
| 1 | the sender's end of the link, 0 or 1, in the record's order. Both ends of `kind: vxlan` are in one panel |
| 16 | the record's UID (`record_id`) |
| 8 | the sender's sandbox (`sandbox_id`) |
| 8 | start: when the sender's agent started, nanoseconds since the node's boot |
| 8 | sequence: the number of the frame since then |

More bytes may follow: padding, or fields of a later version that a reader of this one need not know.

The EtherType is that of protocols with an OUI (IEEE 802, RFC 9542). Ratchet has no registered OUI. This one is "RAT" in
ASCII and locally administered (0x02 is set in its first octet), so no vendor has it. The destination is the
group address of the same octets (0x01 is set too).

Nothing is signed: who can read the record and send through the tunnel can forge a frame.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

ETHERTYPE = 0x88B7
OUI = bytes.fromhex("524154")
PROTOCOL, VERSION = 1, 1
DESTINATION = bytes.fromhex("534154000001")
POD_UP, ASKS = 1, 2

# Seconds between two frames of an end, and after a change: a lost frame is made up for soon.
REPEAT_SECONDS, FIRST_REPEAT_SECONDS, BACKOFF = 10.0, 0.1, 4.0
# Seconds from a frame to the next one that answers a question: two ends that both ask must not keep each other busy.
ANSWER_SECONDS = 0.05
# The last, slow repetitions are due at multiples of this: many tunnels then cost few wake-ups, also at their peers.
SLOT_SECONDS = 0.25
# An end that has heard nothing for so long is silent: three frames are lost, and the next one is late.
SILENT_SECONDS = 3.5 * REPEAT_SECONDS

# Seconds for which an agent that starts leaves an end without carrier if it finds it so: its first four frames ask.
LOWERED_SECONDS = 3.0

_PAYLOAD = struct.Struct(">3sHBBB16s8sQQ")


class OamFrame(NamedTuple):
    """An OAM frame. `asks`: its sender has not heard the other end, which sends its own frame at once.

    `start` and `sequence` order the frames of one sandbox. A sandbox does not outlive its node's boot.
    """

    record: bytes
    end: int
    sandbox: bytes
    start: int
    sequence: int
    pod_up: bool
    asks: bool = False


def record_id(uid: str) -> bytes:
    """The 16 bytes of a record's UID: those of a UUID, of other text a digest. UIDs are opaque to their readers."""
    try:
        return UUID(uid).bytes
    except ValueError:
        return hashlib.sha256(uid.encode()).digest()[:16]


def sandbox_id(container_id: str) -> bytes:
    """The 8 bytes that tell a sandbox from the others that an end of a link has had."""
    return hashlib.sha256(container_id.encode()).digest()[:8]


def encode(frame: OamFrame) -> bytes:
    """The payload of a frame. Raises struct.error for values that do not fit."""
    flags = POD_UP * frame.pod_up | ASKS * frame.asks
    return _PAYLOAD.pack(
        *(OUI, PROTOCOL, VERSION, flags, frame.end, frame.record, frame.sandbox, frame.start, frame.sequence)
    )


def decode(payload: bytes) -> OamFrame | None:
    """The frame in a payload; None if it is too short, of another protocol or version, or of no end of a link."""
    if len(payload) < _PAYLOAD.size:
        return None
    oui, protocol, version, flags, end, record, sandbox, start, sequence = _PAYLOAD.unpack_from(payload)
    if (oui, protocol, version) != (OUI, PROTOCOL, VERSION) or end not in (0, 1):
        return None
    return OamFrame(record, end, sandbox, start, sequence, bool(flags & POD_UP), bool(flags & ASKS))


@dataclass(frozen=True, slots=True)
class OamState:
    """What one end of a link has heard of the other one. Times are seconds of one monotonic clock.

    `record` and `end` are the link and the own end. `since`: when the end began to listen to its peer. `last` is the
    newest frame, `verified` when it was heard; None: none yet. Until `lowered_until`, a far pod that is not heard
    counts as shut, because the end had no carrier when the agent started.
    """

    record: bytes
    end: int
    since: float
    last: OamFrame | None = None
    verified: float | None = None
    lowered_until: float = float("-inf")

    def accepts(self, frame: OamFrame) -> bool:
        """Whether a frame is of the other end of this link, and newer than the last one.

        A frame of another sandbox is newer: its peer has started again, perhaps on a node with another clock.
        """
        if frame.record != self.record or frame.end != 1 - self.end:
            return False
        last = self.last
        if last is None or frame.sandbox != last.sandbox:
            return True
        return (frame.start, frame.sequence) > (last.start, last.sequence)

    def heard(self, frame: OamFrame, now: float) -> OamState:
        """The state after a frame; this one if the frame is not accepted."""
        return replace(self, last=frame, verified=now) if self.accepts(frame) else self

    def far_pod_up(self, *, sandbox: bytes, lease_expired: bool, now: float) -> bool | None:
        """IFF_UP of the far pod's end, as last heard. None: unknown, which counts as up.

        `sandbox` is the far end's in the record: what a former one sent is no news of it. Without its node's Lease, the
        far pod may have changed its end unreported. Silence alone changes nothing.
        """
        if lease_expired:
            return None
        if self.last is None or self.last.sandbox != sandbox:
            return False if self.last is None and now < self.lowered_until else None
        return self.last.pod_up

    def silent_since(self, now: float) -> float | None:
        """Since when nothing was heard, if that is longer than SILENT_SECONDS; else None."""
        since = self.since if self.verified is None else self.verified
        return since if now - since > SILENT_SECONDS else None


@dataclass(frozen=True, slots=True)
class OamSchedule:
    """When an end sends. `pod_up` is what it sent last, None: nothing yet. The times are as those of `OamState`."""

    pod_up: bool | None = None
    due: float = 0.0
    interval: float = FIRST_REPEAT_SECONDS
    sent_at: float = float("-inf")

    def is_due(self, pod_up: bool, now: float) -> bool:
        """Whether to send now: the pod has changed its end, or a repetition is due."""
        return pod_up is not self.pod_up or now >= self.due

    def sent(self, pod_up: bool, now: float, jitter: float = 1.0) -> OamSchedule:
        """The schedule after a frame was sent. `jitter` is the part of the interval to wait, 0 to 1.

        The intervals grow from FIRST_REPEAT_SECONDS, after each change, to REPEAT_SECONDS.
        """
        interval = FIRST_REPEAT_SECONDS if pod_up is not self.pod_up else self.interval
        due = now + interval * jitter
        if interval >= REPEAT_SECONDS:
            due = math.ceil(due / SLOT_SECONDS) * SLOT_SECONDS
        return OamSchedule(pod_up, due, min(interval * BACKOFF, REPEAT_SECONDS), now)

    def postponed(self, now: float) -> OamSchedule:
        """The schedule after a frame that was due could not be sent. A change is sent at once still."""
        return replace(self, due=now + self.interval, interval=min(self.interval * BACKOFF, REPEAT_SECONDS))

    def asked(self, now: float) -> OamSchedule:
        """The schedule after the other end has asked: a frame is due now, or ANSWER_SECONDS after the last one."""
        return replace(self, due=min(self.due, max(now, self.sent_at + ANSWER_SECONDS)))


@dataclass(frozen=True, slots=True)
class TunnelPeer:
    """An end of a link at a tunnel, and its peer, from the record. `link` is the record's name.

    `record`, `end` and `own` are what the end's frames have; `far` is the peer's `sandbox_id`. `lease_expired`: the
    Lease of the peer's node is not renewed. `node` is the peer's. `linked`: both ends are ready.
    """

    link: str
    record: bytes
    end: int
    own: bytes
    far: bytes
    lease_expired: bool = False
    node: str = ""
    linked: bool = True
