"""A real Kubernetes, with Ratchet on it as an administrator puts it there; each test in a namespace of its own.

`RATCHET_E2E_IMAGE` names the archive of Ratchet's image, as hack/image makes it. Where a test fails, what there was is
in build/e2e/<test>.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from ratchet.dev.cluster.binaries import REPOSITORY
from ratchet.dev.cluster.cluster import Cluster
from tests.e2e.world import RATCHET, World

IMAGE = Path(os.environ.get("RATCHET_E2E_IMAGE", REPOSITORY / "build" / "ratchet.tar"))
MANIFESTS = REPOSITORY / "tests" / "e2e" / "manifests"
DUMPS = REPOSITORY / "build" / "e2e"
FAILED = pytest.StashKey[bool]()
TIMES = pytest.StashKey[list[tuple[str, str, float]]]()


def deploy(world: World, overlay: str) -> None:
    world.kubectl("apply", "-k", str(MANIFESTS / overlay))
    for name in ("ratchet-agent", "ratchet-install"):
        world.kubectl("rollout", "status", "-n", RATCHET, f"daemonset/{name}", "--timeout=60s")
    for node in world.cluster.nodes():
        path = node.machine.folder / "etc/cni/net.d/00-ratchet.conflist"
        node.machine.wait_for_daemon("kubelet", str(path), path.exists, 30.0)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(Path("/var/tmp") / f"ratchet-e2e-{os.getpid():x}")

    def say(line: str) -> None:
        print(f"  {line}", flush=True)

    if not IMAGE.is_file():
        pytest.fail(f"there is no image {IMAGE}: hack/image makes it")
    found.up(2, say)
    try:
        found.load(IMAGE)
        world = World(found, "default")
        for node, side in (("node-a", "left"), ("node-b", "right")):
            world.kubectl("label", "node", node, f"ratchetside={side}")
        deploy(World(found, RATCHET), "chained")
        yield found
    finally:
        found.down(say)


@pytest.fixture
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    said = re.sub("[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))
    name = f"{said[:40].strip('-')}-{sha256(said.encode()).hexdigest()[:4]}"
    made = World(cluster, name)
    made.kubectl("create", "namespace", name)
    try:
        yield made
    finally:
        if request.node.stash.get(FAILED, False):
            dump(made, DUMPS / name)
        made.tried("delete", "pod", "--all", "--grace-period=1")
        made.tried("delete", "namespace", name, "--wait=false")
    made.wait_until_nothing_is_left()


def dump(world: World, folder: Path) -> None:
    """What there was when a test failed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = {
        "everything.txt": ("get", "all,leases,configmaps", "-A", "-o", "wide"),
        "pods.txt": ("describe", "pods"),
        "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        "records.yaml": ("get", "configmap", "-n", RATCHET, "-o", "yaml"),
        "agents.log": ("logs", "-n", RATCHET, "-l", "app.kubernetes.io/name=ratchet-agent", "--tail=-1", "--prefix"),
        "agents-before.log": ("logs", "-n", RATCHET, "-l", "app.kubernetes.io/name=ratchet-agent", "--tail=-1", "-p"),
        "install.log": ("logs", "-n", RATCHET, "-l", "app.kubernetes.io/name=ratchet-install", "--tail=-1", "--prefix"),
    }
    for file, arguments in wanted.items():
        done = world.tried(*arguments)
        (folder / file).write_text(done.stdout + done.stderr)
    for machine in world.cluster.machines():
        shutil.copytree(machine.logs, folder / machine.name, ignore=shutil.ignore_patterns("pods", "containers"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    if report.when == "call" or report.failed:
        item.config.stash.setdefault(TIMES, []).append((item.name, report.outcome, report.duration))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    times = terminalreporter.config.stash.get(TIMES, [])
    if times:
        terminalreporter.section("scenarios")
        for name, outcome, seconds in times:
            terminalreporter.write_line(f"{seconds:7.1f} s  {outcome:8} {name.removeprefix('test_').replace('_', ' ')}")
