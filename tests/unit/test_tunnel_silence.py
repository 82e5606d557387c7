"""Silent tunnels in the agent's log, Events, metrics and page; Events of the node wait for the API."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from ratchet.agent.node_events import MOST, NodeEvents, NodeReason
from ratchet.agent.tunnel_silence import TunnelSilence
from ratchet.core.oam import TunnelPeer
from ratchet.core.observation import Proof
from ratchet.core.silence import TunnelCondition, TunnelProof, proof_key
from ratchet.errors import ApiUnavailableError
from ratchet.store.api_errors import ForbiddenError
from tests.support.memory import Json, MemoryApi


class World:
    """The proofs of a node's tunnels, and the nodes that announce OAM frames."""

    def __init__(self) -> None:
        self.found: list[TunnelProof] = []
        self.announced = {"b", "c"}

    def proofs(self) -> list[TunnelProof]:
        return self.found

    def announces_oam(self, node: str) -> bool:
        return node in self.announced

    def oam_renewed(self, node: str) -> float | None:
        return 1.0 if node in self.announced else None


def tunnel(link: str, node: str, verified: float | None, silent: float | None, end: int = 0) -> TunnelProof:
    peer = TunnelPeer(link, link.encode(), end, b"own", b"far", node=node)
    return TunnelProof(peer, Proof(verified, silent), silent or verified or 2.0)


def of(world: World, api: MemoryApi) -> TunnelSilence:
    return TunnelSilence("a", world, world, NodeEvents(cast(Any, api), "a", enabled=True))


def events(api: MemoryApi) -> list[Json]:
    return [one for path, one in api.objects.items() if path.startswith("/api/v1/namespaces/default/events/")]


def test_a_silent_node_is_reported_once_and_again_once_it_is_verified(
    api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world = World()
    silence = of(world, api)
    for found in ([tunnel(f"l{number}", "b", None, 80.0) for number in range(7)], [tunnel("l0", "b", 1.0, None)]):
        world.found = found
        for _ in range(2):
            silence.check()
            silence.events.send()
    assert [(one["reason"], one["type"], one["message"]) for one in events(api)] == [
        (
            "TunnelsSilent",
            "Warning",
            "no OAM frames from node b arrive over 7 of 7 tunnels: l0, l1, l2, l3, l4, and 2 more",
        ),
        ("TunnelsVerified", "Normal", "OAM frames from node b arrive again over all 1 tunnels"),
    ]
    assert events(api)[0]["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "a"}
    assert [one.getMessage() for one in caplog.records] == [
        "tunnels silent node=b silent=7 tunnels=7",
        "tunnels verified again node=b tunnels=1",
    ]


def test_the_tunnels_of_a_node_are_counted_and_published_without_names(api: MemoryApi) -> None:
    world = World()
    world.found = [
        tunnel("one", "b", 3.0, None),
        tunnel("two", "b", 50.0, 50.0),
        tunnel("two", "c", None, None, end=1),
        tunnel("old", "earlier", None, 90.0),
    ]
    silence = of(world, api)
    assert silence.counts() == dict.fromkeys(TunnelCondition, 1)
    assert silence.longest_unproven() == 50.0
    page = silence.page()
    assert page == {
        "node": "a",
        "proofs": {
            proof_key(b"one"): {"primary": {"verified": 3.0, "silent": None}},
            proof_key(b"two"): {
                "primary": {"verified": 50.0, "silent": 50.0},
                "pair": {"verified": None, "silent": None},
            },
            proof_key(b"old"): {"primary": {"verified": None, "silent": None}},
        },
    }
    assert "one" not in json.dumps(page)


def test_a_node_without_tunnels_has_no_unproven_one(api: MemoryApi) -> None:
    assert of(World(), api).longest_unproven() == 0.0


def test_a_bug_is_logged_and_does_not_raise(api: MemoryApi, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.found = cast(Any, [None])
    of(world, api).check()
    assert "check of the tunnels' silence failed" in caplog.text


class FailingApi(MemoryApi):
    """An API that answers a creation with an error, if there is one."""

    error: Exception | None = None

    def create(self, path: str, body: Json) -> Json:
        if self.error is not None:
            raise self.error
        return super().create(path, body)


def test_events_wait_for_the_api_and_a_newer_one_replaces_an_older_one() -> None:
    api = FailingApi()
    sender = NodeEvents(cast(Any, api), "a", enabled=True)
    api.error = ApiUnavailableError("cannot POST events: no answer")
    sender.report("b", NodeReason.TUNNELS_SILENT, "silent")
    sender.send()
    sender.report("b", NodeReason.TUNNELS_VERIFIED, "verified")
    api.error = None
    for _ in range(2):
        sender.send()
    assert [one["message"] for one in events(api)] == ["verified"]


def test_a_rejected_event_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    api = FailingApi()
    sender = NodeEvents(cast(Any, api), "a", enabled=True)
    api.error = ForbiddenError("cannot POST events: forbidden")
    sender.report("b", NodeReason.TUNNELS_SILENT, "silent")
    for _ in range(2):
        sender.send()
    assert caplog.text.count("event not sent reason=TunnelsSilent node=a") == 1


def test_a_few_events_are_sent_at_a_time(api: MemoryApi) -> None:
    sender = NodeEvents(cast(Any, api), "a", enabled=True)
    for number in range(MOST + 1):
        sender.report(f"node-{number}", NodeReason.TUNNELS_SILENT, str(number))
    sender.send()
    assert len(events(api)) == MOST
    sender.send()
    assert len(events(api)) == MOST + 1


def test_no_event_is_sent_if_events_are_off(api: MemoryApi) -> None:
    sender = NodeEvents(cast(Any, api), "a", enabled=False)
    sender.report("b", NodeReason.TUNNELS_SILENT, "silent")
    sender.send()
    assert events(api) == []
