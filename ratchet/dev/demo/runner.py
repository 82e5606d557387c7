"""Run a scenario of the demo, keep it up, and take it down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ratchet.dev.demo import cloud_router, late_peer, walkthrough
from ratchet.dev.demo.environment import EXAMPLES, Environment
from ratchet.dev.demo.terminal import runnable, show_heading, show_output
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS
from ratchet.dev.hosts import namespaces_under, remove_namespace
from ratchet.dev.rootless import become_able
from ratchet.dev.testbed import Testbed, wait_for
from ratchet.errors import RatchetError
from ratchet.install.plugin import find_shim

PREFIX = "demo-"  # of the names of the network namespaces
# A module of each has AGENTS (whether an agent runs on each node), run() and stay().
SCENARIOS: dict[str, ModuleType] = {"pair": walkthrough, "late-peer": late_peer, "cloud-router": cloud_router}
STATE_FILE = Path(tempfile.gettempdir()) / f"ratchet-demo-{os.getuid()}.json"  # names the process of a kept demo


def run(scenario: str = "pair", kubeconfig: Path | None = None, *, keep: bool = False) -> int:
    """Run one of the SCENARIOS and return its exit status: 0 only if every step succeeded.

    `kubeconfig`: an API server to use instead of the embedded one. `keep`: leave it up, in a process of its own.
    """
    kubeconfig = kubeconfig or (Path(os.environ["KUBECONFIG"]) if os.environ.get("KUBECONFIG") else None)
    options = [scenario, *(["--kubeconfig", str(kubeconfig)] if kubeconfig else [])]
    become_able([sys.executable, "-m", "ratchet.cli.main", "demo", *options, *(["--keep"] if keep else [])])
    if keep:
        return _start_keeper(options)
    with _environment(kubeconfig, agent=SCENARIOS[scenario].AGENTS) as environment:
        SCENARIOS[scenario].run(environment)
    show_heading("Taken down; nothing of it is left on this machine")
    return 0


def take_down() -> int:
    """Remove what `--keep` left up, or what a killed demo left behind."""
    if (keeper := _keeper()) is not None:
        os.kill(keeper["pid"], signal.SIGTERM)
        wait_for("the end of the demo's process", lambda: _keeper() is None, 30.0)
    left = namespaces_under(PREFIX)
    for netns in left:
        remove_namespace(netns)
    STATE_FILE.unlink(missing_ok=True)
    if keeper is None and not left:
        raise RatchetError("cannot take the demo down: none is up")
    print("the demo is down")
    return 0


def run_and_stay(writer: int, scenario: ModuleType, kubeconfig: Path | None) -> int:
    """Run a scenario and keep it up until SIGTERM.

    Writes "up" to the descriptor `writer` after the last step.
    """
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with _environment(kubeconfig, agent=scenario.AGENTS) as environment:
        scenario.run(environment)
        scenario.stay(environment)
        STATE_FILE.write_text(json.dumps({"pid": os.getpid(), "began": _start_time(os.getpid())}))
        os.write(writer, b"up")
        os.close(writer)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
        stopping.wait()
    return 0


@contextmanager
def _environment(kubeconfig: Path | None, *, agent: bool) -> Iterator[Environment]:
    """The two nodes of the 2017 walk-through, with its configuration."""
    if not Path(DEBIAN_PLUGINS, "loopback").exists():
        raise RatchetError(
            f"cannot find the CNI plugin loopback in {DEBIAN_PLUGINS}",
            details="apt-get install containernetworking-plugins",
        )
    config = json.loads((EXAMPLES / "10-ratchet.conf").read_text())
    if namespaces_under(PREFIX):
        raise RatchetError(
            "cannot start the demo: one is up already, or was killed",
            details=f"{runnable('ratchet')} demo --down takes it down",
        )
    show_heading(f"Two nodes on a switch, an API server, {'an agent' if agent else 'the plugin'} on both")
    namespace = "ratchet-demo" if kubeconfig else "default"
    with Testbed(prefix=PREFIX, kubeconfig=kubeconfig, namespace=namespace) as bed:
        left, right = (
            bed.add_node(
                name,
                f"{address}/24",
                {**config, "parent_address": address},
                labels={"ratchetside": side},
                agent={} if agent else None,
                fallback=True,
            )
            for name, address, side in (
                ("kube-minion-1", "192.168.1.73", "left"),
                ("kube-minion-2", "192.168.1.33", "right"),
            )
        )
        environment = Environment(bed, left, right)
        _describe(environment, embedded=kubeconfig is None, agent=agent)
        try:
            yield environment
        finally:
            environment.stop_routers()


def _describe(environment: Environment, *, embedded: bool, agent: bool) -> None:
    bed = environment.bed
    show_output(f"API server   {bed.api.host}{' (embedded)' if embedded else ''}")
    for kubelet in (environment.left, environment.right):
        show_output(f"{kubelet.host.name}  {kubelet.host.address} on eth0, in the namespace {kubelet.host.netns}")
    show_output(f"plugin       {environment.left.bin_dir / 'ratchet'}, with manifests/examples/10-ratchet.conf")
    if agent:
        shim = "the shim" if find_shim() else "a Python program, because no shim is built,"
        show_output(f"             {shim} in its place passes each call to the node's agent")
    for name, process in bed.agents.items():
        show_output(f"agent        process {process.pid} on {name}, at {process.socket}")


def _start_keeper(options: list[str]) -> int:
    """Run the demo in a process that outlives this one.

    Returns 0 once the demo is up, else its exit status.
    """
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "ratchet.dev.demo", str(writer), *options],
        pass_fds=[writer],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return 0 if pipe.read() == "up" else child.wait() or 1


def _keeper() -> dict[str, Any] | None:
    """The process that keeps a demo up; None if there is none."""
    try:
        keeper = dict(json.loads(STATE_FILE.read_text()))
    except (FileNotFoundError, ValueError):
        return None
    return keeper if _start_time(keeper["pid"]) == keeper["began"] else None


def _start_time(pid: int) -> str | None:
    """The start time of a process; None if there is none. It distinguishes processes with one PID."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None
