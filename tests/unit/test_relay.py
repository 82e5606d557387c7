"""The relay of a testbed to a real API server."""

from __future__ import annotations

import socket

from ratchet.dev.relay import relay

LOOPBACK = "127.0.0.1"
SECONDS = 30.0


def connected(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=SECONDS)


def test_a_connection_is_relayed_in_both_directions() -> None:
    with socket.create_server((LOOPBACK, 0)) as target, socket.create_server((LOOPBACK, 0)) as listener:
        target.settimeout(SECONDS)
        with relay(listener, *target.getsockname()), connected(listener) as client:
            client.sendall(b"request")
            server, _ = target.accept()
            with server:
                server.settimeout(SECONDS)
                assert server.recv(100) == b"request"
                server.sendall(b"response")
                assert client.recv(100) == b"response"
            assert client.recv(100) == b""


def test_a_connection_is_closed_if_nothing_listens_on_the_target() -> None:
    with socket.create_server((LOOPBACK, 0)) as target:
        address = target.getsockname()
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        relay(listener, *address),
        connected(listener) as client,
    ):
        assert client.recv(100) == b""
