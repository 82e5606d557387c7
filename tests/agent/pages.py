"""Requests to an agent's HTTP endpoint from its own node."""

from __future__ import annotations

from http.client import HTTPConnection

from ratchet import datapath
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import netns_path

METRICS, HEALTH = 9472, 9473


def connect(node: Kubelet, port: int = METRICS) -> HTTPConnection:
    """A connection from a node to a port of its loopback."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    with datapath.open_netns(netns_path(node.host.netns)) as netns, datapath.inside(netns):
        connection.connect()
    return connection


def page(node: Kubelet, path: str, port: int = METRICS) -> tuple[int, str]:
    """Status and body of a GET request to the agent's HTTP endpoint, sent from its node."""
    connection = connect(node, port)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
