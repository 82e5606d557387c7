"""The limits of open connections: in all, per client, and in time."""

from __future__ import annotations

import pytest

from ratchet.agent.connections import Limits, OpenConnections, client_of
from tests.support.manual_clock import Clock


def test_a_client_has_at_most_its_share_of_the_connections(clock: Clock) -> None:
    connections = OpenConnections[int](Limits(in_all=4, per_client=2, seconds=10), clock)
    assert [connections.admit(number, "192.0.2.1") for number in range(3)] == [True, True, False]
    assert [connections.admit(number, "192.0.2.2") for number in range(10, 13)] == [True, True, False]
    assert not connections.admit(20, "192.0.2.3"), "there are four in all"
    connections.forget(0)
    assert connections.admit(20, "192.0.2.3")
    assert not connections.admit(21, "192.0.2.1"), "there are four in all again"


def test_a_connection_that_was_refused_or_forgotten_does_not_count(clock: Clock) -> None:
    connections = OpenConnections[int](Limits(in_all=2, per_client=1, seconds=10), clock)
    assert connections.admit(1, "192.0.2.1")
    assert not connections.admit(2, "192.0.2.1")
    for _ in range(2):
        connections.forget(2)
    assert not connections.admit(3, "192.0.2.1")
    for _ in range(2):
        connections.forget(1)
    assert connections.admit(4, "192.0.2.1")
    assert not connections.admit(5, "192.0.2.1")


def test_a_connection_is_overdue_once_its_time_is_over(clock: Clock) -> None:
    connections = OpenConnections[int](Limits(in_all=2, per_client=2, seconds=10), clock)
    connections.admit(1, "192.0.2.1")
    clock.now += 5
    connections.admit(2, "192.0.2.1")
    assert connections.overdue() == []
    clock.now += 5
    assert connections.overdue() == [1]
    connections.forget(1)
    clock.now += 5
    assert connections.overdue() == [2]


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::7", "2001:db8:0:1::"),
        ("2001:db8:0:1:ffff::9", "2001:db8:0:1::"),
        ("2001:db8:0:2::7", "2001:db8:0:2::"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_subnet(address: str, client: str) -> None:
    assert client_of(address) == client
