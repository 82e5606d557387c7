"""The shim as it is shipped under valgrind: nothing is read that was not written, on any of the main paths."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

import pytest

from ratchet.agent.frame import Reply, encode_answer
from tests.shim.playing import Agent, Done, Node, Recorder

VALGRIND = ("valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full")


@pytest.fixture
def watched(plain_node: Node) -> Node:
    if shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    plain_node.before = VALGRIND
    return plain_node


def served(node: Node) -> Done:
    with Agent(node.socket, Recorder(encode_answer(Reply(0, b"done")))):
        return node.call("ADD", b"x" * 10_000)


def cut_short(node: Node) -> Done:
    with Agent(node.socket, Recorder(encode_answer(Reply(0, b"done"))[:-1])):
        return node.call("ADD")


def unreachable(node: Node) -> Done:
    return node.call("ADD")


def kept(node: Node) -> Done:
    return node.call("DEL")


def versions(node: Node) -> Done:
    return node.call("VERSION")


def taken_over(node: Node) -> Done:
    node.add_fallback("#!/bin/sh\nexec cat\n")
    return node.call("ADD")


@pytest.mark.parametrize(
    ("path", "status"), [(served, 0), (cut_short, 1), (unreachable, 1), (kept, 0), (versions, 0), (taken_over, 0)]
)
def test_valgrind_has_nothing_to_say(path: Callable[[Node], Done], status: int, watched: Node) -> None:
    done = path(watched)
    assert done.status == status
    assert b"==" not in done.stderr


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_shim_ends(watched: Node) -> None:
    watched.before = (*VALGRIND, "--trace-syscalls=yes")
    traced = watched.call("DEL").stderr.decode(errors="replace")
    [flags] = re.findall(r"sys_openat \( \d+, \w+\(\.[0-9a-f.]+\), (\d+), 384 \)", traced)
    wanted = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    assert int(flags) & wanted == wanted
    after = traced[traced.index(f", {flags}, 384 )") :]
    calls = re.findall(r"sys_(write|fsync|rename)\w* \( (\d+)", after)
    file, folder = calls[0][1], calls[2][1]
    assert calls[:4] == [("write", file), ("fsync", file), ("rename", folder), ("fsync", folder)]
