"""A fake kubelet and container runtime: sandboxes are namespaces, the plugin is called as by libcni."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.core.pod import PodRef
from ratchet.dev.hosts import Host, Hosts, netns_path

DEBIAN_PLUGINS = "/usr/lib/cni"


@dataclass(frozen=True, slots=True)
class CniResponse:
    """The response of the plugin: exit status, stdout, stderr."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.stdout))

    @property
    def error(self) -> str:
        """The message of the error; empty if the call succeeded."""
        return "" if self.status == 0 else str(self.json["msg"])


@dataclass(slots=True)
class Sandbox:
    """The sandbox of a pod."""

    pod: PodRef
    container_id: str
    netns: str
    result: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        return netns_path(self.netns)


Spawned = subprocess.Popen[str]


def spawn(executable: Path, host: Host, environ: Mapping[str, str], stdin: str) -> Spawned:
    """Start an executable in a node's namespace, with its stdin written and closed."""
    process = subprocess.Popen(
        host.command(str(executable)),
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None  # noqa: S101
    with suppress(BrokenPipeError):  # the plugin may end without reading stdin
        process.stdin.write(stdin)
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.stdin = None
    return process


@dataclass(slots=True)
class Kubelet:
    """The kubelet of a node.

    `bin_dir`: the folder of the plugin. `config`: the network configuration. `spawn` starts the plugin.
    """

    hosts: Hosts
    host: Host
    bin_dir: Path
    state_dir: Path
    config: dict[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    spawn: Callable[[Path, Host, Mapping[str, str], str], Spawned] = spawn

    def make_sandbox(self, pod: PodRef) -> Sandbox:
        """Create a sandbox without a network, with a new container ID."""
        container_id = secrets.token_hex(32)
        return Sandbox(pod, container_id, self.hosts.add_namespace(f"{pod.name}-{container_id[:6]}"))

    def start(self, command: str, sandbox: Sandbox | None = None, **changes: Any) -> Spawned:
        """Start a call of the plugin.

        `changes`: another `config`, another `plugin` than Ratchet, and other CNI variables (None unsets one).
        """
        config, plugin = dict(changes.pop("config", self.config)), changes.pop("plugin", "ratchet")
        variables = self._variables(command, sandbox, **changes)
        environ = {**os.environ, **self.environment, **variables}
        stdin = json.dumps(self._with_result(command, sandbox, config))
        return self.spawn(self.bin_dir / plugin, self.host, environ, stdin)

    def call(self, command: str, sandbox: Sandbox | None = None, **changes: Any) -> CniResponse:
        """Call the plugin and return its response."""
        return finished(self.start(command, sandbox, **changes))

    def add(self, sandbox: Sandbox, **changes: Any) -> CniResponse:
        response = self.call("ADD", sandbox, **changes)
        if response.status == 0:
            sandbox.result = response.json
        return response

    def delete(self, sandbox: Sandbox, **changes: Any) -> CniResponse:
        """Call DEL, then remove the namespace, as a runtime does."""
        response = self.call("DEL", sandbox, **changes)
        self.hosts.remove_namespace(sandbox.netns)
        return response

    def forget(self, sandbox: Sandbox) -> None:
        """Remove the journal entries of a sandbox, as if the node lost its disk. No DEL follows."""
        for entry in self.state_dir.glob(f"sandboxes/{sandbox.container_id}*"):
            entry.unlink()

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


def finished(process: Spawned, seconds: float = 120.0) -> CniResponse:
    """Wait for a call of the plugin. Kills it after `seconds` and raises TimeoutExpired."""
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return CniResponse(process.returncode, stdout, stderr)


def _pod_arguments(sandbox: Sandbox) -> str:
    """CNI_ARGS as containerd writes it, in random order."""
    pairs = [
        "IgnoreUnknown=1",
        f"K8S_POD_NAMESPACE={sandbox.pod.namespace}",
        f"K8S_POD_NAME={sandbox.pod.name}",
        f"K8S_POD_INFRA_CONTAINER_ID={sandbox.container_id}",
        f"K8S_POD_UID={sandbox.pod.uid}",
    ]
    random.shuffle(pairs)
    return ";".join(pairs)
