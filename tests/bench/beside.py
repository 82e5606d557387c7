"""Traffic through a link of Ratchet and through one by hand, which connect the same two namespaces.

Rounds through both links alternate, and the first one does not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.iperf import sent
from tests.bench.round_trip import round_trip
from tests.bench.rows import Report, Row, at_least


@dataclass(slots=True)
class Measured:
    """The Gbit/s of one TCP stream, and the round trips in µs, of the rounds through one link."""

    address: str
    streams: list[float] = field(default_factory=list)
    round_trips: list[float] = field(default_factory=list)

    def measure(self, near: str, far: str) -> None:
        self.streams.append(sent(near, far, self.address))
        self.round_trips.append(round_trip(near, self.address))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Two links between the namespaces `near` and `far`, by their addresses in `far`. `other`: what is by hand."""

    near: str
    far: str
    ours: str
    by_hand: str
    other: str

    def rows(self, name: str, rounds: int, target: float | None, report: Report) -> list[Row]:
        """The ratios of throughput, with a target, and of the round trip."""
        ours, by_hand = Measured(self.ours), Measured(self.by_hand)
        for number in range(rounds + 1):
            for one in (ours, by_hand) if number % 2 else (by_hand, ours):
                one.measure(self.near, self.far)
            last = f"{ours.streams[-1]:.1f} Gbit/s, {self.other} {by_hand.streams[-1]:.1f}"
            trips = f"{ours.round_trips[-1]:.1f} µs, {self.other} {by_hand.round_trips[-1]:.1f}"
            report(f"{name} {number}/{rounds}: {last}; round trip {trips}")
        ratio, text = self._compared(ours.streams, by_hand.streams, "Gbit/s")
        stream = f"{name}: one TCP stream"
        trip_ratio, trip_text = self._compared(ours.round_trips, by_hand.round_trips, "µs")
        return [
            Row(stream, ratio, "ratio", text) if target is None else at_least(stream, ratio, "ratio", target, text),
            Row(f"{name}: round trip", trip_ratio, "ratio", trip_text),
        ]

    def _compared(self, ours: Sequence[float], by_hand: Sequence[float], unit: str) -> tuple[float, str]:
        """The ratio of the medians, and both with their spread."""
        ratio = statistics.median(ours[1:]) / statistics.median(by_hand[1:])
        return ratio, f"{spread(ours[1:])} {unit}; {self.other} {spread(by_hand[1:])}"


def spread(values: Sequence[float], text: Callable[[float], str] = "{:.1f}".format) -> str:
    """The median, and the least and the greatest value."""
    return f"{text(statistics.median(values))} ({text(min(values))} to {text(max(values))})"
