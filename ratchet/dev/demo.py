"""The main job on one machine: the 2017 walk-through, with a demo that plays the kubelet on two nodes.

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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.core.machine import derive
from ratchet.core.model import PodRef, State
from ratchet.dev.bed import RATCHET_NAMESPACE, Bed, wait_for
from ratchet.dev.hosts import command_in, ip, namespaces_under, remove_namespace
from ratchet.dev.kubelet import DEBIAN_PLUGINS, Answer, Kubelet, Sandbox
from ratchet.dev.rootless import become_able
from ratchet.dev.story import check, kubectl, passed, say, shell, step, typed
from ratchet.errors import RatchetError
from ratchet.store.codec import decode_link

# In a wheel they stand beside this file, in a checkout where people look for them.
_PLACES = (Path(__file__).with_name("examples"), Path(__file__).resolve().parents[2] / "manifests" / "examples")
EXAMPLES = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
LABELS = "ratchet.state,ratchet.kind,ratchet.vni"
PREFIX = "demo-"
LINK = "primary-pod.in1.pair-pod.in2"
HELD = Path(tempfile.gettempdir()) / f"ratchet-demo-{os.getuid()}.json"


def run(kubeconfig: Path | None = None, *, keep: bool = False) -> int:
    """Run the demo; its exit status, 0 only if every step held. With `keep` it stays up in a process of its own."""
    kubeconfig = kubeconfig or (Path(os.environ["KUBECONFIG"]) if os.environ.get("KUBECONFIG") else None)
    options = (["--kubeconfig", str(kubeconfig)] if kubeconfig else []) + (["--keep"] if keep else [])
    become_able([sys.executable, "-m", "ratchet.cli.main", "demo", *options])
    if keep:
        return _run_and_hold(options)
    with _prepared(kubeconfig) as demo:
        demo.tell()
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


@dataclass(slots=True)
class Demo:
    """The story, on a bed whose nodes are `left` and `right`."""

    bed: Bed
    left: Kubelet
    right: Kubelet
    sandboxes: list[tuple[Kubelet, Sandbox]] = field(default_factory=list)

    def tell(self) -> None:
        """Every step, each of which has to hold."""
        self._link("Two pods, on two nodes: the pods of 2017, both started at the same time", "example.yaml")
        self._show_tunnel()
        self._delete_pods()
        self._link("The same two pods, both on one node", "example-one-node.yaml")
        self._show_pair()
        self._lose_a_pod()
        self._prove_nothing_left()

    def stay(self) -> None:
        """Bring the first link up again and say how to look at it."""
        self._link("Once more on two nodes, to look around", "example.yaml")
        kubeconfig = f"--kubeconfig {self.bed.access.kubeconfig}"
        primary, pair = (sandbox for _, sandbox in self.sandboxes)
        step("It stays up. Look around:")
        for command in (
            f"kubectl {kubeconfig} get pods,configmaps,leases -A -L {LABELS}",
            f"kubectl {kubeconfig} get configmap -n {RATCHET_NAMESPACE} {self._record_name} -o yaml",
            f"ratchet links {kubeconfig}",
            f"ip netns exec {primary.netns} ip -d addr show in1",
            f"ip netns exec {primary.netns} ping 192.168.2.101",
            f"ip netns exec {pair.netns} tcpdump -ni in2",
            f"ip netns exec {self.left.host.netns} ip addr",
        ):
            typed([command])
        if os.environ.get("RATCHET_ROOTLESS"):
            say(f"(the namespaces are in: nsenter -t {os.getpid()} -U -m -n --preserve-credentials)")
        step("and take it down:")
        typed(["ratchet demo --down"])

    @property
    def _record_name(self) -> str:
        return f"{self.bed.namespace}.{LINK}"

    def _link(self, title: str, example: str) -> None:
        step(title)
        kubectl(self.bed.access.kubeconfig, "create", "-n", self.bed.namespace, "-f", str(EXAMPLES / example))
        self.sandboxes = [(self._scheduled(name), self._sandbox(name)) for name in ("primary-pod", "pair-pod")]
        say("")
        with self._states_told(), ThreadPoolExecutor() as at_once:
            answers = list(at_once.map(lambda one: one[0].add(one[1]), self.sandboxes))
            self._check_answers("ADD", answers)
            wait_for("the link", lambda: self._state() is State.LINKED)

    def _check_answers(self, command: str, answers: list[Answer]) -> None:
        for (_, sandbox), answer in zip(self.sandboxes, answers, strict=True):
            check(f"{command} of {sandbox.pod.name} succeeded{answer.error and ': ' + answer.error}", not answer.status)

    def _show_tunnel(self) -> None:
        primary = self.sandboxes[0][1]
        shown = self._in_pod(primary, "ip", "-d", "link", "show", "in1")
        check("it is a VXLAN to the other node, MTU 1450", "remote 192.168.1.33" in shown and "mtu 1450" in shown)
        self._ping(primary)
        kubectl(self.bed.access.kubeconfig, "get", "configmap", "-n", RATCHET_NAMESPACE, "-L", LABELS)
        shell(["ratchet", "links"], self._ratchet("links"))

    def _show_pair(self) -> None:
        primary = self.sandboxes[0][1]
        check("it is a vEth", "veth" in self._in_pod(primary, "ip", "-d", "link", "show", "in1"))
        self._ping(primary)
        shell(["ratchet", "links"], self._ratchet("links"))

    def _delete_pods(self) -> None:
        step("The pods are deleted")
        self._check_answers("DEL", [kubelet.delete(sandbox) for kubelet, sandbox in self.sandboxes])
        for _, sandbox in self.sandboxes:
            self.bed.delete_pod(sandbox.pod)
        self.sandboxes = []
        check("no record and no VNI is left", not self.bed.links() and not self.bed.records.vni_leases())

    def _lose_a_pod(self) -> None:
        step("The pods vanish, and no DEL ever comes: garbage collection")
        for kubelet, sandbox in self.sandboxes:
            self.bed.delete_pod(sandbox.pod)
            kubelet.hosts.remove_namespace(sandbox.netns)
            kubelet.forget(sandbox)
        self.sandboxes = []
        shell(["ratchet", "gc", "--grace", "0"], self._ratchet("gc", "--grace", "0"))

    def _prove_nothing_left(self) -> None:
        step("Nothing is left")
        kubectl(self.bed.access.kubeconfig, "get", "configmaps,leases", "-n", RATCHET_NAMESPACE)
        check("the API has no record and no VNI", not self.bed.links() and not self.bed.records.vni_leases())
        for kubelet in (self.left, self.right):
            names = [one["ifname"] for one in json.loads(ip("-j", "-n", kubelet.host.netns, "link", "show"))]
            check(f"{kubelet.host.name} has its own interfaces alone: {', '.join(names)}", names == ["lo", "eth0"])

    def _scheduled(self, pod: str) -> Kubelet:
        """The node that the pod's nodeSelector means, once the pod is bound to it."""
        selector = self.bed.api.get(f"{self.bed.pods_path}/{pod}")["spec"]["nodeSelector"]
        kubelet = self.left if selector["ratchetside"] == "left" else self.right
        self.bed.bind(pod, kubelet.host.name)
        return kubelet

    def _sandbox(self, pod: str) -> Sandbox:
        uid = self.bed.api.get(f"{self.bed.pods_path}/{pod}")["metadata"]["uid"]
        return self.left.make_sandbox(PodRef(self.bed.namespace, pod, uid))

    def _state(self) -> State | None:
        record = self.bed.records.link(self._record_name)
        return derive(record) if record else None

    @contextmanager
    def _states_told(self) -> Iterator[None]:
        """Tell each state that the link comes to, as the API tells it, until it is linked."""
        path = f"/api/v1/namespaces/{RATCHET_NAMESPACE}/configmaps"
        _, version = self.bed.api.list(path)

        def tell() -> None:
            told = 0
            for event in self.bed.api.watch(path, version, 30.0):
                link = decode_link(event.object)
                for one in link.history[told:]:
                    passed(one.target.value, one.reason)
                told = len(link.history)
                if derive(link) is State.LINKED:
                    return

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        yield
        thread.join(5.0)

    def _in_pod(self, sandbox: Sandbox, *command: str) -> str:
        return shell(["kubectl", "exec", sandbox.pod.name, "--", *command], command_in(sandbox.netns, *command))

    def _ping(self, primary: Sandbox) -> None:
        answer = self._in_pod(primary, "ping", "-c", "1", "-W", "5", "192.168.2.101")
        check("192.168.2.100 reaches 192.168.2.101", " 0% packet loss" in answer)

    def _ratchet(self, *arguments: str) -> list[str]:
        program = [sys.executable, "-m", "ratchet.cli.main"]
        return [*program, *arguments, "--kubeconfig", str(self.bed.access.kubeconfig)]


