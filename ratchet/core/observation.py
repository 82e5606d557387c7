"""An end of a link as whoever looks into its pod sees it, for people."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.interface import Device


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an interface has counted one way since it was made (ip-link(8), `-s`): packets, bytes, and packets that
    were faulty or dropped.
    """

    packets: int
    bytes: int
    errors: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Live:
    """What changes of an interface by itself: whether it has carrier, whoever took it; what it received and sent."""

    carrier: bool
    rx: Traffic
    tx: Traffic


@dataclass(frozen=True, slots=True)
class Observation:
    """What stands of an end: its `device`, None where there is none, and how that differs from what the record wants.

    `fault`: why one or the other could not be told; empty where both are.
    """

    device: Device | None = None
    live: Live | None = None
    differences: tuple[str, ...] = ()
    fault: str = ""
