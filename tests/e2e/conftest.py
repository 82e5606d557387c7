"""A real Kubernetes, with Ratchet on it as an administrator puts it there; each test in a namespace of its own.

`RATCHET_E2E_IMAGE` names the archive of Ratchet's image, as hack/image makes it. Where a test fails, what there was is
in build/e2e/<test>.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from ratchet.dev.building import REPOSITORY
from ratchet.dev.cluster.cluster import Cluster
from ratchet.errors import RatchetError
from ratchet.store.apiserver import connect
from ratchet.store.store import ApiStore
from tests.e2e.world import RATCHET, World, label_side, network_file, wait_for

IMAGE = Path(os.environ.get("RATCHET_E2E_IMAGE", REPOSITORY / "build" / "ratchet.tar"))
MANIFESTS = REPOSITORY / "tests" / "e2e" / "manifests"
DUMPS = REPOSITORY / "build" / "e2e"
FAILED = pytest.StashKey[bool]()
TIMES = pytest.StashKey[list[tuple[str, str, float]]]()


def deploy(world: World, overlay: str) -> None:
    world.kubectl("apply", "-k", str(MANIFESTS / overlay))
    world.wait_for_rollout(*(one["metadata"]["name"] for one in world.get("daemonset")["items"]))
    paths = [network_file(node) for node in world.cluster.nodes()]
    wait_for("the configuration of the nodes' networks", lambda: all(path.exists() for path in paths), 30.0)


@contextmanager
def deployed_instead(cluster: Cluster, overlay: str) -> Iterator[None]:
    """Within the block, Ratchet is on the cluster in another way than for other tests."""
    ratchet = World(cluster, RATCHET)
    try:
        ratchet.kubectl("delete", "-k", str(MANIFESTS / "chained"), "--wait")
        deploy(ratchet, overlay)
        yield
    finally:
        ratchet.kubectl("delete", "-k", str(MANIFESTS / overlay), "--wait", "--ignore-not-found")
        deploy(ratchet, "chained")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    found = Cluster(Path("/var/tmp") / f"ratchet-e2e-{os.getpid():x}")

    def say(line: str) -> None:
        print(f"  {line}", flush=True)

    if not IMAGE.is_file():
        pytest.fail(f"there is no image {IMAGE}: hack/image makes it")
    found.up(2, say)
    try:
        found.load(IMAGE)
        ratchet = World(found, RATCHET)
        for node in found.nodes():
            label_side(ratchet, node)
        deploy(ratchet, "chained")
        yield found
    finally:
        found.down(say)


@pytest.fixture
def records(cluster: Cluster) -> ApiStore:
    return ApiStore(connect(str(cluster.kubeconfig)), RATCHET)


@pytest.fixture
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    said = re.sub("[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))
    name = f"{said[:40].strip('-')}-{sha256(said.encode()).hexdigest()[:4]}"
    made = World(cluster, name)
    made.kubectl("create", "namespace", name)
    made.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")  # without it no pod is admitted
    try:
        yield made
    finally:
        if request.node.stash.get(FAILED, False):
            dump(made, DUMPS / name)
        made.tried("delete", "pod", "--all", "--grace-period=1")
        made.tried("delete", "namespace", name, "--wait=false")
    try:
        made.wait_until_nothing_is_left()
    except RatchetError:
        dump(made, DUMPS / f"{name}-left")
        raise


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
