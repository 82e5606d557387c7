"""The main job on one machine, with a demo that plays the kubelet on two nodes: three stories, with agents and without.

Everything is real but the kubelet: the plugin as installed, the pods in the API, the namespaces, the links, the pings.
"""

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

from ratchet.dev import cloudrouter, latepeer, walkthrough
from ratchet.dev.fake_kubelet import DEBIAN_PLUGINS
from ratchet.dev.hosts import namespaces_under, remove_namespace
from ratchet.dev.rootless import become_able
from ratchet.dev.stage import EXAMPLES, Stage
from ratchet.dev.story import say, step
from ratchet.dev.testbed import Testbed, wait_for
from ratchet.errors import RatchetError
from ratchet.install.plugin import find_shim

PREFIX = "demo-"
STORIES: dict[str, ModuleType] = {"pair": walkthrough, "late-peer": latepeer, "cloud-router": cloudrouter}
HELD = Path(tempfile.gettempdir()) / f"ratchet-demo-{os.getuid()}.json"


def run(story: str = "pair", kubeconfig: Path | None = None, *, keep: bool = False) -> int:
    """Tell one of the STORIES; the exit status, 0 only if every step held.

    With `keep` it stays up in a process of its own.
    """
    kubeconfig = kubeconfig or (Path(os.environ["KUBECONFIG"]) if os.environ.get("KUBECONFIG") else None)
    options = [story, *(["--kubeconfig", str(kubeconfig)] if kubeconfig else [])]
    become_able([sys.executable, "-m", "ratchet.cli.main", "demo", *options, *(["--keep"] if keep else [])])
    if keep:
        return _run_and_hold(options)
    with _prepared(kubeconfig, agent=STORIES[story].AGENTS) as stage:
        STORIES[story].tell(stage)
    step("Taken down; nothing of it is left on this machine")
    return 0


def take_down() -> int:
    """Take down what `--keep` left up, or what a demo that was killed left behind."""
    if (held := _held()) is not None:
        os.kill(held["pid"], signal.SIGTERM)
        wait_for("the end of the demo's process", lambda: _held() is None, 30.0)
    left = namespaces_under(PREFIX)
    for netns in left:
        remove_namespace(netns)
    HELD.unlink(missing_ok=True)
    if held is None and not left:
        raise RatchetError("cannot take the demo down: none is up")
    print("the demo is down")
    return 0


@contextmanager
def _prepared(kubeconfig: Path | None, *, agent: bool) -> Iterator[Stage]:
    """The bed of the demo, with the nodes of the walk-through and its configuration."""
    if not Path(DEBIAN_PLUGINS, "loopback").exists():
        raise RatchetError(
            f"cannot find the CNI plugin loopback in {DEBIAN_PLUGINS}",
            details="apt-get install containernetworking-plugins",
        )
    config = json.loads((EXAMPLES / "10-ratchet.conf").read_text())
    if namespaces_under(PREFIX):
        raise RatchetError(
            "cannot start the demo: one is up already, or was killed", details="ratchet demo --down takes it down"
        )
    step(f"Two nodes on a switch, an API server, {'an agent' if agent else 'the plugin'} on both")
    namespace = "ratchet-demo" if kubeconfig else "default"
    with Testbed(prefix=PREFIX, kubeconfig=kubeconfig, namespace=namespace) as bed:
        kubelets = [
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
        ]
        say(f"API server   {bed.api.host}{'' if kubeconfig else ' (embedded)'}")
        for kubelet in kubelets:
            say(f"{kubelet.host.name}  {kubelet.host.address} on eth0, in the namespace {kubelet.host.netns}")
        say(f"plugin       {kubelets[0].bin_dir / 'ratchet'}, with manifests/examples/10-ratchet.conf")
        if agent:
            shim = "the shim" if find_shim() else "a Python program, since no shim was built here,"
            say(f"             in whose place {shim} hands each call to the node's agent")
        for name, process in bed.agents.items():
            say(f"agent        process {process.pid} on {name}, at {process.socket}")
        left, right = kubelets
        stage = Stage(bed, left, right)
        try:
            yield stage
        finally:
            stage.stop_routers()


def _run_and_hold(options: list[str]) -> int:
    """Run the demo in a process of its own that stays when this one ends; its status once it has come to stay."""
    reader, writer = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "ratchet.dev.demo", str(writer), *options],
        pass_fds=[writer],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writer)
    with os.fdopen(reader) as told:
        return 0 if told.read() == "up" else child.wait() or 1


def _hold(writer: int, story: ModuleType, kubeconfig: Path | None) -> int:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with _prepared(kubeconfig, agent=story.AGENTS) as stage:
        story.tell(stage)
        story.stay(stage)
        HELD.write_text(json.dumps({"pid": os.getpid(), "began": _start_time(os.getpid())}))
        os.write(writer, b"up")
        os.close(writer)
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(silence, descriptor)
        stopping.wait()
    return 0


def _held() -> dict[str, Any] | None:
    """The process that keeps a demo up; None where there is none any more."""
    try:
        held = dict(json.loads(HELD.read_text()))
    except (FileNotFoundError, ValueError):
        return None
    return held if _start_time(held["pid"]) == held["began"] else None


def _start_time(pid: int) -> str | None:
    """When a process started, to tell it from a later one of the same number; None where there is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


if __name__ == "__main__":
    named = sys.argv[sys.argv.index("--kubeconfig") + 1] if "--kubeconfig" in sys.argv else None
    try:
        sys.exit(_hold(int(sys.argv[1]), STORIES[sys.argv[2]], Path(named) if named else None))
    except RatchetError as error:
        sys.exit(f"ratchet: {error}\n         {error.details}")
