"""What a call of the daemonless plugin imports. Each call is a process of its own, so each import costs every call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.core.pod import PodRef
from ratchet.node.journal import Attachment, Journal, SandboxEntry

LIBRARIES = {"kubernetes", "pyroute2", "tenacity", "urllib3", "yaml"}
# What is for pods with links only, or for the API only.
LINKING = {
    "ratchet.core.intent",
    "ratchet.core.interface",
    "ratchet.core.plan",
    "ratchet.datapath.messages",
    "ratchet.node.add",
    "ratchet.node.attach",
    "ratchet.node.reconciler",
    "ratchet.store.apiserver",
    "ratchet.store.interface",
}
CONTAINER = "0123456789abcdef"
CODE = """
import json, sys
from ratchet.node.plugin import main
status = main(state_dir=sys.argv[1])
print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
"""


def imported_by(command: str, state_dir: Path, **variables: str) -> set[str]:
    """The modules of a new interpreter after a call, which succeeds."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", CODE, state_dir],
        env={"CNI_COMMAND": command, **variables},
        input=json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "ratchet"}),
        check=True,
        capture_output=True,
        text=True,
    )
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == 0, done.stdout
    return set(modules)


def test_version_imports_only_what_it_needs(tmp_path: Path) -> None:
    modules = imported_by("VERSION", tmp_path)
    assert {name for name in modules if name.split(".")[0] == "ratchet"} == {
        "ratchet",
        "ratchet.cni",
        "ratchet.cni.answer",
        "ratchet.cni.command",
        "ratchet.cni.decode",
        "ratchet.cni.versions",
        "ratchet.core",
        "ratchet.core.escape",
        "ratchet.errors",
        "ratchet.node",
        "ratchet.node.plugin",
    }
    assert modules & (LIBRARIES | {"dataclasses", "inspect", "logging", "pathlib", "threading"}) == set()


@pytest.mark.parametrize("known", [True, False], ids=["pod without links", "unknown sandbox"])
def test_del_without_links_imports_neither_the_api_nor_the_kernel(known: bool, tmp_path: Path) -> None:
    if known:
        pod = PodRef("default", "pod", "0-1-2")
        Journal(tmp_path).begin(SandboxEntry(Attachment("net", CONTAINER, "eth0"), "/run/netns/gone", pod, began=0.0))
    modules = imported_by("DEL", tmp_path, CNI_CONTAINERID=CONTAINER, CNI_IFNAME="eth0", CNI_PATH="/nowhere")
    assert modules & (LIBRARIES | LINKING) == set()
    assert "ratchet.node.delete" in modules
