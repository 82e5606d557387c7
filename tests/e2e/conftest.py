"""A real Kubernetes cluster with Ratchet deployed from manifests. Each test has its own namespace.

`RATCHET_E2E_IMAGE` is the path of the archive of Ratchet's image, which hack/image builds. If a test fails, the state
of the cluster is saved in build/e2e/<namespace of the test>.
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
from ratchet.dev.cluster.frr import frr_image
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
    if overlay == "multus":
        return  # it configures no network
    paths = [network_file(node) for node in world.cluster.nodes()]
    wait_for("the configuration of the nodes' networks", lambda: all(path.exists() for path in paths), 30.0)


def undeploy(world: World, overlay: str) -> None:
    """Uninstall as docs/install.md says: the installer first, while it still has its account."""
    world.kubectl("delete", "daemonset/ratchet-install", "--cascade=foreground", "--ignore-not-found", seconds=120)
    world.kubectl("delete", "-k", str(MANIFESTS / overlay), "--wait", "--ignore-not-found", seconds=120)


@contextmanager
def deployed_with_overlay(cluster: Cluster, overlay: str) -> Iterator[None]:
    """Deploy Ratchet by another overlay within the block, in place of the overlay `chained`."""
    ratchet = World(cluster, RATCHET)
    try:
        undeploy(ratchet, "chained")
        deploy(ratchet, overlay)
        yield
    finally:
        undeploy(ratchet, overlay)
        deploy(ratchet, "chained")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    found = Cluster(Path("/var/tmp") / f"ratchet-e2e-{os.getpid():x}")
    os.environ.pop("RATCHET_PANEL", None)  # the runtimes inherit it; each machine has a /run of its own for its panel

    def print_line(line: str) -> None:
        print(f"  {line}", flush=True)

    if not IMAGE.is_file():
        pytest.fail(f"there is no image {IMAGE}: hack/image makes it")
    found.up(2, print_line)
    try:
        found.load(IMAGE)
        ratchet = World(found, RATCHET)
        for node in found.nodes():
            label_side(ratchet, node)
        deploy(ratchet, "chained")
        yield found
    finally:
        found.down(print_line)


@pytest.fixture(scope="session")
def frr(cluster: Cluster) -> None:
    """Load the image of FRR, built once, under the name in the examples' manifests."""
    cluster.load(frr_image(lambda line: print(f"  {line}", flush=True)))


@pytest.fixture
def store(cluster: Cluster) -> ApiStore:
    return ApiStore(connect(str(cluster.kubeconfig)), RATCHET)


@pytest.fixture
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    slug = re.sub("[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_"))
    name = f"{slug[:40].strip('-')}-{sha256(slug.encode()).hexdigest()[:4]}"
    made = World(cluster, name)
    made.kubectl("create", "namespace", name)
    made.kubectl(
        "wait", "--for=create", "serviceaccount/default", "--timeout=60s"
    )  # no pod is admitted before it exists
    try:
        yield made
    finally:
        if request.node.stash.get(FAILED, False):
            dump(made, DUMPS / name)
        made.try_kubectl("delete", "pod", "--all", "--grace-period=1")
        made.try_kubectl("delete", "namespace", name, "--wait=false")
    try:
        made.wait_until_nothing_is_left()
    except RatchetError:
        dump(made, DUMPS / f"{name}-left")
        raise


def dump(world: World, folder: Path) -> None:
    """Save objects, Events and logs of the cluster after a failed test."""
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
        done = world.try_kubectl(*arguments)
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
