"""An agent that was reached and did not answer, or with no answer: no second engine is let loose on the same call."""

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
from tests.shim.playing import COMMANDS, Agent, Node, Recorder, Serve, taken, until_it_hangs_up

WHOLE = encode_answer(Reply(0, b'{"cniVersion": "1.0.0"}'))
AWAY = "it went away before it had answered"
CODES = {"ADD": 11, "CHECK": 11, "GC": 11, "STATUS": 50}


@pytest.fixture(autouse=True)
def fallback_that_must_not_run(request: pytest.FixtureRequest) -> None:
    for name in {"node", "sanitised_node", "hasty_node"} & set(request.fixturenames):
        request.getfixturevalue(name).add_fallback("#!/bin/sh\necho the fallback ran\nexit 9\n")


def expect_what_it_comes_to(node: Node, command: str, cause: str) -> None:
    done = node.call(command)
    if command == "VERSION":
        assert (done.status, done.json) == (0, {"cniVersion": LATEST, "supportedVersions": list(SUPPORTED)})
    elif command == "DEL":
        assert (done.status, done.stdout) == (0, b"")
        told = f"ratchet: cannot get an answer from the node agent at {node.socket}: {cause}; the DEL is kept"
        assert done.stderr.decode().startswith(told)
        assert len(node.kept()) == 1
    else:
        assert done.code == CODES[command]
        assert done.message == f"cannot get an answer from the node agent at {node.socket}: {cause}"
        assert "ss -xl | grep ratchet" in done.json["details"]
        assert node.kept() == []


# It goes away


def hangs_up_at_once(connection: socket.socket) -> None:
    """Without a look at the request: what is unread then is a reset for the shim."""


def hangs_up_when_it_has_read(connection: socket.socket) -> None:
    taken(connection)


def hangs_up_within_the_answer(connection: socket.socket) -> None:
    taken(connection)
    connection.sendall(WHOLE[:-1])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("serve", [hangs_up_at_once, hangs_up_when_it_has_read, hangs_up_within_the_answer])
def test_an_agent_that_goes_away(command: str, serve: Serve, node: Node) -> None:
    with Agent(node.socket, serve):
        expect_what_it_comes_to(node, command, AWAY)


def test_an_agent_that_goes_away_in_the_middle_of_a_long_request(node: Node) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(100)

    with Agent(node.socket, serve):
        done = node.call("ADD", b"x" * 1_000_000)
    assert done.code == 11
    assert done.message.endswith(AWAY)


def test_an_agent_that_goes_away_at_every_byte_of_its_answer(node: Node) -> None:
    recorder = Recorder()
    with Agent(node.socket, recorder):
        for length in range(len(WHOLE)):
            recorder.raw = WHOLE[:length]
            done = node.call("ADD")
            assert (done.code, done.message.endswith(AWAY)) == (11, True), length
        recorder.raw = WHOLE
        assert node.call("ADD").stdout == WHOLE[HEADER_BYTES:]


# It answers with something else


def changed(at: int, *values: int) -> bytes:
    return WHOLE[:at] + bytes(values) + WHOLE[at + len(values) :]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what came is no frame"),
        (changed(3, ord("h")), "what came is no frame"),
        (changed(4, 2), "it speaks another version than this executable: install both from one release"),
        (changed(4, 0), "it speaks another version than this executable: install both from one release"),
        (changed(5, 1), "what came is no answer"),
        (changed(6, 1, 0), "what came is no answer"),
        (changed(15, 1), "what came is no answer"),
        (changed(16, 0, 0x40, 0, 1), f"it is longer than {ANSWER_MAX} bytes"),
        (changed(16, 255, 255, 255, 255), f"it is longer than {ANSWER_MAX} bytes"),
    ],
    ids=["http", "magic", "version 2", "version 0", "kind", "status", "time", "long", "longest"],
)
def test_what_is_no_answer(command: str, raw: bytes, cause: str, sanitised_node: Node) -> None:
    with Agent(sanitised_node.socket, Recorder(raw)):
        expect_what_it_comes_to(sanitised_node, command, cause)


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
def test_whatever_bytes_come_the_shim_reads_them_as_python_does(raw: bytes, fuzzed: Callable[[bytes], Node]) -> None:
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
    """A node whose agent answers with these bytes."""
    recorder = Recorder()
    agent = Agent(sanitised_node.socket, recorder)
    agent.__enter__()
    request.addfinalizer(lambda: agent.__exit__(None, None, None))

    def answering(raw: bytes) -> Node:
        recorder.raw = raw
        return sanitised_node

    return answering


# It is slow


def stops_within_the_answer(connection: socket.socket) -> None:
    taken(connection)
    connection.sendall(WHOLE[:-1])
    assert connection.recv(1) == b""


def never_reads(connection: socket.socket) -> None:
    hung_up = select.poll()
    hung_up.register(connection, 0)
    assert hung_up.poll(20_000)


def trickles(connection: socket.socket) -> None:
    """For longer than the shim may wait, and with never a long pause."""
    taken(connection)
    with suppress(BrokenPipeError, ConnectionResetError):
        for byte in encode_answer(Reply(0, bytes(1_000))):
            connection.sendall(bytes([byte]))
            time.sleep(0.01)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_agent_that_never_answers(command: str, hasty_node: Node) -> None:
    began = time.monotonic()
    with Agent(hasty_node.socket, until_it_hangs_up):
        expect_what_it_comes_to(hasty_node, command, "it did not come within 0.4 s")
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("serve", [stops_within_the_answer, never_reads, trickles])
def test_an_agent_that_is_slow(serve: Serve, hasty_node: Node) -> None:
    began = time.monotonic()
    with Agent(hasty_node.socket, serve):
        done = hasty_node.call("ADD", b"x" * 1_000_000)
    assert done.message.endswith(": it did not come within 0.4 s")
    assert time.monotonic() - began > 0.3
