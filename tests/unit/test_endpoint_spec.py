"""What an interface keeps of an earlier declaration."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet.core.endpoint_spec import EndpointSpec, resets

RP_FILTER, ARP_NOTIFY = (f"net.ipv4.conf.IFNAME.{name}" for name in ("rp_filter", "arp_notify"))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ({}, {}, ()),
        ({"mtu": 1400, "rate": 8000}, {}, ()),  # compared with the interface at each pass
        ({}, {"txqlen": 5, "offloads": False}, ()),
        ({"txqlen": 5, "offloads": False}, {}, ("offloads", "txqlen")),
        ({"txqlen": 5}, {"txqlen": 6}, ()),
        ({}, {"mac": "02:00:00:00:00:01"}, ("mac",)),
        ({"mac": "02:00:00:00:00:01"}, {}, ("mac",)),
        ({"sysctls": ((ARP_NOTIFY, 1), (RP_FILTER, 2))}, {"sysctls": ((RP_FILTER, 1),)}, (ARP_NOTIFY,)),
    ],
)
def test_what_an_edit_removes_is_reset(before: dict[str, Any], after: dict[str, Any], kept: tuple[str, ...]) -> None:
    assert resets(EndpointSpec(**before), EndpointSpec(**after)) == kept


def test_resets_that_were_not_done_stay_until_the_setting_is_declared_again() -> None:
    earlier = ("offloads", "txqlen", RP_FILTER)
    assert resets(EndpointSpec(), EndpointSpec(), earlier) == tuple(sorted(earlier))
    again = EndpointSpec(txqlen=7, offloads=False, sysctls=((RP_FILTER, 1),))
    assert resets(EndpointSpec(), again, earlier) == ()
