"""The patch panel, which the shim makes or restores before it hands a call over."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from ratchet.agent.frame import PanelRequest, Reply, Request, encode_answer, read_any_request
from ratchet.agent.server import Server
from ratchet.core.panel import PANEL_PATH
from ratchet.datapath.identity import netns_cookie
from ratchet.datapath.panel.namespace import ensure_panel, open_panel
from ratchet.dev.testbed import wait_for
from tests.shim.conftest import BOTH, Compiler, install_shim
from tests.shim.playing import COMMANDS, AgentStub, Node, ServeConnection, finish_call
from tests.support.namespaces import may_make_namespaces

MAKING = ("ADD", "DEL", "STATUS")
CALLS = 20
# The children of this process, which include zombies, and the file system and the inode of the panel.
SHOW_PANEL = """#!/bin/sh
read -r children </proc/$$/task/$$/children
echo "$children"
stat -f -c %T "$RATCHET_PANEL"
stat -c %i "$RATCHET_PANEL"
"""
FOREIGN = "it exists and is not a network namespace"

pytestmark = pytest.mark.skipif(not may_make_namespaces(), reason="needs root with CAP_SYS_ADMIN")


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Path]:
    """The path of the panel, in a folder that does not exist. What is mounted there at the end is removed."""
    path = tmp_path / "run" / "netns" / "ratchet"
    yield path
    while _mounts(path):
        subprocess.run(("umount", "-l", str(path)), check=True)


@pytest.fixture(params=BOTH)
def any_node(request: pytest.FixtureRequest, compiler: Compiler, tmp_path: Path) -> Node:
    """A node with the shim, or with the program that replaces it."""
    return install_shim(compiler.shim(request.param), tmp_path)


@pytest.fixture(autouse=True)
def set_up(request: pytest.FixtureRequest, panel: Path) -> None:
    for name in ("node", "any_node", "stand_in_node", "hasty_panel_node"):
        if name in request.fixturenames:
            request.getfixturevalue(name).settings["RATCHET_PANEL"] = str(panel)


def _mounts(path: Path) -> int:
    return sum(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _inside(panel: Path, *command: str) -> str:
    done = subprocess.run(("nsenter", f"--net={panel}", *command), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _unname(panel: Path) -> None:
    """Take the panel's name, as `ip netns del` does."""
    subprocess.run(("umount", "-l", str(panel)), check=True)
    panel.unlink()


def _line(panel: Path, cause: str) -> bytes:
    return f"ratchet: cannot make patch panel {panel}: {cause}\n".encode()


@contextmanager
def _served(request: Request) -> Iterator[Reply]:
    assert request.variables["CNI_COMMAND"] in COMMANDS
    yield Reply(0, b"served")


@contextmanager
def _agent(node: Node, descriptor: int | None = None) -> Iterator[None]:
    """The agent's server, which has a panel open."""
    with Server(str(node.socket), _served, lambda: descriptor) as server:
        server.start()
        yield


def _answering_panel(answer: bytes) -> ServeConnection:
    """An agent that answers the question for the panel with these bytes, and serves calls."""

    def serve(connection: socket.socket) -> None:
        request = read_any_request(connection.recv)
        connection.sendall(answer if isinstance(request, PanelRequest) else encode_answer(Reply(0, b"served")))

    return serve


def _ignore_panel(connection: socket.socket) -> None:
    """An agent that is busy when it is asked for the panel."""
    if isinstance(read_any_request(connection.recv), PanelRequest):
        assert connection.recv(1) == b""
    else:
        connection.sendall(encode_answer(Reply(0, b"served")))


@pytest.mark.parametrize("command", MAKING)
def test_a_missing_panel_is_made_as_the_plugin_makes_it(command: str, any_node: Node, panel: Path) -> None:
    with _agent(any_node):
        done = any_node.call(command)
    assert (done.status, done.stdout, done.stderr) == (0, b"served", b"")
    with open_panel(str(panel)) as made, ensure_panel(str(any_node.spool.parent), str(panel)) as same:
        assert made.cookie == same.cookie
    for scope in ("all", "default", "lo"):
        assert _inside(panel, "cat", f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6") == "1"
    assert _inside(panel, "cat", "/proc/sys/net/ipv4/ip_forward") == "0"
    assert [folder.stat().st_mode & 0o777 for folder in panel.parents[:2]] == [0o755, 0o755]
    assert any_node.spool.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in MAKING])
