"""The UDP port of the tunnels is used by something else: in the log, in /readyz and as an Event of the node."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from ratchet.agent.port_clash import PortClash
from ratchet.datapath.udp_ports import PortUse
from ratchet.errors import ApiUnavailableError, DatapathError
from ratchet.node import tunnel_port
from tests.support.memory import MemoryApi

HOLDER = "ovs-vswitchd (PID 7)"
FREE = PortUse(is_free=True)
FAULT = f"UDP port 4789 of the node is used by {HOLDER}"


class Port:
    """Who has the port, as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.use: PortUse | DatapathError = FREE
        monkeypatch.setattr(tunnel_port, "use_of", self._find)

    def _find(self, port: int, _own_tunnels: object) -> PortUse:
        assert port == 4789
        if isinstance(self.use, DatapathError):
            raise self.use
        return self.use


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Port:
    return Port(monkeypatch)


def _events(api: MemoryApi) -> list[dict[str, Any]]:
    return [one for path, one in api.objects.items() if path.startswith("/api/v1/namespaces/default/events/")]


def _clash(api: MemoryApi, *, sends_events: bool = True) -> PortClash:
    return PortClash(cast(Any, api), cast(Any, None), "node-a", 4789, sends_events)


def test_a_clash_is_reported_once_and_until_it_is_over(
    port: Port, api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clash = _clash(api)
    clash.check()
    assert (clash.fault, _events(api)) == ("", [])
    port.use = PortUse(HOLDER)
    for _ in range(3):
        clash.check()
    assert clash.fault == FAULT
    (event,) = _events(api)
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "node-a"}
    assert (event["reason"], event["type"]) == ("TunnelPortTaken", "Warning")
    assert event["message"].startswith(f"{FAULT}: links to other nodes fail. Set another --vxlan-port")
    port.use = FREE
    clash.check()
    assert clash.fault == ""
    assert len(_events(api)) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_check_that_fails_changes_nothing(port: Port, api: MemoryApi) -> None:
    clash = _clash(api)
    port.use = PortUse(HOLDER)
    clash.check()
    port.use = DatapathError("cannot list the tunnels of the node: Operation not permitted")
    clash.check()
    assert clash.fault == FAULT


def test_a_port_whose_holder_is_not_found_is_not_free(
    port: Port, api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clash = _clash(api)
    port.use = PortUse()
    clash.check()
    assert (clash.fault, caplog.text) == ("", "")
    port.use = PortUse(HOLDER)
    clash.check()
    port.use = PortUse()
    for _ in range(3):
        clash.check()
    assert clash.fault == FAULT
    assert "free again" not in caplog.text
    assert caplog.text.count("its holder is not found any more") == 1
    port.use = FREE
    clash.check()
    assert clash.fault == ""
    assert "free again" in caplog.text


def test_a_clash_is_reported_without_an_event_if_the_api_fails(
    port: Port, api: MemoryApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.failures = [ApiUnavailableError("cannot reach the API")]
    port.use = PortUse(HOLDER)
    clash = _clash(api)
    clash.check()
    assert clash.fault == FAULT
    assert "cannot reach the API" in caplog.text


def test_no_event_is_sent_if_events_are_off(port: Port, api: MemoryApi) -> None:
    port.use = PortUse(HOLDER)
    _clash(api, sends_events=False).check()
    assert _events(api) == []
