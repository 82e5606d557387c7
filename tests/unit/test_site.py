"""The underlay of a node: the lookup of its addresses in the API, and the UDP port."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet import datapath
from ratchet.core.interface import Parent
from ratchet.errors import ApiUnavailableError
from ratchet.node.underlay import UnderlayConfig, find_underlay

ADDRESSES = ("10.0.0.1",)


def store_with_node(*, unreachable: bool = False) -> Any:
    """A store that has the node's addresses, or whose API is unreachable."""

    def lookup_addresses(node: str) -> tuple[str, ...]:
        assert node == "a"
        if unreachable:
            raise ApiUnavailableError("cannot reach the Kubernetes API")
        return ADDRESSES

    return SimpleNamespace(nodes=SimpleNamespace(lookup_addresses=lookup_addresses))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The node addresses of each call of `find_parent`."""
    given: list[Sequence[str]] = []

    def find_parent(_: str | None, __: str | None, node_addresses: Sequence[str]) -> Parent:
        given.append(node_addresses)
        return Parent("eth0", 2, "10.0.0.1", 1500)

    monkeypatch.setattr(datapath, "find_parent", find_parent)
    return given


@pytest.mark.parametrize(
    ("underlay", "node", "addresses"),
    [
        (UnderlayConfig(None, None, None), "a", ADDRESSES),
        (UnderlayConfig("eth0", None, None), "a", ADDRESSES),
        (UnderlayConfig("eth0", None, None), "", ()),
        (UnderlayConfig(None, "10.0.0.1", None), "a", ()),
        (UnderlayConfig("eth0", "10.0.0.1", None), "a", ()),
    ],
)
def test_node_addresses_are_looked_up_if_no_address_is_configured(
    underlay: UnderlayConfig, node: str, addresses: Sequence[str], asked: list[Sequence[str]]
) -> None:
    assert find_underlay(underlay, node, store_with_node()).node == node
    assert asked == [addresses]


@pytest.mark.parametrize("interface", [None, "eth0"])
def test_an_unreachable_api_is_an_error_unless_an_address_is_configured(
    interface: str | None, asked: list[Sequence[str]]
) -> None:
    with pytest.raises(ApiUnavailableError):
        find_underlay(UnderlayConfig(interface, None, None), "a", store_with_node(unreachable=True))
    assert asked == []
    find_underlay(UnderlayConfig(interface, "10.0.0.1", None), "a", store_with_node(unreachable=True))


@pytest.mark.parametrize(("port", "used"), [(None, 4789), (8472, 8472)])
def test_the_default_port_is_used_if_none_is_configured(
    port: int | None, used: int, asked: list[Sequence[str]]
) -> None:
    assert find_underlay(UnderlayConfig(None, None, port), "a", store_with_node()).vxlan_port == used
    assert len(asked) == 1
