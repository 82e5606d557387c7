"""The shipped shim under valgrind: no main path reads uninitialised memory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

import pytest

from ratchet.agent.frame import Reply, encode_answer
from tests.shim.playing import AgentStub, CallResult, Node, Recorder
from tests.support.namespaces import may_make_namespaces

VALGRIND = ("valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full")


@pytest.fixture
def watched(plain_node: Node) -> Node:
    if shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    plain_node.before = VALGRIND
    return plain_node


def answered(node: Node) -> CallResult:
    with AgentStub(node.socket, Recorder(encode_answer(Reply(0, b"done")))):
        return node.call("ADD", b"x" * 10_000)


def truncated_answer(node: Node) -> CallResult:
    with AgentStub(node.socket, Recorder(encode_answer(Reply(0, b"done"))[:-1])):
        return node.call("ADD")


def unreachable(node: Node) -> CallResult:
    return node.call("ADD")


def spooled(node: Node) -> CallResult:
    return node.call("DEL")


def version(node: Node) -> CallResult:
    return node.call("VERSION")


def fallback(node: Node) -> CallResult:
    node.add_fallback("#!/bin/sh\nexec cat\n")
    return node.call("ADD")


def panel_made(node: Node) -> CallResult:
    """Make the panel in a mount namespace of the call's own, so that no mount is left."""
    node.before = ("unshare", "--mount", *VALGRIND)
    node.settings["RATCHET_PANEL"] = str(node.folder / "run" / "panel")
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    return node.call("DEL")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (answered, 0),
        (truncated_answer, 1),
        (unreachable, 1),
        (spooled, 0),
        (version, 0),
        (fallback, 0),
        (panel_made, 0),
    ],
)
def test_valgrind_reports_no_error(path: Callable[[Node], CallResult], status: int, watched: Node) -> None:
    done = path(watched)
    assert done.status == status
    assert b"==" not in done.stderr


def test_a_spool_file_is_synced_before_its_rename_and_the_directory_after(watched: Node) -> None:
    watched.before = (*VALGRIND, "--trace-syscalls=yes")
    traced = watched.call("DEL").stderr.decode(errors="replace")
    [flags] = re.findall(r"sys_openat \( \d+, \w+\(\.[0-9a-f.]+\), (\d+), 384 \)", traced)
    required = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    assert int(flags) & required == required
    after = traced[traced.index(f", {flags}, 384 )") :]
    calls = re.findall(r"sys_(write|fsync|rename)\w* \( (\d+)", after)
    file, folder = calls[0][1], calls[2][1]
    assert calls[:4] == [("write", file), ("fsync", file), ("rename", folder), ("fsync", folder)]
