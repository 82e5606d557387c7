"""Packed sequences: equal to tuples of their items, small, and shared."""

from __future__ import annotations

import json
import tracemalloc
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from ratchet.core.endpoint_spec import EndpointSpec, PackedAddresses, PackedRoutes, PackedSysctls, Route
from ratchet.core.limits import LINK_MEMORY
from ratchet.core.model import End
from ratchet.core.packed import Packed
from ratchet.store.codec.links import decode_link, encode_link
from tests.support.large_links import declared_link, joined_link

ROUTES = (
    Route(ip_network("10.0.0.0/8")),
    Route(ip_network("::/0"), ip_address("fd00::1")),
    Route(ip_network("10.1.0.0/16"), None, 7),
    Route(ip_network("10.2.0.0/16"), ip_address("10.0.0.1"), 4294967295),
)
SYSCTLS = (("net.ipv4.conf.IFNAME.rp_filter", 2), ("net.ipv6.conf.IFNAME.accept_dad", -1))
ADDRESSES = tuple(map(ip_interface, ("10.0.0.1/24", "fd00::1/64", "fe80::1/64")))
KINDS = [(PackedRoutes, ROUTES), (PackedSysctls, SYSCTLS), (PackedAddresses, ADDRESSES), (PackedRoutes, ROUTES * 20)]


@pytest.mark.parametrize(("kind", "items"), KINDS)
def test_a_packed_sequence_is_equal_to_the_tuple_of_its_items(kind: type[Packed[Any]], items: tuple[Any, ...]) -> None:
    packed = kind.of(items)
    assert isinstance(packed, Packed)
    assert packed == items
    assert items == packed
    assert (len(packed), hash(packed)) == (len(items), hash(items))
    assert (packed[0], packed[-1], packed[1:]) == (items[0], items[-1], items[1:])
    assert (list(packed), repr(packed), items[0] in packed) == (list(items), repr(items), True)
    assert kind.of(packed) is packed
    assert packed != items[:-1]
    assert packed != kind.of(items[1:] + items[:1])


def test_equal_sequences_are_one_object() -> None:
    one, other = EndpointSpec(routes=ROUTES), EndpointSpec(routes=ROUTES[:2] + ROUTES[2:])
    assert one.routes is other.routes


def test_no_items_and_few_addresses_stay_as_they_are() -> None:
    assert EndpointSpec().routes == ()
    assert type(End("a", "in1", ADDRESSES[:2]).addresses) is tuple


@pytest.mark.thorough
def test_the_largest_record_takes_less_memory_than_the_limit_on_links_assumes() -> None:
    """With the declaration that the journal has, also if it is an earlier one."""
    texts = [
        json.dumps(encode_link(link))
        for number in range(1, 9)
        for link in (joined_link(declared_link(number), number), declared_link(-number))
    ]
    tracemalloc.start()
    try:
        decoded = [decode_link(json.loads(text)) for text in texts[:8]]  # what the codec itself keeps
        before = tracemalloc.get_traced_memory()[0]
        decoded += [decode_link(json.loads(text)) for text in texts[8:]]
        taken = (tracemalloc.get_traced_memory()[0] - before) / 4
    finally:
        tracemalloc.stop()
    print(f"{taken:.0f} bytes for each link")
    assert taken < LINK_MEMORY
