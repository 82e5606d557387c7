"""Unreachable agents: the daemonless plugin takes over, or each command fails in its own way."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.agent.frame import SOCKET, STDIN_MAX, Reply, encode_answer
from ratchet.cni.versions import LATEST, SUPPORTED
from ratchet.install import FALLBACK, install
from tests.shim.playing import COMMANDS, Node, Recorder, close_all, fill_accept_queue, finish_call

TOO_LONG = os.strerror(errno.ENAMETOOLONG)  # the text depends on the C library
CODES = {"ADD": 11, "CHECK": 11, "GC": 11, "STATUS": 50}
ECHO = "#!/bin/sh\nprintf 'fallback %s ' \"$CNI_COMMAND\"\ncat\nexit 7\n"


def no_file(path: Path) -> None:
    """Create nothing at the path."""


def regular_file(path: Path) -> None:
    path.write_text("")


def socket_without_listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))


def datagram_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))


CAUSES: dict[Callable[[Path], None], str] = {
    no_file: "No such file or directory",
    regular_file: "Connection refused",
    socket_without_listener: "Connection refused",
    datagram_socket: "Connection refused",
}


@pytest.fixture(params=CAUSES, ids=lambda cause: cause.__name__)
def cause(request: pytest.FixtureRequest, node: Node) -> str:
    request.param(node.socket)
    return CAUSES[request.param]


# Without the daemonless plugin


@pytest.mark.parametrize("command", CODES)
def test_a_command_that_needs_the_agent_reports_it_unreachable(command: str, cause: str, node: Node) -> None:
    done = node.call(command)
    assert done.code == CODES[command]
    assert done.message == f"cannot reach the node agent at {node.socket}: {cause}"
    assert "kubectl -n ratchet get pods -o wide" in done.json["details"]
    assert "ss -xl | grep ratchet" in done.json["details"]
    assert done.json["cniVersion"] == LATEST
    assert done.stderr == b""
    assert node.spooled() == []


def test_a_del_is_spooled(cause: str, node: Node) -> None:
    done = node.call("DEL")
    assert (done.status, done.stdout) == (0, b"")
    warning = f"ratchet: cannot reach the node agent at {node.socket}: {cause}; the DEL is kept until it is back\n"
    assert done.stderr.decode() == warning
    assert len(node.spooled()) == 1


def test_version_needs_no_agent(cause: str, node: Node) -> None:
    done = node.call("VERSION", b"")
    assert (done.status, done.stderr) == (0, b"")
    assert done.json == {"cniVersion": LATEST, "supportedVersions": list(SUPPORTED)}


def test_a_socket_path_that_is_too_long_is_reported(node: Node) -> None:
    path = f"/{'x' * 500}"
    done = node.call("ADD", RATCHET_AGENT_SOCKET=path)
    assert done.message == f"cannot reach the node agent at {path[:256]}...: {TOO_LONG}"
    assert node.call("ADD", RATCHET_AGENT_SOCKET=f"/{'x' * 107}").message.endswith(f": {TOO_LONG}")
    assert node.call("ADD", RATCHET_AGENT_SOCKET=f"/{'x' * 106}").message.endswith(": No such file or directory")


def test_paths_in_messages_are_escaped(node: Node) -> None:
    done = node.call("ADD", RATCHET_AGENT_SOCKET='/a"b\\c\n\x1b\x7f\udcff\t</x')
    assert done.message == 'cannot reach the node agent at /a"b\\c\n\x1b��\t</x: No such file or directory'
    done = node.call("DEL", RATCHET_AGENT_SOCKET="/a\n\x1bb")
    assert done.stderr.startswith(b"ratchet: cannot reach the node agent at /a\\u000a\\u001bb: ")
    assert done.stderr.count(b"\n") == 1


def test_the_default_socket_path_is_that_of_the_agent(node: Node) -> None:
    """Also if an agent serves that path on this machine and closes the connection."""
    for unset in (None, ""):
        message = node.call("ADD", RATCHET_AGENT_SOCKET=unset).message
        assert re.match(f"cannot (reach|get an answer from) the node agent at {SOCKET}: ", message), message


# Full accept queues


def test_a_full_accept_queue_counts_as_an_unreachable_agent(hasty_node: Node) -> None:
    listener, waiting = fill_accept_queue(hasty_node.socket)
    try:
        durations = []
        for _ in range(3):
            began = time.monotonic()
            done = hasty_node.call("ADD")
            durations.append(time.monotonic() - began)
        assert hasty_node.call("DEL").status == 0
        hasty_node.add_fallback(ECHO)
        assert hasty_node.call("ADD").stdout == b"fallback ADD {}"
    finally:
        close_all([listener, *waiting])
    assert done.code == 11
    assert done.message.endswith("too many calls wait for it already")
    assert min(durations) >= 0.15  # seconds: the shim's timeout to connect


def test_a_call_waits_for_a_free_place_in_the_accept_queue(node: Node) -> None:
    listener, waiting = fill_accept_queue(node.socket)
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
        assert finish_call(process).stdout == b"done"
    finally:
        close_all([listener, *waiting])


# With the daemonless plugin


@pytest.mark.parametrize("command", COMMANDS)
def test_the_daemonless_plugin_takes_over(command: str, cause: str, node: Node) -> None:
    node.add_fallback(ECHO)
    done = node.call(command, b'{"name": "net"}')
    assert (done.status, done.stdout, done.stderr) == (7, f'fallback {command} {{"name": "net"}}'.encode(), b"")
    assert node.spooled() == []


def test_the_daemonless_plugin_inherits_environment_signals_and_descriptors(node: Node) -> None:
    script = "env\ngrep -E 'SigIgn|SigBlk|SigCgt' /proc/self/status\nls /proc/self/fd | wc -l\npwd\n"
    node.add_fallback(f"#!/bin/sh\n{script}")
    via_shim = node.call("ADD", OTHER="other", CNI_ARGS="A=\udcff")
    node.shim = node.fallback
    direct = node.call("ADD", OTHER="other", CNI_ARGS="A=\udcff")
    assert sorted(via_shim.stdout.splitlines()) == sorted(direct.stdout.splitlines())
    assert b"OTHER=other" in via_shim.stdout


@pytest.mark.parametrize("length", [0, 1, 70_000, STDIN_MAX])
def test_the_daemonless_plugin_gets_the_whole_stdin(length: int, node: Node) -> None:
    node.add_fallback("#!/bin/sh\nexec cat\n")
    stdin = os.urandom(length // 2 + 1)[:length] * 2
    assert node.call("ADD", stdin[:length]).stdout == stdin[:length]


def test_the_daemonless_plugin_is_found_through_a_symlink_to_the_shim(node: Node) -> None:
    node.add_fallback(ECHO)
    link = node.folder / "elsewhere"
    link.symlink_to(node.shim)
    node.shim = link
    assert node.fallback.parent != node.folder / "bin"
    assert node.call("ADD").stdout == b"fallback ADD {}"


def test_the_daemonless_plugin_is_found_after_an_upgrade_replaced_the_shim(node: Node) -> None:
    node.add_fallback(ECHO)
    process = node.start("ADD")
    (node.folder / "new").write_text("")
    (node.folder / "new").rename(node.shim)
    assert finish_call(process, b"{}").stdout == b"fallback ADD {}"


def fallback_is_not_executable(node: Node) -> None:
    node.add_fallback(ECHO, mode=0o644)


def fallback_is_a_directory(node: Node) -> None:
    node.fallback.mkdir()


def fallback_is_a_dangling_symlink(node: Node) -> None:
    node.fallback.symlink_to(node.folder / "gone")


@pytest.mark.parametrize("spoil", [fallback_is_not_executable, fallback_is_a_directory, fallback_is_a_dangling_symlink])
def test_a_fallback_that_is_not_executable_is_ignored(spoil: Callable[[Node], None], node: Node) -> None:
    spoil(node)
    assert node.call("ADD").message == f"cannot reach the node agent at {node.socket}: No such file or directory"
    assert node.call("DEL").status == 0


def test_a_fallback_that_fails_to_start_is_reported_and_otherwise_ignored(node: Node) -> None:
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
    assert node.spooled()[0].read_bytes().endswith(b'{"name": "net"}')


def test_the_shim_ignores_sigpipe_after_a_fallback_that_fails_to_start(node: Node) -> None:
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
    assert len(node.spooled()) == 1


def test_the_installed_plugin_works_as_fallback(plain_node: Node) -> None:
    install(plain_node.folder / "installed")
    (plain_node.folder / "installed" / "ratchet").rename(plain_node.shim.parent / FALLBACK)
    config = {"cniVersion": "0.4.0", "name": "net", "type": "ratchet"}
    done = plain_node.call("VERSION", json.dumps(config).encode())
    assert (done.status, done.json["cniVersion"]) == (0, "0.4.0")
    config["cniVersion"] = "9.9.9"
    assert plain_node.call("ADD", json.dumps(config).encode()).code == 1
    assert sys.executable in plain_node.fallback.read_text()


def test_stdin_that_cannot_be_read_is_code_5(node: Node) -> None:
    """Use a directory as stdin. Only for the shim: Python does not start with such a stdin."""
    folder = os.open(node.folder, os.O_RDONLY)
    try:
        done = subprocess.run(
            [node.shim], env=node.environment("ADD"), stdin=folder, capture_output=True, check=False, timeout=30
        )
    finally:
        os.close(folder)
    assert b'"code": 5, "msg": "cannot read the network configuration: Is a directory"' in done.stdout
