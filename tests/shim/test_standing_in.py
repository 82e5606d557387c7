"""What stands in for the shim, where no agent takes the call: the same answers, but that no DEL is kept."""

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
    Agent,
    Node,
    Recorder,
    Serve,
    closed,
    filled,
    finished,
    taken,
    until_it_hangs_up,
)

CODES = {"ADD": 11, "DEL": 11, "CHECK": 11, "GC": 11, "STATUS": 50}
NOT_KEPT = "; the DEL is not kept for it, which needs the shim"
ECHO = "#!/bin/sh\nprintf 'fallback %s ' \"$CNI_COMMAND\"\ncat\nexit 7\n"


def expect_what_it_comes_to(node: Node, command: str, why: str) -> None:
    done = node.call(command)
    if command == "VERSION":
        assert (done.status, done.json) == (0, {"cniVersion": LATEST, "supportedVersions": list(SUPPORTED)})
    else:
        assert done.code == CODES[command]
        assert done.message == why + (NOT_KEPT if command == "DEL" else "")
        assert "ss -xl | grep ratchet" in done.json["details"]
    assert done.stderr == b""
    assert node.kept() == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_agent_that_is_not_there(command: str, stand_in_node: Node) -> None:
    why = f"cannot reach the node agent at {stand_in_node.socket}: No such file or directory"
    expect_what_it_comes_to(stand_in_node, command, why)


def test_a_path_that_is_too_long_for_a_socket(stand_in_node: Node) -> None:
    path = f"/{'x' * 200}"
    assert stand_in_node.call("ADD", RATCHET_AGENT_SOCKET=path).message.startswith(
        f"cannot reach the node agent at {path}"
    )


def test_a_queue_in_which_a_place_comes_free(stand_in_node: Node) -> None:
    listener, waiting = filled(stand_in_node.socket)
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
        assert finished(process).stdout == b"done"
    finally:
        closed([listener, *waiting])


def hangs_up_at_once(connection: socket.socket) -> None:
    """Without a look at the request."""


def hangs_up_when_it_has_read(connection: socket.socket) -> None:
    taken(connection)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("serve", [hangs_up_at_once, hangs_up_when_it_has_read])
def test_an_agent_that_goes_away_is_not_followed_by_a_second_engine(
    command: str, serve: Serve, stand_in_node: Node
) -> None:
    stand_in_node.add_fallback("#!/bin/sh\necho the fallback ran\nexit 9\n")
    away = f"cannot get an answer from the node agent at {stand_in_node.socket}: it went away before it had answered"
    with Agent(stand_in_node.socket, serve):
        expect_what_it_comes_to(stand_in_node, command, away)


def test_what_is_no_answer_and_one_that_does_not_come(stand_in_node: Node) -> None:
    with Agent(stand_in_node.socket, Recorder(b"HTTP/1.1 400 Bad Request\r\n\r\n")):
        assert "it begins with b'HTTP', expected b'RTCH'" in stand_in_node.call("ADD").message
    with Agent(stand_in_node.socket, until_it_hangs_up):
        began = time.monotonic()
        assert stand_in_node.call("VERSION").status == 0  # which has two seconds
        assert time.monotonic() - began > 1.5


@pytest.mark.parametrize("command", COMMANDS)
def test_the_daemonless_plugin_takes_over(command: str, stand_in_node: Node) -> None:
    stand_in_node.add_fallback(ECHO)
    done = stand_in_node.call(command, b'{"name": "net"}')
    assert (done.status, done.stdout, done.stderr) == (7, f'fallback {command} {{"name": "net"}}'.encode(), b"")


def test_it_gets_the_whole_environment_and_stdin_from_the_beginning(stand_in_node: Node) -> None:
    look = "unset LC_CTYPE\nenv | sort\ngrep SigIgn /proc/self/status\nls /proc/self/fd | wc -l\nexec cat\n"
    stand_in_node.add_fallback(f"#!/bin/sh\n{look}")
    # But for LC_CTYPE, which Python sets as it starts in the C locale (PEP 538); so does the daemonless plugin.
    stdin = b"\n" + os.urandom(STDIN_MAX - 1)
    through = stand_in_node.call("ADD", stdin, OTHER="other", CNI_ARGS="A=\udcff")
    stand_in_node.shim = stand_in_node.fallback
    directly = stand_in_node.call("ADD", stdin, OTHER="other", CNI_ARGS="A=\udcff")
    assert b"OTHER=other" in through.stdout
    assert through.stdout.endswith(stdin)
    assert through.stdout == directly.stdout


def test_it_is_found_beside_the_executable_itself(stand_in_node: Node) -> None:
    stand_in_node.add_fallback(ECHO)
    link = stand_in_node.folder / "elsewhere"
    link.symlink_to(stand_in_node.shim)
    stand_in_node.shim = link
    assert stand_in_node.call("ADD").stdout == b"fallback ADD {}"


def test_what_does_not_start_is_told(stand_in_node: Node) -> None:
    stand_in_node.add_fallback("#!/gone/python -I\n")
    unreachable = f"cannot reach the node agent at {stand_in_node.socket}: No such file or directory"
    expect_what_it_comes_to(
        stand_in_node, "DEL", f"{unreachable}; cannot run {stand_in_node.fallback}: No such file or directory"
    )
    stand_in_node.fallback.chmod(0o644)
    expect_what_it_comes_to(stand_in_node, "ADD", unreachable)


def test_it_starts_without_what_is_large(stand_in_node: Node) -> None:
    loaded = "import json, sys, ratchet.agent.client; print(json.dumps(list(sys.modules)))"
    python = stand_in_node.shim.read_text().splitlines()[0].removeprefix("#!").removesuffix(" -I")
    printed = subprocess.run([python, "-I", "-c", loaded], check=True, capture_output=True, text=True).stdout
    assert not {"kubernetes", "pyroute2", "logging", "urllib3", "ssl"} & set(json.loads(printed))
