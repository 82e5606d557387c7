from __future__ import annotations

import pytest

from ratchet.core.fragments import outer_packets


@pytest.mark.parametrize(
    ("mtu", "underlay", "packets"),
    [
        (1450, 1500, 1),
        (1451, 1500, 2),
        (2930, 1500, 2),  # 2,960 bytes of payload
        (2931, 1500, 3),
        (9000, 1500, 7),
        (8950, 9000, 1),
        (65485, 1500, 45),
        (1451, 1503, 1),
        (1453, 1503, 1),
        (2933, 1503, 2),  # only the last fragment is no multiple of 8
        (2934, 1503, 3),
    ],
)
def test_outer_packets(mtu: int, underlay: int, packets: int) -> None:
    assert outer_packets(mtu, underlay) == packets
