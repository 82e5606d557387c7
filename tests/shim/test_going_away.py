"""Agents that accept a call and send no valid answer. The fallback must not run the call again."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet.agent.frame import ANSWER_MAX, HEADER_BYTES, FrameError, Reply, encode_answer, read_answer
from ratchet.cni.versions import LATEST, SUPPORTED
from tests.shim.playing import COMMANDS, AgentStub, Node, Recorder, ServeConnection, receive_request, withhold_answer

ANSWER = encode_answer(Reply(0, b'{"cniVersion": "1.0.0"}'))
DISCONNECTED = "it went away before it had answered"
CODES = {"ADD": 11, "CHECK": 11, "GC": 11, "STATUS": 50}


@pytest.fixture(autouse=True)
def fallback_that_must_not_run(request: pytest.FixtureRequest) -> None:
    for name in {"node", "sanitised_node", "hasty_node"} & set(request.fixturenames):
        request.getfixturevalue(name).add_fallback("#!/bin/sh\necho the fallback ran\nexit 9\n")


def assert_result(node: Node, command: str, cause: str) -> None:
    done = node.call(command)
    if command == "VERSION":
        assert (done.status, done.json) == (0, {"cniVersion": LATEST, "supportedVersions": list(SUPPORTED)})
    elif command == "DEL":
        assert (done.status, done.stdout) == (0, b"")
        warning = f"ratchet: cannot get an answer from the node agent at {node.socket}: {cause}; the DEL is kept"
        assert done.stderr.decode().startswith(warning)
        assert len(node.spooled()) == 1
    else:
        assert done.code == CODES[command]
        assert done.message == f"cannot get an answer from the node agent at {node.socket}: {cause}"
        assert "ss -xl | grep ratchet" in done.json["details"]
        assert node.spooled() == []


# The agent disconnects


def close_at_once(connection: socket.socket) -> None:
    """Close with an unread request, which resets the connection."""


def close_after_request(connection: socket.socket) -> None:
    receive_request(connection)


def close_within_answer(connection: socket.socket) -> None:
    receive_request(connection)
    connection.sendall(ANSWER[:-1])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("serve", [close_at_once, close_after_request, close_within_answer])
def test_each_command_handles_an_agent_that_disconnects(command: str, serve: ServeConnection, node: Node) -> None:
    with AgentStub(node.socket, serve):
        assert_result(node, command, DISCONNECTED)


def test_add_is_code_11_if_the_agent_disconnects_within_a_long_request(node: Node) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)

    with AgentStub(node.socket, serve):
        done = node.call("ADD", b"x" * 1_000_000)
    assert done.code == 11
    assert done.message.endswith(DISCONNECTED)


def test_add_is_code_11_if_the_agent_disconnects_at_any_byte_of_its_answer(node: Node) -> None:
    recorder = Recorder()
    with AgentStub(node.socket, recorder):
        for length in range(len(ANSWER)):
            recorder.raw = ANSWER[:length]
            done = node.call("ADD")
            assert (done.code, done.message.endswith(DISCONNECTED)) == (11, True), length
        recorder.raw = ANSWER
        assert node.call("ADD").stdout == ANSWER[HEADER_BYTES:]


# Invalid answers


def patched(at: int, *values: int) -> bytes:
    return ANSWER[:at] + bytes(values) + ANSWER[at + len(values) :]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what came is no frame"),
        (patched(3, ord("h")), "what came is no frame"),
        (patched(4, 2), "it speaks another version than this executable: install both from one release"),
        (patched(4, 0), "it speaks another version than this executable: install both from one release"),
        (patched(5, 1), "what came is no answer"),
        (patched(6, 1, 0), "what came is no answer"),
        (patched(15, 1), "what came is no answer"),
        (patched(16, 0, 0x40, 0, 1), f"it is longer than {ANSWER_MAX} bytes"),
        (patched(16, 255, 255, 255, 255), f"it is longer than {ANSWER_MAX} bytes"),
    ],
    ids=["http", "magic", "version 2", "version 0", "kind", "status", "time", "long", "longest"],
)
def test_each_command_handles_an_invalid_answer(command: str, raw: bytes, cause: str, sanitised_node: Node) -> None:
    with AgentStub(sanitised_node.socket, Recorder(raw)):
        assert_result(sanitised_node, command, cause)


headers = st.tuples(
    st.sampled_from([b"RTCH", b"RTCH", b"RTCH", b"\0\0\0\0"]),
    st.sampled_from([b"\x01\x02", b"\x01\x02", b"\x01\x01", b"\x02\x02", b"\xff\xff"]),
    st.sampled_from([b"\0\0", b"\0\xff", b"\x01\x00", b"\xff\xff"]),
    st.sampled_from([bytes(8), bytes(8), b"\xff" * 8]),
    st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1), st.sampled_from([ANSWER_MAX, ANSWER_MAX + 1])).map(
        lambda length: length.to_bytes(4, "big")
    ),
).map(b"".join)
near_answers = st.tuples(headers, st.binary(max_size=16)).map(b"".join)
cut_answers = st.tuples(near_answers, st.integers(0, 36)).map(lambda cut: cut[0][: cut[1]])


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.one_of(st.binary(max_size=60), near_answers, cut_answers))
def test_the_shim_decodes_arbitrary_bytes_as_python_does(raw: bytes, fuzzed: Callable[[bytes], Node]) -> None:
    node = fuzzed(raw)
    done = node.call("ADD")
    try:
        answer = read_answer(BytesIO(raw).read)
    except FrameError:
        assert done.code == 11
        assert done.message.startswith("cannot get an answer from the node agent at ")
    else:
        assert (done.status, done.stdout) == (answer.status, answer.stdout)


@pytest.fixture
def fuzzed(sanitised_node: Node, request: pytest.FixtureRequest) -> Callable[[bytes], Node]:
    """A function that makes the agent answer with these bytes, and returns the node."""
    recorder = Recorder()
    agent = AgentStub(sanitised_node.socket, recorder)
    agent.__enter__()
    request.addfinalizer(lambda: agent.__exit__(None, None, None))

    def answering(raw: bytes) -> Node:
        recorder.raw = raw
        return sanitised_node

    return answering


# Slow agents


def stop_within_answer(connection: socket.socket) -> None:
    receive_request(connection)
    connection.sendall(ANSWER[:-1])
    assert connection.recv(1) == b""


def never_read(connection: socket.socket) -> None:
    hangup_poll = select.poll()
    hangup_poll.register(connection, 0)
    assert hangup_poll.poll(20_000)


def trickle(connection: socket.socket) -> None:
    """Send the answer for longer than the shim's timeout, without a long pause."""
    receive_request(connection)
    with suppress(BrokenPipeError, ConnectionResetError):
        for byte in encode_answer(Reply(0, bytes(1_000))):
            connection.sendall(bytes([byte]))
            time.sleep(0.01)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_times_out_if_the_agent_never_answers(command: str, hasty_node: Node) -> None:
    began = time.monotonic()
    with AgentStub(hasty_node.socket, withhold_answer):
        assert_result(hasty_node, command, "it did not come within 0.4 s")
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("serve", [stop_within_answer, never_read, trickle])
def test_add_times_out_if_the_agent_is_slow(serve: ServeConnection, hasty_node: Node) -> None:
    began = time.monotonic()
    with AgentStub(hasty_node.socket, serve):
        done = hasty_node.call("ADD", b"x" * 1_000_000)
    assert done.message.endswith(": it did not come within 0.4 s")
    assert time.monotonic() - began > 0.3
