"""Changes of a link's declaration since its primary started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from ratchet.core.drift import edits, edits_of
from ratchet.core.endpoint_spec import EndpointSpec, EndState, Route
from ratchet.core.intent import WantedLink, wanted_links
from ratchet.core.kinds import Wiring
from ratchet.core.model import Encapsulation, Link, Side
from ratchet.errors import InvalidIntentError
from tests.support.links import annotated, declaring_pod, joined, own, pod, veth, vxlan, wanted, with_ready


def declared(link: Link, wiring: Wiring | None = None) -> WantedLink:
    return WantedLink(link, None, None, None, wiring=wiring)


def edit_end(side: Side, **changes: Any) -> Callable[[Link], Link]:
    return lambda link: link.with_end(side, replace(link.end(side), **changes))


def edit_properties(**properties: Any) -> Callable[[Link], Link]:
    return edit_end(Side.PRIMARY, properties=EndpointSpec(**properties))


ROUTE = Route(ip_network("10.0.0.0/8"), ip_address("192.168.2.101"), 7)
EDITS = [
    (lambda link: link, ()),
    (edit_end(Side.PAIR, notes={"public_ip": "1.1.1.1"}), ()),
    (edit_end(Side.PAIR, addresses=()), ("in2: addresses none instead of 192.168.2.101/24",)),
    (
        edit_end(Side.PRIMARY, addresses=(ip_interface("fd00::1/64"),)),
        ("in1: addresses fd00::1/64 instead of 192.168.2.100/24",),
    ),
    (edit_properties(mtu=1400, txqlen=5), ("in1: mtu 1400 instead of none", "in1: txqlen 5 instead of none")),
    (edit_properties(routes=(ROUTE,)), ("in1: routes 10.0.0.0/8 via 192.168.2.101 metric 7 instead of none",)),
    (edit_properties(sysctls=(("net.a", 1), ("net.b", 2))), ("in1: sysctls net.a=1, net.b=2 instead of none",)),
    (edit_properties(offloads=False), ("in1: offloads off instead of on",)),
    (edit_properties(rate=5_000_000), ("in1: rate 5mbit instead of none",)),
    (
        lambda link: replace(link, encapsulation=Encapsulation(tunnel=True, vxlan_port=4790)),
        ("kind vxlan instead of auto", "vxlan_port 4790 instead of none"),
    ),
]


@pytest.mark.parametrize(("edit", "words"), EDITS)
def test_edits_are_described_in_words(edit: Callable[[Link], Link], words: tuple[str, ...]) -> None:
    for record in (vxlan(), with_ready(veth(), *Side), joined(own(Side.PRIMARY), None)):
        assert edits(record, declared(edit(wanted()))).words == words


def test_another_declared_wiring_is_an_edit_and_a_default_is_none() -> None:
    words = "wiring panel instead of direct, which needs a restart of both pods at once"
    assert edits(veth(), declared(wanted(), Wiring.PANEL)).words == (words,)
    link = edit_properties(mtu=1400)(wanted())
    assert edits(veth(), declared(link, Wiring.PANEL)).words == (words, "in1: mtu 1400 instead of none")
    patched = replace(veth(), wiring=Wiring.PANEL)
    assert not edits(patched, declared(wanted(), Wiring.PANEL))
    assert not edits(patched, declared(wanted()))


def test_a_state_asks_a_direct_link_for_panel_wiring_and_is_followed_later() -> None:
    """A link that was direct before panel wiring was the default has no declared wiring."""
    down = edit_properties(mtu=1400, state=EndState.DOWN)(wanted())
    live = replace(declared(down), live=True)
    words = "wiring panel instead of direct for its state, which needs a restart of both pods at once"
    found = edits(veth(), live)
    assert (found.words, found.live) == ((words, "in1: mtu 1400 instead of none"), False)
    patched = edits(replace(veth(), wiring=Wiring.PANEL), live)
    assert (patched.words, patched.live) == (("in1: mtu 1400 instead of none", "in1: state down instead of up"), True)


@pytest.mark.parametrize("record", [wanted(), joined(None, own(Side.PAIR))])
def test_a_link_whose_primary_has_not_joined_has_no_edits(record: Link) -> None:
    assert not edits(record, declared(edit_properties(mtu=1400)(wanted())))
    assert not edits(record, None)


def test_a_link_that_is_no_longer_declared_has_an_edit() -> None:
    assert edits(veth(), None).words == ("nothing asks for it any more",)


def test_a_restart_that_would_be_rejected_is_described_with_its_cause() -> None:
    refusal = InvalidIntentError("cannot link pod default/primary-pod: mtu: no")
    assert edits(veth(), None, refusal).words == (f"its pod would be refused now: {refusal}",)


def test_edits_are_the_differences_from_the_current_declarations() -> None:
    assert not edits_of(veth(), wanted_links([declaring_pod(), pod("pair-pod")]))
    edited = annotated(declaring_pod(), local_ip="192.168.2.7")
    words = ("in1: addresses 192.168.2.7/24 instead of 192.168.2.100/24",)
    found = edits_of(veth(), wanted_links([edited, pod("pair-pod")]))
    assert found.words == words
    assert found.text(veth()) == f"wants a restart of pod default/primary-pod: {words[0]}"
    refused = annotated(declaring_pod(), local_ip="x")
    (message,) = edits_of(veth(), wanted_links([refused])).words
    assert message.startswith("its pod would be refused now: cannot link pod default/primary-pod: ratchet.local_ip: ")
    assert edits_of(veth(), wanted_links([])).words == ("nothing asks for it any more",)


def test_running_pods_follow_the_edits_of_a_topology_but_not_another_wiring() -> None:
    link = edit_properties(mtu=1400)(wanted())
    live = replace(declared(link), live=True)
    assert (
        edits(veth(), live).text(veth())
        == "waits for the agent of node node-a to apply an edit: in1: mtu 1400 instead of none"
    )
    rewired = edits(veth(), replace(live, wiring=Wiring.PANEL))
    assert rewired.text(veth()).startswith("wants a restart of pod default/primary-pod: wiring panel instead of direct")
