"""Nodes and pods of a scenario, and the operations of its steps."""

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

from ratchet.core.model import State
from ratchet.core.pod import PodRef
from ratchet.core.state_machine import derive
from ratchet.dev.demo.frr import Frr
from ratchet.dev.demo.terminal import (
    check,
    run_kubectl,
    run_shown,
    runnable,
    show_command,
    show_heading,
    show_output,
    show_state,
)
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import command_in, ip
from ratchet.dev.testbed import RATCHET_NAMESPACE, Testbed, wait_for
from ratchet.store.codec.links import decode_link

# The first is the folder of a wheel, the second that of a checkout.
_EXAMPLES = (Path(__file__).parents[1] / "examples", Path(__file__).resolve().parents[3] / "manifests" / "examples")
EXAMPLES = next((folder for folder in _EXAMPLES if folder.is_dir()), _EXAMPLES[0])
LABELS = "ratchet.state,ratchet.kind,ratchet.vni"
LINK = "pair-pod.in2.primary-pod.in1"


@dataclass(slots=True)
class Environment:
    """A testbed with two nodes. All operations raise RatchetError if a step of the demo fails.

    `left`, `right`: the nodes. `pods`: the running pods by name, each with its kubelet and its sandbox. `routers`: FRR
    by the pod that it runs in.
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

    def create(self, example: str, pod: str | None = None) -> None:
        """Create the pods of an example, or one of them."""
        only = ["-l", f"app={pod}"] if pod else []
        self.kubectl("create", "-n", self.bed.namespace, "-f", str(EXAMPLES / example), *only)

    def start(self, *pods: str) -> float:
        """Schedule created pods and call ADD for all of them concurrently. Returns the duration in seconds."""
        self.pods |= {pod: (self._schedule(pod), self._make_sandbox(pod)) for pod in pods}
        began = time.monotonic()
        with ThreadPoolExecutor() as executor:
            responses = list(executor.map(lambda pod: self.pods[pod][0].add(self.pods[pod][1]), pods))
        took = time.monotonic() - began
        for pod, response in zip(pods, responses, strict=True):
            check(f"ADD of {pod} succeeded{response.error and ': ' + response.error}", not response.status)
        return took

    def link(self, example: str, pod: str | None = None) -> None:
        """Create and start the pods of an example, or one of them, and print the states of their link."""
        self.create(example, pod)
        with self.showing_states(State.LINKED):
            self.start(*([pod] if pod else ["primary-pod", "pair-pod"]))

    def end(self, *pods: str) -> None:
        """Call DEL for pods and delete their objects, as a kubelet does."""
        for pod in pods:
            self.stop_router(pod)
            kubelet, sandbox = self.pods.pop(pod)
            response = kubelet.delete(sandbox)
            check(f"DEL of {pod} succeeded{response.error and ': ' + response.error}", not response.status)
            self.bed.delete_pod(sandbox.pod)

    def stop_router(self, pod: str) -> None:
        """Stop the router of a pod, if it has one."""
        if (router := self.routers.pop(pod, None)) is not None:
            router.stop()

    def stop_routers(self) -> None:
        for pod in list(self.routers):
            self.stop_router(pod)

    def kubectl(self, *arguments: str) -> None:
        run_kubectl(self.bed.access.kubeconfig, *arguments)

    def ratchet(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ratchet.cli.main", *arguments]
        run_shown(["ratchet", *arguments], [*command, "--kubeconfig", str(self.bed.access.kubeconfig)])

    def in_pod(self, sandbox: Sandbox, *command: str) -> str:
        return run_shown(["kubectl", "exec", sandbox.pod.name, "--", *command], command_in(sandbox.netns, *command))

    def primary_end(self) -> dict[str, Any]:
        """The interface of the primary, as `ip -j link` prints it."""
        return dict(json.loads(ip("-j", "-n", self.primary.netns, "link", "show", "in1"))[0])

    def ping(self) -> None:
        wait_for("the carrier of in1", lambda: "LOWER_UP" in self.primary_end()["flags"])
        printed = self.in_pod(self.primary, "ping", "-c", "1", "-W", "5", "192.168.2.101")
        check("192.168.2.100 reaches 192.168.2.101", " 0% packet loss" in printed)

    def check_nothing_left(self) -> None:
        show_heading("Nothing is left")
        self.kubectl("get", "configmaps,leases", "-n", RATCHET_NAMESPACE)
        if self.bed.agents:
            show_output("(the agents' node Leases: `ratchet gc` removes them once the nodes are gone)")
        self.check_records_gone()
        for kubelet in (self.left, self.right):
            names = [one["ifname"] for one in json.loads(ip("-j", "-n", kubelet.host.netns, "link", "show"))]
            check(f"{kubelet.host.name} has its own interfaces alone: {', '.join(names)}", names == ["lo", "eth0"])

    def check_records_gone(self) -> None:
        check("the API has no record and no VNI", not self.bed.links() and not self.bed.store.vnis.list())

    def commands_to_inspect_pair(self) -> list[str]:
        kubeconfig = f"--kubeconfig {self.bed.access.kubeconfig}"
        return [
            f"{runnable('kubectl')} {kubeconfig} get configmap -n {RATCHET_NAMESPACE} {self.record_name} -o yaml",
            f"ip netns exec {self.primary.netns} ip -d addr show in1",
            f"ip netns exec {self.primary.netns} ping 192.168.2.101",
            f"ip netns exec {self.pods['pair-pod'][1].netns} tcpdump -ni in2",
        ]

    def show_how_to_look(self, *more: str) -> None:
        """Print commands that inspect a demo that stays up, with `more` among them."""
        kubeconfig = f"--kubeconfig {self.bed.access.kubeconfig}"
        show_heading("It stays up. Look around:")
        for command in (
            f"{runnable('kubectl')} {kubeconfig} get pods,configmaps,leases -A -L {LABELS}",
            f"{runnable('ratchet')} links {kubeconfig}",
            f"ip netns exec {self.left.host.netns} ip addr",
            *more,
        ):
            show_command([command])
        if os.environ.get("RATCHET_ROOTLESS"):
            show_output(f"(the namespaces are in: nsenter -t {os.getpid()} -U -m -n --preserve-credentials)")
        show_heading("and take it down:")
        show_command([f"{runnable('ratchet')} demo --down"])

    @contextmanager
    def showing_states(self, last: State) -> Iterator[None]:
        """Print each state that the link reaches, as the API reports it. The link must reach the state `last`."""
        path = f"/api/v1/namespaces/{RATCHET_NAMESPACE}/configmaps"
        record = self.bed.store.links.get(self.record_name)
        before = len(record.history) if record else 0
        _, version = self.bed.api.list(path)

        def watch() -> None:
            shown = before
            for event in self.bed.api.watch(path, version, 30.0):
                link = decode_link(event.object)
                for transition in link.history[shown:]:
                    show_state(transition.target.value, transition.reason)
                shown = len(link.history)
                if derive(link) is last:
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        yield
        wait_for(f"that the link is {last}", lambda: self._state() is last)
        thread.join(5.0)

    def _state(self) -> State | None:
        record = self.bed.store.links.get(self.record_name)
        return derive(record) if record else None

    def _schedule(self, pod: str) -> Kubelet:
        """Bind a pod to the node that its nodeSelector selects, and return that node's kubelet."""
        selector = self.bed.api.get(f"{self.bed.pods_path}/{pod}")["spec"]["nodeSelector"]
        kubelet = self.left if selector["ratchetside"] == "left" else self.right
        self.bed.bind(pod, kubelet.host.name)
        return kubelet

    def _make_sandbox(self, pod: str) -> Sandbox:
        uid = self.bed.api.get(f"{self.bed.pods_path}/{pod}")["metadata"]["uid"]
        return self.left.make_sandbox(PodRef(self.bed.namespace, pod, uid))
