"""`ratchet demo` as a newcomer runs it: every step holds, and nothing is left, however it ends.

In network and mount namespaces of its own, so that it meets neither another demo on the machine nor its namespaces.
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

APART = ("unshare", "--net", "--mount", "--propagation", "private")
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
# `ip netns` keeps its names in /run, which is another one here.
THEN_LOOK = '"$@"; status=$?; echo "left: $(ls /run/netns)"; exit $status'
SECONDS = 100.0


@pytest.fixture(autouse=True)
def possible() -> None:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if not Path(DEBIAN_PLUGINS, "loopback").exists():
        pytest.skip(f"needs the CNI plugin loopback in {DEBIAN_PLUGINS}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Near the root: a socket's path has to be short."""
    with tempfile.TemporaryDirectory(prefix="ratchet-test-") as made:
        yield Path(made)


def environment(folder: Path) -> dict[str, str]:
    """Of a demo that keeps its files in `folder`, by which its processes are known, and has an API of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    return {**kept, INSIDE: "1", "TMPDIR": str(folder)}


def told(script: str, folder: Path, *command: str) -> str:
    """What a demo tells; its exit status has to be 0."""
    done = subprocess.run(
        [*APART, "sh", "-c", script, "sh", sys.executable, *command],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def processes(folder: Path) -> list[int]:
    """The processes that were started with a file in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def test_the_story_of_2017(folder: Path) -> None:
    said = told(THEN_LOOK, folder, *DEMO)
    assert "ok it is a VXLAN to the other node, MTU 1450" in said
    assert said.endswith("left: \n")


@pytest.mark.parametrize("command", [(*DEMO, "late-peer"), WITHOUT_SHIM], ids=["shim", "no shim"])
def test_the_story_of_a_late_peer(command: tuple[str, ...], folder: Path) -> None:
    if command is not WITHOUT_SHIM and find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    said = told(THEN_LOOK, folder, *command)
    shown = [
        "ok it returned at once",
        "in1 waits for pod pair-pod: there is no such pod",
        "ok it is a VXLAN to the other node",
        "ok the primary's end has lost its carrier",
        "ok it is a vEth by now",
        "ok the API has no record and no VNI",
    ]
    places = [said.find(one) for one in shown]
    assert -1 not in places and places == sorted(places), said
    assert said.endswith("left: \n")
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", [(*DEMO, "cloud-router"), WITHOUT_FRR], ids=["FRR", "no FRR"])
def test_the_story_of_the_cloud_router(command: tuple[str, ...], folder: Path) -> None:
    if command is not WITHOUT_FRR and not frr.is_usable():
        pytest.skip("FRR is not installed, or this is no root")
    said = told(THEN_LOOK, folder, *command)
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
        place = said.find(one, place) + 1
        assert place, said
    assert said.endswith("left: \n")
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


def test_what_is_kept_up_has_agents_and_goes_whole(folder: Path) -> None:
    script = '"$@" --keep && ls $TMPDIR/*/*/run/agent.sock | wc -l && "$@" --down && echo "left: $(ls /run/netns)"'
    said = told(script, folder, *DEMO, "late-peer")
    assert said.endswith("\n2\nthe demo is down\nleft: \n")
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


def test_agents_end_with_a_demo_that_is_killed(folder: Path) -> None:
    command = [*APART, sys.executable, *DEMO, "late-peer"]
    with (folder / "said").open("wb") as said:
        demo = subprocess.Popen(command, env=environment(folder), stdout=said, stderr=said)
    try:
        wait_for("the agents", lambda: len(processes(folder)) == 2, 30.0)
    finally:
        demo.kill()
        demo.wait(10)
    wait_for("the agents' end", lambda: processes(folder) == [])
