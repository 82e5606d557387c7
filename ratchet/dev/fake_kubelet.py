"""Playing the kubelet and its runtime on one node: sandboxes as namespaces, the plugin called as libcni does."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.core.model import PodRef
from ratchet.dev.hosts import Host, Hosts, netns_path

DEBIAN_PLUGINS = "/usr/lib/cni"


@dataclass(frozen=True, slots=True)
class CniResponse:
    """What a call of the plugin came to: exit status, stdout as it was, stderr."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout))

    @property
    def error(self) -> str:
        """The error's message where the call failed, else empty."""
        return "" if self.status == 0 else str(self.json["msg"])


@dataclass(slots=True)
class Sandbox:
    """A sandbox that the runtime has made for a pod."""

    pod: PodRef
    container_id: str
    netns: str
    result: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        return netns_path(self.netns)


@dataclass(slots=True)
class Kubelet:
    """A node's kubelet. `bin_dir` holds the plugin; `config` is the network configuration, as the file has it."""

    hosts: Hosts
    host: Host
    bin_dir: Path
    state_dir: Path
    config: dict[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)

    def make_sandbox(self, pod: PodRef) -> Sandbox:
        """A new sandbox, with no network yet, under a container id that has not been before."""
        container_id = secrets.token_hex(32)
        return Sandbox(pod, container_id, self.hosts.add_namespace(f"{pod.name}-{container_id[:6]}"))

    def start(self, command: str, sandbox: Sandbox | None = None, **changes: Any) -> subprocess.Popen[str]:
        """Start a call of the plugin; `changes` are `netns`, `config` and CNI variables to be other than usual."""
        config = dict(changes.pop("config", self.config))
        variables = self._variables(command, sandbox, **changes)
        process = subprocess.Popen(
            self.host.command(str(self.bin_dir / "ratchet")),
            env={**os.environ, **self.environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):  # a plugin may end without reading it
            process.stdin.write(json.dumps(self._with_result(command, sandbox, config)))
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
        return process

    def call(self, command: str, sandbox: Sandbox | None = None, **changes: Any) -> CniResponse:
        """A call of the plugin, and what it came to."""
        return finished(self.start(command, sandbox, **changes))

    def add(self, sandbox: Sandbox, **changes: Any) -> CniResponse:
        answer = self.call("ADD", sandbox, **changes)
        if answer.status == 0:
            sandbox.result = answer.json
        return answer

    def delete(self, sandbox: Sandbox, **changes: Any) -> CniResponse:
        """DEL as a runtime does it, and then the end of the namespace."""
        answer = self.call("DEL", sandbox, **changes)
        self.hosts.remove_namespace(sandbox.netns)
        return answer

    def forget(self, sandbox: Sandbox) -> None:
        """Lose what the node noted of a sandbox, as when its disk goes: no DEL will ever come."""
        for noted in self.state_dir.glob(f"sandboxes/{sandbox.container_id}*"):
            noted.unlink()

    def _variables(self, command: str, sandbox: Sandbox | None, **changes: str) -> dict[str, str]:
        variables = {"CNI_COMMAND": command, "CNI_PATH": f"{self.bin_dir}:{DEBIAN_PLUGINS}"}
        if sandbox is not None:
            variables |= {
                "CNI_CONTAINERID": sandbox.container_id,
                "CNI_NETNS": sandbox.path,
                "CNI_IFNAME": "eth0",
                "CNI_ARGS": _pod_arguments(sandbox),
            }
        return {name: value for name, value in {**variables, **changes}.items() if value is not None}

    def _with_result(self, command: str, sandbox: Sandbox | None, config: dict[str, Any]) -> dict[str, Any]:
        gives_result = command in ("CHECK", "DEL") and config.get("cniVersion", "") >= "0.4.0"
        if gives_result and sandbox is not None and sandbox.result is not None:
            config.setdefault("prevResult", sandbox.result)
        return config


def finished(process: subprocess.Popen[str], seconds: float = 120.0) -> CniResponse:
    """Wait for a call of the plugin; one that does not end in time is killed, and TimeoutExpired raised."""
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return CniResponse(process.returncode, stdout, stderr)


def _pod_arguments(sandbox: Sandbox) -> str:
    """CNI_ARGS as containerd writes it: in whatever order its map gives."""
    pairs = [
        "IgnoreUnknown=1",
        f"K8S_POD_NAMESPACE={sandbox.pod.namespace}",
        f"K8S_POD_NAME={sandbox.pod.name}",
        f"K8S_POD_INFRA_CONTAINER_ID={sandbox.container_id}",
        f"K8S_POD_UID={sandbox.pod.uid}",
    ]
    random.shuffle(pairs)
    return ";".join(pairs)