def test_other_commands_make_no_panel(command: str, any_node: Node, panel: Path) -> None:
    any_node.call(command)
    assert not panel.parent.exists()


def test_an_empty_path_makes_no_panel(any_node: Node, panel: Path) -> None:
    with _agent(any_node):
        done = any_node.call("ADD", RATCHET_PANEL="")
    assert (done.status, done.stdout, done.stderr) == (0, b"served", b"")
    assert not panel.parent.exists()
    assert not Path(PANEL_PATH).exists()


def test_without_the_variable_the_panel_has_the_default_path(any_node: Node) -> None:
    """The call has a /run of its own."""
    script = f'mount -t tmpfs tmpfs /run && "$@" && stat -f -c %T {PANEL_PATH}'
    any_node.before = ("unshare", "--mount", "sh", "-c", script, "sh")
    with _agent(any_node):
        done = any_node.call("ADD", RATCHET_PANEL=None)
    assert (done.status, done.stdout, done.stderr) == (0, b"servednsfs\n", b"")
    assert not Path(PANEL_PATH).exists()


def test_an_existing_panel_stays(any_node: Node, panel: Path) -> None:
    any_node.call("DEL")
    cookie = netns_cookie(str(panel))
    any_node.call("DEL")
    assert (netns_cookie(str(panel)), _mounts(panel)) == (cookie, 1)


def test_the_empty_file_of_a_killed_process_is_mounted_over(any_node: Node, panel: Path) -> None:
    panel.parent.mkdir(parents=True)
    panel.touch(0o444)
    any_node.call("DEL")
    with open_panel(str(panel)):
        assert _mounts(panel) == 1


@pytest.mark.parametrize("kind", ["text", "folder", "symlink", "fifo", "mounted file"])
def test_anything_else_is_left_and_the_call_is_served(kind: str, any_node: Node, panel: Path, tmp_path: Path) -> None:
    panel.parent.mkdir(parents=True)
    match kind:
        case "text":
            panel.write_text("text")
        case "folder":
            panel.mkdir()
        case "symlink":
            panel.symlink_to(tmp_path / "absent")
        case "fifo":
            os.mkfifo(panel)
        case "mounted file":
            panel.touch()
            subprocess.run(("mount", "--bind", "/proc/self/limits", str(panel)), check=True)
    before = os.lstat(panel)
    with _agent(any_node):
        done = any_node.call("ADD")
    assert (done.status, done.stdout, done.stderr) == (0, b"served", _line(panel, FOREIGN))
    assert os.lstat(panel)[:4] == before[:4]
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", ["the node's own", "without the mark"])
def test_a_namespace_is_left_to_the_agent(kind: str, any_node: Node, panel: Path) -> None:
    panel.parent.mkdir(parents=True)
    panel.touch()
    own = ("mount", "--bind", "/proc/self/ns/net", str(panel))
    subprocess.run(own if kind == "the node's own" else ("unshare", "--net", *own), check=True)
    cookie = netns_cookie(str(panel))
    with _agent(any_node):
        done = any_node.call("ADD")
    assert (done.status, done.stdout, done.stderr) == (0, b"served", b"")
    assert (netns_cookie(str(panel)), _mounts(panel)) == (cookie, 1)


