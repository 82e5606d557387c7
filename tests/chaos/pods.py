"""What the kubelet and the runtime do with one pod: sandboxes, ADD with retries, DEL once, twice, late or never."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

from ratchet.core.pod import PodRef
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox, finished
from tests.chaos.actor import Actor
from tests.chaos.steps import Ending
from tests.chaos.world import World

RETRY_SECONDS = 0.5
CALL_SECONDS = 100.0
Create = Callable[[str, str], PodRef]
"""Creates a pod by name on a node."""


class PodActor(Actor):
    """One pod, from its first start to its last DEL.

    `sandbox`: its current sandbox, if the last ADD succeeded. `calm_since`: the end of the last call, in monotonic
    seconds.
    """

    def __init__(self, name: str, world: World, create: Create) -> None:
        super().__init__(name, world)
        self.sandbox: Sandbox | None = None
        self.calm_since = 0.0
        self.node = ""
        self._create = create
        self._ref: PodRef | None = None
        self._adding: subprocess.Popen[str] | None = None
        self._late: list[LateDelete] = []

    @property
    def calm(self) -> float:
        """Seconds since the last call of this pod ended; 0 while one runs."""
        return time.monotonic() - self.calm_since if self.is_idle else 0.0

    def start(self, node: str) -> None:
        """Create the pod on a node and start it."""
        self.node = node
        self._ref = self._create(self.name, node)
        self._add()

    def stop(self, ending: Ending = Ending.ONCE, seconds: float = 0.0) -> None:
        """End the pod's sandbox and delete the pod."""
        self._end_current(ending, seconds)
        if self._ref is not None:
            self.world.history.deleted_pods.add(self._ref.uid)
            self.world.bed.delete_pod(self._ref)
            self._ref = None

    def restart(self, ending: Ending = Ending.ONCE, seconds: float = 0.0) -> None:
        """Replace the sandbox of the pod."""
        self._end_current(ending, seconds)
        self._add()

    def move(self, node: str, ending: Ending, seconds: float) -> None:
        """Delete the pod, and start it again on a node."""
        self.stop(ending, seconds)
        self.start(node)

    def restart_if_exists(self) -> None:
        """Replace the sandbox of the pod, unless the pod was deleted."""
        if self._ref is not None:
            self.restart()

    def kill_call(self) -> None:
        """Kill the running ADD, if there is one. Call it from any thread."""
        if (process := self._adding) is not None:
            self.world.log.note(f"SIGKILL the ADD of {self.name}")
            process.kill()

    def finish_late_deletes(self) -> None:
        """Run the late DELs now, and wait for them."""
        for late in self._late:
            late.due.set()
        for late in self._late:
            late.thread.join()
        self._late.clear()

    def _add(self) -> None:
        """ADD until one succeeds or another operation waits. DEL after each that failed, as a kubelet does."""
        assert self._ref is not None
        while True:
            kubelet = self.world.kubelet(self.node)
            sandbox = kubelet.make_sandbox(self._ref)
            response = self._call_add(kubelet, sandbox)
            if response.status == 0:
                sandbox.result = response.json
                self.sandbox = sandbox
                break
            delete_sandbox(self.world, kubelet, sandbox)
            if self.is_superseded:
                break
            time.sleep(RETRY_SECONDS)
        self.calm_since = time.monotonic()

    def _call_add(self, kubelet: Kubelet, sandbox: Sandbox) -> CniResponse:
        what = f"ADD {self.name}/{sandbox.container_id[:6]} on {kubelet.host.name}"
        self.world.log.note(what)
        self._adding = kubelet.start("ADD", sandbox)
        response = _response(self._adding)
        self._adding = None
        self.world.log.note(f"  {what}: {_result(response)}")
        return response

    def _end_current(self, ending: Ending, seconds: float) -> None:
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is None:
            return
        kubelet = self.world.kubelet(self.node)
        if ending is Ending.NEVER:
            self.world.log.note(f"no DEL for {self.name}/{sandbox.container_id[:6]}, its namespace is removed")
            kubelet.hosts.remove_namespace(sandbox.netns)
            self.world.ended_containers.add(sandbox.container_id)
        elif ending is Ending.LATE:
            self._late.append(LateDelete(self.world, kubelet, sandbox, seconds))
        else:
            delete_sandbox(self.world, kubelet, sandbox, twice=ending is Ending.TWICE)
        self.calm_since = time.monotonic()


class LateDelete:
    """A DEL that comes after some seconds, or as soon as `due` is set."""

    def __init__(self, world: World, kubelet: Kubelet, sandbox: Sandbox, seconds: float) -> None:
        self.due = threading.Event()

        def run() -> None:
            self.due.wait(seconds)
            delete_sandbox(world, kubelet, sandbox)

        self.thread = threading.Thread(target=run, name=f"late DEL of {sandbox.pod.name}", daemon=True)
        self.thread.start()


def delete_sandbox(world: World, kubelet: Kubelet, sandbox: Sandbox, *, twice: bool = False) -> None:
    """DEL until it succeeds, then remove the namespace, as a runtime does. `twice`: again, without the namespace."""
    what = f"DEL {sandbox.pod.name}/{sandbox.container_id[:6]} on {kubelet.host.name}"
    changes: dict[str, str] = {}
    for _ in range(2 if twice else 1):
        while True:
            world.log.note(what)
            response = _response(kubelet.start("DEL", sandbox, **changes))
            world.log.note(f"  {what}: {_result(response)}")
            if response.status == 0:
                world.deleted_containers.add(sandbox.container_id)
                break
            if world.ended.is_set():
                break
            time.sleep(RETRY_SECONDS)
        changes = {"CNI_NETNS": ""}
    kubelet.hosts.remove_namespace(sandbox.netns)
    world.ended_containers.add(sandbox.container_id)


def _response(process: subprocess.Popen[str]) -> CniResponse:
    """The response of a call. A runtime kills calls that take too long."""
    try:
        return finished(process, CALL_SECONDS)
    except subprocess.TimeoutExpired:
        return CniResponse(-1, "", f"killed after {CALL_SECONDS:.0f} s")


def _result(response: CniResponse) -> str:
    return "succeeded" if response.status == 0 else f"failed: {(response.stdout or response.stderr).strip()[:300]}"
