"""What the demo's stories are told on: two nodes, the pods of the examples, and ways to show what becomes of them."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.core.model import PodRef, State
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.frr import Frr
from ratchet.dev.hosts import command_in, ip
from ratchet.dev.story import check, kubectl, passed, say, shell, step, typed
from ratchet.dev.testbed import RATCHET_NAMESPACE, Testbed, wait_for
from ratchet.store.codec.links import decode_link

# In a wheel they stand beside this file, in a checkout where people look for them.
_PLACES = (Path(__file__).with_name("examples"), Path(__file__).resolve().parents[2] / "manifests" / "examples")
EXAMPLES = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
LABELS = "ratchet.state,ratchet.kind,ratchet.vni"
LINK = "pair-pod.in2.primary-pod.in1"


@dataclass(slots=True)
class Stage:
    """A bed whose nodes are `left` and `right`, and the pods on it by name, each with its kubelet and its sandbox; and
    the `routers` that run in them.

    What does not come about as it should raises RatchetError.
    """

    bed: Testbed
    left: Kubelet
    right: Kubelet
    pods: dict[str, tuple[Kubelet, Sandbox]] = field(default_factory=dict)
    routers: dict[str, Frr] = field(default_factory=dict)

    @property
    def record_name(self) -> str:
        return f"{self.bed.namespace}.{LINK}"

    @property
    def primary(self) -> Sandbox:
        return self.pods["primary-pod"][1]

    # What happens

    def create(self, example: str, pod: str | None = None) -> None:
        """Create the pods of an example, or that one of them."""
        only = ["-l", f"app={pod}"] if pod else []
        self.kubectl("create", "-n", self.bed.namespace, "-f", str(EXAMPLES / example), *only)

    def start(self, *pods: str) -> float:
        """Have created pods scheduled, and their kubelets call ADD, all at once; for how many seconds that went on."""
        self.pods |= {pod: (self._scheduled(pod), self._sandbox(pod)) for pod in pods}
        began = time.monotonic()
        with ThreadPoolExecutor() as at_once:
            answers = list(at_once.map(lambda pod: self.pods[pod][0].add(self.pods[pod][1]), pods))
        took = time.monotonic() - began
        for pod, answer in zip(pods, answers, strict=True):
            check(f"ADD of {pod} succeeded{answer.error and ': ' + answer.error}", not answer.status)
        return took

    def link(self, example: str, pod: str | None = None) -> None:
        """Create the pods of an example, or that one of them, and tell how the link comes to stand."""
        self.create(example, pod)
        with self.states_told(State.LINKED):
            self.start(*([pod] if pod else ["primary-pod", "pair-pod"]))

    def end(self, *pods: str) -> None:
        """What a kubelet does with pods that are deleted: DEL, and then the pod's object gone."""
        for pod in pods:
            self.stop_router(pod)
            kubelet, sandbox = self.pods.pop(pod)
            answer = kubelet.delete(sandbox)
            check(f"DEL of {pod} succeeded{answer.error and ': ' + answer.error}", not answer.status)
            self.bed.delete_pod(sandbox.pod)

    def stop_router(self, pod: str) -> None:
        """End the router in a pod, if there is one."""
        if (router := self.routers.pop(pod, None)) is not None:
            router.stop()

    def stop_routers(self) -> None:
        for pod in list(self.routers):
            self.stop_router(pod)

    # What there is

    def kubectl(self, *arguments: str) -> None:
        kubectl(self.bed.access.kubeconfig, *arguments)

    def ratchet(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ratchet.cli.main", *arguments]
        shell(["ratchet", *arguments], [*command, "--kubeconfig", str(self.bed.access.kubeconfig)])

    def in_pod(self, sandbox: Sandbox, *command: str) -> str:
        return shell(["kubectl", "exec", sandbox.pod.name, "--", *command], command_in(sandbox.netns, *command))

    def primary_end(self) -> dict[str, Any]:
        """The primary's interface as `ip` has it."""
        return dict(json.loads(ip("-j", "-n", self.primary.netns, "link", "show", "in1"))[0])

    def ping(self) -> None:
        wait_for("the carrier of in1", lambda: "LOWER_UP" in self.primary_end()["flags"])
        answer = self.in_pod(self.primary, "ping", "-c", "1", "-W", "5", "192.168.2.101")
        check("192.168.2.100 reaches 192.168.2.101", " 0% packet loss" in answer)

    def prove_nothing_left(self) -> None:
        step("Nothing is left")
        self.kubectl("get", "configmaps,leases", "-n", RATCHET_NAMESPACE)
        if self.bed.agents:
            say("(the agents' signs of life: as the nodes go, `ratchet gc` removes them)")
        self.check_records_gone()
        for kubelet in (self.left, self.right):
            names = [one["ifname"] for one in json.loads(ip("-j", "-n", kubelet.host.netns, "link", "show"))]
            check(f"{kubelet.host.name} has its own interfaces alone: {', '.join(names)}", names == ["lo", "eth0"])

    def check_records_gone(self) -> None:
        check("the API has no record and no VNI", not self.bed.links() and not self.bed.records.vnis.list())

    def ways_to_look_at_the_pair(self) -> list[str]:
        kubeconfig = f"--kubeconfig {self.bed.access.kubeconfig}"
        return [
            f"kubectl {kubeconfig} get configmap -n {RATCHET_NAMESPACE} {self.record_name} -o yaml",
            f"ip netns exec {self.primary.netns} ip -d addr show in1",
            f"ip netns exec {self.primary.netns} ping 192.168.2.101",
            f"ip netns exec {self.pods['pair-pod'][1].netns} tcpdump -ni in2",
        ]

    def say_how_to_look(self, *more: str) -> None:
        """Commands to look around with, `more` among them, where the demo stays up."""
        kubeconfig = f"--kubeconfig {self.bed.access.kubeconfig}"
        step("It stays up. Look around:")
        for command in (
            f"kubectl {kubeconfig} get pods,configmaps,leases -A -L {LABELS}",
            f"ratchet links {kubeconfig}",
            f"ip netns exec {self.left.host.netns} ip addr",
            *more,
        ):
            typed([command])
        if os.environ.get("RATCHET_ROOTLESS"):
            say(f"(the namespaces are in: nsenter -t {os.getpid()} -U -m -n --preserve-credentials)")
        step("and take it down:")
        typed(["ratchet demo --down"])

    @contextmanager
    def states_told(self, last: State) -> Iterator[None]:
        """Tell each state that the link comes to, as the API tells it; it has to come to the `last` one."""
        path = f"/api/v1/namespaces/{RATCHET_NAMESPACE}/configmaps"
        record = self.bed.records.links.get(self.record_name)
        before = len(record.history) if record else 0
        _, version = self.bed.api.list(path)

        def tell() -> None:
            told = before
            for event in self.bed.api.watch(path, version, 30.0):
                link = decode_link(event.object)
                for one in link.history[told:]:
                    passed(one.target.value, one.reason)
                told = len(link.history)
                if derive(link) is last:
                    return

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        yield
        wait_for(f"that the link is {last}", lambda: self._state() is last)
        thread.join(5.0)

    def _state(self) -> State | None:
        record = self.bed.records.links.get(self.record_name)
        return derive(record) if record else None

    def _scheduled(self, pod: str) -> Kubelet:
        """The node that the pod's nodeSelector means, once the pod is bound to it."""
        selector = self.bed.api.get(f"{self.bed.pods_path}/{pod}")["spec"]["nodeSelector"]
        kubelet = self.left if selector["ratchetside"] == "left" else self.right
        self.bed.bind(pod, kubelet.host.name)
        return kubelet

    def _sandbox(self, pod: str) -> Sandbox:
        uid = self.bed.api.get(f"{self.bed.pods_path}/{pod}")["metadata"]["uid"]
        return self.left.make_sandbox(PodRef(self.bed.namespace, pod, uid))
