"""The testbed of tests and the demo: an agent never outlives the process that started it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.dev.hosts import namespaces_under, remove_namespace
from ratchet.dev.testbed import wait_for
from ratchet.install.plugin import find_shim
from tests.support.namespaces import may_make_namespaces

STARTER = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[2]
from ratchet.dev.testbed import Testbed
with Testbed(prefix=sys.argv[1]) as bed:
    bed.add_node("a", "192.168.1.73/24", {"cniVersion": "1.0.0", "name": "net", "type": "ratchet"}, agent={})
    print(bed.agents["a"].pid, flush=True)
    time.sleep(60)
"""


def runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short path: it contains the agent's socket, whose path is limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="rt-") as made:
        yield made


def test_an_agent_ends_when_its_testbed_is_killed(folder: str) -> None:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    prefix = f"rt{secrets.token_hex(3)}k"
    command = [sys.executable, "-c", STARTER, prefix, folder]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    agent = 0
    try:
        assert starter.stdout is not None
        agent = int(starter.stdout.readline())
        assert runs(agent)
        starter.kill()
        starter.wait(10)
        wait_for("the agent's end", lambda: not runs(agent))
    finally:
        starter.kill()
        starter.communicate()
        if agent and runs(agent):
            os.kill(agent, signal.SIGKILL)
        for name in namespaces_under(prefix):
            remove_namespace(name)
