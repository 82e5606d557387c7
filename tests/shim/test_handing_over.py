"""Calls with an agent that answers: the request, the answer, and calls that the client rejects itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ratchet.agent.frame import (
    ANSWER_MAX,
    STDIN_MAX,
    VARIABLE_MAX,
    VARIABLES,
    Reply,
    Request,
    encode_answer,
    encode_request,
)
from ratchet.cni.arguments import read_arguments
from ratchet.errors import InvalidEnvironmentError
from tests.shim.conftest import BOTH, STAND_IN
from tests.shim.playing import ATTACHMENT, COMMANDS, AgentStub, Node, Recorder, finish_call, receive_request

pytestmark = pytest.mark.parametrize("build", BOTH, indirect=True)

BEGAN = slice(8, 16)  # of a frame


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_prints_the_answer_of_the_agent(command: str, node: Node) -> None:
    with AgentStub(node.socket, Recorder(encode_answer(Reply(0, b'{"cniVersion": "1.0.0"}\n')))):
        done = node.call(command)
    assert (done.status, done.stdout, done.stderr) == (0, b'{"cniVersion": "1.0.0"}\n', b"")


@pytest.mark.parametrize("status", [0, 1, 2, 127, 255])
@pytest.mark.parametrize("stdout", [b"", b'{"code": 7}', bytes(range(256)) * 400], ids=["none", "error", "bytes"])
def test_status_and_stdout_of_the_answer_are_passed_through(status: int, stdout: bytes, node: Node) -> None:
    with AgentStub(node.socket, Recorder(encode_answer(Reply(status, stdout)))):
        done = node.call("ADD")
    assert (done.status, done.stdout, done.stderr) == (status, stdout, b"")


def test_an_answer_of_the_maximum_size_is_printed(node: Node) -> None:
    with AgentStub(node.socket, Recorder(encode_answer(Reply(0, b"x" * ANSWER_MAX)))):
        assert node.call("ADD").stdout == b"x" * ANSWER_MAX


def test_the_request_contains_cni_variables_stdin_and_start_time(node: Node, build: Path) -> None:
    recorder = Recorder()
    others = {"CNI_OTHER": "x", "LD_LIBRARY_PATH": "/x", "SECRET": "x", "KUBECONFIG": "/x"}
    variables = {"CNI_COMMAND": "ADD", **ATTACHMENT, "CNI_ARGS": "A=1;B=2", "CNI_PATH": "/a:/b"}
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    if build.name == STAND_IN:  # the Python client reads its start time from the kernel, rounded down to ticks
        before -= 2 / os.sysconf("SC_CLK_TCK")
    with AgentStub(node.socket, recorder):
        node.call("ADD", b'{"name": "net"}', CNI_ARGS="A=1;B=2", CNI_PATH="/a:/b", **others)
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    [request] = recorder.requests
    assert set(variables) == set(VARIABLES)
    assert (request.variables, request.stdin) == (variables, b'{"name": "net"}')
    assert before <= request.began <= after
    [frame] = recorder.frames
    expected = encode_request(Request(variables, b'{"name": "net"}', request.began))
    assert frame[: BEGAN.start] + frame[BEGAN.stop :] == expected[: BEGAN.start] + expected[BEGAN.stop :]


def test_the_request_contains_empty_variables_and_omits_missing_ones(node: Node) -> None:
    recorder = Recorder()
    with AgentStub(node.socket, recorder):
        node.call("STATUS", CNI_NETNS="", CNI_CONTAINERID=None, CNI_IFNAME=None)
    assert recorder.requests[0].variables == {"CNI_COMMAND": "STATUS", "CNI_NETNS": ""}


def test_the_request_preserves_bytes_that_are_not_utf_8(node: Node) -> None:
    recorder = Recorder()
    with AgentStub(node.socket, recorder):
        node.call("ADD", b"\xff\x00", CNI_ARGS="A=\udcff;B=ü")
    assert recorder.requests[0].variables["CNI_ARGS"] == "A=\udcff;B=ü"
    assert recorder.requests[0].stdin == b"\xff\x00"


def test_a_variable_and_stdin_of_the_maximum_size_are_sent(node: Node) -> None:
    recorder = Recorder()
    args = "x" * (VARIABLE_MAX - len("CNI_ARGS="))
    with AgentStub(node.socket, recorder):
        assert node.call("ADD", b"x" * STDIN_MAX, CNI_ARGS=args).status == 0
    assert recorder.requests[0].stdin == b"x" * STDIN_MAX
    assert recorder.requests[0].variables["CNI_ARGS"] == args


# Calls that do not reach the agent


@pytest.mark.parametrize("command", ["ADD", "DEL", "VERSION"])
def test_a_variable_that_is_too_long_is_code_4(command: str, node: Node) -> None:
    with AgentStub(node.socket, Recorder()) as agent:
        done = node.call(command, CNI_ARGS="x" * (VARIABLE_MAX - len("CNI_ARGS=") + 1))
    assert done.code == 4
    assert done.message == f"cannot read CNI_ARGS: it is longer than {VARIABLE_MAX} bytes"
    assert agent.calls == 0


@pytest.mark.parametrize("command", ["ADD", "DEL", "VERSION"])
@pytest.mark.parametrize("more", [1, 100_000])
def test_stdin_that_is_too_long_is_code_6(command: str, more: int, node: Node) -> None:
    with AgentStub(node.socket, Recorder()) as agent:
        done = node.call(command, b"x" * (STDIN_MAX + more))
    assert done.code == 6
    assert done.message == f"cannot read the network configuration: it is longer than {STDIN_MAX} bytes"
    assert agent.calls == 0
    assert node.spooled() == []


@pytest.mark.parametrize("command", [None, "", "add", "ADDED", "AD", "\udcff\n"])
def test_a_missing_or_unknown_command_is_code_4(command: str | None, node: Node) -> None:
    node.add_fallback("#!/bin/sh\necho fallback\n")
    with AgentStub(node.socket, Recorder()) as agent:
        done = node.call(command)
    assert done.code == 4
    assert "CNI_COMMAND" in done.message
    assert agent.calls == 0
    if not command:
        with pytest.raises(InvalidEnvironmentError) as raised:
            read_arguments({})
        assert done.message == str(raised.value)


# Unusual behaviour of the runtime and of the agent


@pytest.mark.parametrize("redirection", ["<&-", "<&- 2>&-", "</dev/null"])
def test_a_closed_stdin_is_sent_as_empty(redirection: str, node: Node) -> None:
    recorder = Recorder(encode_answer(Reply(0, b"done\n")))
    with AgentStub(node.socket, recorder):
        node.before = ("sh", "-c", f'exec "$0" {redirection}')
        assert node.call("ADD").stdout == b"done\n"
    assert recorder.requests[0].stdin == b""


def test_stdin_is_not_read_from_a_terminal(node: Node) -> None:
    ours, terminal = os.openpty()
    recorder = Recorder(encode_answer(Reply(0, b"done")))
    try:
        with AgentStub(node.socket, recorder):
            done = subprocess.run(
                [node.shim], env=node.environment("ADD"), stdin=terminal, capture_output=True, check=False, timeout=30
            )
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.stdout == b"done"
    assert recorder.requests[0].stdin == b""


def test_a_broken_stdout_pipe_fails_the_call_and_a_closed_stdout_does_not(node: Node) -> None:
    received = []

    def serve(connection: socket.socket) -> None:
        receive_request(connection)
        connection.sendall(encode_answer(Reply(0, b"done")))
        received.append(connection.recv(100))

    with AgentStub(node.socket, serve):
        node.before = ("sh", "-c", 'exec "$0" >&-')
        assert node.call("ADD").status == 0  # as with /dev/null: the caller does not want the answer
        node.before = ()
        process = node.start("ADD")
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        done = finish_call(process)
    assert done.status == 1
    assert b"cannot write the answer: Broken pipe" in done.stderr
    assert received == [b"", b""]


def test_non_blocking_descriptors_are_read_and_written(node: Node) -> None:
    stdin, into_stdin = os.pipe()
    from_stdout, stdout = os.pipe()
    os.set_blocking(stdin, False)
    os.set_blocking(stdout, False)
    recorder = Recorder(encode_answer(Reply(0, b"x" * 1_000_000)))
    with AgentStub(node.socket, recorder):
        process = subprocess.Popen([node.shim], env=node.environment("ADD"), stdin=stdin, stdout=stdout)
        os.close(stdin)
        os.close(stdout)
        time.sleep(0.05)  # so that stdin is empty at first, and the stdout pipe is full later
        os.write(into_stdin, b"{}")
        os.close(into_stdin)
        time.sleep(0.05)
        with os.fdopen(from_stdout, "rb") as written:
            assert written.read() == b"x" * 1_000_000
        assert process.wait(30) == 0
    assert recorder.requests[0].stdin == b"{}"


def test_a_call_survives_sigstop_and_sigcont(node: Node) -> None:
    has_called, may_answer = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        receive_request(connection)
        has_called.set()
        may_answer.wait(10)
        connection.sendall(encode_answer(Reply(0, b"done")))

    with AgentStub(node.socket, serve):
        process = node.start("ADD")
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        has_called.wait(10)
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGCONT)
        may_answer.set()
        assert finish_call(process).stdout == b"done"


def test_an_answer_before_the_end_of_the_request_is_printed(node: Node) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(encode_answer(Reply(1, b"no")))

    with AgentStub(node.socket, serve):
        done = node.call("ADD", b"x" * STDIN_MAX)
    assert (done.status, done.stdout) == (1, b"no")


def test_an_answer_in_single_bytes_is_printed(node: Node) -> None:
    def serve(connection: socket.socket) -> None:
        receive_request(connection)
        for byte in encode_answer(Reply(3, b"done")):
            connection.sendall(bytes([byte]))
            time.sleep(0.001)

    with AgentStub(node.socket, serve):
        done = node.call("ADD")
    assert (done.status, done.stdout) == (3, b"done")


def test_concurrent_calls_all_reach_the_agent(node: Node) -> None:
    recorder = Recorder()
    with AgentStub(node.socket, recorder):
        processes = [node.start("ADD", CNI_CONTAINERID=f"c{number}") for number in range(20)]
        assert {finish_call(process, b"{}").status for process in processes} == {0}
    assert {request.variables["CNI_CONTAINERID"] for request in recorder.requests} == {f"c{n}" for n in range(20)}
