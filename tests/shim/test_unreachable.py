"""No agent to be reached: the daemonless plugin where it is installed, else what each command has for it."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.agent.frame import STDIN_MAX, Reply, encode_answer
from ratchet.cni.versions import LATEST, SUPPORTED
from ratchet.install import FALLBACK, install
from tests.shim.playing import COMMANDS, Node, Recorder, closed, filled, finished

TOO_LONG = os.strerror(errno.ENAMETOOLONG)  # each C library has words of its own
TRY_AGAIN = {"ADD": 11, "CHECK": 11, "GC": 11, "STATUS": 50}
ECHO = "#!/bin/sh\nprintf 'fallback %s ' \"$CNI_COMMAND\"\ncat\nexit 7\n"


def nothing(path: Path) -> None:
    """No file at all."""


def a_file(path: Path) -> None:
    path.write_text("")


def a_socket_that_nobody_serves(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))


def a_socket_of_another_kind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))


CAUSES: dict[Callable[[Path], None], str] = {
    nothing: "No such file or directory",
    a_file: "Connection refused",
    a_socket_that_nobody_serves: "Connection refused",
    a_socket_of_another_kind: "Connection refused",
}


@pytest.fixture(params=CAUSES, ids=lambda cause: cause.__name__)
def cause(request: pytest.FixtureRequest, node: Node) -> str:
    request.param(node.socket)
    return CAUSES[request.param]


# Without the daemonless plugin


@pytest.mark.parametrize("command", TRY_AGAIN)
def test_a_command_that_needs_the_agent_says_that_it_is_not_there(command: str, cause: str, node: Node) -> None:
    done = node.call(command)
    assert done.code == TRY_AGAIN[command]
    assert done.message == f"cannot reach the node agent at {node.socket}: {cause}"
    assert "kubectl -n ratchet get pods -o wide" in done.json["details"]
    assert "ss -xl | grep ratchet" in done.json["details"]
    assert done.json["cniVersion"] == LATEST
    assert done.stderr == b""
    assert node.kept() == []


def test_a_delete_is_kept(cause: str, node: Node) -> None:
    done = node.call("DEL")
    assert (done.status, done.stdout) == (0, b"")
    told = f"ratchet: cannot reach the node agent at {node.socket}: {cause}; the DEL is kept until it is back\n"
    assert done.stderr.decode() == told
    assert len(node.kept()) == 1


def test_the_versions_need_no_agent(cause: str, node: Node) -> None:
    done = node.call("VERSION", b"")
    assert (done.status, done.stderr) == (0, b"")
    assert done.json == {"cniVersion": LATEST, "supportedVersions": list(SUPPORTED)}


def test_a_path_that_is_too_long_for_a_socket(node: Node) -> None:
    path = f"/{'x' * 500}"
    done = node.call("ADD", RATCHET_AGENT_SOCKET=path)
    assert done.message == f"cannot reach the node agent at {path[:256]}...: {TOO_LONG}"
    assert node.call("ADD", RATCHET_AGENT_SOCKET=f"/{'x' * 107}").message.endswith(f": {TOO_LONG}")
    assert node.call("ADD", RATCHET_AGENT_SOCKET=f"/{'x' * 106}").message.endswith(": No such file or directory")


def test_what_a_message_shows_is_escaped(node: Node) -> None:
    done = node.call("ADD", RATCHET_AGENT_SOCKET='/a"b\\c\n\x1b\x7f\udcff\t</x')
    assert done.message == 'cannot reach the node agent at /a"b\\c\n\x1b��\t</x: No such file or directory'
    done = node.call("DEL", RATCHET_AGENT_SOCKET="/a\n\x1bb")
    assert done.stderr.startswith(b"ratchet: cannot reach the node agent at /a\\u000a\\u001bb: ")
    assert done.stderr.count(b"\n") == 1


def test_the_paths_are_those_of_the_agent_where_nothing_else_is_said(node: Node) -> None:
    message = node.call("ADD", RATCHET_AGENT_SOCKET=None).message
    assert message.startswith("cannot reach the node agent at /run/ratchet/agent.sock: ") or "get an answer" in message
    assert node.call("ADD", RATCHET_AGENT_SOCKET="").message == message


# A queue that is full


def test_a_queue_that_stays_full_is_an_agent_that_is_not_reached(hasty_node: Node) -> None:
    listener, waiting = filled(hasty_node.socket)
    try:
        waits = []
        for _ in range(3):
            began = time.monotonic()
            done = hasty_node.call("ADD")
            waits.append(time.monotonic() - began)
        assert hasty_node.call("DEL").status == 0
        hasty_node.add_fallback(ECHO)
        assert hasty_node.call("ADD").stdout == b"fallback ADD {}"
    finally:
        closed([listener, *waiting])
    assert done.code == 11
    assert done.message.endswith("too many calls wait for it already")
    assert min(waits) >= 0.15  # seconds for which the shim tries to connect


def test_a_queue_in_which_a_place_comes_free(node: Node) -> None:
    listener, waiting = filled(node.socket)
    try:
        process = node.start("ADD")
        for _ in waiting:
            listener.accept()[0].close()
        recorder = Recorder(encode_answer(Reply(0, b"done")))
        listener.settimeout(20)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        with listener.accept()[0] as connection:
            recorder(connection)
        assert finished(process).stdout == b"done"
    finally:
        closed([listener, *waiting])


# With it


@pytest.mark.parametrize("command", COMMANDS)
def test_the_daemonless_plugin_takes_over(command: str, cause: str, node: Node) -> None:
    node.add_fallback(ECHO)
    done = node.call(command, b'{"name": "net"}')
    assert (done.status, done.stdout, done.stderr) == (7, f'fallback {command} {{"name": "net"}}'.encode(), b"")
    assert node.kept() == []


def test_it_gets_the_whole_environment_and_what_else_a_process_has(node: Node) -> None:
    look = "env\ngrep -E 'SigIgn|SigBlk|SigCgt' /proc/self/status\nls /proc/self/fd | wc -l\npwd\n"
    node.add_fallback(f"#!/bin/sh\n{look}")
    through = node.call("ADD", OTHER="other", CNI_ARGS="A=\udcff")
    node.shim = node.fallback
    directly = node.call("ADD", OTHER="other", CNI_ARGS="A=\udcff")
    assert sorted(through.stdout.splitlines()) == sorted(directly.stdout.splitlines())
    assert b"OTHER=other" in through.stdout


@pytest.mark.parametrize("length", [0, 1, 70_000, STDIN_MAX])
def test_it_gets_stdin_from_the_beginning(length: int, node: Node) -> None:
    node.add_fallback("#!/bin/sh\nexec cat\n")
    stdin = os.urandom(length // 2 + 1)[:length] * 2
    assert node.call("ADD", stdin[:length]).stdout == stdin[:length]


def test_it_is_found_beside_the_executable_itself(node: Node) -> None:
    node.add_fallback(ECHO)
    link = node.folder / "elsewhere"
    link.symlink_to(node.shim)
    node.shim = link
    assert node.fallback.parent != node.folder / "bin"
    assert node.call("ADD").stdout == b"fallback ADD {}"


def test_it_is_found_when_an_upgrade_has_replaced_the_shim_meanwhile(node: Node) -> None:
    node.add_fallback(ECHO)
    process = node.start("ADD")
    (node.folder / "new").write_text("")
    (node.folder / "new").rename(node.shim)
    assert finished(process, b"{}").stdout == b"fallback ADD {}"


def not_executable(node: Node) -> None:
    node.add_fallback(ECHO, mode=0o644)


def a_folder(node: Node) -> None:
    node.fallback.mkdir()


def a_dangling_link(node: Node) -> None:
    node.fallback.symlink_to(node.folder / "gone")


@pytest.mark.parametrize("spoil", [not_executable, a_folder, a_dangling_link])
def test_what_cannot_be_executed_is_as_nothing(spoil: Callable[[Node], None], node: Node) -> None:
    spoil(node)
    assert node.call("ADD").message == f"cannot reach the node agent at {node.socket}: No such file or directory"
    assert node.call("DEL").status == 0


def test_what_does_not_start_is_told_and_the_call_comes_to_what_it_would_without(node: Node) -> None:
    node.add_fallback("#!/gone/python -I\n")
    done = node.call("ADD")
    assert done.code == 11
    assert done.message == (
        f"cannot reach the node agent at {node.socket}: No such file or directory; "
        f"cannot run {node.fallback}: No such file or directory"
    )
    assert node.call("STATUS").code == 50
    assert node.call("VERSION").status == 0
    assert node.call("DEL", b'{"name": "net"}').status == 0
    assert node.kept()[0].read_bytes().endswith(b'{"name": "net"}')


def test_what_does_not_start_leaves_the_shim_deaf_to_broken_pipes(node: Node) -> None:
    node.add_fallback("#!/gone/python -I\n")
    read_end, broken = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [node.shim], env=node.environment("DEL"), stdin=subprocess.DEVNULL, stderr=broken, check=False, timeout=30
        )
    finally:
        os.close(broken)
    assert done.returncode == 0
    assert len(node.kept()) == 1


def test_the_plugin_itself(plain_node: Node) -> None:
    install(plain_node.folder / "installed")
    (plain_node.folder / "installed" / "ratchet").rename(plain_node.shim.parent / FALLBACK)
    asked = {"cniVersion": "0.4.0", "name": "net", "type": "ratchet"}
    done = plain_node.call("VERSION", json.dumps(asked).encode())
    assert (done.status, done.json["cniVersion"]) == (0, "0.4.0")
    asked["cniVersion"] = "9.9.9"
    assert plain_node.call("ADD", json.dumps(asked).encode()).code == 1
    assert sys.executable in plain_node.fallback.read_text()


def test_stdin_that_cannot_be_read(node: Node) -> None:
    """A folder. Python, which the stand-in is written in, does not start on one."""
    folder = os.open(node.folder, os.O_RDONLY)
    try:
        done = subprocess.run(
            [node.shim], env=node.environment("ADD"), stdin=folder, capture_output=True, check=False, timeout=30
        )
    finally:
        os.close(folder)
    assert b'"code": 5, "msg": "cannot read the network configuration: Is a directory"' in done.stdout
