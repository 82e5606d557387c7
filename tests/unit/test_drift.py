"""What was edited of a link since its primary started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from ratchet.core.drift import edits, edits_of, wants_restart
from ratchet.core.endpoint_spec import EndpointSpec, Route
from ratchet.core.intent import wanted_links
from ratchet.core.model import Encapsulation, Link, Side
from ratchet.errors import InvalidIntentError
from tests.support.links import annotated, declaring_pod, joined, own, pod, standing, veth, vxlan, wanted


def of_end(side: Side, **changes: Any) -> Callable[[Link], Link]:
    return lambda link: link.with_end(side, replace(link.end(side), **changes))


def having(**properties: Any) -> Callable[[Link], Link]:
    return of_end(Side.PRIMARY, properties=EndpointSpec(**properties))


ROUTE = Route(ip_network("10.0.0.0/8"), ip_address("192.168.2.101"), 7)
EDITS = [
    (lambda link: link, ()),
    (of_end(Side.PAIR, notes={"public_ip": "1.1.1.1"}), ()),
    (of_end(Side.PAIR, addresses=()), ("in2: addresses none instead of 192.168.2.101/24",)),
    (
        of_end(Side.PRIMARY, addresses=(ip_interface("fd00::1/64"),)),
        ("in1: addresses fd00::1/64 instead of 192.168.2.100/24",),
    ),
    (having(mtu=1400, txqlen=5), ("in1: mtu 1400 instead of none", "in1: txqlen 5 instead of none")),
    (having(routes=(ROUTE,)), ("in1: routes 10.0.0.0/8 via 192.168.2.101 metric 7 instead of none",)),
    (having(sysctls=(("net.a", 1), ("net.b", 2))), ("in1: sysctls net.a=1, net.b=2 instead of none",)),
    (having(offloads=False), ("in1: offloads off instead of on",)),
    (having(rate=5_000_000), ("in1: rate 5mbit instead of none",)),
    (
        lambda link: replace(link, encapsulation=Encapsulation(tunnel=True, vxlan_port=4790)),
        ("kind vxlan instead of auto", "vxlan_port 4790 instead of none"),
    ),
]


@pytest.mark.parametrize(("edit", "words"), EDITS)
def test_what_was_edited_is_told_in_words(edit: Callable[[Link], Link], words: tuple[str, ...]) -> None:
    for record in (vxlan(), standing(veth(), *Side), joined(own(Side.PRIMARY), None)):
        assert edits(record, edit(wanted())) == words


@pytest.mark.parametrize("record", [wanted(), joined(None, own(Side.PAIR))])
def test_before_a_primary_has_joined_nothing_is_frozen(record: Link) -> None:
    assert edits(record, having(mtu=1400)(wanted())) == ()
    assert edits(record, None) == ()


def test_a_link_that_nobody_wants_any_more_goes_with_its_primary() -> None:
    assert edits(veth(), None) == ("nothing asks for it any more",)


def test_a_restart_that_would_fail_is_told_with_its_reason() -> None:
    refusal = InvalidIntentError("cannot link pod default/primary-pod: mtu: no")
    assert edits(veth(), None, refusal) == (f"its pod would be refused now: {refusal}",)


def test_what_the_pods_of_a_namespace_say_by_now() -> None:
    assert edits_of(veth(), wanted_links([declaring_pod(), pod("pair-pod")])) == ()
    edited = annotated(declaring_pod(), local_ip="192.168.2.7")
    words = ("in1: addresses 192.168.2.7/24 instead of 192.168.2.100/24",)
    assert edits_of(veth(), wanted_links([edited, pod("pair-pod")])) == words
    assert wants_restart(veth(), words) == f"wants a restart of pod default/primary-pod: {words[0]}"
    refused = annotated(declaring_pod(), local_ip="x")
    (told,) = edits_of(veth(), wanted_links([refused]))
    assert told.startswith("its pod would be refused now: cannot link pod default/primary-pod: ratchet.local_ip: ")
    assert edits_of(veth(), wanted_links([])) == ("nothing asks for it any more",)