@contextmanager
def _prepared(kubeconfig: Path | None) -> Iterator[Demo]:
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
    step("Two nodes on a switch, an API server, the plugin on both")
    namespace = "ratchet-demo" if kubeconfig else "default"
    with Bed(prefix=PREFIX, kubeconfig=kubeconfig, namespace=namespace) as bed:
        kubelets = [
            bed.add_node(name, f"{address}/24", {**config, "parent_address": address}, labels={"ratchetside": side})
            for name, address, side in (
                ("kube-minion-1", "192.168.1.73", "left"),
                ("kube-minion-2", "192.168.1.33", "right"),
            )
        ]
        say(f"API server   {bed.api.host}{'' if kubeconfig else ' (embedded)'}")
        for kubelet in kubelets:
            say(f"{kubelet.host.name}  {kubelet.host.address} on eth0, in the namespace {kubelet.host.netns}")
        say(f"plugin       {kubelets[0].bin_dir / 'ratchet'}, with manifests/examples/10-ratchet.conf")
        left, right = kubelets
        yield Demo(bed, left, right)


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


def _hold(writer: int, kubeconfig: Path | None) -> int:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with _prepared(kubeconfig) as demo:
        demo.tell()
        demo.stay()
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
        sys.exit(_hold(int(sys.argv[1]), Path(named) if named else None))
    except RatchetError as error:
        sys.exit(f"ratchet: {error}\n         {error.details}")
