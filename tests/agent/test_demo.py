"""`ratchet demo` as a newcomer runs it: every step succeeds, and nothing is left, however it ends.

Each demo runs in its own network and mount namespaces, so that it does not collide with another demo on the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.dev.demo import frr
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS
from ratchet.dev.rootless import INSIDE
from ratchet.dev.testbed import wait_for
from ratchet.install.plugin import find_shim
from tests.support.namespaces import may_make_namespaces

IN_OWN_NAMESPACES = ("unshare", "--net", "--mount", "--propagation", "private")
DEMO = ("-m", "ratchet.cli.main", "demo")
WITHOUT_SHIM = (
    "-c",
    "import sys, ratchet.install.plugin\n"
    "ratchet.install.plugin.find_shim = lambda: None\n"
    "from ratchet.cli.main import main\n"
    "sys.exit(main(['demo', 'late-peer']))",
)
WITHOUT_FRR = (
    "-c",
    "import sys, ratchet.dev.demo.frr\n"
    "ratchet.dev.demo.frr.is_usable = lambda: False\n"
    "from ratchet.cli.main import main\n"
    "sys.exit(main(['demo', 'cloud-router']))",
)
# `ip netns` keeps its names in /run/netns. In its own namespaces the demo has another /run.
RUN_AND_LIST_NAMESPACES = '"$@"; status=$?; echo "left: $(ls /run/netns)"; exit $status'
SECONDS = 100.0


@pytest.fixture(autouse=True)
def possible() -> None:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if not Path(DEBIAN_PLUGINS, "loopback").exists():
        pytest.skip(f"needs the CNI plugin loopback in {DEBIAN_PLUGINS}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder near the root, because the path of a socket has to be short."""
    with tempfile.TemporaryDirectory(prefix="ratchet-test-") as made:
        yield Path(made)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a demo with its own API and its files in `folder`, which marks its processes."""
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return {**kept, INSIDE: "1", "TMPDIR": str(folder)}


def run_demo(script: str, folder: Path, *command: str) -> str:
    """Run a demo and return its output. Its exit status has to be 0."""
    done = subprocess.run(
        [*IN_OWN_NAMESPACES, "sh", "-c", script, "sh", sys.executable, *command],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def processes(folder: Path) -> list[int]:
    """The PIDs of the processes that have `folder` in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:  # the process has ended
            continue
    return found


def test_the_demo_of_2017_succeeds(folder: Path) -> None:
    output = run_demo(RUN_AND_LIST_NAMESPACES, folder, *DEMO)
    assert "ok it is a VXLAN to the other node, MTU 1450" in output
    assert output.endswith("left: \n")


@pytest.mark.parametrize("command", [(*DEMO, "late-peer"), WITHOUT_SHIM], ids=["shim", "no shim"])
def test_the_late_peer_demo_shows_its_steps_in_order(command: tuple[str, ...], folder: Path) -> None:
    if command is not WITHOUT_SHIM and find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    output = run_demo(RUN_AND_LIST_NAMESPACES, folder, *command)
    shown = [
        "ok it returned at once",
        "ok the pod has its interface already, without carrier",
        "in1 waits for pod pair-pod: there is no such pod",
        "linked   vxlan",
        "ok it is the same interface",
        "ok the primary's end has lost its carrier",
        "ok it is the same interface",
        "linked   patch",
        "ok it is the same interface",
        "ok the API has no record and no VNI",
    ]
    place = 0
    for one in shown:
        place = output.find(one, place) + 1
        assert place, output
    assert output.endswith("left: \n")
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", [(*DEMO, "cloud-router"), WITHOUT_FRR], ids=["FRR", "no FRR"])
def test_the_cloud_router_demo_shows_its_steps_in_order(command: tuple[str, ...], folder: Path) -> None:
    if command is not WITHOUT_FRR and not frr.is_usable():
        pytest.skip("FRR is not installed, or this is no root")
    output = run_demo(RUN_AND_LIST_NAMESPACES, folder, *command)
    shown = [
        "by routes in the topology" if command is WITHOUT_FRR else "by OSPF",
        "3 of 3 links are linked",
        '|"mid1 – mid2 · vxlan 11"|',
        "ok centosa reaches 192.168.4.101 by way of two routers",
        "A router is killed",
        "3 of 3 links are linked",
        "ok centosa reaches 192.168.4.101 by way of two routers",
        "ok the API has no record and no VNI",
    ]
    place = 0
    for one in shown:
        place = output.find(one, place) + 1
        assert place, output
    assert output.endswith("left: \n")
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


def test_a_demo_with_keep_has_agents_until_down_removes_it(folder: Path) -> None:
    script = '"$@" --keep && ls $TMPDIR/*/*/run/agent.sock | wc -l && "$@" --down && echo "left: $(ls /run/netns)"'
    output = run_demo(script, folder, *DEMO, "late-peer")
    assert output.endswith("\n2\nthe demo is down\nleft: \n")
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


def test_agents_end_when_their_demo_is_killed(folder: Path) -> None:
    command = [*IN_OWN_NAMESPACES, sys.executable, *DEMO, "late-peer"]
    with (folder / "said").open("wb") as output:
        demo = subprocess.Popen(command, env=environment(folder), stdout=output, stderr=output)
    try:
        wait_for("the agents", lambda: len(processes(folder)) == 2, 30.0)
    finally:
        demo.kill()
        demo.wait(10)
    wait_for("the agents' end", lambda: processes(folder) == [])
