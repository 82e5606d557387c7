"""An end of a link as observed in its pod, for people."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.core.interface import Device


@dataclass(frozen=True, slots=True)
class Traffic:
    """The counters of one direction of an interface since its creation (ip-link(8), `-s`).

    `errors` and `dropped` count packets.
    """

    packets: int
    bytes: int
    errors: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Live:
    """The changing values of an interface: its carrier as the kernel reports it, and its counters."""

    carrier: bool
    rx: Traffic
    tx: Traffic


@dataclass(frozen=True, slots=True)
class Proof:
    """What OAM frames prove of a tunnel (`core.oam`), in seconds.

    `verified`: since the last frame of the peer's panel arrived; None: none has yet. `silent`: for how long none has
    arrived, if that is longer than a lost frame explains; else None.
    """

    verified: float | None
    silent: float | None


@dataclass(frozen=True, slots=True)
class Observation:
    """The interface of an end, None if there is none, and its differences from the record.

    `fault` is the error that prevented the observation; empty if there was none. `proof`: None if the end is at no
    tunnel of the patch panel, or if the agent follows none.
    """

    device: Device | None = None
    live: Live | None = None
    differences: tuple[str, ...] = ()
    fault: str = ""
    proof: Proof | None = None