def test_shims_that_make_the_panel_at_once_make_one(node: Node, panel: Path) -> None:
    """All of them find no panel and try to get the lock, which the test holds until then."""
    node.spool.parent.mkdir(mode=0o700)
    node.add_fallback(SHOW_PANEL)
    folder = os.open(node.spool.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    started = [node.start("DEL") for _ in range(CALLS)]
    try:
        for one in started:
            assert one.stdin is not None
            one.stdin.close()
            one.stdin = None
        wait_for("all shims", lambda: all(_has_open(one.pid, node.spool.parent) for one in started))
        assert not panel.exists()
    finally:
        os.close(folder)
        done = [finish_call(one) for one in started]
    assert {one.stderr for one in done} == {b""}
    assert {one.stdout for one in done} == {f"\nnsfs\n{panel.stat().st_ino}\n".encode()}
    assert _mounts(panel) == 1


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(one.readlink() == path for one in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # closed meanwhile
        return False


def test_the_daemonless_plugin_finds_a_panel_and_no_child(any_node: Node, panel: Path) -> None:
    any_node.add_fallback(SHOW_PANEL)
    done = any_node.call("ADD")
    assert (done.stdout, done.stderr) == (f"\nnsfs\n{panel.stat().st_ino}\n".encode(), b"")


def test_a_lost_name_is_given_back_with_every_interface(any_node: Node, panel: Path) -> None:
    any_node.call("DEL")
    _inside(panel, "ip", "link", "add", "c1", "type", "veth", "peer", "name", "c2")
    interfaces = _inside(panel, "ip", "-d", "-j", "link")
    with open_panel(str(panel)) as held, _agent(any_node, held.netns.fd):
        _unname(panel)
        done = any_node.call("ADD")
        assert (done.status, done.stdout, done.stderr) == (0, b"served", b"")
        assert netns_cookie(str(panel)) == held.cookie
    assert _inside(panel, "ip", "-d", "-j", "link") == interfaces
    assert '"c1"' in interfaces


def test_a_descriptor_of_something_else_is_not_mounted(node: Node, panel: Path, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, _agent(node, file.fileno()):
        done = node.call("ADD")
    assert (done.status, done.stdout) == (0, b"served")
    assert done.stderr == _line(panel, "cannot enter the panel that the agent has open: Invalid argument")
    assert not panel.exists()


ERROR = encode_answer(Reply(1, b'{"code": 11}'))


@pytest.mark.parametrize("answer", [ERROR, b"", ERROR[:7]], ids=["error", "closed", "closed early"])
def test_an_earlier_agent_has_no_panel_so_one_is_made(answer: bytes, any_node: Node, panel: Path) -> None:
    with AgentStub(any_node.socket, _answering_panel(answer)):
        done = any_node.call("ADD")
    assert (done.status, done.stdout, done.stderr) == (0, b"served", b"")
    with open_panel(str(panel)):
        assert _mounts(panel) == 1


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what came is no frame"),
        (
            ERROR[:4] + b"\2" + ERROR[5:],
            "it speaks another version than this executable: install both from one release",
        ),
    ],
)
def test_after_another_answer_no_panel_is_made(answer: bytes, cause: str, node: Node, panel: Path) -> None:
    with AgentStub(node.socket, _answering_panel(answer)):
        done = node.call("ADD")
    assert (done.status, done.stdout, panel.exists()) == (0, b"served", False)
    assert done.stderr.endswith(f"for the panel that it has open: {cause}\n".encode())


def test_while_the_agent_is_busy_no_second_panel_is_made(hasty_panel_node: Node, panel: Path) -> None:
    with AgentStub(hasty_panel_node.socket, _ignore_panel):
        done = hasty_panel_node.call("ADD")
    assert (done.status, done.stdout, panel.exists()) == (0, b"served", False)
    asked = f"cannot ask the node agent at {hasty_panel_node.socket} for the panel that it has open"
    assert done.stderr == _line(panel, f"{asked}: it did not answer within 200 ms")


def test_the_replacement_makes_no_second_panel_while_the_agent_is_busy(stand_in_node: Node, panel: Path) -> None:
    with AgentStub(stand_in_node.socket, _ignore_panel):
        done = stand_in_node.call("ADD")
    assert (done.status, done.stdout, panel.exists()) == (0, b"served", False)
    asked = f"cannot ask the node agent at {stand_in_node.socket} for the panel that it has open"
    assert done.stderr == _line(panel, f"{asked}: timed out")


def test_a_call_of_the_replacement_without_the_capability_is_served(stand_in_node: Node, panel: Path) -> None:
    stand_in_node.before = ("setpriv", "--bounding-set", "-sys_admin")
    with _agent(stand_in_node):
        done = stand_in_node.call("ADD")
    assert (done.status, done.stdout) == (0, b"served")
    assert done.stderr == _line(panel, "Operation not permitted")
    assert list(panel.parent.iterdir()) == []


def test_the_replacement_reports_a_state_directory_that_cannot_be_made(stand_in_node: Node, panel: Path) -> None:
    with _agent(stand_in_node):
        done = stand_in_node.call("ADD", RATCHET_AGENT_SPOOL="/proc/none/spool")
    assert (done.status, done.stdout) == (0, b"served")
    assert done.stderr == _line(panel, "cannot lock /proc/none: No such file or directory")


def test_a_call_does_not_wait_for_the_lock_for_long(hasty_panel_node: Node, panel: Path) -> None:
    hasty_panel_node.spool.parent.mkdir(mode=0o700)
    folder = os.open(hasty_panel_node.spool.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        began = time.monotonic()
        done = hasty_panel_node.call("DEL")
        assert time.monotonic() - began < 20
    finally:
        os.close(folder)
    assert (done.status, panel.exists()) == (0, False)
    [line, kept] = done.stderr.splitlines(keepends=True)
    assert line == _line(panel, "another process keeps the lock of the state directory")
    assert kept.endswith(b"; the DEL is kept until it is back\n")


def test_a_child_that_takes_too_long_is_killed_and_reaped(compiler: Compiler, panel: Path, tmp_path: Path) -> None:
    node = install_shim(compiler.shim("no time for a panel"), tmp_path)
    node.settings["RATCHET_PANEL"] = str(panel)
    node.add_fallback('#!/bin/sh\nread -r children </proc/$$/task/$$/children\necho "$children"\n')
    done = node.call("ADD")
    assert (done.status, done.stdout) == (0, b"\n")
    assert done.stderr == _line(panel, "the kernel did not make it in time")
    assert panel.exists() == (_mounts(panel) == 1)  # the child may have been faster


@pytest.mark.parametrize("has_agent_panel", [False, True])
def test_a_call_without_the_capability_is_served_and_leaves_no_file(
    has_agent_panel: bool, node: Node, panel: Path
) -> None:
    node.before = ("setpriv", "--bounding-set", "-sys_admin")
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with _agent(node, own if has_agent_panel else None):
            done = node.call("ADD")
    finally:
        os.close(own)
    what = "enter the panel that the agent has open" if has_agent_panel else "create a network namespace"
    assert (done.status, done.stdout) == (0, b"served")
    assert done.stderr == _line(panel, f"cannot {what}: Operation not permitted")
    assert list(panel.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"RATCHET_PANEL": "/proc/none/ratchet"}, "No such file or directory"),
        ({"RATCHET_PANEL": f"/{'x' * 300}"}, "File name too long"),
        ({"RATCHET_PANEL": "/x" * 4000}, "File name too long"),
        ({"RATCHET_AGENT_SPOOL": "/proc/none/spool"}, "cannot lock /proc/none: No such file or directory"),
        ({"RATCHET_AGENT_SPOOL": "/x" * 4000}, "File name too long"),
    ],
)
def test_a_fault_of_the_paths_is_reported(settings: dict[str, str], cause: str, node: Node) -> None:
    with _agent(node):
        done = node.call("ADD", b"{}", **settings)
    assert (done.status, done.stdout) == (0, b"served")
    assert done.stderr.startswith(b"ratchet: cannot make patch panel /")
    assert done.stderr.endswith(f": {cause}\n".encode())


@pytest.mark.parametrize("spool", ["spool", "state/spool/", "state//spool"])
def test_the_lock_is_the_folder_of_the_spool(spool: str, node: Node, panel: Path) -> None:
    held = node.folder if spool == "spool" else node.folder / "state"
    node.before = ("env", "-C", str(node.folder))
    with _agent(node) if spool == "spool" else nullcontext():
        assert node.call("STATUS", RATCHET_AGENT_SPOOL=spool).stderr == b""
    assert held.is_dir()
    assert _mounts(panel) == 1
