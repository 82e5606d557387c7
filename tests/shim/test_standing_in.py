"""The Python client that replaces the shim, without a working agent: the same answers, but no spool."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time

import pytest

from ratchet.agent.frame import STDIN_MAX, Reply, encode_answer
from ratchet.cni.versions import LATEST, SUPPORTED
from tests.shim.playing import (
    COMMANDS,
    AgentStub,
    Node,
    Recorder,
    ServeConnection,
    close_all,
    fill_accept_queue,
    finish_call,
    receive_request,
    withhold_answer,
)

CODES = {"ADD": 11, "DEL": 11, "CHECK": 11, "GC": 11, "STATUS": 50}
NOT_SPOOLED = "; the DEL is not kept for it, which needs the shim"
ECHO = "#!/bin/sh\nprintf 'fallback %s ' \"$CNI_COMMAND\"\ncat\nexit 7\n"


def assert_result(node: Node, command: str, cause: str) -> None:
    done = node.call(command)
    if command == "VERSION":
        assert (done.status, done.json) == (0, {"cniVersion": LATEST, "supportedVersions": list(SUPPORTED)})
    else:
        assert done.code == CODES[command]
        assert done.message == cause + (NOT_SPOOLED if command == "DEL" else "")
        assert "ss -xl | grep ratchet" in done.json["details"]
    assert done.stderr == b""
    assert node.spooled() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_reports_an_unreachable_agent(command: str, stand_in_node: Node) -> None:
    cause = f"cannot reach the node agent at {stand_in_node.socket}: No such file or directory"
    assert_result(stand_in_node, command, cause)


def test_a_socket_path_that_is_too_long_is_reported(stand_in_node: Node) -> None:
    path = f"/{'x' * 200}"
    assert stand_in_node.call("ADD", RATCHET_AGENT_SOCKET=path).message.startswith(
        f"cannot reach the node agent at {path}"
    )


def test_a_call_waits_for_a_free_place_in_the_accept_queue(stand_in_node: Node) -> None:
    listener, waiting = fill_accept_queue(stand_in_node.socket)
    try:
        process = stand_in_node.start("ADD")
        for _ in waiting:
            listener.accept()[0].close()
        listener.settimeout(20)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        with listener.accept()[0] as connection:
            Recorder(encode_answer(Reply(0, b"done")))(connection)
        assert finish_call(process).stdout == b"done"
    finally:
        close_all([listener, *waiting])


def close_at_once(connection: socket.socket) -> None:
    """Close without reading the request."""


def close_after_request(connection: socket.socket) -> None:
    receive_request(connection)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("serve", [close_at_once, close_after_request])
def test_the_fallback_does_not_run_if_the_agent_disconnects(
    command: str, serve: ServeConnection, stand_in_node: Node
) -> None:
    stand_in_node.add_fallback("#!/bin/sh\necho the fallback ran\nexit 9\n")
    disconnected = (
        f"cannot get an answer from the node agent at {stand_in_node.socket}: it went away before it had answered"
    )
    with AgentStub(stand_in_node.socket, serve):
        assert_result(stand_in_node, command, disconnected)


def test_an_invalid_answer_is_an_error_and_version_needs_no_answer(stand_in_node: Node) -> None:
    with AgentStub(stand_in_node.socket, Recorder(b"HTTP/1.1 400 Bad Request\r\n\r\n")):
        assert "it begins with b'HTTP', expected b'RTCH'" in stand_in_node.call("ADD").message
    with AgentStub(stand_in_node.socket, withhold_answer):
        began = time.monotonic()
        assert stand_in_node.call("VERSION").status == 0  # its timeout is two seconds
        assert time.monotonic() - began > 1.5


@pytest.mark.parametrize("command", COMMANDS)
def test_the_daemonless_plugin_takes_over(command: str, stand_in_node: Node) -> None:
    stand_in_node.add_fallback(ECHO)
    done = stand_in_node.call(command, b'{"name": "net"}')
    assert (done.status, done.stdout, done.stderr) == (7, f'fallback {command} {{"name": "net"}}'.encode(), b"")


def test_the_daemonless_plugin_gets_the_whole_environment_and_stdin(stand_in_node: Node) -> None:
    script = "unset LC_CTYPE\nenv | sort\ngrep SigIgn /proc/self/status\nls /proc/self/fd | wc -l\nexec cat\n"
    stand_in_node.add_fallback(f"#!/bin/sh\n{script}")
    # LC_CTYPE is left out: Python sets it when it starts in the C locale (PEP 538), as the daemonless plugin does.
    stdin = b"\n" + os.urandom(STDIN_MAX - 1)
    via_client = stand_in_node.call("ADD", stdin, OTHER="other", CNI_ARGS="A=\udcff")
    stand_in_node.shim = stand_in_node.fallback
    direct = stand_in_node.call("ADD", stdin, OTHER="other", CNI_ARGS="A=\udcff")
    assert b"OTHER=other" in via_client.stdout
    assert via_client.stdout.endswith(stdin)
    assert via_client.stdout == direct.stdout


def test_the_daemonless_plugin_is_found_through_a_symlink_to_the_client(stand_in_node: Node) -> None:
    stand_in_node.add_fallback(ECHO)
    link = stand_in_node.folder / "elsewhere"
    link.symlink_to(stand_in_node.shim)
    stand_in_node.shim = link
    assert stand_in_node.call("ADD").stdout == b"fallback ADD {}"


def test_a_fallback_that_fails_to_start_is_reported(stand_in_node: Node) -> None:
    stand_in_node.add_fallback("#!/gone/python -I\n")
    unreachable = f"cannot reach the node agent at {stand_in_node.socket}: No such file or directory"
    assert_result(
        stand_in_node, "DEL", f"{unreachable}; cannot run {stand_in_node.fallback}: No such file or directory"
    )
    stand_in_node.fallback.chmod(0o644)
    assert_result(stand_in_node, "ADD", unreachable)


def test_the_client_imports_no_large_modules(stand_in_node: Node) -> None:
    list_modules = "import json, sys, ratchet.agent.client; print(json.dumps(list(sys.modules)))"
    python = stand_in_node.shim.read_text().splitlines()[0].removeprefix("#!").removesuffix(" -I")
    printed = subprocess.run([python, "-I", "-c", list_modules], check=True, capture_output=True, text=True).stdout
    assert not {"kubernetes", "pyroute2", "logging", "urllib3", "ssl"} & set(json.loads(printed))
